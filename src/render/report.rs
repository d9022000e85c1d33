//! Owns the report of an NCCL test for people and for CI: a page that needs nothing but itself, and JUnit XML. Knows
//! reports and verdicts, not how they came about; all text of a log is escaped by the template engine.

mod chart;
mod pairs;

use std::io::Write;
use std::sync::LazyLock;

use serde::Serialize;

use super::template::Template;
use crate::catalog::instance_type::InstanceType;
use crate::cluster::pairs::Matrix;
use crate::error::Result;
use crate::nccl::{Check, Counted, Outcome, Report, Verdict, Weight};
use chart::Chart;

/// Ranks that the page lists.
const RANKS_SHOWN: usize = 1024;

static PAGE: LazyLock<Template> =
    LazyLock::new(|| Template::new("report/page.html", include_str!("../../templates/report/page.html"), escape));

static JUNIT: LazyLock<Template> =
    LazyLock::new(|| Template::new("report/junit.xml", include_str!("../../templates/report/junit.xml"), escape));

/// A run and what it is called.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The log's name.
    pub name: &'a str,
    /// What it says.
    pub report: &'a Report,
}

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
    /// One, or none.
    pairs: Vec<pairs::View>,
    charts: Vec<Chart>,
    runs: Vec<Compared>,
    facts: Vec<(&'static str, String)>,
    environment: Vec<(&'a str, &'a str)>,
    environment_note: &'static str,
    warnings_note: &'static str,
    warnings: &'a [Counted],
    rows: Vec<[String; 8]>,
    ranks: Vec<[String; 8]>,
    more_ranks: Vec<usize>,
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
    runs: &[Run],
    verdict: &Verdict,
    instance_type: Option<&InstanceType>,
    pairs: Option<&Matrix>,
) -> Result<String> {
    let Some(first) = runs.first() else { return Ok(String::new()) };
    let report = first.report;
    let (class, outcome) = (class_of(verdict.outcome), verdict.outcome.word());
    let findings = verdict.findings.iter().map(|finding| FindingView {
        class: weight_class(finding.weight),
        word: weight_word(finding.weight),
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
        pairs: pairs.map(pairs::view).into_iter().collect(),
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
        more_ranks: if more > 0 { vec![more] } else { Vec::new() },
    })
}

#[derive(Serialize)]
struct Suites<'a> {
    suites: Vec<Suite<'a>>,
}

#[derive(Serialize)]
struct Suite<'a> {
    log: &'a str,
    outcome: &'static str,
    sentence: &'a str,
    failures: usize,
    errors: usize,
    skipped: usize,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    name: &'static str,
    failures: Vec<Message>,
    errors: Vec<Message>,
    /// What is skipped says so once.
    skipped: Vec<&'static str>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Message {
    kind: &'static str,
    what: String,
    text: String,
}

/// JUnit XML: one suite a log and one case a check. What failed is a failure, missing evidence an error: a CI must not read
/// it as passed.
pub fn junit(judged: &[(&str, &Verdict)]) -> Result<String> {
    JUNIT.fill(&Suites { suites: judged.iter().map(|(log, verdict)| suite(log, verdict)).collect() })
}

fn suite<'a>(log: &'a str, verdict: &'a Verdict) -> Suite<'a> {
    let cases: Vec<Case> = Check::ALL.iter().map(|check| case(*check, verdict)).collect();
    Suite {
        log,
        outcome: verdict.outcome.word(),
        sentence: &verdict.sentence,
        failures: cases.iter().filter(|case| !case.failures.is_empty()).count(),
        errors: cases.iter().filter(|case| !case.errors.is_empty()).count(),
        skipped: cases.iter().filter(|case| !case.skipped.is_empty()).count(),
        cases,
    }
}

