//! Owns that the nodes get what they trust each other by, over connections whose host keys are known.

use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::ssh_trust::{self, Admission, Trust, admission, trust as script};

use super::nodes::Node;
use super::record::ClusterRecord;
use crate::io::concurrency::map_concurrent;
use crate::io::ssh;

/// Gives every node the cluster's key, all host keys, the addresses' block of ssh's configuration and the hostfile, and lets
/// the key in from the cluster's addresses. Said again, it changes nothing.
///
/// The private key goes to every node, not to the leader alone: the nodes are equal, and Open MPI starts its daemons from
/// nodes as well.
pub async fn give(record: &ClusterRecord, nodes: &[Node], private: &str) -> Result<()> {
    let public = ssh::public_of(private.as_bytes())?;
    let text = files(record, nodes, private)? + &letting_in(record, nodes, &public, false)?;
    for (node, given) in nodes.iter().zip(on_each(record, nodes, &text).await) {
        given.map_err(|error| {
            Error::new(error.class(), format!("node {} did not take the cluster's key", node.address))
                .with_source(error)
        })?;
    }
    Ok(())
}

/// The script that gives a node what it reaches the others with.
pub fn files(record: &ClusterRecord, nodes: &[Node], private: &str) -> Result<String> {
    let mut known = Vec::new();
    for node in nodes {
        let host_keys = node.guest.host_keys()?;
        known.push(ssh_trust::TrustedNode { address: node.address.clone(), host_keys });
    }
    script(&Trust {
        name: &record.name,
        private,
        known_hosts: &ssh_trust::known_hosts(&known),
        ssh_config: &ssh_trust::ssh_config(&record.name, &known),
        // Without GPUs a node still runs one process.
        hostfile: &ssh_trust::hostfile(&known, record.gpus.max(1)),
    })
}

/// The script by which a node lets the others in; with the keys that the cluster had before, or without.
pub fn letting_in(record: &ClusterRecord, nodes: &[Node], public: &str, former: bool) -> Result<String> {
    let mut sources = Vec::new();
    for node in nodes {
        // Who has the cluster's tag, and no host key that efa-gen has seen, is none of its nodes.
        if !node.guest.host_keys()?.is_empty() {
            sources.extend(node.sources.iter().cloned());
        }
    }
    admission(&Admission { name: &record.name, public, sources: &sources, former })
}

/// Runs a script on each node, in their order.
pub async fn on_each(record: &ClusterRecord, nodes: &[Node], text: &str) -> Vec<Result<String>> {
    let run = async |node: &Node| node.guest.run_checked("bash -s", Some(text.as_bytes())).await;
    map_concurrent(nodes, record.at_once(), run).await
}

/// The cluster's private key, from its leader: it is kept nowhere else.
pub async fn fetch(leader: &Node) -> Result<String> {
    // What was read before it failed may be a part of the key.
    let key = leader.guest.run_checked("cat ~/.ssh/efa-gen-cluster", None).await.map_err(|error| {
        Error::new(error.class(), format!("the cluster's key could not be read from leader {}", leader.id))
            .hint("efa-gen cluster ssh shows whether it lets you in")
    })?;
    match ssh::public_of(key.as_bytes()) {
        Ok(_) => Ok(key),
        Err(error) => Err(Error::new(Class::Cloud, format!("leader {} has no key of the cluster", leader.id))
            .with_source(error)
            .hint("the launch did not get so far: remove the cluster and launch it again")),
    }
}
