//! Owns the order of a build: everything is looked for before it is made, so that a build that goes on after a crash is
//! the same code as one that begins. Knows nothing of flags' meanings; each part has a module.

pub mod base;
pub mod builder;
pub mod cost;
pub mod describe;
pub mod gate;
mod image;
mod install;
pub mod make;
pub mod packer;
pub mod preflight;
pub mod problem;
pub mod publish;
pub mod run;
pub mod sweep;
pub mod tags;

use std::sync::Arc;
use std::time::Duration;

use efa_gen::catalog::Catalog;
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{Plan, When};
use tokio::sync::Mutex;

use self::install::Install;
use self::preflight::Ready;
use self::run::{Folder, Record};
use crate::cli::cloud::BuildArgs;
use crate::ec2::Aws;
use crate::ec2::model::{Image, Instance};
use crate::events::Talk;
use crate::ssh::Guest;

/// A shutdown of its own is all that a builder needs to end.
const ENDS: Duration = Duration::from_secs(15 * 60);

/// One run: what it is to make, with what, and where it writes down how far it is.
pub struct Build<'a> {
    pub aws: &'a Aws,
    pub catalog: &'a Catalog,
    pub plan: &'a Plan,
    pub script: &'a str,
    pub args: &'a BuildArgs,
    pub ready: &'a Ready,
    pub record: &'a mut Record,
    pub folder: &'a Folder,
    pub talk: &'a Talk,
    /// Whether the run began in another process.
    pub resumed: bool,
    /// Held while EC2 launches a machine; see [`make::Maker::launch`].
    pub asking: Arc<Mutex<()>>,
}

/// What a build came to.
#[derive(Debug, Clone)]
pub struct Built {
    pub image: Image,
    pub copies: Vec<publish::Copy>,
}

impl Build<'_> {
    /// From wherever the run is to a published image. The builder is gone when it returns well.
    pub async fn run(&mut self) -> Result<Built> {
        let image = match self.own_image().await? {
            Some(image) if image.state == "failed" => return Err(failed(&image)),
            Some(image) => {
                self.talk.step(format!("Go on with image {}", image.id));
                self.believed(&image.id).await?
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
        self.talk.step(format!("Log in to {}", guest.address));
        if self.log_in(instance, guest).await? {
            return Ok(true);
        }
        let install = self.install_on(instance, guest);
        install.upload(self.script).await?;
        for stage in &self.plan.stages {
            let here = match stage.run {
                When::Install => true,
                When::Target => self.ready.builder.info.gpus > 0,
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
        let end = tokio::time::Instant::now() + install::UP;
        // The seal may be at work still, its keys gone already.
        while self.resumed && guest.wait_until_up(install::BETWEEN_LOOKS).await.is_err() {
            if self.is_sealed(instance).await? {
                return Ok(true);
            }
            self.install_on(instance, guest).must_be_there().await?;
            if tokio::time::Instant::now() > end {
                break;
            }
        }
        self.install_on(instance, guest).wait_until_up().await?;
        Ok(false)
    }

    fn install_on<'b>(&'b self, instance: &'b Instance, guest: &'b Guest) -> Install<'b> {
        Install { aws: self.aws, instance, guest, plan: self.plan, talk: self.talk }
    }

    /// A machine that somebody ended is a better reason than whatever failed on it.
    async fn ended_or(&self, instance: &Instance, guest: &Guest, error: Error) -> Error {
        match self.install_on(instance, guest).must_be_there().await {
            Err(gone) if gone.class() == Class::Cloud => gone,
            _ => error,
        }
    }

    /// Fetches what tells why, before anything is removed.
    async fn with_logs(&self, instance: &Instance, guest: &Guest, error: Error) -> Error {
        if error.class() != Class::Cloud {
            self.install_on(instance, guest).fetch_log(&self.folder.path).await;
        }
        self.keep_console(instance).await;
        error
    }

    /// Keeps the console in the run's folder. Called on the way to an error, so that it only says what it could not do.
    async fn keep_console(&self, instance: &Instance) {
        match self.aws.console(&instance.id).await {
            Ok(console) => {
                let path = self.folder.path.join("console.log");
                match crate::files::write(&path, console.as_bytes(), 0o600) {
                    Ok(()) => self.talk.note(format!("its console is in {}", path.display())),
                    Err(error) => self.talk.note(error.to_string()),
                }
            }
            Err(error) => self.talk.note(format!("its console could not be fetched: {error}")),
        }
    }

    /// The builder goes while the image is tested, copied and shared.
    async fn publish(&mut self, image: &Image) -> Result<Vec<publish::Copy>> {
        let builder = self.any_instance().await?.filter(Instance::is_there);
        let aws = self.aws;
        let (ended, published) = tokio::join!(
            async {
                match builder {
                    Some(builder) => aws.terminate(&[builder.id], ENDS).await,
                    None => Ok(()),
                }
            },
            async {
                self.gate(image).await?;
                let run = (self.folder.run.as_str(), Some(self.folder));
                publish::publish(aws, image, &self.args.publish, run, self.talk).await
            },
        );
        let copies = published?;
        ended?;
        Ok(copies)
    }
}

fn failed(image: &Image) -> Error {
    Error::new(Class::Cloud, format!("image {} has failed: {}", image.id, image.reason))
        .hint("sweep the run and build again; a KMS key that can't be used is the usual reason")
}