/// A case has one failure or one error, by the schema: the first says all.
fn case(check: Check, verdict: &Verdict) -> Case {
    let of = |weight| verdict.of(weight).filter(move |finding| finding.check == check);
    let all = |weight| {
        let texts: Vec<String> =
            of(weight).map(|finding| format!("{}\nto do: {}", finding.what, finding.to_do)).collect();
        let first = of(weight).next().map(|finding| finding.what.clone());
        first.map(|what| Message { kind: check.failure(), what, text: texts.join("\n") })
    };
    let failures: Vec<Message> = all(Weight::Failure).into_iter().collect();
    let errors = if failures.is_empty() { all(Weight::Missing).into_iter().collect() } else { Vec::new() };
    let notes = of(Weight::Warning).map(|finding| finding.what.clone()).collect();
    let judged = !failures.is_empty() || !errors.is_empty() || !verdict.unjudged.contains(&check);
    let skipped = if judged { Vec::new() } else { vec!["not judged"] };
    Case { name: check.title(), failures, errors, skipped, notes }
}

fn check_view(check: Check, verdict: &Verdict) -> CheckView {
    let worst = verdict.findings.iter().filter(|finding| finding.check == check).map(|finding| finding.weight).min();
    let unjudged = if verdict.unjudged.contains(&check) { ("none", "not judged") } else { ("good", "ok") };
    let (class, word) = worst.map_or(unjudged, |weight| (weight_class(weight), weight_word(weight)));
    CheckView { title: check.title(), class, word }
}

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
    let named = |named: &Option<crate::nccl::Named>| named.as_ref().map_or(String::new(), at);
    let average =
        report.average_busbw.map_or(String::new(), |average| format!("{average} GB/s (reported, never judged)"));
    let bar = verdict.bar.map_or(String::new(), |(bar, size)| format!("{bar} GB/s at {}", chart::size(size)));
    let facts = [
        ("hosts", format!("{}: {}", report.hosts.len(), ends(&report.hosts))),
        ("ranks", format!("{}", report.rank_count())),
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
        ("bar", bar),
        ("largest size", named(&report.last)),
        ("best busbw", named(&report.best)),
        ("average busbw", average),
        ("wrong values", report.wrong_values.to_string()),
        ("warnings", report.warning_count.to_string()),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty() && value != "0: ").collect()
}

fn end(report: &Report) -> String {
    let word =
        serde_json::to_value(report.end).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default();
    report.exit_status.map_or(word.clone(), |status| format!("{word}, exit status {status}"))
}

fn at(named: &crate::nccl::Named) -> String {
    let in_place = named.in_place.map_or(String::new(), |busbw| format!(", in place {busbw:.2}"));
    format!("{}: {:.2} GB/s{in_place}", chart::size(named.size), named.out_of_place)
}

/// `a`, `a, b`, `a ... z`: a list that may be long.
pub fn ends(names: &[String]) -> String {
    match names {
        [first, .., last] if names.len() > 4 => format!("{first} ... {last}"),
        _ => names.join(", "),
    }
}

fn compared(at_run: usize, run: &Run) -> Compared {
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
            chart::size(row.size),
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
            rank.trouble.clone().filter(|_| rank.providers.is_empty()).unwrap_or_else(|| said(&rank.providers)),
            number(rank.nics),
            said(&rank.networks),
            format!("{} of {}", rank.gdr_channels, rank.net_channels),
        ]
    };
    report.ranks.iter().take(RANKS_SHOWN).map(row).collect()
}

fn class_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "good",
        Outcome::Inconclusive => "missing",
        Outcome::Fail => "bad",
    }
}

fn weight_class(weight: Weight) -> &'static str {
    match weight {
        Weight::Failure => "bad",
        Weight::Missing => "missing",
        Weight::Warning => "warning",
    }
}

fn weight_word(weight: Weight) -> &'static str {
    match weight {
        Weight::Failure => "failed",
        Weight::Missing => "not proved",
        Weight::Warning => "warning",
    }
}

/// For HTML and XML, text and attributes. Control characters, which neither may hold, are replaced.
fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
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
