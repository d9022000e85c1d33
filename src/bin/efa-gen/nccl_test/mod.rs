//! Owns the course of an NCCL test on real hosts: a fast check on two of them, then every collective at the judged
//! sizes on all; each run's log is kept and judged.

pub mod pairs;
pub mod prepare;
mod questions;
pub mod runner;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use efa_gen::catalog::Catalog;
use efa_gen::catalog::bar::Bar;
use efa_gen::catalog::instance_type::InstanceType;
use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::command::{self, CHECK, CHECK_LIMIT, Collective, Host, Programs, Sizes};
use efa_gen::nccl::pairs::Matrix;
use efa_gen::nccl::{End, Expect, Outcome, Reader, Report, Row, Verdict, counters, judge};
use efa_gen::shell;
use efa_gen::text::{ending, printable_log, size};
use tokio::sync::watch;

use self::questions::with_question;
pub use self::runner::Executor;
use crate::io::events::{Event, EventSink};
use crate::io::files;

/// A test to be made.
#[derive(Debug)]
pub struct TestSpec<'a> {
    /// Where mpirun is started: the first host.
    pub executor: Executor<'a>,
    pub hosts: Vec<Host>,
    pub programs: Programs,
    pub collectives: Vec<Collective>,
    pub sizes: Sizes,
    /// For each run.
    pub limit: Duration,
    pub instance_type: Option<&'a InstanceType>,
    pub catalog: &'a Catalog,
    /// Hosts that must have taken part.
    pub wanted: u64,
    pub min_busbw: Option<f64>,
    /// The first judged run's log; the others lie beside it.
    pub log: PathBuf,
}

/// A run, and what was found.
#[derive(Debug)]
pub struct TestRun {
    pub collective: Collective,
    pub log: PathBuf,
    pub report: Report,
    pub verdict: Verdict,
}

/// One run of a program.
struct TestInvocation {
    collective: Collective,
    hosts: Vec<Host>,
    sizes: Sizes,
    limit: Duration,
    log: PathBuf,
}

/// A test that was made.
#[derive(Debug)]
pub struct TestResult {
    /// The check alone where it failed, else the judged runs.
    pub runs: Vec<TestRun>,
    /// The pairs that were tested because of the first run that is no pass, or may be too slow.
    pub pairs: Option<Matrix>,
}

/// Makes the test. What a run fails by ends it where later runs would fail by the same; then the bad host is looked for.
pub async fn make(spec: &TestSpec<'_>, events: &EventSink, stop: &watch::Receiver<u32>) -> Result<TestResult> {
    let mut runs = runs(spec, events, stop).await?;
    let passed = |run: &TestRun| run.verdict.outcome == Outcome::Pass;
    // The first that failed, else the first that may be too slow.
    let at = runs.iter().position(|run| !passed(run)).unwrap_or(0);
    let pairs = match runs.get_mut(at) {
        // What was judged stands, whatever becomes of the pairs.
        Some(run) => match pairs::find(spec, run, events, stop).await {
            Err(error) if error.class() != Class::Interrupted => {
                events.note(format!("pair tests stopped early: {error}"));
                None
            }
            found => found?,
        },
        None => None,
    };
    Ok(TestResult { runs, pairs })
}

async fn runs(spec: &TestSpec<'_>, events: &EventSink, stop: &watch::Receiver<u32>) -> Result<Vec<TestRun>> {
    if let (Some(collective), true) = (spec.collectives.first(), spec.hosts.len() > 1) {
        let run = TestInvocation {
            collective: *collective,
            hosts: spec.hosts[..2].to_vec(),
            sizes: Sizes { max: CHECK.max.min(spec.sizes.max), ..CHECK },
            limit: CHECK_LIMIT.min(spec.limit),
            log: beside(&spec.log, "check"),
        };
        let report = run_and_report(spec, "check", &run, events, stop).await?;
        let expect = Expect { instance_type: spec.instance_type, hosts: 2, ..Expect::default() };
        let mut verdict = judge(&report, &expect);
        if verdict.outcome == Outcome::Fail {
            let of = spec.hosts.len();
            verdict.notes.insert(0, format!("this is the fast check on 2 of {of} hosts; the full test was not run"));
            return Ok(vec![TestRun { collective: run.collective, log: run.log, report, verdict }]);
        }
    }
    let mut runs: Vec<TestRun> = Vec::new();
    let mut before = questions::counters(spec.executor, &spec.programs, &spec.hosts, events).await;
    for collective in spec.collectives.iter().copied() {
        let log = if runs.is_empty() { spec.log.clone() } else { beside(&spec.log, collective.name()) };
        let run = TestInvocation { collective, hosts: spec.hosts.clone(), sizes: spec.sizes, limit: spec.limit, log };
        let mut report = run_and_report(spec, collective.name(), &run, events, stop).await?;
        if let Some(begun) = before {
            before = questions::counters(spec.executor, &spec.programs, &spec.hosts, events).await;
            report.traffic = before.as_ref().map(|ended| counters::traffic(&begun, ended));
        }
        let expect = Expect {
            instance_type: spec.instance_type,
            bars: spec.bars(collective),
            hosts: spec.wanted,
            last_size: Some(spec.sizes.max),
            min_busbw: spec.min_busbw,
        };
        let verdict = judge(&report, &expect);
        let ended = report.end == End::Complete;
        runs.push(TestRun { collective, log: run.log, report, verdict });
        if !ended {
            break;
        }
    }
    Ok(runs)
}

