//! Owns the order of a native build: everything is looked for before it is made, so that a build that goes on after a crash
//! is the same code as one that begins.

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::When;
use efa_gen::text::printable_log;
use tokio::time::sleep;

use super::build::{Build, Built, failed};
use super::install::Install;
use super::publish;
use crate::aws::model::{Image, Instance};
use crate::io::files;
use crate::io::ssh::Guest;
use crate::timeouts;

impl Build<'_> {
    /// From wherever the run is to a published image. The builder is gone when it returns well.
    pub async fn run(&mut self) -> Result<Built> {
        let image = match self.own_image().await? {
            Some(image) if image.state == "failed" => return Err(failed(&image)),
            Some(image) => {
                self.run.events.step(format!("Go on with image {}", image.id));
                self.wait_until_consistent(&image.id).await?
            }
            None => self.make_image().await?,
        };
        let copies = self.publish(&image).await?;
        Ok(Built { image, copies })
    }

    async fn make_image(&mut self) -> Result<Image> {
        let there = self.own_instance().await?;
        if let Some(instance) = there.filter(|instance| ["stopped", "stopping"].contains(&instance.state.as_str())) {
            if !self.is_sealed(&instance).await? {
                let message = format!("builder {} was stopped from outside before it was sealed", instance.id);
                return Err(Error::new(Class::Cloud, message)
                    .hint("build again; a run kept by --on-error keep goes on once its builder is started"));
            }
            return self.image(&instance, None).await;
        }
        let (instance, guest) = self.machine().await?;
        match self.install(&instance, &guest).await {
            Ok(true) => self.image(&instance, None).await,
            Ok(false) => match self.image(&instance, Some(&guest)).await {
                Err(error) if error.class() != Class::Cloud => Err(self.with_logs(&instance, &guest, error).await),
                other => other,
            },
            Err(error) => Err(self.with_logs(&instance, &guest, error).await),
        }
    }

    /// Every stage but the seal. True if the seal is done already: then there is no login any more.
    async fn install(&self, instance: &Instance, guest: &Guest) -> Result<bool> {
        self.run.events.step(format!("Log in to {}", guest.address));
        if self.log_in(instance, guest).await? {
            return Ok(true);
        }
        let install = self.install_on(instance, guest);
        install.upload(self.script).await?;
        for stage in &self.plan.stages {
            let here = match stage.run {
                When::Install => true,
                When::Target => self.resolved.builder.info.gpus > 0,
                When::Image => false,
            };
            if here && let Err(error) = install.stage(stage).await {
                return Err(self.ended_or(instance, guest, error).await);
            }
        }
        Ok(false)
    }

    /// Waits until a login succeeds. True if none ever will again, because a process before this one has sealed the machine.
    async fn log_in(&self, instance: &Instance, guest: &Guest) -> Result<bool> {
        let install = self.install_on(instance, guest);
        let end = tokio::time::Instant::now() + timeouts::BUILDER_LOGIN;
        // A seal outlives the process that began it: it may be at work still, its keys there or gone already.
        while self.resumed && !install.is_free().await? {
            if self.is_sealed(instance).await? {
                return Ok(true);
            }
            install.ensure_exists().await?;
            if tokio::time::Instant::now() > end {
                break;
            }
            sleep(timeouts::CONSOLE_EVERY).await;
        }
        install.wait_until_up().await?;
        Ok(false)
    }

    pub fn install_on<'b>(&'b self, instance: &'b Instance, guest: &'b Guest) -> Install<'b> {
        Install { aws: self.run.aws, instance, guest, plan: self.plan, events: self.run.events }
    }

    /// A machine that somebody ended is a better reason than whatever failed on it.
    async fn ended_or(&self, instance: &Instance, guest: &Guest, error: Error) -> Error {
        match self.install_on(instance, guest).ensure_exists().await {
            Err(gone) if gone.class() == Class::Cloud => gone,
            _ => error,
        }
    }

    /// Fetches what tells why, before anything is removed.
    async fn with_logs(&self, instance: &Instance, guest: &Guest, error: Error) -> Error {
        if error.class() != Class::Cloud {
            self.install_on(instance, guest).fetch_log(&self.run.state.path).await;
        }
        self.keep_console(instance).await;
        error
    }

    /// Keeps the console in the run's folder. Called on the way to an error, so that it only says what it could not do.
    pub async fn keep_console(&self, instance: &Instance) {
        match self.run.aws.console(&instance.id).await {
            Ok(console) => {
                let path = self.run.state.path.join("console.log");
                // A serial line ends its lines with both.
                match files::write(&path, printable_log(&console.replace("\r\n", "\n")).as_bytes(), 0o600) {
                    Ok(()) => self.run.events.note(format!("its console is in {}", path.display())),
                    Err(error) => self.run.events.note(error.to_string()),
                }
            }
            Err(error) => self.run.events.note(format!("its console could not be fetched: {error}")),
        }
    }

    /// The builder goes while the image is tested, copied and shared.
    pub async fn publish(&mut self, image: &Image) -> Result<Vec<publish::Copy>> {
        let builder = self.any_instance().await?.filter(Instance::exists);
        let aws = self.run.aws;
        let (ended, published) = tokio::join!(
            async {
                match builder {
                    Some(builder) => aws.terminate(&[builder.id], timeouts::TERMINATION).await,
                    None => Ok(()),
                }
            },
            async {
                self.gate(image).await?;
                let (state, events) = (self.run.state, self.run.events);
                publish::publish(aws, image, &self.args.publish, &state.run, Some(state), events).await
            },
        );
        let copies = published?;
        ended?;
        Ok(copies)
    }
}
