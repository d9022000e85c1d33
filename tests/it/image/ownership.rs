//! What only carries a run's tag, whoever gave it: sweep, `cluster rm`, `image rm`, `launch` and `build` leave it alone and say
//! so. What is the run's own goes all the same.

use std::fs;

use crate::support::account::{Account, Entry};
use crate::support::aws::{Stub, done};
use crate::support::builds::{BASE, EFA, IMAGE, Stage, assert_ran, machines, odd_machines, type_with};
use crate::support::{Ran, command, scratch, stderr, stdout};
use serde_json::{Value, json};

const RUN: &str = "20250101-000000-ab12";
const OTHER: &str = "20250101-000000-cd34";
const OLD: &str = "2025-01-01T00:00:10.000Z";
const KEY: &str = "efa-gen-20250101-000000-ab12";

fn tagged(id: &str) -> Entry {
    Entry::tagged(id, RUN, OLD)
}

/// An image's tags, as whoever may tag can give them.
fn like_an_image(entry: Entry) -> Entry {
    entry.tag("efa-gen:state", "building").tag("efa-gen:plan", "abc")
}

/// What carries the tag of a run that is over, and why it is not the run's.
fn foreign() -> Vec<(Entry, &'static str)> {
    let instance = |id: &str| Entry { key: KEY.into(), ..tagged(id).tag("efa-gen:role", "node") };
    let image = |id: &str, name: &str| Entry { name: name.into(), ..like_an_image(tagged(id)) };
    let snapshot = |id: &str, description: &str| Entry { description: description.into(), ..tagged(id) };
    let named = |id: &str, name: &str| Entry { name: name.into(), ..tagged(id) };
    let of_run = |run: &str, id: &str| Entry::new(id, run, OLD);
    vec![
        (tagged("i-0prod").tag("Name", "prod-database"), "neither the run's key pair nor its security group"),
        // A node's role alone, and a key of somebody else.
        (Entry { key: "ops".into(), ..instance("i-0ops") }, "neither the run's key pair"),
        // "Launch more like this" takes tags, key and group along; the console has a token of its own.
        (
            Entry { token: "3f1c5a0e-7a6b-4f7e-9d1a-000000000001".into(), ..instance("i-0more") },
            "somebody else launched",
        ),
        (Entry { token: format!("{OTHER}-1"), ..Entry { key: "x".into(), ..instance("i-0odd") } }, "neither the run's"),
        (instance("i-0template").tag("aws:ec2launchtemplate:id", "lt-1"), "a launch template"),
        (instance("i-0group").tag("aws:autoscaling:groupName", "web"), "Auto Scaling"),
        (instance("i-0stack").tag("aws:cloudformation:stack-name", "web"), "CloudFormation"),
        (Entry { created: "2024-12-31T23:00:00Z".into(), ..instance("i-0before") }, "older than run"),
        (instance("i-0after").tag("efa-gen:until", "2025-01-01T00:00:05Z"), "made after efa-gen:until"),
        (image("ami-0backup", "efa-gen-x").tag("aws:backup:source-resource", "i-1"), "AWS Backup"),
        (image("ami-0dlm", "efa-gen-y").tag("aws:dlm:lifecycle-policy-id", "p"), "Data Lifecycle Manager"),
        (image("ami-0managed", "efa-gen-z").tag("dlm:managed", "true"), "Data Lifecycle Manager"),
        (image("ami-0byhand", "before the migration"), "not what a run gives besides"),
        // Made of a builder, with the builder's tags.
        (image("ami-0role", "efa-gen-w").tag("efa-gen:role", "builder"), "not what a run gives besides"),
        (image("ami-0early", "efa-gen-v").with_time("2024-06-01T00:00:00Z"), "older than run"),
        (named("ami-0bare", "efa-gen-u"), "not what a run gives besides"),
        (snapshot("snap-0dlm", "").tag("dlm:managed", "true"), "Data Lifecycle Manager"),
        (snapshot("snap-0backup", "").tag("aws:backup:source-resource", "vol-1"), "AWS Backup"),
        (snapshot("snap-0byhand", "before the migration"), "no image of the run has it"),
        (like_an_image(snapshot("snap-0text", "for ami-00000001")), "no image of the run has it"),
        (like_an_image(snapshot("snap-0other", "Created by CreateImage(i-1) for ami-0byhand")), "no image of the run"),
        (Entry { instance: String::new(), ..tagged("vol-0loose") }, "attached to no instance of the run"),
        (Entry { instance: "i-0prod".into(), ..tagged("vol-0data") }, "attached to i-0prod, which is not the run's"),
        (tagged("eipalloc-0bare"), "not what a run gives besides"),
        (Entry { instance: "i-0prod".into(), ..of_run(RUN, "eipalloc-0used") }, "associated with i-0prod"),
        (named("key-0ops", "ops"), "its name is not efa-gen-"),
        (named("key-0packer", "packer_1"), "its name is not efa-gen-"),
        (named("sg-0web", "efa-gen-20250101-000000-ab12-web"), "its name is not efa-gen-"),
        (named("sg-0other", "efa-gen-20250101-000000-cd34"), "its name is not efa-gen-"),
        (named("pg-0packer", "packer_2").tag("efa-gen:plan", "abc"), "its name is not efa-gen-"),
        (of_run("yes", "i-0value"), "is not the name of a run"),
        (of_run("20250101-000000-ab1g", "sg-0value"), "is not the name of a run"),
        (of_run("99999999-999999-ab12", "key-0value"), "is not the name of a run"),
    ]
}

