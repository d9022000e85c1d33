//! Owns the builder: key pair, security group, instance, each found again where a run goes on. Names and client tokens
//! derive from the run, so that nothing is ever made twice. Knows nothing of what is installed.

use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::render::builder as guest;

use super::Build;
use super::make::{Maker, name, settled};
use super::preflight::{self, Ready};
use super::run::Tried;
use super::tags;
use crate::cli::cloud::HostKey;
use crate::ec2::Aws;
use crate::ec2::model::{Instance, Kind, Launch, Tags};
use crate::files;
use crate::ssh::{self, Guest};

/// From RunInstances to the host keys on the console: boot and cloud-init of an old distribution on a small type.
const BOOTS: Duration = Duration::from_secs(15 * 60);

/// GetConsoleOutput has no waiter, and no instance has two of these loops.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Seconds after which EC2 surely lists what it has launched (AWS EC2 API Reference, "Eventual consistency": minutes).
const LISTED: i64 = 10 * 60;

/// What a build's instance is for, as its tag says.
const ROLE: &str = "builder";

/// The run's own tags for whatever it makes.
pub fn run_tags(ready: &Ready, run: &str) -> Tags {
    let mut all = ready.tags.clone();
    all.insert(tags::RUN.into(), run.to_owned());
    all.insert("Name".into(), name(run));
    all
}

