//! What `efa-gen build --resume` takes anew, and what it refuses; and a machine that has ended meanwhile. Against a stub of
//! AWS whose machines never tell their host keys, so that every build ends there.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::account::Account;
use crate::support::aws::{is_dry, refuse};
use crate::support::builds::{Stage, assert_ran, machines, odd_machines};
use crate::support::{command, stderr, stdout};
use serde_json::Value;

fn empty(account: &Account) {
    account.0.lock().expect("the account").clear();
}

fn run_of(stage: &Stage, id: &str) -> String {
    stage.account.tags(id)["efa-gen:run"].clone()
}

fn end(stage: &Stage, id: &str) {
    let mut entries = stage.account.0.lock().expect("the account");
    entries.iter_mut().find(|entry| entry.id == id).expect("it is there").state = "terminated".into();
}

fn tokens(stage: &Stage) -> Vec<String> {
    stage
        .stub
        .calls("RunInstances")
        .into_iter()
        .filter(|call| !is_dry(call))
        .map(|call| call["ClientToken"].clone())
        .collect()
}

#[test]
fn a_flag_that_a_resumed_run_does_not_use_is_refused_by_name() {
    let help = stdout(&command(&["build", "--help"]).output().expect("it starts"));
    let used = ["--resume", "--ssh-cidr", "--on-error", "--output", "--help", "--version"];
    let mut refused = 0;
    for line in help.lines().filter_map(|line| line.strip_prefix("      ")).filter(|line| line.starts_with("--")) {
        let (flag, value) = line.split_once(' ').unwrap_or((line, ""));
        if used.contains(&flag) {
            continue;
        }
        let mut command = command(&["build", "--resume", "20260101-000000-abcd", flag]);
        if value.starts_with('<') {
            command.arg(match flag {
                "--root-gib" | "--deadline" => "100",
                "--host-key" => "console",
                "--key-type" => "rsa",
                "--driver" => "native",
                "--with" => "gdrcopy",
                _ => "x",
            });
        }
        let output = command.output().expect("it starts");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{flag}: {said}");
        assert!(said.contains("--resume <RUN>' cannot be used with '") && said.contains(flag), "{flag}: {said}");
        refused += 1;
    }
    assert!(refused > 30, "{refused}: {help}");
}

#[test]
fn a_resumed_run_is_reached_from_another_address() {
    let stage = machines(|| unreachable!("a builder is launched once"));
    empty(&stage.account);
    let allowed = || -> Vec<String> {
        let calls = stage.stub.calls("AuthorizeSecurityGroupIngress");
        calls.iter().map(|call| call["IpPermissions.1.IpRanges.1.CidrIp"].clone()).collect()
    };
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["GetConsoleOutput", "everything is kept"]);
    assert_eq!(allowed(), ["203.0.113.7/32"]);
    let run = run_of(&stage, "i-1");
    let resume = |more: &[&str]| stage.run(&[&["build", "--resume", &run], more].concat());
    // --on-error is the run's, too.
    let two = ["--ssh-cidr", "198.51.100.9/32", "--ssh-cidr", "198.51.100.10/32"];
    assert_ran(&resume(&two), 10, &["GetConsoleOutput", "everything is kept"]);
    assert_eq!(allowed()[1..], ["198.51.100.9/32", "198.51.100.10/32"]);
    assert_ran(&resume(&[]), 10, &["everything is kept"]);
    assert_eq!(allowed()[3..], ["198.51.100.9/32", "198.51.100.10/32"]);
    for (cidr, why) in [("0.0.0.0/0", "the whole Internet"), ("198.51.100.9", "there is no `/`")] {
        assert_ran(&resume(&["--ssh-cidr", cidr]), 2, &[why]);
    }
    assert_eq!((tokens(&stage).len(), allowed().len()), (1, 5));
    assert_ran(&resume(&["--on-error", "cleanup"]), 10, &["removed instance i-1"]);
}

