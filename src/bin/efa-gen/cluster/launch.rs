//! Owns the order of a launch: login key, security group, placement group, nodes, trust, check. Everything is in the
//! ledger before it is used, so that a launch that ends early can be swept.

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::ssh_trust::key_comment;
use efa_gen::guest::user_data::{self as guest, UserDataTarget};
use efa_gen::plan::{LOG_DIR, Plan, STATE_DIR};
use efa_gen::render::{self, Format};
use efa_gen::text::ending;

use super::check::{ClusterCheck, check};
use super::fleet::Fleet;
use super::nodes::{Node, reachable};
use super::preflight::{ResolvedLaunch, cluster_tags};
use super::record::ClusterRecord;
use super::trust;
use crate::aws::model::{Instance, ResourceKind, Tags};
use crate::cli::cluster::LaunchArgs;
use crate::io::concurrency::map_concurrent;
use crate::io::events::Event;
use crate::io::ssh::KeyType;
use crate::io::{ssh, wait};
use crate::run::context::RunContext;
use crate::run::resources::{LoginKey, ResourceFactory, name, rule_of};
use crate::run::state::CLUSTER;
use crate::timeouts;

/// One launch, or the growth of a cluster.
pub struct LaunchSession<'a> {
    pub run: RunContext<'a>,
    pub resolved: &'a ResolvedLaunch,
    pub record: &'a mut ClusterRecord,
    /// What is installed at the first boot.
    pub plan: Option<&'a Plan>,
    /// Tells this launch from every other, of this run as well: EC2 remembers what was asked with a token, and whose nodes
    /// have ended since.
    pub call: String,
    /// The login key, once it is made.
    pub key: LoginKey,
}

/// What a launch came to.
pub struct Launched {
    pub nodes: Vec<Node>,
    pub checked: ClusterCheck,
}

