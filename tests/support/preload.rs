//! Owns what a test puts between a program and the C library: a clock that runs fast, a log of what is forced to the disk
//! or removed, and a machine that has no room for another thread.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use super::{in_repository, target_tmp};

static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let library = target_tmp(&format!("preload-{}.so", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(in_repository("tests/support/preload.c"));
    assert!(compiler.arg("-ldl").status().expect("a C compiler").success());
    library
});

/// The program can't have a thread but its first.
pub fn refuse_threads(command: &mut Command) {
    command.env("LD_PRELOAD", &*LIBRARY).env("PRELOAD_NO_THREADS", "1");
}

/// The program's clock runs so many times as fast.
pub fn speed_up(command: &mut Command, times: u32) {
    command.env("LD_PRELOAD", &*LIBRARY).env("PRELOAD_SPEED", times.to_string());
}

/// What the program forces to the disk (`sync INODE`) or removes (`unlink NAME`) is written to this file, in order.
pub fn log_calls(command: &mut Command, log: &std::path::Path) {
    command.env("LD_PRELOAD", &*LIBRARY).env("PRELOAD_LOG", log);
}
