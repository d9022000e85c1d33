//! Owns what a log says, in one value: who took part, over which network, what was measured, how it ended.

use std::collections::BTreeMap;

use serde::Serialize;

use super::evidence::{Evidence, Names, Process};
use super::failure::{self, Kind, PluginFault};
use super::row::{Preamble, Row};
use crate::nccl::counters::HostTraffic;
use crate::nccl::processes::{HostProcesses, LastWords};
use crate::nccl::ras::Ras;

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Every size was measured and the summary is there.
    Complete,
    /// The program, or a launcher, failed.
    Failed,
    /// The log ends before the run did.
    Truncated,
    /// It did not end in time.
    TimedOut,
    /// The log's beginning is missing: nothing says what was to be measured.
    Excerpt,
}

/// A name or text of the log, and how often it stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// As the log has it, control characters replaced.
    pub name: String,
    /// How often.
    pub count: u64,
}

/// Channels over one transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Channels {
    /// `NET/AWS Libfabric`, `NET/Socket`, `P2P/IPC/read`, `SHM`.
    pub transport: String,
    /// GPUDirect: GPU and NIC exchange data without the CPU. Always false beside networks.
    pub gdr: bool,
    /// Lines: one for each end of a channel over the network, one for each other channel.
    pub count: u64,
}

/// Versions that the log names; several where the ranks differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// NCCL.
    pub nccl: Vec<String>,
    /// CUDA that NCCL was built for.
    pub cuda: Vec<String>,
    /// Newest CUDA that the driver knows.
    pub driver_cuda: Vec<String>,
    /// aws-ofi-nccl.
    pub plugin: Vec<String>,
    /// libfabric.
    pub libfabric: Vec<String>,
    /// nccl-tests.
    pub nccl_tests: Vec<String>,
}

/// A rank, or a process that no Rank line names, and what it said of its network. Ranks of one process share it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rank {
    /// Its number; absent where no Rank line names the process.
    pub rank: Option<u64>,
    /// Host; for a process without a Rank line, the host in NCCL's own lines.
    pub host: String,
    /// Process.
    pub pid: String,
    /// GPU's number on the host.
    pub device: Option<u64>,
    /// GPU's name.
    pub gpu: String,
    /// libfabric providers that the plugin selected.
    pub providers: Vec<String>,
    /// NICs that the plugin found, where it says so.
    pub nics: Option<u64>,
    /// NCCL's networks.
    pub networks: Vec<String>,
    /// Ends of channels over a network, and those of them with GPUDirect.
    pub net_channels: u64,
    /// Those with GPUDirect.
    pub gdr_channels: u64,
    /// NCCL did not find the plugin.
    pub plugin_missing: bool,
    /// What the plugin said when it found no provider.
    #[serde(rename = "trouble")]
    pub provider_error: Option<String>,
    /// The plugin says that it gave GPUDirect up.
    pub gdr_disabled: bool,
    /// A warning of the plugin by which this process did not get its network or lost it, and of which kind it is.
    pub plugin_fault: Option<PluginWarning>,
    /// NCCL's last warning.
    pub last_warning: String,
    /// What the log names before its lines, where that is not its host: another name of the host, a pod, a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer_host: Option<String>,
}

impl Rank {
    /// Whether the plugin's own fault is known, and its word on the provider is only that it failed.
    pub(crate) fn says_only_that_it_failed(&self) -> bool {
        let general = |text: &String| failure::GENERAL.contains(&text.as_str());
        self.plugin_fault.is_some() && self.provider_error.as_ref().is_some_and(general)
    }

    /// `rank 3 (host a)`, or the process.
    pub fn name(&self) -> String {
        match self.rank {
            Some(rank) => format!("rank {rank}"),
            None => format!("process {} of {}", self.pid, self.host),
        }
    }
}

/// A warning of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginWarning {
    /// What it is a fault of.
    pub kind: PluginFault,
    /// As the log has it, cut at 400 bytes.
    pub text: String,
    /// The line of the log.
    pub line: u64,
}

/// A text of the log that means that the run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The first such line.
    pub line: String,
    /// How many there are.
    pub count: u64,
    /// What to do about it.
    pub to_do: &'static str,
}

