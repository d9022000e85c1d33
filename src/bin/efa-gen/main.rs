//! The binary: a table from commands to the modules that carry them out.

mod cli;
mod commands;
mod download;
mod files;
mod part;
mod report;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Render(args) => commands::render::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
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
