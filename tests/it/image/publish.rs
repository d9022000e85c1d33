//! What `efa-gen build` does with a finished image, against a stub of AWS in which the run finds its image made. And which
//! flags that publish are refused before anything is made.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::account::Entry;
use crate::support::aws::{Params, done, is_dry, refuse};
use crate::support::builds::{BASE, IMAGE, Stage, answer, assert_ran, machines};
use serde_json::Value;

const ORGANISATION: &str = "arn:aws:organizations::111122223333:organization/o-abcdefghij";

#[test]
fn an_image_is_copied_marked_shared_and_named() {
    let stage = Stage::good();
    let ran = stage.build(&[
        "--no-encrypt",
        "--copy-to",
        "eu-west-1",
        "--copy-to",
        "us-west-2",
        "--share",
        "222233334444",
        "--share",
        ORGANISATION,
        "--deprecate-at",
        "2030-01-01",
        "--protect",
        "--ssm-parameter",
        "/images/efa",
        "--manifest",
        "manifest.json",
    ]);
    assert_ran(&ran, 0, &["SSM parameter /images/efa in eu-west-1 is ami-euwest1"]);
    for (image, snapshot) in [(IMAGE, "snap-1"), ("ami-euwest1", "snap-euwest1"), ("ami-uswest2", "snap-uswest2")] {
        let entry = stage.image(image);
        assert!(entry.protected && entry.imds_v2, "{entry:?}");
        assert_eq!(entry.shared, ["222233334444", ORGANISATION]);
        assert!(entry.deprecated.starts_with("2030-01-01T00:00:00"), "{entry:?}");
        for tags in [&entry.tags, &stage.account.tags(snapshot)] {
            assert_eq!((tags["efa-gen:state"].as_str(), tags["team"].as_str()), ("published", "hpc"), "{image}");
        }
    }
    let put = stage.stub.calls("PutParameter");
    assert_eq!(put.len(), 3);
    assert!(put.iter().all(|call| call["DataType"] == "aws:ec2:image"), "{put:?}");
    // A parameter never points at what a sweep may take.
    assert!(stage.stub.actions().iter().position(|name| name == "PutParameter") > stage.at("CreateTags"));
    let tokens: Vec<String> = stage.stub.calls("CopyImage").iter().map(|call| call["ClientToken"].clone()).collect();
    assert!(tokens.iter().all(|token| token.contains("-eu-west-1") || token.contains("-us-west-2")), "{tokens:?}");
    assert_eq!(stage.account.ids().len(), 6, "the clean-up leaves what is published");

    let text = fs::read_to_string(stage.folder.path().join("manifest.json")).expect("the manifest");
    let manifest: Value = serde_json::from_str(&text).expect("JSON");
    let build = &manifest["builds"][0];
    assert_eq!(build["artifact_id"], "us-east-1:ami-00000001,eu-west-1:ami-euwest1,us-west-2:ami-uswest2");
    assert_eq!((&build["builder_type"], &build["name"]), (&"efa-gen".into(), &"debian12".into()));
    assert_eq!(manifest["last_run_uuid"], build["packer_run_uuid"]);
    assert_eq!(build["efa-gen"]["images"][1]["snapshots"][0], "snap-euwest1");
}

#[test]
fn a_second_time_finds_everything() {
    let stage = Stage::good();
    let flags = ["--no-encrypt", "--copy-to", "eu-west-1", "--protect", "--ssm-parameter", "/images/efa"];
    assert_ran(&stage.build(&flags), 0, &[]);
    // The same run, as far as the stub knows.
    let run = stage.account.tags(IMAGE)["efa-gen:run"].clone();
    for entry in stage.account.0.lock().expect("the account").iter_mut() {
        entry.tags.insert("efa-gen:run".into(), String::new());
    }
    let flags = [&flags[..], &["--name", "another"]].concat();
    assert_ran(&stage.build(&flags), 0, &[]);
    assert_ne!(stage.account.tags(IMAGE)["efa-gen:run"], run);
    for call in ["CopyImage", "PutParameter"] {
        assert!(stage.stub.calls(call).len() <= 2 && stage.stub.calls("CopyImage").len() == 1, "{call}");
    }
    assert_eq!(stage.stub.calls("EnableImageDeregistrationProtection").len(), 2);
}

