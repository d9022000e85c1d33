//! Owns `efa-gen cluster rekey`: a new key for the logins between the nodes.

use super::open::{nobody_answers, open};
use crate::cli::cluster::ClusterRef;
use crate::cluster::nodes::{self, Cluster};
use crate::cluster::rekey;
use crate::io::events::{Form, Reporter};
use crate::io::terminal;
use efa_gen::error::{Class, Error, Result};

pub async fn rekey(args: &ClusterRef) -> Result<()> {
    let Cluster { aws, record, state, nodes } = open(&args.account, &args.name).await?;
    let _lock = state.lock()?;
    let events = Reporter::new(Form::Lines, false).events(&record.name);
    let mut rekeyed = rekey::rekey(&record, &nodes, &events).await?;
    events.done();
    // Who does not run now lets the old key in when it runs again.
    let idle = nodes::instances(&aws, &record.name)
        .await?
        .into_iter()
        .filter(|one| !nodes.iter().any(|node| node.id == one.id));
    rekeyed.left.extend(
        idle.map(|one| (one.private_address.unwrap_or(one.id), format!("it is {}; start it, or end it", one.state))),
    );
    let (name, done, count) = (&record.name, rekeyed.done.len(), rekeyed.done.len() + rekeyed.left.len());
    if !rekeyed.left.is_empty() {
        let lines: Vec<String> = rekeyed.left.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        let message = format!("{} of {count} nodes of cluster {name} may let the old key in still", lines.len());
        let error = Error::new(Class::Install, message).with_source(lines.join("\n"));
        return Err(if done == 0 {
            nobody_answers(&record, error)
        } else {
            error.hint(format!("once they answer, or have ended: efa-gen cluster rekey {name}"))
        });
    }
    if !rekeyed.unreachable.is_empty() {
        let lines: Vec<String> =
            rekeyed.unreachable.iter().map(|(node, peer)| format!("{node} can't log in to {peer}")).collect();
        let message = format!("cluster {name} has its new key, but {} logins between its nodes fail", lines.len());
        return Err(Error::new(Class::Check, message)
            .with_source(lines.join("\n"))
            .hint(format!("efa-gen cluster check {name} asks once more")));
    }
    terminal::message(&format!("cluster {name}: {done} nodes have the new key, and let no older one in"));
    Ok(())
}
