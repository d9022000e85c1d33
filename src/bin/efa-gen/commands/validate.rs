//! Owns `efa-gen validate`: reads logs or has tests made, has them judged, tells the verdict.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use efa_gen::catalog::Catalog;
use efa_gen::catalog::instance_type::InstanceType;
use efa_gen::error::{Class, Error, Result};
use efa_gen::nccl::output::chart::NamedReport;
use efa_gen::nccl::output::facts::{ends, facts};
use efa_gen::nccl::output::html::html;
use efa_gen::nccl::output::junit::junit;
use efa_gen::nccl::pairs::Matrix;
use efa_gen::nccl::{Expect, Finding, Outcome, Reader, Report, Severity, Verdict, judge};
use efa_gen::text::size;
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use serde::Serialize;

use super::account;
use super::cluster::open::open;
use super::list;
use crate::cli::OutputArg;
use crate::cli::cloud::AccountArgs;
use crate::cli::validate::ValidateArgs;
use crate::cluster::nodes::Cluster;
use crate::io::events::Reporter;
use crate::io::signals::on_signals;
use crate::io::{files, terminal};
use crate::nccl_test;

/// Bytes that are read at once: few enough to stay in the cache between the kernel and the parser.
const PIECE: usize = 64 << 10;

/// Hosts that are listed on the terminal; the page and the JSON have all.
const HOSTS_SHOWN: usize = 32;

/// A run that is shown; without a verdict it is only drawn beside the others.
struct LoadedLog {
    /// Its log's name.
    name: String,
    report: Report,
    verdict: Option<Verdict>,
}

pub fn run(args: &ValidateArgs) -> Result<()> {
    let catalog = Catalog::embedded()?;
    let instance_type = args.instance_type.as_deref().map(|name| catalog.instance_type(name)).transpose()?;
    if args.test.slurm {
        return terminal::data(nccl_test::prepare::job(args, &catalog, instance_type)?.as_bytes());
    }
    if args.log.is_empty() {
        let (instance_type, shown, pairs) = test(args, &catalog, instance_type)?;
        return show(args, instance_type, shown, pairs.as_ref());
    }
    show(args, instance_type, logs(args, &catalog, instance_type)?, None)
}

/// The logs of the command line, the first one judged.
fn logs(args: &ValidateArgs, catalog: &Catalog, instance_type: Option<&InstanceType>) -> Result<Vec<LoadedLog>> {
    let hosts = args.hosts.unwrap_or(Expect::default().hosts);
    let expect = Expect { instance_type, bars: &catalog.bars, hosts, min_busbw: args.min_busbw, ..Expect::default() };
    let shown = args.log.iter().enumerate().map(|(at, path)| {
        // The exit status is that of the run that is judged.
        let report = read(path, args.exit_status.filter(|_| at == 0))?;
        let verdict = (at == 0).then(|| judge(&report, &expect));
        Ok(LoadedLog { name: path.display().to_string(), report, verdict })
    });
    shown.collect()
}

/// A test that is made now, every run of it judged; the type that the hosts are of; the pairs that were tested besides.
fn test<'a>(
    args: &ValidateArgs,
    catalog: &'a Catalog,
    instance_type: Option<&'a InstanceType>,
) -> Result<(Option<&'a InstanceType>, Vec<LoadedLog>, Option<Matrix>)> {
    let events = Reporter::new(args.output.into(), false).events("validate");
    let made = account::block_on(async {
        let cluster = match &args.test.cluster {
            Some(name) => {
                let account = AccountArgs { region: args.test.region.clone(), profile: args.test.profile.clone() };
                Some(open(&account, name).await?)
            }
            None => None,
        };
        // Known by name at least: the API, not the catalog, said what can be launched.
        let of_cluster = |cluster: &Cluster| catalog.instance_type(&cluster.record.instance_type).ok();
        let instance_type = instance_type.or_else(|| cluster.as_ref().and_then(of_cluster));
        let spec = nccl_test::prepare::spec(args, catalog, instance_type, cluster.as_ref(), &events).await?;
        Ok((instance_type, nccl_test::make(&spec, &events, &on_signals()?).await?))
    });
    events.done();
    let (instance_type, made) = made?;
    let shown = |ran: nccl_test::TestRun| LoadedLog {
        name: ran.log.display().to_string(),
        report: ran.report,
        verdict: Some(ran.verdict),
    };
    Ok((instance_type, made.runs.into_iter().map(shown).collect(), made.pairs))
}