#[test]
fn an_image_that_is_found_is_in_the_manifest_with_its_copies() {
    let stage = Stage::good();
    publish_earlier(&stage);
    let plan = stage.image(IMAGE).tags["efa-gen:plan"].clone();
    let flags = ["--no-encrypt", "--copy-to", "eu-west-1", "--manifest", "m.json", "--output", "json", "--reuse"];
    let ran = stage.build(&flags);
    assert_ran(&ran, 0, &[]);
    let rows: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!((&rows[0]["outcome"], rows[0]["images"].as_array().map(Vec::len)), (&"found".into(), Some(2)), "{rows}");
    let read = || -> Value {
        serde_json::from_slice(&fs::read(stage.folder.path().join("m.json")).expect("a file")).expect("JSON")
    };
    let build = &read()["builds"][0];
    assert_eq!(build["artifact_id"], "us-east-1:ami-00000001,eu-west-1:ami-euwest1");
    // Its own run, and when it was built.
    assert_eq!(
        (&build["packer_run_uuid"], &build["build_time"]),
        (&"20250101-000000-abcd".into(), &1_735_689_600.into())
    );
    assert_eq!(build["efa-gen"]["plan"], plan);
    assert_ran(&stage.build(&flags), 0, &[]);
    assert_eq!(read()["builds"].as_array().map(Vec::len), Some(1), "once");
    // What is no manifest is not replaced.
    fs::write(stage.folder.path().join("m.json"), "[]").expect("a file");
    assert_ran(&stage.build(&flags), 2, &["is no manifest"]);
}

/// What is there already, as a build that ended well has left it.
fn publish_earlier(stage: &Stage) {
    let planned = stage.build(&["--plan", "--output", "json"]);
    let rows: Value = serde_json::from_str(&planned.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let (plan, name) = (text(&rows[0]["plan"]), text(&rows[0]["preflight"]["account"]["name"]));
    for entry in stage.account.0.lock().expect("the account").iter_mut() {
        entry.name.clone_from(&name);
        for (tag, value) in
            [("run", "20250101-000000-abcd"), ("plan", &plan), ("base-ami", BASE), ("state", "published")]
        {
            entry.tags.insert(format!("efa-gen:{tag}"), value.into());
        }
    }
}

#[test]
fn an_image_that_is_there_is_built_again_by_force_alone() {
    let stage = machines(|| unreachable!("a builder is launched once"));
    publish_earlier(&stage);
    let launched = || stage.stub.calls("RunInstances").iter().filter(|call| !is_dry(call)).count();
    assert_ran(&stage.build(&["--reuse"]), 4, &["ami-00000001 is there already, and it is not encrypted", "--force"]);
    let ran = stage.build(&["--no-encrypt", "--reuse"]);
    assert_ran(&ran, 0, &[]);
    assert!(ran.stdout.contains("ami-00000001 is there already") && ran.stdout.contains("--force"), "{}", ran.stdout);
    assert!(!ran.stderr.contains("stays as it is"), "{}", ran.stderr);
    // What is asked for besides is not done to it, and that is said.
    let more = ["--reuse", "--no-encrypt", "--tag", "team=hpc", "--tag", "cost=7", "--root-gib", "200"];
    let note =
        "ami-00000001 is there already and stays as it is, without --tag cost=7, --root-gib 200 (it has 0): --force";
    assert_ran(&stage.build(&more), 0, &[note]);
    let named = stage.image(IMAGE).name;
    let again = stage.build(&["--reuse", "--no-encrypt", "--tag", "cost=7", "--name", &named]);
    assert_ran(&again, 0, &["without --tag cost=7: --force with another --name builds another one"]);
    assert_eq!(launched(), 0);
    // A name is one image's, by force or not.
    let taken = stage.image(IMAGE).name;
    assert_ran(&stage.build(&["--force", "--name", &taken]), 4, &["is taken by ami-00000001", "another --name"]);
    assert_eq!(launched(), 0);
    assert_ran(&stage.build(&["--force", "--on-error", "keep"]), 10, &["made instance i-1", "everything is kept"]);
    assert_eq!(launched(), 1);
    assert_eq!(stage.account.tags(IMAGE)["efa-gen:state"], "published", "it stays");
}

#[test]
fn copies_that_a_crash_left_unmarked_are_swept_and_made_again() {
    let closed = Arc::new(AtomicBool::new(true));
    let closes = Arc::clone(&closed);
    let stage = Stage::new(move |_, action, params| {
        let marks = action == "CreateTags" && params.values().any(|value| value == "published");
        let refused = marks && params["Region"] == "eu-west-1" && closes.load(Ordering::SeqCst);
        refused.then(|| refuse("UnauthorizedOperation", "No."))
    });
    let flags = ["--no-encrypt", "--copy-to", "eu-west-1"];
    assert_ran(&stage.build(&[&flags[..], &["--on-error", "keep"]].concat()), 10, &["ami-euwest1 in eu-west-1"]);
    let state = |id: &str| stage.account.tags(id)["efa-gen:state"].clone();
    assert_eq!((state(IMAGE).as_str(), state("ami-euwest1").as_str()), ("published", "building"));
    let run = stage.account.tags(IMAGE)["efa-gen:run"].clone();
    let swept = stage.sweep(&["--run", &run, "--region", "us-east-1", "--region", "eu-west-1"]);
    assert_ran(&swept, 0, &["removed image ami-euwest1", "removed snapshot snap-euwest1"]);
    assert_eq!(stage.account.ids(), [IMAGE, "snap-1"]);
    // Another build finds the image and copies it anew.
    closed.store(false, Ordering::SeqCst);
    stage.account.0.lock().expect("the account")[0].tags.insert("efa-gen:run".into(), String::new());
    assert_ran(&stage.build(&[&flags[..], &["--name", "another"]].concat()), 0, &[]);
    assert_eq!((state(IMAGE).as_str(), state("ami-euwest1").as_str()), ("published", "published"));
    let tokens: Vec<String> = stage.stub.calls("CopyImage").iter().map(|call| call["ClientToken"].clone()).collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1] && tokens.iter().all(|token| token.len() <= 64), "{tokens:?}");
}

