//! Owns `efa-gen launch`: the preflight, the launch, what becomes of it when it fails or is interrupted, and what its
//! user is told.

use std::collections::{BTreeMap, BTreeSet};

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Plan, Request};
use serde_json::json;
use tokio::sync::watch;

use super::{account, installer, list, recipe};
use crate::aws::Aws;
use crate::cli::OutputArg;
use crate::cli::cluster::LaunchArgs;
use crate::cli::time;
use crate::cluster::access::AccessPath;
use crate::cluster::check::ClusterCheck;
use crate::cluster::launch::{self, LaunchSession, Launched};
use crate::cluster::preflight::{ClusterIdentity, LaunchPreflight, ResolvedLaunch};
use crate::cluster::record::ClusterRecord;
use crate::io::events::{Event, Reporter};
use crate::io::signals::{interrupted, on_signals};
use crate::io::ssh::KeyType;
use crate::io::terminal;
use crate::preflight::problem;
use crate::run::cleanup;
use crate::run::cleanup::{Cleanup, clean_up};
use crate::run::context::RunContext;
use crate::run::id::new_id;
use crate::run::resources::LoginKey;
use crate::run::state::{CLUSTER, RunState};

/// The longest that a cluster may live without anybody saying so again.
const LONGEST: i64 = 90 * 86_400;

pub fn run(args: &LaunchArgs) -> Result<()> {
    account::block_on(launch_cluster(args))
}

async fn launch_cluster(args: &LaunchArgs) -> Result<()> {
    let ttl = time::seconds("--ttl", &args.ttl)?;
    if !(600..=LONGEST).contains(&ttl) {
        return Err(Error::new(Class::Usage, format!("--ttl {} is too short or too long", args.ttl))
            .hint("10m at least, 90d at most"));
    }
    let run = new_id();
    let name = args.name.clone().unwrap_or_else(|| format!("c{run}"));
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let plan = plan_of(args, &catalog)?;
    let mut stop = on_signals()?;
    let events = Reporter::new(args.output.into(), false).events(&name);
    let aws = Aws::connect(args.account.region.as_deref(), args.account.profile.as_deref()).await?;
    events.step("Preflight");
    let deadline = jiff::Timestamp::now().as_second() + ttl;
    let cluster = ClusterIdentity { run: &run, name: &name, deadline, grows: false };
    let preflight = LaunchPreflight::new(&aws, &catalog, plan.as_ref(), args, cluster).run();
    let resolved = tokio::select! {
        resolved = preflight => resolved,
        _ = stop.changed() => return Err(interrupted()),
    };
    let resolved = resolved.map_err(|problems| {
        events.done();
        problem::refuse(&events, &problems)
    })?;
    resolved.notes.iter().for_each(|note| events.note(note.clone()));
    let hourly = catalog.prices.hourly(&args.instance_type).map(|price| price * f64::from(args.nodes));
    if args.plan {
        events.done();
        return print_plan(args, &resolved, hourly);
    }
    if let Some(plan) = &plan {
        tokio::select! {
            verified = installer::verify(plan, &args.recipe, &events) => verified.inspect_err(|_| events.done())?,
            _ = stop.changed() => return Err(interrupted()),
        }
    }
    if let Some(dollars) = hourly {
        events.note(format!("{} x {} cost about ${dollars:.2} an hour", args.nodes, args.instance_type));
    }
    let state = RunState::create(&run)?;
    let _lock = state.lock()?;
    let mut record = launch::record(args, &resolved, &run, jiff::Timestamp::now().as_second() + ttl);
    state.write(CLUSTER, &record)?;
    events.keep_log(state.log()?);
    events.emit(&Event::Began { run: run.clone(), region: aws.region.clone() });
    let context = RunContext::new(&aws, &state, &events);
    let mut work = LaunchSession {
        run: context.clone(),
        resolved: &resolved,
        record: &mut record,
        plan: plan.as_ref(),
        call: run.clone(),
        key: LoginKey::default(),
    };
    let launched = tokio::select! {
        launched = work.run() => launched,
        _ = stop.changed() => Err(interrupted()),
    };
    let launched = match launched {
        Ok(launched) => launched,
        Err(error) => return Err(undo(&context, args, &record.name, stop, error).await),
    };
    events.done();
    show(args, &record, &launched)
}

