//! Owns finding the bad host of a cluster: which pairs are tested side by side, and which hosts their bandwidths name.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use super::{Check, End, Finding, Outcome, Report, Severity, Verdict};
use crate::catalog::bar::{Bar, BarQuery};
use crate::catalog::instance_type::InstanceType;
use crate::text::size;

/// Up to so many hosts every pair is tested.
pub const ALL_PAIRS: usize = 16;

/// Pairs that each of more hosts is in at least. A good host is in more bad pairs than good ones only by an accident that
/// naming the worst hosts first undoes.
const PAIRS_PER_HOST: usize = 3;

/// A pair is bad below this part of the best pair's bandwidth: a host of four NICs that has lost one reaches 0.75, and good
/// pairs of one placement group differ by some hundredths.
const OUTLIER_RATIO: f64 = 0.8;

/// Two hosts, by their numbers, the smaller one first.
pub type Pair = (usize, usize);

/// The rounds in which pairs are tested: within a round no host is in two pairs, and over all rounds no pair is there twice.
/// With up to [`ALL_PAIRS`] hosts every pair is there.
pub fn rounds(hosts: usize) -> Vec<Vec<Pair>> {
    let all = all_rounds(hosts);
    if hosts <= ALL_PAIRS {
        return (0..all).map(|at| round(hosts, at)).collect();
    }
    // Of an odd number each may rest in one.
    let few = PAIRS_PER_HOST + hosts % 2;
    (0..few).map(|part| round(hosts, part * all / few)).collect()
}

/// Rounds that it takes to have every pair.
pub fn all_rounds(hosts: usize) -> usize {
    // With an odd number, each host rests in one of them.
    hosts.next_multiple_of(2).saturating_sub(1)
}

/// One round by the circle method: one host stays, the others go round it; who meets the one that is not there rests.
fn round(hosts: usize, at: usize) -> Vec<Pair> {
    let around = all_rounds(hosts);
    let opposite = |step: usize| ((at + step) % around, (at + around - step) % around);
    let pairs = std::iter::once((at, around)).chain((1..=around / 2).map(opposite));
    pairs.map(|(one, other)| (one.min(other), one.max(other))).filter(|(_, other)| *other < hosts).collect()
}

/// What a pair's log says of one of its hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Side {
    /// What it calls itself.
    pub name: String,
    /// NICs of the rank that found the fewest, where the log says so.
    pub nics: Option<u64>,
    /// libfabric providers.
    pub providers: Vec<String>,
}

/// A pair that was tested.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairResult {
    /// Which hosts.
    pub hosts: Pair,
    /// Bus bandwidth of the largest size, GB/s; absent where the pair failed.
    pub busbw: Option<f64>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Whether it is below the bar of two hosts.
    pub below_bar: bool,
    /// Its hosts, in their order; empty where the log does not name both.
    pub sides: Vec<Side>,
}

impl PairResult {
    /// What the log of a pair's test comes to.
    pub fn new(hosts: Pair, report: &Report, verdict: &Verdict) -> Self {
        let failures = || verdict.of(Severity::Failure).filter(|finding| finding.check != Check::TooSlow);
        let row = report.rows.last().filter(|_| report.end == End::Complete && failures().next().is_none());
        let failure = failures().next().map(|finding| format!("{}: {}", finding.check.failure(), finding.what));
        let side = |name: &String| {
            let ranks = || report.ranks.iter().filter(|rank| rank.host == *name);
            let mut providers: Vec<String> = ranks().flat_map(|rank| rank.providers.clone()).collect();
            providers.sort();
            providers.dedup();
            Side { name: name.clone(), nics: ranks().filter_map(|rank| rank.nics).min(), providers }
        };
        let sides = if report.hosts.len() == 2 { report.hosts.iter().map(side).collect() } else { Vec::new() };
        PairResult {
            hosts,
            busbw: row.map(|row| row.worst_busbw()),
            failure: failure.or_else(|| row.is_none().then(|| "incomplete".to_owned())),
            below_bar: verdict.of(Severity::Failure).any(|finding| finding.check == Check::TooSlow),
            sides,
        }
    }
}

/// What the bandwidths of pairs come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outliers {
    /// No host is worse than the others: all are good, or all are bad.
    Alike,
    /// These hosts, the worst first.
    Hosts(Vec<usize>),
    /// Some pairs are bad, but they do not come down to hosts: the way between some hosts is.
    Ways,
}