/// What the run itself has made.
fn own() -> Vec<Entry> {
    let ids = ["i-1", "vol-1", "eipalloc-1", "key-1", "sg-1", "pg-1"];
    let mut all: Vec<Entry> = ids.map(|id| Entry::new(id, RUN, OLD)).into();
    all.push(Entry { snapshots: vec!["snap-1".into()], ..like_an_image(Entry::new("ami-00000001", RUN, OLD)) });
    let description = "Created by CreateImage(i-1) for ami-00000001".into();
    all.push(Entry { description, ..tagged("snap-1") });
    // Their image is gone already; the description is EC2's own.
    for (id, description) in [
        ("snap-2", "Created by CreateImage(i-1) for ami-00000009"),
        ("snap-3", "Copied for DestinationAmi ami-00000008 from SourceAmi ami-00000009 for SourceSnapshot snap-0"),
    ] {
        all.push(Entry { description: description.into(), ..like_an_image(tagged(id)) });
    }
    // By its token, with a key of the user's own.
    all.push(Entry { key: "mine".into(), token: format!("{RUN}-us-east-1b"), ..tagged("i-2") });
    all
}

fn ids(entries: impl IntoIterator<Item = Entry>) -> Vec<String> {
    let mut ids: Vec<String> = entries.into_iter().map(|entry| entry.id).collect();
    ids.sort();
    ids
}

fn stub(account: &Account) -> Stub {
    let account = account.clone();
    Stub::start(move |action, params| account.answer(action, params))
}

fn run(stub: &Stub, args: &[&str]) -> Ran {
    let mut command = command(args);
    stub.set(&mut command);
    let output = command.env("HOME", "/nonexistent").output().expect("it starts");
    Ran { code: output.status.code().unwrap_or(-1), stdout: stdout(&output), stderr: stderr(&output) }
}

fn changes(stub: &Stub) -> Vec<String> {
    stub.actions().into_iter().filter(|name| !name.starts_with("Describe") && !name.starts_with("Get")).collect()
}

