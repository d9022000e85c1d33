//! The binary: a table from commands to the modules that carry them out.

#[cfg(feature = "ec2")]
mod build;
mod cli;
#[cfg(feature = "ec2")]
mod cluster;
mod commands;
mod download;
#[cfg(feature = "ec2")]
mod ec2;
#[cfg(feature = "ec2")]
mod events;
mod files;
mod part;
#[cfg(feature = "ec2")]
mod place;
mod report;
#[cfg(feature = "ec2")]
mod signals;
#[cfg(feature = "ec2")]
mod ssh;
#[cfg(feature = "ec2")]
mod validate;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Render(args) => commands::render::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        #[cfg(feature = "ec2")]
        Command::Build(args) => commands::build::run(&args),
        #[cfg(feature = "ec2")]
        Command::Launch(args) => commands::launch::run(&args),
        #[cfg(feature = "ec2")]
        Command::Cluster(command) => commands::cluster::run(&command),
        #[cfg(feature = "ec2")]
        Command::Sweep(args) => commands::sweep::run(&args),
        #[cfg(feature = "ec2")]
        Command::Images(args) => commands::images::run(&args),
        #[cfg(feature = "ec2")]
        Command::Image(cli::cloud::ImageCommand::Rm(args)) => commands::images::rm(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::Validate(args) => commands::validate::run(&args),
        Command::Distros(args) => commands::list::distros(&args),
        Command::InstanceTypes(args) => commands::list::instance_types(&args),
        Command::Stacks(args) => commands::list::stacks(&args),
        Command::Completions { shell } => commands::docs::completions(shell),
        Command::Man { out } => commands::docs::man(out.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::fail(&error),
    }
}
