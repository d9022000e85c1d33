//! What several test files use: every plan of the guide stack, and the binary in a scrubbed environment.
#![allow(dead_code, reason = "each test file uses a part of it")]

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
    Request { distribution: distribution.into(), stack: stack.into(), ..Request::default() }
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