/// Which hosts stand out. A pair is bad if it failed, or is below [`OUTLIER_RATIO`] of the best one. A host is named if more than half
/// of its pairs are bad, which is to say that its median is far below the best; the one with the largest part of bad pairs
/// first, and the next without its pairs, so that no host is named for a bad peer. Hosts that are good with each other are
/// not named, for then the way between them and the rest is bad.
pub fn outliers(hosts: usize, measured: &[PairResult]) -> Outliers {
    let best = measured.iter().filter_map(|pair| pair.busbw).max_by(f64::total_cmp);
    let Some(best) = best else { return Outliers::Alike };
    let is_bad = |pair: &PairResult| pair.busbw.is_none_or(|busbw| busbw.is_nan() || busbw < OUTLIER_RATIO * best);
    if !measured.iter().any(is_bad) {
        return Outliers::Alike;
    }
    let pairs = by_host(hosts, measured);
    let share = |host: usize, is_named: &[bool]| {
        let left = pairs[host].iter().filter(|pair| !is_named[pair.hosts.0] && !is_named[pair.hosts.1]);
        left.fold(Share { bad: 0, all: 0, host }, |share, pair| Share {
            bad: share.bad + u64::from(is_bad(pair)),
            all: share.all + 1,
            host,
        })
    };
    let mut named: Vec<usize> = Vec::new();
    let mut is_named = vec![false; hosts];
    let mut shares: BTreeSet<Share> = (0..hosts).map(|host| share(host, &is_named)).collect();
    while let Some(worst) = shares.pop_last().filter(|worst| worst.bad * 2 > worst.all) {
        // Its pairs count no more for its peers.
        let peers: BTreeSet<usize> = pairs[worst.host]
            .iter()
            .flat_map(|pair| [pair.hosts.0, pair.hosts.1])
            .filter(|peer| !is_named[*peer])
            .collect();
        let before: Vec<Share> = peers.iter().map(|peer| share(*peer, &is_named)).collect();
        named.push(worst.host);
        is_named[worst.host] = true;
        for share in before.iter().filter(|share| share.host != worst.host) {
            shares.remove(share);
        }
        shares.extend(peers.into_iter().filter(|peer| *peer != worst.host).map(|peer| share(peer, &is_named)));
    }
    let mut is_good = vec![false; hosts];
    let both = |pair: &&PairResult| is_named[pair.hosts.0] && is_named[pair.hosts.1];
    for pair in measured.iter().filter(both).filter(|pair| !is_bad(pair)) {
        (is_good[pair.hosts.0], is_good[pair.hosts.1]) = (true, true);
    }
    named.retain(|host| !is_good[*host]);
    if named.is_empty() { Outliers::Ways } else { Outliers::Hosts(named) }
}

/// The pairs of every host.
fn by_host(hosts: usize, measured: &[PairResult]) -> Vec<Vec<&PairResult>> {
    let mut of: Vec<Vec<&PairResult>> = vec![Vec::new(); hosts];
    for pair in measured {
        of[pair.hosts.0].push(pair);
        of[pair.hosts.1].push(pair);
    }
    of
}

/// How many of a host's pairs are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    bad: u64,
    all: u64,
    host: usize,
}

impl Ord for Share {
    /// By the part that is bad, without a division; of equals the one with more bad pairs is worse, then the first host. One
    /// without pairs is the best.
    fn cmp(&self, other: &Self) -> Ordering {
        let part = (self.bad * other.all).cmp(&(other.bad * self.all));
        let empty = (self.all > 0).cmp(&(other.all > 0));
        empty.then(part).then(self.bad.cmp(&other.bad)).then(other.host.cmp(&self.host))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A host and its pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostLine {
    /// As in the hostfile.
    pub address: String,
    /// What it calls itself; empty where no log says so.
    pub name: String,
    /// Its pairs.
    pub pairs: usize,
    /// Of them, those that failed.
    pub failed: usize,
    /// Of its pairs' bandwidths, GB/s; a pair that failed counts as 0.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// How the first of them failed.
    pub failure: Option<String>,
    /// What else is odd about it: NICs, provider.
    pub odd: Vec<String>,
}

impl HostLine {
    /// What stands beside its figures.
    pub fn remark(&self) -> String {
        // The others' pairs with a bad host say nothing of them.
        let failed = self.failure.iter().map(|why| match (self.failed, self.pairs) {
            (failed, pairs) if failed * 2 > pairs => format!("{failed} of {pairs} pairs failed ({why})"),
            (failed, pairs) => format!("{failed} of {pairs} pairs failed"),
        });
        failed.chain(self.odd.iter().cloned()).collect::<Vec<_>>().join(", ")
    }
}

/// Every pair that was tested, and what that comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matrix {
    /// Size that was measured, bytes.
    pub size: u64,
    /// The hosts in the order of the hostfile.
    pub hosts: Vec<HostLine>,
    /// The pairs in the order of their rounds.
    pub pairs: Vec<PairResult>,
    /// Rounds that were made, and how many have every pair.
    pub rounds: (usize, usize),
    /// Which hosts stand out.
    pub found: Outliers,
}

impl Matrix {
    /// From the addresses of the hosts and their pairs.
    pub fn new(addresses: &[String], size: u64, rounds: usize, pairs: Vec<PairResult>) -> Self {
        let found = outliers(addresses.len(), &pairs);
        let usual = usual_nics(&pairs);
        let of = by_host(addresses.len(), &pairs);
        let hosts = addresses
            .iter()
            .zip(&of)
            .enumerate()
            .map(|(host, (address, own))| line(host, address, own, usual))
            .collect();
        Matrix { size, hosts, pairs, rounds: (rounds, all_rounds(addresses.len())), found }
    }

