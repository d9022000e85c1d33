//! Owns `efa-gen sweep`: which runs are dead, what is shown of what they left, and that it goes only when told so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use efa_gen::error::{Class, Error, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::account::{block_on, regions};
use super::list;
use crate::aws::Aws;
use crate::aws::model::Resource;
use crate::cli::OutputArg;
use crate::cli::cloud::SweepArgs;
use crate::cli::time::seconds;
use crate::image::record;
use crate::io::events::Reporter;
use crate::io::terminal;
use crate::run::cleanup::{Cleanup, Whose, clean_up};
use crate::run::id::{began, folder_of};
use crate::run::state::{self, RunState};
use crate::run::{cleanup, tags};

/// Something that a run left.
#[derive(Debug, Serialize)]
struct SweepRow {
    region: String,
    kind: &'static str,
    id: String,
    /// Its tag `Name`, or the name that EC2 knows it by.
    name: String,
    state: String,
    /// ISO 8601, or empty where EC2 does not tell.
    created: String,
    run: String,
    age_seconds: Option<i64>,
    /// Why it counts as the run's.
    evidence: Option<String>,
    /// Whether its machine has not reached the time at which it ends itself.
    #[serde(skip)]
    lives: bool,
    removed: bool,
    /// Why it is left alone.
    kept: Option<String>,
}

/// What is known of one run in all regions.
#[derive(Debug, Default)]
struct RunLeftovers {
    /// Indices of its rows.
    rows: Vec<usize>,
    /// Regions in which it left something.
    regions: BTreeSet<String>,
    /// Age of its youngest thing.
    youngest: i64,
    /// Whether a machine of it may still be at work.
    lives: bool,
}

pub fn run(args: &SweepArgs) -> Result<()> {
    let limit = seconds("--older-than", &args.older_than)?;
    if let Some(run) = &args.run {
        match folder_of(run) {
            Err(error) if error.class() == Class::Usage => return Err(error),
            _ => {}
        }
    }
    block_on(sweep(args, limit))
}

async fn sweep(args: &SweepArgs, limit: i64) -> Result<()> {
    let regions = regions(&asked(args), args.profile.as_deref()).await?;
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    let now = Timestamp::now();
    for aws in &regions {
        let whose = args.run.as_deref().map_or(Whose::All, Whose::Run);
        let mut found = cleanup::list(aws, whose, &BTreeSet::new()).await?;
        if !found.kept.is_empty() {
            let text =
                format!("finished images stay in {}, with their snapshots: {}", aws.region, found.kept.join(" "));
            terminal::message(&format!("note: {text}"));
        }
        for (resource, why) in found.others {
            terminal::message(&format!("note: {}", cleanup::left_alone(&resource, &why)));
            others.push(SweepRow { kept: Some(why), ..row(resource, None, now) });
        }
        rows.extend(found.left.into_iter().map(|resource| {
            let evidence = found.evidence.remove(&resource.id);
            row(resource, evidence, now)
        }));
    }
    let mut runs = by_run(&rows);
    rows.append(&mut others);
    for name in runs.keys().filter(|name| state::is_active(name)).cloned().collect::<Vec<_>>() {
        terminal::message(&format!("note: run {name} is at work on this machine and left alone"));
        for row in runs.remove(&name).into_iter().flat_map(|run| run.rows) {
            rows[row].kept = Some("at work".to_owned());
        }
    }
    let young: Vec<String> = runs
        .iter()
        .filter(|(_, run)| args.run.is_none() && !is_old(run, limit))
        .map(|(name, _)| name.clone())
        .collect();
    for name in young {
        let Some(run) = runs.remove(&name) else { continue };
        let why = if run.lives { "not at its machine's deadline yet" } else { "younger than --older-than" };
        terminal::message(&format!(
            "note: run {name} is {why} and left alone ({} things); --run {name} takes it",
            run.rows.len()
        ));
        for row in run.rows {
            rows[row].kept = Some(why.to_owned());
        }
    }
    show(args, &rows)?;
    let next = match (runs.is_empty(), args.yes) {
        (true, _) => "note: nothing to remove",
        (false, false) => "note: nothing was removed: --yes removes what is listed",
        (false, true) => "",
    };
    if !next.is_empty() {
        terminal::message(next);
    }
    if !args.yes {
        return if args.output == OutputArg::Json { list::json(&rows) } else { Ok(()) };
    }
    let left = remove(args, &regions, &runs).await?;
    if args.output == OutputArg::Json {
        for row in rows.iter_mut().filter(|row| row.kept.is_none()) {
            row.removed = !left.iter().any(|resource| resource.id == row.id && resource.region == row.region);
        }
        list::json(&rows)?;
    }
    if left.is_empty() { Ok(()) } else { Err(cleanup::still_there(&left)) }
}

