//! Owns `efa-gen cluster grow`: more nodes, or what was launched of them ended.

use super::open::open;
use crate::aws::Aws;
use crate::aws::model::{Instance, ResourceKind};
use crate::cli::cluster::ClusterGrowArgs;
use crate::cluster::launch::LaunchSession;
use crate::cluster::nodes::{self, Cluster};
use crate::cluster::preflight::{ClusterIdentity, LaunchPreflight};
use crate::cluster::record::ClusterRecord;
use crate::commands::{installer, launch, recipe};
use crate::io::events::{Event, EventSink, Reporter};
use crate::io::signals::{interrupted, on_signals};
use crate::preflight::problem;
use crate::run::cleanup;
use crate::run::context::RunContext;
use crate::run::id::new_call;
use crate::run::resources::LoginKey;
use crate::run::state::RunState;
use crate::timeouts;
use efa_gen::error::{Class, Error, Result};
use std::collections::BTreeSet;

pub async fn grow(args: &ClusterGrowArgs) -> Result<()> {
    let mut stop = on_signals()?;
    let Cluster { aws, mut record, state, .. } = open(&args.cluster.account, &args.cluster.name).await?;
    let _lock = state.lock()?;
    let events = Reporter::new(args.output.into(), false).events(&record.name);
    if let Some(note) = state.cut_line()? {
        events.note(note);
    }
    let wanted = crate::cli::cluster::LaunchArgs {
        nodes: args.nodes,
        at_least: None,
        // The nodes are all alike, in the place where they are.
        ami: Some(record.image.clone()),
        subnet: record.subnet.clone(),
        security_group: record.group.clone(),
        output: args.output,
        ..record.args.clone()
    };
    let catalog = recipe::catalog(wanted.recipe.stack_file.as_deref())?;
    let plan = launch::plan_of(&wanted, &catalog)?;
    events.step("Preflight");
    let call = new_call(&record.run);
    let cluster = ClusterIdentity { run: &record.run, name: &record.name, deadline: record.deadline, grows: true };
    let resolved =
        LaunchPreflight::new(&aws, &catalog, plan.as_ref(), &wanted, cluster).run().await.map_err(|problems| {
            events.done();
            problem::refuse(&events, &problems)
        })?;
    resolved.notes.iter().for_each(|note| events.note(note.clone()));
    if let Some(plan) = &plan {
        tokio::select! {
            verified = installer::verify(plan, &wanted.recipe, &events) => verified.inspect_err(|_| events.done())?,
            _ = stop.changed() => return Err(interrupted()),
        }
    }
    events.keep_log(state.log()?);
    let all = nodes::instances(&aws, &record.name).await?;
    let before = ids(&state, &all)?;
    let there = nodes::running(&record, all)?;
    let context = RunContext::new(&aws, &state, &events);
    let mut work = LaunchSession {
        run: context.clone(),
        resolved: &resolved,
        record: &mut record,
        plan: plan.as_ref(),
        call,
        key: LoginKey::default(),
    };
    let grown = tokio::select! {
        grown = work.grow(&there, args.nodes) => grown,
        _ = stop.changed() => Err(interrupted()),
    };
    let grown = match grown {
        Ok(grown) => grown,
        Err(error) => {
            let end = async {
                drop(context.launch_in_flight.lock().await);
                end_new(&record, &aws, &state, &before, &events).await
            };
            let ended = tokio::select! {
                ended = end => ended,
                () = cleanup::second_signal(&mut stop, &events) => Err(Error::new(Class::Interrupted, "interrupted again")),
            };
            if let Err(unfinished) = ended {
                events.note(format!("the new nodes are not ended: {unfinished}; efa-gen cluster ls shows them"));
            }
            events.done();
            return Err(error);
        }
    };
    events.done();
    launch::show(&wanted, &record, &grown)
}

/// Ends the nodes that a growth has launched: those that were not there `before`. A listing may lag behind; the ledger knows
/// what was launched for certain.
async fn end_new(
    cluster: &ClusterRecord,
    aws: &Aws,
    state: &RunState,
    before: &BTreeSet<String>,
    events: &EventSink,
) -> Result<()> {
    let mut new = ids(state, &nodes::instances(aws, &cluster.name).await?)?;
    if new.is_subset(before) {
        tokio::time::sleep(timeouts::LISTED).await;
        new = ids(state, &nodes::instances(aws, &cluster.name).await?)?;
    }
    let new: Vec<String> = new.difference(before).cloned().collect();
    if !new.is_empty() {
        events.step("End the new nodes");
        aws.terminate(&new, timeouts::TERMINATION).await?;
        new.into_iter().for_each(|id| events.emit(&Event::Removed { kind: "instance", id }));
    }
    Ok(())
}

/// Of every node that is listed or in the ledger.
fn ids(state: &RunState, listed: &[Instance]) -> Result<BTreeSet<String>> {
    Ok(state.known_ids(ResourceKind::Instance)?.into_iter().chain(listed.iter().map(|node| node.id.clone())).collect())
}
