//! `efa-gen build` as its user knows it: a whole build from the publisher's AMI, the same again, what is refused before
//! anything is made, what it says of itself, and that no secret is seen anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::account::{Account, changes, files_below, mode, tag};
use crate::image::each_has_its_own;
use crate::machine::{Guest, Ran, assert_same, on_network, ran, text};
use crate::published::{WAYS, is_published};

/// A secret access key that nothing else in the rehearsal looks like.
const SECRET: &str = "wJalrXUtnFEMIxK7MDENGxbPxRfiCYzREHEARSALKEY";

/// What was seen of secrets while a command ran: where, and what.
fn watch(account: &Account, ended: &AtomicBool) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !ended.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(SECRET) || line.contains("PRIVATE KEY") {
                seen.insert(format!("argv: {line}"));
            }
        }
        for path in files_below(&account.file("state")).into_iter().chain(files_below(&account.file("cache"))) {
            let bytes = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let key = path.file_name().is_some_and(|name| name == "key") && mode(&path) == 0o600;
            if text.contains(SECRET) || (text.contains("PRIVATE KEY") && !key) {
                seen.insert(format!("file: {} {:o}", path.display(), mode(&path)));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    seen
}

/// The command with a secret key of its own, which comes in by the environment and no argument.
fn with_secret(account: &Account, command: &Command) -> Command {
    let (secret, script) = (account.file("home/secret"), account.file("home/with-secret"));
    fs::write(&secret, SECRET).expect("a file can be written");
    let text =
        format!("AWS_SECRET_ACCESS_KEY=$(cat {})\nexport AWS_SECRET_ACCESS_KEY\nexec \"$@\"\n", secret.display());
    fs::write(&script, text).expect("a file can be written");
    // enter sh with-secret COMMAND...
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut line = vec!["sh".into(), script.into_os_string()];
    line.extend(words);
    let mut with = on_network(&line);
    with.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    with
}

/// The image, launched again, knows nothing of the machine that it was made on.
fn inspect(image: &str) {
    let (first, second) = (Guest::launch(image, ""), Guest::launch(image, ""));
    let said = first.root("bash /var/lib/efa-gen/install.sh").good();
    assert!(said.contains("EFA-GEN COMPLETE: every stage is done already."), "{said}");
    each_has_its_own(&first, &second);
    let keys = "cat /home/admin/.ssh/authorized_keys | wc -l; cat /root/.ssh/authorized_keys 2>/dev/null | wc -l; \
                ls /root/.ssh/id_* /home/*/.ssh/id_* 2>/dev/null | wc -l";
    let root_keys =
        first.root("grep -c efa-gen /root/.ssh/authorized_keys /home/admin/.ssh/authorized_keys; true").good();
    assert!(!root_keys.contains(":1"), "a key of the builder: {root_keys}");
    let keys = first.root(keys).good();
    let counts: Vec<&str> = keys.lines().collect();
    assert_eq!((counts[0], counts[2]), ("1", "0"), "the launch's key alone, and no private one");
    for gone in [
        "ls /root/.*_history /home/*/.*_history",
        "ls /var/log/efa-gen /tmp/efa-gen* /var/lib/efa-gen/src",
        // The brackets keep a pattern from finding itself. The builder's user-data: what it printed on the console, and the clock that would end the machine.
        "grep -rl 'EFA-GEN BEGI[N] HOST KEYS' /var/lib/cloud /var/log /etc /usr/local",
        "ls /run/systemd/shutdown/scheduled",
        "pgrep --full '[s]hutdown -h|[e]fa-gen'",
        "systemctl list-timers --all --no-legend | grep -i efa-gen",
    ] {
        let said = first.root(&format!("{gone} 2>/dev/null"));
        assert!(said.code != 0 && said.text.is_empty(), "{gone}: {}", said.text);
    }
    first.root("grep -q . /var/lib/efa-gen/complete").good();
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_whole_build_and_the_same_again() {
    // With AWS's own names and TLS, and a copy to where guests can be launched by the tests.
    let account = Account::alone_in("us-west-2");
    let before = account.things();
    let manifest = account.file("manifest.json").display().to_string();
    let more = ["--manifest", &manifest, "--copy-to", "us-east-1", "--tag", "team=hpc"];
    let arguments = account.words(&[&["--ssh-cidr", "10.78.0.1/32"], &WAYS[..], &more].concat());
    let plan = [&arguments[..], &["--plan".to_owned()]].concat();
    let planned = ran(&mut with_secret(&account, &account.efa_gen(&plan))).good();
    let mut command = with_secret(&account, &account.efa_gen(&arguments));
    let ended = AtomicBool::new(false);
    let (said, seen) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&account, &ended));
        let said = ran(command.stdin(Stdio::null()));
        ended.store(true, Ordering::Relaxed);
        (said, watching.join().expect("it watched"))
    });
    assert_eq!(seen, BTreeSet::new(), "secrets");
    let said = said.good();
    let east = Account::shared("us-east-1");
    let tags = [account.things(), east.things()].concat().join("\n");
    let written = fs::read_to_string(&manifest).expect("a manifest");
    for (what, text) in [("plan", &planned), ("build", &said), ("tags", &tags), ("manifest", &written)] {
        assert!(!text.contains(SECRET) && !text.contains("PRIVATE KEY"), "{what}: {text}");
    }
    account.keeps_no_secret();
    let run = account.runs().pop().expect("a run");
    let images = account.images_of(&run);
    assert_eq!(images.len(), 1, "{images:?}");
    let image = text(&images[0]["ImageId"]);
    published(&account, &images[0], Path::new(&manifest));
    // The account holds the image and its snapshot more than before, and nothing else.
    let more: Vec<String> = account.things().into_iter().filter(|thing| !before.contains(thing)).collect();
    let kinds: Vec<&str> = more.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(kinds, ["Images", "Snapshots"], "{more:#?}");
    assert_eq!(account.instances_of(&run).len(), 1);

    let again = ran(&mut account.through(&[], &arguments)).good();
    assert!(again.contains(&image), "it says which image is there: {again}");
    // What was asked for of the image may be said again; nothing new is made.
    let makes = ["RunInstances", "ImportKeyPair", "CreateSecurityGroup", "CreateImage", "CopyImage"];
    let making = |call: &Value| changes(call) && makes.contains(&text(&call["action"]).as_str());
    assert!(!account.calls().iter().any(making), "the second build makes something: {:?}", account.calls());
    assert_eq!(account.things().len(), before.len() + 2);
    let listed = ran(&mut account.through(&[], &["images", "--region", account.region])).good();
    assert!(listed.contains(&image), "{listed}");

    let copies = east.images_of(&run);
    assert_eq!(copies.len(), 1, "{copies:?}");
    inspect(&text(&copies[0]["ImageId"]));

    assert_ne!(account.remove_image(&image, &[]).code, 0, "it is protected");
    account.remove_image(&image, &["--unprotect"]).good();
    assert_same(&before, &account.things());
    east.remove_image(&text(&copies[0]["ImageId"]), &["--unprotect"]).good();
}

