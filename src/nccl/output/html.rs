//! Owns the report of an NCCL test for people: a page that needs nothing but itself.

use super::chart::{self, Chart, NamedReport};
use super::facts::{at, facts};
use super::pairs;
use crate::catalog::instance_type::InstanceType;
use crate::error::Result;
use crate::nccl::counters::{HostTraffic, NicTraffic};
use crate::nccl::pairs::Matrix;
use crate::nccl::{Check, Counted, Outcome, Report, Severity, Verdict};
use crate::template::Template;
use crate::text::rounded_size;
use serde::Serialize;
use std::io::Write;
use std::sync::LazyLock;

/// Ranks that the page lists.
const RANKS_SHOWN: usize = 1024;

static PAGE: LazyLock<Template> =
    LazyLock::new(|| Template::new("output/page.html", include_str!("../../../templates/output/page.html"), escape));

#[derive(Serialize)]
struct Page<'a> {
    title: String,
    version: &'static str,
    outcome: &'static str,
    class: &'static str,
    sentence: &'a str,
    scope: &'a str,
    log: &'a str,
    findings: Vec<FindingView<'a>>,
    notes: &'a [String],
    checks: Vec<CheckView>,
    matrix: Option<pairs::PairsView>,
    traffic: Vec<TrafficView<'a>>,
    more_traffic: Option<usize>,
    charts: Vec<Chart>,
    runs: Vec<Compared>,
    facts: Vec<(&'static str, String)>,
    environment: Vec<(&'a str, &'a str)>,
    environment_note: &'static str,
    warnings_note: &'static str,
    warnings: &'a [Counted],
    rows: Vec<[String; 8]>,
    ranks: Vec<[String; 8]>,
    more_ranks: Option<usize>,
}

#[derive(Serialize)]
struct FindingView<'a> {
    class: &'static str,
    word: &'static str,
    failure: &'static str,
    what: &'a str,
    to_do: &'a str,
}

#[derive(Serialize)]
struct CheckView {
    title: &'static str,
    class: &'static str,
    word: &'static str,
}

/// What a host's EFA devices counted.
#[derive(Serialize)]
struct TrafficView<'a> {
    host: &'a str,
    figures: [String; 6],
}

/// A run beside others.
#[derive(Serialize)]
struct Compared {
    color: usize,
    name: String,
    hosts: usize,
    ranks: usize,
    network: String,
    providers: String,
    last: String,
    best: String,
}

/// The page: the first run's verdict and details, the curves of all, the pairs that were tested because of it.
/// `instance_type` gives the link limit.
pub fn html(
    runs: &[NamedReport],
    verdict: &Verdict,
    instance_type: Option<&InstanceType>,
    pairs: Option<&Matrix>,
) -> Result<String> {
    let Some(first) = runs.first() else { return Ok(String::new()) };
    let report = first.report;
    let (class, outcome) = (class_of(verdict.outcome), verdict.outcome.word());
    let findings = verdict.findings.iter().map(|finding| FindingView {
        class: severity_class(finding.severity),
        word: severity_word(finding.severity),
        failure: finding.check.failure(),
        what: &finding.what,
        to_do: &finding.to_do,
    });
    let environment = report.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let more = report.ranks.len().saturating_sub(RANKS_SHOWN);
    PAGE.fill(&Page {
        title: format!("NCCL test: {outcome}"),
        version: env!("CARGO_PKG_VERSION"),
        outcome,
        class,
        sentence: &verdict.sentence,
        scope: &verdict.scope,
        log: first.name,
        findings: findings.collect(),
        notes: &verdict.notes,
        checks: Check::ALL.iter().map(|check| check_view(*check, verdict)).collect(),
        matrix: pairs.map(pairs::view),
        traffic: traffic(report),
        more_traffic: report
            .traffic
            .as_ref()
            .and_then(|hosts| hosts.len().checked_sub(RANKS_SHOWN))
            .filter(|more| *more > 0),
        charts: chart::both(runs, verdict.bar, instance_type.filter(|t| t.bandwidth_mbps > 0)),
        runs: runs.iter().enumerate().map(|(at, run)| compared(at, run)).collect(),
        facts: facts(report, verdict),
        environment: environment.collect(),
        environment_note: if report.environment.is_empty() {
            "NCCL names no variable that it was given."
        } else {
            "Variables that NCCL says it was given."
        },
        warnings_note: if report.warnings.is_empty() {
            "There are none."
        } else {
            "How often each was given, and its text."
        },
        warnings: &report.warnings,
        rows: rows(report),
        ranks: ranks(report),
        more_ranks: (more > 0).then_some(more),
    })
}

