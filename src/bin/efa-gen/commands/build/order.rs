//! Owns what is to be built: the plans of every distribution of the command line, or of the run that goes on, and a new
//! run's record. Knows nothing of AWS's calls.

use std::fs::File;
use std::sync::Arc;

use efa_gen::catalog::Catalog;
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Plan, Request};

use crate::build::preflight::Ready;
use crate::build::run::{self, Folder, Record};
use crate::cli::cloud::{BuildArgs, Driver, OnError};
use crate::commands::{recipe, render};
use crate::ssh;

/// One distribution of the command line.
#[derive(Debug, Clone)]
pub struct Order {
    pub args: BuildArgs,
    pub catalog: Arc<Catalog>,
    pub plan: Arc<Plan>,
    /// A run that goes on.
    pub resumed: Option<Resumed>,
}

#[derive(Debug, Clone)]
pub struct Resumed {
    pub folder: Folder,
    pub record: Record,
    /// Held as long as the run lasts.
    _lock: Arc<File>,
}

/// The plans of everything that is asked for; one that can't be planned ends the command before AWS is asked anything.
pub fn orders(args: &BuildArgs) -> Result<Vec<Order>> {
    if let Some(name) = &args.resume {
        let (folder, _) = Folder::open(name)?;
        let lock = Arc::new(folder.lock()?);
        // Read again: whoever had the lock may just have ended the run.
        let (folder, mut record) = Folder::open(name)?;
        move_to(&mut record, &args.reach.ssh_cidr)?;
        // One that is missing is made, where there is no machine yet.
        for (file, what) in [("key", "login key"), ("host_key", "host key")] {
            ssh::public_in(&folder.path.join(file), what)?;
        }
        let given = BuildArgs {
            resume: Some(name.clone()),
            output: args.output,
            on_error: args.on_error.or(record.args.on_error),
            ..record.args.clone()
        };
        let distribution = record.distribution.clone();
        return Ok(vec![order(&given, &distribution, Some(Resumed { folder, record, _lock: lock }))?]);
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
    ids.iter().map(|id| order(args, id, None)).collect()
}

/// Lets the run be reached from elsewhere: the caller's address may have changed.
fn move_to(record: &mut Record, ssh_cidrs: &[String]) -> Result<()> {
    if ssh_cidrs.is_empty() {
        return Ok(());
    }
    let unused = match record.args.driver {
        Driver::Packer => Some("Packer's machine is gone"),
        Driver::Native if record.args.reach.session_manager => Some("it is reached through Session Manager"),
        Driver::Native => None,
    };
    if let Some(why) = unused {
        let message = format!("--ssh-cidr is of no use to run {}: {why}", record.run);
        return Err(Error::new(Class::Usage, message).hint("leave it out"));
    }
    record.args.reach.ssh_cidr = ssh_cidrs.to_vec();
    Ok(())
}

fn order(args: &BuildArgs, distribution: &str, resumed: Option<Resumed>) -> Result<Order> {
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let request = Request { distribution: distribution.to_owned(), ..recipe::request(&args.recipe)? };
    let plan = plan::plan(&catalog, &request)?;
    if let Some(Resumed { folder, record, .. }) = resumed.as_ref().filter(|run| run.record.plan != plan.digest()) {
        let message = format!("run {} was of plan {}, its flags now give {}", folder.run, record.plan, plan.digest());
        return Err(Error::new(Class::Usage, message).hint(
            "efa-gen, the stack file or the extra script has changed since: use what it began with, or sweep the run",
        ));
    }
    Ok(Order { args: args.clone(), catalog: Arc::new(catalog), plan: Arc::new(plan), resumed })
}

/// The folder of a run that begins, and its record.
pub fn new_run(order: &Order, ready: &Ready) -> Result<(Folder, Record)> {
    let run = run::new_id();
    let folder = Folder::create(&run)?;
    let record = Record {
        run,
        distribution: order.plan.distribution.clone(),
        args: order.args.clone(),
        account: ready.identity.account.clone(),
        region: ready.region.clone(),
        plan: order.plan.digest(),
        base: ready.base.id.clone(),
        name: ready.name.clone(),
        tried: None,
    };
    folder.keep(&record)?;
    Ok((folder, record))
}