#[test]
fn a_sweep_takes_what_is_the_runs_and_leaves_what_carries_its_tag() {
    for args in [&["sweep", "--yes"][..], &["sweep", "--yes", "--older-than", "0s"], &["sweep", "--yes", "--run", RUN]]
    {
        let account = Account::new(foreign().into_iter().map(|(entry, _)| entry).chain(own()));
        let ran = run(&stub(&account), args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(account.ids(), ids(foreign().into_iter().map(|(entry, _)| entry)), "{args:?}: {}", ran.stderr);
        for (entry, why) in foreign() {
            // Whoever names a run is not told of others.
            let asked = !args.contains(&"--run") || entry.tags["efa-gen:run"] == RUN;
            let told = ran.stderr.lines().find(|line| line.contains(&format!(" {} ", entry.id)));
            let says = told.is_some_and(|line| line.contains("is left alone") && line.contains(why));
            assert_eq!(says, asked, "{args:?} {}, {why}: {told:?}", entry.id);
        }
    }
}

#[test]
fn each_alone_is_left_alone() {
    for (entry, why) in foreign() {
        // An image that is none of ours proves no snapshot, and an instance no volume: what it stands on stands beside it.
        let beside = foreign().into_iter().map(|(entry, _)| entry);
        let beside = beside.filter(|one| ["i-0prod", "ami-0byhand"].contains(&one.id.as_str()) && one.id != entry.id);
        let account = Account::new(beside.chain([entry.clone()]));
        let before = account.ids();
        let stub = stub(&account);
        assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &[&entry.id, why, "nothing to remove"]);
        assert_eq!((account.ids(), changes(&stub)), (before, Vec::new()), "{}", entry.id);
    }
}

#[test]
fn a_listing_shows_names_and_why_a_thing_counts() {
    let prod = tagged("i-0prod").tag("Name", "prod-database");
    let account = Account::new(own().into_iter().chain([prod]));
    let stub = stub(&account);
    let ran = run(&stub, &["sweep"]);
    assert_ran(&ran, 0, &["instance i-0prod (prod-database) in us-east-1 only carries the tag", "--yes removes"]);
    let row =
        |id: &str| ran.stdout.lines().find(|line| line.contains(&format!(" {id} "))).unwrap_or_default().to_owned();
    for (id, why) in [
        ("i-1", "has key pair efa-gen-20250101-000000-ab12"),
        ("i-2", "launched by the run's own call"),
        ("ami-00000001", "has the run's name and tags"),
        ("snap-1", "of image ami-00000001"),
        ("snap-2", "made for image ami-00000009"),
        ("vol-1", "attached to i-1"),
        ("sg-1", "has the run's name"),
    ] {
        // A group tells no time of its own.
        let told = id == "sg-1" || row(id).contains("2025-01-01");
        assert!(row(id).contains(why) && told, "{id} {why}:\n{}", ran.stdout);
    }
    assert_eq!(row("i-0prod"), "");
    let json = run(&stub, &["sweep", "--yes", "--output", "json"]).stdout;
    let rows: Vec<Value> = serde_json::from_str(&json).expect("JSON");
    let prod = rows.iter().find(|row| row["id"] == "i-0prod").expect("it is listed");
    assert_eq!((&prod["removed"], &prod["name"]), (&false.into(), &"prod-database".into()));
    assert!(prod["kept"].as_str().is_some_and(|why| why.contains("neither")), "{prod}");
    assert!(rows.iter().filter(|row| row["id"] != "i-0prod").all(|row| row["removed"] == true), "{json}");
}

/// Whoever may register images can name any snapshot in one.
#[test]
fn a_snapshot_that_an_image_of_the_runs_names_is_not_the_runs_by_that() {
    let prod = Entry { id: "snap-0prod".into(), tags: [].into(), ..tagged("snap-0prod") };
    let byhand = Entry { description: "before the migration".into(), ..tagged("snap-0hand") };
    let own = Entry {
        tags: [].into(),
        description: "Created by CreateImage(i-1) for ami-00000001".into(),
        ..tagged("snap-1")
    };
    for (state, command) in [
        ("building", &["sweep", "--yes"][..]),
        ("building", &["sweep", "--yes", "--run", RUN]),
        ("published", &["image", "rm", "ami-00000001", "--yes"]),
    ] {
        let snapshots = ["snap-1", "snap-0prod", "snap-0hand"].map(str::to_owned).into();
        let image = Entry { snapshots, ..like_an_image(Entry::new("ami-00000001", RUN, OLD)) };
        let account = Account::new([image.tag("efa-gen:state", state), own.clone(), prod.clone(), byhand.clone()]);
        let ran = run(&stub(&account), command);
        assert_ran(&ran, 0, &["snap-0prod", "snap-0hand", "left alone"]);
        assert_eq!(account.ids(), ["snap-0hand", "snap-0prod"], "{command:?}: {}", ran.stderr);
    }
}

