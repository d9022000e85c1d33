//! Owns JUnit XML for CI: one suite a log, one case a check.

use std::sync::LazyLock;

use serde::Serialize;

use super::html::escape;
use crate::error::Result;
use crate::nccl::judge::verdict::{Check, Severity, Verdict};
use crate::template::Template;

static JUNIT: LazyLock<Template> =
    LazyLock::new(|| Template::new("output/junit.xml", include_str!("../../../templates/output/junit.xml"), escape));

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
    failure: Option<Message>,
    error: Option<Message>,
    skipped: bool,
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
        failures: cases.iter().filter(|case| case.failure.is_some()).count(),
        errors: cases.iter().filter(|case| case.error.is_some()).count(),
        skipped: cases.iter().filter(|case| case.skipped).count(),
        cases,
    }
}

/// A case has one failure or one error, by the schema: the first says all.
fn case(check: Check, verdict: &Verdict) -> Case {
    let of = |severity| verdict.of(severity).filter(move |finding| finding.check == check);
    let all = |severity| {
        let texts: Vec<String> =
            of(severity).map(|finding| format!("{}\nto do: {}", finding.what, finding.to_do)).collect();
        let first = of(severity).next().map(|finding| finding.what.clone());
        first.map(|what| Message { kind: check.failure(), what, text: texts.join("\n") })
    };
    let failure = all(Severity::Failure);
    let error = if failure.is_some() { None } else { all(Severity::Missing) };
    let notes = of(Severity::Warning).map(|finding| finding.what.clone()).collect();
    let skipped = failure.is_none() && error.is_none() && verdict.unjudged.contains(&check);
    Case { name: check.title(), failure, error, skipped, notes }
}