/// Everything that was asked for is so.
fn published(account: &Account, image: &Value, manifest: &Path) {
    is_published(account, image);
    let id = text(&image["ImageId"]);
    assert_eq!(tag(image, "efa-gen:distribution"), "debian12");
    assert_eq!(text(&image["ImdsSupport"]), "v2.0");
    let snapshot = text(&image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]);
    let snapshots = account.call("describe_snapshots", &json!({"SnapshotIds": [snapshot]}));
    assert_eq!((tag(image, "team"), tag(&snapshots["Snapshots"][0], "team")), ("hpc".to_owned(), "hpc".to_owned()));
    let manifest: Value = serde_json::from_slice(&fs::read(manifest).expect("a manifest")).expect("JSON");
    let artifact = text(&manifest["builds"][0]["artifact_id"]);
    assert!(artifact.contains(&format!("us-west-2:{id}")) && artifact.contains("us-east-1:ami-"), "{manifest}");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_plan_shows_what_is_to_come_and_makes_nothing() {
    let [account] = Account::for_builds();
    let before = account.things();
    let said = ran(&mut account.build(&[], &["--plan"])).good();
    for words in ["RunInstances", "CreateImage", "c5.4xlarge", "$"] {
        assert!(said.contains(words), "does not say {words:?}:\n{said}");
    }
    let changing: Vec<Value> = account.calls().into_iter().filter(changes).collect();
    assert_eq!(changing, Vec::<Value>::new());
    let output = account.build(&[], &["--plan", "--output", "json"]).output().expect("it starts");
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout, talk on stderr");
    assert!(plan.is_object() || plan.is_array(), "{plan}");
    assert_same(&before, &account.things());
    assert_eq!(account.runs(), Vec::<String>::new(), "no run began");
}