/// What is installed at the first boot, if anything is.
pub fn plan_of(args: &LaunchArgs, catalog: &efa_gen::catalog::Catalog) -> Result<Option<Plan>> {
    let Some(distribution) = args.distro.clone().filter(|_| args.install) else { return Ok(None) };
    let mut recipe = args.recipe.clone();
    // The GPU's architecture is known here.
    recipe.instance_type.get_or_insert_with(|| args.instance_type.clone());
    plan::plan(catalog, &Request { distribution, ..recipe::request(&recipe)? }).map(Some)
}

/// Removes what a launch that failed has made, unless it is to stay; a second signal leaves the rest.
async fn undo(
    context: &RunContext<'_>,
    args: &LaunchArgs,
    cluster: &str,
    mut stop: watch::Receiver<u32>,
    error: Error,
) -> Error {
    let RunContext { aws, state, events, launch_in_flight } = context;
    let run = &state.run;
    let rest = format!("efa-gen sweep --run {run} --yes removes");
    if args.keep && error.class() != Class::Interrupted {
        events.note(format!("everything is kept: {rest} it"));
        return error;
    }
    events.step("Remove what the launch has made");
    if !cleanup::wait_for_launch(launch_in_flight, &mut stop, events, &rest).await {
        return error;
    }
    let known = match state.known() {
        Ok(known) => known,
        Err(unread) => {
            events.note(format!("{unread}: {rest} it"));
            return error;
        }
    };
    let cluster = Some(cluster);
    let of_run = Cleanup { aws, run, cluster, events, regions: &[], known: &known, keep: BTreeSet::new() };
    match clean_up(of_run, Some(&mut stop)).await {
        Ok(left) if left.is_empty() => {
            if let Err(unremoved) = state.forget() {
                events.note(unremoved.to_string());
            }
        }
        Ok(left) => events.note(format!("{}: {rest} it", cleanup::still_there(&left))),
        Err(unfinished) => events.note(format!("{unfinished}: {rest} it")),
    }
    error
}

/// What would be called, and what it costs.
fn print_plan(args: &LaunchArgs, resolved: &ResolvedLaunch, hourly: Option<f64>) -> Result<()> {
    if args.output == OutputArg::Json {
        let calls: Vec<_> =
            calls(args, resolved).iter().map(|(call, what)| json!({"call": call, "for": what})).collect();
        return list::json(&json!({"ready": resolved, "nodes": args.nodes, "dollars_an_hour": hourly, "calls": calls}));
    }
    let zones: Vec<&str> = resolved.machine.subnets.iter().map(|subnet| subnet.zone.as_str()).collect();
    let way = match resolved.access_path {
        AccessPath::Public => "by their public addresses",
        AccessPath::ThroughLeader => "through the leader's elastic address",
        AccessPath::Private => "by their private addresses",
        AccessPath::SessionManager => "through Session Manager",
    };
    let mut lines = vec![
        format!(
            "Cluster {} in {} (account {}, {}).",
            resolved.name, resolved.region, resolved.identity.account, resolved.identity.arn
        ),
        format!("Image {} ({}), login user {}.", resolved.image.id, resolved.image.name, resolved.user),
        format!(
            "{} x {}, {} GPUs and {} interfaces each, reached {way}.",
            args.nodes,
            resolved.machine.instance_type,
            resolved.gpus,
            resolved.nics.len()
        ),
        format!("Zones tried, in this order: {}.", zones.join(", ")),
    ];
    for nic in &resolved.nics {
        lines.push(format!("  card {:>2} device {} {}", nic.card, nic.device, nic.kind.name()));
    }
    if !resolved.ssh_cidrs.is_empty() {
        lines.push(format!("Port 22 is open to {}.", resolved.ssh_cidrs.join(", ")));
    }
    lines.push(format!("Every node ends itself after {}.", args.ttl));
    lines.push(
        hourly.map_or(format!("No cost: {} is not in the price table.", resolved.machine.instance_type), |dollars| {
            format!("About ${dollars:.2} an hour, on demand.")
        }),
    );
    lines.push("Calls:".to_owned());
    lines.extend(calls(args, resolved).into_iter().map(|(call, what)| format!("  {call}: {what}")));
    terminal::lines(lines)
}