    /// What was found, in one sentence without its full stop.
    pub fn sentence(&self) -> String {
        let best = self.hosts.iter().map(|host| host.highest).max_by(f64::total_cmp).unwrap_or_default();
        let told = |host: &usize| {
            let host = &self.hosts[*host];
            let name = if host.name.is_empty() { String::new() } else { format!(" ({})", host.name) };
            let median = format!("median {:.2} GB/s, the best pair {best:.2}", host.median);
            let figures = Some(median).filter(|_| host.failed < host.pairs);
            let words = figures.into_iter().chain(Some(host.remark()).filter(|remark| !remark.is_empty()));
            format!("{}{name}: {}", host.address, words.collect::<Vec<_>>().join(", "))
        };
        match &self.found {
            Outliers::Hosts(named) => {
                let word = if named.len() == 1 { "one host stands out" } else { "these hosts stand out" };
                format!("{word}: {}", named.iter().map(told).collect::<Vec<_>>().join("; "))
            }
            Outliers::Ways => {
                "no host stands out, but some pairs are far below others: the path between them is slow".into()
            }
            Outliers::Alike if self.pairs.iter().all(|pair| pair.busbw.is_none()) => {
                let why = self.pairs.iter().find_map(|pair| pair.failure.clone()).unwrap_or_default();
                format!("all hosts are alike: every pair failed ({why})")
            }
            Outliers::Alike => {
                let figures = || self.pairs.iter().filter_map(|pair| pair.busbw);
                let (low, high) = (figures().min_by(f64::total_cmp), figures().max_by(f64::total_cmp));
                let (low, high) = (low.unwrap_or_default(), high.unwrap_or_default());
                format!("all hosts are alike: their pairs reach {low:.2} to {high:.2} GB/s at {}", size(self.size))
            }
        }
    }

    /// The figures as a square, by hosts: `-` where there is no pair, `failed` where it has none. Empty where hosts are too
    /// many to look at.
    pub fn cells(&self) -> Vec<Vec<String>> {
        if self.hosts.len() > ALL_PAIRS {
            return Vec::new();
        }
        let mut cells = vec![vec!["-".to_owned(); self.hosts.len()]; self.hosts.len()];
        for PairResult { hosts: (one, other), busbw, .. } in &self.pairs {
            let figure = busbw.map_or("failed".to_owned(), |busbw| format!("{busbw:.2}"));
            cells[*one][*other].clone_from(&figure);
            cells[*other][*one] = figure;
        }
        cells
    }