/// A size and its bus bandwidths.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SizeBandwidth {
    /// Bytes.
    pub size: u64,
    /// Out of place, GB/s.
    pub out_of_place: f64,
    /// In place, GB/s.
    pub in_place: Option<f64>,
}

/// What a log says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How the run ended.
    pub end: End,
    /// The exit status that the caller knows of.
    pub exit_status: Option<i32>,
    /// What NCCL's RAS said shortly before the run was ended, where it was asked and answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ras: Option<Ras>,
    /// What the hosts said shortly before the run was ended, where RAS could not be asked or missed nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<HostProcesses>,
    /// What each process of a run that was ended printed last, the longest silent first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_words: Vec<LastWords>,
    /// What passed through the EFA devices of each host that told it, where they were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Vec<HostTraffic>>,
    /// Whether it was nccl-tests' JSON, which holds no word about the network.
    pub json: bool,
    /// `all_reduce_perf`, where the log says so (nccl-tests 2.16.7 and newer).
    pub collective: Option<String>,
    /// Whether the line that ends the test is there (nccl-tests 2.16.7 and newer), and no line of the summary is garbled.
    pub concluded: bool,
    /// Whether the line that begins a run is there without its `#`.
    pub unsigned_preamble: bool,
    /// Bytes to which nccl-tests reduced the largest size by itself, because the GPU has no more memory.
    pub reduced_to: Option<u64>,
    /// What was to be measured.
    pub preamble: Option<Preamble>,
    /// Runs that the log holds the beginning of.
    pub runs: u64,
    /// The test, where the log does not name it: what its rows come from.
    pub inferred_collective: Option<&'static str>,
    /// Distinct hosts of the Rank lines, in the order of ranks; without such lines, the hosts that NCCL's lines name.
    pub hosts: Vec<String>,
    /// Ranks in order, then processes that no Rank line names.
    pub ranks: Vec<Rank>,
    /// Whether Rank lines contradict each other or leave ranks out: by their numbers, by NCCL's word of how many ranks there are,
    /// or because NCCL's lines name more processes.
    pub ranks_unsound: bool,
    /// Whether there are more ranks or processes than are told apart.
    pub too_many_ranks: bool,
    /// GPU models and how many.
    pub gpus: Vec<Counted>,
    /// Versions.
    pub versions: Versions,
    /// File that NCCL loaded as its network plugin.
    pub plugin_path: Vec<String>,
    /// libfabric providers that were selected; `efa` is the one that counts.
    pub providers: Vec<Counted>,
    /// NCCL's networks (`Using network ...`).
    pub networks: Vec<Counted>,
    /// Transports of channels.
    pub channels: Vec<Channels>,
    /// What the plugin or libfabric said of missing providers without saying on which rank.
    #[serde(rename = "trouble")]
    pub provider_error: Option<String>,
    /// Rows in the order of the log; at most 4096, of more the last one is the log's last.
    pub rows: Vec<Row>,
    /// All rows.
    pub row_count: u64,
    /// Rows that are cut or garbled.
    pub damaged_rows: u64,
    /// Largest bus bandwidth of any row.
    pub best: Option<SizeBandwidth>,
    /// The last row.
    pub last: Option<SizeBandwidth>,
    /// Sum of the `#wrong` columns.
    pub wrong_values: u64,
    /// Rows whose values nobody checked, out of place.
    pub unchecked_rows: u64,
    /// The same, in place: some tests never look there.
    pub unchecked_in_place: u64,
    /// `Out of bounds values`: how many, and whether the log says OK.
    pub out_of_bounds: Option<(u64, bool)>,
    /// `Avg bus bandwidth`, GB/s: reported, never judged, for it mixes all sizes.
    pub average_busbw: Option<f64>,
    /// The same, from the rows that are there.
    pub average_of_rows: Option<f64>,
    /// NCCL's warnings, at most 64 distinct ones.
    pub warnings: Vec<Counted>,
    /// All warnings.
    pub warning_count: u64,
    /// What says that the run failed, most fundamental first.
    pub failures: Vec<Failure>,
    /// NCCL's variables.
    pub environment: BTreeMap<String, String>,
    /// Lines by NCCL; without any there is no evidence of the network.
    pub nccl_lines: u64,
    /// Lines in which processes wrote over each other.
    pub garbled_lines: u64,
    /// Lines that look like NCCL's or nccl-tests' and were not read.
    pub unread_lines: u64,
    /// Those of them that are messages of level INFO.
    pub unread_info_lines: u64,
    /// The first of them.
    pub first_unread: String,
    /// Lines of the log.
    pub lines: u64,
}

