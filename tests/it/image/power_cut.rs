//! What a crash or a power cut leaves of a run's files: they are on the disk before they are needed, half a file is told
//! from a whole one, and nobody takes a run that somebody else has in hand.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::aws::refuse;
use crate::support::builds::{Stage, assert_ran, machines};
use crate::support::{preload, stderr};

/// A build that ended in the middle, with everything kept; its run.
fn kept() -> (Stage, String) {
    let stage = machines(|| refuse("InsufficientInstanceCapacity", "There is no room."));
    stage.account.0.lock().expect("the account").clear();
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["everything is kept"]);
    let run = stage.account.tags("i-1")["efa-gen:run"].clone();
    (stage, run)
}

fn lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).expect("the log").lines().map(str::to_owned).collect()
}

fn inode(path: &Path) -> String {
    format!("sync {}", fs::metadata(path).expect("it is there").ino())
}

#[test]
fn a_runs_files_and_their_names_are_forced_to_the_disk() {
    let stage = machines(|| unreachable!("a builder is launched once"));
    stage.account.0.lock().expect("the account").clear();
    let log = stage.folder.path().join("calls.log");
    let mut command = stage.build_command("debian12", &["--on-error", "keep"]);
    preload::log_calls(&mut command, &log);
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(10), "{}", stderr(&output));
    let folder = stage.runs().join(&stage.account.tags("i-1")["efa-gen:run"]);
    let calls = lines(&log);
    for name in ["key", "run.json", "made.jsonl"] {
        let forced = calls.iter().rposition(|call| *call == inode(&folder.join(name)));
        let forced = forced.unwrap_or_else(|| panic!("{name} was not forced to the disk"));
        let with_its_name = match name {
            // Its name was there with its first line.
            "made.jsonl" => calls.contains(&inode(&folder)),
            _ => calls[forced..].contains(&inode(&folder)),
        };
        assert!(with_its_name, "{name}'s name was not");
    }
    // The new folder's own name, and those of the folders above it that are new.
    let new = folder.ancestors().skip(1).take_while(|above| above.starts_with(stage.folder.path()));
    for above in new {
        assert!(calls.contains(&inode(above)), "{}", above.display());
    }
}

#[test]
fn an_empty_record_is_told_from_a_foreign_one() {
    let (stage, run) = kept();
    let path = stage.runs().join(&run).join("run.json");
    let asked = stage.stub.actions().len();
    for content in [&b""[..], b"\n", &[0; 4096], b"\0\0\n"] {
        fs::write(&path, content).expect("a file");
        let ran = stage.run(&["build", "--resume", &run]);
        let hint = format!("hint: nothing can go on from it: `efa-gen sweep --run {run} --yes` removes what it left");
        assert_ran(&ran, 2, &["run.json is empty: the machine probably lost power while it was written", &hint]);
        assert!(!ran.stderr.contains("another version"), "{}", ran.stderr);
    }
    for content in ["{", "null", "[]", "{\"run\": 1}"] {
        fs::write(&path, content).expect("a file");
        let ran = stage.run(&["build", "--resume", &run]);
        assert_ran(&ran, 2, &["run.json can't be read", "another version of efa-gen wrote it"]);
        assert!(!ran.stderr.contains("lost power"), "{}", ran.stderr);
    }
    assert_eq!(stage.stub.actions().len(), asked, "nothing is asked");
    // What the account has of it can go all the same; the folder is a person's to look at.
    fs::write(&path, "").expect("a file");
    let ran = stage.run(&["sweep", "--run", &run, "--region", "us-east-1", "--yes"]);
    assert_ran(&ran, 0, &["run.json is empty", "it stays", "removed instance i-1"]);
    assert!(path.exists());
}

/// The ledger of a run that was kept.
fn ledger(stage: &Stage, run: &str) -> (PathBuf, String) {
    let path = stage.runs().join(run).join("made.jsonl");
    let text = fs::read_to_string(&path).expect("the ledger");
    assert!(text.lines().count() >= 2 && text.ends_with('\n'), "{text}");
    (path, text)
}

