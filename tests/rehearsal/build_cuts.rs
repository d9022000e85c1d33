//! A build is killed at its calls of AWS: afterwards one sweep leaves the account as it was, or `--resume` reaches the same
//! image with the one instance of the run. And Ctrl-C, at which a build cleans up by itself.

use std::fmt;
use std::process::Stdio;
use std::sync::Mutex;

use serde_json::Value;

use crate::account::Account;
use crate::machine::{assert_same, ran, text, wait_for};
use crate::published::Places;
use crate::sample::share;

/// Where a build is killed, as calls.py takes it: an option and its value; and the action of the call with this number.
struct Cut {
    option: &'static str,
    at: String,
    action: String,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut { option, at, action } = self;
        write!(f, "{} {at} {action}", option.trim_start_matches('-'))
    }
}

/// What an undisturbed build calls; it is removed again.
fn undisturbed(places: &Places) -> Vec<Value> {
    ran(&mut places.build(&[], "undisturbed")).good();
    let calls = places.here.calls();
    places.came_to_one_image(&places.here.runs().pop().expect("a run"));
    calls
}

/// Every call, before or after it by turns; and both around the call that makes something in another region, which the run's
/// record then has not yet.
fn cuts(calls: &[Value], sides: [&'static str; 2]) -> Vec<Cut> {
    let numbered = calls.iter().zip(1..).zip(sides.into_iter().cycle());
    let numbered =
        numbered.map(|((call, at), option)| Cut { option, at: format!("{at}"), action: text(&call["action"]) });
    let copying = sides.map(|option| Cut { option, at: "CopyImage".into(), action: String::new() });
    numbered.chain(copying).collect()
}

/// Makes this run's share of the cuts of an undisturbed build, at three places at once.
fn each_cut(sides: [&'static str; 2], cut: fn(&Places, &Cut)) {
    let all = Places::three();
    let cuts = Mutex::new(share(cuts(&undisturbed(&all[0]), sides)).into_iter());
    let next = || cuts.lock().ok()?.next();
    std::thread::scope(|scope| {
        for places in &all {
            scope.spawn(|| {
                while let Some(place) = next() {
                    cut(places, &place);
                }
            });
        }
    });
}

/// How far a build came that was to be killed.
enum Came {
    /// In preflight it has no run yet.
    Nowhere,
    /// The run that was killed.
    To(String),
    /// The run that ended well before it made that call: one that has less to wait for makes fewer calls.
    Through(String),
}

/// Kills a build there.
fn killed(places: &Places, Cut { option, at, .. }: &Cut) -> Came {
    let known = places.here.runs();
    let killed = ran(&mut places.build(&[option, at], "cut"));
    eprintln!("{} {option} {at}: exit code {}", places.here.region, killed.code);
    // It makes no kind of call less.
    let numbered = at.parse::<usize>().is_ok();
    assert!(killed.code == 137 || numbered && killed.code == 0, "{option} {at}: {}", killed.text);
    match places.here.runs().into_iter().find(|run| !known.contains(run)) {
        None => Came::Nowhere,
        Some(run) if killed.code == 0 => Came::Through(run),
        Some(run) => Came::To(run),
    }
}

/// Kills a build there; one sweep then leaves nothing of it but what is published.
fn cut_and_swept(places: &Places, cut: &Cut) {
    match killed(places, cut) {
        Came::Nowhere => places.are_as_before(),
        Came::To(run) => {
            let made = places.here.instances_of(&run);
            assert!(made.len() <= 1, "{cut}: {made:?}");
            places.sweep(&run);
            places.remove_what_is_published(&run);
            places.are_as_before();
        }
        Came::Through(run) => places.came_to_one_image(&run),
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn killed_at_its_calls_a_sweep_removes_everything() {
    each_cut(["--kill-before", "--kill-after"], cut_and_swept);
}

/// Kills a build there and takes it up again, to its image.
fn cut_and_resumed(places: &Places, cut: &Cut) {
    match killed(places, cut) {
        Came::Nowhere => places.are_as_before(),
        Came::To(run) => {
            ran(&mut places.here.resume(&[], &run)).good();
            places.came_to_one_image(&run);
        }
        Came::Through(run) => places.came_to_one_image(&run),
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn killed_at_its_calls_it_is_resumed_to_the_image() {
    each_cut(["--kill-after", "--kill-before"], cut_and_resumed);
}

/// Every start is killed at the first kind of call that none before it had made, until one comes through.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn killed_at_every_new_call_it_is_resumed_to_the_image() {
    let places = Places::new();
    let seen = places.here.file("seen").display().to_string();
    let options = ["--kill-new", seen.as_str()];
    let mut said = ran(&mut places.build(&options, "resumed"));
    let mut starts = 1;
    while said.code == 137 {
        let runs = places.here.runs();
        assert!(runs.len() <= 1, "a run begins once: {runs:?}");
        starts += 1;
        said = match runs.first() {
            Some(run) => ran(&mut places.here.resume(&options, run)),
            None => ran(&mut places.build(&options, "resumed")),
        };
        assert!(starts < 150, "it comes to no end: {}", said.text);
    }
    let seen = std::fs::read_to_string(&seen).unwrap_or_default();
    eprintln!("{starts} starts, killed at:\n{seen}");
    said.good();
    assert!(["ec2.CopyImage", "ssm.PutParameter"].iter().all(|call| seen.lines().any(|line| line == *call)), "{seen}");
    places.came_to_one_image(&places.here.runs().pop().expect("a run"));
}

/// A build is killed in each of its stages, from the first to the seal, and goes on each time.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn killed_in_every_stage_it_is_resumed_to_the_image() {
    let account = Account::alone_in("ca-west-1");
    let before = account.things();
    let mut stage = 0;
    loop {
        stage += 1;
        let mut command = match account.runs().pop() {
            None => account.efa_gen(&account.words(&["--ssh-cidr", "10.78.0.1/32"])),
            Some(run) => account.efa_gen(&["build", "--resume", &run]),
        };
        // No calls.py between: it is efa-gen itself that is killed.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().expect("it starts");
        let run = wait_for("the run", 240, || account.runs().pop());
        let log = account.runs_folder().join(&run).join("build.log");
        let begun = || std::fs::read_to_string(&log).unwrap_or_default().contains(&format!(" [{stage}/11] "));
        let ended =
            wait_for(&format!("stage {stage}, or the end"), 600, || match child.try_wait().expect("a status") {
                None => begun().then_some(None),
                status => Some(status),
            });
        if let Some(status) = ended {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(status.success(), "{stage}: {status}\n{log}");
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(300 * stage));
        child.kill().expect("it is killed");
        child.wait().expect("it ended");
    }
    assert_eq!(stage, 12, "killed in every stage");
    let run = account.runs().pop().expect("a run");
    assert_eq!(account.instances_of(&run).len(), 1, "{:?}", account.instances_of(&run));
    account.published_then_removed(&run, &before);
    account.keeps_no_secret();
}

/// The run's own key, which it needs as long as it lasts, goes with the end of it.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn interrupted_it_cleans_up_and_interrupted_twice_it_says_what_is_left() {
    let [account] = Account::for_builds();
    account.ready_image();
    let before = account.things();
    for signals in [&["INT"][..], &["TERM"], &["INT", "INT"]] {
        let known = account.runs();
        let mut command = account.short_build(&[], &["--name", "interrupted"]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let run = wait_for("the run", 240, || account.runs().into_iter().find(|run| !known.contains(run)));
        wait_for("the builder", 240, || account.instances_of(&run).iter().any(|(_, is)| is == "running").then_some(()));
        for signal in signals {
            let kill = ["kill".to_owned(), format!("-{signal}"), child.id().to_string()];
            assert!(std::process::Command::new(&kill[0]).args(&kill[1..]).status().expect("kill").success());
            std::thread::sleep(std::time::Duration::from_millis(700));
        }
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{said}");
        if signals.len() == 2 {
            assert!(said.contains("efa-gen sweep") && said.contains(&run), "{said}");
            account.sweep(&run).good();
        }
        assert_same(&before, &account.things());
    }
}