/// Packer launches its spot machines by a template and a fleet.
#[test]
fn a_spot_machine_of_packers_is_the_runs() {
    let packers = Entry { key: "packer_1".into(), ..tagged("i-1") }
        .tag("efa-gen:plan", "abc")
        .tag("aws:ec2launchtemplate:id", "lt-1")
        .tag("aws:ec2:fleet-id", "fleet-1");
    let group = Entry { key: "packer_1".into(), ..tagged("i-2") }
        .tag("efa-gen:plan", "abc")
        .tag("aws:autoscaling:groupName", "x");
    let account = Account::new([packers, group]);
    assert_ran(&run(&stub(&account), &["sweep", "--yes"]), 0, &["removed instance i-1", "Auto Scaling"]);
    assert_eq!(account.ids(), ["i-2"]);
}

/// A copy that lies ready in the other region, with the name and the tags of the run's.
#[test]
fn a_planted_copy_is_not_published() {
    let stage = Stage::good();
    let plant = |source: Option<(String, String)>| {
        let planted = Entry { region: "eu-west-1".into(), source, ..Entry::new("ami-0eeeeee1", "", "") };
        planted.tag("efa-gen:state", "building")
    };
    let elsewhere = Some(("eu-west-1".to_owned(), IMAGE.to_owned()));
    let planted = [None, elsewhere, Some(("us-east-1".to_owned(), "ami-0evil".to_owned()))].map(plant);
    stage.account.0.lock().expect("the account").extend(planted);
    let copied = ["--copy-to", "eu-west-1"];
    assert_ran(&stage.build(&[&PUBLISH[..], &copied].concat()), 0, &[]);
    let entries = stage.account.0.lock().expect("the account");
    let shared: Vec<&str> = entries.iter().filter(|one| !one.shared.is_empty()).map(|one| one.id.as_str()).collect();
    assert_eq!(shared, [IMAGE, "ami-euwest1"]);
}

#[test]
fn a_cluster_takes_its_nodes_and_nothing_that_it_does_not_make() {
    let node =
        |id: &str| Entry { key: KEY.into(), ..tagged(id) }.tag("efa-gen:cluster", "one").tag("efa-gen:role", "node");
    let image = Entry { snapshots: vec!["snap-9".into()], ..like_an_image(Entry::new("ami-00000009", RUN, OLD)) };
    let forged = Entry { key: "ops".into(), ..node("i-0prod") };
    let builder = Entry::new("i-5", RUN, OLD);
    let volume = Entry { instance: "i-0prod".into(), ..tagged("vol-9").tag("efa-gen:cluster", "one") };
    let group = Entry::new("sg-1", RUN, OLD).tag("efa-gen:cluster", "one");
    let account = Account::new([node("i-1"), node("i-2"), group, image, tagged("snap-9"), forged, builder, volume]);
    let stub = stub(&account);
    let ran = run(&stub, &["cluster", "rm", "one", "--yes"]);
    assert_ran(&ran, 0, &["removed instance i-1", "removed security group sg-1"]);
    for id in ["i-0prod", "ami-00000009", "snap-9", "i-5", "vol-9"] {
        assert!(
            ran.stderr.lines().any(|line| line.contains(id) && line.contains("left alone")),
            "{id}: {}",
            ran.stderr
        );
    }
    assert_eq!(account.ids(), ["ami-00000009", "i-0prod", "i-5", "snap-9", "vol-9"]);
}

#[test]
fn a_cluster_of_forged_tags_alone_is_none() {
    let node =
        Entry { key: "ops".into(), ..tagged("i-0prod") }.tag("efa-gen:cluster", "one").tag("efa-gen:role", "node");
    let account = Account::new([node]);
    let stub = stub(&account);
    let ran = run(&stub, &["cluster", "rm", "one", "--yes"]);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    assert_eq!((account.ids(), changes(&stub)), (vec!["i-0prod".to_owned()], Vec::new()));
    assert!(!run(&stub, &["cluster", "list"]).stdout.contains("i-0prod"));
}

