//! Owns what is kept of a build on the machine that began it, so that it can go on there.

use efa_gen::error::{Class, Error, Result};
use serde::{Deserialize, Serialize};

use crate::cli::cloud::BuildArgs;
use crate::run::id::folder_of;
use crate::run::state::{BUILD, RunState};

/// What a build needs to go on after a crash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildRecord {
    pub run: String,
    pub distribution: String,
    /// The flags as they were given; `--ssh-cidr` as it was given last.
    pub args: BuildArgs,
    pub account: String,
    pub region: String,
    /// The plan's digest: the same flags must still give it.
    pub plan: String,
    /// Id of the base AMI.
    pub base: String,
    /// Name of the image to be.
    pub name: String,
    /// How the builder was launched last.
    #[serde(rename = "tried")]
    pub attempt: Option<LaunchAttempt>,
}

/// A launch: asked for again with the same values, EC2 answers with the same instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchAttempt {
    pub subnet: String,
    /// Seconds since 1970 at which the machine ends itself.
    pub deadline: i64,
}

/// The folder of a run that began earlier, and its record.
pub fn open(run: &str) -> Result<(RunState, BuildRecord)> {
    let state = RunState { path: folder_of(run)?, run: run.to_owned() };
    let none = || {
        Error::new(Class::Usage, format!("nothing is known here of run {run}"))
            .hint("a run goes on where it began, with its files; elsewhere `efa-gen sweep --run` removes what it left")
    };
    let record = state.read(BUILD)?.ok_or_else(none)?;
    Ok((state, record))
}

/// Keeps the record of a build; called before the first thing is made.
pub fn keep(state: &RunState, record: &BuildRecord) -> Result<()> {
    state.write(BUILD, record)
}
