//! Owns the nodes' way from RunInstances to the first login: zones that have no room, nodes that do not come up, host
//! keys from the consoles.

use std::collections::BTreeSet;

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::console::host_keys;

use super::access::AccessPath;
use super::nodes::{Node, reachable, sort};
use super::preflight::{ResolvedLaunch, launch_spec, node_tags};
use super::record::ClusterRecord;
use crate::aws::model::{Instance, LaunchRun, ResourceKind, Tags};
use crate::io::concurrency::map_concurrent;
use crate::io::{ssh, wait};
use crate::run::context::RunContext;
use crate::run::ownership::Ownership;
use crate::run::resources::{ResourceFactory, retry_until_visible};
use crate::run::state::CLUSTER;
use crate::run::tags;
use crate::timeouts;

/// How many of each call are asked at a time.
const CALLS: usize = 16;

/// The nodes of one launch, or of the growth of a cluster.
pub struct Fleet<'a> {
    pub run: RunContext<'a>,
    pub resolved: &'a ResolvedLaunch,
    pub record: &'a mut ClusterRecord,
    /// Tells this launch from every other, of this run as well: EC2 remembers what was asked with a token, and whose nodes
    /// have ended since.
    pub call: &'a str,
    /// Name of the login key pair, where EC2 has one.
    pub key: Option<&'a str>,
    /// On everything that is made.
    pub tags: &'a Tags,
}

