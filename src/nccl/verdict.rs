//! Owns the verdict: what was asked for, the reasons found against it, and the one sentence that they come to. Knows
//! nothing of logs; `check` finds the reasons.

use serde::Serialize;

use super::check;
use super::naming;
use super::report::Report;
use crate::catalog::bar::Bar;
use crate::catalog::instance_type::InstanceType;

/// What a run must be.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    /// The hosts' type: its NICs, GPUDirect and bars. Without it none of these is judged.
    pub instance_type: Option<&'a InstanceType>,
    /// The bars that are known.
    pub bars: &'a [Bar],
    /// Hosts at least. With 1, a run on one host is judged on what it can prove.
    pub hosts: u64,
    /// Last size, bytes; without it, what the log says was asked for.
    pub last_size: Option<u64>,
    /// Bus bandwidth (GB/s) that the last size must reach, instead of the type's bar.
    pub min_busbw: Option<f64>,
}

impl Default for Expect<'_> {
    fn default() -> Self {
        Expect { instance_type: None, bars: &[], hosts: 2, last_size: None, min_busbw: None }
    }
}

/// What is checked, most fundamental first: what one check fails by makes the later ones moot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The program and its launcher ended well, in time.
    RunFailed,
    /// Every size was measured, and the summary is there.
    Incomplete,
    /// No wrong value.
    WrongResult,
    /// At least as many hosts as asked for, and two.
    NotANetworkTest,
    /// Every rank selected libfabric's provider `efa`.
    WrongProvider,
    /// NCCL's network is the plugin, and no channel goes over sockets.
    SocketFallback,
    /// Channels have GPUDirect where the type has it.
    GdrLost,
    /// As many NICs as the type has.
    FewNics,
    /// The bus bandwidth reaches the bar.
    TooSlow,
}

impl Check {
    /// All, in order.
    pub const ALL: [Check; 9] = [
        Check::RunFailed,
        Check::Incomplete,
        Check::WrongResult,
        Check::NotANetworkTest,
        Check::WrongProvider,
        Check::SocketFallback,
        Check::GdrLost,
        Check::FewNics,
        Check::TooSlow,
    ];

    /// What is looked at, as a heading: `the run ended well`.
    pub fn title(self) -> &'static str {
        match self {
            Check::RunFailed => "the run ended well",
            Check::Incomplete => "the log is complete",
            Check::WrongResult => "no wrong values",
            Check::NotANetworkTest => "enough hosts",
            Check::WrongProvider => "libfabric provider is efa",
            Check::SocketFallback => "NCCL uses the plugin, no sockets",
            Check::GdrLost => "GPUDirect",
            Check::FewNics => "all NICs",
            Check::TooSlow => "bandwidth",
        }
    }

    /// How a failure of it is called: `socket fallback`.
    pub fn failure(self) -> &'static str {
        match self {
            Check::RunFailed => "run failed",
            Check::Incomplete => "incomplete",
            Check::WrongResult => "wrong result",
            Check::NotANetworkTest => "not a network test",
            Check::WrongProvider => "wrong provider",
            Check::SocketFallback => "socket fallback",
            Check::GdrLost => "GPUDirect lost",
            Check::FewNics => "NICs missing",
            Check::TooSlow => "too slow",
        }
    }
}

/// What a finding does to the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// The run fails.
    Failure,
    /// Evidence is missing: the run can't pass.
    Missing,
    /// Worth knowing.
    Warning,
}

/// One reason, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it was found by.
    pub check: Check,
    /// What it does.
    pub weight: Weight,
    /// What is the matter, naming ranks and hosts. A sentence without its full stop.
    pub what: String,
    /// What to do about it.
    pub to_do: String,
}

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything asked for is proved.
    Pass,
    /// Nothing failed, but not everything is proved.
    Inconclusive,
    /// Something failed.
    Fail,
}

impl Outcome {
    /// `PASS`, `INCONCLUSIVE`, `FAIL`.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Pass => "PASS",
            Outcome::Inconclusive => "INCONCLUSIVE",
            Outcome::Fail => "FAIL",
        }
    }
}

/// The judgement of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The outcome.
    pub outcome: Outcome,
    /// It in one sentence, without the outcome's word.
    pub sentence: String,
    /// `one host`, `2 hosts`, or that the log does not tell.
    pub scope: String,
    /// Reasons, failures first, in each weight the most fundamental first.
    pub findings: Vec<Finding>,
    /// Checks that could not be made, or that nothing was asked of; a note says why.
    pub unjudged: Vec<Check>,
    /// What else is worth knowing of the judgement.
    pub notes: Vec<String>,
    /// GB/s that the judged row had to reach, and its size; absent where no bar holds.
    pub bar: Option<(f64, u64)>,
}

impl Verdict {
    /// Findings of this weight.
    pub fn of(&self, weight: Weight) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.weight == weight)
    }
}

/// Judges a run: passes only if every check is proved to hold.
pub fn judge(report: &Report, expect: &Expect) -> Verdict {
    let mut found = check::Found::default();
    check::all(&mut found, report, expect);
    let check::Found { mut findings, unjudged, notes, bar } = found;
    findings.sort_by_key(|finding| (finding.weight, finding.check));
    let outcome = match findings.first().map(|finding| finding.weight) {
        Some(Weight::Failure) => Outcome::Fail,
        Some(Weight::Missing) => Outcome::Inconclusive,
        _ => Outcome::Pass,
    };
    let scope = match report.hosts.len() {
        _ if report.json => "hosts unknown".to_owned(),
        0 => "hosts unknown".to_owned(),
        1 => "one host".to_owned(),
        hosts => format!("{hosts} hosts"),
    };
    let sentence = match (outcome, findings.first()) {
        (Outcome::Pass, _) => passed(report),
        (Outcome::Inconclusive, Some(first)) => format!("{}; missing evidence is never a pass", first.what),
        (_, first) => first.map_or(String::new(), |first| format!("{}: {}", first.check.failure(), first.what)),
    };
    Verdict { outcome, sentence, scope, findings, unjudged, notes, bar }
}

fn passed(report: &Report) -> String {
    let last = report.last.as_ref().map_or(String::new(), |last| {
        let worst = last.in_place.map_or(last.out_of_place, |in_place| in_place.min(last.out_of_place));
        format!(", {worst:.2} GB/s at {}", naming::size(last.size))
    });
    let ranks = report.rank_count();
    match report.hosts.len() {
        1 => format!(
            "on one host: the plugin loads and selects EFA on every one of {ranks} ranks{last} (the network itself needs two \
             hosts)"
        ),
        hosts => format!("EFA on every one of {ranks} ranks on {hosts} hosts{last}"),
    }
}
