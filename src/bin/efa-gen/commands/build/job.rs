//! Owns what is to be built: the plans of every distribution of the command line, or of the run that goes on, and a new
//! run's record.

use std::fs::File;
use std::sync::Arc;

use efa_gen::catalog::Catalog;
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Plan, Request};

use crate::cli::cloud::{BuildArgs, BuildDriver, OnError};
use crate::commands::{recipe, render};
use crate::image::build::Built;
use crate::image::preflight::ResolvedBuild;
use crate::image::record::{BuildRecord, keep, open};
use crate::io::{ssh, terminal};
use crate::run::id::new_id;
use crate::run::state::RunState;

/// One distribution of the command line.
#[derive(Debug, Clone)]
pub struct BuildJob {
    pub args: BuildArgs,
    pub catalog: Arc<Catalog>,
    pub plan: Arc<Plan>,
    /// The run's id: there before the preflight, whose dry runs carry it.
    pub run: String,
    /// A run that goes on.
    pub resumed: Option<Resumed>,
}

#[derive(Debug, Clone)]
pub struct Resumed {
    pub state: RunState,
    pub record: BuildRecord,
    /// Held as long as the run lasts.
    _lock: Arc<File>,
}

/// The plans of everything that is asked for; one that can't be planned ends the command before AWS is asked anything.
pub fn jobs(args: &BuildArgs) -> Result<Vec<BuildJob>> {
    if let Some(name) = &args.resume {
        let (state, _) = open(name)?;
        let lock = Arc::new(state.lock()?);
        // Read again: whoever had the lock may just have ended the run.
        let (state, mut record) = open(name)?;
        if let Some(note) = state.cut_line()? {
            terminal::message(&format!("note: {note}"));
        }
        move_to(&mut record, &args.reach.ssh_cidr)?;
        // One that is missing is made, where there is no machine yet.
        for (file, what) in [("key", "login key"), ("host_key", "host key")] {
            ssh::public_in(&state.path.join(file), what)?;
        }
        let given = BuildArgs {
            resume: Some(name.clone()),
            output: args.output,
            on_error: args.on_error.or(record.args.on_error),
            ..record.args.clone()
        };
        let distribution = record.distribution.clone();
        return Ok(vec![job(&given, &distribution, Some(Resumed { state, record, _lock: lock }))?]);
    }
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let ids = render::distributions(&catalog, &args.distro)?;
    let single = [
        ("--name", args.publish.name.is_some()),
        ("--ssm-parameter", args.publish.ssm_parameter.is_some()),
        ("--source-ami", args.builder.source_ami.is_some()),
        // One question would hide the other, and the answer be anyone's.
        ("--on-error ask", args.on_error == Some(OnError::Ask)),
    ];
    if let (Some((flag, _)), true) = (single.into_iter().find(|(_, given)| *given), ids.len() > 1) {
        return Err(Error::new(Class::Usage, format!("{flag} is for one image, and {} are asked for", ids.len()))
            .hint("build that one by itself"));
    }
    ids.iter().map(|id| job(args, id, None)).collect()
}

/// Lets the run be reached from elsewhere: the caller's address may have changed.
fn move_to(record: &mut BuildRecord, ssh_cidrs: &[String]) -> Result<()> {
    if ssh_cidrs.is_empty() {
        return Ok(());
    }
    let unused = match record.args.driver {
        BuildDriver::Packer => Some("Packer's machine is gone"),
        BuildDriver::Native if record.args.reach.session_manager => Some("it is reached through Session Manager"),
        BuildDriver::Native => None,
    };
    if let Some(why) = unused {
        let message = format!("--ssh-cidr is of no use to run {}: {why}", record.run);
        return Err(Error::new(Class::Usage, message).hint("leave it out"));
    }
    record.args.reach.ssh_cidr = ssh_cidrs.to_vec();
    Ok(())
}

fn job(args: &BuildArgs, distribution: &str, resumed: Option<Resumed>) -> Result<BuildJob> {
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let request = Request { distribution: distribution.to_owned(), ..recipe::request(&args.recipe)? };
    let plan = plan::plan(&catalog, &request)?;
    if let Some(Resumed { state, record, .. }) = resumed.as_ref().filter(|run| run.record.plan != plan.digest()) {
        let message = format!("run {} was of plan {}, its flags now give {}", state.run, record.plan, plan.digest());
        return Err(Error::new(Class::Usage, message).hint(
            "efa-gen, the stack file or the extra script has changed since: use what it began with, or sweep the run",
        ));
    }
    let run = resumed.as_ref().map_or_else(new_id, |run| run.state.run.clone());
    Ok(BuildJob { args: args.clone(), catalog: Arc::new(catalog), plan: Arc::new(plan), run, resumed })
}

/// The state of a run that begins, and its record.
pub fn new_run(job: &BuildJob, resolved: &ResolvedBuild) -> Result<(RunState, BuildRecord)> {
    let run = job.run.clone();
    let state = RunState::create(&run)?;
    let record = BuildRecord {
        run,
        distribution: job.plan.distribution.clone(),
        args: job.args.clone(),
        account: resolved.identity.account.clone(),
        region: resolved.region.clone(),
        plan: job.plan.digest(),
        base: resolved.base.id.clone(),
        name: resolved.name.clone(),
        attempt: None,
    };
    keep(&state, &record)?;
    Ok((state, record))
}

/// How one build ended.
pub enum BuildOutcome {
    /// `--plan` stops before anything is made.
    Planned(Box<ResolvedBuild>),
    /// The image was there already, of the run that made it.
    Found(Box<ResolvedBuild>, String, Box<Built>),
    /// The image was built.
    Built(Box<ResolvedBuild>, String, Box<Built>),
}
