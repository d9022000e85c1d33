//! Owns what a report says in a few lines, for the page and the terminal.

use crate::nccl::counters::HostTraffic;
use crate::nccl::judge::verdict::Verdict;
use crate::nccl::log::report::{Counted, Report, SizeBandwidth};
use crate::text::rounded_size;

/// What a report says in a few lines: names and values, none empty.
pub fn facts(report: &Report, verdict: &Verdict) -> Vec<(&'static str, String)> {
    let versions = &report.versions;
    let count = |counted: &[Counted]| {
        let each = counted.iter().map(|counted| format!("{} ({})", counted.name, counted.count));
        each.collect::<Vec<_>>().join(", ")
    };
    let channels = report.channels.iter().map(|channels| {
        let gdr = if channels.gdr { " GDRDMA" } else { "" };
        format!("{}{gdr} ({})", channels.transport, channels.count)
    });
    let named = |named: &Option<SizeBandwidth>| named.as_ref().map_or(String::new(), at);
    let average =
        report.average_busbw.map_or(String::new(), |average| format!("{average} GB/s (reported, never judged)"));
    let bar = verdict.bar.map_or(String::new(), |(bar, size)| format!("{bar} GB/s at {}", rounded_size(size)));
    let facts = [
        ("hosts", format!("{}: {}", report.hosts.len(), ends(&report.hosts))),
        ("ranks", ranks(report)),
        ("GPUs", count(&report.gpus)),
        ("test", report.collective.clone().unwrap_or_default()),
        ("end", end(report)),
        ("NCCL", versions.nccl.join(", ")),
        ("CUDA", versions.cuda.join(", ")),
        ("driver's CUDA", versions.driver_cuda.join(", ")),
        ("aws-ofi-nccl", versions.plugin.join(", ")),
        ("libfabric", versions.libfabric.join(", ")),
        ("nccl-tests", versions.nccl_tests.join(", ")),
        ("plugin file", report.plugin_path.join(", ")),
        ("providers", count(&report.providers)),
        ("networks", count(&report.networks)),
        ("channels", channels.collect::<Vec<_>>().join(", ")),
        ("EFA's counters", counted_bytes(report)),
        ("bar", bar),
        ("largest size", named(&report.last)),
        ("best busbw", named(&report.best)),
        ("average busbw", average),
        ("wrong values", wrong_values(report)),
        ("warnings", report.warning_count.to_string()),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty() && value != "0: ").collect()
}

/// How many Rank lines name; of a log without any, the processes.
fn ranks(report: &Report) -> String {
    match (report.rank_count(), report.ranks.len()) {
        (0, 0) => String::new(),
        (0, processes) => format!("not in the log ({processes} processes)"),
        (ranks, _) => ranks.to_string(),
    }
}

/// How many, where somebody looked.
fn wrong_values(report: &Report) -> String {
    match report.row_count {
        0 => String::new(),
        rows if report.unchecked_rows == rows && report.wrong_values == 0 => "not checked".to_owned(),
        _ => report.wrong_values.to_string(),
    }
}

/// Bytes a host, from the least to the most, and NICs.
fn counted_bytes(report: &Report) -> String {
    let hosts = || report.traffic.iter().flatten().filter(|host| !host.nics.is_empty());
    let bytes = |host: &HostTraffic| rounded_size(host.bytes());
    let (least, most) = (hosts().min_by_key(|host| host.bytes()), hosts().max_by_key(|host| host.bytes()));
    let (Some(least), Some(most)) = (least, most) else { return String::new() };
    let (carried, all) =
        hosts().fold((0, 0), |(carried, all), host| (carried + host.carrying(), all + host.nics.len()));
    let range = match (bytes(least), bytes(most)) {
        (one, other) if one == other => one,
        (one, other) => format!("{one} to {other}"),
    };
    format!("{range} a host; {carried} of {all} NICs carried data")
}

fn end(report: &Report) -> String {
    let word =
        serde_json::to_value(report.end).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
    report.exit_status.map_or(word.clone(), |status| format!("{word}, exit status {status}"))
}

pub(crate) fn at(named: &SizeBandwidth) -> String {
    let in_place = named.in_place.map_or(String::new(), |busbw| format!(", in place {busbw:.2}"));
    format!("{}: {:.2} GB/s{in_place}", rounded_size(named.size), named.out_of_place)
}

/// `a`, `a, b`, `a ... z`: a list that may be long.
pub fn ends(names: &[String]) -> String {
    match names {
        [first, .., last] if names.len() > 4 => format!("{first} ... {last}"),
        _ => names.join(", "),
    }
}
