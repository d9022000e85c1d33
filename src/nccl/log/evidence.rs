//! Owns what is kept while a log is read: counters, bounded sets, one small record a process.

use std::collections::{BTreeMap, HashMap};

use super::failure::PluginFault;
use super::row::{ColumnLayout, Preamble, RankLine, Row};
use crate::text::clean;

/// Ranks, and processes, that are told apart; a run with more is not judged.
pub(crate) const RANKS: usize = 16_384;

/// Rows that are kept; all are counted.
pub(crate) const ROWS: usize = 4096;

/// Distinct names of one kind (providers, networks, versions, transports): one bit each in a process's record.
/// The last bit stands for names beyond the limit.
pub(crate) const NAMES: usize = 31;

/// Distinct warnings, failures and environment variables that are kept; all are counted.
pub(crate) const TEXTS: usize = 64;

/// Stands after a variable's first value.
const DIFFER: &str = " (ranks differ)";

/// Distinct names and how often each was seen.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub seen: Vec<(Box<[u8]>, u64)>,
    /// Names beyond the limit.
    pub others: u64,
}

impl Names {
    /// Counts the name; its bit.
    pub fn add(&mut self, name: &[u8]) -> u32 {
        1 << self.add_within(name, NAMES).unwrap_or(NAMES)
    }

    pub fn add_within(&mut self, name: &[u8], limit: usize) -> Option<usize> {
        let name = &name[..name.len().min(512)];
        if let Some(at) = self.seen.iter().position(|(known, _)| **known == *name) {
            self.seen[at].1 += 1;
            return Some(at);
        }
        if self.seen.len() == limit {
            self.others += 1;
            return None;
        }
        self.seen.push((name.into(), 1));
        Some(self.seen.len() - 1)
    }

    /// The names for people, in the order in which they came.
    pub fn texts(&self) -> Vec<String> {
        self.seen.iter().map(|(name, _)| clean(name)).collect()
    }

    /// The names whose bit is set.
    pub fn of(&self, bits: u32) -> Vec<String> {
        let set = |(at, _): &(usize, &(Box<[u8]>, u64))| bits & (1 << at) != 0;
        self.seen.iter().enumerate().filter(set).map(|(_, (name, _))| clean(name)).collect()
    }
}

/// Channels over one transport.
#[derive(Debug)]
pub(crate) struct Transport {
    /// `NET/AWS Libfabric`, `P2P/IPC/read`.
    pub name: Box<[u8]>,
    pub gdr: bool,
    pub count: u64,
}

/// What one process said.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// `HOST:PID`.
    pub name: String,
    /// Bits of [`Evidence::providers`].
    pub providers: u32,
    /// NICs that the plugin found.
    pub nics: Option<u64>,
    /// Bits of [`Evidence::networks`].
    pub networks: u32,
    /// Channels over the network, and those of them with GPUDirect.
    pub net_channels: u64,
    pub gdr_channels: u64,
    /// NCCL looked for the plugin and did not find it.
    pub plugin_missing: bool,
    /// Place in [`crate::nccl::log::failure::PROVIDER`].
    pub provider_error: Option<usize>,
    /// The plugin gave GPUDirect up.
    pub gdr_disabled: bool,
    /// The most fundamental of the plugin's warnings that are faults, its text, and the line's number.
    pub plugin_fault: Option<(PluginFault, String, u64)>,
    /// NCCL's last warning.
    pub last_warning: String,
    /// What the text before its first line names; empty where that names no host, `None` before there was one.
    pub outer_host: Option<String>,
}

impl Process {
    /// Keeps a fault of the plugin, unless a more fundamental one is known.
    pub fn add_plugin_fault(&mut self, fault: PluginFault, text: &[u8], line: u64) {
        if self.plugin_fault.as_ref().is_none_or(|(known, ..)| fault < *known) {
            self.plugin_fault = Some((fault, quoted(text), line));
        }
    }
}

/// Longest text of a process that is kept, bytes.
const QUOTE: usize = 400;

