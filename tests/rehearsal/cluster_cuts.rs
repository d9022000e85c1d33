//! A launch is killed at each of its calls of AWS: afterwards one sweep leaves the account as it was. And what AWS does to a
//! launch: throttling, server errors, lost answers, things that are not there yet, Ctrl-C.

use std::fmt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::account::Account;
use crate::machine::{assert_same, ran, text, wait_for};
use crate::sample::share;

/// Two network cards, so two EFA devices: the leader has an elastic address, the others are reached through it.
const KIND: &str = "c6in.32xlarge";

/// A launch of light hosts, which is done in seconds; the check finds no EFA driver on them unless they have a stand-in.
fn launch(account: &Account, options: &[&str], more: &[&str]) -> Command {
    let image = account.light_image();
    let mut line = vec!["launch", "--ami", image.as_str(), "--type", KIND, "--region", account.region];
    line.extend(["--ssh-cidr", "10.78.0.1/32", "--name", "cut", "--nodes", "2"]);
    line.extend(more);
    account.through(options, &line)
}

fn remove(account: &Account) {
    ran(&mut account.through(&[], &["cluster", "rm", "cut", "--region", account.region, "--yes"])).good();
}

/// Where a launch is killed, as calls.py takes it, and the action of that call.
struct Cut {
    option: &'static str,
    at: usize,
    action: String,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.option.trim_start_matches('-'), self.at, self.action)
    }
}

/// Kills a launch there; one sweep then leaves nothing of it. Whether it was not over before.
fn cut_and_swept(account: &Account, Cut { option, at, .. }: &Cut, before: &[String]) -> bool {
    let killed = ran(&mut launch(account, &[option, &at.to_string()], &[]));
    eprintln!("{} {option} {at}: exit code {}", account.region, killed.code);
    assert!([0, 7, 137].contains(&killed.code), "{option} {at}: {}", killed.text);
    // Killed in preflight, it has no run yet: then nothing may be there.
    if let Some(run) = account.runs().pop() {
        let nodes = account.instances_of(&run);
        assert!(nodes.len() <= 2, "{option} {at}: {nodes:?}");
        account.sweep(&run).good();
    }
    assert_same(before, &account.things());
    assert_eq!(account.runs(), Vec::<String>::new(), "{option} {at}");
    killed.code == 137
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn killed_at_any_call_a_sweep_removes_everything() {
    let accounts = Account::for_clusters::<3>();
    let before: Vec<Vec<String>> = accounts
        .iter()
        .map(|account| {
            account.light_image();
            account.things()
        })
        .collect();
    let said = ran(&mut launch(&accounts[0], &[], &[]));
    assert!([0, 7].contains(&said.code), "{}", said.text);
    let calls = accounts[0].calls();
    remove(&accounts[0]);
    assert_same(&before[0], &accounts[0].things());
    assert!(calls.len() > 20, "{calls:?}");
    let sides = ["--kill-before", "--kill-after"].into_iter().cycle();
    let cuts = calls.iter().zip(1..).zip(sides);
    let cuts = share(cuts.map(|((call, at), option)| Cut { option, at, action: text(&call["action"]) }).collect());
    let chosen = cuts.len();
    let cuts = Mutex::new(cuts.into_iter());
    let next = || cuts.lock().ok()?.next();
    let killed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (account, before) in accounts.iter().zip(&before) {
            scope.spawn(|| {
                while let Some(cut) = next() {
                    killed.fetch_add(cut_and_swept(account, &cut, before).into(), Ordering::Relaxed);
                }
            });
        }
    });
    // A launch that has less to wait for makes fewer calls.
    let killed = killed.into_inner();
    assert!((killed + 1) * 4 >= chosen * 3, "{killed} of {chosen} were killed");
}

/// A launch under these options comes up with its two nodes, and its removal leaves nothing.
fn goes_through(options: &[&str]) -> Vec<Value> {
    let account = Account::new();
    account.light_image();
    let before = account.things();
    let said = ran(&mut launch(&account, options, &[]));
    assert!([0, 7].contains(&said.code) && said.text.contains("cluster cut: 2 nodes"), "{}", said.text);
    let calls = account.calls();
    let run = account.runs().pop().expect("a run");
    assert_eq!(account.instances_of(&run).len(), 2);
    remove(&account);
    assert_same(&before, &account.things());
    account.keeps_no_secret();
    calls
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_launch_outlasts_what_the_api_does() {
    for (options, fault) in [
        (&["--throttle"][..], "throttled"),
        (&["--unavailable"], "unavailable"),
        (&["--lose"], "lost"),
        (&["--late", "4"], "late"),
    ] {
        let calls = goes_through(options);
        assert!(calls.iter().any(|call| call["fault"] == fault), "{options:?}: {calls:?}");
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn what_is_refused_on_the_way_leaves_nothing() {
    let account = Account::new();
    account.light_image();
    let before = account.things();
    for (refusal, words) in [
        ("RunInstances=InsufficientInstanceCapacity", "no zone"),
        ("RunInstances=InstanceLimitExceeded", "quota"),
        ("CreatePlacementGroup=UnauthorizedOperation", "UnauthorizedOperation"),
        ("AllocateAddress=AddressLimitExceeded", "AddressLimitExceeded"),
        ("AssociateAddress=UnauthorizedOperation", "UnauthorizedOperation"),
    ] {
        let said = ran(&mut launch(&account, &["--refuse", refusal], &[])).failed(10, &[words, "hint:"]);
        assert!(!said.contains("still there"), "{refusal}: {said}");
        assert_same(&before, &account.things());
        account.keeps_no_secret();
    }
}

/// How often RunInstances was asked for in earnest, and how the launch ended.
fn launches(account: &Account, options: &[&str]) -> (usize, String) {
    let said = ran(&mut launch(account, options, &[])).good();
    let calls = account.calls();
    remove(account);
    (calls.iter().filter(|call| call["action"] == "RunInstances" && call["dry"] == false).count(), said)
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn all_nodes_come_by_one_call_in_the_first_zone_with_room() {
    let account = Account::new();
    account.light_image();
    let before = account.things();
    let (asked, said) = launches(&account, &[]);
    let zones: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("Launch 2 x c6in.32xlarge in ")).collect();
    assert_eq!((asked, zones.len()), (1, 1), "{said}");
    let (asked, said) = launches(&account, &["--refuse", "RunInstances=InsufficientInstanceCapacity:1"]);
    let next: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("Launch 2 x c6in.32xlarge in ")).collect();
    assert_eq!((asked, next.len(), next[0]), (2, 2, zones[0]), "{said}");
    assert!(next[1] != next[0] && said.contains(&format!("{} has no room", next[0])), "{said}");
    assert_same(&before, &account.things());
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn interrupted_it_removes_what_it_made() {
    let account = Account::new();
    account.light_image();
    let before = account.things();
    let mut command = launch(&account, &["--delay", "300"], &[]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_for("its nodes", 240, || {
        let run = account.runs().pop()?;
        (!account.instances_of(&run).is_empty()).then_some(())
    });
    // calls.py hands it on.
    ran(Command::new("kill").args(["-INT", &child.id().to_string()])).good();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "interrupted");
    assert_same(&before, &account.things());
    assert_eq!(account.runs(), Vec::<String>::new());
}
