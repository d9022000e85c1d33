//! Owns the order of a launch: login key, security group, placement group, nodes, trust, check. Everything is in the ledger
//! before it is used, so that a launch that ends early can be swept. Knows nothing of flags' meanings.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{LOG_DIR, Plan, STATE_DIR};
use efa_gen::render::builder::{self as guest, Machine};
use efa_gen::render::{self, Format};
use flate2::{Compression, GzBuilder};
use tokio::sync::Mutex;
use tokio::time::{Instant as Moment, sleep};

use super::check::{Checked, check};
use super::preflight::Ready;
use super::record::Record;
use super::{Node, each, reachable, trust};
use crate::build::make::{Maker, name};
use crate::build::run::{CLUSTER, Folder};
use crate::build::tags;
use crate::ec2::Aws;
use crate::ec2::model::{Instance, Kind, Tags};
use crate::events::{Event, Talk};
use crate::ssh;

/// EC2's limit on user-data, bytes (AWS EC2 User Guide, "Run commands at launch").
const USER_DATA: usize = 16384;

/// How long an install at the first boot may take: driver, CUDA, NCCL and the reboots between them.
const INSTALLS: Duration = Duration::from_secs(2 * 3600);

/// Between two looks at an install.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// One launch, or the growth of a cluster.
pub struct Run<'a> {
    pub aws: &'a Aws,
    pub ready: &'a Ready,
    pub record: &'a mut Record,
    pub folder: &'a Folder,
    pub talk: &'a Talk,
    /// What is installed at the first boot.
    pub plan: Option<&'a Plan>,
    /// Tells this launch from every other, of this run as well: EC2 remembers what was asked with a token, and whose nodes
    /// have ended since.
    pub call: String,
    /// Name of the login key pair, once it is made.
    pub key: String,
    /// Held while RunInstances is under way: a launch that is interrupted meanwhile waits for it, or would clean up too early.
    pub asking: Arc<Mutex<()>>,
}

/// What a launch came to.
pub struct Launched {
    pub nodes: Vec<Node>,
    pub checked: Checked,
}