/// A message as a finding quotes it.
fn quoted(text: &[u8]) -> String {
    clean(&text[..text.len().min(QUOTE)]).trim().to_owned()
}

/// Words before a line that name no host: streams, months and days, levels, what containers are called by default.
const NO_HOST: [&str; 40] = [
    "stdout",
    "stderr",
    "out",
    "err",
    "info",
    "warn",
    "error",
    "debug",
    "notice",
    "mpi",
    "mpirun",
    "rank",
    "task",
    "kernel",
    "log",
    "message",
    "msg",
    "time",
    "timestamp",
    "stream",
    "pid",
    "utc",
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
    "mon",
    "tue",
    "wed",
    "thu",
    "fri",
    "sat",
];

/// The host, pod or service that the text before a line names: the first word that begins with a letter, holds a digit or a hyphen,
/// and is no stamp. Empty where there is none.
fn outer_host(before: &[u8]) -> String {
    let of_a_name = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
    let is_host = |word: &&[u8]| {
        word.len() > 2
            && word.len() < 64
            && word[0].is_ascii_alphabetic()
            && word.iter().any(|b| b.is_ascii_digit() || *b == b'-')
            && !NO_HOST.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    before.split(|b| !of_a_name(b)).find(is_host).map(clean).unwrap_or_default()
}

/// A rank, as its Rank line has it.
#[derive(Debug)]
pub(crate) struct RankFacts {
    pub host: String,
    pub pid: String,
    pub device: u64,
    pub gpu: String,
}

/// All that is kept of a log.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub lines: u64,
    pub bytes: u64,
    /// Lines by NCCL.
    pub nccl_lines: u64,
    /// Lines that look like NCCL's or nccl-tests' and were not read, and the first of them.
    pub unread: u64,
    pub first_unread: String,
    /// Those of them that are messages of level INFO.
    pub unread_info: u64,
    /// Lines in which two processes wrote over each other.
    pub garbled: u64,
    pub json: bool,

    pub preamble: Option<Preamble>,
    pub preambles: u64,
    pub layout: Option<ColumnLayout>,
    pub collective: Option<String>,
    pub started: bool,
    pub concluded: bool,
    pub rows: Vec<Row>,
    pub row_count: u64,
    pub damaged_rows: u64,
    /// Of all rows: wrong values, directions that nobody checked, and the bus bandwidths' sum and number.
    pub wrong: u64,
    pub unchecked: u64,
    pub unchecked_in_place: u64,
    pub busbw: (f64, u64),
    /// How many, and whether the log says OK.
    pub out_of_bounds: Option<(u64, bool)>,
    pub average: Option<f64>,
    /// Most ranks that a communicator of NCCL's has.
    pub nranks: u64,
    /// The average's line is there, and is no number.
    pub average_garbled: bool,
    /// The line that begins a run is there without its `#`.
    pub unsigned_preamble: bool,
    /// Bytes to which nccl-tests reduced the largest size, because the GPU's memory is smaller.
    pub reduced: Option<u64>,

    pub ranks: BTreeMap<u64, RankFacts>,
    /// A rank that two lines tell differently of, or one too many.
    pub rank_conflict: bool,
    pub too_many: bool,
    pub processes: Vec<Process>,
    places: HashMap<Box<[u8]>, usize>,

    pub providers: Names,
    pub networks: Names,
    pub transports: Vec<Transport>,
    pub nccl: Names,
    pub cuda: Names,
    pub driver_cuda: Names,
    pub plugin: Names,
    pub libfabric: Names,
    pub nccl_tests: Names,
    pub plugin_path: Names,
    pub environment: BTreeMap<String, String>,
    pub warnings: Names,
    pub warning_count: u64,
    /// Failure texts: place in [`crate::nccl::log::failure::RUN`] -> the first such line, and how many.
    pub failures: BTreeMap<usize, (String, u64)>,
    /// Trouble that no process of NCCL signed: place in [`crate::nccl::log::failure::PROVIDER`].
    pub provider_error: Option<usize>,
}

