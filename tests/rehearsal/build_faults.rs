//! What AWS and the network do to a build: throttling, server errors, lost answers, things that are not there yet, zones
//! without room, a cut connection, a builder that somebody ends, an image that fails.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::account::Account;
use crate::machine::{Ran, assert_same, ran, steer, text, wait_for};
use crate::published::Places;

/// A build under these options publishes its image in every way, with one instance, and leaves nothing else.
fn goes_through(options: &[&str]) -> Vec<Value> {
    let places = Places::new();
    ran(&mut places.build(options, "gone-through")).good();
    let calls = places.here.calls();
    places.came_to_one_image(&places.here.runs().pop().expect("a run"));
    calls
}

/// Whether everything that publishes an image had this fault in each of both regions, and its copy in the one that it is
/// copied to.
fn publishing_met(calls: &[Value], fault: &str) -> bool {
    let regions: BTreeSet<String> = calls
        .iter()
        .filter(|call| call["action"] == "ModifyImageAttribute")
        .map(|call| text(&call["region"]))
        .collect();
    let met = |action: &str| {
        let met = calls.iter().filter(|call| call["fault"] == fault && call["action"] == action);
        met.map(|call| text(&call["region"])).collect::<BTreeSet<String>>()
    };
    let changes = [
        "CreateTags",
        "ModifyImageAttribute",
        "EnableImageDeprecation",
        "EnableImageDeregistrationProtection",
        "PutParameter",
    ];
    regions.len() == 2 && met("CopyImage").len() == 1 && changes.iter().all(|action| met(action) == regions)
}

/// A build that must fail; nothing is left, and what it says has these words.
fn fails(account: &Account, mut start: impl FnMut() -> Ran, code: i32, words: &[&str]) {
    let before = account.things();
    let said = start().failed(code, words);
    assert!(said.contains("hint:"), "{said}");
    assert_same(&before, &account.things());
    account.keeps_no_secret();
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn every_call_is_throttled_once() {
    let calls = goes_through(&["--throttle"]);
    assert!(publishing_met(&calls, "throttled"), "{calls:?}");
    assert!(calls.iter().filter(|call| call["fault"] == "throttled").count() > 15, "{calls:?}");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn every_call_meets_a_server_error_once() {
    let calls = goes_through(&["--unavailable"]);
    assert!(publishing_met(&calls, "unavailable"), "{calls:?}");
    assert!(calls.iter().filter(|call| call["fault"] == "unavailable").count() > 15, "{calls:?}");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn every_calls_first_answer_is_lost() {
    let calls = goes_through(&["--lose"]);
    assert!(publishing_met(&calls, "lost"), "{calls:?}");
    assert!(calls.iter().any(|call| call["fault"] == "lost" && call["action"] == "RunInstances"), "{calls:?}");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn what_was_made_is_not_known_at_once() {
    let calls = goes_through(&["--late", "6"]);
    let late = |region: &str| calls.iter().any(|call| call["fault"] == "late" && (call["region"] == *region));
    let copied = calls.iter().find(|call| call["action"] == "CopyImage").expect("a copy");
    let built = calls.iter().find(|call| call["action"] == "CreateImage").expect("an image");
    assert!([copied, built].iter().all(|call| late(&text(&call["region"]))), "{calls:?}");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn zones_have_no_room() {
    let [account] = Account::for_builds();
    account.ready_image();
    let subnets =
        account.call("describe_subnets", &json!({"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}));
    let mut subnets: Vec<(String, String)> = subnets["Subnets"]
        .as_array()
        .expect("subnets")
        .iter()
        .map(|subnet| (text(&subnet["AvailabilityZone"]), text(&subnet["SubnetId"])))
        .collect();
    subnets.sort();
    let before = account.things();
    let first = format!("RunInstances@{}=InsufficientInstanceCapacity", subnets[0].1);
    ran(&mut account.short_build(&["--refuse", &first], &[])).good();
    let run = account.runs().pop().expect("a run");
    let made = account.instances_of(&run);
    let zone = account.call("describe_instances", &json!({"InstanceIds": [made[0].0]}));
    let zone = text(&zone["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"]);
    assert_eq!((made.len(), zone), (1, subnets[1].0.clone()), "the next zone");
    account.published_then_removed(&run, &before);
    let none = || ran(&mut account.short_build(&["--refuse", "RunInstances=InsufficientInstanceCapacity"], &[]));
    let zones: Vec<&str> = subnets.iter().map(|(zone, _)| zone.as_str()).collect();
    fails(&account, none, 10, &[&["no zone"], &zones[..]].concat());
}

/// A running build, and its builder's id and address once its user can log in.
struct Running {
    child: std::process::Child,
    instance: String,
    address: String,
}

fn started(account: &Account, command: &mut std::process::Command, until: &str) -> Running {
    let known = account.runs();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let run = wait_for("the run", 240, || account.runs().into_iter().find(|run| !known.contains(run)));
    let log = account.runs_folder().join(&run).join("build.log");
    wait_for(until, 240, || std::fs::read_to_string(&log).unwrap_or_default().contains(until).then_some(()));
    let (instance, _) = account.instances_of(&run).pop().expect("an instance");
    let found = account.call("describe_instances", &json!({"InstanceIds": [instance]}));
    let address = text(&found["Reservations"][0]["Instances"][0]["PrivateIpAddress"]);
    Running { child, instance, address }
}

fn ended(running: Running) -> Ran {
    let output = running.child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ran { code: output.status.code().unwrap_or(-1), text: said.into_owned() }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_connection_is_cut_in_a_stage_and_comes_back() {
    let [account] = Account::for_builds();
    account.image_before("nccl");
    let before = account.things();
    let running = started(&account, &mut account.half_build("nccl"), "/11]");
    let at = format!("address={}", running.address);
    // Longer than ssh waits for a silent server.
    steer("cut-off", &[&at, "server=10.78.0.1"]);
    std::thread::sleep(std::time::Duration::from_secs(50));
    steer("reconnect", &[&at, "server=10.78.0.1"]);
    let said = ended(running).good();
    assert!(said.contains("the connection was lost"), "{said}");
    let run = account.runs().pop().expect("a run");
    assert_eq!(account.instances_of(&run).len(), 1);
    account.published_then_removed(&run, &before);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn somebody_ends_the_builder() {
    let [account] = Account::for_builds();
    account.image_before("nccl");
    fails(
        &account,
        || {
            let running = started(&account, &mut account.half_build("nccl"), "/11]");
            account.call("terminate_instances", &json!({"InstanceIds": [running.instance]}));
            let since = std::time::Instant::now();
            let said = ended(running);
            assert!(since.elapsed().as_secs() < 180, "it was noticed after {} s", since.elapsed().as_secs());
            said
        },
        10,
        &["builder i-"],
    );
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_image_fails() {
    let [account] = Account::for_builds();
    account.ready_image();
    let named = account.region;
    steer("fail-image", &[&format!("name={named}")]);
    let build = || ran(&mut account.short_build(&[], &["--name", named]));
    fails(&account, build, 10, &["told to let this image fail"]);
}