#[test]
fn available_is_believed_after_three_reads() {
    let reads = AtomicUsize::new(0);
    let stage = Stage::new(move |_, action, params| {
        let read = action == "DescribeImages" && params.get("ImageId.1").is_some_and(|id| id == IMAGE);
        // Available, available, unknown, and then for good.
        let lost = read && reads.fetch_add(1, Ordering::SeqCst) == 2;
        lost.then(|| refuse("InvalidAMIID.NotFound", "The image id '[ami-00000001]' does not exist"))
    });
    assert_ran(&stage.build(&["--no-encrypt"]), 0, &[]);
    let calls = stage.stub.calls("DescribeImages");
    let reads = calls.iter().filter(|call| call.get("ImageId.1").is_some_and(|id| id == IMAGE)).count();
    // The waiter's, one good, one lost, three good, the publisher's own, the look at the flags, the look at the tags.
    assert_eq!(reads, 9);
}

#[test]
fn a_failed_copy_is_told_and_removed_and_nothing_is_published() {
    let stage = Stage::new(|account, action, params| {
        (action == "CopyImage" && params["Region"] == "eu-west-1").then(|| {
            let answer = answer(account, action, params);
            let mut entries = account.0.lock().expect("the account");
            entries
                .iter_mut()
                .filter(|entry| entry.id == "ami-euwest1")
                .for_each(|entry| entry.state = "failed".into());
            answer
        })
    });
    let ran =
        stage.build(&["--no-encrypt", "--copy-to", "eu-west-1", "--copy-to", "us-west-2", "--ssm-parameter", "/i"]);
    assert_ran(&ran, 10, &["ami-euwest1 in eu-west-1", "has failed"]);
    assert_eq!(stage.stub.calls("PutParameter").len(), 0);
    // What another region has copied goes, too.
    assert_eq!(stage.account.ids(), [""; 0]);
}