#[test]
fn an_address_that_a_resumed_run_has_no_use_for_is_refused() {
    let stage = machines(|| unreachable!("a builder is launched once"));
    empty(&stage.account);
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["everything is kept"]);
    let run = run_of(&stage, "i-1");
    let path = stage.runs().join(&run).join("run.json");
    let kept: Value = serde_json::from_slice(&fs::read(&path).expect("the record")).expect("JSON");
    let change = |change: &dyn Fn(&mut Value)| {
        let mut record = kept.clone();
        change(&mut record);
        fs::write(&path, record.to_string()).expect("a file");
        stage.run(&["build", "--resume", &run, "--ssh-cidr", "198.51.100.9/32"])
    };
    let ran = change(&|record| record["args"]["reach"]["session_manager"] = true.into());
    assert_ran(&ran, 2, &["--ssh-cidr is of no use", "Session Manager", "hint: leave it out"]);
    let ran = change(&|record| record["args"]["driver"] = "Packer".into());
    assert_ran(&ran, 2, &["--ssh-cidr is of no use", "Packer's machine is gone"]);
}

#[test]
fn a_login_key_that_cannot_be_used_is_refused_before_anything_is_asked() {
    let stage = machines(|| unreachable!("a builder is launched once"));
    empty(&stage.account);
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["everything is kept"]);
    let run = run_of(&stage, "i-1");
    let folder = stage.runs().join(&run);
    let good = fs::read_to_string(folder.join("key")).expect("the login key");
    let damaged =
        ["", "\n", "secret", &good[..good.len() / 2], &good.replacen("b3Bl", "b3Bk", 1), &good.to_lowercase()];
    for file in ["key", "host_key"] {
        let path = folder.join(file);
        let refused = |why: &str| {
            let asked = stage.stub.actions().len();
            let ran = stage.run(&["build", "--resume", &run]);
            let what = format!("/{file} can't be used");
            assert_ran(&ran, 2, &[&what, why, "hint: put back what was in it", "sweep the run and build again"]);
            assert!(!ran.stderr.contains("BEGIN") && !ran.stderr.contains("b3Bl"), "{}", ran.stderr);
            assert_eq!(stage.stub.actions().len(), asked, "nothing is asked");
        };
        for text in damaged {
            fs::write(&path, text).expect("a file");
            refused("the private key can't be read");
        }
        fs::remove_file(&path).expect("it is there");
        fs::create_dir(&path).expect("a folder");
        refused("is a folder");
        fs::remove_dir(&path).expect("it is there");
        std::os::unix::fs::symlink("nowhere", &path).expect("a link");
        refused("could not read");
        fs::remove_file(&path).expect("it is there");
        // One that is missing is none that is damaged.
        let ran = stage.run(&["build", "--resume", &run, "--ssh-cidr", "0.0.0.0/0"]);
        assert_ran(&ran, 2, &["the whole Internet"]);
        if file == "key" {
            fs::write(&path, &good).expect("a file");
        }
    }
    assert_ran(&stage.run(&["build", "--resume", &run]), 10, &["GetConsoleOutput", "everything is kept"]);
    assert_eq!(tokens(&stage).len(), 1);
}

#[test]
fn a_gate_without_efa_or_gpu_is_refused() {
    let stage = machines(|| unreachable!("nothing is launched"));
    assert_ran(&stage.build(&["--gate", "c5.4xlarge"]), 4, &["c5.4xlarge has no EFA device", "has no GPU"]);
    assert_eq!(tokens(&stage), Vec::<String>::new());
}

#[test]
fn a_builder_that_has_ended_is_an_error() {
    let stage = machines(|| unreachable!("it is not asked for again"));
    empty(&stage.account);
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["everything is kept"]);
    let run = run_of(&stage, "i-1");
    end(&stage, "i-1");
    assert_ran(&stage.run(&["build", "--resume", &run]), 10, &["builder i-1 is terminated", "build again"]);
    assert_eq!(tokens(&stage).len(), 1);
}

