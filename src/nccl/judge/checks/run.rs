//! Owns the checks of the run itself: how it ended, whether the log is whole, its values, its hosts.

use super::hang;
use super::hints::{DEVICE, LIBRARY_PATH, WHOLE};
use super::naming::{few, who};
use super::network::NOT_FOUND;

use crate::nccl::judge::verdict::{Check, Expect, Findings};
use crate::nccl::log::evidence::ROWS;
use crate::nccl::log::failure::{self, PluginFault};
use crate::nccl::log::message::PROVIDER;
use crate::nccl::log::report::{End, Failure, Rank, Report};
use crate::text::size;

/// How far the printed average may be from that of the rows, GB/s: half of the last printed digit, with room.
const AVERAGE_TOLERANCE: f64 = 0.006;

pub(crate) fn run(found: &mut Findings, report: &Report) {
    let check = Check::RunFailed;
    hang::unresponsive(found, report);
    hang::processes(found, report);
    if report.exit_status == Some(124) {
        let to_do = "find the rank that went silent first; if all still make progress, raise the time limit";
        found.fail(check, "it did not end in time (exit status 124)", to_do);
    }
    // What brought the failures about, where the ranks have told it before.
    let of_nccl = |failure: &Failure| CAUSED_BY_THE_PLUGIN.iter().any(|words| failure.line.contains(words));
    if report.row_count == 0 && !report.failures.is_empty() {
        let failed = |rank: &Rank| rank.provider_error.is_some() && rank.providers.is_empty();
        if report.failures.iter().any(of_nccl) && report.ranks.iter().any(|rank| rank.plugin_missing) {
            let ranks = who(report, |rank| rank.plugin_missing);
            found.fail(check, format!("{NOT_FOUND} on {ranks}"), LIBRARY_PATH);
        } else if let Some(rank) = report.ranks.iter().find(|rank| failed(rank)) {
            let text = rank.provider_error.as_deref().unwrap_or_default();
            found.fail(check, format!("the plugin found no provider on {}: {text}", who(report, failed)), DEVICE);
        }
    }
    let nowhere = !report.ranks.is_empty() && report.ranks.iter().all(|rank| rank.plugin_missing);
    if report.preamble.is_some() && report.row_count == 0 && report.failures.is_empty() && nowhere {
        found.fail(check, format!("{NOT_FOUND} on {}", who(report, |rank| rank.plugin_missing)), LIBRARY_PATH);
    }
    // Where a process died, the others only lost it.
    let died = report.failures.iter().any(|failure| DEATHS.iter().any(|words| failure.line.contains(words)));
    if !died {
        plugin_faults(found, report, died);
    }
    for failure in &report.failures {
        let again = if failure.count > 1 { format!(" ({} times)", failure.count) } else { String::new() };
        found.fail(check, format!("{}{again}", failure.line), failure.to_do);
    }
    if died {
        plugin_faults(found, report, died);
    }
    if report.exit_status.is_none() {
        found.notes.push("the exit status is not known (--exit-status)".into());
    }
    // After the texts, which say more.
    if let Some(status) = report.exit_status.filter(|status| ![0, 124].contains(status)) {
        found.fail(check, format!("exit status {status}"), "read what the ranks printed last");
    }
}

/// Failures that a missing plugin may have brought about.
const CAUSED_BY_THE_PLUGIN: [&str; 4] =
    ["Error: network ", "Failed to initialize any NET plugin", "Test NCCL failure", "NCCL error in: "];

/// Words of a process that died.
const DEATHS: [&str; 5] = ["signal", "Signal", "Killed", "OOM", "oom"];

/// Where one did, the others lose their connections.
const PEER: &str =
    "a process died (see the other lines): find out why; check the security group only if it died after this error";