/// Tells the first verdict that is no pass, or else the first; the others are named beside it.
fn show(
    args: &ValidateArgs,
    instance_type: Option<&InstanceType>,
    mut shown: Vec<LoadedLog>,
    pairs: Option<&Matrix>,
) -> Result<()> {
    let passed = |shown: &LoadedLog| shown.verdict.as_ref().is_none_or(|verdict| verdict.outcome == Outcome::Pass);
    let first = shown.iter().position(|run| !passed(run)).unwrap_or(0);
    shown[..=first].rotate_right(1);
    let (names, judged): (Vec<&str>, Vec<(&str, &Verdict)>) = (
        shown.iter().map(|run| run.name.as_str()).collect(),
        shown.iter().filter_map(|run| Some((run.name.as_str(), run.verdict.as_ref()?))).collect(),
    );
    let Some((_, verdict)) = judged.first() else { return Err(Error::new(Class::Usage, "no log is given")) };
    let first = &shown[0].report;
    let runs: Vec<NamedReport> =
        names.iter().zip(&shown).map(|(name, run)| NamedReport { name, report: &run.report }).collect();
    if let Some(path) = &args.html {
        files::write(path, html(&runs, verdict, instance_type, pairs)?.as_bytes(), 0o644)?;
    }
    if let Some(path) = &args.junit {
        files::write(path, junit(&judged)?.as_bytes(), 0o644)?;
    }
    match args.output {
        OutputArg::Human => {
            human(first, verdict)?;
            others(&shown)?;
            pairs.map_or(Ok(()), matrix)?;
        }
        OutputArg::Json => {
            let runs = judged.iter().map(|(log, verdict)| Judged { log, verdict }).collect();
            list::json(&JsonOutput { verdict, report: first, runs, pairs })?;
        }
    }
    print_verdict(verdict)
}

/// What `--output json` gives: the verdict that is told, its run, every verdict, and the pairs that were tested because of it.
#[derive(Serialize)]
struct JsonOutput<'a> {
    verdict: &'a Verdict,
    report: &'a Report,
    runs: Vec<Judged<'a>>,
    pairs: Option<&'a Matrix>,
}

#[derive(Serialize)]
struct Judged<'a> {
    log: &'a str,
    verdict: &'a Verdict,
}

/// The verdicts on several runs, one line each.
fn others(shown: &[LoadedLog]) -> Result<()> {
    let judged: Vec<_> = shown.iter().filter_map(|run| Some((run, run.verdict.as_ref()?))).collect();
    if judged.len() < 2 {
        return Ok(());
    }
    terminal::lines([""])?;
    let rows = judged.into_iter().map(|(run, verdict)| {
        let last = run.report.last.as_ref().map_or("-".into(), |last| format!("{:.2}", last.out_of_place));
        let test = run.report.collective.clone().unwrap_or_default();
        [test, verdict.outcome.word().to_owned(), last, run.name.clone()]
    });
    list::table(["test", "verdict", "busbw GB/s", "log"], rows)
}

/// How a file of gzip (RFC 1952) and one of Zstandard (RFC 8878) begin.
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// Whether a frame of other people's data begins so, which a reader passes over.
fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Every frame of a file of Zstandard; the decoder knows one.
struct ZstdFrames {
    /// Between two frames.
    source: Option<Source>,
    frame: Option<Frame>,
}

type Source = BufReader<Box<dyn Read>>;
type Frame = StreamingDecoder<io::Chain<io::Cursor<[u8; 4]>, Source>, FrameDecoder>;

impl Read for ZstdFrames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let length = frame.read(buffer)?;
                if length > 0 || buffer.is_empty() {
                    return Ok(length);
                }
                let chain = self.frame.take().map(StreamingDecoder::into_inner);
                self.source = chain.map(|chain| chain.into_inner().1);
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let mut magic = [0; 4];
            source.read_exact(&mut magic)?;
            if is_skippable(&magic) {
                let mut length = [0; 4];
                source.read_exact(&mut length)?;
                let length = u64::from(u32::from_le_bytes(length));
                if io::copy(&mut source.by_ref().take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.source = Some(source);
                continue;
            }
            self.frame = Some(StreamingDecoder::new(io::Cursor::new(magic).chain(source)).map_err(io::Error::other)?);
        }
    }
}

/// A log, also one that is compressed.
fn read(path: &Path, exit_status: Option<i32>) -> Result<Report> {
    let mut reader = Reader::new();
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(files::open(path, "log")?) };
    let failed =
        |what: &str, error: io::Error| Error::new(Class::Io, format!("{what} {}", path.display())).with_source(error);
    let mut source = BufReader::with_capacity(PIECE, source);
    let begin = source.fill_buf().map_err(|error| failed("could not read log", error))?;
    let zstd = begin.starts_with(ZSTD) || is_skippable(begin);
    let damaged =
        if zstd || begin.starts_with(GZIP) { "this log can't be decompressed:" } else { "could not read log" };
    let mut source: Box<dyn Read> = match () {
        () if zstd => Box::new(ZstdFrames { source: Some(source), frame: None }),
        () if begin.starts_with(GZIP) => Box::new(MultiGzDecoder::new(source)),
        () => Box::new(source),
    };
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(reader.finish(exit_status)),
            Ok(length) => reader.feed(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(damaged, error)),
        }
    }
}