/// Only who keeps a run is told of --resume: elsewhere it would find nothing.
#[test]
fn what_is_removed_is_not_to_be_resumed() {
    let stage = odd_machines(
        || unreachable!("nothing is launched"),
        |action, params| (action == "ImportKeyPair" && !is_dry(params)).then(|| refuse("ServiceUnavailable", "Later.")),
    );
    empty(&stage.account);
    let removed = stage.build(&[]);
    assert_ran(&removed, 10, &["hint: AWS itself has trouble: try again later"]);
    assert!(!removed.stderr.contains("--resume"), "{}", removed.stderr);
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["everything is kept: go on with --resume"]);
}

/// EC2 answers only after the signal: the clean-up waits for it, or the machine would be nobody's.
#[test]
fn what_ec2_launches_while_the_build_is_interrupted_is_removed() {
    let stage = odd_machines(
        || unreachable!("it is launched once"),
        |action, params| {
            if action == "RunInstances" && !is_dry(params) {
                std::thread::sleep(Duration::from_secs(8));
            }
            None
        },
    );
    empty(&stage.account);
    let mut command = stage.build_command("debian12", &[]);
    let build = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let end = Instant::now() + Duration::from_secs(60);
    while tokens(&stage).is_empty() {
        assert!(Instant::now() < end, "no launch");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Command::new("kill").args(["-INT", &build.id().to_string()]).status().expect("kill").success());
    let ended = build.wait_with_output().expect("it ends");
    let said = stderr(&ended);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("removed instance i-1"), "{said}");
}

/// At once it may have launched all the same, so it is asked for with the same token; an hour later it can't have.
#[test]
fn a_launch_that_was_refused_is_begun_anew_when_it_is_old() {
    let room = Arc::new(AtomicBool::new(false));
    let has_room = Arc::clone(&room);
    let stage = odd_machines(
        || unreachable!("nothing was launched with that token"),
        move |action, params| {
            let full = action == "RunInstances" && !is_dry(params) && !has_room.load(Ordering::Relaxed);
            full.then(|| refuse("InsufficientInstanceCapacity", "There is no room."))
        },
    );
    empty(&stage.account);
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["no zone of", "everything is kept"]);
    let runs = stage.runs();
    let run = fs::read_dir(&runs).expect("the runs").next().expect("one").expect("it can be read").file_name();
    let run = run.to_str().expect("a name").to_owned();
    let first = tokens(&stage);
    let resume = || stage.run(&["build", "--resume", &run]);
    assert_ran(&resume(), 10, &["no zone of"]);
    let mut again = tokens(&stage).split_off(first.len());
    assert_eq!(again.first(), first.last(), "the zone that was asked last may have launched");
    again.sort();
    assert_eq!(again, first, "and the others may have room by now");

    let path = runs.join(&run).join("run.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).expect("the record")).expect("JSON");
    let old = record["tried"]["deadline"].as_i64().expect("a time") - 3600;
    record["tried"]["deadline"] = old.into();
    fs::write(&path, record.to_string()).expect("a file");
    room.store(true, Ordering::Relaxed);
    assert_ran(&resume(), 10, &["made instance i-1", "everything is kept"]);
    let until: jiff::Timestamp = stage.account.tags("i-1")["efa-gen:until"].parse().expect("a time");
    assert!(until.as_second() >= old + 3600, "its whole time is before it: {until}");
    let (zone, _) = first[0].rsplit_once('-').expect("a token");
    assert!(tokens(&stage).last().expect("a token").starts_with(zone), "the first zone is asked first");
}

#[test]
fn one_question_for_many_builds_is_refused() {
    let stage = Stage::good();
    let ran = stage.run(&["build", "--distro", "debian12", "--distro", "ubuntu24", "--on-error", "ask"]);
    assert_ran(&ran, 2, &["--on-error ask is for one image, and 2 are asked for", "hint: build that one by itself"]);
    assert!(stage.stub.actions().is_empty(), "{:?}", stage.stub.actions());
}