/// What the plugin warned of: a fault of each kind, by the first that says it.
fn plugin_faults(found: &mut Findings, report: &Report, died: bool) {
    for kind in PluginFault::ALL {
        // A rank without a provider has said more, unless it only said that something had failed.
        let told = |rank: &Rank| {
            kind == PluginFault::Start && rank.provider_error.is_some() && !rank.says_only_that_it_failed()
        };
        let has = |rank: &Rank| rank.plugin_fault.as_ref().is_some_and(|warning| warning.kind == kind) && !told(rank);
        let faults = report.ranks.iter().filter(|rank| has(rank)).filter_map(|rank| rank.plugin_fault.as_ref());
        let (first, count) = (faults.clone().min_by_key(|warning| warning.line), faults.count());
        let Some(first) = first else { continue };
        let same =
            |rank: &Rank| has(rank) && rank.plugin_fault.as_ref().is_some_and(|warning| warning.text == first.text);
        let others = match count - report.ranks.iter().filter(|rank| same(rank)).count() {
            0 => String::new(),
            more => format!("; {} reported a similar error later", several(more as u64, "rank", "ranks")),
        };
        let what = format!("the plugin failed on {}: {}{others}", who(report, same), first.text);
        let to_do = if kind == PluginFault::Transfer && died { PEER } else { kind.to_do() };
        found.fail(Check::RunFailed, what, to_do);
    }
}

/// Quotes each process's last warning, once a text, unless a finding has it already. Until a run is whole it may be the reason.
pub(crate) fn last_warnings(found: &mut Findings, report: &Report) {
    let mut texts: Vec<&str> = Vec::new();
    for rank in report.ranks.iter().filter(|rank| !rank.last_warning.is_empty()) {
        let text = rank.last_warning.as_str();
        let same =
            |other: &str| without_pointers(other).contains(&without_pointers(text.trim_start_matches("NET/OFI ")));
        let told = found.findings.iter().any(|finding| same(&finding.what)) || texts.iter().any(|other| same(other));
        if !told && texts.len() < QUOTED {
            texts.push(text);
        }
    }
    for text in texts {
        let ranks = who(report, |rank| rank.last_warning == text);
        let what = format!("NCCL's last warning on {ranks}: {text}");
        if report.end == End::Complete || failure::is_optional(text.as_bytes()) {
            found.notes.push(what);
        } else {
            found.miss(Check::RunFailed, what, "read the log around this warning");
        }
    }
}

