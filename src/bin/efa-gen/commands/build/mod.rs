//! Owns `efa-gen build`: the preflights of everything that is to be built, the runs side by side, the signals that stop
//! them, and the summary.

mod finish;
mod job;
pub mod summary;

use efa_gen::error::{Class, Error, Result};
use efa_gen::render::{self, Format};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use self::finish::finish;
use self::job::{BuildJob, BuildOutcome, Resumed, jobs, new_run};
use super::{installer, list};
use crate::aws::Aws;
use crate::cli::OutputArg;
use crate::cli::cloud::{BuildArgs, BuildDriver};
use crate::image::build::{Build, Built};
use crate::image::manifest::manifest;
use crate::image::preflight::{BuildPreflight, ResolvedBuild};
use crate::image::record::keep;
use crate::image::{packer, publish};
use crate::io::events::{Event, EventSink, Reporter};
use crate::io::signals::{interrupted, on_signals};
use crate::io::{files, terminal};
use crate::preflight::problem;
use crate::run::context::RunContext;
use crate::run::tags;

pub fn run(args: &BuildArgs) -> Result<()> {
    // A build waits; one thread is enough for as many as there are distributions.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Class::Io, "could not start").with_source(error))?;
    let done = LocalSet::new().block_on(&runtime, builds(args));
    // A download that nobody waits for any more.
    runtime.shutdown_background();
    done
}

async fn builds(args: &BuildArgs) -> Result<()> {
    let jobs = jobs(args)?;
    let screen = Reporter::new(args.output.into(), jobs.len() > 1);
    let stop = on_signals()?;
    let mut names: Vec<String> = Vec::new();
    let mut runs = JoinSet::new();
    for (index, job) in jobs.into_iter().enumerate() {
        names.push(job.plan.distribution.clone());
        let (events, stop) = (screen.events(&job.plan.distribution), stop.clone());
        runs.spawn_local(async move {
            let ended = build_one(&job, &events, stop).await;
            events.done();
            (index, job, ended)
        });
    }
    let mut ended = Vec::new();
    while let Some(joined) = runs.join_next().await {
        ended.push(joined.map_err(|error| Error::new(Class::Bug, "a build ended badly").with_source(error))?);
    }
    ended.sort_by_key(|(index, ..)| *index);
    summary(args, ended)
}

/// One build from preflight to summary, its clean-up included.
async fn build_one(job: &BuildJob, events: &EventSink, mut stop: watch::Receiver<u32>) -> Result<BuildOutcome> {
    let BuildJob { args, plan, .. } = job;
    let region = job.resumed.as_ref().map(|run| run.record.region.as_str()).or(args.account.region.as_deref());
    let aws = Aws::connect(region, args.account.profile.as_deref()).await;
    let aws = aws.map_err(|error| match error.code.as_str() {
        "NoRegion" => Error::new(Class::Usage, error.to_string())
            .hint("give --region, or set AWS_REGION, or a region in the profile"),
        _ => Error::from(error),
    })?;
    events.step("Preflight");
    let prepared = tokio::select! {
        prepared = prepare(&aws, job, events) => prepared?,
        _ = stop.changed() => return Err(interrupted()),
    };
    let mut resolved = match prepared {
        Prepared::Done(outcome) => return Ok(outcome),
        Prepared::Build(resolved) => *resolved,
    };
    let (state, mut record) = match &job.resumed {
        Some(Resumed { state, record, .. }) => {
            keep(state, record)?;
            (state.clone(), record.clone())
        }
        None => new_run(job, &resolved)?,
    };
    let _new = if job.resumed.is_none() { Some(state.lock()?) } else { None };
    resolved.name.clone_from(&record.name);
    events.keep_log(state.log()?);
    events.emit(&Event::Began { run: state.run.clone(), region: aws.region.clone() });
    let files = render::render(plan, &[Format::Script])?;
    let script = files.first().map(|file| file.text.as_str()).unwrap_or_default();
    let run = RunContext::new(&aws, &state, events);
    let mut build = Build {
        run: run.clone(),
        catalog: &job.catalog,
        plan,
        script,
        args,
        resolved: &resolved,
        record: &mut record,
        resumed: job.resumed.is_some(),
    };
    let built = match args.driver {
        // Packer is told of a signal and must be waited for.
        BuildDriver::Packer => build.run_with_packer(&mut stop).await,
        BuildDriver::Native => tokio::select! {
            built = build.run() => built,
            _ = stop.changed() => Err(interrupted()),
        },
    };
    let published = built.as_ref().ok().cloned();
    let finished = finish(&run, args, stop, built).await;
    if let (Some(built), Err(_)) = (published, &finished) {
        // The clean-up alone failed.
        events.note(format!("image {} is published", built.image.id));
        write_manifest(job, &BuildOutcome::Built(Box::new(resolved.clone()), state.run.clone(), Box::new(built)))?;
    }
    finished.map(|built| BuildOutcome::Built(Box::new(resolved), state.run, Box::new(built)))
}