impl Run<'_> {
    /// The whole launch.
    pub async fn run(&mut self) -> Result<Launched> {
        let pair = ssh::new_key(&format!("efa-gen cluster {}", self.record.name))?;
        self.network().await?;
        let args = &self.record.args;
        let (least, most) = (args.at_least.unwrap_or(args.nodes), args.nodes);
        let user_data = self.user_data(&pair.public)?;
        let launched = self.launch((least, most), &user_data).await?;
        let up = self.ready(&launched, least as usize, &[]).await?;
        self.together(&up, &up, &pair.private).await
    }

    /// So many nodes more, beside `there`.
    pub async fn grow(&mut self, there: &[Instance], more: u32) -> Result<Launched> {
        let nodes = reachable(self.aws, self.record, &self.folder.path, there);
        let leader = nodes.first().ok_or_else(|| Error::new(Class::Cloud, "no node of the cluster runs"))?;
        self.key = name(&self.record.run);
        if let (None, Some(group)) = (&self.record.args.security_group, &self.record.group) {
            // Whoever asks may have another address today.
            self.aws.allow_ssh(group, &self.ready.ssh_cidrs).await?;
            for cidr in &self.ready.ssh_cidrs {
                self.talk.note(format!("port 22 of every node is open to {cidr} too"));
            }
        }
        let private = trust::fetch(leader).await?;
        let user_data = self.user_data(&ssh::public_of(private.as_bytes())?)?;
        let launched = self.launch((more, more), &user_data).await?;
        let up = self.ready(&launched, more as usize, there).await?;
        let all: Vec<Instance> = there.iter().chain(&up).cloned().collect();
        self.together(&all, &up, &private).await
    }

    /// Every node knows every other, and each is as it must be. `new` are those that came up now.
    async fn together(&mut self, all: &[Instance], new: &[Instance], private: &str) -> Result<Launched> {
        let nodes = reachable(self.aws, self.record, &self.folder.path, all);
        let fresh: Vec<&Node> = nodes.iter().filter(|node| new.iter().any(|one| one.id == node.id)).collect();
        self.installed(&fresh).await?;
        self.talk.step("Give every node what the others trust it by");
        trust::give(self.record, &nodes, private).await?;
        self.talk.step("Check every node");
        let checked = check(self.record, &nodes).await?;
        Ok(Launched { nodes, checked })
    }

    async fn network(&mut self) -> Result<()> {
        self.talk.step("Make the login key and the network");
        self.key = self.maker().key_pair().await?;
        let about = format!("Nodes of cluster {} (efa-gen run {})", self.record.name, self.record.run);
        let vpc = self.ready.machine.subnets.first().map(|subnet| subnet.vpc.clone()).unwrap_or_default();
        let group = match &self.record.args.security_group {
            Some(group) => group.clone(),
            None => self.maker().group(&vpc, &about, &self.record.ssh_cidrs, true).await?,
        };
        self.record.group = Some(group);
        if self.ready.placement_group {
            let group = name(&self.record.run);
            match self.aws.create_placement_group(&group, &self.tags(), false).await {
                Ok(()) => self.talk.emit(&Event::Made { kind: Kind::PlacementGroup.name(), id: group.clone() }),
                // A lost answer: it has the run's name.
                Err(error) if error.is_duplicate() => {}
                Err(error) => return Err(error.into()),
            }
            self.record.placement_group = Some(group);
        }
        self.folder.write(CLUSTER, &*self.record)
    }

    /// On everything that is made.
    fn tags(&self) -> Tags {
        // The preflight has checked them.
        let mut all = tags::own(&self.record.args.tag).unwrap_or_default();
        all.insert(tags::RUN.into(), self.record.run.clone());
        all.insert(tags::CLUSTER.into(), self.record.name.clone());
        all.insert("Name".into(), self.record.name.clone());
        all
    }

    pub(super) fn node_tags(&self) -> Tags {
        let mut all = self.tags();
        let until = jiff::Timestamp::from_second(self.record.deadline).map(|time| time.to_string());
        all.insert(tags::ROLE.into(), "node".into());
        all.insert(tags::UNTIL.into(), until.unwrap_or_default());
        all
    }

    pub(super) fn maker(&self) -> Maker<'_> {
        Maker { aws: self.aws, folder: self.folder, talk: self.talk, tags: self.tags() }
    }

    /// The nodes' user-data, compressed: cloud-init takes it so, and an install would not fit otherwise.
    fn user_data(&self, public: &str) -> Result<Vec<u8>> {
        let now = jiff::Timestamp::now().as_second();
        let (deadline, machine) = (self.record.deadline, Machine::Node(&self.record.name));
        let boothook = guest::user_data(machine, &self.record.run, deadline, deadline - now)?;
        let files = self.plan.map(|plan| render::render(plan, &[Format::CloudInit])).transpose()?.unwrap_or_default();
        let text = guest::of_node(&boothook, public, files.first().map(|file| file.text.as_str()));
        let failed = |error| Error::new(Class::Bug, "the user-data can't be compressed").because(error);
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(text.as_bytes()).map_err(failed)?;
        let packed = gzip.finish().map_err(failed)?;
        if packed.len() > USER_DATA {
            let message = format!("the user-data takes {} bytes, EC2 allows {USER_DATA}", packed.len());
            return Err(Error::new(Class::Plan, message).hint("build an image and launch that: efa-gen build"));
        }
        Ok(packed)
    }

    /// A node that does not answer may have ended.
    async fn must_be_there(&self, node: &Node) -> Result<()> {
        match self.aws.instance(&node.id).await? {
            Some(now) if !now.is_there() => {
                Err(Error::new(Class::Cloud, format!("node {} is {}: {}", node.id, now.state, now.reason))
                    .hint("somebody ended it, or its time was over (--ttl)"))
            }
            _ => Ok(()),
        }
    }

    /// Waits until the install of the first boot has ended on every new node.
    async fn installed(&self, nodes: &[&Node]) -> Result<()> {
        if self.plan.is_none() {
            return Ok(());
        }
        self.talk.step(format!("Wait for the install on {} nodes", nodes.len()));
        let end = Moment::now() + INSTALLS;
        let line = format!(
            "if [ -e {STATE_DIR}/complete ]; then echo complete; else sudo tail -n 40 {LOG_DIR}/install.log 2>/dev/null; fi; true"
        );
        let mut waiting: Vec<&Node> = nodes.to_vec();
        let mut last = String::new();
        while !waiting.is_empty() {
            let looks = each(&waiting, self.record.at_once(), async |node: &&Node| node.guest.must(&line, None).await);
            let mut still = Vec::new();
            for (node, said) in waiting.iter().zip(looks.await) {
                // A reboot of the install's own cuts connections; that is no end.
                let Ok(said) = said else {
                    self.must_be_there(node).await?;
                    still.push(*node);
                    continue;
                };
                if said.trim() == "complete" {
                    continue;
                }
                if let Some(from) = said.find("FAILED in stage") {
                    return Err(Error::new(Class::Install, format!("the install on {} failed", node.address))
                        .because(said[from..].trim_end().to_owned())
                        .hint("with --keep the nodes stay; efa-gen cluster ssh looks at one"));
                }
                let stage = said.lines().rfind(|line| line.starts_with('[')).unwrap_or_default();
                if !stage.is_empty() && stage != last {
                    stage.clone_into(&mut last);
                    self.talk.emit(&Event::Output { line: format!("{}: {stage}", node.address) });
                }
                still.push(*node);
            }
            if Moment::now() > end {
                let message = format!("the install is not done on {} nodes after two hours", still.len());
                return Err(Error::new(Class::Install, message)
                    .hint(format!("{LOG_DIR}/install.log on a node says how far it is")));
            }
            waiting = still;
            if !waiting.is_empty() {
                sleep(BETWEEN_LOOKS).await;
            }
        }
        Ok(())
    }
}