    /// How much was tested: `every pair`, or how many rounds.
    pub fn scope(&self) -> String {
        let (made, all) = self.rounds;
        let pairs = self.pairs.len();
        if made == all {
            return format!("every pair of {} hosts ({pairs}), in {made} rounds", self.hosts.len());
        }
        format!("{pairs} pairs of {} hosts, in {made} of the {all} rounds that have every pair", self.hosts.len())
    }
}

fn line(host: usize, address: &str, pairs: &[&PairResult], usual: Option<u64>) -> HostLine {
    let own = || pairs.iter().copied();
    let mut figures: Vec<f64> = own().map(|pair| pair.busbw.unwrap_or_default()).collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let median = match figures.len() {
        0 => 0.0,
        length if length % 2 == 0 => f64::midpoint(figures[middle - 1], figures[middle]),
        _ => figures[middle],
    };
    let side = |pair: &PairResult| pair.sides.get(usize::from(pair.hosts.1 == host)).cloned();
    let sides: Vec<Side> = own().filter_map(side).collect();
    let nics = sides.iter().filter_map(|side| side.nics).min();
    let other = sides.iter().flat_map(|side| &side.providers).find(|provider| *provider != "efa");
    let failed: Vec<&String> = own().filter_map(|pair| pair.failure.as_ref()).collect();
    let odd = [
        nics.zip(usual)
            .filter(|(nics, usual)| nics != usual)
            .map(|(nics, usual)| format!("{nics} NICs, others {usual}")),
        other.map(|provider| format!("provider {provider}")),
    ];
    HostLine {
        address: address.to_owned(),
        name: sides.first().map(|side| side.name.clone()).unwrap_or_default(),
        pairs: figures.len(),
        failed: failed.len(),
        median,
        lowest: figures.first().copied().unwrap_or_default(),
        highest: figures.last().copied().unwrap_or_default(),
        failure: failed.first().map(|why| (*why).clone()),
        odd: odd.into_iter().flatten().collect(),
    }
}

/// The number of NICs that most logs tell of.
fn usual_nics(pairs: &[PairResult]) -> Option<u64> {
    let mut counts = std::collections::BTreeMap::<u64, usize>::new();
    for nics in pairs.iter().flat_map(|pair| &pair.sides).filter_map(|side| side.nics) {
        *counts.entry(nics).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(nics, _)| nics)
}

/// Why pairs should be tested after this run on more than two hosts: it is slow or wrong, or failed, and nothing names the
/// host. `None` where they would tell nothing.
pub fn wanted(
    report: &Report,
    verdict: &Verdict,
    addresses: &[String],
    instance_type: Option<&InstanceType>,
    bars: &[Bar],
) -> Option<String> {
    if addresses.len() < 3 {
        return None;
    }
    match verdict.of(Severity::Failure).next() {
        Some(Finding { check: Check::TooSlow, .. }) => Some("it is slow".into()),
        Some(Finding { check: Check::WrongResult, .. }) => Some("its values are wrong".into()),
        Some(Finding { check: Check::RunFailed | Check::Incomplete, .. }) => {
            (!names_a_host(report, addresses)).then(|| "it failed, and nothing names the host".into())
        }
        Some(_) => None,
        // Bars are known for two hosts only; a ring of more has no reason to be far slower.
        None => below_two_hosts(report, instance_type?, bars)
            .map(|bar| format!("it is below {bar} GB/s, the bar of two hosts, and none is known for so many")),
    }
}

/// Whether a message tells on which host it failed. NCCL's own failures do not: each rank speaks of its peers'.
fn names_a_host(report: &Report, addresses: &[String]) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let hosts: HashSet<&str> = addresses.iter().chain(&report.hosts).map(String::as_str).collect();
    let known = |word: &str| hosts.contains(word);
    let told = report.failures.iter().filter(|failure| !failure.line.contains("Test NCCL failure"));
    told.filter(|failure| !failure.line.contains("Test failure"))
        .any(|failure| failure.line.split(|c| !part(c)).any(|word| known(word.trim_end_matches('.'))))
}

/// The bar of two hosts, GB/s, where the run is below it.
fn below_two_hosts(report: &Report, instance_type: &InstanceType, bars: &[Bar]) -> Option<f64> {
    let of = |hosts: u64| BarQuery {
        instance_type: &instance_type.name,
        hosts,
        gpus_per_host: report.gpus_per_host().unwrap_or(0),
        nccl: report.versions.nccl.first().map(String::as_str),
        plugin: report.versions.plugin.first().map(String::as_str),
    };
    let own = of(report.hosts.len() as u64);
    if bars.iter().any(|bar| bar.fits(&own)) {
        return None;
    }
    let bar = bars.iter().rev().find(|bar| bar.fits(&of(2)))?;
    let row = report.rows.iter().rfind(|row| row.size == bar.size)?;
    (row.worst_busbw() < bar.fail_below).then_some(bar.fail_below)
}

/// Adds what the pairs tell to the verdict on the whole. Hosts that stand out, or pairs below their bar, fail it.
pub fn add_findings(verdict: &mut Verdict, matrix: &Matrix) {
    let sentence = matrix.sentence();
    verdict.notes.push(format!("pairs: {}: {sentence}", matrix.scope()));
    let to_do = match &matrix.found {
        Outliers::Hosts(named) => format!(
            "test without {}; look there at the EFA devices (fi_info -p efa), the GPUs (nvidia-smi -q -d ECC) and dmesg",
            named.iter().map(|host| matrix.hosts[*host].address.as_str()).collect::<Vec<_>>().join(", ")
        ),
        Outliers::Ways => "launch the hosts together in one placement group".into(),
        Outliers::Alike => {
            "pairs of hosts are all alike, so the cause is the same everywhere: check the placement group, the number of EFAs, \
             the versions and NCCL's environment"
                .into()
        }
    };
    let below = matrix.pairs.iter().filter(|pair| pair.below_bar).count();
    match verdict.findings.first_mut().filter(|finding| finding.severity == Severity::Failure) {
        Some(first) => first.to_do = to_do,
        None if matrix.found != Outliers::Alike || below > 0 => {
            let what = if matrix.found == Outliers::Alike {
                format!("{below} pairs are below the bar; {sentence}")
            } else {
                sentence
            };
            verdict.outcome = Outcome::Fail;
            verdict.sentence = format!("{}: {what}", Check::TooSlow.failure());
            verdict.findings.insert(0, Finding { check: Check::TooSlow, severity: Severity::Failure, what, to_do });
        }
        None => {}
    }
}
