//! Owns `efa-gen cluster ssh` and `run`: logins and commands on the nodes.

use super::open::{nobody_answers, node, open};
use crate::cli::cluster::{ClusterRunArgs, ClusterSshArgs};
use crate::cluster::nodes::Node;
use crate::commands::account;
use crate::io::concurrency::map_concurrent;
use crate::io::ssh::CommandExit;
use crate::io::ssh_route;
use crate::io::terminal;
use efa_gen::error::{Class, Error, Result};
use efa_gen::shell;
use std::os::unix::process::CommandExt as _;

/// The terminal is the session's: efa-gen becomes ssh.
pub fn ssh(args: &ClusterSshArgs) -> Result<()> {
    let line = (!args.command.is_empty()).then(|| shell_line(&args.command)).transpose()?;
    let mut command = account::block_on(async {
        let cluster = open(&args.cluster.account, &args.cluster.name).await?;
        node(&cluster, &args.node)?.guest.for_terminal(line.as_deref()).await
    })?;
    Err(ssh_route::not_started(command.exec()))
}

/// One word is a line for the far shell, as with ssh; several are quoted.
fn shell_line(words: &[String]) -> Result<String> {
    match words {
        [line] => Ok(line.clone()),
        words => shell::join(words),
    }
}

pub async fn run_everywhere(args: &ClusterRunArgs) -> Result<()> {
    let cluster = open(&args.cluster.account, &args.cluster.name).await?;
    let line = shell_line(&args.command)?;
    let ended = map_concurrent(&cluster.nodes, cluster.record.at_once(), async |node: &Node| {
        let print = |text: &str| {
            let line = format!("{}: {text}", node.address);
            // A pipe or a file gets what the node said, a terminal what can't drive it.
            if terminal::is_watched() {
                terminal::lines([line])
            } else {
                terminal::data(format!("{line}\n").as_bytes())
            }
        };
        let mut printed = Ok(());
        let ended = node
            .guest
            .run(&line, None, |text| printed = std::mem::replace(&mut printed, Ok(())).and_then(|()| print(text)));
        let ended = ended.await?;
        printed?;
        Ok(match ended {
            CommandExit::Status(0) => None,
            CommandExit::Status(code) => Some((format!("{}: exit status {code}", node.address), false)),
            CommandExit::Lost(words) => Some((format!("{}: the connection was lost: {words}", node.address), true)),
        })
    });
    let ended: Vec<Option<(String, bool)>> = ended.await.into_iter().collect::<Result<_>>()?;
    let nobody = ended.iter().all(|one| matches!(one, Some((_, true))));
    let failed: Vec<String> = ended.into_iter().flatten().map(|(words, _)| words).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let count = format!("the command failed on {} of {} nodes", failed.len(), cluster.nodes.len());
    let error = Error::new(Class::Install, count).with_source(failed.join("\n"));
    Err(if nobody { nobody_answers(&cluster.record, error) } else { error })
}
