//! Owns `efa-gen build`: the preflights of everything that is to be built, the runs side by side, the signals that stop them,
//! and the summary. Knows nothing of how a build goes.

mod finish;
mod order;

use std::path::PathBuf;
use std::sync::Arc;

use efa_gen::error::{Class, Error, Result};
use efa_gen::render::{self, Format};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinSet, LocalSet};

use self::finish::finish;
use self::order::{Order, Resumed, new_run, orders};
use super::{fetch, list};
use crate::build::preflight::{Preflight, Ready};
use crate::build::problem;
use crate::build::{Build, Built, describe, packer, publish, tags};
use crate::cli::OutputArg;
use crate::cli::cloud::{BuildArgs, Driver};
use crate::ec2::Aws;
use crate::events::{Event, Screen, Talk};
use crate::signals::on_signals;
use crate::{files, report};

pub fn run(args: &BuildArgs) -> Result<()> {
    // A build waits; one thread is enough for as many as there are distributions.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Class::Io, "could not start").because(error))?;
    let done = LocalSet::new().block_on(&runtime, builds(args));
    // A download that nobody waits for any more.
    runtime.shutdown_background();
    done
}

/// How one build ended.
pub enum Outcome {
    /// `--plan` stops before anything is made.
    Planned(Box<Ready>),
    /// The image was there already, of the run that made it.
    Found(Box<Ready>, String, Box<Built>),
    /// The image was built.
    Built(Box<Ready>, String, Box<Built>),
}

async fn builds(args: &BuildArgs) -> Result<()> {
    let orders = orders(args)?;
    let screen = Screen::new(args.output, orders.len() > 1);
    let stop = on_signals()?;
    let mut names: Vec<String> = Vec::new();
    let mut runs = JoinSet::new();
    for (index, order) in orders.into_iter().enumerate() {
        names.push(order.plan.distribution.clone());
        let (talk, stop) = (screen.talk(&order.plan.distribution), stop.clone());
        runs.spawn_local(async move {
            let ended = one(&order, &talk, stop).await;
            talk.done();
            (index, order, ended)
        });
    }
    let mut ended = Vec::new();
    while let Some(joined) = runs.join_next().await {
        ended.push(joined.map_err(|error| Error::new(Class::Bug, "a build ended badly").because(error))?);
    }
    ended.sort_by_key(|(index, ..)| *index);
    summary(args, ended)
}

/// One build from preflight to summary, its clean-up included.
async fn one(order: &Order, talk: &Talk, mut stop: watch::Receiver<u32>) -> Result<Outcome> {
    let Order { args, plan, .. } = order;
    let region = order.resumed.as_ref().map(|run| run.record.region.as_str()).or(args.account.region.as_deref());
    let aws = Aws::connect(region, args.account.profile.as_deref()).await;
    let aws = aws.map_err(|error| {
        let error = Error::from(error);
        Error::new(Class::Usage, error.to_string()).hint("give --region, or set AWS_REGION, or a region in the profile")
    })?;
    talk.step("Preflight");
    let prepared = tokio::select! {
        prepared = prepare(&aws, order, talk) => prepared?,
        _ = stop.changed() => return Err(Error::new(Class::Interrupted, "interrupted by a signal")),
    };
    let mut ready = match prepared {
        Prepared::Done(outcome) => return Ok(outcome),
        Prepared::Build(ready) => *ready,
    };
    let (folder, mut record) = match &order.resumed {
        Some(Resumed { folder, record, .. }) => {
            folder.keep(record)?;
            (folder.clone(), record.clone())
        }
        None => new_run(order, &ready)?,
    };
    let _new = if order.resumed.is_none() { Some(folder.lock()?) } else { None };
    ready.name.clone_from(&record.name);
    talk.keep_log(folder.log()?);
    talk.emit(&Event::Began { run: folder.run.clone(), region: aws.region.clone() });
    let files = render::render(plan, &[Format::Script])?;
    let script = files.first().map(|file| file.text.as_str()).unwrap_or_default();
    let asking = Arc::<Mutex<()>>::default();
    let mut build = Build {
        aws: &aws,
        catalog: &order.catalog,
        plan,
        script,
        args,
        ready: &ready,
        record: &mut record,
        folder: &folder,
        talk,
        resumed: order.resumed.is_some(),
        asking: Arc::clone(&asking),
    };
    let built = match args.driver {
        // Packer is told of a signal and must be waited for.
        Driver::Packer => build.run_with_packer(&mut stop).await,
        Driver::Native => tokio::select! {
            built = build.run() => built,
            _ = stop.changed() => Err(Error::new(Class::Interrupted, "interrupted by a signal")),
        },
    };
    let published = built.as_ref().ok().cloned();
    let finished = finish(&aws, args, &folder, talk, stop, (built, &asking)).await;
    if let (Some(built), Err(_)) = (published, &finished) {
        // The clean-up alone failed.
        talk.note(format!("image {} is published", built.image.id));
        write_manifest(order, &Outcome::Built(Box::new(ready.clone()), folder.run.clone(), Box::new(built)))?;
    }
    finished.map(|built| Outcome::Built(Box::new(ready), folder.run, Box::new(built)))
}

/// What is known before anything is made.
enum Prepared {
    /// There is nothing to build.
    Done(Outcome),
    Build(Box<Ready>),
}