impl Report {
    /// Whether it is a run of all_reduce_perf, by its name or by its rows.
    pub(crate) fn is_all_reduce(&self) -> bool {
        let name = self.collective.as_deref().or(self.inferred_collective);
        name.is_some_and(|name| name.starts_with("all_reduce"))
    }

    /// Whether the test compares values of separate buffers alone.
    pub(crate) fn never_checks_in_place(&self) -> bool {
        let name = self.collective.as_deref().or(self.inferred_collective);
        name.is_some_and(|name| !name.starts_with("all_reduce"))
    }

    /// The sizes that were to be measured: how many, and the last one.
    pub(crate) fn sizes(&self) -> Option<(u64, u64)> {
        sizes(self.preamble.as_ref()?, self.reduced_to)
    }

    pub(crate) fn new(evidence: Evidence, exit_status: Option<i32>) -> Report {
        let ranks = ranks(&evidence);
        let (hosts, gpus) = hosts_and_gpus(&evidence);
        let versions = versions(&evidence);
        let named = |row: &Row| SizeBandwidth {
            size: row.size,
            out_of_place: row.out_of_place.busbw,
            in_place: row.in_place.as_ref().map(|timing| timing.busbw),
        };
        let best = |row: &&Row| row.in_place.as_ref().map_or(0.0, |timing| timing.busbw).max(row.out_of_place.busbw);
        let inferred_collective = if evidence.collective.is_none() { inferred(&evidence) } else { None };
        Report {
            end: end(&evidence, exit_status),
            exit_status,
            ras: None,
            processes: Vec::new(),
            last_words: Vec::new(),
            traffic: None,
            json: evidence.json,
            runs: evidence.preambles,
            hosts,
            ranks_unsound: are_unsound(&evidence),
            too_many_ranks: evidence.too_many,
            gpus,
            versions,
            plugin_path: evidence.plugin_path.texts(),
            providers: counted(&evidence.providers),
            networks: counted(&evidence.networks),
            channels: channels(&evidence),
            provider_error: evidence.provider_error.map(|at| failure::PROVIDER[at].to_owned()),
            row_count: evidence.row_count,
            damaged_rows: evidence.damaged_rows,
            best: evidence.rows.iter().max_by(|a, b| best(a).total_cmp(&best(b))).map(named),
            last: evidence.rows.last().map(named),
            wrong_values: evidence.wrong,
            unchecked_rows: evidence.unchecked,
            unchecked_in_place: evidence.unchecked_in_place,
            out_of_bounds: evidence.out_of_bounds,
            average_busbw: evidence.average,
            average_of_rows: (evidence.busbw.1 > 0).then(|| evidence.busbw.0 / evidence.busbw.1 as f64),
            warnings: counted(&evidence.warnings),
            warning_count: evidence.warning_count,
            failures: failures(&evidence),
            nccl_lines: evidence.nccl_lines,
            garbled_lines: evidence.garbled,
            unread_lines: evidence.unread,
            unread_info_lines: evidence.unread_info,
            first_unread: evidence.first_unread,
            lines: evidence.lines,
            ranks,
            inferred_collective,
            collective: evidence.collective,
            concluded: evidence.concluded && !evidence.average_garbled,
            unsigned_preamble: evidence.unsigned_preamble,
            reduced_to: evidence.reduced,
            preamble: evidence.preamble,
            rows: evidence.rows,
            environment: evidence.environment,
        }
    }

    /// Ranks of the Rank lines.
    pub fn rank_count(&self) -> usize {
        self.ranks.iter().filter(|rank| rank.rank.is_some()).count()
    }

