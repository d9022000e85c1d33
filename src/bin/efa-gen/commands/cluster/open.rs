//! Owns opening a cluster by its name, and the one of its nodes that is meant.

use crate::cli::cloud::AccountArgs;
use crate::cluster::nodes::{self, Cluster, Node};
use crate::cluster::record::ClusterRecord;
use crate::io::terminal;
use efa_gen::error::{Class, Error, Result};

/// The cluster; a note on the terminal for each node that is left out.
pub async fn open(account: &AccountArgs, name: &str) -> Result<Cluster> {
    nodes::open(account, name, |text| terminal::message(&format!("note: {text}"))).await
}

pub fn node<'a>(cluster: &'a Cluster, wanted: &str) -> Result<&'a Node> {
    let by_number = wanted.parse::<usize>().ok().and_then(|index| cluster.nodes.get(index));
    let named = |node: &&Node| node.id == wanted || node.address == wanted;
    by_number.or_else(|| cluster.nodes.iter().find(named)).ok_or_else(|| {
        let known: Vec<&str> = cluster.nodes.iter().map(|node| node.address.as_str()).collect();
        Error::new(Class::Usage, format!("cluster {} has no running node {wanted}", cluster.record.name))
            .hint(format!("its nodes, from 0 on: {}", known.join(" ")))
    })
}

/// The error with what to try where not one node answers.
pub fn nobody_answers(record: &ClusterRecord, error: Error) -> Error {
    match record.own_group() {
        Some(_) => {
            error.hint(format!("has your address changed? efa-gen cluster admit {} opens port 22 to it", record.name))
        }
        None => error,
    }
}
