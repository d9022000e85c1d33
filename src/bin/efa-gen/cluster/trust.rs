//! Owns that the nodes get what they trust each other by, over connections whose host keys are known. Knows nothing of how
//! the nodes came about.

use efa_gen::cluster::trust;
use efa_gen::error::{Class, Error, Result};
use efa_gen::render::builder::{Trust, trust as script};

use super::record::Record;
use super::{Node, each};
use crate::ssh;

/// Gives every node the cluster's key, all host keys, the addresses' block of ssh's configuration and the hostfile. Said
/// again, it changes nothing.
///
/// The private key goes to every node, not to the leader alone: the nodes are equal, and Open MPI starts its daemons from
/// nodes as well.
pub async fn give(record: &Record, nodes: &[Node], private: &str) -> Result<()> {
    let mut known = Vec::new();
    for node in nodes {
        let host_keys = node.guest.host_keys()?;
        known.push(trust::Node { address: node.address.clone(), host_keys });
    }
    let text = script(&Trust {
        name: &record.name,
        private,
        known_hosts: &trust::known_hosts(&known),
        ssh_config: &trust::ssh_config(&record.name, &known),
        // Without GPUs a node still runs one process.
        hostfile: &trust::hostfile(&known, record.gpus.max(1)),
    })?;
    let given =
        each(nodes, record.at_once(), async |node: &Node| node.guest.must("bash -s", Some(text.as_bytes())).await);
    for (node, given) in nodes.iter().zip(given.await) {
        given.map_err(|error| {
            Error::new(error.class(), format!("node {} did not take the cluster's key", node.address)).because(error)
        })?;
    }
    Ok(())
}

/// The cluster's private key, from its leader: it is kept nowhere else.
pub async fn fetch(leader: &Node) -> Result<String> {
    // What was read before it failed may be a part of the key.
    let key = leader.guest.must("cat ~/.ssh/efa-gen-cluster", None).await.map_err(|error| {
        Error::new(error.class(), format!("the cluster's key could not be read from leader {}", leader.id))
            .hint("efa-gen cluster ssh shows whether it lets you in")
    })?;
    match ssh::public_of(key.as_bytes()) {
        Ok(_) => Ok(key),
        Err(error) => Err(Error::new(Class::Cloud, format!("leader {} has no key of the cluster", leader.id))
            .because(error)
            .hint("the launch did not get so far: remove the cluster and launch it again")),
    }
}