fn check_view(check: Check, verdict: &Verdict) -> CheckView {
    let worst = verdict.findings.iter().filter(|finding| finding.check == check).map(|finding| finding.severity).min();
    let unjudged = if verdict.unjudged.contains(&check) { ("none", "not judged") } else { ("good", "ok") };
    let (class, word) = worst.map_or(unjudged, |severity| (severity_class(severity), severity_word(severity)));
    CheckView { title: check.title(), class, word }
}

fn compared(at_run: usize, run: &NamedReport) -> Compared {
    let report = run.report;
    let names = |counted: &[Counted]| counted.iter().map(|counted| counted.name.clone()).collect::<Vec<_>>().join(", ");
    Compared {
        color: at_run % chart::COLORS,
        name: run.name.to_owned(),
        hosts: report.hosts.len(),
        ranks: report.rank_count(),
        network: names(&report.networks),
        providers: names(&report.providers),
        last: report.last.as_ref().map_or(String::new(), at),
        best: report.best.as_ref().map_or(String::new(), at),
    }
}

fn rows(report: &Report) -> Vec<[String; 8]> {
    let row = |row: &crate::nccl::Row| {
        let out = &row.out_of_place;
        let in_place = row.in_place.as_ref();
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        [
            rounded_size(row.size),
            number(Some(out.time_us)),
            number(Some(out.algbw)),
            number(Some(out.busbw)),
            number(in_place.map(|timing| timing.time_us)),
            number(in_place.map(|timing| timing.algbw)),
            number(in_place.map(|timing| timing.busbw)),
            row.out_of_place.wrong.map_or("not checked".to_owned(), |_| row.wrong().to_string()),
        ]
    };
    report.rows.iter().map(row).collect()
}

fn ranks(report: &Report) -> Vec<[String; 8]> {
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let said = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let row = |rank: &crate::nccl::Rank| {
        [
            number(rank.rank),
            rank.host.clone(),
            number(rank.device),
            rank.gpu.clone(),
            rank.provider_error.clone().filter(|_| rank.providers.is_empty()).unwrap_or_else(|| said(&rank.providers)),
            number(rank.nics),
            said(&rank.networks),
            format!("{} of {}", rank.gdr_channels, rank.net_channels),
        ]
    };
    report.ranks.iter().take(RANKS_SHOWN).map(row).collect()
}

/// What each host's EFA devices counted.
fn traffic(report: &Report) -> Vec<TrafficView<'_>> {
    fn row(host: &HostTraffic) -> TrafficView<'_> {
        let sum = |of: fn(&NicTraffic) -> u64| rounded_size(host.nics.iter().map(of).fold(0, u64::saturating_add));
        let count = |of: fn(&NicTraffic) -> Option<u64>| {
            let told: Option<Vec<u64>> = host.nics.iter().map(of).collect();
            told.map_or("-".to_owned(), |counts| counts.into_iter().fold(0, u64::saturating_add).to_string())
        };
        let read = host.nics.len();
        let nics = match host.unread.len() {
            0 => format!("{} of {read}", host.carrying()),
            unread => format!("{} of {read}, {unread} not read", host.carrying()),
        };
        let figures = [
            nics,
            sum(|nic| nic.sent),
            sum(|nic| nic.received),
            count(|nic| nic.retransmitted),
            count(|nic| nic.unresponsive),
            count(|nic| nic.impaired),
        ];
        TrafficView { host: &host.host, figures }
    }
    report.traffic.iter().flatten().take(RANKS_SHOWN).map(row).collect()
}

fn class_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "good",
        Outcome::Inconclusive => "missing",
        Outcome::Fail => "bad",
    }
}

fn severity_class(severity: Severity) -> &'static str {
    match severity {
        Severity::Failure => "bad",
        Severity::Missing => "missing",
        Severity::Warning => "warning",
    }
}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Failure => "failed",
        Severity::Missing => "not proved",
        Severity::Warning => "warning",
    }
}

/// For HTML and XML, text and attributes. Control characters, which neither may hold, are replaced.
pub(crate) fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    for c in text.chars() {
        match c {
            '&' => output.write_all(b"&amp;")?,
            '<' => output.write_all(b"&lt;")?,
            '>' => output.write_all(b"&gt;")?,
            '"' => output.write_all(b"&quot;")?,
            '\'' => output.write_all(b"&#39;")?,
            '\n' => output.write_all(b"\n")?,
            '\u{fffe}' | '\u{ffff}' => write!(output, "\u{fffd}")?,
            c if c.is_control() => write!(output, "\u{fffd}")?,
            c => write!(output, "{c}")?,
        }
    }
    Ok(())
}
