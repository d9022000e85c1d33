//! The binary: a table from commands to the modules that carry them out.

mod build;
mod cli;
mod cluster;
mod commands;
mod download;
mod ec2;
mod events;
mod files;
mod part;
mod place;
mod report;
mod signals;
mod ssh;
mod validate;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Render(args) => commands::render::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Build(args) => commands::build::run(&args),
        Command::Launch(args) => commands::launch::run(&args),
        Command::Cluster(command) => commands::cluster::run(&command),
        Command::Sweep(args) => commands::sweep::run(&args),
        Command::Images(args) => commands::images::run(&args),
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