    /// GPUs that each host brought, where all brought as many.
    pub fn gpus_per_host(&self) -> Option<u64> {
        let mut of: BTreeMap<&str, u64> = BTreeMap::new();
        for rank in self.ranks.iter().filter(|rank| rank.rank.is_some()) {
            *of.entry(&rank.host).or_default() += 1;
        }
        let mut counts = of.into_values();
        let first = counts.next()?;
        counts.all(|count| count == first).then_some(first)
    }
}

fn failures(evidence: &Evidence) -> Vec<Failure> {
    // Who has NCCL's lines need not ask for them.
    let again = if evidence.nccl_lines > 0 { "see NCCL's warning before this line" } else { failure::AGAIN };
    let failures = evidence.failures.iter().map(|(at, (line, count))| {
        let to_do = failure::to_do(*at, line.as_bytes());
        Failure { line: line.clone(), count: *count, to_do: if to_do == failure::AGAIN { again } else { to_do } }
    });
    failures.collect()
}

/// Whether the Rank lines may leave somebody out.
fn are_unsound(evidence: &Evidence) -> bool {
    let of_ranks: std::collections::HashSet<_> = evidence.ranks.values().map(|rank| (&rank.host, &rank.pid)).collect();
    let highest = evidence.ranks.last_key_value().map_or(0, |(rank, _)| rank.saturating_add(1));
    evidence.rank_conflict
        || highest != evidence.ranks.len() as u64
        || highest > 0 && (evidence.nranks > highest || evidence.processes.len() > of_ranks.len())
}

fn counted(names: &Names) -> Vec<Counted> {
    let mut counted: Vec<Counted> =
        names.seen.iter().map(|(name, count)| Counted { name: crate::text::clean(name), count: *count }).collect();
    if names.others > 0 {
        counted.push(Counted { name: "(others)".into(), count: names.others });
    }
    counted
}

fn channels(evidence: &Evidence) -> Vec<Channels> {
    let channels = evidence.transports.iter().map(|transport| Channels {
        transport: crate::text::clean(&transport.name),
        gdr: transport.gdr,
        count: transport.count,
    });
    channels.collect()
}

fn end(evidence: &Evidence, exit_status: Option<i32>) -> End {
    if exit_status == Some(124) || evidence.failures.keys().any(|at| failure::RUN[*at].kind == Kind::TimedOut) {
        return End::TimedOut;
    }
    if exit_status.is_some_and(|status| status != 0) || !evidence.failures.is_empty() {
        return End::Failed;
    }
    if evidence.preambles == 0 {
        return End::Excerpt;
    }
    let last = evidence.rows.last();
    let sizes = evidence.preamble.as_ref().and_then(|preamble| sizes(preamble, evidence.reduced));
    // Some collectives round a size down to whole 16-byte parts for each rank.
    let slack = 16 * (evidence.ranks.len() as u64).max(1);
    let reached = match (last, sizes) {
        (Some(row), Some((count, size))) => row.size.saturating_add(slack) > size && evidence.row_count >= count,
        (last, _) => last.is_some(),
    };
    let summary = evidence.out_of_bounds.is_some()
        && (evidence.average.is_some() || evidence.concluded && !evidence.average_garbled);
    let concluded = evidence.concluded || !evidence.started;
    if reached && summary && concluded && evidence.damaged_rows == 0 { End::Complete } else { End::Truncated }
}

/// The sizes that are measured where the GPU's memory sets the largest.
fn sizes(preamble: &Preamble, reduced: Option<u64>) -> Option<(u64, u64)> {
    let max_bytes = reduced.map_or(preamble.max_bytes, |reduced| reduced.min(preamble.max_bytes));
    Preamble { max_bytes, ..preamble.clone() }.sizes()
}

