//! Owns the check of a run that did not end in time: which host or process holds it up, by what the hosts and NCCL's RAS said of
//! it while it hung, and who has been silent the longest.

use super::naming::few;
use crate::nccl::judge::verdict::{Check, Findings};
use crate::nccl::log::report::Report;
use crate::nccl::processes::{HostProcess, HostProcesses};
use crate::nccl::ras::MissingRank;

/// Last words that are quoted.
const QUOTED: usize = 3;

/// Whom NCCL itself misses.
pub(crate) fn unresponsive(found: &mut Findings, report: &Report) {
    let Some(ras) = &report.ras else { return };
    if ras.missing_count == 0 {
        let note = "NCCL's RAS missed no rank shortly before the end, which proves nothing: it has called hanging runs healthy \
                    (NVIDIA/nccl#1730)";
        found.notes.push(note.into());
        return;
    }
    let name = |rank: &MissingRank| {
        let state = if rank.state.is_empty() { String::new() } else { format!(", {}", rank.state) };
        format!("rank {} (process {} of {}{state})", rank.rank, rank.pid, rank.host)
    };
    let names: Vec<String> = ras.missing.iter().map(name).collect();
    let what = match ras.missing_count.saturating_sub(names.len() as u64) {
        0 => few(names.iter().map(String::as_str)),
        _ => format!("{} ranks, among them {}", ras.missing_count, few(names.iter().map(String::as_str))),
    };
    let to_do = "look at that process and its host: it is stopped, dead or unreachable";
    found.fail(Check::RunFailed, format!("NCCL's RAS had no answer of {what}"), to_do);
}

/// What the hosts said of their processes.
pub(crate) fn processes(found: &mut Findings, report: &Report) {
    let hosts = &report.processes;
    if let (Some(why), true) =
        (hosts.first().and_then(|host| host.no_answer.as_ref()), hosts.iter().all(|host| host.no_answer.is_some()))
    {
        // Nothing is known of any of them; mpirun itself may be what does not work.
        found.notes.push(format!("during the hang no host could be asked for its processes ({why})"));
    } else {
        of_hosts(found, hosts);
    }
    for words in report.last_words.iter().take(QUOTED) {
        found
            .notes
            .push(format!("silent since line {}: process {}, last with `{}`", words.line, words.process, words.text));
    }
    if report.last_words.len() > QUOTED {
        let more = report.last_words.len() - QUOTED;
        found.notes.push(format!("{more} more processes printed later"));
    }
}

fn of_hosts(found: &mut Findings, hosts: &[HostProcesses]) {
    tell(
        found,
        hosts,
        "during the hang no answer came from",
        silent,
        "see whether that host is up, and whether ssh reaches it",
    );
    tell(
        found,
        hosts,
        "during the hang processes were missing:",
        missing,
        "a rank that exits blocks all others: find out why it exited",
    );
    let to_do = "see who stopped it: a debugger, a signal, or a job scheduler that suspends";
    tell(found, hosts, "during the hang processes were stopped:", stopped, to_do);
    if let (Some(first), true) = (hosts.iter().find_map(waiting), hosts.iter().all(|host| host.no_answer.is_none())) {
        found.notes.push(format!("during the hang {first}"));
    }
}

fn tell(
    found: &mut Findings,
    hosts: &[HostProcesses],
    what: &str,
    of: fn(&HostProcesses) -> Option<String>,
    to_do: &str,
) {
    let told: Vec<String> = hosts.iter().filter_map(of).collect();
    if !told.is_empty() {
        found.fail(Check::RunFailed, format!("{what} {}", few(told.iter().map(String::as_str))), to_do);
    }
}

fn silent(host: &HostProcesses) -> Option<String> {
    host.no_answer.as_ref().map(|why| format!("{} ({why})", host.address))
}

fn missing(host: &HostProcesses) -> Option<String> {
    let there = host.processes.iter().filter(|process| process.state != "Z").count();
    let is_short = host.no_answer.is_none() && (there as u64) < u64::from(host.wanted);
    is_short.then(|| format!("{there} of {} were there on {}", host.wanted, name(host)))
}

fn stopped(host: &HostProcesses) -> Option<String> {
    let stopped = host.processes.iter().filter(|process| ["T", "t"].contains(&process.state.as_str()));
    let pids: Vec<&str> = stopped.map(|process| process.pid.as_str()).collect();
    (!pids.is_empty()).then(|| format!("process {} of {}", few(pids.into_iter()), name(host)))
}

/// One that waits in the kernel.
fn waiting(host: &HostProcesses) -> Option<String> {
    let process = host.processes.iter().find(|process| process.state == "D")?;
    let HostProcess { pid, waits_in, .. } = process;
    let place = waits_in.as_ref().map_or(String::new(), |at| format!(" ({at})"));
    Some(format!("process {pid} of {} waited in the kernel{place}", name(host)))
}

fn name(host: &HostProcesses) -> &str {
    host.host.as_deref().unwrap_or(&host.address)
}
