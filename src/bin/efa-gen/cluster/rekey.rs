//! Owns a cluster's new key: every node has it and lets it in before the old one goes, so that logins between the nodes
//! work all the while, and a rekey that was cut off is made again from the start.

use efa_gen::error::Result;
use efa_gen::guest::ssh_trust::{forget_roots_keys, key_comment};

use super::check::check;
use super::nodes::Node;
use super::record::ClusterRecord;
use super::trust;
use crate::io::concurrency::map_concurrent;
use crate::io::events::EventSink;
use crate::io::ssh::{self, KeyType};

/// What a rekey came to.
#[derive(Debug, Default)]
pub struct Rekeyed {
    /// Which nodes have the new key alone, by private address.
    pub done: Vec<String>,
    /// Which may let the old one in still, and why.
    pub left: Vec<(String, String)>,
    /// Who can't log in to whom with the new one.
    pub unreachable: Vec<(String, String)>,
}

/// Makes a new key and gives it to the nodes `all`. One that fails is left behind, and the others go on: an old key in wrong
/// hands is to be worth as little as can be.
pub async fn rekey(record: &ClusterRecord, all: &[Node], events: &EventSink) -> Result<Rekeyed> {
    let pair = ssh::new_key(&key_comment(&record.name), KeyType::wanted(record.args.reach.key_type))?;
    let mut rekeyed = Rekeyed::default();
    let let_in = trust::letting_in(record, all, &pair.public, true)?;
    events.step("Let the new key in on every node");
    let nodes = each(record, all.to_vec(), &let_in, &mut rekeyed).await;
    events.step("Give every node the new key");
    let files = trust::files(record, all, &pair.private)?;
    let nodes = each(record, nodes, &files, &mut rekeyed).await;
    events.step("Take the old key from every node");
    let alone = trust::letting_in(record, all, &pair.public, false)?;
    let nodes = each(record, nodes, &alone, &mut rekeyed).await;
    let nodes = forget_roots(record, nodes, &mut rekeyed).await;
    events.step("Log in from every node to every other");
    let checked = check(record, &nodes).await?;
    for node in &nodes {
        match checked.nodes.iter().find(|(address, _)| *address == node.address) {
            Some((address, facts)) => {
                let peers = facts.unreachable.iter().map(|peer| (address.clone(), peer.clone()));
                rekeyed.unreachable.extend(peers);
            }
            None => rekeyed.unreachable.push((node.address.clone(), "any: it could not be asked".to_owned())),
        }
    }
    rekeyed.done = nodes.into_iter().map(|node| node.address).collect();
    Ok(rekeyed)
}

/// Runs a script on these nodes; those on which it went well.
async fn each(record: &ClusterRecord, nodes: Vec<Node>, text: &str, rekeyed: &mut Rekeyed) -> Vec<Node> {
    let ran = trust::on_each(record, &nodes, text).await;
    sorted_out(nodes, ran, rekeyed)
}

/// An efa-gen before this one gave the key in the user-data, and cloud-init gives it to root then as well.
async fn forget_roots(record: &ClusterRecord, nodes: Vec<Node>, rekeyed: &mut Rekeyed) -> Vec<Node> {
    if record.user == "root" {
        return nodes;
    }
    let line = forget_roots_keys(&record.name);
    let forget = async |node: &Node| node.guest.run_checked(&line, None).await;
    let ran = map_concurrent(&nodes, record.at_once(), forget).await;
    sorted_out(nodes, ran, rekeyed)
}

fn sorted_out(nodes: Vec<Node>, ran: Vec<Result<String>>, rekeyed: &mut Rekeyed) -> Vec<Node> {
    let mut good = Vec::new();
    for (node, ran) in nodes.into_iter().zip(ran) {
        match ran {
            Ok(_) => good.push(node),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                rekeyed.left.push((node.address, format!("{error}{cause}")));
            }
        }
    }
    good
}