/// The regions to look in: those that are given, else where the run was by its own record, its copies included.
fn asked(args: &SweepArgs) -> Vec<String> {
    let Some(run) = args.run.as_ref().filter(|_| args.region.is_empty()) else { return args.region.clone() };
    // What can't be read is told of where the folder is about to go.
    let place = folder_of(run).and_then(|path| RunState { path, run: run.clone() }.location()).ok().flatten();
    let copies = record::open(run).map(|(_, record)| record.args.publish.copy_to).unwrap_or_default();
    place.map(|place| [vec![place.region], copies].concat()).unwrap_or_default()
}

/// Removes dead runs, and their folders here where nothing of them is left. Returns what is still there.
async fn remove(args: &SweepArgs, regions: &[Aws], runs: &BTreeMap<String, RunLeftovers>) -> Result<Vec<Resource>> {
    let events = Reporter::new(args.output.into(), false).events("sweep");
    let mut left = Vec::new();
    let asked = args.run.iter().filter(|run| !state::is_active(run));
    let names: BTreeSet<&String> = runs.keys().chain(asked).collect();
    for name in names {
        // A run that somebody goes on with since it was listed is no dead one.
        let _lock = lock(name)?;
        let local = local(name, regions).await?;
        let mut known = local.as_ref().map(|local| local.known.clone()).unwrap_or_default();
        let mut here = Vec::new();
        for aws in regions {
            let listed = runs.get(name).is_some_and(|run| run.regions.contains(&aws.region));
            let (of_region, others): (Vec<Resource>, _) =
                known.into_iter().partition(|resource| resource.region == aws.region);
            known = others;
            if listed || !of_region.is_empty() {
                here.extend(
                    clean_up(
                        Cleanup {
                            aws,
                            run: name,
                            cluster: None,
                            events: &events,
                            regions: &[],
                            known: &of_region,
                            keep: BTreeSet::new(),
                        },
                        None,
                    )
                    .await?,
                );
            }
        }
        if let (Some(local), true) = (local, here.is_empty() && known.is_empty()) {
            if local.state.has_published()? {
                // Its ledger knows the image again.
                local.state.forget_secrets()?;
            } else {
                local.state.forget()?;
                terminal::message(&format!("removed {}", local.state.path.display()));
            }
        }
        left.append(&mut here);
    }
    events.done();
    Ok(left)
}

/// Keeps others from a run that has a folder here.
fn lock(run: &str) -> Result<Option<File>> {
    // A tag need not be a run's name.
    let Some(path) = folder_of(run).ok().filter(|path| path.exists()) else { return Ok(None) };
    RunState { path, run: run.to_owned() }.lock().map(Some)
}

/// A run's folder here, and what its ledger has.
struct Local {
    state: RunState,
    known: Vec<Resource>,
}