/// What a build calls is what its plan says, neither more nor less.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_build_calls_what_its_plan_says() {
    let [account] = Account::for_builds();
    account.ready_image();
    let before = account.things();
    let output = account.short_build(&[], &["--plan", "--output", "json"]).output().expect("it starts");
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout, talk on stderr");
    let calls = rows[0]["preflight"]["calls"].as_array().cloned().unwrap_or_default();
    let calls: Vec<String> = calls.iter().map(|call| text(&call["call"])).collect();
    let planned: BTreeSet<&str> =
        calls.iter().filter_map(|call| call.strip_prefix("ec2:")?.split(", ").into()).flatten().collect();
    ran(&mut account.short_build(&[], &[])).good();
    let asked = |call: &Value| changes(call) || call["action"] == "GetConsoleOutput";
    let called: BTreeSet<String> =
        account.calls().iter().filter(|call| asked(call)).map(|call| text(&call["action"])).collect();
    assert_eq!(called.iter().map(String::as_str).collect::<BTreeSet<&str>>(), planned);
    account.published_then_removed(&account.runs().pop().expect("a run"), &before);
}

/// Refused with this exit code and these words, a hint, and nothing made.
#[track_caller]
fn refused(account: &Account, options: &[&str], more: &[&str], code: i32, words: &[&str]) {
    let said = ran(&mut account.build(options, more));
    check_refused(&said, code, words);
    let changing: Vec<Value> = account.calls().into_iter().filter(changes).collect();
    assert_eq!(changing, Vec::<Value>::new(), "{more:?}");
}

