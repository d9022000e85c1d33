//! Owns `efa-gen cluster`: what is listed of clusters, logins and commands on their nodes, growth and removal. Knows nothing
//! of how nodes come about.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt as _;
use std::sync::Arc;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use serde::Serialize;
use tokio::sync::Mutex;

use super::{account, launch, list, recipe, validate};
use crate::build::run::{self, Folder};
use crate::build::{gate, problem, sweep, tags};
use crate::cli::OutputArg;
use crate::cli::cloud::ReachArgs;
use crate::cli::cluster::{
    ClusterAdmitArgs, ClusterCheckArgs, ClusterCommand, ClusterGrowArgs, ClusterLsArgs, ClusterRef, ClusterRmArgs,
    ClusterRunArgs, ClusterSshArgs,
};
use crate::cli::validate::ValidateArgs;
use crate::cluster::check::check;
use crate::cluster::launch::Run;
use crate::cluster::preflight::Preflight;
use crate::cluster::record::{Record, Way};
use crate::cluster::{self, Cluster, Node, each};
use crate::ec2::Aws;
use crate::ec2::model::{Instance, Kind};
use crate::events::{Event, Screen, Talk};
use crate::place::{Look, check_reach};
use crate::report;
use crate::signals::on_signals;
use crate::ssh::Ended;

/// From TerminateInstances to `terminated`.
const ENDS: Duration = Duration::from_secs(15 * 60);

/// How long EC2 may take to list what it has just launched.
const LISTS: Duration = Duration::from_secs(4);

pub fn run(command: &ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Ls(args) => account::block_on(ls(args)),
        ClusterCommand::Ssh(args) => ssh(args),
        ClusterCommand::Run(args) => account::block_on(run_everywhere(args)),
        ClusterCommand::Check(args) => account::block_on(check_all(args)),
        ClusterCommand::Validate(cluster) => {
            validate::run(&ValidateArgs::of_cluster(&cluster.name, &cluster.account, None))
        }
        ClusterCommand::Admit(args) => account::block_on(admit(args)),
        ClusterCommand::Grow(args) => account::block_on(grow(args)),
        ClusterCommand::Rm(args) => account::block_on(rm(args)),
    }
}

/// A cluster as the account shows it.
#[derive(Debug, Serialize)]
struct Row {
    region: String,
    cluster: String,
    run: String,
    kind: String,
    zone: String,
    /// By state.
    nodes: BTreeMap<String, usize>,
    until: String,
    /// Ids, the leader first.
    ids: Vec<String>,
}

async fn ls(args: &ClusterLsArgs) -> Result<()> {
    let mut rows: Vec<Row> = Vec::new();
    for aws in account::regions(&args.region, args.profile.as_deref()).await? {
        let mut found = aws.instances(&[("tag-key", tags::CLUSTER)]).await.map_err(|error| error.about(&aws.region))?;
        found.retain(Instance::is_there);
        cluster::sort(&mut found);
        for node in found {
            let of = |tag: &str| node.tags.get(tag).cloned().unwrap_or_default();
            let run = of(tags::RUN);
            let known = rows.iter().position(|row| row.run == run && row.region == aws.region);
            let index = known.unwrap_or(rows.len());
            if known.is_none() {
                rows.push(Row {
                    region: aws.region.clone(),
                    cluster: of(tags::CLUSTER),
                    run,
                    kind: node.kind.clone(),
                    zone: node.zone.clone(),
                    nodes: BTreeMap::new(),
                    until: of(tags::UNTIL),
                    ids: Vec::new(),
                });
            }
            let row = &mut rows[index];
            *row.nodes.entry(node.state).or_default() += 1;
            row.ids.push(node.id);
        }
    }
    if args.output.output == OutputArg::Json {
        return list::json(&rows);
    }
    let cells = rows.into_iter().map(|row| {
        let nodes: Vec<String> = row.nodes.iter().map(|(state, count)| format!("{count} {state}")).collect();
        [row.region, row.cluster, row.kind, row.zone, nodes.join(", "), row.until, row.run]
    });
    list::table(["region", "cluster", "type", "zone", "nodes", "until", "run"], cells)
}

/// The terminal is the session's: efa-gen becomes ssh.
fn ssh(args: &ClusterSshArgs) -> Result<()> {
    let cluster = account::block_on(open(&args.cluster))?;
    let node = node(&cluster, &args.node)?;
    let line = (!args.command.is_empty()).then(|| shell_line(&args.command)).transpose()?;
    let error = node.guest.for_terminal(line.as_deref()).exec();
    Err(Error::new(Class::Io, "could not start ssh").because(error).hint("install OpenSSH's client"))
}

async fn open(of: &ClusterRef) -> Result<Cluster> {
    cluster::open(&of.account, &of.name).await
}