async fn prepare(aws: &Aws, order: &Order, talk: &Talk) -> Result<Prepared> {
    let ready = Box::new(preflight(aws, order, talk).await?);
    ready.notes.iter().for_each(|note| talk.note(note.clone()));
    if order.args.plan {
        return Ok(Prepared::Done(Outcome::Planned(ready)));
    }
    if let Some(image) = &ready.existing {
        // What was asked for besides may have come later, or a crash before it.
        let run = image.tags.get(tags::RUN).cloned().unwrap_or_default();
        let copies = publish::publish(aws, image, &order.args.publish, (&run, None), talk).await?;
        let built = Box::new(Built { image: image.clone(), copies });
        return Ok(Prepared::Done(Outcome::Found(ready, run, built)));
    }
    verify_installer(order, talk).await?;
    Ok(Prepared::Build(ready))
}

async fn preflight(aws: &Aws, order: &Order, talk: &Talk) -> Result<Ready> {
    let mut args = order.args.clone();
    if let Some(Resumed { record, .. }) = &order.resumed {
        // What the first preflight chose stays chosen.
        args.builder.source_ami = Some(record.base.clone());
        args.publish.name = Some(record.name.clone());
    }
    let run = order.resumed.as_ref().map(|run| run.folder.run.as_str());
    let mut preflight = Preflight::new(aws, &order.catalog, &order.plan, &args, run)?;
    if args.driver == Driver::Packer {
        preflight.look.problems.extend(packer::refusals(&args));
    }
    let ready = preflight.run().await.map_err(|problems| {
        talk.done();
        problem::refuse(talk, &problems)
    })?;
    match &order.resumed {
        Some(Resumed { folder, record, .. }) if record.account != ready.identity.account => {
            let message = format!(
                "run {} is of account {}, these credentials are of {}",
                folder.run, record.account, ready.identity.account
            );
            Err(Error::new(Class::Usage, message).hint("use the profile that it began with"))
        }
        _ => Ok(ready),
    }
}

/// The installer that the guest will download is looked at here first: signed by the publisher, and the very bytes whose
/// digest the guest checks.
async fn verify_installer(order: &Order, talk: &Talk) -> Result<()> {
    let Some(efa) = order.plan.components.iter().find(|component| component.name == "efa") else { return Ok(()) };
    talk.step(format!("Download and verify EFA installer {}", efa.version));
    // Builds side by side want the same file: the second finds it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _alone = ONE_AT_A_TIME.lock().await;
    let recipe = &order.args.recipe;
    let wanted =
        fetch::for_build(&efa.version, recipe.mirror.as_deref(), recipe.stack_file.as_deref(), cache_folder()?);
    let fetched = tokio::task::spawn_blocking(move || fetch::fetched(&wanted)).await;
    let (path, verified) =
        fetched.map_err(|error| Error::new(Class::Bug, "a download ended badly").because(error))??;
    let digest = format!("sha256:{}", verified.sha256);
    if efa.digest.as_deref() != Some(digest.as_str()) {
        let pinned = efa.digest.as_deref().unwrap_or("none");
        let message = format!("{} is signed, but its digest is {digest} and the plan's is {pinned}", path.display());
        return Err(Error::new(Class::Refused, message)
            .hint("a version was published twice, or the pin is wrong: do not build until you know which"));
    }
    talk.note(format!("EFA installer {}: signature of {} and digest are good", efa.version, verified.signer));
    Ok(())
}

/// `$XDG_CACHE_HOME/efa-gen`, by the XDG base directory specification below ~/.cache.
fn cache_folder() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let none = || Error::new(Class::Io, "there is no folder for downloads").hint("set HOME or XDG_CACHE_HOME");
    Ok(cache.ok_or_else(none)?.join("efa-gen"))
}

/// Writes `--manifest`, where there is an image to write of.
fn write_manifest(order: &Order, outcome: &Outcome) -> Result<()> {
    let (Outcome::Found(ready, run, built) | Outcome::Built(ready, run, built)) = outcome else { return Ok(()) };
    let Some(path) = &order.args.publish.manifest else { return Ok(()) };
    let text = publish::manifest(path, &order.plan, ready, run, built)?;
    files::write(path, text.as_bytes(), 0o644)
}

/// Prints what every build came to; the exit code is the first failure's.
fn summary(args: &BuildArgs, ended: Vec<(usize, Order, Result<Outcome>)>) -> Result<()> {
    let mut failure = None;
    let mut rows = Vec::new();
    let several = ended.len() > 1;
    for (_, order, result) in ended {
        match result {
            Ok(outcome) => {
                if let Err(error) = write_manifest(&order, &outcome) {
                    report::fail(&error);
                    failure = failure.or(Some(error));
                }
                rows.push(describe::row(&order.args, &order.catalog, &order.plan, &outcome));
            }
            Err(error) => {
                rows.push(describe::failed_row(&order.plan, &error));
                if several {
                    report::fail(&error);
                }
                failure = failure.or(Some(error));
            }
        }
    }
    match args.output {
        OutputArg::Json => list::json(&rows)?,
        OutputArg::Human if several && !args.plan => {
            list::table(["distribution", "outcome", "run", "images"], describe::table(&rows))?;
        }
        OutputArg::Human => report::data(describe::human(&rows).as_bytes())?,
    }
    match failure {
        Some(error) if several => Err(Error::new(error.class(), "not every image was built")),
        Some(error) => Err(error),
        None => Ok(()),
    }
}