/// Which test wrote these rows: by its operation, its root, how many elements of a size a rank has, and whether it ever compares
/// values in place (NVIDIA/nccl-tests, `src/*.cu`). `None` where several could have.
fn inferred(evidence: &Evidence) -> Option<&'static str> {
    let row = evidence.rows.iter().rev().find(|row| row.count > 0)?;
    let parts = row.size.checked_div(row.count.checked_mul(row.element()?)?)?;
    let operation = !["", "none"].contains(&row.redop.as_str());
    let in_place = |row: &Row| row.in_place.as_ref().is_some_and(|timing| timing.wrong.is_some());
    let separate_alone =
        evidence.rows.iter().any(|row| row.out_of_place.wrong.is_some()) && !evidence.rows.iter().any(in_place);
    match (parts, operation) {
        (1, _) if separate_alone => Some("sendrecv"),
        (1, true) if row.root.is_some_and(|root| root >= 0) => Some("reduce"),
        (1, true) => Some("all_reduce"),
        (1, false) if row.root.is_some_and(|root| root >= 0) => Some("broadcast"),
        (2.., true) => Some("reduce_scatter"),
        (2.., false) if separate_alone => Some("alltoall"),
        (2.., false) => Some("all_gather or alltoall"),
        _ => None,
    }
}

fn ranks(evidence: &Evidence) -> Vec<Rank> {
    let mut named = std::collections::HashSet::new();
    let mut ranks: Vec<Rank> = Vec::new();
    for (number, facts) in &evidence.ranks {
        let key = format!("{}:{}", facts.host, facts.pid);
        let known =
            evidence.known_process(key.as_bytes()).map(|process| rank_of(evidence, process)).unwrap_or_default();
        named.insert(key);
        ranks.push(Rank {
            rank: Some(*number),
            host: facts.host.clone(),
            pid: facts.pid.clone(),
            device: Some(facts.device),
            gpu: facts.gpu.clone(),
            ..known
        });
    }
    let strangers = evidence.processes.iter().filter(|process| !named.contains(&process.name));
    ranks.extend(strangers.map(|process| rank_of(evidence, process)));
    ranks
}

fn rank_of(evidence: &Evidence, process: &Process) -> Rank {
    let (host, pid) = process.name.split_once(':').unwrap_or((&process.name, ""));
    Rank {
        host: host.to_owned(),
        pid: pid.to_owned(),
        providers: evidence.providers.of(process.providers),
        nics: process.nics,
        networks: evidence.networks.of(process.networks),
        net_channels: process.net_channels,
        gdr_channels: process.gdr_channels,
        plugin_missing: process.plugin_missing,
        provider_error: process.provider_error.map(|at| failure::PROVIDER[at].to_owned()),
        gdr_disabled: process.gdr_disabled,
        plugin_fault: process.plugin_fault.clone().map(|(kind, text, line)| PluginWarning { kind, text, line }),
        last_warning: process.last_warning.clone(),
        outer_host: process.outer_host.clone().filter(|outer| !outer.is_empty() && !same_host(outer, host)),
        ..Rank::default()
    }
}

/// Whether two names are of one host, with its domain or without.
fn same_host(one: &str, other: &str) -> bool {
    let begins =
        |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    begins(one, other) || begins(other, one)
}

fn versions(evidence: &Evidence) -> Versions {
    Versions {
        nccl: evidence.nccl.texts(),
        cuda: evidence.cuda.texts(),
        driver_cuda: evidence.driver_cuda.texts(),
        plugin: evidence.plugin.texts(),
        libfabric: evidence.libfabric.texts(),
        nccl_tests: evidence.nccl_tests.texts(),
    }
}

/// The hosts in the order in which their ranks are named, and how many GPUs there are of each kind.
fn hosts_and_gpus(evidence: &Evidence) -> (Vec<String>, Vec<Counted>) {
    let mut hosts: Vec<String> = Vec::new();
    let mut gpus: BTreeMap<&str, u64> = BTreeMap::new();
    let mut known = std::collections::HashSet::new();
    for facts in evidence.ranks.values() {
        if known.insert(&facts.host) {
            hosts.push(facts.host.clone());
        }
        *gpus.entry(&facts.gpu).or_default() += 1;
    }
    if evidence.ranks.is_empty() {
        let named = evidence.processes.iter().filter_map(|process| process.name.split_once(':'));
        let mut known = std::collections::HashSet::new();
        hosts.extend(named.map(|(host, _)| host).filter(|host| known.insert(*host)).map(str::to_owned));
    }
    (hosts, gpus.into_iter().map(|(name, count)| Counted { name: name.to_owned(), count }).collect())
}