fn node<'a>(cluster: &'a Cluster, wanted: &str) -> Result<&'a Node> {
    let by_number = wanted.parse::<usize>().ok().and_then(|index| cluster.nodes.get(index));
    let named = |node: &&Node| node.id == wanted || node.address == wanted;
    by_number.or_else(|| cluster.nodes.iter().find(named)).ok_or_else(|| {
        let known: Vec<&str> = cluster.nodes.iter().map(|node| node.address.as_str()).collect();
        Error::new(Class::Usage, format!("cluster {} has no running node {wanted}", cluster.record.name))
            .hint(format!("its nodes, from 0 on: {}", known.join(" ")))
    })
}

/// One word is a line for the far shell, as with ssh; several are quoted.
fn shell_line(words: &[String]) -> Result<String> {
    match words {
        [line] => Ok(line.clone()),
        words => shlex::try_join(words.iter().map(String::as_str))
            .map_err(|error| Error::new(Class::Usage, "the command holds a NUL byte").because(error)),
    }
}

async fn run_everywhere(args: &ClusterRunArgs) -> Result<()> {
    let cluster = open(&args.cluster).await?;
    let line = shell_line(&args.command)?;
    let ended = each(&cluster.nodes, cluster.record.at_once(), async |node: &Node| {
        let said = |text: &str| report::data(format!("{}: {text}\n", node.address).as_bytes());
        let mut printed = Ok(());
        let ended = node
            .guest
            .run(&line, None, |text| printed = std::mem::replace(&mut printed, Ok(())).and_then(|()| said(text)));
        let ended = ended.await?;
        printed?;
        Ok(match ended {
            Ended::Status(0) => None,
            Ended::Status(code) => Some((format!("{}: exit status {code}", node.address), false)),
            Ended::Lost(words) => Some((format!("{}: the connection was lost: {words}", node.address), true)),
        })
    });
    let ended: Vec<Option<(String, bool)>> = ended.await.into_iter().collect::<Result<_>>()?;
    let nobody = ended.iter().all(|one| matches!(one, Some((_, true))));
    let failed: Vec<String> = ended.into_iter().flatten().map(|(words, _)| words).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let count = format!("the command failed on {} of {} nodes", failed.len(), cluster.nodes.len());
    let error = Error::new(Class::Install, count).because(failed.join("\n"));
    Err(if nobody { nobody_answers(&cluster.record, error) } else { error })
}

/// The error with what to try where not one node answers.
fn nobody_answers(record: &Record, error: Error) -> Error {
    match record.own_group() {
        Some(_) => {
            error.hint(format!("has your address changed? efa-gen cluster admit {} opens port 22 to it", record.name))
        }
        None => error,
    }
}

async fn check_all(args: &ClusterCheckArgs) -> Result<()> {
    let cluster = open(&args.cluster).await?;
    let checked = check(&cluster.record, &cluster.nodes).await?;
    checked.show(args.output.output)?;
    let nobody = checked.nodes.is_empty();
    checked.good().map_err(|error| if nobody { nobody_answers(&cluster.record, error) } else { error })
}

/// Opens port 22 of the cluster's own group to who was not there at the launch.
async fn admit(args: &ClusterAdmitArgs) -> Result<()> {
    let Cluster { aws, record, .. } = open(&args.cluster).await?;
    let name = &record.name;
    if record.way == Way::SessionManager {
        return Err(Error::new(Class::Usage, format!("cluster {name} is reached through Session Manager"))
            .hint("who may connect is said by IAM; no port is open"));
    }
    let Some(group) = record.own_group() else {
        let theirs = record.args.security_group.as_deref().unwrap_or("none");
        return Err(Error::new(Class::Usage, format!("cluster {name} has no security group of its own"))
            .hint(format!("its nodes are in {theirs}: let whoever looks after it open port 22")));
    };
    if record.way == Way::Private && args.ssh_cidr.is_empty() {
        return Err(Error::new(Class::Usage, format!("cluster {name} is reached by private addresses"))
            .hint("name the range that you connect from: --ssh-cidr 10.0.0.0/8"));
    }
    let reach = ReachArgs { ssh_cidr: args.ssh_cidr.clone(), ..record.args.reach.clone() };
    let catalog = recipe::catalog(None)?;
    let mut look = Look::new(&aws, &catalog);
    look.problems.extend(check_reach(&reach, &[]));
    let cidrs = look.cidrs(&reach, true, "the cluster").await;
    if !look.problems.is_empty() {
        let talk = Screen::new(OutputArg::Human, false).talk(name);
        return Err(problem::refuse(&talk, &look.problems));
    }
    aws.allow_ssh(group, &cidrs).await?;
    report::say(&format!("port 22 of cluster {name} is open to {} as well", cidrs.join(", ")));
    Ok(())
}

