//! Owns how a cluster is found again by its name, and how each of its nodes is logged in to.

use std::path::Path;

use efa_gen::error::{Class, Error, Result};

use super::access::AccessPath;
use super::record::ClusterRecord;
use crate::aws::Aws;
use crate::aws::model::Instance;
use crate::aws::resources::instance_resource;
use crate::cli::cloud::AccountArgs;
use crate::io::ssh::{self, Carrier, Guest};
use crate::run::id::folder_of;
use crate::run::ownership::Ownership;
use crate::run::state::RunState;
use crate::run::tags;

/// A cluster that this machine launched.
pub struct Cluster {
    pub aws: Aws,
    pub record: ClusterRecord,
    /// The run's folder: login key, known host keys, record.
    pub state: RunState,
    /// The first is the leader.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Instance id.
    pub id: String,
    /// Private IPv4 address, as in the hostfile.
    pub address: String,
    /// The private addresses of all its interfaces: from any of them it may log in to the others.
    pub sources: Vec<String>,
    /// How to log in.
    pub guest: Guest,
}

/// The live nodes of a cluster, the leader first. What only carries its tags is no node.
///
/// Errors: AWS refuses; there is no such cluster.
pub async fn instances(aws: &Aws, name: &str) -> Result<Vec<Instance>> {
    let filter = format!("tag:{}", tags::CLUSTER);
    let mut found = aws.instances(&[(&filter, name)]).await?;
    let mut ownership = Ownership::default();
    found.retain(|node| node.exists() && ownership.of(&instance_resource(node, &aws.region), &[]).is_ok());
    if found.is_empty() {
        return Err(Error::new(Class::Usage, format!("{} has no cluster {name}", aws.region))
            .hint("`efa-gen cluster ls` lists them; --region names another region"));
    }
    sort(&mut found);
    Ok(found)
}

/// The leader first: those that were launched first, in the order of their call.
pub fn sort(nodes: &mut [Instance]) {
    nodes.sort_by(|one, other| (&one.launched, one.index, &one.id).cmp(&(&other.launched, other.index, &other.id)));
}

/// A cluster by its name, with the nodes that run; a `note` for each that does not.
///
/// Errors: there is none; another machine launched it; none of its nodes runs.
pub async fn open(account: &AccountArgs, name: &str, note: impl Fn(&str)) -> Result<Cluster> {
    let aws = Aws::connect(account.region.as_deref(), account.profile.as_deref()).await?;
    let found = instances(&aws, name).await?;
    let run = found.first().and_then(|node| node.tags.get(tags::RUN)).cloned().unwrap_or_default();
    let state = RunState { path: folder_of(&run)?, run };
    let record = ClusterRecord::open(&state, name)?;
    for node in found.iter().filter(|node| node.state != "running") {
        note(&format!("node {} of cluster {name} is left out: it is {}", node.id, node.state));
    }
    let running = running(&record, found)?;
    let nodes = reachable(&aws, &record, &state.path, &running).await?;
    Ok(Cluster { aws, record, state, nodes })
}

/// The nodes that run, the leader first.
///
/// Errors: none runs, or not the one that the others are reached through.
pub fn running(record: &ClusterRecord, found: Vec<Instance>) -> Result<Vec<Instance>> {
    let name = &record.name;
    let (mut running, idle): (Vec<Instance>, Vec<Instance>) =
        found.into_iter().partition(|node| node.state == "running");
    if running.is_empty() {
        return Err(Error::new(Class::Cloud, format!("no node of cluster {name} runs"))
            .hint("efa-gen cluster ls shows their states"));
    }
    if record.access_path == AccessPath::ThroughLeader {
        // Who was started again is not the first any more.
        let leader = running.iter().position(|node| node.public_address.is_some()).ok_or_else(|| {
            Error::new(
                Class::Cloud,
                format!("the node of cluster {name} that the others are reached through does not run"),
            )
            .hint(match idle.as_slice() {
                [] => "it has ended: remove the cluster (efa-gen cluster rm) and launch it again".to_owned(),
                some => {
                    let ids: Vec<&str> = some.iter().map(|node| node.id.as_str()).collect();
                    format!("start it again, it has the cluster's elastic address: {}", ids.join(" or "))
                }
            })
        })?;
        running[..=leader].rotate_right(1);
    }
    Ok(running)
}

/// How each node is logged in to.
///
/// Errors: a name that no shell can be told; ssh can't read the user's own configuration.
pub async fn reachable(aws: &Aws, record: &ClusterRecord, folder: &Path, running: &[Instance]) -> Result<Vec<Node>> {
    let private = |node: &Instance| node.private_address.clone().unwrap_or_default();
    let guest = |node: &Instance, address: String, carrier: Option<Carrier>| Guest {
        user: record.user.clone(),
        address,
        alias: node.id.clone(),
        folder: folder.to_owned(),
        tty: record.tty,
        carrier,
    };
    let leader = running.first().map(|node| {
        let address = match record.access_path {
            AccessPath::Private => private(node),
            _ => node.public_address.clone().unwrap_or_else(|| private(node)),
        };
        guest(node, address, None)
    });
    let carrier = match (record.access_path, &leader) {
        (AccessPath::SessionManager, _) => {
            Some(ssh::session_manager(&aws.region, record.args.account.profile.as_deref())?)
        }
        (AccessPath::ThroughLeader, Some(leader)) => Some(leader.as_jump().await?),
        _ => None,
    };
    let one = |(index, node): (usize, &Instance)| {
        let guest = match (record.access_path, &leader) {
            (AccessPath::SessionManager, _) => guest(node, node.id.clone(), carrier.clone()),
            (AccessPath::ThroughLeader, Some(leader)) if index == 0 => leader.clone(),
            (AccessPath::Public, _) => guest(node, node.public_address.clone().unwrap_or_default(), None),
            _ => guest(node, private(node), carrier.clone()),
        };
        Node { id: node.id.clone(), address: private(node), sources: node.private_addresses.clone(), guest }
    };
    Ok(running.iter().enumerate().map(one).collect())
}
