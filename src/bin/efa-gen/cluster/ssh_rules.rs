//! Owns which rules of a cluster's security group are efa-gen's, and their exchange for others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use efa_gen::error::{Class, Error, Result};

use super::record::ClusterRecord;
use crate::aws::Aws;
use crate::aws::model::SshRule;
use crate::io::wait;
use crate::run::resources::rule_of;
use crate::timeouts;

/// The rules after an exchange.
#[derive(Debug)]
pub struct Exchanged {
    /// CIDRs of efa-gen's that were taken back.
    pub revoked: Vec<String>,
    /// What is not efa-gen's, and stays.
    pub others: Vec<SshRule>,
}

/// Whether efa-gen made a rule: it has the run's description, or none, as an efa-gen before this one made it, and the CIDR
/// that the launch was given.
fn is_ours(rule: &SshRule, record: &ClusterRecord) -> bool {
    let launched = || record.ssh_cidrs.iter().any(|cidr| network(cidr) == network(&rule.source));
    rule.ssh_alone && (rule.description == rule_of(&record.run) || rule.description.is_empty() && launched())
}

/// Opens port 22 to these CIDRs, and then closes it to every other that efa-gen has opened it to. It looks again afterwards.
///
/// Errors: AWS refuses; the group is not as it was asked to be.
pub async fn exchange(aws: &Aws, group: &str, record: &ClusterRecord, cidrs: &[String]) -> Result<Exchanged> {
    let wanted: BTreeSet<String> = cidrs.iter().map(|cidr| network(cidr)).collect();
    let is_wanted = |rule: &SshRule| rule.ssh_alone && wanted.contains(&network(&rule.source));
    let all_there = |rules: &[SshRule]| {
        let there: BTreeSet<String> =
            rules.iter().filter(|rule| rule.ssh_alone).map(|rule| network(&rule.source)).collect();
        wanted.is_subset(&there)
    };
    aws.allow_ssh(group, cidrs, &rule_of(&record.run)).await?;
    let mut revoked = BTreeSet::new();
    let mut last = Vec::new();
    let done = wait::until(timeouts::VISIBLE, timeouts::VISIBLE_EVERY, async || {
        last = aws.ssh_rules(group).await?;
        if !all_there(&last) {
            // Nothing is closed before what is to stay is seen to be open.
            return Ok(None);
        }
        let going: Vec<&SshRule> = last.iter().filter(|rule| is_ours(rule, record) && !is_wanted(rule)).collect();
        for rule in &going {
            aws.revoke_ssh(group, rule).await?;
            revoked.insert(rule.source.clone());
        }
        Result::Ok(going.is_empty().then_some(()))
    });
    if done.await?.is_none() {
        let rules: Vec<&str> = last.iter().map(|rule| rule.source.as_str()).collect();
        let message = format!("port 22 of {group} is open to {}, not to what was asked for", rules.join(", "));
        return Err(Error::new(Class::Cloud, message).hint("somebody else may be changing the group: try again"));
    }
    let others = last.into_iter().filter(|rule| !is_ours(rule, record) && !is_wanted(rule)).collect();
    Ok(Exchanged { revoked: revoked.into_iter().collect(), others })
}

/// A CIDR as EC2 keeps it: without the bits of a host. What is none stays as it is.
fn network(cidr: &str) -> String {
    let parsed = cidr.split_once('/').and_then(|(address, bits)| {
        let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?);
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
                IpAddr::from((u32::from(address) & mask).to_be_bytes())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0);
                IpAddr::from((u128::from(address) & mask).to_be_bytes())
            }
        };
        Some(format!("{address}/{bits}"))
    });
    parsed.unwrap_or_else(|| cidr.to_owned())
}
