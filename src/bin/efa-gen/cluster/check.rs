//! Owns that every node is asked at once. What is asked and what is wrong is the core's.

use efa_gen::catalog::Catalog;
use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::facts::{Facts, NodeRequirements, findings, not_read, question, read};
use efa_gen::text::{ANSWER, ending};
use jiff::Timestamp;
use serde::Serialize;

use super::nodes::Node;
use super::record::ClusterRecord;
use crate::io::concurrency::map_concurrent;
use crate::io::output::too_long;
use crate::timeouts;

/// Beyond so many nodes each logs in to its successor and the leader to all, instead of each to each.
const ALL_PAIRS: usize = 16;

/// What came of looking at every node.
#[derive(Debug, Serialize)]
pub struct ClusterCheck {
    /// In the cluster's order, by private address.
    pub nodes: Vec<(String, Facts)>,
    /// Which node, and what is wrong with it.
    pub findings: Vec<(String, String)>,
    /// Which node, and what it did not tell, because its image is older or has none of it.
    pub not_read: Vec<(String, String)>,
}

/// Whom the node at this place logs in to, and how many at a time: its successor first, so that not all knock at one sshd,
/// which drops logins beyond ten at a time. The leader starts everything, so it reaches all.
fn peers<'a>(addresses: &[&'a str], index: usize) -> (Vec<&'a str>, usize) {
    let others = addresses.iter().cycle().skip(index + 1).take(addresses.len() - 1).copied();
    if addresses.len() <= ALL_PAIRS {
        return (others.collect(), 8);
    }
    // Each is knocked at by the leader and one other.
    (others.take(if index == 0 { addresses.len() } else { 1 }).collect(), 32)
}

/// Asks every node. One that can't be asked is a finding.
pub async fn check(record: &ClusterRecord, nodes: &[Node]) -> Result<ClusterCheck> {
    let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
    let answers = map_concurrent(nodes.iter().enumerate(), record.at_once(), async |(index, node): (usize, &Node)| {
        let (peers, at_once) = peers(&addresses, index);
        let mut received = None;
        let mut text = String::new();
        let line = question(&peers, at_once);
        let ended = node.guest.run(&line, None, |line| {
            // The clock is told first.
            received.get_or_insert_with(|| Timestamp::now().as_millisecond());
            if text.len() <= ANSWER {
                text.push_str(line);
                text.push('\n');
            }
        });
        // A driver that hangs lets nvidia-smi hang, and ssh sees nothing of it.
        let ended = tokio::time::timeout(timeouts::NODE_ANSWER, ended).await;
        match ended {
            Ok(Ok(_)) if text.len() > ANSWER => Ok(Err(too_long())),
            Ok(ended) => ended.map(|_| read(&text, received.unwrap_or_default()).ok_or(text)),
            Err(_) => Ok(Err(format!("no answer within {} min", timeouts::NODE_ANSWER.as_secs() / 60))),
        }
    });
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for (node, answer) in nodes.iter().zip(answers.await) {
        match answer? {
            Ok(facts) => all.push((node.address.clone(), facts)),
            Err(text) => {
                let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no output");
                wrong.push((node.address.clone(), format!("could not be asked: {}", ending(last))));
            }
        }
    }
    let catalog = Catalog::embedded()?;
    let kind = catalog.instance_type(&record.instance_type).ok();
    let expect = NodeRequirements {
        efa: record.efa(),
        gpus: u64::from(record.gpus),
        fabric: kind.map_or_else(Default::default, |kind| kind.fabric),
        unregistered: kind.and_then(|kind| kind.gpu.as_ref()).is_some_and(|gpu| gpu.unregistered),
        gpudirect: kind.is_some_and(|kind| kind.gpudirect),
    };
    wrong.extend(findings(&all, &expect));
    Ok(ClusterCheck { not_read: not_read(&all, &expect), nodes: all, findings: wrong })
}

impl ClusterCheck {
    /// The error of a cluster of which a node is not as it must be.
    pub fn ensure_good(&self) -> Result<()> {
        match self.findings.first() {
            None => Ok(()),
            Some((node, what)) => Err(Error::new(
                Class::Check,
                format!("{} things are wrong, first on {node}: {what}", self.findings.len()),
            )
            .hint(
                "look at the node (efa-gen cluster ssh NAME --node ADDRESS), or end it and grow the cluster by another",
            )),
        }
    }
}