impl Fleet<'_> {
    /// Launches all nodes in one call, in the first zone that has room for them: all or none, unless fewer are enough. The
    /// token is this call's and the subnet's: asked twice, EC2 answers with the nodes that are there.
    pub async fn launch(&mut self, count: (u32, u32), user_data: &[u8]) -> Result<Vec<Instance>> {
        let mut full = Vec::new();
        let resolved = self.resolved;
        let chosen = self.record.subnet.clone();
        let subnets =
            resolved.machine.subnets.iter().filter(|subnet| chosen.as_ref().is_none_or(|id| subnet.id == *id));
        for subnet in subnets {
            self.run.events.step(format!("Launch {} x {} in {}", count.1, resolved.machine.instance_type, subnet.zone));
            let spec = launch_spec(&self.record.args, resolved, subnet);
            let launch = LaunchRun {
                count,
                key: self.key.map(str::to_owned),
                group: self.record.group.clone(),
                placement_group: self.record.placement_group.clone(),
                user_data: user_data.to_vec(),
                token: format!("{}-{}", self.call, subnet.id),
                tags: self.node_tags(),
            };
            match retry_until_visible(async || self.factory().launch(&spec, &launch).await).await {
                Ok(launched) => {
                    let launched = launched?;
                    self.record.subnet = Some(subnet.id.clone());
                    self.run.state.write(CLUSTER, &*self.record)?;
                    if launched.len() < count.1 as usize {
                        self.run.events.note(format!("{} gave {} of {} nodes", subnet.zone, launched.len(), count.1));
                    }
                    return Ok(launched);
                }
                Err(error) if error.is_capacity() => {
                    self.run.events.note(format!("{} has no room: {error}", subnet.zone));
                    full.push(subnet.zone.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let message = format!(
            "no zone of {} has {} x {} to give: {}",
            self.run.aws.region,
            count.0,
            resolved.machine.instance_type,
            full.join(", ")
        );
        Err(Error::new(Class::Cloud, message).hint(
            "large types are had by --capacity-reservation; else try again later, with fewer --nodes or --at-least",
        ))
    }

    /// Waits until the nodes run and have told their host keys, and until each lets us in. Those that do not are ended, if
    /// `least` of them are there. `before` are the nodes that the cluster has already: its leader is one of them. Returns the
    /// new ones in the cluster's order.
    pub async fn bring_up(
        &mut self,
        launched: &[Instance],
        least: usize,
        before: &[Instance],
    ) -> Result<Vec<Instance>> {
        let (mut up, mut lost) = self.wait_for_host_keys(launched).await?;
        self.require(up.len(), least, &lost)?;
        sort(&mut up);
        let mut all = [before, &up].concat();
        self.elastic_address(&mut all).await?;
        self.run.events.step(format!("Log in to {} nodes", up.len()));
        let nodes = reachable(self.run.aws, self.record, &self.run.state.path, &all).await?;
        let new = &nodes[before.len()..];
        let logins = map_concurrent(new, self.record.at_once(), async |node: &Node| {
            node.guest.wait_until_up(timeouts::NODE_LOGIN).await
        })
        .await;
        for (node, login) in new.iter().zip(logins) {
            match login {
                // Somebody else answers: nothing is done with such a cluster.
                Err(error) if error.class() == Class::Refused => return Err(error),
                Err(error) => lost.push((node.id.clone(), error.to_string())),
                Ok(()) => {}
            }
        }
        if let (AccessPath::ThroughLeader, Some((id, why))) =
            (self.record.access_path, lost.iter().find(|(id, _)| all.first().is_some_and(|leader| leader.id == *id)))
        {
            let message = format!("the leader {id} does not let us in, and the others are reached through it");
            return Err(Error::new(Class::Cloud, message).with_source(why.clone()).hint("launch again"));
        }
        let mut up = all.split_off(before.len());
        up.retain(|node| !lost.iter().any(|(id, _)| *id == node.id));
        self.require(up.len(), least, &lost)?;
        if !lost.is_empty() {
            let ids: Vec<String> = lost.into_iter().map(|(id, _)| id).collect();
            self.run.events.note(format!("{} is enough: {} are ended", up.len(), ids.join(" ")));
            self.run.aws.terminate(&ids, timeouts::TERMINATION).await?;
        }
        Ok(up)
    }

    /// The nodes that told their host keys, and those that will not, with the reason.
    async fn wait_for_host_keys(&self, launched: &[Instance]) -> Result<(Vec<Instance>, Vec<(String, String)>)> {
        self.run.events.step(format!("Wait for {} nodes to tell their host keys", launched.len()));
        let filter = format!("tag:{}", tags::RUN);
        let mut waiting: BTreeSet<String> = launched.iter().map(|node| node.id.clone()).collect();
        let (mut ready, mut lost) = (Vec::new(), Vec::new());
        let all = wait::until(timeouts::NODE_BOOTS, timeouts::NODES_EVERY, async || {
            let now = self.run.aws.instances(&[(&filter, &self.record.run)]).await?;
            let now: Vec<Instance> = now.into_iter().filter(|node| waiting.contains(&node.id)).collect();
            let (there, gone): (Vec<_>, Vec<_>) = now.into_iter().partition(Instance::exists);
            for node in gone {
                waiting.remove(&node.id);
                let why = if node.reason.is_empty() { "EC2 does not say why" } else { &node.reason };
                self.run.events.note(format!("node {} is {}: {why}", node.id, node.state));
                lost.push((node.id, format!("{}: {why}", node.state)));
            }
            let running = there.into_iter().filter(|node| node.state == "running" && self.has_address(node));
            let asked = map_concurrent(running, CALLS, async |node: Instance| {
                let console = retry_until_visible(async || self.run.aws.console(&node.id).await).await;
                (node, console)
            });
            for (node, console) in asked.await {
                if let Some(keys) = host_keys(&console?, &self.record.run) {
                    waiting.remove(&node.id);
                    ready.push((node, keys));
                }
            }
            Result::Ok(waiting.is_empty().then_some(()))
        });
        if all.await?.is_none() {
            let minutes = timeouts::NODE_BOOTS.as_secs() / 60;
            lost.extend(waiting.into_iter().map(|id| (id, format!("no host keys within {minutes} min"))));
        }
        let known: Vec<(&str, &[String])> =
            ready.iter().map(|(node, keys)| (node.id.as_str(), keys.as_slice())).collect();
        ssh::trust(&self.run.state.path, &known)?;
        Ok((ready.into_iter().map(|(node, _)| node).collect(), lost))
    }

    fn has_address(&self, node: &Instance) -> bool {
        node.private_address.is_some()
            && (self.record.access_path != AccessPath::Public || node.public_address.is_some())
    }

    fn require(&self, up: usize, least: usize, lost: &[(String, String)]) -> Result<()> {
        if up >= least {
            return Ok(());
        }
        let lost: Vec<String> = lost.iter().map(|(id, why)| format!("{id}: {why}")).collect();
        Err(Error::new(Class::Cloud, format!("{up} nodes came up, {least} are needed"))
            .with_source(lost.join("\n"))
            .hint("launch again; with --at-least N a cluster is content with fewer"))
    }

    /// The leader's elastic address: a node of several interfaces gets no public one by itself.
    async fn elastic_address(&mut self, nodes: &mut [Instance]) -> Result<()> {
        let Some(leader) = nodes.first_mut().filter(|leader| leader.public_address.is_none()) else { return Ok(()) };
        if self.record.access_path != AccessPath::ThroughLeader {
            return Ok(());
        }
        let none = || Error::new(Class::Cloud, format!("node {} has no network interface", leader.id));
        let interface = leader.interface.clone().ok_or_else(none)?;
        self.run.events.step("Give the leader an elastic address");
        let address = self.one_address().await?;
        retry_until_visible(async || self.run.aws.associate_address(&address, &interface).await).await?;
        let public = wait::until(timeouts::NODE_LOGIN, timeouts::NODES_EVERY, async || {
            let now = self.run.aws.instance(&leader.id).await?;
            Result::Ok(now.and_then(|node| node.public_address))
        });
        let none = || Error::new(Class::Cloud, format!("node {} does not get its elastic address", leader.id));
        leader.public_address = Some(public.await?.ok_or_else(none)?);
        Ok(())
    }

    /// AllocateAddress has no token: an answer that was lost has left an address, which is given back.
    async fn one_address(&self) -> Result<String> {
        let address = self.run.aws.allocate_address(&self.node_tags(), false).await?;
        self.factory().record(ResourceKind::Address, &address)?;
        let filter = format!("tag:{}", tags::RUN);
        let recorded = self.run.state.known()?.into_iter().map(|resource| resource.id);
        let mut ownership = Ownership::new(recorded);
        for other in self.run.aws.addresses(&[(&filter, &self.record.run)]).await? {
            if other.id != address && ownership.of(&other, &[]).is_ok() {
                self.run.aws.remove(&other).await?;
            }
        }
        Ok(address)
    }

    fn node_tags(&self) -> Tags {
        node_tags(self.tags, self.record.deadline)
    }

    fn factory(&self) -> ResourceFactory<'_> {
        ResourceFactory { run: self.run.clone(), tags: self.tags.clone() }
    }
}
