//! Owns the course of an NCCL test on real hosts: a fast check on two of them, then every collective at the judged sizes on
//! all; each run's log is kept and judged. Knows nothing of flags, nor of how verdicts are shown.

mod place;
pub mod prepare;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use efa_gen::catalog::Catalog;
use efa_gen::catalog::bar::Bar;
use efa_gen::catalog::instance_type::InstanceType;
use efa_gen::cluster::test::{self, Collective, Host, Programs, Sizes};
use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::{End, Expect, Outcome, Reader, Report, Row, Verdict, judge, size};
use tokio::sync::watch;

use crate::events::{Event, Talk};
pub use place::Place;

/// What the fast check measures: enough to see whether the hosts reach each other, and over what.
const CHECK: Sizes = Sizes { min: 8, max: 8 << 20, iterations: 5 };

/// How long the fast check may take; a large host's GPUs take a minute to begin.
const CHECK_LIMIT: Duration = Duration::from_secs(5 * 60);

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
    pub log: PathBuf,
    pub report: Report,
    pub verdict: Verdict,
}

/// One run of a program.
struct Run<'a> {
    name: &'static str,
    collective: Collective,
    hosts: &'a [Host],
    sizes: Sizes,
    limit: Duration,
    log: PathBuf,
}

/// Makes the test. What a run fails by ends it where later runs would fail by the same.
pub async fn make(order: &Order<'_>, talk: &Talk, stop: &watch::Receiver<u32>) -> Result<Vec<Ran>> {
    if order.hosts.len() > 1 {
        let run = Run {
            name: "check",
            collective: Collective::AllReduce,
            hosts: &order.hosts[..2],
            sizes: Sizes { max: CHECK.max.min(order.sizes.max), ..CHECK },
            limit: CHECK_LIMIT.min(order.limit),
            log: beside(&order.log, "check"),
        };
        let report = one(order, &run, talk, stop).await?;
        let expect = Expect { instance_type: order.instance_type, hosts: 2, ..Expect::default() };
        let mut verdict = judge(&report, &expect);
        if verdict.outcome == Outcome::Fail {
            verdict.notes =
                vec![format!("this is the fast check on 2 of {} hosts; nothing more was run", order.hosts.len())];
            return Ok(vec![Ran { log: run.log, report, verdict }]);
        }
    }
    let mut runs: Vec<Ran> = Vec::new();
    for collective in &order.collectives {
        let name = collective.name();
        let log = if runs.is_empty() { order.log.clone() } else { beside(&order.log, name) };
        let (hosts, sizes, limit) = (&order.hosts[..], order.sizes, order.limit);
        let run = Run { name, collective: *collective, hosts, sizes, limit, log };
        let report = one(order, &run, talk, stop).await?;
        // The bars are of all-reduce.
        let bars: &[Bar] = if *collective == Collective::AllReduce { &order.catalog.bars } else { &[] };
        let expect = Expect {
            instance_type: order.instance_type,
            bars,
            hosts: order.wanted,
            last_size: Some(order.sizes.max),
            min_busbw: order.min_busbw,
        };
        let verdict = judge(&report, &expect);
        let ended = report.end == End::Complete;
        runs.push(Ran { log: run.log, report, verdict });
        if !ended {
            break;
        }
    }
    Ok(runs)
}

/// Makes one run, keeps its log and reads it.
async fn one(order: &Order<'_>, run: &Run<'_>, talk: &Talk, stop: &watch::Receiver<u32>) -> Result<Report> {
    let argv = test::argv(run.collective, run.hosts, run.sizes, &order.programs);
    let (hosts, ranks) = (run.hosts.len(), run.hosts.iter().map(|host| host.slots).sum::<u32>());
    let on = if hosts == 1 { "one host".to_owned() } else { format!("{hosts} hosts") };
    let program = run.collective.program();
    talk.step(format!("{}: {program} on {on}, {ranks} GPUs, up to {}", run.name, size(run.sizes.max)));
    let mut log = Log::create(&run.log)?;
    log.write(format!("+ {}\n", test::quoted(&argv)?).as_bytes())?;
    let mut reader = Reader::new();
    let mut told = 0;
    let line = test::line(&argv, run.limit)?;
    let watched = order.place.watch(&line, run.limit, stop.clone(), |piece| {
        reader.feed(piece);
        for row in reader.rows().iter().skip(told) {
            talk.emit(&Event::Output { line: shown(row) });
        }
        told = reader.rows().len();
        log.write(piece)
    });
    let ended =
        watched.await.inspect_err(|_| talk.note(format!("what was said so far is in {}", run.log.display())))?;
    if !ended.said.is_empty() {
        let said = format!("\n{}\n", ended.said);
        log.write(said.as_bytes())?;
        reader.feed(said.as_bytes());
    }
    talk.note(format!("{}: the log is {}", run.name, run.log.display()));
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
