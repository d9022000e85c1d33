//! What `efa-gen build` does with a finished image, against a stub of AWS in which the run finds its image made. And which
//! flags that publish are refused before anything is made.
#![cfg(feature = "ec2")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::account::{Account, Entry};
use support::aws::{Answer, Params, Stub, done, refuse};
use support::http::{Reply, Server};
use support::pgp::{bytes, fingerprint};
use support::{Ran, command, scratch};
use tempfile::TempDir;

const IMAGE: &str = "ami-00000001";
const BASE: &str = "ami-0a0a0a0a";

/// An account, what goes wrong in it, and where builds run.
struct Stage {
    folder: TempDir,
    mirror: Server,
    account: Account,
    stub: Stub,
}

type Odd = dyn Fn(&Account, &str, &Params) -> Option<Answer> + Send + Sync;

impl Stage {
    fn new(odd: impl Fn(&Account, &str, &Params) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let folder = scratch();
        stack_file(folder.path());
        let mirror = Server::start(|asked| match asked.path.rsplit('/').next().unwrap_or_default() {
            "our-efa-1.50.0.tar.gz" => Reply::file(asked, &bytes("efa.tar.gz"), "\"one\""),
            "our-efa-1.50.0.tar.gz.sig" => Reply::new(200, &bytes("good.sig")),
            _ => Reply::new(200, &bytes("good.asc")),
        });
        let image = Entry {
            snapshots: vec!["snap-1".into()],
            imds_v2: true,
            ..Entry::new(IMAGE, "", "2025-01-01T00:00:00.000Z")
        };
        let tagged =
            |entry: Entry| entry.tag("efa-gen:state", "building").tag("efa-gen:plan", "abc").tag("team", "hpc");
        let account = Account::new([tagged(image), tagged(Entry::new("snap-1", "", "2025-01-01T00:00:00.000Z"))]);
        let (odd, answers, parameters): (Box<Odd>, _, _) = (Box::new(odd), account.clone(), Parameters::default());
        let stub = Stub::start(move |action, params| {
            let more = || preflight(action, params).or_else(|| parameters.answer(action, params));
            odd(&answers, action, params).or_else(more).unwrap_or_else(|| answer(&answers, action, params))
        });
        Stage { folder, mirror, account, stub }
    }

    fn good() -> Self {
        Stage::new(|_, _, _| None)
    }

    fn build(&self, more: &[&str]) -> Ran {
        let mut command =
            command(&["build", "--distro", "debian12", "--source-ami", BASE, "--stack-file", "stack.toml"]);
        self.stub.set(&mut command);
        command.args(["--mirror", &format!("{}/efa", self.mirror.url), "--ssh-cidr", "203.0.113.7/32"]).args(more);
        let output =
            command.current_dir(self.folder.path()).env("HOME", self.folder.path()).output().expect("it starts");
        let code = output.status.code().unwrap_or(-1);
        Ran { code, stdout: support::stdout(&output), stderr: support::stderr(&output) }
    }

    fn sweep(&self, more: &[&str]) -> Ran {
        let mut command = command(&["sweep", "--yes"]);
        self.stub.set(&mut command);
        let output = command.args(more).env("HOME", self.folder.path()).output().expect("it starts");
        let code = output.status.code().unwrap_or(-1);
        Ran { code, stdout: support::stdout(&output), stderr: support::stderr(&output) }
    }

    fn image(&self, id: &str) -> Entry {
        let entries = self.account.0.lock().expect("the account");
        entries.iter().find(|entry| entry.id == id).cloned().unwrap_or_else(|| panic!("no {id}"))
    }

    /// Position of a call in all calls.
    fn at(&self, action: &str) -> Option<usize> {
        self.stub.actions().iter().rposition(|name| name == action)
    }
}

/// A stack file whose EFA installer is the OpenPGP fixture.
fn stack_file(folder: &Path) {
    use sha2::Digest;
    let sha256: String = sha2::Sha256::digest(bytes("efa.tar.gz")).iter().map(|byte| format!("{byte:02x}")).collect();
    let url = "https://downloads.example/our-efa-1.50.0.tar.gz";
    let signer = format!("fingerprint = \"{}\", key = \"https://keys.example/team.asc\"", fingerprint("good"));
    let download = format!("url = \"{url}\", sha256 = \"{sha256}\", published = \"us\"");
    let text = format!("[[efa]]\nversion = \"1.50.0\"\ndownload = {{ {download} }}\nsigner = {{ {signer} }}\n");
    fs::write(folder.join("stack.toml"), text).expect("a file");
}

