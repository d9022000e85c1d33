//! Owns the builder: key pair, security group, instance, each found again where a run goes on. Names and client tokens
//! derive from the run, so that nothing is ever made twice.

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::{console, user_data as guest};

use super::build::Build;
use super::preflight::{builder_tags, deadline, launch_spec, run_tags};
use crate::aws::model::{Instance, LaunchRun, ResourceKind};
use crate::aws::resources::instance_resource;
use crate::cli::cloud::HostKey;
use crate::image::record::{LaunchAttempt, keep};
use crate::io::ssh::{self, Guest, KeyType};
use crate::io::{files, wait};
use crate::run::ownership::Ownership;
use crate::run::resources::{LoginKey, ResourceFactory, retry_until_visible};
use crate::run::tags;
use crate::timeouts;

impl Build<'_> {
    /// The run's builder, running: found, or made. Its host keys are known.
    pub async fn machine(&mut self) -> Result<(Instance, Guest)> {
        let instance = match self.own_instance().await? {
            Some(instance) => {
                if self.resumed {
                    self.factory().admit(&self.vpc(), &self.resolved.ssh_cidrs).await?;
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
            Some(instance) if !instance.exists() => Err(builder_gone(&instance)),
            other => Ok(other),
        }
    }

    /// The run's builder, whatever became of it.
    pub async fn any_instance(&self) -> Result<Option<Instance>> {
        let run = self.run.state.run.as_str();
        let mut found = self.run.aws.instances(&[(&format!("tag:{}", tags::RUN), run)]).await?;
        // A listing may not show yet what the ledger knows.
        for id in self.run.state.known_ids(ResourceKind::Instance)? {
            if !found.iter().any(|instance| instance.id == id) {
                found.extend(self.run.aws.instance(&id).await?);
            }
        }
        let mut ownership = Ownership::default();
        found.retain(|instance| {
            instance.tags.get(tags::ROLE).is_some_and(|role| role == tags::BUILDER)
                && ownership.of(&instance_resource(instance, &self.run.aws.region), &[]).is_ok()
        });
        found.sort_by_key(|instance| {
            ["running", "pending", "stopped", "stopping"].iter().position(|s| *s == instance.state).unwrap_or(9)
        });
        Ok(found.into_iter().next())
    }

    pub fn factory(&self) -> ResourceFactory<'_> {
        let tags = run_tags(self.resolved, &self.run.state.run);
        ResourceFactory { run: self.run.clone(), tags }
    }

    async fn make_machine(&mut self) -> Result<Instance> {
        self.run.events.step("Make the builder's key pair and security group");
        let factory = self.factory();
        let key = factory.login_key(self.args.reach.key_type).await?;
        let description = format!("Builder of efa-gen run {}", self.run.state.run);
        let efa = self.resolved.builder.info.efa > 0;
        let group = factory.group(&self.vpc(), &description, &self.resolved.ssh_cidrs, efa).await?;
        self.launch(&key, &group).await
    }

    /// All of a run's machines are in one VPC.
    fn vpc(&self) -> String {
        self.resolved.builder.subnets.first().map(|subnet| subnet.vpc.clone()).unwrap_or_default()
    }

    /// Launches in the first zone that has room. The token is the run's, the zone's and the deadline's: asked twice, EC2
    /// answers with the instance that is there.
    async fn launch(&mut self, key: &LoginKey, group: &str) -> Result<Instance> {
        let run = self.run.state.run.as_str();
        let machine = self.resolved.builder.clone();
        let mut full = Vec::new();
        // An older try made nothing, or its machine would be listed: all begins anew.
        let since = self.deadline() - timeouts::SURELY_LISTED.as_secs().cast_signed();
        let attempt = self.record.attempt.take().filter(|attempt| attempt.deadline > since);
        let first =
            attempt.as_ref().and_then(|attempt| machine.subnets.iter().position(|one| one.id == attempt.subnet));
        let deadline = attempt.map_or_else(|| self.deadline(), |attempt| attempt.deadline);
        let user_data = self.user_data(deadline, key)?;
        let tags = builder_tags(self.resolved, run, deadline);
        // The one that was tried last first, for it may have launched; the others may have room by now.
        for subnet in machine.subnets.iter().cycle().skip(first.unwrap_or(0)).take(machine.subnets.len()) {
            self.record.attempt = Some(LaunchAttempt { subnet: subnet.id.clone(), deadline });
            keep(self.run.state, self.record)?;
            self.run.events.step(format!("Launch a {} in {}", machine.instance_type, subnet.zone));
            let spec = launch_spec(self.args, self.plan, self.resolved, &machine, subnet);
            let launch = LaunchRun {
                count: (1, 1),
                key: key.pair.clone(),
                group: Some(group.to_owned()),
                placement_group: None,
                user_data: user_data.clone().into_bytes(),
                token: format!("{run}-{}-{deadline}", subnet.id),
                tags: tags.clone(),
            };
            match retry_until_visible(async || self.factory().launch(&spec, &launch).await).await {
                Ok(launched) => return Ok(launched?.into_iter().next().unwrap_or_default()),
                Err(error) if error.is_capacity() => {
                    self.run.events.note(format!("{} has no room: {error}", subnet.zone));
                    full.push(subnet.zone.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let message =
            format!("no zone of {} has a {} to give: {}", self.run.aws.region, machine.instance_type, full.join(", "));
        Err(Error::new(Class::Cloud, message)
            .hint("try again later, or with another --builder-type: the builder needs no GPU and no EFA"))
    }

    /// When a machine that is launched now ends itself, in seconds since 1970.
    pub fn deadline(&self) -> i64 {
        deadline(self.args)
    }

    fn user_data(&self, deadline: i64, key: &LoginKey) -> Result<String> {
        let boothook = guest::user_data(
            guest::UserDataTarget::Builder,
            &self.run.state.run,
            deadline,
            i64::from(self.args.builder.deadline) * 60,
        )?;
        let host_key = (self.args.builder.host_key == HostKey::Inject).then(|| self.host_key()).transpose()?;
        let host_key =
            host_key.as_ref().map(|(kind, private, public)| guest::GivenHostKey { kind: kind.name(), private, public });
        Ok(guest::of_builder(&boothook, host_key.as_ref(), key.public.as_deref()))
    }

    /// A host key of ours, which the user-data brings along.
    fn host_key(&self) -> Result<(KeyType, String, String)> {
        self.run.events.note("whoever may read the instance's user-data can read its host key and play the builder");
        let path = self.run.state.path.join("host_key");
        let private = match files::read_if_there(&path, "host key")? {
            Some(private) => private,
            None => {
                // EC2 has no part in it: what this machine's ssh can use.
                let pair = ssh::new_key("efa-gen", KeyType::wanted(self.args.reach.key_type))?;
                files::write_durably(&path, pair.private.as_bytes(), 0o600)?;
                pair.private.into_bytes()
            }
        };
        let public = ssh::public_of(&private)?;
        Ok((KeyType::of(&public), String::from_utf8_lossy(&private).into_owned(), public))
    }

    /// How to log in to it: waits for its address and its host keys, and for sshd.
    pub async fn reach(&self, instance: &Instance) -> Result<Guest> {
        self.run.events.step(format!("Wait for {} to tell its host keys", instance.id));
        let mut guest = Guest {
            user: self.plan.base.user.clone(),
            address: instance.id.clone(),
            alias: instance.id.clone(),
            folder: self.run.state.path.clone(),
            tty: self.plan.base.sudo_needs_tty,
            carrier: self
                .args
                .reach
                .session_manager
                .then(|| ssh::session_manager(&self.run.aws.region, self.args.account.profile.as_deref()))
                .transpose()?,
        };
        if self.args.builder.host_key == HostKey::Inject {
            let private = files::read(&self.run.state.path.join("host_key"), "host key", 1 << 16)?;
            let public = ssh::public_of(&private)?;
            guest.trust(&[public.split(' ').take(2).collect::<Vec<_>>().join(" ")])?;
        }
        let up = wait::until(timeouts::BUILDER_BOOTS, timeouts::CONSOLE_EVERY, async || {
            let now = self.run.aws.instance(&instance.id).await?.unwrap_or_else(|| instance.clone());
            if !["pending", "running"].contains(&now.state.as_str()) {
                return Err(builder_gone(&now));
            }
            let address = if self.resolved.public_address { now.public_address } else { now.private_address };
            if let (false, Some(address)) = (self.args.reach.session_manager, address) {
                guest.address = address;
            }
            if !guest.is_trusted() && now.state == "running" {
                let console = retry_until_visible(async || self.run.aws.console(&instance.id).await).await?;
                if let Some(keys) = console::host_keys(&console, &self.run.state.run) {
                    guest.trust(&keys)?;
                }
            }
            let addressed = self.args.reach.session_manager || guest.address != guest.alias;
            Result::Ok((guest.is_trusted() && addressed).then_some(()))
        });
        if up.await?.is_none() {
            let minutes = timeouts::BUILDER_BOOTS.as_secs() / 60;
            return Err(Error::new(Class::Cloud, format!("{} did not tell its host keys within {minutes} min", instance.id))
                .hint("its console says how far it came: build again with --on-error keep, or with --host-key inject where the console is slow"));
        }
        self.run.state.note_login(&guest.ssh_command_line().await?)?;
        Ok(guest)
    }
}

/// What is said of a builder that is not there any more.
pub fn builder_gone(instance: &Instance) -> Error {
    let reason = if instance.reason.is_empty() { "EC2 does not say why" } else { &instance.reason };
    Error::new(Class::Cloud, format!("builder {} is {}: {reason}", instance.id, instance.state)).hint(
        "something outside of this run ended it, its time was over (--deadline), or it could not start (quota, spot, KMS key); what was installed on it is lost: build again",
    )
}
