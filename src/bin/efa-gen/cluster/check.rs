//! Owns that every node is asked at once, and the table of their answers. What is asked and what is wrong is the core's.

use std::collections::BTreeMap;
use std::time::Duration;

use efa_gen::cluster::check::{Expect, Facts, findings, question, read};
use efa_gen::error::{Class, Error, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::record::Record;
use super::{Node, each};
use crate::cli::OutputArg;
use crate::commands::list;
use crate::report;

/// How long a node may take to answer. One that asks hundreds of others takes a while.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Beyond so many nodes each logs in to its successor and the leader to all, instead of each to each.
const ALL_PAIRS: usize = 16;

/// What came of looking at every node.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// In the cluster's order, by private address.
    pub nodes: Vec<(String, Facts)>,
    /// Which node, and what is wrong with it.
    pub findings: Vec<(String, String)>,
}

/// Whom the node at this place logs in to, and how many at a time: its successor first, so that not all knock at one sshd,
/// which drops logins beyond ten at a time. The leader starts everything, so it reaches all.
fn fellows<'a>(addresses: &[&'a str], index: usize) -> (Vec<&'a str>, usize) {
    let others = addresses.iter().cycle().skip(index + 1).take(addresses.len() - 1).copied();
    if addresses.len() <= ALL_PAIRS {
        return (others.collect(), 8);
    }
    // Each is knocked at by the leader and one other.
    (others.take(if index == 0 { addresses.len() } else { 1 }).collect(), 32)
}

/// Asks every node. One that can't be asked is a finding.
pub async fn check(record: &Record, nodes: &[Node]) -> Result<Checked> {
    let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
    let answers = each(nodes.iter().enumerate(), record.at_once(), async |(index, node): (usize, &Node)| {
        let (fellows, at_once) = fellows(&addresses, index);
        let mut received = None;
        let mut text = String::new();
        let line = question(&fellows, at_once);
        let ended = node.guest.run(&line, None, |line| {
            // The clock is told first.
            received.get_or_insert_with(|| Timestamp::now().as_millisecond());
            text.push_str(line);
            text.push('\n');
        });
        // A driver that hangs lets nvidia-smi hang, and ssh sees nothing of it.
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        match ended {
            Ok(ended) => ended.map(|_| read(&text, received.unwrap_or_default()).ok_or(text)),
            Err(_) => Ok(Err(format!("no answer within {} min", PATIENCE.as_secs() / 60))),
        }
    });
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for (node, answer) in nodes.iter().zip(answers.await) {
        match answer? {
            Ok(facts) => all.push((node.address.clone(), facts)),
            Err(text) => {
                let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
                wrong.push((node.address.clone(), format!("could not be asked: {last}")));
            }
        }
    }
    wrong.extend(findings(&all, &Expect { efa: record.efa(), gpus: u64::from(record.gpus) }));
    Ok(Checked { nodes: all, findings: wrong })
}

impl Checked {
    /// Prints the table, and what is wrong below it.
    pub fn show(&self, output: OutputArg) -> Result<()> {
        if output == OutputArg::Json {
            return list::json(self);
        }
        let mut of_node: BTreeMap<&str, usize> = BTreeMap::new();
        self.findings.iter().for_each(|(node, _)| *of_node.entry(node).or_default() += 1);
        let rows = self.nodes.iter().map(|(address, facts)| {
            [
                address.clone(),
                facts.hostname.clone(),
                facts.efa.to_string(),
                facts.gpus.len().to_string(),
                facts.memlock_kib.map_or("unlimited".into(), |limit| format!("{limit} KiB")),
                facts.kernel.clone(),
                facts.driver.clone().unwrap_or_else(|| "none".into()),
                // Of all components the one that every image has; where another differs, it is told below.
                facts.versions.get("efa").cloned().unwrap_or_else(|| "unknown".into()),
                format!("{:+} ms", facts.clock_ms),
                if facts.unreachable.is_empty() { "good".into() } else { format!("{} fail", facts.unreachable.len()) },
                if of_node.contains_key(address.as_str()) { "see below" } else { "good" }.to_owned(),
            ]
        });
        list::table(
            ["node", "host", "efa", "gpus", "memlock", "kernel", "driver", "installer", "clock", "logins", "is"],
            rows,
        )?;
        for (node, what) in &self.findings {
            report::say(&format!("{node}: {what}"));
        }
        Ok(())
    }

    /// The error of a cluster of which a node is not as it must be.
    pub fn good(&self) -> Result<()> {
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