#[test]
fn a_line_of_the_ledger_that_is_damaged_is_an_error() {
    let (stage, run) = kept();
    let (path, good) = ledger(&stage, &run);
    let asked = stage.stub.actions().len();
    let (first, rest) = good.split_once('\n').expect("lines");
    let cases = [
        (format!("{}\n{rest}", &first[..first.len() / 2]), 1),
        (format!("{}\n{rest}", "\0".repeat(first.len())), 1),
        (format!("{first}{rest}"), 1),
        (format!("{first}\nx\n{rest}"), 2),
        // It has its line break: it was whole, and was changed.
        (format!("{good}{{\n"), good.lines().count() + 1),
        (format!("{first}\n{}\n{rest}", "x".repeat(100_000)), 2),
    ];
    for (text, line) in cases {
        fs::write(&path, &text).expect("a file");
        let ran = stage.run(&["build", "--resume", &run]);
        let says = format!("/made.jsonl: line {line} is damaged");
        assert_ran(&ran, 2, &[&says, "put back what was in it, or remove the line"]);
        assert!(ran.stderr.len() < 2_000, "{}", ran.stderr.len());
        assert_eq!(fs::read_to_string(&path).expect("the ledger"), text, "it stays as it is");
    }
    assert_eq!(stage.stub.actions().len(), asked, "nothing is asked");
    // A sweep goes by the tags, and leaves the folder.
    let ran = stage.run(&["sweep", "--run", &run, "--yes"]);
    assert_ran(&ran, 0, &["line 2 is damaged; it stays", "removed instance i-1"]);
    assert!(path.exists());
}

#[test]
fn a_last_line_that_was_cut_off_is_told_of_and_left_out() {
    let (stage, run) = kept();
    let (path, good) = ledger(&stage, &run);
    for cut in ["{", "{\"kind\":\"instance\",\"id\":\"i-", "\0\0\0", "x"] {
        fs::write(&path, format!("{good}{cut}")).expect("a file");
        let ran = stage.run(&["build", "--resume", &run]);
        assert_ran(&ran, 10, &["note: the last line of ", "/made.jsonl is cut off", "everything is kept"]);
        let ran = stage.run(&["sweep", "--run", &run]);
        assert_ran(&ran, 0, &[]);
    }
    // A whole one that lacks nothing but its line break counts.
    fs::write(&path, good.trim_end()).expect("a file");
    let ran = stage.run(&["build", "--resume", &run]);
    assert_ran(&ran, 10, &["everything is kept"]);
    assert!(!ran.stderr.contains("cut off"), "{}", ran.stderr);
}

/// What is written after a crash is not lost with half a line.
#[test]
fn a_line_behind_one_that_was_cut_off_is_whole() {
    let (stage, run) = kept();
    let (path, good) = ledger(&stage, &run);
    let first = good.split_inclusive('\n').next().expect("a line");
    for cut in ["{\"kind\":\"inst", "\0", ""] {
        // The machine is gone, and the group is made again.
        stage.account.0.lock().expect("the account").clear();
        let left = if cut.is_empty() { first.trim_end().to_owned() } else { format!("{first}{cut}") };
        fs::write(&path, left).expect("a file");
        assert_ran(&stage.run(&["build", "--resume", &run]), 10, &["everything is kept"]);
        let text = fs::read_to_string(&path).expect("the ledger");
        assert!(text.starts_with(first) && text.ends_with('\n') && text.lines().count() > 1, "{text}");
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        }
    }
}

#[test]
fn a_look_at_a_lock_keeps_nobody_out() {
    let (stage, run) = kept();
    let path = stage.runs().join(&run).join("lock");
    let lock = File::open(&path).expect("the lock");
    lock.lock_shared().expect("a look");
    // Two that look at the same time see nobody at work.
    let ran = stage.run(&["sweep", "--run", &run]);
    assert_ran(&ran, 0, &["--yes removes what is listed"]);
    assert!(!ran.stderr.contains("at work"), "{}", ran.stderr);
    // A look is over soon.
    let looker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
    });
    assert_ran(&stage.run(&["build", "--resume", &run]), 10, &["everything is kept"]);
    looker.join().expect("it ends");
    // Who is at work holds it.
    let lock = File::open(&path).expect("the lock");
    lock.lock().expect("nobody has it");
    let asked = stage.stub.actions().len();
    assert_ran(&stage.run(&["build", "--resume", &run]), 8, &["another process is at work on run"]);
    assert_eq!(stage.stub.actions().len(), asked, "nothing is asked");
    assert_ran(&stage.run(&["sweep", "--run", &run, "--yes"]), 0, &["is at work on this machine and left alone"]);
    assert!(stage.account.ids().contains(&"i-1".to_owned()));
}

#[test]
fn the_lock_is_the_last_file_of_a_run_that_goes() {
    let stage = Stage::good();
    let log = stage.folder.path().join("calls.log");
    let mut command = stage.build_command("debian12", &[]);
    preload::log_calls(&mut command, &log);
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let calls = lines(&log);
    let at = |name: &str| calls.iter().rposition(|call| *call == format!("unlink {name}"));
    let lock = at("lock").expect("the lock goes");
    for name in ["run.json", "key", "known_hosts", "login", "host_key"] {
        assert!(at(name).is_some_and(|at| at < lock), "{name}: {calls:?}");
    }
}