impl TestSpec<'_> {
    /// The bars are of all-reduce.
    fn bars(&self, collective: Collective) -> &[Bar] {
        if collective == Collective::AllReduce { &self.catalog.bars } else { &[] }
    }
}

/// Makes one run and tells how it goes.
async fn run_and_report(
    spec: &TestSpec<'_>,
    name: &str,
    run: &TestInvocation,
    events: &EventSink,
    stop: &watch::Receiver<u32>,
) -> Result<Report> {
    let (hosts, ranks) = (run.hosts.len(), run.hosts.iter().map(|host| u64::from(host.slots)).sum::<u64>());
    let on = if hosts == 1 { "one host".to_owned() } else { format!("{hosts} hosts") };
    events.step(format!("{name}: {} on {on}, {ranks} GPUs, up to {}", run.collective.program(), size(run.sizes.max)));
    let made = run_once(spec, run, stop, |row| events.emit(&Event::Output { line: row_line(row) })).await;
    events.note(format!("{name}: the log is {}", run.log.display()));
    made
}

/// Makes one run, keeps its log and reads it; gives every row away as it comes.
async fn run_once(
    spec: &TestSpec<'_>,
    run: &TestInvocation,
    stop: &watch::Receiver<u32>,
    mut measured: impl FnMut(&Row),
) -> Result<Report> {
    let argv = command::argv(run.collective, &run.hosts, run.sizes, &spec.programs);
    let program = run.collective.program();
    let mut log = Log::create(&run.log)?;
    log.write(format!("+ {}\n", shell::join(&argv)?).as_bytes())?;
    let mut reader = Reader::new();
    let mut shown_rows = 0;
    let line = command::line(&argv, run.limit)?;
    let watched = spec.executor.watch(&line, run.limit, stop.clone(), |piece| {
        reader.feed(piece);
        reader.rows().iter().skip(shown_rows).for_each(&mut measured);
        shown_rows = reader.rows().len();
        log.write(piece)
    });
    let asked = (&run.hosts[..], program);
    let (ended, answers) = with_question(watched, spec.executor, &spec.programs, asked, run.limit).await?;
    if !ended.output.is_empty() {
        let output = format!("\n{}\n", ended.output);
        log.write(output.as_bytes())?;
        reader.feed(output.as_bytes());
    }
    let Some(status) = ended.status else {
        let message = format!("the connection to {} was lost while {program} ran", spec.executor.name());
        return Err(Error::new(Class::Io, message)
            .with_source(ending(&ended.output).into_owned())
            .hint("the run was stopped too: start it again"));
    };
    let mut report = reader.finish(Some(status));
    if status == runner::TIMED_OUT {
        if let Some(text) = answers.text {
            files::write(&beside(&run.log, "ras"), printable_log(&text).as_bytes(), 0o600)?;
        }
        (report.ras, report.processes) = (answers.ras, answers.processes);
        report.last_words = questions::last_words(&run.log)?;
    }
    // Older programs do not say which one they are.
    report.collective.get_or_insert_with(|| program.to_owned());
    Ok(report)
}

/// A row as it is shown while the run goes on.
fn row_line(row: &Row) -> String {
    let in_place = row.in_place.as_ref().map_or(String::new(), |timing| format!(", in place {:.2}", timing.busbw));
    let wrong = if row.wrong() > 0 { format!(", {} wrong values", row.wrong()) } else { String::new() };
    format!("{:>10} {:>8.2} GB/s{in_place}{wrong}", size(row.size), row.out_of_place.busbw)
}

/// `a.log` -> `a.check.log`.
fn beside(log: &Path, name: &str) -> PathBuf {
    let stem = log.file_stem().unwrap_or_default().to_string_lossy();
    let extension = log.extension().map_or(String::new(), |extension| format!(".{}", extension.to_string_lossy()));
    log.with_file_name(format!("{stem}.{name}{extension}"))
}

/// A log that is written while it is read.
struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    fn create(path: &Path) -> Result<Self> {
        let failed =
            |error| Error::new(Class::Io, format!("could not write log {}", path.display())).with_source(error);
        Ok(Log { file: File::create(path).map_err(failed)?, path: path.to_owned() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let failed =
            |error| Error::new(Class::Io, format!("could not write log {}", self.path.display())).with_source(error);
        self.file.write_all(bytes).map_err(failed)
    }
}