impl Build<'_> {
    /// The run's builder, running: found, or made. Its host keys are known.
    pub async fn machine(&mut self) -> Result<(Instance, Guest)> {
        let instance = match self.own_instance().await? {
            Some(instance) => {
                if self.resumed {
                    self.maker().admit(&self.vpc(), &self.ready.ssh_cidrs).await?;
                }
                instance
            }
            None => self.make_machine().await?,
        };
        match self.reach(&instance).await {
            Ok(guest) => Ok((instance, guest)),
            Err(error) => {
                self.keep_console(&instance).await;
                Err(error)
            }
        }
    }

    /// The run's builder, if there is one. One that has ended is an error: a run never makes a second one.
    pub async fn own_instance(&self) -> Result<Option<Instance>> {
        match self.any_instance().await? {
            Some(instance) if !instance.is_there() => Err(gone(&instance)),
            other => Ok(other),
        }
    }

    /// The run's builder, whatever became of it.
    pub async fn any_instance(&self) -> Result<Option<Instance>> {
        let run = self.folder.run.as_str();
        let mut found = self.aws.instances(&[(&format!("tag:{}", tags::RUN), run)]).await?;
        // A listing may not show yet what the ledger knows.
        for id in self.folder.known_ids(Kind::Instance)? {
            if !found.iter().any(|instance| instance.id == id) {
                found.extend(self.aws.instance(&id).await?);
            }
        }
        found.retain(|instance| instance.tags.get(tags::ROLE).is_some_and(|is| is == ROLE));
        found.sort_by_key(|instance| {
            ["running", "pending", "stopped", "stopping"].iter().position(|s| *s == instance.state).unwrap_or(9)
        });
        Ok(found.into_iter().next())
    }

    pub fn maker(&self) -> Maker<'_> {
        let tags = run_tags(self.ready, &self.folder.run);
        Maker { aws: self.aws, folder: self.folder, talk: self.talk, tags }
    }

    async fn make_machine(&mut self) -> Result<Instance> {
        self.talk.step("Make the builder's key pair and security group");
        let maker = self.maker();
        let key = maker.key_pair().await?;
        let about = format!("Builder of efa-gen run {}", self.folder.run);
        let efa = self.ready.builder.info.efa > 0;
        let group = maker.group(&self.vpc(), &about, &self.ready.ssh_cidrs, efa).await?;
        self.launch(&key, &group).await
    }

    /// All of a run's machines are in one VPC.
    fn vpc(&self) -> String {
        self.ready.builder.subnets.first().map(|subnet| subnet.vpc.clone()).unwrap_or_default()
    }

    /// Launches in the first zone that has room. The token is the run's, the zone's and the deadline's: asked twice, EC2
    /// answers with the instance that is there.
    async fn launch(&mut self, key: &str, group: &str) -> Result<Instance> {
        let run = self.folder.run.as_str();
        let mut tags = run_tags(self.ready, run);
        tags.insert(tags::ROLE.into(), ROLE.into());
        let machine = self.ready.builder.clone();
        let mut full = Vec::new();
        // An older try made nothing, or its machine would be listed: all begins anew.
        let since = self.deadline() - LISTED;
        let tried = self.record.tried.take().filter(|tried| tried.deadline > since);
        let first = tried.as_ref().and_then(|tried| machine.subnets.iter().position(|one| one.id == tried.subnet));
        let deadline = tried.map_or_else(|| self.deadline(), |tried| tried.deadline);
        let user_data = self.user_data(deadline)?;
        let until = jiff::Timestamp::from_second(deadline).map(|time| time.to_string()).unwrap_or_default();
        tags.insert(tags::UNTIL.into(), until);
        // The one that was tried last first, for it may have launched; the others may have room by now.
        for subnet in machine.subnets.iter().cycle().skip(first.unwrap_or(0)).take(machine.subnets.len()) {
            self.record.tried = Some(Tried { subnet: subnet.id.clone(), deadline });
            self.folder.keep(self.record)?;
            self.talk.step(format!("Launch a {} in {}", machine.kind, subnet.zone));
            let launch = Launch {
                key: key.to_owned(),
                group: group.to_owned(),
                user_data: user_data.clone().into_bytes(),
                token: format!("{run}-{}-{deadline}", subnet.id),
                tags: tags.clone(),
                ..preflight::launch(self.args, self.plan, self.ready, &machine, subnet)
            };
            match settled(async || self.maker().launch(&launch, &self.asking).await).await {
                Ok(launched) => return Ok(launched?.into_iter().next().unwrap_or_default()),
                Err(error) if error.is_capacity() => {
                    self.talk.note(format!("{} has no room: {error}", subnet.zone));
                    full.push(subnet.zone.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let message = format!("no zone of {} has a {} to give: {}", self.aws.region, machine.kind, full.join(", "));
        Err(Error::new(Class::Cloud, message)
            .hint("try again later, or with another --builder-type: the builder needs no GPU and no EFA"))
    }

    /// When a machine that is launched now ends itself, in seconds since 1970.
    pub fn deadline(&self) -> i64 {
        jiff::Timestamp::now().as_second() + i64::from(self.args.builder.deadline) * 60
    }

    fn user_data(&self, deadline: i64) -> Result<String> {
        let boothook = guest::user_data(
            guest::Machine::Builder,
            &self.folder.run,
            deadline,
            i64::from(self.args.builder.deadline) * 60,
        )?;
        match self.args.builder.host_key {
            HostKey::Console => Ok(boothook),
            HostKey::Inject => {
                self.talk.note("whoever may read the instance's user-data can read its host key and play the builder");
                self.with_host_key(&boothook)
            }
        }
    }

    /// User-data that brings a host key of ours along.
    fn with_host_key(&self, boothook: &str) -> Result<String> {
        let path = self.folder.path.join("host_key");
        let private = match files::read_if_there(&path, "host key")? {
            Some(private) => private,
            None => {
                let pair = ssh::new_key("efa-gen")?;
                files::write(&path, pair.private.as_bytes(), 0o600)?;
                pair.private.into_bytes()
            }
        };
        Ok(guest::with_host_key(boothook, &String::from_utf8_lossy(&private), &ssh::public_of(&private)?))
    }

    /// How to log in to it: waits for its address and its host keys, and for sshd.
    pub async fn reach(&self, instance: &Instance) -> Result<Guest> {
        self.talk.step(format!("Wait for {} to tell its host keys", instance.id));
        let mut guest = Guest {
            user: self.plan.base.user.clone(),
            address: instance.id.clone(),
            alias: instance.id.clone(),
            folder: self.folder.path.clone(),
            tty: self.plan.base.sudo_needs_tty,
            proxy: self
                .args
                .reach
                .session_manager
                .then(|| session_manager(self.aws, self.args.account.profile.as_deref())),
        };
        if self.args.builder.host_key == HostKey::Inject {
            let private = files::read(&self.folder.path.join("host_key"), "host key", 1 << 16)?;
            let public = ssh::public_of(&private)?;
            guest.trust(&[public.split(' ').take(2).collect::<Vec<_>>().join(" ")])?;
        }
        let end = tokio::time::Instant::now() + BOOTS;
        loop {
            let now = self.aws.instance(&instance.id).await?.unwrap_or_else(|| instance.clone());
            if !["pending", "running"].contains(&now.state.as_str()) {
                return Err(gone(&now));
            }
            let address = if self.ready.public_address { now.public_address } else { now.private_address };
            if let (false, Some(address)) = (self.args.reach.session_manager, address) {
                guest.address = address;
            }
            if !guest.is_trusted() && now.state == "running" {
                let console = settled(async || self.aws.console(&instance.id).await).await?;
                if let Some(keys) = guest::host_keys(&console, &self.folder.run) {
                    guest.trust(&keys)?;
                }
            }
            let addressed = self.args.reach.session_manager || guest.address != guest.alias;
            if guest.is_trusted() && addressed {
                break;
            }
            if tokio::time::Instant::now() > end {
                return Err(Error::new(Class::Cloud, format!("{} did not tell its host keys within {} min", instance.id, BOOTS.as_secs() / 60))
                    .hint("its console says how far it came: build again with --on-error keep, or with --host-key inject where the console is slow"));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        self.folder.note_login(&guest.for_people())?;
        Ok(guest)
    }
}

/// The AWS CLI's tunnel (AWS Systems Manager User Guide, "Allow and control permissions for SSH connections").
pub fn session_manager(aws: &Aws, profile: Option<&str>) -> String {
    let profile = profile.map_or(String::new(), |profile| format!(" --profile '{profile}'"));
    format!(
        "aws ssm start-session --region {}{profile} --target %h --document-name AWS-StartSSHSession --parameters portNumber=%p",
        aws.region
    )
}

/// What is said of a builder that is not there any more.
pub fn gone(instance: &Instance) -> Error {
    let reason = if instance.reason.is_empty() { "EC2 does not say why" } else { &instance.reason };
    Error::new(Class::Cloud, format!("builder {} is {}: {reason}", instance.id, instance.state)).hint(
        "something outside of this run ended it, its time was over (--deadline), or it could not start (quota, spot, KMS key); what was installed on it is lost: build again",
    )
}