#[track_caller]
fn check_refused(said: &Ran, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{}", said.text);
    for word in words.iter().chain(&["hint:"]) {
        assert!(said.text.contains(word), "does not say {word:?}:\n{}", said.text);
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn bad_input_is_refused_before_anything_is_made() {
    let [account] = Account::for_builds();
    let (arm, taken) = (foreign_image(&account, "of-arm", "arm64"), foreign_image(&account, "not-ours", "x86_64"));
    let before = account.things();
    let subnet = |zone: &str| {
        let of_zone =
            json!({"Filters": [{"Name": "availability-zone", "Values": [format!("{}{zone}", account.region)]}]});
        text(&account.call("describe_subnets", &of_zone)["Subnets"][0]["SubnetId"])
    };
    let (first, long) = (subnet("a"), "n".repeat(129));
    let nowhere = "subnet-0123456789abcdef0";
    for (more, code, words) in [
        (vec!["--source-ami", arm.as_str()], 4, vec!["arm64", "x86_64"]),
        (vec!["--source-ami", "ami-0123456789abcdef0"], 4, vec!["no AMI ami-0123456789abcdef0"]),
        (vec!["--builder-type", "c7g.xlarge"], 4, vec!["c7g.xlarge", "arm64"]),
        (vec!["--builder-type", "p99.huge"], 4, vec!["p99.huge"]),
        (vec!["--builder-type", "p3dn.24xlarge", "--subnet", &first], 4, vec!["p3dn.24xlarge"]),
        (vec!["--subnet", nowhere], 4, vec![nowhere]),
        (vec!["--root-gib", "2"], 4, vec!["--root-gib 2 is too small"]),
        (vec!["--name", &long], 2, vec!["128"]),
        (vec!["--name", "a#b"], 2, vec!["a#b"]),
        (vec!["--name", "not-ours"], 4, vec!["not-ours is taken"]),
        (vec!["--share", "1111"], 2, vec!["1111"]),
        (vec!["--no-encrypt", "--share", "arn:aws:organizations::1:frob/o-1"], 2, vec!["frob"]),
        (vec!["--deprecate-at", "tomorrow"], 2, vec!["tomorrow"]),
        (vec!["--deprecate-at", "2001-01-01T00:00:00Z"], 2, vec!["2001"]),
        (vec!["--copy-to", account.region], 2, vec![account.region]),
        (vec!["--tag", "aws:team=x"], 2, vec!["aws:"]),
        (vec!["--ssh-cidr", "0.0.0.0/0"], 2, vec!["the whole Internet"]),
        (vec!["--ssh-cidr", "10.0.0.1"], 2, vec!["10.0.0.1"]),
        (vec!["--share", "111122223333"], 4, vec!["can't be shared", "--no-encrypt"]),
    ] {
        refused(&account, &[], &more, code, &words);
    }
    // All of them at once.
    let many = ["--tag", "frob", "--root-gib", "2", "--subnet", nowhere];
    refused(&account, &[], &many, 2, &["frob", "--root-gib 2", nowhere, "3 problems"]);
    for (refusal, words) in [
        ("GetCallerIdentity=ExpiredToken", "expired"),
        ("RunInstances?dry=UnauthorizedOperation", "UnauthorizedOperation"),
        ("RunInstances?dry=VcpuLimitExceeded", "quota"),
        ("CreateSecurityGroup?dry=SecurityGroupLimitExceeded", "limit"),
    ] {
        refused(&account, &["--refuse", refusal], &[], 10, &[words]);
    }
    check_refused(&ran(&mut account.resume(&[], "20260101-000000-abcd")), 2, &["20260101-000000-abcd"]);
    assert_same(&before, &account.things());
    assert_eq!(account.runs(), Vec::<String>::new(), "no run began");
    for image in [arm, taken] {
        account.call("deregister_image", &json!({"ImageId": image}));
    }
}

/// An image that no build has made.
fn foreign_image(account: &Account, name: &str, architecture: &str) -> String {
    let disk = json!([{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8}}]);
    let asked = json!({"Name": name, "Architecture": architecture, "RootDeviceName": "/dev/xvda", "EnaSupport": true,
                       "VirtualizationType": "hvm", "BlockDeviceMappings": disk});
    let image = text(&account.call("register_image", &asked)["ImageId"]);
    account.wait_for_image(&image);
    image
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_place_that_is_not_there_or_lacks_what_is_needed_is_told_at_once() {
    let account = Account::alone_in("eu-west-1");
    let nowhere = Account::shared("us-east-9").words(&["--ssh-cidr", "10.78.0.1/32"]);
    let started = std::time::Instant::now();
    check_refused(&ran(&mut account.efa_gen(&nowhere)), 10, &["region"]);
    assert!(started.elapsed().as_secs() < 60, "{} s", started.elapsed().as_secs());

    // Its first zone does not have the type, by AWS's own data.
    let of_zone = json!({"Filters": [{"Name": "availability-zone", "Values": ["eu-west-1a"]}]});
    let subnet = text(&account.call("describe_subnets", &of_zone)["Subnets"][0]["SubnetId"]);
    let there = ["--builder-type", "p3dn.24xlarge", "--subnet", &subnet];
    refused(&account, &[], &there, 4, &["eu-west-1a", "does not have p3dn.24xlarge", "eu-west-1b, eu-west-1c"]);

    let vpc = json!({"Filters": [{"Name": "is-default", "Values": ["true"]}]});
    let vpc = text(&account.call("describe_vpcs", &vpc)["Vpcs"][0]["VpcId"]);
    let of_vpc = json!({"Filters": [{"Name": "vpc-id", "Values": [vpc]}]});
    for subnet in account.call("describe_subnets", &of_vpc)["Subnets"].as_array().expect("subnets") {
        account.call("delete_subnet", &json!({"SubnetId": subnet["SubnetId"]}));
    }
    refused(&account, &[], &[], 4, &["no default VPC", "--subnet"]);
}
