//! Owns `efa-gen cluster`: which of its commands is carried out where.

mod access;
mod grow;
mod list;
pub mod open;
mod rekey;
mod remove;
mod shell;

use efa_gen::error::Result;

use super::{account, validate};
use crate::cli::cluster::ClusterCommand;
use crate::cli::validate::ValidateArgs;

pub fn run(command: &ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Ls(args) => account::block_on(list::ls(args)),
        ClusterCommand::Ssh(args) => shell::ssh(args),
        ClusterCommand::Run(args) => account::block_on(shell::run_everywhere(args)),
        ClusterCommand::Check(args) => account::block_on(access::check_all(args)),
        ClusterCommand::Validate(cluster) => {
            validate::run(&ValidateArgs::of_cluster(&cluster.name, &cluster.account, None))
        }
        ClusterCommand::Admit(args) => account::block_on(access::admit(args)),
        ClusterCommand::Rekey(cluster) => account::block_on(rekey::rekey(cluster)),
        ClusterCommand::Grow(args) => account::block_on(grow::grow(args)),
        ClusterCommand::Rm(args) => account::block_on(remove::rm(args)),
    }
}
