//! Owns `efa-gen launch`: the preflight, the launch, what becomes of it when it fails or is interrupted, and what its user is
//! told. Knows nothing of how a launch goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Plan, Request};
use serde_json::json;
use tokio::sync::{Mutex, watch};

use super::{account, list, recipe};
use crate::build::run::{self, CLUSTER, Folder};
use crate::build::{problem, sweep};
use crate::cli::OutputArg;
use crate::cli::cluster::LaunchArgs;
use crate::cluster::launch::{Launched, Run};
use crate::cluster::preflight::{Preflight, Ready};
use crate::cluster::record::{Record, Way};
use crate::ec2::Aws;
use crate::events::{Event, Screen, Talk};
use crate::report;
use crate::signals::{interrupted, on_signals};

/// The longest that a cluster may live without anybody saying so again.
const LONGEST: i64 = 90 * 86_400;

pub fn run(args: &LaunchArgs) -> Result<()> {
    account::block_on(launch(args))
}

async fn launch(args: &LaunchArgs) -> Result<()> {
    let ttl = account::seconds("--ttl", &args.ttl)?;
    if !(600..=LONGEST).contains(&ttl) {
        return Err(Error::new(Class::Usage, format!("--ttl {} is too short or too long", args.ttl))
            .hint("10m at least, 90d at most"));
    }
    let run = run::new_id();
    let name = args.name.clone().unwrap_or_else(|| format!("c{run}"));
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let plan = plan_of(args, &catalog)?;
    let mut stop = on_signals()?;
    let talk = Screen::new(args.output, false).talk(&name);
    let aws = Aws::connect(args.account.region.as_deref(), args.account.profile.as_deref()).await?;
    talk.step("Preflight");
    let preflight = Preflight::new(&aws, &catalog, plan.as_ref(), args, &name).run();
    let ready = tokio::select! {
        ready = preflight => ready,
        _ = stop.changed() => return Err(interrupted()),
    };
    let ready = ready.map_err(|problems| {
        talk.done();
        problem::refuse(&talk, &problems)
    })?;
    ready.notes.iter().for_each(|note| talk.note(note.clone()));
    let hourly = catalog.prices.hourly(&args.kind).map(|price| price * f64::from(args.nodes));
    if args.plan {
        talk.done();
        return planned(args, &ready, hourly);
    }
    if let Some(dollars) = hourly {
        talk.note(format!("{} x {} cost about ${dollars:.2} an hour", args.nodes, args.kind));
    }
    let folder = Folder::create(&run)?;
    let _lock = folder.lock()?;
    let mut record = Record::new(args, &ready, &run, jiff::Timestamp::now().as_second() + ttl);
    folder.write(CLUSTER, &record)?;
    talk.keep_log(folder.log()?);
    talk.emit(&Event::Began { run: run.clone(), region: aws.region.clone() });
    let asking = Arc::<Mutex<()>>::default();
    let mut work = Run {
        aws: &aws,
        ready: &ready,
        record: &mut record,
        folder: &folder,
        talk: &talk,
        plan: plan.as_ref(),
        call: run.clone(),
        key: String::new(),
        asking: asking.clone(),
    };
    let launched = tokio::select! {
        launched = work.run() => launched,
        _ = stop.changed() => Err(interrupted()),
    };
    let launched = match launched {
        Ok(launched) => launched,
        Err(error) => return Err(undone(&aws, args, &folder, &talk, stop, (error, &asking)).await),
    };
    talk.done();
    show(args, &record, &launched)
}

/// What is installed at the first boot, if anything is.
pub fn plan_of(args: &LaunchArgs, catalog: &efa_gen::catalog::Catalog) -> Result<Option<Plan>> {
    let Some(distribution) = args.distro.clone().filter(|_| args.install) else { return Ok(None) };
    let mut recipe = args.recipe.clone();
    // The GPU's architecture is known here.
    recipe.instance_type.get_or_insert_with(|| args.kind.clone());
    plan::plan(catalog, &Request { distribution, ..recipe::request(&recipe)? }).map(Some)
}

/// Removes what a launch that failed has made, unless it is to stay; a second signal leaves the rest.
async fn undone(
    aws: &Aws,
    args: &LaunchArgs,
    folder: &Folder,
    talk: &Talk,
    mut stop: watch::Receiver<u32>,
    (error, asking): (Error, &Mutex<()>),
) -> Error {
    let run = &folder.run;
    let rest = format!("efa-gen sweep --run {run} --yes removes");
    if args.keep && error.class() != Class::Interrupted {
        talk.note(format!("everything is kept: {rest} it"));
        return error;
    }
    talk.step("Remove what the launch has made");
    if !sweep::answered(asking, &mut stop, talk, &rest).await {
        return error;
    }
    let known = match folder.known() {
        Ok(known) => known,
        Err(unread) => {
            talk.note(format!("{unread}: {rest} it"));
            return error;
        }
    };
    match sweep::undo(aws, run, &[], &known, BTreeSet::new(), talk, Some(&mut stop)).await {
        Ok(left) if left.is_empty() => {
            if let Err(unremoved) = std::fs::remove_dir_all(&folder.path) {
                talk.note(format!("{} could not be removed: {unremoved}", folder.path.display()));
            }
        }
        Ok(left) => talk.note(format!("{}: {rest} it", sweep::still_there(&left))),
        Err(unfinished) => talk.note(format!("{unfinished}: {rest} it")),
    }
    error
}

