//! Owns NCCL's RAS, by which a run that hangs can be asked who is missing: the question for its first host, and the answer.
//!
//! NVIDIA/nccl `src/ras/`, 2.24 to 2.30: every process of a job listens on this port of its host's loopback, and whichever
//! answers does so for the job. From 2.28.7 on it answers in JSON, before that in text, to the same question.

use serde::{Deserialize, Serialize};

use crate::text::clean;

/// Line for a shell that asks; no answer is an exit status other than 0. RAS waits 5 seconds for peers, and as long again.
pub const QUESTION: &str = "bash -c 'exec 3<>/dev/tcp/localhost/28028 && \
     printf \"CLIENT PROTOCOL 2\\nTIMEOUT 5\\nSET FORMAT json\\nVERBOSE STATUS\\n\" >&3 && exec timeout 20 cat <&3' 2>/dev/null";

/// Ranks that are named; of more only the number counts.
const NAMED: usize = 64;

/// A rank that RAS has no word of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingRank {
    /// Its number.
    pub rank: u64,
    /// Name or address of its host.
    pub host: String,
    /// Its process.
    pub pid: u64,
    /// What RAS says of it: `unresponsive`, `considered dead`, or nothing.
    pub state: &'static str,
}

/// What RAS says of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ras {
    /// Ranks that are missing, at most 64.
    pub missing: Vec<MissingRank>,
    /// All of them.
    pub missing_count: u64,
}

#[derive(Deserialize)]
struct StatusDocument {
    communicators: Vec<Communicator>,
}

#[derive(Deserialize)]
struct Communicator {
    #[serde(default)]
    missing_ranks_count: u64,
    #[serde(default)]
    missing_ranks: Vec<StatusRank>,
}

#[derive(Deserialize)]
struct StatusRank {
    rank: u64,
    host: String,
    pid: u64,
    status: Option<StatusOfRank>,
}

#[derive(Deserialize)]
struct StatusOfRank {
    #[serde(default)]
    unresponsive: bool,
    #[serde(default)]
    considered_dead: bool,
}

/// Reads an answer; `None` where it is none of RAS, or can't be read.
pub fn read(answer: &str) -> Option<Ras> {
    let (head, rest) = answer.split_once("SERVER PROTOCOL ").and_then(|(_, rest)| rest.split_once('\n'))?;
    head.trim().parse::<u32>().ok()?;
    match rest.find('{') {
        Some(at) if rest[..at].lines().all(|line| line.trim() == "OK") => document(&rest[at..]),
        _ => rest.contains("Job summary").then(|| report(rest)),
    }
}

fn document(text: &str) -> Option<Ras> {
    // Names are printed as they are: one with a quotation mark makes it no JSON.
    let document: StatusDocument = serde_json::from_str(text.trim()).ok()?;
    let mut ras = Ras::default();
    for communicator in document.communicators {
        ras.missing_count = ras.missing_count.saturating_add(communicator.missing_ranks_count);
        for rank in communicator.missing_ranks {
            let state = match rank.status {
                Some(StatusOfRank { considered_dead: true, .. }) => "considered dead",
                Some(StatusOfRank { unresponsive: true, .. }) => "unresponsive",
                _ => "",
            };
            ras.add(MissingRank { rank: rank.rank, host: clean(rank.host.as_bytes()), pid: rank.pid, state });
        }
    }
    Some(ras)
}

/// `  Missing communicator data from 1 rank` and after it
/// `  Rank 1 -- GPU 0 (NVML 1) managed by process 10624 on node 10.9.0.2`, up to a line that is empty.
fn report(text: &str) -> Ras {
    let mut ras = Ras::default();
    let mut missing = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("Missing communicator data from ") {
            let count = rest.split(' ').next().and_then(|count| count.parse::<u64>().ok());
            missing = rest.trim_end().ends_with("rank") || rest.trim_end().ends_with("ranks");
            if missing {
                ras.missing_count = ras.missing_count.saturating_add(count.unwrap_or(0));
            }
        } else if line.is_empty() {
            missing = false;
        } else if let Some(rank) = missing.then(|| missing_rank(line)).flatten() {
            ras.add(rank);
        }
    }
    ras
}

fn missing_rank(line: &str) -> Option<MissingRank> {
    let (rank, rest) = line.strip_prefix("Rank ")?.split_once(" -- ")?;
    let (pid, host) = rest.split_once(" managed by process ")?.1.split_once(" on node ")?;
    let host = clean(host.trim().as_bytes());
    Some(MissingRank { rank: rank.trim().parse().ok()?, host, pid: pid.trim().parse().ok()?, state: "" })
}

impl Ras {
    /// One that several communicators miss is missing once.
    fn add(&mut self, rank: MissingRank) {
        let known = |other: &MissingRank| (&other.host, other.pid, other.rank) == (&rank.host, rank.pid, rank.rank);
        if self.missing.iter().any(known) {
            self.missing_count = self.missing_count.saturating_sub(1);
        } else if self.missing.len() < NAMED {
            self.missing.push(rank);
        }
    }
}