/// Every call that changes something, and whatever else is asked of the new nodes, in order; what it is for.
fn calls(args: &LaunchArgs, resolved: &ResolvedLaunch) -> Vec<(&'static str, String)> {
    let mut calls = Vec::new();
    if KeyType::wanted(args.reach.key_type).is_ec2s() {
        calls.push(("ec2:ImportKeyPair", "the login key".to_owned()));
    }
    if args.security_group.is_none() {
        calls.push((
            "ec2:CreateSecurityGroup, AuthorizeSecurityGroupIngress, AuthorizeSecurityGroupEgress",
            "the cluster's own".to_owned(),
        ));
    }
    if resolved.placement_group {
        calls.push(("ec2:CreatePlacementGroup", "the nodes are near each other".to_owned()));
    }
    calls.push(("ec2:RunInstances", format!("once for all {} nodes", args.nodes)));
    calls.push(("ec2:GetConsoleOutput", "each node's host keys".to_owned()));
    if resolved.access_path == AccessPath::ThroughLeader {
        calls.push(("ec2:AllocateAddress, AssociateAddress", "for the leader".to_owned()));
    }
    calls
}

/// The nodes, how they are, and what comes next. A node that is not as it must be is an error; the cluster stays.
pub fn show(args: &LaunchArgs, record: &ClusterRecord, launched: &Launched) -> Result<()> {
    if args.output == OutputArg::Json {
        let nodes: Vec<_> = launched.nodes.iter().map(|node| json!({"id": node.id, "address": node.address})).collect();
        list::json(
            &json!({"cluster": record.name, "run": record.run, "region": record.region, "nodes": nodes, "checked": launched.checked}),
        )?;
        return launched.checked.ensure_good();
    }
    show_checked(&launched.checked, args.output)?;
    let until = jiff::Timestamp::from_second(record.deadline).map(|time| time.to_string()).unwrap_or_default();
    let name = &record.name;
    terminal::message(&format!("cluster {name}: {} nodes; each ends itself at {until}", launched.nodes.len()));
    terminal::message(&format!("log in:   efa-gen cluster ssh {name} --region {}", record.region));
    terminal::message(&format!("validate: efa-gen validate --cluster {name} --region {}", record.region));
    terminal::message(&format!("remove:   efa-gen cluster rm {name} --region {} --yes", record.region));
    launched.checked.ensure_good()
}

/// Prints the table, and what is wrong below it.
pub fn show_checked(checked: &ClusterCheck, output: OutputArg) -> Result<()> {
    if output == OutputArg::Json {
        return list::json(checked);
    }
    let mut of_node: BTreeMap<&str, usize> = BTreeMap::new();
    checked.findings.iter().for_each(|(node, _)| *of_node.entry(node).or_default() += 1);
    let rows = checked.nodes.iter().map(|(address, facts)| {
        [
            address.clone(),
            facts.hostname.clone(),
            facts.efa.to_string(),
            facts.gpus.len().to_string(),
            facts.memlock_kib.map_or("unlimited".into(), |limit| format!("{limit} KiB")),
            facts.kernel.clone(),
            facts.driver.clone().unwrap_or_else(|| "none".into()),
            // Of all components the one that every image has; where another differs, it is told below.
            facts.versions.get("efa").cloned().unwrap_or_else(|| "unknown".into()),
            format!("{:+} ms", facts.clock_ms),
            if facts.unreachable.is_empty() { "good".into() } else { format!("{} fail", facts.unreachable.len()) },
            if of_node.contains_key(address.as_str()) { "see below" } else { "good" }.to_owned(),
        ]
    });
    list::table(
        ["node", "host", "efa", "gpus", "memlock", "kernel", "driver", "installer", "clock", "logins", "is"],
        rows,
    )?;
    for (node, what) in checked.findings.iter().chain(&checked.not_read) {
        terminal::message(&format!("{node}: {what}"));
    }
    Ok(())
}
