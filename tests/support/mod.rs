//! Owns what the black-box tests share: running the binary, and keys and signatures made by real GnuPG.

#![allow(dead_code)] // Each test file uses its own part.

pub mod http;
pub mod pgp;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a run of the binary gave.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary in `folder`.
pub fn efa_gen<S: AsRef<OsStr>>(folder: &Path, args: &[S]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_efa-gen")).current_dir(folder).args(args).output();
    let Output { status, stdout, stderr } = output.expect("the binary runs");
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// A folder for one test, removed with the value.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder")
}

/// Paths of a folder's files, sorted: what a command left behind.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// `CARGO_TARGET_TMPDIR/name`.
pub fn target_tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}
