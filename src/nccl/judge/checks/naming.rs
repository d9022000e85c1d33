//! Owns how ranks and hosts are named in a finding.

use crate::nccl::log::report::{Rank, Report};

/// `rank 0, rank 3 and 6 more (host a, b)`: ranks of which this holds.
pub(crate) fn who(report: &Report, holds: impl Fn(&Rank) -> bool) -> String {
    let ranks: Vec<&Rank> = report.ranks.iter().filter(|rank| holds(rank)).collect();
    if ranks.is_empty() {
        return "a rank that the log does not name".into();
    }
    let names: Vec<String> = ranks.iter().map(|rank| rank.name()).collect();
    let mut hosts: Vec<&str> = Vec::new();
    for rank in ranks.iter().filter(|rank| rank.rank.is_some()) {
        if hosts.last() != Some(&rank.host.as_str()) {
            hosts.push(&rank.host);
        }
    }
    let names = few(names.iter().map(String::as_str));
    if hosts.is_empty() { names } else { format!("{names} (host {})", few(hosts.into_iter())) }
}

/// The first three, and how many more.
pub(crate) fn few<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(3);
    let text = names.take(3).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}
