//! The binary: a table from commands to the modules that carry them out.

mod aws;
mod cli;
mod cluster;
mod commands;
mod image;
mod io;
mod nccl_test;
mod preflight;
mod run;
mod timeouts;

use crate::io::{panic_hook, terminal};
use std::process::ExitCode;

use crate::cli::Command;

fn main() -> ExitCode {
    panic_hook::install(terminal::message);
    let command = match cli::parse() {
        Ok(cli) => cli.command,
        Err(code) => return code,
    };
    let result = match command {
        Command::Render(args) => commands::render::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Build(args) => commands::build::run(&args),
        Command::Launch(args) => commands::launch::run(&args),
        Command::Cluster(command) => commands::cluster::run(&command),
        Command::Sweep(args) => commands::sweep::run(&args),
        Command::Images(args) => commands::images::run(&args),
        Command::Image(cli::cloud::ImageCommand::Rm(args)) => commands::images::rm(&args),
        Command::Permissions(args) => commands::permissions::run(&args),
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
        Err(error) => terminal::error(&error),
    }
}