#[test]
fn image_rm_takes_no_image_that_only_carries_the_tags() {
    let images: Vec<_> = foreign().into_iter().filter(|(entry, _)| entry.id.starts_with("ami-")).collect();
    for (entry, why) in images {
        let id = format!("ami-{:08x}", entry.id.len());
        let account = Account::new([Entry { id: id.clone(), ..entry }.tag("efa-gen:plan", "abc")]);
        let stub = stub(&account);
        let ran = run(&stub, &["image", "rm", &id, "--yes", "--unprotect"]);
        assert_ran(&ran, 4, &["carries efa-gen's tags, but is not efa-gen's", why]);
        assert_eq!((account.ids(), changes(&stub)), (vec![id], Vec::new()));
    }
}

/// A copy of the machine that is being built, by a service that takes its tags along.
fn backup() -> Entry {
    let name = "theirs_AwsBackup_i-0builder_2f1c".into();
    Entry { name, ..Entry::tagged("ami-0dddddd1", "", OLD) }
        .tag("efa-gen:role", "builder")
        .tag("aws:backup:source-resource", "arn:aws:ec2:us-east-1:111122223333:instance/i-1")
}

fn calls_that_publish(stage: &Stage) -> Vec<String> {
    let publish = ["ModifyImageAttribute", "CreateTags", "PutParameter", "CopyImage", "EnableImageDeprecation"];
    let marks = |action: &&String| publish.contains(&action.as_str());
    stage.stub.actions().iter().filter(marks).cloned().collect()
}

const PUBLISH: [&str; 7] =
    ["--no-encrypt", "--share", "444455556666", "--ssm-parameter", "/prod/efa/ami", "--on-error", "keep"];

#[test]
fn a_backup_beside_the_runs_own_image_is_not_published() {
    for first in [true, false] {
        let stage = Stage::good();
        let mut entries = stage.account.0.lock().expect("the account");
        let at = if first { 0 } else { entries.len() };
        entries.insert(at, backup());
        drop(entries);
        assert_ran(&stage.build(&PUBLISH), 0, &["ami-0dddddd1", "made by AWS Backup", "is left alone"]);
        assert_eq!(stage.image("ami-0dddddd1").shared, [""; 0]);
        assert_eq!(stage.image(IMAGE).shared, ["444455556666"]);
        assert!(stage.stub.calls("PutParameter").iter().all(|call| call["Value"] == IMAGE));
    }
}

#[test]
fn a_backup_alone_is_not_published_by_a_build_or_its_resumption() {
    let stage = machines(|| unreachable!("a builder is launched once"));
    *stage.account.0.lock().expect("the account") = vec![backup()];
    assert_ran(&stage.build(&PUBLISH), 10, &["GetConsoleOutput", "everything is kept"]);
    let run = stage.account.tags("i-1")["efa-gen:run"].clone();
    let ran = stage.run(&["build", "--resume", &run]);
    assert_ran(&ran, 10, &["ami-0dddddd1", "made by AWS Backup", "is left alone", "GetConsoleOutput"]);
    assert_eq!(calls_that_publish(&stage), [""; 0]);
}

#[test]
fn several_images_of_one_run_are_an_error_that_names_them() {
    let stage = Stage::good();
    let second = Entry { instance: "i-0builder".into(), ..Entry::new("ami-00000002", "", OLD) };
    let second = second.tag("efa-gen:state", "building");
    stage.account.0.lock().expect("the account").push(second);
    assert_ran(&stage.build(&PUBLISH), 10, &["has several images", IMAGE, "ami-00000002"]);
    assert_eq!(calls_that_publish(&stage), [""; 0]);
}