/// What is kept of a run on this machine, unless it is of an account or a region that was not looked at: then it is all
/// that tells of what is left there, and stays.
async fn local(name: &str, regions: &[Aws]) -> Result<Option<Local>> {
    // A run of another machine has none, nor has a tag that is no run's name.
    let Some(path) = folder_of(name).ok().filter(|path| path.exists()) else { return Ok(None) };
    let state = RunState { path: path.clone(), run: name.to_owned() };
    let stays = |error: Error| {
        terminal::message(&format!("note: {error}; it stays"));
        Ok(None)
    };
    let place = match state.location() {
        Ok(Some(place)) => place,
        Ok(None) => match state.has_published() {
            Ok(true) => {
                terminal::message(&format!(
                    "note: {} stays: by it, this machine knows its image again",
                    path.display()
                ));
                return Ok(None);
            }
            Ok(false) => return Ok(Some(Local { state, known: Vec::new() })),
            Err(error) => return stays(error),
        },
        Err(error) => return stays(error),
    };
    let known = match state.cut_line().and_then(|note| Ok((state.known()?, note))) {
        Ok((known, note)) => {
            note.iter().for_each(|note| terminal::message(&format!("note: {note}")));
            known
        }
        Err(error) => return stays(error),
    };
    let Some(aws) = regions.iter().find(|aws| aws.region == place.region) else {
        terminal::message(&format!("note: {} stays: run {name} was in {}", path.display(), place.region));
        return Ok(None);
    };
    if aws.identity().await?.account != place.account {
        terminal::message(&format!("note: {} stays: run {name} was in account {}", path.display(), place.account));
        return Ok(None);
    }
    Ok(Some(Local { state, known }))
}

fn row(resource: Resource, evidence: Option<String>, now: Timestamp) -> SweepRow {
    let run = resource.tags.get(tags::RUN).cloned().unwrap_or_default();
    let made = resource.created.parse::<Timestamp>().ok().or_else(|| began(&run));
    let until = resource.tags.get(tags::UNTIL).and_then(|until| until.parse::<Timestamp>().ok());
    SweepRow {
        lives: until.is_some_and(|until| until > now),
        age_seconds: made.map(|made| (now.as_second() - made.as_second()).max(0)),
        region: resource.region,
        kind: resource.kind.name(),
        id: resource.id,
        name: resource.tags.get("Name").cloned().unwrap_or(resource.name),
        state: resource.state,
        created: resource.created,
        run,
        evidence,
        removed: false,
        kept: None,
    }
}

fn by_run(rows: &[SweepRow]) -> BTreeMap<String, RunLeftovers> {
    let mut runs: BTreeMap<String, RunLeftovers> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let run = runs.entry(row.run.clone()).or_default();
        let age = row.age_seconds.unwrap_or_default();
        run.youngest = if run.rows.is_empty() { age } else { run.youngest.min(age) };
        run.lives |= row.lives;
        run.rows.push(index);
        run.regions.insert(row.region.clone());
    }
    runs
}

/// A run goes as a whole, by its youngest thing: the group of a build that has just launched its builder is in use; so is
/// everything of a machine that has not reached its deadline. Whoever names a run knows that it is dead.
fn is_old(run: &RunLeftovers, limit: i64) -> bool {
    !run.lives && run.youngest >= limit
}

fn show(args: &SweepArgs, rows: &[SweepRow]) -> Result<()> {
    let going: Vec<&SweepRow> = rows.iter().filter(|row| row.kept.is_none()).collect();
    if args.output == OutputArg::Json || going.is_empty() {
        return Ok(());
    }
    let cells = going.into_iter().map(|row| {
        let age = row.age_seconds.map_or("?".to_owned(), age);
        let owned = |text: &String| text.clone();
        let why = row.evidence.clone().unwrap_or_default();
        let (kind, created) = (row.kind.to_owned(), row.created.get(..10).unwrap_or(&row.created).to_owned());
        [&row.region, &kind, &row.id, &row.name, &row.state, &created, &age, &row.run, &why].map(owned)
    });
    list::table(["region", "kind", "id", "name", "state", "created", "age", "run", "why it is the run's"], cells)
}

/// `90s`, `3h`: in the largest unit of which there are two.
fn age(seconds: i64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(size, _)| seconds >= 2 * size);
    unit.map_or(format!("{seconds}s"), |(size, name)| format!("{}{name}", seconds / size))
}