/// A text with every address of memory the same.
fn without_pointers(text: &str) -> String {
    let mut pieces = text.split("0x");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str("0x");
        plain.push_str(piece.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    plain
}

/// Distinct last warnings that are quoted.
const QUOTED: usize = 3;

pub(crate) fn complete(found: &mut Findings, report: &Report, expect: &Expect) {
    let check = Check::Incomplete;
    // Where everybody's evidence is there, a torn line of level INFO takes nothing away.
    let proved = report.rank_count() > 0
        && report.ranks.iter().all(|rank| !rank.providers.is_empty() && !rank.networks.is_empty());
    if report.unread_lines > 0 && report.unread_lines == report.unread_info_lines && proved {
        found.notes.push(format!(
            "{} of level INFO could not be read, the first: {}",
            several(report.unread_lines, "line", "lines"),
            report.first_unread
        ));
    } else if report.unread_lines > 0 {
        let what = format!(
            "{} lines look like NCCL's or nccl-tests' and could not be read, the first: {}",
            report.unread_lines, report.first_unread
        );
        found.miss(check, what, "strip what another program adds to each line (timestamps, prefixes), then try again");
    }
    if report.end == End::Excerpt {
        excerpt(found, report);
        return;
    }
    if report.runs > 1 {
        let to_do =
            "judge one run at a time; ranks that each start a run of their own come of nccl-tests built without MPI=1";
        found.miss(check, format!("the log holds {} runs", report.runs), to_do);
    }
    let sizes = report.sizes();
    if let Some(reduced) = report.reduced_to {
        found.notes.push(format!(
            "nccl-tests reduced the largest size to {} by itself: the GPU has no memory for more",
            size(reduced)
        ));
    }
    let Some(last) = &report.last else {
        // Another program's run failed: nothing of nccl-tests was to be measured.
        if report.nccl_lines > 0 && report.preamble.is_none() && report.rank_count() == 0 && !report.failures.is_empty()
        {
            return;
        }
        found.fail(check, "no size was measured", "read what the ranks printed last");
        return;
    };
    let wanted = expect.last_size.filter(|_| report.reduced_to.is_none()).or(sizes.map(|(_, size)| size));
    let slack = 16 * (report.rank_count() as u64).max(1);
    if let Some(wanted) = wanted.filter(|wanted| last.size.saturating_add(slack) <= *wanted) {
        let what = format!("it ends at {}, {} was asked for", size(last.size), size(wanted));
        found.fail(check, what, "give it more time, or look for the rank that stopped");
    } else if let Some((count, _)) = sizes.filter(|(count, _)| report.row_count < *count) {
        found.fail(check, format!("{} of {count} rows are there", report.row_count), WHOLE);
    }
    if report.damaged_rows > 0 {
        found.fail(check, format!("{} rows are cut or garbled", report.damaged_rows), WHOLE);
    }
    summary(found, report);
}

/// A log whose beginning is missing, or that is of something else.
fn excerpt(found: &mut Findings, report: &Report) {
    let check = Check::Incomplete;
    if let Some(what) = training(report) {
        let to_do = "to measure it, run nccl-tests on these hosts: efa-gen validate --hostfile FILE, or --cluster NAME";
        found.miss(check, what, to_do);
        return;
    }
    let what = if report.row_count == 0 {
        "the log holds no result of nccl-tests"
    } else if report.unsigned_preamble {
        "the log has lost its leading `#`, and maybe more"
    } else {
        "the log is an excerpt: its start (from `# nThread`) is missing"
    };
    found.miss(check, what, WHOLE);
}

/// What the log of a program that uses NCCL, and is no test of it, tells.
fn training(report: &Report) -> Option<String> {
    let processes = report.ranks.len();
    let has_efa = |rank: &&Rank| rank.providers.iter().any(|provider| provider == PROVIDER);
    let efa = report.ranks.iter().filter(has_efa).count();
    let is_test = report.preamble.is_some() || report.row_count > 0 || report.rank_count() > 0 || report.json;
    (!is_test && efa > 0).then(|| {
        let hosts = several(report.hosts.len() as u64, "host", "hosts");
        format!("EFA on {efa} of {processes} processes of {hosts}; no bandwidth was measured: the log holds no result of nccl-tests")
    })
}

/// What nccl-tests prints at the end.
fn summary(found: &mut Findings, report: &Report) {
    let check = Check::Incomplete;
    if report.out_of_bounds.is_none() || report.average_busbw.is_none() && !report.concluded {
        found.fail(check, "no summary: the run did not end, or the log was cut", WHOLE);
    } else if report.average_busbw.is_none() {
        found.miss(check, "the run ended, and its line `Avg bus bandwidth` is not in the log", WHOLE);
    } else if report.end == End::Truncated && !found.findings.iter().any(|finding| finding.check == check) {
        found.fail(check, "the line that concludes the test is missing", WHOLE);
    }
    if let (Some(printed), Some(rows)) = (report.average_busbw, report.average_of_rows)
        && (printed - rows).abs() > AVERAGE_TOLERANCE.max(printed.abs() * 1e-5)
    {
        let what = format!(
            "the summary's average, {printed}, is not that of the rows, {rows:.4}: rows are missing or changed"
        );
        found.miss(check, what, WHOLE);
    }
}

pub(crate) fn values(found: &mut Findings, report: &Report) {
    let check = Check::WrongResult;
    let to_do = "do not use these hosts together until it is gone: test one pair of hosts after the other, and check the \
                 GPUs (nvidia-smi -q -d ECC)";
    if report.row_count == 0 {
        found.skip(check);
    }
    if report.wrong_values > 0 {
        let rows =
            report.rows.iter().filter(|row| row.wrong() > 0).take(3).map(|row| size(row.size)).collect::<Vec<_>>();
        found.fail(check, format!("{} wrong values, first at {}", report.wrong_values, rows.join(", ")), to_do);
    }
    if let Some((count, ok)) = report.out_of_bounds
        && (count > 0 || !ok)
    {
        if count > 0 {
            found.fail(check, format!("the summary counts {count} values out of bounds"), to_do);
        } else {
            found.fail(check, "the summary counts no value out of bounds, and does not say OK", WHOLE);
        }
    }
    // alltoall and others never check in place; a row that differs from the rest is another matter.
    let all_in_place = report.unchecked_in_place == report.row_count && report.never_checks_in_place();
    let unchecked = report.unchecked_rows.max(if all_in_place { 0 } else { report.unchecked_in_place });
    if unchecked > 0 {
        let what = format!("nobody checked the values of {unchecked} of {} rows", report.row_count);
        found.miss(check, what, "rerun with -c 1");
    }
}

pub(crate) fn hosts(found: &mut Findings, report: &Report, expect: &Expect) {
    let check = Check::NotANetworkTest;
    outer_hosts(found, report);
    let count = report.hosts.len() as u64;
    if report.json || count == 0 {
        let to_do = if report.json { "judge the text output" } else { WHOLE };
        found.miss(check, "the log does not show which hosts took part", to_do);
        return;
    }
    if training(report).is_some() {
        found.notes.push("hosts and processes are those that NCCL's own lines name, which may not be all".into());
        return;
    }
    if report.rank_count() == 0 {
        let names = few(report.hosts.iter().map(String::as_str));
        let what = format!(
            "no Rank line is in the log: NCCL's own lines name {} of {} ({names}), which may not be all",
            several(report.ranks.len() as u64, "process", "processes"),
            several(count, "host", "hosts")
        );
        found.miss(check, what, WHOLE);
        return;
    }
    let incomplete = report.ranks_unsound || report.too_many_ranks;
    if incomplete {
        let what = if report.too_many_ranks {
            "more ranks than can be told apart".to_owned()
        } else {
            format!("the {} Rank lines leave ranks out or contradict each other", report.rank_count())
        };
        found.miss(check, what, WHOLE);
    }
    let names = few(report.hosts.iter().map(String::as_str));
    if incomplete {
        // The other hosts may be in the lines that are missing.
    } else if count == 1 && expect.hosts > 1 {
        let what = format!("only one host took part ({names}): the network between hosts was not tested");
        found.fail(check, what, "start the ranks on two hosts or more (a hostfile with slots)");
    } else if count < expect.hosts {
        let what = format!("{count} hosts took part ({names}), {} were asked for", expect.hosts);
        found.fail(check, what, "check the hostfile and its slots");
    } else if count > expect.hosts && expect.hosts > 1 {
        found.notes.push(format!("{count} hosts took part, at least {} were asked for", expect.hosts));
    }
}

/// What else the log calls its hosts.
fn outer_hosts(found: &mut Findings, report: &Report) {
    let mut names: Vec<String> = Vec::new();
    for rank in &report.ranks {
        let name = rank.outer_host.as_ref().map(|outer| format!("{} is {outer}", rank.host));
        names.extend(name.filter(|name| !names.contains(name)));
    }
    if !names.is_empty() {
        let names = few(names.iter().map(String::as_str));
        found.notes.push(format!("what stands before the lines names hosts in another way: {names}"));
    }
}

fn several(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

pub(crate) fn versions(found: &mut Findings, report: &Report) {
    for (name, seen) in [("NCCL", &report.versions.nccl), ("the plugin", &report.versions.plugin)] {
        if seen.len() > 1 {
            let what = format!("ranks run different versions of {name}: {}", few(seen.iter().map(String::as_str)));
            found.warn(Check::RunFailed, what, "install the same image on every host");
        }
    }
    if report.row_count > ROWS as u64 {
        found.notes.push(format!("{} rows; {ROWS} are kept", report.row_count));
    }
}
