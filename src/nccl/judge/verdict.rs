//! Owns the verdict: what was asked for, the reasons found against it, and the one sentence that they come to.

use serde::Serialize;

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
pub enum Severity {
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
    #[serde(rename = "weight")]
    pub severity: Severity,
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
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }
}

/// What the checks found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub findings: Vec<Finding>,
    pub unjudged: Vec<Check>,
    pub notes: Vec<String>,
    pub bar: Option<(f64, u64)>,
}

impl Findings {
    fn add(&mut self, check: Check, severity: Severity, what: impl Into<String>, to_do: impl Into<String>) {
        self.findings.push(Finding { check, severity, what: what.into(), to_do: to_do.into() });
    }

    pub fn fail(&mut self, check: Check, what: impl Into<String>, to_do: impl Into<String>) {
        self.add(check, Severity::Failure, what, to_do);
    }

    pub fn miss(&mut self, check: Check, what: impl Into<String>, to_do: impl Into<String>) {
        self.add(check, Severity::Missing, what, to_do);
    }

    pub fn skip(&mut self, check: Check) {
        self.unjudged.push(check);
    }

    pub fn warn(&mut self, check: Check, what: impl Into<String>, to_do: impl Into<String>) {
        self.add(check, Severity::Warning, what, to_do);
    }
}
