//! Owns `efa-gen cluster check` and `admit`: how the nodes are, and who may connect to them.

use super::open::{nobody_answers, open};
use crate::aws::model::SshRule;
use crate::cli::cloud::ReachArgs;
use crate::cli::cluster::{ClusterAdmitArgs, ClusterCheckArgs};
use crate::cluster::access::AccessPath;
use crate::cluster::check::check;
use crate::cluster::nodes::Cluster;
use crate::cluster::ssh_rules;
use crate::commands::{launch, recipe};
use crate::io::events::{Form, Reporter};
use crate::io::terminal;
use crate::preflight::access::check_reach;
use crate::preflight::context::PreflightContext;
use crate::preflight::problem;
use crate::run::resources::rule_of;
use crate::run::state::CLUSTER;
use efa_gen::error::{Class, Error, Result};

pub async fn check_all(args: &ClusterCheckArgs) -> Result<()> {
    let cluster = open(&args.cluster.account, &args.cluster.name).await?;
    let checked = check(&cluster.record, &cluster.nodes).await?;
    launch::show_checked(&checked, args.output.output)?;
    let nobody = checked.nodes.is_empty();
    checked.ensure_good().map_err(|error| if nobody { nobody_answers(&cluster.record, error) } else { error })
}

/// Opens port 22 of the cluster's own group to who was not there at the launch; or to those who are given alone.
pub async fn admit(args: &ClusterAdmitArgs) -> Result<()> {
    let Cluster { aws, mut record, state, .. } = open(&args.cluster.account, &args.cluster.name).await?;
    let _lock = args.only.then(|| state.lock()).transpose()?;
    let name = record.name.clone();
    if record.access_path == AccessPath::SessionManager {
        return Err(Error::new(Class::Usage, format!("cluster {name} is reached through Session Manager"))
            .hint("who may connect is said by IAM; no port is open"));
    }
    let Some(group) = record.own_group().map(str::to_owned) else {
        let theirs = record.args.security_group.as_deref().unwrap_or("none");
        return Err(Error::new(Class::Usage, format!("cluster {name} has no security group of its own"))
            .hint(format!("its nodes are in {theirs}: let whoever looks after it open port 22")));
    };
    if record.access_path == AccessPath::Private && args.ssh_cidr.is_empty() {
        return Err(Error::new(Class::Usage, format!("cluster {name} is reached by private addresses"))
            .hint("name the range that you connect from: --ssh-cidr 10.0.0.0/8"));
    }
    let reach = ReachArgs { ssh_cidr: args.ssh_cidr.clone(), ..record.args.reach.clone() };
    let catalog = recipe::catalog(None)?;
    let mut context = PreflightContext::new(&aws, &catalog);
    context.problems.extend(check_reach(&reach, &[]));
    let cidrs = context.cidrs(&reach, true, "the cluster").await;
    if !context.problems.is_empty() {
        let events = Reporter::new(Form::Lines, false).events(&name);
        return Err(problem::refuse(&events, &context.problems));
    }
    if !args.only {
        aws.allow_ssh(&group, &cidrs, &rule_of(&record.run)).await?;
        terminal::message(&format!("port 22 of cluster {name} is open to {} as well", cidrs.join(", ")));
        return Ok(());
    }
    let exchanged = ssh_rules::exchange(&aws, &group, &record, &cidrs).await?;
    // What grows later is open to the same.
    record.args.reach.ssh_cidr.clone_from(&cidrs);
    record.ssh_cidrs.clone_from(&cidrs);
    state.write(CLUSTER, &record)?;
    let closed = match exchanged.revoked.as_slice() {
        [] => String::new(),
        revoked => format!(", and no more to {}", revoked.join(", ")),
    };
    terminal::message(&format!("port 22 of cluster {name} is open to {}{closed}", cidrs.join(", ")));
    for SshRule { source, description, .. } in exchanged.others {
        let named = if description.is_empty() { "no description".to_owned() } else { format!("{description:?}") };
        terminal::message(&format!(
            "note: {source} reaches port 22 too, by a rule of {group} that is not efa-gen's ({named})"
        ));
    }
    Ok(())
}
