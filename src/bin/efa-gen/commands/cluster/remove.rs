//! Owns `efa-gen cluster rm`: everything that a cluster has in the account.

use crate::aws::Aws;
use crate::cli::cluster::{ClusterRef, ClusterRmArgs};
use crate::cluster::record::ClusterRecord;
use crate::commands::list;
use crate::image::preflight::gate_name;
use crate::io::events::{Form, Reporter};
use crate::io::terminal;
use crate::run::cleanup::{Cleanup, Whose, clean_up};
use crate::run::id::folder_of;
use crate::run::state::RunState;
use crate::run::{cleanup, tags};
use efa_gen::error::{Class, Error, Result};
use std::collections::BTreeSet;

pub async fn rm(args: &ClusterRmArgs) -> Result<()> {
    let ClusterRef { name, account } = &args.cluster;
    let aws = Aws::connect(account.region.as_deref(), account.profile.as_deref()).await?;
    // Nodes may all have ended; then what is left still has the name.
    let filter = format!("tag:{}", tags::CLUSTER);
    let tagged = aws.resources(&[(&filter, name)]).await?;
    let tagged_runs: BTreeSet<String> =
        tagged.iter().filter_map(|resource| resource.tags.get(tags::RUN)).cloned().collect();
    let mut resources = Vec::new();
    for run in &tagged_runs {
        let found = cleanup::list(&aws, Whose::Cluster(run, name), &BTreeSet::new()).await?;
        for (resource, why) in &found.others {
            terminal::message(&format!("note: {}", cleanup::left_alone(resource, why)));
        }
        resources.extend(found.left.into_iter().map(|resource| {
            let why = found.evidence.get(&resource.id).cloned().unwrap_or_default();
            (resource, why)
        }));
    }
    let runs: BTreeSet<String> =
        resources.iter().filter_map(|(resource, _)| resource.tags.get(tags::RUN)).cloned().collect();
    if runs.is_empty() {
        return Err(Error::new(Class::Usage, format!("{} has nothing of a cluster {name}", aws.region))
            .hint("`efa-gen cluster ls` lists them; --region names another region"));
    }
    if let Some(run) = runs.iter().find(|run| *name == gate_name(run)) {
        return Err(Error::new(Class::Usage, format!("{name} is the test of a build, whose image has the same run"))
            .hint(format!(
                "go on with efa-gen build --resume {run}, or remove it all: efa-gen sweep --run {run} --yes"
            )));
    }
    if !args.yes {
        let rows = resources.iter().map(|(resource, why)| {
            let name = resource.tags.get("Name").unwrap_or(&resource.name);
            let created = resource.created.get(..10).unwrap_or(&resource.created);
            [resource.kind.name(), &resource.id, name, &resource.state, created, why].map(str::to_owned)
        });
        list::table(["kind", "id", "name", "state", "created", "why it is the cluster's"], rows)?;
        terminal::message("note: nothing was removed: --yes removes what is listed");
        return Ok(());
    }
    let events = Reporter::new(Form::Lines, false).events(name);
    let mut left = Vec::new();
    for run in &runs {
        let state = RunState { path: folder_of(run)?, run: run.clone() };
        let here = state.path.exists();
        let _lock = if here { Some(state.lock()?) } else { None };
        let known = if here { state.known()? } else { Vec::new() };
        if let Some(note) = state.cut_line()? {
            terminal::message(&format!("note: {note}"));
        }
        let mut rest = clean_up(
            Cleanup {
                aws: &aws,
                run,
                cluster: Some(name),
                events: &events,
                regions: &[],
                known: &known,
                keep: BTreeSet::new(),
            },
            None,
        )
        .await?;
        if here && rest.is_empty() && ClusterRecord::open(&state, name).is_ok() {
            state.forget()?;
        }
        left.append(&mut rest);
    }
    events.done();
    if left.is_empty() { Ok(()) } else { Err(cleanup::still_there(&left)) }
}