async fn grow(args: &ClusterGrowArgs) -> Result<()> {
    let mut stop = on_signals()?;
    let Cluster { aws, mut record, folder, .. } = open(&args.cluster).await?;
    let _lock = folder.lock()?;
    let talk = Screen::new(args.output, false).talk(&record.name);
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
    talk.step("Preflight");
    // A name of its own: the cluster's is taken, by itself.
    let call = run::new_id();
    let beside = format!("grow-{call}");
    let ready = Preflight::new(&aws, &catalog, plan.as_ref(), &wanted, &beside).run().await.map_err(|problems| {
        talk.done();
        problem::refuse(&talk, &problems)
    })?;
    ready.notes.iter().for_each(|note| talk.note(note.clone()));
    talk.keep_log(folder.log()?);
    let all = cluster::instances(&aws, &record.name).await?;
    let before = ids(&folder, &all)?;
    let there = cluster::running(&record, all)?;
    let asking = Arc::<Mutex<()>>::default();
    let mut work = Run {
        aws: &aws,
        ready: &ready,
        record: &mut record,
        folder: &folder,
        talk: &talk,
        plan: plan.as_ref(),
        call,
        key: String::new(),
        asking: asking.clone(),
    };
    let grown = tokio::select! {
        grown = work.grow(&there, args.nodes) => grown,
        _ = stop.changed() => Err(Error::new(Class::Interrupted, "interrupted by a signal")),
    };
    let grown = match grown {
        Ok(grown) => grown,
        Err(error) => {
            let end = async {
                drop(asking.lock().await);
                end_new(&record, &aws, &folder, &before, &talk).await
            };
            let ended = tokio::select! {
                ended = end => ended,
                () = sweep::asked_to_leave(&mut stop, &talk) => Err(Error::new(Class::Interrupted, "interrupted again")),
            };
            if let Err(unfinished) = ended {
                talk.note(format!("the new nodes are not ended: {unfinished}; efa-gen cluster ls shows them"));
            }
            talk.done();
            return Err(error);
        }
    };
    talk.done();
    launch::show(&wanted, &record, &grown)
}

/// Ends the nodes that a growth has launched: those that were not there `before`. A listing may lag behind; the ledger knows
/// what was launched for certain.
async fn end_new(cluster: &Record, aws: &Aws, folder: &Folder, before: &BTreeSet<String>, talk: &Talk) -> Result<()> {
    let mut new = ids(folder, &cluster::instances(aws, &cluster.name).await?)?;
    if new.is_subset(before) {
        tokio::time::sleep(LISTS).await;
        new = ids(folder, &cluster::instances(aws, &cluster.name).await?)?;
    }
    let new: Vec<String> = new.difference(before).cloned().collect();
    if !new.is_empty() {
        talk.step("End the new nodes");
        aws.terminate(&new, ENDS).await?;
        new.into_iter().for_each(|id| talk.emit(&Event::Removed { kind: "instance", id }));
    }
    Ok(())
}

/// Of every node that is listed or in the ledger.
fn ids(folder: &Folder, listed: &[Instance]) -> Result<BTreeSet<String>> {
    Ok(folder.known_ids(Kind::Instance)?.into_iter().chain(listed.iter().map(|node| node.id.clone())).collect())
}

async fn rm(args: &ClusterRmArgs) -> Result<()> {
    let ClusterRef { name, account } = &args.cluster;
    let aws = Aws::connect(account.region.as_deref(), account.profile.as_deref()).await?;
    // Nodes may all have ended; then what is left still has the name.
    let filter = format!("tag:{}", tags::CLUSTER);
    let things = aws.things(&[(&filter, name)]).await?;
    let runs: BTreeSet<String> = things.iter().filter_map(|thing| thing.tags.get(tags::RUN)).cloned().collect();
    if runs.is_empty() {
        return Err(Error::new(Class::Usage, format!("{} has nothing of a cluster {name}", aws.region))
            .hint("`efa-gen cluster ls` lists them; --region names another region"));
    }
    if let Some(run) = runs.iter().find(|run| *name == gate::name(run)) {
        return Err(Error::new(Class::Usage, format!("{name} is the test of a build, whose image has the same run"))
            .hint(format!(
                "go on with efa-gen build --resume {run}, or remove it all: efa-gen sweep --run {run} --yes"
            )));
    }
    if !args.yes {
        let rows = things
            .iter()
            .map(|thing| [thing.kind.name().to_owned(), thing.id.clone(), thing.name.clone(), thing.state.clone()]);
        list::table(["kind", "id", "name", "state"], rows)?;
        report::say("note: nothing was removed: --yes removes what is listed");
        return Ok(());
    }
    let talk = Screen::new(OutputArg::Human, false).talk(name);
    let mut left = Vec::new();
    for run in &runs {
        let folder = Folder { path: run::folder_of(run)?, run: run.clone() };
        let here = folder.path.exists();
        let _lock = if here { Some(folder.lock()?) } else { None };
        let known = if here { folder.known()? } else { Vec::new() };
        let mut rest = sweep::undo(&aws, run, &[], &known, BTreeSet::new(), &talk, None).await?;
        if here && rest.is_empty() && Record::open(&folder, name).is_ok() {
            std::fs::remove_dir_all(&folder.path).map_err(|error| {
                Error::new(Class::Io, format!("could not remove {}", folder.path.display())).because(error)
            })?;
        }
        left.append(&mut rest);
    }
    talk.done();
    if left.is_empty() { Ok(()) } else { Err(sweep::still_there(&left)) }
}
