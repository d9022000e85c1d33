//! Owns the judgement on what a log shows: the checks find the reasons, the verdict follows from them.

mod checks;
pub(crate) mod verdict;

use self::verdict::{Expect, Findings, Outcome, Severity, Verdict};
use super::log::report::Report;
use crate::text::size;

/// Judges a run: passes only if every check is proved to hold.
pub fn judge(report: &Report, expect: &Expect) -> Verdict {
    let mut found = Findings::default();
    checks::all(&mut found, report, expect);
    let Findings { mut findings, unjudged, notes, bar } = found;
    findings.sort_by_key(|finding| (finding.severity, finding.check));
    let outcome = match findings.first().map(|finding| finding.severity) {
        Some(Severity::Failure) => Outcome::Fail,
        Some(Severity::Missing) => Outcome::Inconclusive,
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
        format!(", {worst:.2} GB/s at {}", size(last.size))
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