/// Everything that a build asks before it looks for its own image.
fn preflight(action: &str, params: &Params) -> Option<Answer> {
    let get = |name: &str| params.get(name).map(String::as_str).unwrap_or_default();
    if get("DryRun") == "true" {
        return Some(refuse("DryRunOperation", "Request would have succeeded."));
    }
    let body = match action {
        "GetCallerIdentity" => {
            "<GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/u</Arn><Account>111122223333</Account></GetCallerIdentityResult>"
        }
        "GetServiceQuota" => return Some((400, r#"{"__type": "AccessDeniedException"}"#.into())),
        "DescribeInstanceTypes" => {
            "<instanceTypeSet><item><instanceType>c5.4xlarge</instanceType><hypervisor>nitro</hypervisor><vCpuInfo><defaultVCpus>16</defaultVCpus></vCpuInfo><processorInfo><supportedArchitectures><item>x86_64</item></supportedArchitectures></processorInfo></item></instanceTypeSet>"
        }
        "DescribeInstanceTypeOfferings" => {
            "<instanceTypeOfferingSet><item><location>us-east-1b</location></item></instanceTypeOfferingSet>"
        }
        "DescribeSubnets" => {
            "<subnetSet><item><subnetId>subnet-0</subnetId><vpcId>vpc-0</vpcId><availabilityZone>us-east-1b</availabilityZone><availableIpAddressCount>9</availableIpAddressCount></item></subnetSet>"
        }
        "DescribeRouteTables" => {
            "<routeTableSet><item><routeSet><item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><gatewayId>igw-0</gatewayId></item></routeSet></item></routeTableSet>"
        }
        "DescribeImages" if get("ImageId.1") == BASE => {
            "<imagesSet><item><imageId>ami-0a0a0a0a</imageId><name>base</name><imageState>available</imageState><architecture>x86_64</architecture><enaSupport>true</enaSupport><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><snapshotId>snap-0</snapshotId><volumeSize>8</volumeSize></ebs></item></blockDeviceMapping></item></imagesSet>"
        }
        _ => return None,
    };
    Some(done(action, body))
}

/// Parameter Store.
#[derive(Default)]
struct Parameters(Mutex<std::collections::BTreeMap<String, String>>);

impl Parameters {
    fn answer(&self, action: &str, params: &Params) -> Option<Answer> {
        let key = format!("{} {}", params["Region"], params.get("Name").map(String::as_str).unwrap_or_default());
        let mut all = self.0.lock().expect("the parameters");
        match (action, all.get(&key)) {
            ("GetParameter", Some(value)) => Some((200, format!(r#"{{"Parameter": {{"Value": "{value}"}}}}"#))),
            ("GetParameter", None) => Some((400, r#"{"__type": "ParameterNotFound", "message": "no"}"#.into())),
            ("PutParameter", _) => {
                all.insert(key, params["Value"].clone());
                Some((200, r#"{"Version": 1}"#.into()))
            }
            _ => None,
        }
    }
}

/// The account, in which the run that asks is always the one that made the image; and copies.
fn answer(account: &Account, action: &str, params: &Params) -> Answer {
    let get = |name: &str| params.get(name).cloned().unwrap_or_default();
    let mut entries = account.0.lock().expect("the account");
    if get("Filter.1.Name") == "tag:efa-gen:run" {
        let runs = entries.iter_mut().filter_map(|entry| entry.tags.get_mut("efa-gen:run"));
        runs.filter(|run| run.is_empty()).for_each(|run| *run = get("Filter.1.Value.1"));
    }
    if action == "CopyImage" {
        let region = get("Region");
        let source = entries.iter().find(|entry| entry.id == get("SourceImageId")).cloned().expect("the source");
        let snapshot = format!("snap-{}", region.replace('-', ""));
        let id = format!("ami-{}", region.replace('-', ""));
        let mut copy = Entry { id: id.clone(), region, snapshots: vec![snapshot.clone()], imds_v2: false, ..source };
        // A tag that was lost on the way.
        copy.tags.remove("team");
        entries.push(Entry { tags: Params::new(), id: snapshot, ..copy.clone() });
        entries.push(copy);
        return done(action, &format!("<imageId>{id}</imageId>"));
    }
    drop(entries);
    account.answer(action, params)
}

#[track_caller]
fn assert_ran(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    for text in says {
        assert!(ran.stderr.contains(text), "does not say {text:?}:\n{}", ran.stderr);
    }
}

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
    let folder = stage.folder.path().join(".local/state/efa-gen/runs").join(&run);
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
    assert_eq!(stage.at("CreateTags"), None);
}
