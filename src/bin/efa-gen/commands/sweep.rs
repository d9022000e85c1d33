//! Owns `efa-gen sweep`: which runs are dead, what is shown of what they left, and that it goes only when told so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use efa_gen::error::{Class, Error, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::account::{block_on, regions, seconds};
use super::list;
use crate::build::run::{self, Folder};
use crate::build::{sweep, tags};
use crate::cli::OutputArg;
use crate::cli::cloud::SweepArgs;
use crate::ec2::Aws;
use crate::ec2::model::Thing;
use crate::events::Screen;
use crate::report;

/// Something that a run left.
#[derive(Debug, Serialize)]
struct Row {
    region: String,
    kind: &'static str,
    id: String,
    name: String,
    state: String,
    run: String,
    age_seconds: Option<i64>,
    /// Whether its machine has not reached the time at which it ends itself.
    #[serde(skip)]
    lives: bool,
    removed: bool,
    /// Why it is left alone.
    kept: Option<&'static str>,
}

/// What is known of one run in all regions.
#[derive(Debug, Default)]
struct Run {
    /// Indices of its rows.
    rows: Vec<usize>,
    /// Regions in which it left something.
    regions: BTreeSet<String>,
    /// Age of its youngest thing; `None` where a thing does not tell its age.
    youngest: Option<i64>,
    /// Whether a machine of it may still be at work.
    lives: bool,
}

pub fn run(args: &SweepArgs) -> Result<()> {
    let limit = seconds("--older-than", &args.older_than)?;
    if let Some(run) = &args.run {
        match run::folder_of(run) {
            Err(error) if error.class() == Class::Usage => return Err(error),
            _ => {}
        }
    }
    block_on(sweep(args, limit))
}

async fn sweep(args: &SweepArgs, limit: i64) -> Result<()> {
    let regions = regions(&asked(args), args.profile.as_deref()).await?;
    let mut rows = Vec::new();
    let now = Timestamp::now();
    for aws in &regions {
        let found = sweep::look(aws, args.run.as_deref()).await?;
        if !found.kept.is_empty() {
            let text =
                format!("finished images stay in {}, with their snapshots: {}", aws.region, found.kept.join(" "));
            report::say(&format!("note: {text}"));
        }
        rows.extend(found.left.into_iter().map(|thing| row(thing, now)));
    }
    let mut runs = by_run(&rows);
    for name in runs.keys().filter(|name| run::is_at_work(name)).cloned().collect::<Vec<_>>() {
        report::say(&format!("note: run {name} is at work on this machine and left alone"));
        for row in runs.remove(&name).into_iter().flat_map(|run| run.rows) {
            rows[row].kept = Some("at work");
        }
    }
    let young: Vec<String> = runs
        .iter()
        .filter(|(_, run)| args.run.is_none() && !is_old(run, limit))
        .map(|(name, _)| name.clone())
        .collect();
    for name in young {
        let Some(run) = runs.remove(&name) else { continue };
        let why = if run.lives {
            "not at its machine's deadline yet"
        } else if run.youngest.is_some() {
            "younger than --older-than"
        } else {
            "of unknown age"
        };
        report::say(&format!(
            "note: run {name} is {why} and left alone ({} things); --run {name} takes it",
            run.rows.len()
        ));
        for row in run.rows {
            rows[row].kept = Some(why);
        }
    }
    show(args, &rows)?;
    let next = match (runs.is_empty(), args.yes) {
        (true, _) => "note: nothing to remove",
        (false, false) => "note: nothing was removed: --yes removes what is listed",
        (false, true) => "",
    };
    if !next.is_empty() {
        report::say(next);
    }
    if !args.yes {
        return if args.output == OutputArg::Json { list::json(&rows) } else { Ok(()) };
    }
    let left = remove(args, &regions, &runs).await?;
    if args.output == OutputArg::Json {
        for row in rows.iter_mut().filter(|row| row.kept.is_none()) {
            row.removed = !left.iter().any(|thing| thing.id == row.id && thing.region == row.region);
        }
        list::json(&rows)?;
    }
    if left.is_empty() { Ok(()) } else { Err(sweep::still_there(&left)) }
}

/// The regions to look in: those that are given, else where the run was by its own record, its copies included.
fn asked(args: &SweepArgs) -> Vec<String> {
    let Some(run) = args.run.as_ref().filter(|_| args.region.is_empty()) else { return args.region.clone() };
    // What can't be read is told of where the folder is about to go.
    let place = run::folder_of(run).and_then(|path| Folder { path, run: run.clone() }.place()).ok().flatten();
    let copies = Folder::open(run).map(|(_, record)| record.args.publish.copy_to).unwrap_or_default();
    place.map(|place| [vec![place.region], copies].concat()).unwrap_or_default()
}