/// The pairs, by host, and every one of them where they are few.
fn matrix(matrix: &Matrix) -> Result<()> {
    terminal::lines(["".to_owned(), format!(" pairs, busbw GB/s at {}", size(matrix.size))])?;
    let number = |figure: f64| format!("{figure:.2}");
    let rows = matrix.hosts.iter().enumerate().map(|(at, host)| {
        let figures = [host.median, host.lowest, host.highest].map(number);
        let [median, lowest, highest] = figures;
        let (pairs, name) = (host.pairs.to_string(), host.name.clone());
        [at.to_string(), host.address.clone(), name, pairs, median, lowest, highest, host.remark()]
    });
    list::table(["", "host", "name", "pairs", "median", "lowest", "highest", "remark"], rows)?;
    let cells = matrix.cells();
    let line = |cells: &[String]| cells.iter().map(|cell| format!("{cell:>7}")).collect::<String>();
    let numbers: Vec<String> = (0..cells.len()).map(|at| at.to_string()).collect();
    let mut lines = Vec::new();
    if !cells.is_empty() {
        lines.extend([String::new(), format!("    {}", line(&numbers))]);
    }
    lines.extend(cells.iter().enumerate().map(|(at, row)| format!("{at:>4}{}", line(row))));
    terminal::lines(lines)
}

/// The exit code that the verdict comes to.
fn print_verdict(verdict: &Verdict) -> Result<()> {
    let hint = verdict.findings.first().map_or("", |finding| &finding.to_do);
    match verdict.outcome {
        Outcome::Pass => Ok(()),
        Outcome::Fail => {
            Err(Error::new(Class::Check, format!("the NCCL verdict is FAIL: {}", verdict.sentence)).hint(hint))
        }
        Outcome::Inconclusive => {
            let message = "the NCCL verdict is INCONCLUSIVE: the log proves neither that EFA worked nor that it failed";
            Err(Error::new(Class::Check, message).hint(hint))
        }
    }
}

fn human(run: &Report, verdict: &Verdict) -> Result<()> {
    let mut lines = vec![format!("EFA-GEN VERDICT: {}: {}", verdict.outcome.word(), verdict.sentence)];
    for finding in &verdict.findings {
        let Finding { check, severity, what, to_do } = finding;
        let word = match severity {
            Severity::Failure => "FAIL   ",
            Severity::Missing => "MISSING",
            Severity::Warning => "WARNING",
        };
        lines.extend([format!("{word}  {}: {what}", check.failure()), format!("         to do: {to_do}")]);
    }
    lines.extend(verdict.notes.iter().map(|note| format!("note     {note}")));
    terminal::lines(lines)?;
    let facts = facts(run, verdict);
    list::table(["", ""], facts.into_iter().map(|(name, value)| [name.to_owned(), value]))?;
    if !run.rows.is_empty() {
        terminal::lines([""])?;
        let busbw = |timing: Option<f64>| timing.map_or("-".to_owned(), |busbw| format!("{busbw:.2}"));
        let rows = run.rows.iter().map(|row| {
            let in_place = row.in_place.as_ref().map(|timing| timing.busbw);
            let wrong = row.out_of_place.wrong.map_or("not checked".to_owned(), |_| row.wrong().to_string());
            [row.size.to_string(), busbw(Some(row.out_of_place.busbw)), busbw(in_place), wrong]
        });
        list::table(["size B", "busbw GB/s", "in place", "wrong"], rows)?;
    }
    hosts(run)
}

/// One line a host: what its ranks said, where it is the same.
fn hosts(run: &Report) -> Result<()> {
    if run.ranks.is_empty() {
        return Ok(());
    }
    let mut order: Vec<&str> = Vec::new();
    let mut lines: BTreeMap<&str, [Vec<String>; 6]> = BTreeMap::new();
    for rank in &run.ranks {
        let line = lines.entry(&rank.host).or_insert_with(|| {
            order.push(&rank.host);
            Default::default()
        });
        let nics = rank.nics.map_or(String::new(), |nics| nics.to_string());
        let gdr = format!("{} of {}", rank.gdr_channels, rank.net_channels);
        line[0].push(rank.rank.map_or("?".into(), |rank| rank.to_string()));
        for (at, seen) in [rank.providers.join(" "), nics, rank.networks.join(" "), gdr].into_iter().enumerate() {
            if !line[at + 1].contains(&seen) {
                line[at + 1].push(seen);
            }
        }
    }
    terminal::lines([""])?;
    let rows = order.iter().take(HOSTS_SHOWN).filter_map(|host| lines.get(host).map(|line| (host, line))).map(
        |(host, [ranks, providers, nics, networks, gdr, _])| {
            let of = format!("{} ({})", ranks.len(), ends(ranks));
            [(*host).to_owned(), of, providers.join(", "), nics.join(", "), networks.join(", "), ends(gdr)]
        },
    );
    list::table(["host", "ranks", "provider", "NICs", "network", "GPUDirect channels"], rows)?;
    if order.len() > HOSTS_SHOWN {
        terminal::lines([format!("and {} more hosts", order.len() - HOSTS_SHOWN)])?;
    }
    Ok(())
}