#[test]
fn a_copy_that_failed_earlier_is_made_again_with_another_token() {
    let stage = Stage::good();
    let name = stage.image(IMAGE).name;
    let failed =
        Entry { region: "eu-west-1".into(), name, state: "failed".into(), ..Entry::new("ami-0bad0bad", "", "") };
    let source = Some(("us-east-1".to_owned(), IMAGE.to_owned()));
    let failed = Entry { source, ..failed }.tag("efa-gen:state", "building");
    stage.account.0.lock().expect("the account").push(failed);
    let ran = stage.build(&["--no-encrypt", "--copy-to", "eu-west-1"]);
    assert_ran(&ran, 0, &["an earlier copy to eu-west-1 has failed and is made again: ami-0bad0bad"]);
    assert_eq!(stage.account.ids(), [IMAGE, "ami-euwest1", "snap-1", "snap-euwest1"]);
    assert!(stage.stub.calls("CopyImage")[0]["ClientToken"].ends_with("-eu-west-1-0bad0bad"));
}

#[test]
fn every_region_that_fails_is_told() {
    let stage = Stage::new(|_, action, _| (action == "CopyImage").then(|| refuse("UnauthorizedOperation", "No.")));
    let ran = stage.build(&["--no-encrypt", "--copy-to", "eu-west-1", "--copy-to", "us-west-2"]);
    assert_ran(
        &ran,
        10,
        &[
            "copy of image ami-00000001 to eu-west-1",
            "copy of image ami-00000001 to us-west-2",
            "lacks this permission",
        ],
    );
}

