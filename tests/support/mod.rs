//! What several test files use: plans, the binary in a scrubbed environment, folders, OpenPGP fixtures, an HTTP server.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod account;
pub mod aws;
pub mod builds;
pub mod canaries;
pub mod hostile;
pub mod http;
pub mod launched;
pub mod mpirun;
pub mod nccl;
pub mod pgp;
pub mod preload;
pub mod sample;
pub mod sandbox;
pub mod tls;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use efa_gen::catalog::Catalog;
use efa_gen::plan::{self, Plan, Request};

/// The catalog that efa-gen carries.
pub fn catalog() -> Catalog {
    Catalog::embedded().expect("the embedded facts are sound")
}

/// A request for this distribution and stack, nothing else set.
pub fn request(distribution: &str, stack: &str) -> Request {
    Request { distribution: distribution.into(), stack: Some(stack.into()), ..Request::default() }
}

/// The plan for this distribution and its default stack.
pub fn default_plan(distribution: &str) -> Plan {
    let request = Request { distribution: distribution.into(), ..Request::default() };
    plan::plan(&catalog(), &request).expect("the default can be planned")
}

/// The plan for this distribution and stack.
pub fn plan_of(distribution: &str, stack: &str) -> Plan {
    plan::plan(&catalog(), &request(distribution, stack)).expect("this combination can be planned")
}

/// The binary, in an environment that holds nothing but PATH.
pub fn efa_gen(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary starts")
}

/// The same, not yet started.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efa-gen"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).args(arguments);
    command
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A path below the repository's root.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a run of the binary gave.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary in a folder, its environment scrubbed.
pub fn run_in<S: AsRef<OsStr>>(folder: &Path, arguments: &[S]) -> Ran {
    let output = command(&[]).current_dir(folder).args(arguments).output().expect("the binary starts");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A folder for one test, removed with the value.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder can be made")
}

/// Names of a folder's files, sorted: what a command left behind.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("the folder can be read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// `CARGO_TARGET_TMPDIR/name`.
pub fn target_tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}
