//! Owns the course of an NCCL test on real hosts: a fast check on two of them, then every collective at the judged sizes on
//! all; each run's log is kept and judged. Knows nothing of flags, nor of how verdicts are shown.

mod pairs;
mod place;
pub mod prepare;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use efa_gen::catalog::Catalog;
use efa_gen::catalog::bar::Bar;
use efa_gen::catalog::instance_type::InstanceType;
use efa_gen::cluster::pairs::Matrix;
use efa_gen::cluster::test::{self, CHECK, CHECK_LIMIT, Collective, Host, Programs, Sizes};
use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::{End, Expect, Outcome, Reader, Report, Row, Verdict, judge, size};
use tokio::sync::watch;

use crate::events::{Event, Talk};
pub use place::Place;

/// A test to be made.
#[derive(Debug)]
pub struct Order<'a> {
    /// Where mpirun is started: the first host.
    pub place: Place<'a>,
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
pub struct Ran {
    pub collective: Collective,
    pub log: PathBuf,
    pub report: Report,
    pub verdict: Verdict,
}

/// One run of a program.
struct Run {
    collective: Collective,
    hosts: Vec<Host>,
    sizes: Sizes,
    limit: Duration,
    log: PathBuf,
}

/// A test that was made.
#[derive(Debug)]
pub struct Made {
    /// The check alone where it failed, else the judged runs.
    pub runs: Vec<Ran>,
    /// The pairs that were tested because of the first run that is no pass, or may be too slow.
    pub pairs: Option<Matrix>,
}

/// Makes the test. What a run fails by ends it where later runs would fail by the same; then the bad host is looked for.
pub async fn make(order: &Order<'_>, talk: &Talk, stop: &watch::Receiver<u32>) -> Result<Made> {
    let mut runs = runs(order, talk, stop).await?;
    let passed = |run: &Ran| run.verdict.outcome == Outcome::Pass;
    // The first that failed, else the first that may be too slow.
    let at = runs.iter().position(|run| !passed(run)).unwrap_or(0);
    let pairs = match runs.get_mut(at) {
        // What was judged stands, whatever becomes of the pairs.
        Some(run) => match pairs::find(order, run, talk, stop).await {
            Err(error) if error.class() != Class::Interrupted => {
                talk.note(format!("the pairs were not tested to their end: {error}"));
                None
            }
            found => found?,
        },
        None => None,
    };
    Ok(Made { runs, pairs })
}

async fn runs(order: &Order<'_>, talk: &Talk, stop: &watch::Receiver<u32>) -> Result<Vec<Ran>> {
    if let (Some(collective), true) = (order.collectives.first(), order.hosts.len() > 1) {
        let run = Run {
            collective: *collective,
            hosts: order.hosts[..2].to_vec(),
            sizes: Sizes { max: CHECK.max.min(order.sizes.max), ..CHECK },
            limit: CHECK_LIMIT.min(order.limit),
            log: beside(&order.log, "check"),
        };
        let report = told(order, "check", &run, talk, stop).await?;
        let expect = Expect { instance_type: order.instance_type, hosts: 2, ..Expect::default() };
        let mut verdict = judge(&report, &expect);
        if verdict.outcome == Outcome::Fail {
            let of = order.hosts.len();
            verdict.notes = vec![format!("this is the fast check on 2 of {of} hosts; the judged sizes were not run")];
            return Ok(vec![Ran { collective: run.collective, log: run.log, report, verdict }]);
        }
    }
    let mut runs: Vec<Ran> = Vec::new();
    for collective in order.collectives.iter().copied() {
        let log = if runs.is_empty() { order.log.clone() } else { beside(&order.log, collective.name()) };
        let run = Run { collective, hosts: order.hosts.clone(), sizes: order.sizes, limit: order.limit, log };
        let report = told(order, collective.name(), &run, talk, stop).await?;
        let expect = Expect {
            instance_type: order.instance_type,
            bars: order.bars(collective),
            hosts: order.wanted,
            last_size: Some(order.sizes.max),
            min_busbw: order.min_busbw,
        };
        let verdict = judge(&report, &expect);
        let ended = report.end == End::Complete;
        runs.push(Ran { collective, log: run.log, report, verdict });
        if !ended {
            break;
        }
    }
    Ok(runs)
}

impl Order<'_> {
    /// The bars are of all-reduce.
    fn bars(&self, collective: Collective) -> &[Bar] {
        if collective == Collective::AllReduce { &self.catalog.bars } else { &[] }
    }
}

/// Makes one run and tells how it goes.
async fn told(order: &Order<'_>, name: &str, run: &Run, talk: &Talk, stop: &watch::Receiver<u32>) -> Result<Report> {
    let (hosts, ranks) = (run.hosts.len(), run.hosts.iter().map(|host| host.slots).sum::<u32>());
    let on = if hosts == 1 { "one host".to_owned() } else { format!("{hosts} hosts") };
    talk.step(format!("{name}: {} on {on}, {ranks} GPUs, up to {}", run.collective.program(), size(run.sizes.max)));
    let made = one(order, run, stop, |row| talk.emit(&Event::Output { line: shown(row) })).await;
    talk.note(format!("{name}: the log is {}", run.log.display()));
    made
}

/// Makes one run, keeps its log and reads it; gives every row away as it comes.
async fn one(
    order: &Order<'_>,
    run: &Run,
    stop: &watch::Receiver<u32>,
    mut measured: impl FnMut(&Row),
) -> Result<Report> {
    let argv = test::argv(run.collective, &run.hosts, run.sizes, &order.programs);
    let program = run.collective.program();
    let mut log = Log::create(&run.log)?;
    log.write(format!("+ {}\n", test::quoted(&argv)?).as_bytes())?;
    let mut reader = Reader::new();
    let mut told = 0;
    let line = test::line(&argv, run.limit)?;
    let watched = order.place.watch(&line, run.limit, stop.clone(), |piece| {
        reader.feed(piece);
        reader.rows().iter().skip(told).for_each(&mut measured);
        told = reader.rows().len();
        log.write(piece)
    });
    let ended = watched.await?;
    if !ended.said.is_empty() {
        let said = format!("\n{}\n", ended.said);
        log.write(said.as_bytes())?;
        reader.feed(said.as_bytes());
    }
    let Some(status) = ended.status else {
        let message = format!("the connection to {} was lost while {program} ran", order.place.name());
        return Err(Error::new(Class::Io, message)
            .because(ended.said)
            .hint("the run was ended with it: start it again"));
    };
    let mut report = reader.finish(Some(status));
    // Older programs do not say which one they are.
    report.collective.get_or_insert_with(|| program.to_owned());
    Ok(report)
}

/// A row as it is shown while the run goes on.
fn shown(row: &Row) -> String {
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
        let failed = |error| Error::new(Class::Io, format!("could not write log {}", path.display())).because(error);
        Ok(Log { file: File::create(path).map_err(failed)?, path: path.to_owned() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let failed =
            |error| Error::new(Class::Io, format!("could not write log {}", self.path.display())).because(error);
        self.file.write_all(bytes).map_err(failed)
    }
}
