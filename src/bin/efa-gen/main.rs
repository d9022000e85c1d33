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
        Command::Verify(args) => commands::verify::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        _ => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::fail(&error),
    }
}