impl Evidence {
    /// The record of a process, by its `HOST:PID`.
    pub fn process(&mut self, name: &[u8]) -> Option<&mut Process> {
        if let Some(at) = self.places.get(name) {
            return self.processes.get_mut(*at);
        }
        if self.processes.len() == RANKS {
            self.too_many = true;
            return None;
        }
        self.places.insert(name.into(), self.processes.len());
        self.processes.push(Process { name: clean(name), ..Process::default() });
        self.processes.last_mut()
    }

    /// Keeps whose line it was by what others put before it.
    pub fn add_outer_host(&mut self, process: &[u8], before: &[u8]) {
        if !before.is_empty()
            && let Some(process) = self.process(process)
        {
            process.outer_host.get_or_insert_with(|| outer_host(before));
        }
    }

    /// The same, if there is one.
    pub fn known_process(&self, name: &[u8]) -> Option<&Process> {
        self.places.get(name).and_then(|at| self.processes.get(*at))
    }

    pub fn add_rank(&mut self, line: &RankLine) {
        if self.ranks.len() == RANKS {
            self.too_many = true;
            return;
        }
        let facts =
            RankFacts { host: clean(line.host), pid: clean(line.pid), device: line.device, gpu: clean(line.gpu) };
        let same =
            |known: &RankFacts| known.host == facts.host && known.pid == facts.pid && known.device == facts.device;
        if self.ranks.get(&line.rank).is_some_and(|known| !same(known)) {
            self.rank_conflict = true;
        }
        self.ranks.insert(line.rank, facts);
    }

    /// What a summary counts: of several the worst.
    pub fn add_out_of_bounds(&mut self, count: u64, good: bool) {
        let (known, all_good) = self.out_of_bounds.unwrap_or((0, true));
        self.out_of_bounds = Some((known.max(count), all_good && good));
    }

    pub fn add_row(&mut self, row: Row) {
        self.row_count += 1;
        self.wrong = self.wrong.saturating_add(row.wrong());
        self.unchecked += u64::from(row.out_of_place.wrong.is_none());
        self.unchecked_in_place += u64::from(row.in_place.as_ref().is_some_and(|timing| timing.wrong.is_none()));
        for timing in std::iter::once(&row.out_of_place).chain(&row.in_place) {
            self.busbw = (self.busbw.0 + timing.busbw, self.busbw.1 + 1);
        }
        if self.rows.len() == ROWS {
            self.rows.pop();
        }
        self.rows.push(row);
    }

    pub fn add_channel(&mut self, name: &[u8], gdr: bool) {
        let name = &name[..name.len().min(128)];
        if let Some(known) = self.transports.iter_mut().find(|known| known.gdr == gdr && *known.name == *name) {
            known.count += 1;
        } else if self.transports.len() < NAMES {
            self.transports.push(Transport { name: name.into(), gdr, count: 1 });
        } else {
            self.garbled += 1;
        }
    }

    pub fn add_failure(&mut self, at: usize, line: &[u8]) {
        self.failures.entry(at).or_insert_with(|| (clean(line), 0)).1 += 1;
    }

    pub fn add_warning(&mut self, process: Option<&[u8]>, text: &[u8]) {
        self.warning_count += 1;
        self.warnings.add_within(text.trim_ascii(), TEXTS);
        if let Some(process) = process.and_then(|name| self.process(name)) {
            process.last_warning = quoted(text);
        }
    }

    /// A line that looks like NCCL's or nccl-tests' and could not be read.
    pub fn add_unread(&mut self, line: &[u8]) {
        self.unread += 1;
        if self.first_unread.is_empty() {
            self.first_unread = quoted(line);
        }
    }

    /// A variable and its value: the first, and whether ranks differ.
    pub fn add_variable(&mut self, name: &[u8], value: &[u8]) {
        let (name, value) = (clean(name), clean(value));
        if let Some(known) = self.environment.get_mut(&name) {
            if *known != value && !known.ends_with(DIFFER) {
                *known += DIFFER;
            }
        } else if self.environment.len() < TEXTS {
            self.environment.insert(name, value);
        }
    }
}