/// What is known before anything is made.
enum Prepared {
    /// There is nothing to build.
    Done(BuildOutcome),
    Build(Box<ResolvedBuild>),
}

async fn prepare(aws: &Aws, job: &BuildJob, events: &EventSink) -> Result<Prepared> {
    let resolved = Box::new(preflight(aws, job, events).await?);
    resolved.notes.iter().for_each(|note| events.note(note.clone()));
    if job.args.plan {
        return Ok(Prepared::Done(BuildOutcome::Planned(resolved)));
    }
    if let Some(image) = &resolved.existing {
        // What was asked for besides may have come later, or a crash before it.
        let run = image.tags.get(tags::RUN).cloned().unwrap_or_default();
        let copies = publish::publish(aws, image, &job.args.publish, &run, None, events).await?;
        let built = Box::new(Built { image: image.clone(), copies });
        return Ok(Prepared::Done(BuildOutcome::Found(resolved, run, built)));
    }
    installer::verify(&job.plan, &job.args.recipe, events).await?;
    Ok(Prepared::Build(resolved))
}

async fn preflight(aws: &Aws, job: &BuildJob, events: &EventSink) -> Result<ResolvedBuild> {
    let mut args = job.args.clone();
    if let Some(Resumed { record, .. }) = &job.resumed {
        // What the first preflight chose stays chosen.
        args.builder.source_ami = Some(record.base.clone());
        args.publish.name = Some(record.name.clone());
    }
    let mut preflight = BuildPreflight::new(aws, &job.catalog, &job.plan, &args, &job.run, job.resumed.is_some())?;
    if args.driver == BuildDriver::Packer {
        let (problems, name) = packer::refusals(&args, &job.plan);
        preflight.context.problems.extend(problems);
        preflight.addressed_by_subnet = name;
    }
    let resolved = preflight.run().await.map_err(|problems| {
        events.done();
        problem::refuse(events, &problems)
    })?;
    match &job.resumed {
        Some(Resumed { state, record, .. }) if record.account != resolved.identity.account => {
            let message = format!(
                "run {} is of account {}, these credentials are of {}",
                state.run, record.account, resolved.identity.account
            );
            Err(Error::new(Class::Usage, message).hint("use the profile that it began with"))
        }
        _ => Ok(resolved),
    }
}

/// Writes `--manifest`, where there is an image to write of.
fn write_manifest(job: &BuildJob, outcome: &BuildOutcome) -> Result<()> {
    let (BuildOutcome::Found(resolved, run, built) | BuildOutcome::Built(resolved, run, built)) = outcome else {
        return Ok(());
    };
    let Some(path) = &job.args.publish.manifest else { return Ok(()) };
    let text = manifest(path, &job.plan, resolved, run, built)?;
    files::write_durably(path, text.as_bytes(), 0o644)
}

/// Prints what every build came to; the exit code is the first failure's.
fn summary(args: &BuildArgs, ended: Vec<(usize, BuildJob, Result<BuildOutcome>)>) -> Result<()> {
    let mut failure = None;
    let mut rows = Vec::new();
    let several = ended.len() > 1;
    for (_, job, result) in ended {
        match result {
            Ok(outcome) => {
                if let Err(error) = write_manifest(&job, &outcome) {
                    terminal::error(&error);
                    failure = failure.or(Some(error));
                }
                rows.push(summary::row(&job.args, &job.catalog, &job.plan, &outcome));
            }
            Err(error) => {
                rows.push(summary::failed_row(&job.plan, &error));
                if several {
                    terminal::error(&error);
                }
                failure = failure.or(Some(error));
            }
        }
    }
    match args.output {
        OutputArg::Json => list::json(&rows)?,
        OutputArg::Human if several && !args.plan => {
            list::table(["distribution", "outcome", "run", "images"], summary::table(&rows))?;
        }
        OutputArg::Human => terminal::lines(summary::human(&rows))?,
    }
    match failure {
        Some(error) if several => Err(Error::new(error.class(), "not every image was built")),
        Some(error) => Err(error),
        None => Ok(()),
    }
}
