//! Owns the nodes' way from RunInstances to the first login: zones that have no room, nodes that do not come up, host keys
//! from the consoles. Knows nothing of what a node is for.

use std::collections::BTreeSet;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::render::builder::host_keys;
use tokio::time::{Instant as Moment, sleep};

use super::launch::Run;
use super::preflight::Ready;
use super::record::Way;
use super::{Node, each, reachable, sort};
use crate::build::make::settled;
use crate::build::run::CLUSTER;
use crate::build::tags;
use crate::cli::cluster::LaunchArgs;
use crate::ec2::model::{Instance, Kind, Launch, Subnet, Tags};

/// From RunInstances to the host keys on the console: boot and cloud-init; a type with eight GPUs takes its time.
const BOOTS: Duration = Duration::from_secs(20 * 60);

/// Between two looks at the consoles.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// From the host keys to a login.
const UP: Duration = Duration::from_secs(5 * 60);

/// From TerminateInstances to `terminated`.
const ENDS: Duration = Duration::from_secs(15 * 60);

/// How many of each call are asked at a time.
const CALLS: usize = 16;

impl Run<'_> {
    /// Launches all nodes in one call, in the first zone that has room for them: all or none, unless fewer are enough. The
    /// token is this call's and the subnet's: asked twice, EC2 answers with the nodes that are there.
    pub async fn launch(&mut self, count: (u32, u32), user_data: &[u8]) -> Result<Vec<Instance>> {
        let mut full = Vec::new();
        let ready = self.ready;
        let chosen = self.record.subnet.clone();
        let subnets = ready.machine.subnets.iter().filter(|subnet| chosen.as_ref().is_none_or(|id| subnet.id == *id));
        for subnet in subnets {
            self.talk.step(format!("Launch {} x {} in {}", count.1, ready.machine.kind, subnet.zone));
            let launch = Launch {
                count,
                key: self.key.clone(),
                group: self.record.group.clone().unwrap_or_default(),
                placement_group: self.record.placement_group.clone(),
                user_data: user_data.to_vec(),
                token: format!("{}-{}", self.call, subnet.id),
                tags: self.node_tags(),
                ..request(&self.record.args, ready, subnet)
            };
            match settled(async || self.maker().launch(&launch, &self.asking).await).await {
                Ok(launched) => {
                    let launched = launched?;
                    self.record.subnet = Some(subnet.id.clone());
                    self.folder.write(CLUSTER, &*self.record)?;
                    if launched.len() < count.1 as usize {
                        self.talk.note(format!("{} gave {} of {} nodes", subnet.zone, launched.len(), count.1));
                    }
                    return Ok(launched);
                }
                Err(error) if error.is_capacity() => {
                    self.talk.note(format!("{} has no room: {error}", subnet.zone));
                    full.push(subnet.zone.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let message = format!(
            "no zone of {} has {} x {} to give: {}",
            self.aws.region,
            count.0,
            ready.machine.kind,
            full.join(", ")
        );
        Err(Error::new(Class::Cloud, message).hint(
            "large types are had by --capacity-reservation; else try again later, with fewer --nodes or --at-least",
        ))
    }

    /// Waits until the nodes run and have told their host keys, and until each lets us in. Those that do not are ended, if
    /// `least` of them are there. `before` are the nodes that the cluster has already: its leader is one of them. Returns the
    /// new ones in the cluster's order.
    pub async fn ready(&mut self, launched: &[Instance], least: usize, before: &[Instance]) -> Result<Vec<Instance>> {
        let (mut up, mut lost) = self.told(launched).await?;
        self.enough(up.len(), least, &lost)?;
        sort(&mut up);
        let mut all = [before, &up].concat();
        self.elastic_address(&mut all).await?;
        self.talk.step(format!("Log in to {} nodes", up.len()));
        let nodes = reachable(self.aws, self.record, &self.folder.path, &all);
        let new = &nodes[before.len()..];
        let logins = each(new, self.record.at_once(), async |node: &Node| node.guest.wait_until_up(UP).await).await;
        for (node, login) in new.iter().zip(logins) {
            match login {
                // Somebody else answers: nothing is done with such a cluster.
                Err(error) if error.class() == Class::Refused => return Err(error),
                Err(error) => lost.push((node.id.clone(), error.to_string())),
                Ok(()) => {}
            }
        }
        if let (Way::ThroughLeader, Some((id, why))) =
            (self.record.way, lost.iter().find(|(id, _)| all.first().is_some_and(|leader| leader.id == *id)))
        {
            let message = format!("the leader {id} does not let us in, and the others are reached through it");
            return Err(Error::new(Class::Cloud, message).because(why.clone()).hint("launch again"));
        }
        let mut up = all.split_off(before.len());
        up.retain(|node| !lost.iter().any(|(id, _)| *id == node.id));
        self.enough(up.len(), least, &lost)?;
        if !lost.is_empty() {
            let ids: Vec<String> = lost.into_iter().map(|(id, _)| id).collect();
            self.talk.note(format!("{} is enough: {} are ended", up.len(), ids.join(" ")));
            self.aws.terminate(&ids, ENDS).await?;
        }
        Ok(up)
    }

    /// The nodes that told their host keys, and those that will not, with the reason.
    async fn told(&self, launched: &[Instance]) -> Result<(Vec<Instance>, Vec<(String, String)>)> {
        self.talk.step(format!("Wait for {} nodes to tell their host keys", launched.len()));
        let filter = format!("tag:{}", tags::RUN);
        let end = Moment::now() + BOOTS;
        let mut waiting: BTreeSet<String> = launched.iter().map(|node| node.id.clone()).collect();
        let (mut told, mut lost) = (Vec::new(), Vec::new());
        loop {
            let now = self.aws.instances(&[(&filter, &self.record.run)]).await?;
            let now: Vec<Instance> = now.into_iter().filter(|node| waiting.contains(&node.id)).collect();
            let (there, gone): (Vec<_>, Vec<_>) = now.into_iter().partition(Instance::is_there);
            for node in gone {
                waiting.remove(&node.id);
                let why = if node.reason.is_empty() { "EC2 does not say why" } else { &node.reason };
                self.talk.note(format!("node {} is {}: {why}", node.id, node.state));
                lost.push((node.id, format!("{}: {why}", node.state)));
            }
            let running = there.into_iter().filter(|node| node.state == "running" && self.has_address(node));
            let asked = each(running, CALLS, async |node: Instance| {
                let console = settled(async || self.aws.console(&node.id).await).await;
                (node, console)
            });
            for (node, console) in asked.await {
                if let Some(keys) = host_keys(&console?, &self.record.run) {
                    waiting.remove(&node.id);
                    told.push((node, keys));
                }
            }
            if waiting.is_empty() {
                break;
            }
            if Moment::now() > end {
                lost.extend(
                    waiting.into_iter().map(|id| (id, format!("no host keys within {} min", BOOTS.as_secs() / 60))),
                );
                break;
            }
            sleep(BETWEEN_LOOKS).await;
        }
        let known: Vec<(&str, &[String])> =
            told.iter().map(|(node, keys)| (node.id.as_str(), keys.as_slice())).collect();
        crate::ssh::trust(&self.folder.path, &known)?;
        Ok((told.into_iter().map(|(node, _)| node).collect(), lost))
    }

    fn has_address(&self, node: &Instance) -> bool {
        node.private_address.is_some() && (self.record.way != Way::Public || node.public_address.is_some())
    }

    fn enough(&self, up: usize, least: usize, lost: &[(String, String)]) -> Result<()> {
        if up >= least {
            return Ok(());
        }
        let lost: Vec<String> = lost.iter().map(|(id, why)| format!("{id}: {why}")).collect();
        Err(Error::new(Class::Cloud, format!("{up} nodes came up, {least} are needed"))
            .because(lost.join("\n"))
            .hint("launch again; with --at-least N a cluster is content with fewer"))
    }

    /// The leader's elastic address: a node of several interfaces gets no public one by itself.
    async fn elastic_address(&mut self, nodes: &mut [Instance]) -> Result<()> {
        let Some(leader) = nodes.first_mut().filter(|leader| leader.public_address.is_none()) else { return Ok(()) };
        if self.record.way != Way::ThroughLeader {
            return Ok(());
        }
        let none = || Error::new(Class::Cloud, format!("node {} has no network interface", leader.id));
        let interface = leader.interface.clone().ok_or_else(none)?;
        self.talk.step("Give the leader an elastic address");
        let address = self.one_address().await?;
        settled(async || self.aws.associate_address(&address, &interface).await).await?;
        let end = Moment::now() + UP;
        loop {
            let now = self.aws.instance(&leader.id).await?;
            if let Some(public) = now.and_then(|node| node.public_address) {
                leader.public_address = Some(public);
                return Ok(());
            }
            if Moment::now() > end {
                return Err(Error::new(Class::Cloud, format!("node {} does not get its elastic address", leader.id)));
            }
            sleep(BETWEEN_LOOKS).await;
        }
    }

    /// AllocateAddress has no token: an answer that was lost has left an address, which is given back.
    async fn one_address(&self) -> Result<String> {
        let address = self.aws.allocate_address(&self.node_tags(), false).await?;
        self.maker().made(Kind::Address, &address)?;
        let filter = format!("tag:{}", tags::RUN);
        for other in self.aws.addresses(&[(&filter, &self.record.run)]).await? {
            if other.id != address {
                self.aws.remove(&other).await?;
            }
        }
        Ok(address)
    }
}

/// The launch without key pair, group, user-data, token and tags, which come later.
pub fn request(args: &LaunchArgs, ready: &Ready, subnet: &Subnet) -> Launch {
    Launch {
        image: ready.image.id.clone(),
        kind: ready.machine.kind.clone(),
        count: (args.at_least.unwrap_or(args.nodes), args.nodes),
        subnet: subnet.id.clone(),
        group: String::new(),
        key: String::new(),
        user_data: Vec::new(),
        token: String::new(),
        root_device: ready.image.root_device.clone(),
        root_gib: ready.root_gib,
        kms_key: None,
        // What is encrypted stays so, with its own key.
        encrypted: (!ready.image.encrypted).then_some(true),
        imds_v2: ready.imds_v2,
        public_address: Some(ready.public_address),
        nics: ready.nics.clone(),
        spot: false,
        placement_group: None,
        reservation: ready.reservation.clone(),
        profile: args.reach.instance_profile.clone(),
        tags: Tags::new(),
    }
}