/// Removes dead runs, and their folders here where nothing of them is left. Returns what is still there.
async fn remove(args: &SweepArgs, regions: &[Aws], runs: &BTreeMap<String, Run>) -> Result<Vec<Thing>> {
    let talk = Screen::new(args.output, false).talk("sweep");
    let mut left = Vec::new();
    let asked = args.run.iter().filter(|run| !run::is_at_work(run));
    let names: BTreeSet<&String> = runs.keys().chain(asked).collect();
    for name in names {
        let local = local(name, regions).await?;
        let mut known = local.as_ref().map(|local| local.known.clone()).unwrap_or_default();
        let mut here = Vec::new();
        for aws in regions {
            let listed = runs.get(name).is_some_and(|run| run.regions.contains(&aws.region));
            let (of_region, others): (Vec<Thing>, _) = known.into_iter().partition(|thing| thing.region == aws.region);
            known = others;
            if listed || !of_region.is_empty() {
                here.extend(sweep::undo(aws, name, &[], &of_region, BTreeSet::new(), &talk, None).await?);
            }
        }
        if let (Some(local), true) = (local, here.is_empty() && known.is_empty()) {
            fs::remove_dir_all(&local.path).map_err(|error| {
                Error::new(Class::Io, format!("could not remove {}", local.path.display())).because(error)
            })?;
            report::say(&format!("removed {}", local.path.display()));
        }
        left.append(&mut here);
    }
    talk.done();
    Ok(left)
}

/// A run's folder here, and what its ledger has.
struct Local {
    path: PathBuf,
    known: Vec<Thing>,
}

/// What is kept of a run on this machine, unless it is of an account or a region that was not looked at: then it is all
/// that tells of what is left there, and stays.
async fn local(name: &str, regions: &[Aws]) -> Result<Option<Local>> {
    // A run of another machine has none, nor has a tag that is no run's name.
    let Some(path) = run::folder_of(name).ok().filter(|path| path.exists()) else { return Ok(None) };
    let folder = Folder { path: path.clone(), run: name.to_owned() };
    let place = match folder.place() {
        Ok(Some(place)) => place,
        Ok(None) => return Ok(Some(Local { path, known: Vec::new() })),
        Err(error) => {
            report::say(&format!("note: {error}; it stays"));
            return Ok(None);
        }
    };
    let Some(aws) = regions.iter().find(|aws| aws.region == place.region) else {
        report::say(&format!("note: {} stays: run {name} was in {}", path.display(), place.region));
        return Ok(None);
    };
    if aws.identity().await?.account != place.account {
        report::say(&format!("note: {} stays: run {name} was in account {}", path.display(), place.account));
        return Ok(None);
    }
    Ok(Some(Local { path, known: folder.known()? }))
}

fn row(thing: Thing, now: Timestamp) -> Row {
    let run = thing.tags.get(tags::RUN).cloned().unwrap_or_default();
    let made = thing.created.parse::<Timestamp>().ok().or_else(|| began(&run));
    let until = thing.tags.get(tags::UNTIL).and_then(|until| until.parse::<Timestamp>().ok());
    Row {
        lives: until.is_some_and(|until| until > now),
        age_seconds: made.map(|made| (now.as_second() - made.as_second()).max(0)),
        region: thing.region,
        kind: thing.kind.name(),
        id: thing.id,
        name: thing.name,
        state: thing.state,
        run,
        removed: false,
        kept: None,
    }
}

/// When a run began, by its name: groups and addresses have no time of their own.
fn began(run: &str) -> Option<Timestamp> {
    let date = jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", run.get(..15)?).ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

fn by_run(rows: &[Row]) -> BTreeMap<String, Run> {
    let mut runs: BTreeMap<String, Run> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let run = runs.entry(row.run.clone()).or_default();
        run.youngest = match (run.rows.is_empty(), run.youngest, row.age_seconds) {
            (true, _, age) => age,
            (false, Some(youngest), Some(age)) => Some(youngest.min(age)),
            (false, ..) => None,
        };
        run.lives |= row.lives;
        run.rows.push(index);
        run.regions.insert(row.region.clone());
    }
    runs
}

/// A run goes as a whole, by its youngest thing: the group of a build that has just launched its builder is in use; so is
/// everything of a machine that has not reached its deadline. Whoever names a run knows that it is dead.
fn is_old(run: &Run, limit: i64) -> bool {
    !run.lives && (limit == 0 || run.youngest.is_some_and(|age| age >= limit))
}

fn show(args: &SweepArgs, rows: &[Row]) -> Result<()> {
    let going: Vec<&Row> = rows.iter().filter(|row| row.kept.is_none()).collect();
    if args.output == OutputArg::Json || going.is_empty() {
        return Ok(());
    }
    let cells = going.into_iter().map(|row| {
        let age = row.age_seconds.map_or("?".to_owned(), age);
        let owned = |text: &String| text.clone();
        [&row.region, &row.kind.to_owned(), &row.id, &row.name, &row.state, &age, &row.run].map(owned)
    });
    list::table(["region", "kind", "id", "name", "state", "age", "run"], cells)
}

/// `90s`, `3h`: in the largest unit of which there are two.
fn age(seconds: i64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(size, _)| seconds >= 2 * size);
    unit.map_or(format!("{seconds}s"), |(size, name)| format!("{}{name}", seconds / size))
}
