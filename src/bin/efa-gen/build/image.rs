//! Owns the way from an installed machine to an AMI that can be believed. Each part looks first whether a run before has
//! done it. Knows nothing of who gets the image.

use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::When;
use efa_gen::render::builder::sealed_mark;

use super::builder::{gone, run_tags};
use super::install::Sealed;
use super::make::settled;
use super::{Build, publish, tags};
use crate::ec2::model::{Image, Instance, Kind, Tags};
use crate::ec2::refusal::ApiError;
use crate::ssh::Guest;

/// A shutdown that hangs is cut off by EC2 after some minutes.
const STOPS: Duration = Duration::from_secs(15 * 60);

/// From the seal's beginning to its mark on the console.
const SEALS: Duration = Duration::from_secs(10 * 60);

impl Build<'_> {
    /// The image that this run has made already, or is making.
    pub async fn own_image(&self) -> Result<Option<Image>> {
        let run = self.folder.run.as_str();
        let found = self.aws.images(&["self"], &[(&format!("tag:{}", tags::RUN), run)]).await?;
        Ok(found.into_iter().next())
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
                    self.talk.step("Stop the builder");
                    self.aws.stop(&instance.id, STOPS).await?;
                }
                self.create_image(instance).await?
            }
        };
        self.believed(&image).await
    }

    /// Waits for the run's image, and sees to its flags.
    pub async fn believed(&self, id: &str) -> Result<Image> {
        let image = publish::wait_until_believed(self.aws, id, self.talk).await?;
        if self.plan.base.imdsv2 && !image.imds_v2 {
            self.aws.require_imds_v2(id).await?;
        }
        if !image.ena {
            let base = &self.ready.base.id;
            self.talk
                .note(format!("base AMI {base} has no ENA flag, nor has {id}: EFA types can't be launched from it"));
        }
        Ok(image)
    }

    async fn seal(&self, instance: &Instance, guest: &Guest) -> Result<()> {
        let Some(stage) = self.plan.stages.iter().find(|stage| stage.run == When::Image) else {
            return Err(Error::new(Class::Bug, "the plan has no stage that seals the image"));
        };
        let install = self.install_on(instance, guest);
        if install.seal(stage, &self.folder.run).await? == Sealed::AskTheConsole {
            self.wait_until_sealed(instance).await?;
        }
        // EC2 keeps a stopped machine's console for an hour; a run may go on later.
        let tags = Tags::from([(tags::STATE.to_owned(), tags::SEALED.to_owned())]);
        Ok(self.aws.tag(std::slice::from_ref(&instance.id), &tags).await?)
    }

    /// Whether the console says that the seal went through; waits for it, because the seal may still be at work.
    pub async fn wait_until_sealed(&self, instance: &Instance) -> Result<()> {
        let end = tokio::time::Instant::now() + SEALS;
        while !self.is_sealed(instance).await? {
            let now = self.aws.instance(&instance.id).await?.unwrap_or_else(|| instance.clone());
            if tokio::time::Instant::now() > end || now.state != "running" {
                return Err(Error::new(
                    Class::Install,
                    format!("{} was not sealed: its console does not say so", instance.id),
                )
                .hint("its login key may be gone already, so this run can't go on: sweep it and build again"));
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        Ok(())
    }

    /// Whether the builder is tagged as sealed, or its console has the seal's mark.
    pub async fn is_sealed(&self, instance: &Instance) -> Result<bool> {
        if instance.tags.get(tags::STATE).is_some_and(|state| state == tags::SEALED) {
            return Ok(true);
        }
        let console = settled(async || self.aws.console(&instance.id).await).await?;
        Ok(console.contains(&sealed_mark(&self.folder.run)))
    }

    async fn create_image(&self, instance: &Instance) -> Result<String> {
        let Some(now) = self.aws.instance(&instance.id).await? else { return Err(gone(instance)) };
        if now.state != "stopped" && !(self.args.builder.spot && now.state == "running") {
            return Err(gone(&now));
        }
        self.talk.step(format!("Make image {}", self.record.name));
        let mut all = run_tags(self.ready, &self.folder.run);
        all.insert("Name".into(), self.record.name.clone());
        all.insert(tags::STATE.into(), tags::BUILDING.into());
        let about =
            format!("EFA + NCCL on {}, stack {}, made by efa-gen", self.plan.distribution_name, self.plan.stack);
        match self.aws.create_image(&instance.id, &self.record.name, &about, &all).await {
            Ok(image) => {
                self.maker().made(Kind::Image, &image)?;
                Ok(image)
            }
            // The answer of a first attempt was lost, or another run was faster.
            Err(error) if error.is_duplicate() => self.own_image_by_name(&error).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn own_image_by_name(&self, refused: &ApiError) -> Result<String> {
        let found = settled(async || {
            let images = self.aws.images(&["self"], &[("name", &self.record.name)]).await?;
            images.into_iter().next().ok_or_else(|| ApiError::not_found("DescribeImages", &self.record.name))
        });
        let image = found.await?;
        if image.tags.get(tags::RUN) == Some(&self.folder.run) {
            return Ok(image.id);
        }
        let run = image.tags.get(tags::RUN).map_or("somebody else", String::as_str);
        Err(Error::from(refused.clone())
            .hint(format!("{} of {run} took the name meanwhile: choose another --name", image.id)))
    }
}
