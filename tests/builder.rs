//! What a build asks EC2 for when it makes its builder, and what it says when it is stopped. Against a stub of AWS whose machines
//! never tell their host keys.
#![cfg(feature = "ec2")]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::aws::{done, refuse};
use support::builds::{Stage, odd_machines};

/// Starts a build whose clean-up comes to no end, interrupts it, and again once it has said `then`; returns what it said.
fn interrupted_twice(stage: &Stage, then: &str) -> String {
    stage.account.0.lock().expect("the account").clear();
    let path = stage.folder.path().join("said");
    let said = || fs::read_to_string(&path).unwrap_or_default();
    let mut command = stage.build_command("debian12", &[]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&path).expect("a file"));
    let mut build = command.spawn().expect("it starts");
    for words in ["to tell its host keys", then] {
        let end = Instant::now() + Duration::from_secs(60);
        while !said().contains(words) {
            assert!(Instant::now() < end && build.try_wait().expect("a status").is_none(), "{words}: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        let id = build.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    }
    assert_eq!(build.wait().expect("it ends").code(), Some(130), "{}", said());
    said()
}

/// What the one line says of the clean-up.
fn left(said: &str) -> &str {
    said.lines().find(|line| line.contains("interrupted again")).unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn interrupted_twice_it_says_what_is_left() {
    // A machine that takes its time to end.
    let stage = odd_machines(
        || unreachable!("it is launched once"),
        |action, _| match action {
            "TerminateInstances" | "GetConsoleOutput" => Some(done(action, "")),
            _ => None,
        },
    );
    let said = interrupted_twice(&stage, "Terminate what still runs");
    let line = left(&said);
    assert!(line.contains("not seen to go: instance i-1 (us-east-1), security group sg-1 (us-east-1): "), "{line}");
    let run = stage.account.tags("i-1")["efa-gen:run"].clone();
    assert!(line.ends_with(&format!("efa-gen sweep --run {run} --yes removes the rest")), "{line}");
}

#[test]
fn what_has_gone_is_not_said_to_be_left() {
    // The machine ends; its interface keeps the group in use.
    let stage = odd_machines(
        || unreachable!("it is launched once"),
        |action, _| match action {
            "DeleteSecurityGroup" => Some(refuse("DependencyViolation", "resource sg-1 has a dependent object")),
            "GetConsoleOutput" => Some(done(action, "")),
            _ => None,
        },
    );
    let said = interrupted_twice(&stage, "removed instance i-1");
    let line = left(&said);
    assert!(line.contains("not seen to go: security group sg-1 (us-east-1): ") && !line.contains("i-1"), "{line}");
}