impl LaunchSession<'_> {
    /// The whole launch.
    pub async fn run(&mut self) -> Result<Launched> {
        let pair = ssh::new_key(&key_comment(&self.record.name), KeyType::wanted(self.record.args.reach.key_type))?;
        self.network().await?;
        let args = &self.record.args;
        let (least, most) = (args.at_least.unwrap_or(args.nodes), args.nodes);
        let user_data = self.user_data()?;
        let up = self.nodes((least, most), &user_data, &[]).await?;
        self.connect_nodes(&up, &up, &pair.private).await
    }

    /// So many nodes more, beside `there`.
    pub async fn grow(&mut self, there: &[Instance], more: u32) -> Result<Launched> {
        let nodes = reachable(self.run.aws, self.record, &self.run.state.path, there).await?;
        let leader = nodes.first().ok_or_else(|| Error::new(Class::Cloud, "no node of the cluster runs"))?;
        let login = ssh::public_in(&self.run.state.path.join("key"), "login key")?.unwrap_or_default();
        self.key = LoginKey::of(&self.record.run, &login);
        if let (None, Some(group)) = (&self.record.args.security_group, &self.record.group) {
            // Whoever asks may have another address today.
            self.run.aws.allow_ssh(group, &self.resolved.ssh_cidrs, &rule_of(&self.record.run)).await?;
            for cidr in &self.resolved.ssh_cidrs {
                self.run.events.note(format!("port 22 of every node is open to {cidr} too"));
            }
        }
        let private = trust::fetch(leader).await?;
        let user_data = self.user_data()?;
        let up = self.nodes((more, more), &user_data, there).await?;
        let all: Vec<Instance> = there.iter().chain(&up).cloned().collect();
        self.connect_nodes(&all, &up, &private).await
    }

    /// New nodes, so many at least and at most, that can be logged in to, beside those that are there `before`.
    async fn nodes(&mut self, count: (u32, u32), user_data: &[u8], before: &[Instance]) -> Result<Vec<Instance>> {
        let tags = self.tags();
        let mut fleet = Fleet {
            run: self.run.clone(),
            resolved: self.resolved,
            record: &mut *self.record,
            call: &self.call,
            key: self.key.pair.as_deref(),
            tags: &tags,
        };
        let launched = fleet.launch(count, user_data).await?;
        fleet.bring_up(&launched, count.0 as usize, before).await
    }

    /// Every node knows every other, and each is as it must be. `new` are those that came up now.
    async fn connect_nodes(&mut self, all: &[Instance], new: &[Instance], private: &str) -> Result<Launched> {
        let nodes = reachable(self.run.aws, self.record, &self.run.state.path, all).await?;
        let fresh: Vec<&Node> = nodes.iter().filter(|node| new.iter().any(|one| one.id == node.id)).collect();
        self.wait_for_install(&fresh).await?;
        self.run.events.step("Give every node what the others trust it by");
        trust::give(self.record, &nodes, private).await?;
        self.run.events.step("Check every node");
        let checked = check(self.record, &nodes).await?;
        Ok(Launched { nodes, checked })
    }

    async fn network(&mut self) -> Result<()> {
        self.run.events.step("Make the login key and the network");
        self.key = self.factory().login_key(self.record.args.reach.key_type).await?;
        let description = format!("Nodes of cluster {} (efa-gen run {})", self.record.name, self.record.run);
        let vpc = self.resolved.machine.subnets.first().map(|subnet| subnet.vpc.clone()).unwrap_or_default();
        let group = match &self.record.args.security_group {
            Some(group) => group.clone(),
            None => self.factory().group(&vpc, &description, &self.record.ssh_cidrs, true).await?,
        };
        self.record.group = Some(group);
        if self.resolved.placement_group {
            let group = name(&self.record.run);
            match self.run.aws.create_placement_group(&group, &self.tags(), false).await {
                Ok(()) => {
                    self.run.events.emit(&Event::Made { kind: ResourceKind::PlacementGroup.name(), id: group.clone() });
                }
                // A lost answer: it has the run's name.
                Err(error) if error.is_duplicate() => {}
                Err(error) => return Err(error.into()),
            }
            self.record.placement_group = Some(group);
        }
        self.run.state.write(CLUSTER, &*self.record)
    }

    /// On everything that is made.
    fn tags(&self) -> Tags {
        cluster_tags(&self.record.args.tag, &self.record.run, &self.record.name)
    }

    fn factory(&self) -> ResourceFactory<'_> {
        ResourceFactory { run: self.run.clone(), tags: self.tags() }
    }

    /// The nodes' user-data, compressed: cloud-init takes it so, and an install would not fit otherwise.
    fn user_data(&self) -> Result<Vec<u8>> {
        let now = jiff::Timestamp::now().as_second();
        let (deadline, machine) = (self.record.deadline, UserDataTarget::Node(&self.record.name));
        let boothook = guest::user_data(machine, &self.record.run, deadline, deadline.saturating_sub(now))?;
        let files = self.plan.map(|plan| render::render(plan, &[Format::CloudInit])).transpose()?.unwrap_or_default();
        let text = guest::of_node(&boothook, self.key.public.as_deref(), files.first().map(|file| file.text.as_str()));
        render::compressed_user_data(&text).map_err(|error| error.hint("build an image and launch that: efa-gen build"))
    }

    /// A node that does not answer may have ended.
    async fn ensure_exists(&self, node: &Node) -> Result<()> {
        match self.run.aws.instance(&node.id).await? {
            Some(now) if !now.exists() => {
                Err(Error::new(Class::Cloud, format!("node {} is {}: {}", node.id, now.state, now.reason))
                    .hint("somebody ended it, or its time was over (--ttl)"))
            }
            _ => Ok(()),
        }
    }

    /// Waits until the install of the first boot has ended on every new node.
    async fn wait_for_install(&self, nodes: &[&Node]) -> Result<()> {
        if self.plan.is_none() {
            return Ok(());
        }
        self.run.events.step(format!("Wait for the install on {} nodes", nodes.len()));
        let line = format!(
            "if [ -e {STATE_DIR}/complete ]; then echo complete; else sudo tail -c 100000 {LOG_DIR}/install.log 2>/dev/null | tail -n 40; fi; true"
        );
        let mut waiting: Vec<&Node> = nodes.to_vec();
        let mut last = String::new();
        let done = wait::until(timeouts::FIRST_BOOT_INSTALL, timeouts::FIRST_BOOT_INSTALL_EVERY, async || {
            let looks = map_concurrent(&waiting, self.record.at_once(), async |node: &&Node| {
                node.guest.run_checked(&line, None).await
            });
            let mut still = Vec::new();
            for (node, output) in waiting.iter().zip(looks.await) {
                // A reboot of the install's own cuts connections; that is no end.
                let Ok(output) = output else {
                    self.ensure_exists(node).await?;
                    still.push(*node);
                    continue;
                };
                if output.trim() == "complete" {
                    continue;
                }
                if let Some(from) = output.find("FAILED in stage") {
                    return Err(Error::new(Class::Install, format!("the install on {} failed", node.address))
                        .with_source(ending(&output[from..]).into_owned())
                        .hint("with --keep the nodes stay; efa-gen cluster ssh looks at one"));
                }
                let stage = output.lines().rfind(|line| line.starts_with('[')).unwrap_or_default();
                if !stage.is_empty() && stage != last {
                    stage.clone_into(&mut last);
                    self.run.events.emit(&Event::Output { line: format!("{}: {stage}", node.address) });
                }
                still.push(*node);
            }
            waiting = still;
            Ok(waiting.is_empty().then_some(()))
        });
        if done.await?.is_some() {
            return Ok(());
        }
        let message = format!("the install is not done on {} nodes after two hours", waiting.len());
        Err(Error::new(Class::Install, message).hint(format!("{LOG_DIR}/install.log on a node says how far it is")))
    }
}

/// The record of a cluster that is to be launched. `deadline` is when its nodes end themselves, seconds since 1970.
pub fn record(args: &LaunchArgs, resolved: &ResolvedLaunch, run: &str, deadline: i64) -> ClusterRecord {
    ClusterRecord {
        run: run.to_owned(),
        name: resolved.name.clone(),
        account: resolved.identity.account.clone(),
        region: resolved.region.clone(),
        args: args.clone(),
        image: resolved.image.id.clone(),
        instance_type: resolved.machine.instance_type.clone(),
        user: resolved.user.clone(),
        tty: resolved.tty,
        access_path: resolved.access_path,
        ssh_cidrs: resolved.ssh_cidrs.clone(),
        nics: resolved.nics.clone(),
        gpus: resolved.gpus,
        deadline,
        subnet: None,
        group: None,
        placement_group: None,
    }
}
