//! Owns the way from an installed machine to an AMI that can be believed. Each part looks first whether a run before
//! has done it.

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::console;
use efa_gen::plan::When;
use jiff::Timestamp;

use super::build::Build;
use super::builder::builder_gone;
use super::install::Sealed;
use super::preflight::run_tags;
use super::publish;
use crate::aws::error::ApiError;
use crate::aws::model::{Image, Instance, ResourceKind, Tags};
use crate::aws::resources::image_resource;
use crate::io::ssh::Guest;
use crate::io::wait;
use crate::run::resources::retry_until_visible;
use crate::run::{cleanup, ownership, tags};
use crate::timeouts;

impl Build<'_> {
    /// The image that this run has made already, or is making. What only carries the run's tag is left alone, and said.
    ///
    /// Errors: several could be it.
    pub async fn own_image(&self) -> Result<Option<Image>> {
        let run = self.run.state.run.as_str();
        let aws = self.run.aws;
        let mut found = aws.images(&["self"], &[(&format!("tag:{}", tags::RUN), run)]).await?;
        // A listing may not show yet what the ledger knows.
        for id in self.recorded(ResourceKind::Image)? {
            if !found.iter().any(|image| image.id == id) {
                found.extend(aws.image(&id).await?);
            }
        }
        let (recorded, builders) = (self.recorded(ResourceKind::Image)?, self.recorded(ResourceKind::Instance)?);
        let mut own = Vec::new();
        for image in found {
            match self.check_image(&image, &recorded, &builders) {
                Ok(()) => own.push(image),
                Err(why) => {
                    self.run.events.note(cleanup::left_alone(&image_resource(&image, &aws.region), &why));
                }
            }
        }
        if own.len() > 1 {
            let ids: Vec<String> = own.iter().map(|image| format!("{} ({})", image.id, image.name)).collect();
            return Err(Error::new(Class::Cloud, format!("run {run} has several images: {}", ids.join(", ")))
                .hint("a run makes one: look which of them is wrong, and take the tag efa-gen:run from it"));
        }
        Ok(own.pop())
    }

    /// Ids of this region that the ledger has.
    fn recorded(&self, kind: ResourceKind) -> Result<Vec<String>> {
        let known = self.run.state.known()?.into_iter();
        let here = known.filter(|one| one.kind == kind && one.region == self.run.aws.region);
        Ok(here.map(|one| one.id).collect())
    }

    /// Whether an image is the one that this run makes: recorded, or of its name, plan, age and builder.
    fn check_image(&self, image: &Image, recorded: &[String], builders: &[String]) -> std::result::Result<(), String> {
        if recorded.contains(&image.id) {
            return Ok(());
        }
        ownership::image(image)?;
        if image.tags.get(tags::RUN) != Some(&self.run.state.run) {
            return Err("it is of another run".to_owned());
        }
        if image.name != self.record.name {
            return Err(format!("its name is not {}", self.record.name));
        }
        if image.tags.get(tags::PLAN) != Some(&self.record.plan) {
            return Err("it is of another plan".to_owned());
        }
        match &image.origin.instance {
            // Packer's machine is in no ledger, and what it publishes is a copy where it encrypts: that tells no machine.
            _ if self.is_packers() => Ok(()),
            None => Err("it was made of no machine: it is a copy, or registered by hand".to_owned()),
            Some(id) if !builders.is_empty() && !builders.contains(id) => Err(format!("it was made of {id}")),
            Some(_) => Ok(()),
        }
    }

    /// Seals the builder, stops it, and makes the image; waits until it is available.
    pub async fn image(&mut self, instance: &Instance, guest: Option<&Guest>) -> Result<Image> {
        if let Some(guest) = guest {
            self.seal(instance, guest).await?;
        }
        let image = match self.own_image().await? {
            Some(image) => image.id,
            None => {
                // A one-time spot instance can't be stopped: EC2 restarts it to make the image.
                if !self.args.builder.spot {
                    self.run.events.step("Stop the builder");
                    self.run.aws.stop(&instance.id, timeouts::STOP).await?;
                }
                self.create_image(instance).await?
            }
        };
        self.wait_until_consistent(&image).await
    }

    /// Waits for the run's image, and sees to its flags.
    pub async fn wait_until_consistent(&self, id: &str) -> Result<Image> {
        let image = publish::wait_until_consistent(self.run.aws, id, self.run.events).await?;
        if self.plan.base.imdsv2 && !image.imds_v2 {
            self.run.aws.require_imds_v2(id).await?;
        }
        if !image.ena {
            let base = &self.resolved.base.id;
            self.run
                .events
                .note(format!("base AMI {base} has no ENA flag, nor has {id}: EFA types can't be launched from it"));
        }
        Ok(image)
    }

    async fn seal(&self, instance: &Instance, guest: &Guest) -> Result<()> {
        let Some(stage) = self.plan.stages.iter().find(|stage| stage.run == When::Image) else {
            return Err(Error::new(Class::Bug, "the plan has no stage that seals the image"));
        };
        let install = self.install_on(instance, guest);
        if install.seal(stage, &self.run.state.run).await? == Sealed::AskTheConsole {
            self.wait_until_sealed(instance).await?;
        }
        // EC2 keeps a stopped machine's console for an hour; a run may go on later.
        let tags = Tags::from([(tags::STATE.to_owned(), tags::SEALED.to_owned())]);
        Ok(self.run.aws.tag(std::slice::from_ref(&instance.id), &tags).await?)
    }

    /// Whether the console says that the seal went through; waits for it, because the seal may still be at work.
    pub async fn wait_until_sealed(&self, instance: &Instance) -> Result<()> {
        let sealed = wait::until(timeouts::SEAL, timeouts::CONSOLE_EVERY, async || {
            if self.is_sealed(instance).await? {
                return Result::Ok(Some(true));
            }
            let now = self.run.aws.instance(&instance.id).await?.unwrap_or_else(|| instance.clone());
            Ok((now.state != "running").then_some(false))
        });
        if sealed.await? == Some(true) {
            return Ok(());
        }
        Err(Error::new(Class::Install, format!("{} was not sealed: its console does not say so", instance.id))
            .hint("its login key may be gone already, so this run can't go on: sweep it and build again"))
    }

    /// Whether the builder is tagged as sealed, or its console has the seal's mark.
    pub async fn is_sealed(&self, instance: &Instance) -> Result<bool> {
        if instance.tags.get(tags::STATE).is_some_and(|state| state == tags::SEALED) {
            return Ok(true);
        }
        let shown = retry_until_visible(async || self.run.aws.console(&instance.id).await).await?;
        Ok(console::is_sealed(&shown, &self.run.state.run))
    }

    async fn create_image(&self, instance: &Instance) -> Result<String> {
        let Some(now) = self.run.aws.instance(&instance.id).await? else { return Err(builder_gone(instance)) };
        if now.state != "stopped" && !(self.args.builder.spot && now.state == "running") {
            return Err(builder_gone(&now));
        }
        self.run.events.step(format!("Make image {}", self.record.name));
        let mut all = run_tags(self.resolved, &self.run.state.run);
        all.insert("Name".into(), self.record.name.clone());
        all.insert(tags::STATE.into(), tags::BUILDING.into());
        all.insert(tags::UNTIL.into(), tags::until(Timestamp::now(), timeouts::IMAGE_FINISHED));
        let description =
            format!("EFA + NCCL on {}, stack {}, made by efa-gen", self.plan.distribution_name, self.plan.stack);
        match self.run.aws.create_image(&instance.id, &self.record.name, &description, &all).await {
            Ok(image) => {
                self.factory().record(ResourceKind::Image, &image)?;
                Ok(image)
            }
            // The answer of a first attempt was lost, or another run was faster.
            Err(error) if error.is_duplicate() => self.own_image_by_name(&error).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn own_image_by_name(&self, refused: &ApiError) -> Result<String> {
        let found = retry_until_visible(async || {
            let images = self.run.aws.images(&["self"], &[("name", &self.record.name)]).await?;
            images.into_iter().next().ok_or_else(|| ApiError::not_found("DescribeImages", &self.record.name))
        });
        let image = found.await?;
        let builders = self.recorded(ResourceKind::Instance)?;
        let Err(why) = self.check_image(&image, &self.recorded(ResourceKind::Image)?, &builders) else {
            return Ok(image.id);
        };
        let run = image.tags.get(tags::RUN).map_or("somebody else", String::as_str);
        Err(Error::from(refused.clone())
            .hint(format!("{} of {run} has the name, and is not this run's ({why}): choose another --name", image.id)))
    }
}
