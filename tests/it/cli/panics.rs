//! What a bug in efa-gen itself looks like: exit code 70 and one sentence, on whatever thread it happens. The program has no
//! switch that makes it panic; here its hook is taken into a process of this test binary, and the program is run where it
//! can't have a thread.

use std::process::{Command, Output};

use crate::support::{command, preload, stderr, stdout};

#[path = "../../../src/bin/efa-gen/io/panic_hook.rs"]
mod panic_hook;

const BUG: &str = "this is a bug in efa-gen, not in what you asked for; please report this line";

/// The variable by which the test below, in a process of its own, is told where to panic.
const WHERE: &str = "PANIC_WHERE";

/// Does nothing unless another test of this file runs it.
#[test]
#[ignore = "it ends its process: the tests of this file run it in another"]
#[allow(clippy::print_stderr, reason = "it is the product's own terminal::message")]
fn panics() {
    panic_hook::install(|line| eprintln!("{line}"));
    match std::env::var(WHERE).as_deref() {
        Ok("here") => panic!("here it is"),
        Ok("overflow") => {
            let largest = std::hint::black_box(u64::MAX);
            assert_eq!(largest + 1, 0, "it wrapped");
        }
        Ok("thread") => {
            let thread = std::thread::spawn(|| panic!("on a thread"));
            // Nobody asks what became of it.
            std::thread::sleep(std::time::Duration::from_secs(60));
            drop(thread);
        }
        Ok("caught") => drop(std::panic::catch_unwind(|| panic!("whoever catches it"))),
        Ok("task") => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
            drop(runtime.spawn(async { panic!("in a task") }));
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        Ok("hostile") => panic!("{}", "a\u{1b}[2J\n".repeat(1_000)),
        _ => {}
    }
}

fn panic_at(place: &str, backtrace: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "cli::panics::panics", "--ignored", "--nocapture", "--test-threads=1"]).env(WHERE, place);
    command.env_remove("RUST_BACKTRACE");
    if let Some(backtrace) = backtrace {
        command.env("RUST_BACKTRACE", backtrace);
    }
    command.output().expect("it starts")
}

#[test]
fn a_panic_on_any_thread_is_one_sentence_and_exit_code_70() {
    for place in ["here", "overflow", "thread", "caught", "task", "hostile"] {
        let output = panic_at(place, None);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(70), "{place}: {said}{}", stdout(&output));
        assert_eq!(said.lines().count(), 1, "{place}: {said}");
        assert!(said.starts_with("error: efa-gen ") && said.contains(BUG), "{place}: {said}");
        assert!(said.contains("tests/it/cli/panics.rs:") && said.len() < 1_000, "{place}: {said}");
        assert!(!said.contains('\u{1b}'), "{place}: {said:?}");
    }
    assert_eq!(panic_at("nowhere", None).status.code(), Some(0));
}

#[test]
fn a_backtrace_is_for_those_who_ask() {
    let output = panic_at("here", Some("1"));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.contains("stack backtrace:") && said.contains(BUG), "{said}");
    assert!(!stderr(&panic_at("here", Some("0"))).contains("stack backtrace"), "{said}");
}

/// The whole program, where the library that starts its threads panics.
#[test]
fn a_program_that_can_not_have_a_thread_says_so() {
    let mut command = command(&["sweep", "--region", "us-east-1"]);
    preload::refuse_threads(command.env("AWS_EC2_METADATA_DISABLED", "true").env_remove("RUST_BACKTRACE"));
    let output = command.output().expect("it starts");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.starts_with("error: efa-gen ") && said.contains(BUG) && said.lines().count() == 1, "{said}");
}