/// What would be called, and what it costs.
fn planned(args: &LaunchArgs, ready: &Ready, hourly: Option<f64>) -> Result<()> {
    if args.output == OutputArg::Json {
        let calls: Vec<_> = calls(args, ready).iter().map(|(call, what)| json!({"call": call, "for": what})).collect();
        return list::json(&json!({"ready": ready, "nodes": args.nodes, "dollars_an_hour": hourly, "calls": calls}));
    }
    let zones: Vec<&str> = ready.machine.subnets.iter().map(|subnet| subnet.zone.as_str()).collect();
    let way = match ready.way {
        Way::Public => "by their public addresses",
        Way::ThroughLeader => "through the leader's elastic address",
        Way::Private => "by their private addresses",
        Way::SessionManager => "through Session Manager",
    };
    let mut lines = vec![
        format!(
            "Cluster {} in {} (account {}, {}).",
            ready.name, ready.region, ready.identity.account, ready.identity.arn
        ),
        format!("Image {} ({}), login user {}.", ready.image.id, ready.image.name, ready.user),
        format!(
            "{} x {}, {} GPUs and {} interfaces each, reached {way}.",
            args.nodes,
            ready.machine.kind,
            ready.gpus,
            ready.nics.len()
        ),
        format!("Zones tried, in this order: {}.", zones.join(", ")),
    ];
    for nic in &ready.nics {
        lines.push(format!("  card {:>2} device {} {}", nic.card, nic.device, nic.kind.name()));
    }
    if !ready.ssh_cidrs.is_empty() {
        lines.push(format!("Port 22 is open to {}.", ready.ssh_cidrs.join(", ")));
    }
    lines.push(format!("Every node ends itself after {}.", args.ttl));
    lines.push(hourly.map_or(format!("No cost: {} is not in the price table.", ready.machine.kind), |dollars| {
        format!("About ${dollars:.2} an hour, on demand.")
    }));
    lines.push("Calls:".to_owned());
    lines.extend(calls(args, ready).into_iter().map(|(call, what)| format!("  {call}: {what}")));
    report::data(format!("{}\n", lines.join("\n")).as_bytes())
}

/// Every call that changes something, and whatever else is asked of the new nodes, in order; what it is for.
fn calls(args: &LaunchArgs, ready: &Ready) -> Vec<(&'static str, String)> {
    let mut calls = vec![("ec2:ImportKeyPair", "the login key".to_owned())];
    if args.security_group.is_none() {
        calls.push((
            "ec2:CreateSecurityGroup, AuthorizeSecurityGroupIngress, AuthorizeSecurityGroupEgress",
            "the cluster's own".to_owned(),
        ));
    }
    if ready.placement_group {
        calls.push(("ec2:CreatePlacementGroup", "the nodes are near each other".to_owned()));
    }
    calls.push(("ec2:RunInstances", format!("once for all {} nodes", args.nodes)));
    calls.push(("ec2:GetConsoleOutput", "each node's host keys".to_owned()));
    if ready.way == Way::ThroughLeader {
        calls.push(("ec2:AllocateAddress, AssociateAddress", "for the leader".to_owned()));
    }
    calls
}

/// The nodes, how they are, and what comes next. A node that is not as it must be is an error; the cluster stays.
pub fn show(args: &LaunchArgs, record: &Record, launched: &Launched) -> Result<()> {
    if args.output == OutputArg::Json {
        let nodes: Vec<_> = launched.nodes.iter().map(|node| json!({"id": node.id, "address": node.address})).collect();
        list::json(
            &json!({"cluster": record.name, "run": record.run, "region": record.region, "nodes": nodes, "checked": launched.checked}),
        )?;
        return launched.checked.good();
    }
    launched.checked.show(args.output)?;
    let until = jiff::Timestamp::from_second(record.deadline).map(|time| time.to_string()).unwrap_or_default();
    let name = &record.name;
    report::say(&format!("cluster {name}: {} nodes; each ends itself at {until}", launched.nodes.len()));
    report::say(&format!("log in:   efa-gen cluster ssh {name} --region {}", record.region));
    report::say(&format!("validate: efa-gen validate --cluster {name} --region {}", record.region));
    report::say(&format!("remove:   efa-gen cluster rm {name} --region {} --yes", record.region));
    launched.checked.good()
}