#[test]
fn what_is_not_shown_is_not_believed() {
    let stage = Stage::new(|_, action, _| (action == "PutParameter").then(|| (200, r#"{"Version": 1}"#.into())));
    let ran = stage.build(&["--no-encrypt", "--ssm-parameter", "/i"]);
    assert_ran(&ran, 10, &["SSM parameter /i for image ami-00000001 in us-east-1: it was written, but shows nothing"]);
}

#[test]
fn a_manifest_keeps_builds_of_others_and_refuses_what_is_none() {
    let stage = Stage::good();
    let path = stage.folder.path().join("manifest.json");
    fs::write(&path, r#"{"builds": [{"name": "x", "packer_run_uuid": "theirs"}], "last_run_uuid": "theirs"}"#)
        .expect("a file");
    assert_ran(&stage.build(&["--no-encrypt", "--manifest", "manifest.json"]), 0, &[]);
    let manifest: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    assert_eq!(manifest["builds"].as_array().map(Vec::len), Some(2));
    assert_eq!(manifest["builds"][0]["packer_run_uuid"], "theirs");
    for other in ["", "{}", "[]", r#"{"builds": 1}"#, r#"{"builds": [1]}"#] {
        let stage = Stage::good();
        let path = stage.folder.path().join("manifest.json");
        fs::write(&path, other).expect("a file");
        let ran = stage.build(&["--no-encrypt", "--manifest", "manifest.json"]);
        assert_ran(&ran, 2, &["manifest.json is there and is no manifest", "hint: name another file"]);
        assert_eq!(fs::read_to_string(&path).expect("a file"), other);
    }
}

#[test]
fn a_name_that_is_taken_in_a_copys_region_is_found_before_anything_is_made() {
    let stage = Stage::good();
    let taken = Entry { region: "eu-west-1".into(), name: "mine".into(), ..Entry::new("ami-00000077", "x", "") };
    stage.account.0.lock().expect("the account").push(taken);
    let ran = stage.build(&["--no-encrypt", "--name", "mine", "--copy-to", "eu-west-1"]);
    assert_ran(&ran, 4, &["the name mine is taken in eu-west-1 by ami-00000077"]);
    assert_eq!(stage.at("CreateTags"), None);
}

#[test]
fn a_sweep_knows_what_the_ledger_has_and_keeps_the_folder_of_another_place() {
    let elsewhere = Arc::new(AtomicBool::new(false));
    let other = Arc::clone(&elsewhere);
    let stage = Stage::new(move |_, action, _| match action {
        "CopyImage" => Some(refuse("UnauthorizedOperation", "No.")),
        "GetCallerIdentity" if other.load(Ordering::SeqCst) => {
            let who = "<GetCallerIdentityResult><Arn>a</Arn><Account>999900001111</Account></GetCallerIdentityResult>";
            Some(done(action, who))
        }
        // The other account has nothing.
        _ if other.load(Ordering::SeqCst) => Some(done(action, "")),
        _ => None,
    });
    let ran = stage.build(&["--no-encrypt", "--copy-to", "eu-west-1", "--on-error", "keep"]);
    assert_ran(&ran, 10, &["everything is kept"]);
    let run = stage.account.tags(IMAGE)["efa-gen:run"].clone();
    let folder = stage.runs().join(&run);
    // An image that no listing shows yet, and one that has been published; and a line that a crash has cut off.
    let hidden = |id: &str| Entry { tags: Params::new(), ..Entry::new(id, "", "") };
    let published = hidden("ami-00000066").tag("efa-gen:state", "published");
    stage.account.0.lock().expect("the account").extend([hidden("ami-00000055"), published]);
    let line = |id: &str| {
        format!(r#"{{"region":"us-east-1","kind":"image","id":"{id}","name":"","state":"","created":"","tags":{{}}}}"#)
    };
    let ledger = format!("{}\n{}\n{{\"reg", line("ami-00000055"), line("ami-00000066"));
    fs::write(folder.join("made.jsonl"), ledger).expect("a file");

    let ran = stage.sweep(&["--run", &run, "--region", "eu-west-1"]);
    assert_ran(&ran, 0, &["stays: run", "was in us-east-1"]);
    elsewhere.store(true, Ordering::SeqCst);
    let ran = stage.sweep(&["--run", &run]);
    assert_ran(&ran, 0, &["nothing to remove", "stays: run", "was in account 111122223333"]);
    assert!(folder.join("run.json").exists());
    elsewhere.store(false, Ordering::SeqCst);
    assert_ran(&stage.sweep(&["--run", &run]), 0, &["removed image ami-00000055", "removed image ami-00000001"]);
    assert_eq!(stage.account.ids(), ["ami-00000066"]);
    assert!(!folder.exists());
}

/// Each set of flags, and what is said of it. An empty list is no problem.
const FLAGS: &[(&str, &[&str])] = &[
    ("--share 222233334444 --no-encrypt", &[]),
    ("--share 22223333444 --no-encrypt", &["neither an account nor"]),
    ("--share 2222333344445 --no-encrypt", &["neither an account nor"]),
    ("--share all --no-encrypt", &["neither an account nor"]),
    ("--share arn:aws:organizations::111122223333:organization/o-abcdefghij --no-encrypt", &[]),
    ("--share arn:aws:organizations::111122223333:organization/abcdefghij --no-encrypt", &["neither an account nor"]),
    ("--share arn:aws:organizations::1:organization/o-abcdefghij --no-encrypt", &["neither an account nor"]),
    ("--share arn:aws:organizations::111122223333:ou/o-abcdefghij/ou-ab12-34567890 --no-encrypt", &[]),
    ("--share arn:aws:organizations::111122223333:ou/ou-ab12-34567890 --no-encrypt", &["neither an account nor"]),
    ("--share arn:aws:iam::111122223333:root --no-encrypt", &["neither an account nor"]),
    ("--share 222233334444", &["default key can't be shared"]),
    ("--share 222233334444 --kms-key alias/aws/ebs", &["default key can't be shared"]),
    ("--share 222233334444 --kms-key alias/images", &[]),
    ("--kms-key images", &["not the name of a KMS key"]),
    ("--kms-key arn:aws:kms:eu-west-1:111122223333:alias/x", &["is of eu-west-1"]),
    ("--kms-key arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", &[]),
    ("--kms-key arn:aws:iam::111122223333:key/x", &["not the ARN of a KMS key"]),
    (
        "--copy-to eu-west-1 --kms-key alias/images",
        &["the copy to eu-west-1 has no key", "--copy-kms-key eu-west-1=KEY"],
    ),
    ("--copy-to eu-west-1 --kms-key alias/images --copy-kms-key eu-west-1=alias/images", &[]),
    ("--copy-to eu-west-1 --copy-kms-key us-west-2=alias/x", &["there is no copy to"]),
    ("--copy-to eu-west-1 --copy-kms-key eu-west-1", &["has no `=`"]),
    ("--copy-to eu-west-1 --copy-kms-key eu-west-1=", &["not the name of a KMS key"]),
    ("--copy-to eu-west-1 --copy-kms-key eu-west-1=alias/x --copy-kms-key eu-west-1=alias/y", &["has a key already"]),
    ("--copy-to eu-west-1 --copy-kms-key eu-west-1=arn:aws:kms:us-east-1:111122223333:alias/x", &["is of us-east-1"]),
    ("--copy-to us-east-1", &["the region that the image is built in"]),
    ("--copy-to eu-west-1 --copy-to eu-west-1", &["is given twice"]),
    ("--copy-to europe", &["not the name of a region"]),
    ("--copy-to us-gov-west-1", &["different partitions"]),
    ("--copy-to cn-north-1", &["different partitions"]),
    ("--deprecate-at soon", &["is not a time"]),
    ("--deprecate-at 2030-13-01", &["is not a time"]),
    ("--deprecate-at 2020-01-01T00:00:00Z", &["has passed"]),
    ("--deprecate-at 2099-01-01", &["too far off"]),
    ("--deprecate-at 2030-01-01T00:00:00+02:00", &[]),
    ("--ssm-parameter images", &[]),
    ("--ssm-parameter /aws/images", &["AWS's own"]),
    ("--ssm-parameter SSM-images", &["AWS's own"]),
    ("--ssm-parameter a/b", &["begins with `/`"]),
    ("--ssm-parameter /a//b", &["a part of it is empty"]),
    ("--ssm-parameter /", &["a part of it is empty"]),
    ("--ssm-parameter 1st", &["begins neither"]),
    ("--ssm-parameter /a:b", &["a character that Parameter Store does not take"]),
    ("--ssm-parameter /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16", &["too long"]),
    ("--name ab", &["has 2 characters"]),
    ("--name ümlaut", &["has a character that EC2 does not take"]),
    ("--name a{b}c", &["has a character that EC2 does not take"]),
    ("--name (a)[b]./-'@_", &[]),
    ("--tag team=hpc --tag Team=hpc --tag empty= --tag sum=1+1=2 --tag name=x", &[]),
    ("--tag team", &["--tag team: there is no `=`", "hint: a tag is written like team=hpc"]),
    ("--tag =hpc", &["a key has 1 to 128 characters"]),
    ("--tag team=hpc --tag team=web", &["--tag team=web: this key is given twice"]),
    ("--tag Name=mine", &["the name is efa-gen's to give"]),
    ("--tag aws:team=hpc", &["are not yours to give"]),
    ("--tag AWS:team=hpc", &["are not yours to give"]),
    ("--tag efa-gen:run=x", &["are not yours to give"]),
    (
        "--name x --copy-to x --share x --ssm-parameter x/y",
        &["has 1 characters", "name of a region", "neither an", "begins with `/`", "problems found"],
    ),
];

#[test]
fn flags_that_publish_are_checked_before_anything_is_made() {
    let stage = Stage::good();
    for (flags, problems) in FLAGS {
        let flags: Vec<&str> = flags.split(' ').chain(["--plan"]).collect();
        let ran = stage.build(&flags);
        assert_eq!(ran.code == 0, problems.is_empty(), "{flags:?}: {}", ran.stderr);
        assert!([0, 2, 4].contains(&ran.code), "{flags:?}: {}", ran.stderr);
        for problem in *problems {
            assert!(ran.stderr.contains(problem), "{flags:?} does not say {problem:?}: {}", ran.stderr);
        }
        assert_eq!(ran.stderr.matches("problem: ").count() > 0, !problems.is_empty(), "{}", ran.stderr);
    }
    let ran = stage.build(&["--plan", "--name", &"x".repeat(129)]);
    assert_ran(&ran, 2, &["has 129 characters"]);
    // Characters, not bytes.
    for (key, value, good) in [(128, 256, true), (129, 1, false), (1, 257, false)] {
        let tag = format!("{}={}", "ü".repeat(key), "ü".repeat(value));
        let ran = stage.build(&["--plan", "--tag", &tag]);
        let says: &[&str] = if good { &[] } else { &["a key has 1 to 128 characters, a value at most 256"] };
        assert_ran(&ran, if good { 0 } else { 2 }, says);
    }
    assert_eq!(stage.at("CreateTags"), None);
}
