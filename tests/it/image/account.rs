//! `efa-gen sweep`, `images` and `image rm` against a stub of AWS: what they take, and above all what they leave alone.

use std::fs;
use std::path::Path;

use crate::support::account::{Account, Entry};
use crate::support::aws::{Answer, Params, Stub, refuse};
use crate::support::{Ran, command, scratch};
use serde_json::Value;

const RUN: &str = "20250101-000000-ab12";
const OLD: &str = "2025-01-01T00:00:10.000Z";

/// An image with its snapshot, as a build leaves it.
fn image(id: &str, snapshot: &str, state: &str) -> [Entry; 2] {
    let tagged = |entry: Entry| entry.tag("efa-gen:state", state).tag("efa-gen:plan", "abc");
    let image = Entry { snapshots: vec![snapshot.into()], ..Entry::new(id, RUN, OLD) };
    let description = format!("Created by CreateImage(i-1) for {id}");
    [tagged(image), tagged(Entry { description, ..Entry::new(snapshot, RUN, OLD) })]
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn run_id_now() -> String {
    format!("{}-ab12", jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S"))
}

/// What a run that died in the middle leaves.
fn leftovers() -> Vec<Entry> {
    let ids = ["sg-1", "key-1", "vol-1", "i-1", "eipalloc-1", "pg-1"];
    let mut all: Vec<Entry> = ids.into_iter().map(|id| Entry::new(id, RUN, OLD)).collect();
    all.extend(image("ami-00000001", "snap-1", "building"));
    all
}

fn stub(account: &Account) -> Stub {
    let account = account.clone();
    Stub::start(move |action, params| account.answer(action, params))
}

/// A stub that first asks `odd`.
fn odd(account: &Account, odd: impl Fn(&str, &Params) -> Option<Answer> + Send + Sync + 'static) -> Stub {
    let account = account.clone();
    Stub::start(move |action, params| odd(action, params).unwrap_or_else(|| account.answer(action, params)))
}

fn run(stub: &Stub, args: &[&str]) -> Ran {
    run_at_home(stub, Path::new("/nonexistent"), args)
}

fn run_at_home(stub: &Stub, home: &Path, args: &[&str]) -> Ran {
    let mut command = command(args);
    stub.set(&mut command);
    let output = command.env("HOME", home).output().expect("the binary starts");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: crate::support::stdout(&output),
        stderr: crate::support::stderr(&output),
    }
}

#[track_caller]
fn assert_ran(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    for text in says {
        assert!(ran.stderr.contains(text), "does not say {text:?}:\n{}", ran.stderr);
    }
}

/// Whatever changes something in the account.
fn changes(stub: &Stub) -> Vec<String> {
    stub.actions().into_iter().filter(|name| !name.starts_with("Describe") && !name.starts_with("Get")).collect()
}

#[test]
fn a_dead_run_is_shown_and_stays_without_yes() {
    let account = Account::new(leftovers());
    let stub = stub(&account);
    let ran = run(&stub, &["sweep"]);
    assert_ran(&ran, 0, &["--yes removes what is listed"]);
    for id in account.ids() {
        assert!(ran.stdout.contains(&format!(" {id} ")), "{id}:\n{}", ran.stdout);
    }
    assert!(ran.stdout.contains(RUN), "{}", ran.stdout);
    assert_eq!(changes(&stub), [""; 0]);
}

#[test]
fn a_dead_run_is_removed_in_order() {
    let account = Account::new(leftovers());
    let stub = stub(&account);
    let ran = run(&stub, &["sweep", "--yes"]);
    assert_ran(&ran, 0, &["removed security group sg-1", "removed image ami-00000001"]);
    assert_eq!(account.ids(), [""; 0]);
    let order = [
        "TerminateInstances",
        "DeregisterImage",
        "DeleteSnapshot",
        "DeleteVolume",
        "ReleaseAddress",
        "DeleteKeyPair",
        "DeleteSecurityGroup",
        "DeletePlacementGroup",
    ];
    assert_eq!(changes(&stub), order);
}

#[test]
fn json_says_what_was_removed() {
    let account = Account::new(leftovers());
    let stub = stub(&account);
    let before: Value = serde_json::from_str(&run(&stub, &["sweep", "--output", "json"]).stdout).expect("JSON");
    assert!(before.as_array().expect("a list").iter().all(|row| row["removed"] == false));
    let after: Value = serde_json::from_str(&run(&stub, &["sweep", "--yes", "--output", "json"]).stdout).expect("JSON");
    assert_eq!(after.as_array().expect("a list").len(), 8);
    assert!(after.as_array().expect("a list").iter().all(|row| row["removed"] == true && row["run"] == RUN));
}

#[test]
fn finished_images_and_their_snapshots_are_never_touched() {
    for state in ["published", "refused"] {
        let mut things = image("ami-00000002", "snap-2", state).to_vec();
        // A snapshot that lost its tag still belongs to its image.
        things[1].tags.remove("efa-gen:state");
        things.push(Entry::new("sg-2", RUN, OLD));
        let account = Account::new(things);
        let stub = stub(&account);
        let ran = run(&stub, &["sweep", "--yes"]);
        assert_ran(&ran, 0, &["finished images stay in us-east-1, with their snapshots: ami-00000002"]);
        assert_eq!(account.ids(), ["ami-00000002", "snap-2"]);
        assert_eq!(changes(&stub), ["DeleteSecurityGroup"]);
        assert_ran(&run(&stub, &["sweep", "--yes", "--run", RUN]), 0, &["ami-00000002"]);
        assert_eq!(account.ids(), ["ami-00000002", "snap-2"]);
    }
}

#[test]
fn a_published_snapshot_whose_image_is_gone_stays() {
    let account = Account::new([image("ami-00000002", "snap-2", "published")[1].clone()]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["nothing to remove"]);
    assert_eq!(account.ids(), ["snap-2"]);
}

#[test]
fn things_without_the_tag_are_not_seen() {
    let mut foreign = Entry::new("i-3", "", OLD);
    foreign.tags = [("Name".to_owned(), "database".to_owned())].into();
    let account = Account::new([foreign]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["nothing to remove"]);
    assert_eq!(account.ids(), ["i-3"]);
    assert_eq!(changes(&stub), [""; 0]);
}

#[test]
fn another_accounts_image_with_the_tag_is_not_seen() {
    let account = Account::new([Entry { owner: "999900001111".into(), ..Entry::new("ami-00000003", RUN, OLD) }]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["nothing to remove"]);
    assert_eq!(account.ids(), ["ami-00000003"]);
}

#[test]
fn a_young_run_is_left_alone() {
    let run_id = run_id_now();
    let account = Account::new(["sg-1", "key-1"].map(|id| Entry::new(id, &run_id, &now())));
    let stub = stub(&account);
    let ran = run(&stub, &["sweep", "--yes"]);
    assert_ran(&ran, 0, &["younger than --older-than", &run_id, "(2 things)"]);
    assert_eq!(account.ids(), ["key-1", "sg-1"]);
    let ran = run(&stub, &["sweep", "--yes", "--older-than", "0s"]);
    assert_ran(&ran, 0, &["removed security group sg-1"]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn an_old_group_of_a_run_that_still_launches_is_left_alone() {
    let account = Account::new([Entry::new("sg-1", RUN, ""), Entry::new("i-1", RUN, &now())]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["younger"]);
    assert_eq!(account.ids(), ["i-1", "sg-1"]);
}

#[test]
fn a_clusters_nodes_are_dead_when_their_time_is_over() {
    let node = |id: &str, run: &str, until: &str| {
        Entry::new(id, run, OLD).tag("efa-gen:cluster", run).tag("efa-gen:role", "node").tag("efa-gen:until", until)
    };
    let (other, odd) = ("20250101-000000-cd34", "20250101-000000-ef56");
    let (past, future) = ("2025-01-02T00:00:00Z", "2099-01-01T00:00:00Z");
    let account = Account::new([
        node("i-1", RUN, past),
        node("i-2", RUN, past),
        // As long as one of its nodes may be at work, all of a cluster stays.
        node("i-3", other, past),
        node("i-4", other, future),
        Entry::new("sg-2", other, ""),
        // What is no time holds nothing up.
        node("i-5", odd, "tomorrow"),
    ]);
    let stub = stub(&account);
    let deadline = format!("run {other} is not at its machine's deadline yet and left alone (3 things)");
    for age in ["3h", "0s"] {
        let ran = run(&stub, &["sweep", "--older-than", age]);
        assert_ran(&ran, 0, &[&deadline]);
        assert!(ran.stdout.contains(" i-1 ") && !ran.stdout.contains(" i-3 "), "{}", ran.stdout);
    }
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["removed instance i-1", "removed instance i-5", &deadline]);
    assert_eq!(account.ids(), ["i-3", "i-4", "sg-2"]);
    assert_ran(&run(&stub, &["sweep", "--yes", "--run", other]), 0, &["removed instance i-4"]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn a_named_run_goes_whatever_its_age_and_alone() {
    let (young, other) = (run_id_now(), "20250101-000000-cd34");
    let account = Account::new([Entry::new("i-1", &young, &now()), Entry::new("i-2", other, OLD)]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes", "--run", &young]), 0, &["removed instance i-1"]);
    assert_eq!(account.ids(), ["i-2"]);
}

#[test]
fn an_untagged_snapshot_of_an_unfinished_image_goes_with_it() {
    let mut things = image("ami-00000004", "snap-4", "building").to_vec();
    things[1].tags.clear();
    let account = Account::new(things);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["removed snapshot snap-4"]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn a_protected_unfinished_image_loses_its_protection() {
    let [mut image, snapshot] = image("ami-00000004", "snap-4", "building");
    image.protected = true;
    let account = Account::new([image, snapshot]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &[]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn a_group_in_use_is_tried_again() {
    let account = Account::new(leftovers());
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let stub = odd(&account, move |action, _| {
        let in_use = action == "DeleteSecurityGroup" && tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2;
        in_use.then(|| refuse("DependencyViolation", "resource sg-1 has a dependent object"))
    });
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["removed security group sg-1"]);
    assert_eq!(account.ids(), [""; 0]);
    assert_eq!(stub.calls("DeleteSecurityGroup").len(), 3);
}

/// An instance that may not be ended lets go of nothing: nobody waits for that.
#[test]
fn what_a_lasting_instance_uses_is_not_waited_for() {
    let account = Account::new(["i-1", "sg-1"].map(|id| Entry::new(id, RUN, OLD)));
    let stub = odd(&account, |action, _| match action {
        "TerminateInstances" => Some(refuse("UnauthorizedOperation", "You are not authorized.")),
        "DeleteSecurityGroup" => Some(refuse("DependencyViolation", "resource sg-1 has a dependent object")),
        _ => None,
    });
    let words = ["instance i-1 in us-east-1 is still there: TerminateInstances", "security group sg-1 in us-east-1"];
    assert_ran(&run(&stub, &["sweep", "--yes"]), 10, &words);
    let tries = stub.calls("DeleteSecurityGroup").len();
    assert!((1..=4).contains(&tries), "once at each look: {tries}");
}

#[test]
fn what_is_refused_is_told_at_the_end_and_the_rest_goes() {
    let account = Account::new(leftovers());
    let stub = odd(&account, |action, _| {
        let why = "You are not authorized to perform this operation.";
        (action == "DeleteKeyPair").then(|| refuse("UnauthorizedOperation", why))
    });
    let ran = run(&stub, &["sweep", "--yes", "--output", "json"]);
    assert_ran(&ran, 10, &["1 thing is still there: key-1 (us-east-1)", "UnauthorizedOperation"]);
    assert_eq!(account.ids(), ["key-1"]);
    let rows: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let left: Vec<_> = rows.as_array().expect("a list").iter().filter(|row| row["removed"] == false).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["id"], "key-1");
}

#[test]
fn what_is_still_listed_afterwards_is_an_error() {
    let account = Account::new(["i-1", "vol-1"].map(|id| Entry::new(id, RUN, OLD)));
    let stub = odd(&account, |action, _| (action == "DeleteVolume").then(|| crate::support::aws::done(action, "")));
    let ran = run(&stub, &["sweep", "--yes"]);
    assert_ran(&ran, 10, &["volume vol-1 in us-east-1 is still there: it is still listed", "hint: the notes say why"]);
}

/// Who may not delete volumes, as a build's policy has it, can clean up all the same.
#[test]
fn a_volume_that_goes_with_its_instance_is_waited_for() {
    let volume = Entry { state: "in-use".into(), ..Entry::new("vol-1", RUN, OLD) };
    let account = Account::new([Entry::new("i-1", RUN, OLD), volume]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["removed instance i-1"]);
    assert_eq!((account.ids(), changes(&stub)), (Vec::<String>::new(), vec!["TerminateInstances".to_owned()]));
}

#[test]
fn what_is_gone_before_it_is_removed_is_no_error() {
    let account = Account::new(leftovers());
    let gone = account.clone();
    let stub = odd(&account, move |action, params| {
        if action == "DeleteVolume" {
            gone.0.lock().expect("the account").retain(|entry| Some(&entry.id) != params.get("VolumeId"));
        }
        None
    });
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &[]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn an_instance_that_spoils_the_call_does_not_save_the_others() {
    let account = Account::new(["i-1", "i-2"].map(|id| Entry::new(id, RUN, OLD)));
    let stub = odd(&account, |action, params| {
        let keeps = action == "TerminateInstances" && params.values().any(|id| id == "i-1");
        keeps.then(|| refuse("OperationNotPermitted", "The instance 'i-1' may not be terminated."))
    });
    assert_ran(&run(&stub, &["sweep", "--yes"]), 10, &["instance i-1 in us-east-1 is still there"]);
    assert_eq!(account.ids(), ["i-1"]);
}

#[test]
fn every_region_that_is_asked_is_looked_at_once() {
    let there = Entry { region: "eu-west-1".into(), ..Entry::new("i-1", RUN, OLD) };
    let account = Account::new([there, Entry::new("i-2", RUN, OLD)]);
    let stub = stub(&account);
    let ran = run(&stub, &["sweep", "--yes", "--region", "eu-west-1", "--region", "eu-west-1"]);
    assert_ran(&ran, 0, &["removed instance i-1"]);
    assert_eq!(account.ids(), ["i-2"]);
    let ran = run(&stub, &["sweep", "--yes", "--region", "eu-west-1", "--region", "us-east-1"]);
    assert_ran(&ran, 0, &["removed instance i-2"]);
}

#[test]
fn a_swept_runs_folder_goes_and_no_other() {
    let home = scratch();
    let folder = |run: &str| home.path().join(".local/state/efa-gen/runs").join(run);
    let other = "20250101-000000-cd34";
    for run in [RUN, other] {
        fs::create_dir_all(folder(run)).expect("a folder");
        fs::write(folder(run).join("key"), "secret").expect("a file");
    }
    let account = Account::new([Entry::new("i-1", RUN, OLD)]);
    let stub = stub(&account);
    assert_ran(&run_at_home(&stub, home.path(), &["sweep"]), 0, &[]);
    assert!(folder(RUN).exists());
    assert_ran(&run_at_home(&stub, home.path(), &["sweep", "--yes"]), 0, &["removed /"]);
    assert!(!folder(RUN).exists() && folder(other).exists());
    // Nothing of it is in the account any more.
    assert_ran(&run_at_home(&stub, home.path(), &["sweep", "--yes", "--run", other]), 0, &["nothing to remove"]);
    assert!(!folder(other).exists());
}

#[test]
fn malformed_flags_are_refused_before_anything_is_asked() {
    let stub = Stub::start(|action, _| panic!("{action} was called"));
    let ages = ["", "3", "h", "3w", "-3h", "+3h", "3 h", "1.5h", "99999999999999999d", "drei"];
    for age in ages {
        let ran = run(&stub, &["sweep", &format!("--older-than={age}")]);
        assert_ran(&ran, 2, &["is not a time", "hint: write a number"]);
    }
    for name in ["x", "../../etc", "20250101-000000", "20250101-000000-ab12/..", "20250101-000000-ab1g"] {
        assert_ran(&run(&stub, &["sweep", "--yes", "--run", name]), 2, &["is not the name of a run"]);
    }
    for region in ["", "useast1", "us-east", "us-east-1a", "US-EAST-1", "us_east_1", "us-east-1.example.org"] {
        for command in [&["sweep"][..], &["images"], &["image", "rm", "ami-00000001"]] {
            let ran = run(&stub, &[command, &["--region", region]].concat());
            assert_ran(&ran, 2, &["is not the name of a region", "hint: a region is written like us-east-1"]);
        }
    }
    for id in ["", "ami-", "ami-xyz", "snap-00000001", "ami-0000001", "ami-00000001/../x", "AMI-00000001"] {
        assert_ran(&run(&stub, &["image", "rm", "--yes", id]), 2, &["is not the id of an AMI"]);
    }
}

#[test]
fn refusals_are_told_with_what_to_do() {
    let cases = [
        ("RequestExpired", "the credentials have expired"),
        ("ExpiredToken", "the credentials have expired"),
        ("AuthFailure", "AWS does not know these credentials"),
        ("UnauthorizedOperation", "the role lacks this permission"),
        ("OptInRequired", "has not opted in"),
    ];
    for (code, hint) in cases {
        let stub = Stub::start(move |_, _| refuse(code, "No."));
        for args in [&["sweep", "--yes"][..], &["images"], &["image", "rm", "ami-00000001", "--yes"]] {
            let ran = run(&stub, args);
            assert_ran(&ran, 10, &[code, hint, "us-east-1", "request req-1"]);
            assert_eq!(ran.stderr.matches(code).count(), 1, "{}", ran.stderr);
            assert_eq!(ran.stdout, "");
        }
        assert_eq!(changes(&stub), [""; 0]);
    }
}

#[test]
fn without_credentials_or_region_it_says_what_is_missing() {
    let home = scratch();
    let bare = |variables: &[(&str, &str)]| {
        let mut command = command(&["images"]);
        command.env("HOME", home.path()).env("AWS_EC2_METADATA_DISABLED", "true").envs(variables.iter().copied());
        let output = command.output().expect("the binary starts");
        (output.status.code(), crate::support::stderr(&output))
    };
    let (code, said) = bare(&[]);
    assert!(code == Some(10) && said.contains("no region") && said.contains("hint: give --region"), "{said}");
    let (code, said) = bare(&[("AWS_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:9")]);
    assert!(code == Some(10) && said.contains("hint: log in first"), "{said}");
}

#[test]
fn images_are_listed_with_what_became_of_them() {
    let [mut published, snapshot] = image("ami-00000005", "snap-5", "published");
    published.shared = vec!["222233334444".into()];
    let failed = Entry { state: "failed".into(), ..image("ami-00000006", "snap-6", "building")[0].clone() };
    let [mut plain, _] = image("ami-00000007", "snap-7", "published");
    plain.tags.clear();
    let foreign = Entry { owner: "999900001111".into(), ..image("ami-00000008", "snap-8", "published")[0].clone() };
    let account = Account::new([published.tag("efa-gen:verdict", "passed"), snapshot, failed, plain, foreign]);
    let stub = stub(&account);
    let ran = run(&stub, &["images"]);
    assert_ran(&ran, 0, &[]);
    let row = |id: &str| ran.stdout.lines().find(|line| line.contains(id)).map(str::to_owned);
    let published = row("ami-00000005").expect("it is listed");
    for text in ["published", "passed", "222233334444", "2025-01-01"] {
        assert!(published.contains(text), "{text}: {published}");
    }
    assert!(row("ami-00000006").expect("it is listed").contains("failed"));
    assert_eq!((row("ami-00000007"), row("ami-00000008")), (None, None));
    let rows: Value = serde_json::from_str(&run(&stub, &["images", "--output", "json"]).stdout).expect("JSON");
    assert_eq!(rows[0]["shared_with"][0], "222233334444");
    assert_eq!(rows[0]["snapshots"][0], "snap-5");
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
}

#[test]
fn no_images_is_said_and_is_an_empty_list() {
    let stub = stub(&Account::default());
    assert_ran(&run(&stub, &["images"]), 0, &["no image with the tag efa-gen:plan"]);
    assert_eq!(run(&stub, &["images", "--output", "json"]).stdout, "[]\n");
}

#[test]
fn an_image_goes_with_its_snapshots() {
    let account = Account::new(image("ami-00000005", "snap-5", "published"));
    let stub = stub(&account);
    let ran = run(&stub, &["image", "rm", "ami-00000005"]);
    assert_ran(&ran, 0, &["--yes removes what is listed"]);
    assert!(ran.stdout.contains("ami-00000005") && ran.stdout.contains("snap-5"), "{}", ran.stdout);
    assert_eq!(changes(&stub), [""; 0]);
    assert_ran(&run(&stub, &["image", "rm", "ami-00000005", "--yes"]), 0, &["removed snapshot snap-5"]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn images_that_are_not_ours_to_remove_stay() {
    let [mut plain, _] = image("ami-00000007", "snap-7", "published");
    plain.tags.remove("efa-gen:plan");
    let foreign = Entry { owner: "999900001111".into(), ..image("ami-00000008", "snap-8", "published")[0].clone() };
    let account = Account::new([plain, foreign]);
    let stub = stub(&account);
    let cases = [
        ("ami-00000007", "it has no tag efa-gen:plan"),
        ("ami-00000008", "belongs to account 999900001111"),
        ("ami-00000009", "is not there"),
    ];
    for (id, why) in cases {
        assert_ran(&run(&stub, &["image", "rm", id, "--yes", "--unprotect"]), 4, &[id, "us-east-1", why, "hint: "]);
    }
    assert_eq!(changes(&stub), [""; 0]);
}

#[test]
fn a_protected_image_goes_only_with_unprotect() {
    let [mut image, snapshot] = image("ami-00000005", "snap-5", "published");
    image.protected = true;
    let account = Account::new([image, snapshot]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["image", "rm", "ami-00000005", "--yes"]), 4, &["is protected", "hint: --unprotect"]);
    assert_eq!(changes(&stub), [""; 0]);
    assert_ran(&run(&stub, &["image", "rm", "ami-00000005", "--yes", "--unprotect"]), 0, &[]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn an_image_that_could_not_be_deregistered_stays_published() {
    let account = Account::new(image("ami-00000005", "snap-5", "published"));
    let stub = odd(&account, |action, _| (action == "DeregisterImage").then(|| refuse("UnauthorizedOperation", "No.")));
    let ran = run(&stub, &["image", "rm", "ami-00000005", "--yes"]);
    assert_ran(&ran, 10, &["ami-00000005 in us-east-1", "UnauthorizedOperation"]);
    assert_eq!(account.tags("ami-00000005")["efa-gen:state"], "published");
    assert_eq!(account.tags("snap-5")["efa-gen:state"], "published");
    assert_eq!(stub.calls("DeleteSnapshot").len(), 0);
}

#[test]
fn a_snapshot_that_another_image_uses_stays_and_is_told() {
    let account = Account::new(image("ami-00000005", "snap-5", "published"));
    let stub = odd(&account, |action, _| {
        let why = "The snapshot snap-5 is currently in use by ami-00000099";
        (action == "DeleteSnapshot").then(|| refuse("InvalidSnapshot.InUse", why))
    });
    let ran = run(&stub, &["image", "rm", "ami-00000005", "--yes"]);
    assert_ran(&ran, 10, &["snap-5 in us-east-1 is still there", "ami-00000099"]);
    // A sweep finds it later.
    assert_eq!(account.tags("snap-5")["efa-gen:state"], "removing");
}

#[test]
fn what_a_cut_off_removal_left_is_swept() {
    let account = Account::new([image("ami-00000005", "snap-5", "removing")[1].clone()]);
    let stub = stub(&account);
    assert_ran(&run(&stub, &["sweep", "--yes"]), 0, &["removed snapshot snap-5"]);
    assert_eq!(account.ids(), [""; 0]);
}

#[test]
fn the_cluster_of_a_gate_is_not_removed_alone() {
    let name = format!("gate-{RUN}");
    let node = Entry::new("i-2", RUN, OLD).tag("efa-gen:cluster", &name);
    let account = Account::new(leftovers().into_iter().chain([node]));
    let stub = stub(&account);
    let ran = run(&stub, &["cluster", "rm", &name, "--yes"]);
    let resume = format!("efa-gen build --resume {RUN}");
    assert_ran(&ran, 2, &["is the test of a build", &resume, &format!("efa-gen sweep --run {RUN} --yes")]);
    assert_eq!(changes(&stub), Vec::<String>::new());
}