/// Only the image of its own machine, name, plan and time is taken up again.
#[test]
fn a_resumed_run_takes_no_image_that_is_not_its_own() {
    let stage = machines(|| unreachable!("a builder is launched once"));
    stage.account.0.lock().expect("the account").clear();
    assert_ran(&stage.build(&PUBLISH), 10, &["GetConsoleOutput", "everything is kept"]);
    let builder = stage.image("i-1");
    let run = builder.tags["efa-gen:run"].clone();
    let record = fs::read(stage.runs().join(&run).join("run.json")).expect("the record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    let name = record["name"].as_str().expect("a name").to_owned();
    let now = jiff::Timestamp::now().to_string();
    let own = Entry { name, instance: "i-1".into(), imds_v2: true, ..Entry::tagged("ami-00000007", &run, &now) }
        .tag("efa-gen:state", "building")
        .tag("efa-gen:plan", &builder.tags["efa-gen:plan"]);
    let resumed = |entry: Entry| {
        let mut entries = stage.account.0.lock().expect("the account");
        entries.retain(|entry| entry.id == "i-1");
        entries.push(entry);
        drop(entries);
        stage.run(&["build", "--resume", &run])
    };
    let bare = Entry { tags: [("efa-gen:run".to_owned(), run.clone())].into(), ..own.clone() };
    for (planted, why) in [
        (Entry { instance: "i-0evil".into(), ..own.clone() }, "it was made of i-0evil"),
        // A copy of his own, under the run's name and with its tags.
        (Entry { instance: String::new(), ..own.clone() }, "it was made of no machine"),
        (Entry { name: "efa-gen-mine".into(), ..own.clone() }, "its name is not"),
        (own.clone().tag("efa-gen:plan", "abc"), "it is of another plan"),
        (own.clone().with_time("2025-01-01T00:00:00Z"), "older than run"),
        (own.clone().tag("efa-gen:role", "builder"), "not what a run gives besides"),
        (own.clone().tag("efa-gen:until", "2025-01-01T00:00:00Z"), "made after efa-gen:until"),
        (own.clone().tag("dlm:managed", "true"), "Data Lifecycle Manager"),
        (bare, "not what a run gives besides"),
    ] {
        let ran = resumed(planted);
        assert_ran(&ran, 10, &["ami-00000007", why, "is left alone", "GetConsoleOutput"]);
    }
    assert_eq!(calls_that_publish(&stage), [""; 0]);
    assert_ran(&resumed(own), 0, &["Go on with image ami-00000007"]);
    assert_eq!(stage.image("ami-00000007").shared, ["444455556666"]);
}

/// An image with the name and the tags of the one that is asked for, which anybody who may tag can make.
fn plant(stage: &Stage) -> String {
    let planned = stage.build(&["--plan", "--output", "json"]);
    let rows: Value = serde_json::from_str(&planned.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let (plan, name) = (text(&rows[0]["plan"]), text(&rows[0]["preflight"]["account"]["name"]));
    let planted = Entry { name, imds_v2: true, ..Entry::tagged("ami-0eeeeee1", RUN, OLD) }
        .tag("efa-gen:plan", &plan)
        .tag("efa-gen:base-ami", BASE)
        .tag("efa-gen:state", "published");
    *stage.account.0.lock().expect("the account") = vec![planted];
    plan
}

#[test]
fn a_planted_image_is_reused_only_with_a_second_witness() {
    let stage = Stage::good();
    let plan = plant(&stage);
    let path = stage.folder.path().join("m.json");
    let share = ["--no-encrypt", "--share", "444455556666"];
    let build_with = |more: &[&str]| stage.build(&[&share[..], more].concat());
    let unknown = ["ami-0eeeeee1", "nothing here knows", "made by run 20250101-000000-ab12 on 2025-01-01", "--reuse"];
    assert_ran(&build_with(&[]), 4, &unknown);
    assert_ran(&build_with(&["--ssm-parameter", "/prod/efa/ami"]), 4, &unknown);
    assert_ran(&build_with(&["--manifest", "m.json"]), 4, &unknown);
    let held = |image: &str, plan: &str| {
        let copies = json!([{"image": image, "region": "us-east-1"}]);
        let build = json!({"packer_run_uuid": RUN, "efa-gen": {"plan": plan, "images": copies}});
        fs::write(&path, json!({"builds": [build], "last_run_uuid": RUN}).to_string()).expect("a file");
    };
    for (image, plan) in [("ami-00000001", plan.as_str()), ("ami-0eeeeee1", "abc"), ("", "")] {
        held(image, plan);
        assert_ran(&build_with(&["--manifest", "m.json"]), 4, &unknown);
    }
    for image in [json!(null), json!(["ami-0eeeeee1"]), json!({"ami-0eeeeee1": true})] {
        let build = json!({"packer_run_uuid": RUN, "efa-gen": {"plan": plan, "images": [{"image": image}]}});
        fs::write(&path, json!({"builds": [build]}).to_string()).expect("a file");
        assert_ran(&build_with(&["--manifest", "m.json"]), 4, &unknown);
    }
    assert_eq!(calls_that_publish(&stage), [""; 0]);
    held("ami-0eeeeee1", &plan);
    assert_ran(&build_with(&["--manifest", "m.json"]), 0, &[]);
    fs::remove_file(&path).expect("it is there");
    assert_ran(&build_with(&["--reuse", "--ssm-parameter", "/prod/efa/ami"]), 0, &[]);
    // The parameter names it now, by the user's own word.
    assert_ran(&build_with(&["--ssm-parameter", "/prod/efa/ami"]), 0, &[]);
    assert_ran(&build_with(&["--ssm-parameter", "/prod/other"]), 4, &unknown);
}

#[test]
fn what_this_machine_has_published_is_its_own_witness() {
    let stage = Stage::good();
    assert_ran(&stage.build(&["--no-encrypt"]), 0, &[]);
    for entry in stage.account.0.lock().expect("the account").iter_mut() {
        entry.tags.insert("efa-gen:base-ami".into(), BASE.into());
    }
    let again = stage.build(&["--no-encrypt"]);
    assert_ran(&again, 0, &[]);
    assert!(again.stdout.contains("ami-00000001 is there already"), "{}", again.stdout);
    // Another machine knows nothing of it; nor does this one of another image under its name.
    let elsewhere = scratch();
    let mut command = stage.build_command("debian12", &["--no-encrypt"]);
    let there = command.env("HOME", elsewhere.path()).output().expect("it starts");
    assert_eq!(there.status.code(), Some(4), "{}", stderr(&there));
    stage.account.0.lock().expect("the account")[0].id = "ami-0eeeeee1".into();
    assert_ran(&stage.build(&["--no-encrypt"]), 4, &["nothing here knows"]);
}

#[test]
fn a_launch_takes_the_newest_image_that_is_efa_gens() {
    let stage = odd_machines(
        || unreachable!("nothing is launched"),
        |action, _| (action == "DescribeInstanceTypes").then(|| done(action, &type_with(EFA))),
    );
    let image = |id: &str, name: &str, created: &str| {
        Entry { name: name.into(), created: created.into(), imds_v2: true, ..Entry::tagged(id, RUN, OLD) }
            .tag("efa-gen:plan", "abc")
            .tag("efa-gen:state", "published")
            .tag("efa-gen:distribution", "debian12")
    };
    let own = image("ami-00000001", "efa-gen-one", "2025-01-01T02:00:00Z");
    let planted = image("ami-0eeeeee1", "mine", "2025-01-03T00:00:00Z");
    let backup = image("ami-0dddddd1", "efa-gen-two", "2025-01-04T00:00:00Z").tag("aws:backup:source-resource", "x");
    let plan = || {
        let flags = ["--nodes", "2", "--type", "p3dn.24xlarge", "--distro", "debian12", "--ssh-cidr", "203.0.113.7/32"];
        stage.run(&[&["launch", "--plan"][..], &flags].concat())
    };
    *stage.account.0.lock().expect("the account") = vec![planted.clone(), own, backup.clone()];
    let ran = plan();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("ami-00000001 (efa-gen-one) is the newest"), "{said}");
    assert!(said.contains("ami-0eeeeee1 (mine)") || said.contains("ami-0eeeeee1 in"), "{said}");
    assert!(said.contains("made by AWS Backup"), "{said}");
    *stage.account.0.lock().expect("the account") = vec![planted, backup];
    assert_ran(&plan(), 4, &["has no image of debian12 that efa-gen has built"]);
}
