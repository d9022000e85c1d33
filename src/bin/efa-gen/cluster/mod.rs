//! Owns clusters: how one is found again by its name, and how its nodes are reached, many at a time. Knows nothing of flags'
//! meanings; each part has a module.

pub mod check;
pub mod launch;
pub mod nodes;
pub mod preflight;
pub mod record;
pub mod trust;

use std::path::Path;

use efa_gen::error::{Class, Error, Result};
use futures_util::stream::{self, StreamExt as _};

use self::record::{Record, Way};
use crate::build::run::{self, Folder};
use crate::build::tags;
use crate::cli::cloud::AccountArgs;
use crate::ec2::Aws;
use crate::ec2::model::Instance;
use crate::report;
use crate::ssh::Guest;

/// Connections at a time, as many as clustershell makes.
const AT_ONCE: usize = 64;

/// A cluster that this machine launched.
pub struct Cluster {
    pub aws: Aws,
    pub record: Record,
    /// The run's folder: login key, known host keys, record.
    pub folder: Folder,
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
    /// How to log in.
    pub guest: Guest,
}

/// The live nodes of a cluster, the leader first; stopped ones are no nodes.
///
/// Errors: AWS refuses; there is no such cluster.
pub async fn instances(aws: &Aws, name: &str) -> Result<Vec<Instance>> {
    let filter = format!("tag:{}", tags::CLUSTER);
    let mut found = aws.instances(&[(&filter, name)]).await?;
    found.retain(Instance::is_there);
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

/// A cluster by its name, with the nodes that run.
///
/// Errors: there is none; another machine launched it; none of its nodes runs.
pub async fn open(account: &AccountArgs, name: &str) -> Result<Cluster> {
    let aws = Aws::connect(account.region.as_deref(), account.profile.as_deref()).await?;
    let found = instances(&aws, name).await?;
    let run = found.first().and_then(|node| node.tags.get(tags::RUN)).cloned().unwrap_or_default();
    let folder = Folder { path: run::folder_of(&run)?, run };
    let record = Record::open(&folder, name)?;
    for node in found.iter().filter(|node| node.state != "running") {
        report::say(&format!("note: node {} of cluster {name} is left out: it is {}", node.id, node.state));
    }
    let running = running(&record, found)?;
    let nodes = reachable(&aws, &record, &folder.path, &running);
    Ok(Cluster { aws, record, folder, nodes })
}

/// The nodes that run, the leader first.
///
/// Errors: none runs, or not the one that the others are reached through.
pub fn running(record: &Record, found: Vec<Instance>) -> Result<Vec<Instance>> {
    let name = &record.name;
    let (mut running, idle): (Vec<Instance>, Vec<Instance>) =
        found.into_iter().partition(|node| node.state == "running");
    if running.is_empty() {
        return Err(Error::new(Class::Cloud, format!("no node of cluster {name} runs"))
            .hint("efa-gen cluster ls shows their states"));
    }
    if record.way == Way::ThroughLeader {
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
pub fn reachable(aws: &Aws, record: &Record, folder: &Path, running: &[Instance]) -> Vec<Node> {
    let private = |node: &Instance| node.private_address.clone().unwrap_or_default();
    let guest = |node: &Instance, address: String, proxy: Option<String>| Guest {
        user: record.user.clone(),
        address,
        alias: node.id.clone(),
        folder: folder.to_owned(),
        tty: record.tty,
        proxy,
    };
    let leader = running.first().map(|node| {
        let address = match record.way {
            Way::Private => private(node),
            _ => node.public_address.clone().unwrap_or_else(|| private(node)),
        };
        guest(node, address, None)
    });
    let one = |(index, node): (usize, &Instance)| {
        let guest = match (record.way, &leader) {
            (Way::SessionManager, _) => {
                let proxy = crate::build::builder::session_manager(aws, record.args.account.profile.as_deref());
                guest(node, node.id.clone(), Some(proxy))
            }
            (Way::ThroughLeader, Some(leader)) if index > 0 => guest(node, private(node), Some(leader.as_jump())),
            (Way::ThroughLeader, Some(leader)) => leader.clone(),
            (Way::Public, _) => guest(node, node.public_address.clone().unwrap_or_default(), None),
            _ => guest(node, private(node), None),
        };
        Node { id: node.id.clone(), address: private(node), guest }
    };
    running.iter().enumerate().map(one).collect()
}

impl Record {
    /// Logins at a time: one sshd carries all that go through the leader, and OpenSSH's default drops logins beyond ten.
    pub fn at_once(&self) -> usize {
        if self.way == Way::ThroughLeader { 8 } else { AT_ONCE }
    }
}

/// Does the same for each, so many at a time; the results are in the order of the items.
pub async fn each<I, T>(items: impl IntoIterator<Item = I>, at_once: usize, act: impl AsyncFn(I) -> T) -> Vec<T> {
    let numbered = stream::iter(items.into_iter().enumerate());
    // Unordered: a slow one in front holds nobody up.
    let act = &act;
    let acts = numbered.map(|(index, item)| async move { (index, act(item).await) });
    let mut done: Vec<(usize, T)> = acts.buffer_unordered(at_once).collect().await;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
