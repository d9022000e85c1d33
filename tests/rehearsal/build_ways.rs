//! The ways of a build that are not the default: how the builder is reached, who drives it, what becomes of it when it
//! fails, and the gate before the image is published.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::account::{Account, tag};
use crate::machine::{Guest, Ran, assert_same, base_image, cloud, ec2, ran, steer, text, wait_for};
use crate::packer::{Packer, debians, todays};

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_host_key_comes_with_the_user_data() {
    let [account] = Account::for_builds();
    account.ready_image();
    let before = account.things();
    ran(&mut account.short_build(&[], &["--host-key", "inject", "--name", "injected"])).good();
    assert!(!account.calls().iter().any(|call| call["action"] == "GetConsoleOutput"), "the console is not asked");
    account.keeps_no_secret();
    let run = account.runs().pop().expect("a run");
    let image = text(&account.images_of(&run)[0]["ImageId"]);
    let copy = json!({"Name": "injected", "SourceImageId": image, "SourceRegion": account.region});
    let east = Account::shared("us-east-1");
    let copy = text(&east.call("copy_image", &copy)["ImageId"]);
    east.wait_for_image(&copy);
    let guest = Guest::launch(&copy, "");
    let said = guest.root("grep -c ' efa-gen$' /etc/ssh/ssh_host_ed25519_key.pub");
    assert_eq!(said.text.trim(), "0", "the injected host key is the builder's alone: {}", said.text);
    drop(guest);
    east.call("deregister_image", &json!({"ImageId": copy}));
    account.published_then_removed(&run, &before);
}

/// What sshd allows on a machine in FIPS mode: no Curve25519, no Ed25519, no ChaCha20 (NIST SP 800-52, SP 800-131A).
const FIPS: &[u8] = b"KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384,diffie-hellman-group14-sha256\n\
Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes256-ctr\n\
MACs hmac-sha2-256,hmac-sha2-512\n\
HostKeyAlgorithms ecdsa-sha2-nistp256,rsa-sha2-256,rsa-sha2-512\n\
PubkeyAcceptedAlgorithms ecdsa-sha2-nistp256,rsa-sha2-256,rsa-sha2-512\n";

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_builder_that_allows_fips_algorithms_alone_is_reached() {
    let [account] = Account::for_builds();
    let east = Account::shared("us-east-1");
    let guest = Guest::launch(&east.ready_image(), "");
    guest.write("/etc/ssh/sshd_config.d/fips.conf", "0600", FIPS);
    guest.root("sshd -t").good();
    guest.shut_down();
    let fips = guest.keep("rehearsal-fips");
    drop(guest);
    let base = account.copied("rehearsal-fips", &fips);
    let before = account.things();
    // EC2 has key pairs of RSA keys, and none of ECDSA ones: those go through the user-data.
    for (kind, has_pair) in [("ecdsa", false), ("rsa", true)] {
        let known = account.runs();
        ran(&mut account.build(&[], &["--source-ami", &base, "--key-type", kind, "--name", kind])).good();
        let imports = account.calls().iter().filter(|call| call["action"] == "ImportKeyPair").count();
        assert_eq!(imports > 0, has_pair, "{kind}");
        let run = account.runs().into_iter().find(|run| !known.contains(run)).expect("a run");
        account.published_then_removed(&run, &before);
    }
    account.keeps_no_secret();
    east.call("deregister_image", &json!({"ImageId": fips}));
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_connection_goes_through_session_manager() {
    let [account] = Account::for_builds();
    let base = account.ready_image();
    let before = account.things();
    let (profile, path) = account.session_manager();
    let manager = ["--session-manager", "--instance-profile", &profile, "--name", "by-session-manager"];
    let mut command = account.through(&[], &account.words(&[&["--source-ami", &base], &manager[..]].concat()));
    ran(command.env("PATH", path)).good();
    let opened = account.calls().iter().any(|call| call["action"] == "AuthorizeSecurityGroupIngress");
    assert!(!opened, "no port is opened");
    let run = account.runs().pop().expect("a run");
    account.published_then_removed(&run, &before);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_build_that_fails_is_kept_and_goes_on() {
    let [account] = Account::for_builds();
    account.ready_image();
    let before = account.things();
    let denied = ["--refuse", "CreateImage=UnauthorizedOperation"];
    let said = ran(&mut account.short_build(&denied, &["--on-error", "keep", "--name", "kept"]));
    let said = said.failed(10, &["everything is kept", "--resume", "log in with: ssh -i", "UnauthorizedOperation"]);
    let run = account.runs().pop().expect("a run");
    let states: Vec<String> = account.instances_of(&run).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["stopped"], "{said}");
    ran(&mut account.resume(&[], &run)).good();
    assert_eq!(account.instances_of(&run).len(), 1, "the same builder");
    account.published_then_removed(&run, &before);
    account.keeps_no_secret();
}

/// EC2 does not stop a one-time spot instance, but restarts it to make the image.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_spot_builder_becomes_an_image_without_being_stopped() {
    let [account] = Account::for_builds();
    account.ready_image();
    let before = account.things();
    let spot = ["--spot", "--name", "from-spot"];
    // Killed when the builder is sealed: nobody can log in to it any more, and it still runs.
    let said = ran(&mut account.short_build(&["--kill-before", "CreateImage"], &spot));
    assert_eq!(said.code, 137, "{}", said.text);
    let run = account.runs().pop().expect("a run");
    let states = || account.instances_of(&run).into_iter().map(|(_, state)| state).collect::<Vec<_>>();
    assert_eq!(states(), ["running"]);
    let of_run = json!({"Filters": [{"Name": "tag:efa-gen:run", "Values": [run]}]});
    let found = account.call("describe_instances", &of_run);
    assert_eq!(found["Reservations"][0]["Instances"][0]["InstanceLifecycle"], "spot");
    let first = account.calls();
    ran(&mut account.resume(&[], &run)).good();
    let calls = [first, account.calls()].concat();
    assert!(!calls.iter().any(|call| call["action"] == "StopInstances"), "it is not stopped");
    assert_eq!(account.instances_of(&run).len(), 1);
    let image = text(&account.images_of(&run)[0]["ImageId"]);
    let copy = json!({"Name": "from-spot", "SourceImageId": image, "SourceRegion": account.region});
    let east = Account::shared("us-east-1");
    let copy = text(&east.call("copy_image", &copy)["ImageId"]);
    east.wait_for_image(&copy);
    let guest = Guest::launch(&copy, "");
    guest.root("grep -q . /var/lib/efa-gen/complete").good();
    let said = guest.root("bash /var/lib/efa-gen/install.sh").good();
    assert!(said.contains("EFA-GEN COMPLETE"), "{said}");
    drop(guest);
    east.call("deregister_image", &json!({"ImageId": copy}));
    account.published_then_removed(&run, &before);
    account.keeps_no_secret();
}

/// Nobody is there to end it: it ends itself, through a reboot, and nothing of it stays.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_builder_that_is_left_alone_ends_itself() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock that is right");
    let deadline = i64::try_from(now.as_secs()).expect("a time") + 75;
    let user_data = efa_gen::guest::user_data::user_data(
        efa_gen::guest::user_data::UserDataTarget::Builder,
        "20260101-000000-abcd",
        deadline,
        600,
    )
    .expect("user-data");
    let launched = ec2(
        "run_instances",
        &json!({"ImageId": base_image(), "InstanceType": "c5.4xlarge", "MinCount": 1, "MaxCount": 1, "KeyName": "rehearsal",
                "UserData": user_data, "InstanceInitiatedShutdownBehavior": "terminate",
                "MetadataOptions": {"HttpTokens": "required"}}),
    );
    let id = text(&launched["Instances"][0]["InstanceId"]);
    let state = || {
        let found = ec2("describe_instances", &json!({"InstanceIds": [id]}));
        text(&found["Reservations"][0]["Instances"][0]["State"]["Name"])
    };
    wait_for("its host keys", 240, || {
        let console = fs::read(cloud().join("guests").join(&id).join("console")).unwrap_or_default();
        efa_gen::guest::console::host_keys(&String::from_utf8_lossy(&console), "20260101-000000-abcd")
    });
    ec2("reboot_instances", &json!({"InstanceIds": [id]}));
    std::thread::sleep(std::time::Duration::from_secs(15));
    assert_eq!(state(), "running", "not before its time");
    wait_for("its end", 240, || (state() == "terminated").then_some(()));
}

/// The same image, driven by a real Packer; what it can't do is done by efa-gen.
fn by_packer(packer: &Packer, account: &Account) {
    let ready = account.ready_image();
    let before = account.things();
    driven(packer, account, &ready).good();
    let run = account.runs().pop().expect("a run");
    let images = account.images_of(&run);
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(tag(&images[0], "efa-gen:state"), "published");
    assert!(text(&images[0]["DeregistrationProtection"]).starts_with("enabled"), "{}", images[0]);
    let image = text(&images[0]["ImageId"]);
    account.remove_image(&image, &["--unprotect"]).good();
    assert_same(&before, &account.things());
}

/// `efa-gen build`, driven by this Packer.
fn driven(packer: &Packer, account: &Account, ready: &str) -> Ran {
    let bin = account.file("bin");
    fs::create_dir_all(&bin).expect("a folder can be made");
    let _ = std::os::unix::fs::symlink(&packer.program, bin.join("packer"));
    let path = std::env::var("PATH").expect("a PATH");
    let driven = ["--source-ami", ready, "--ssh-cidr", "10.78.0.1/32", "--driver", "packer", "--protect"];
    let mut command = account.efa_gen(&account.words(&driven));
    command.env("PATH", format!("{}:{path}", bin.display())).env("CHECKPOINT_DISABLE", "1");
    ran(command.env("HOME", packer.home(&account.file("home"))))
}

/// Debian's Packer could log in, but says of itself what HashiCorp's of that version says, which could not.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_old_packer_is_refused_before_anything_is_made() {
    let account = Account::alone_in("eu-west-3");
    let ready = account.ready_image();
    let before = account.things();
    driven(&debians(), &account, &ready).failed(4, &["Packer 1.6 can't log in to Debian 12"]);
    assert_same(&before, &account.things());
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn todays_packer_drives_a_build() {
    by_packer(&todays(), &Account::alone_in("eu-north-1"));
}

/// The command lines of every process, until the command ends; and what it said.
fn watched(command: &mut Command) -> (Ran, String) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lines = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                let all = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
                let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
                seen.extend(lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")));
                std::thread::sleep(Duration::from_millis(200));
            }
            seen.into_iter().collect::<Vec<_>>().join("\n")
        });
        let said = ran(command);
        ended.store(true, Ordering::Relaxed);
        (said, lines.join().expect("they are read"))
    })
}

/// Also no secret is anywhere: not in what is said, as text or as events, in a command line, a tag, a log or a file.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn what_tells_why_is_fetched_before_the_builder_goes() {
    let [account] = Account::for_builds();
    let guest = Guest::launch(&Account::shared("us-east-1").ready_image(), "");
    let spoil = "cd /var/lib/efa-gen && rm complete done/check* && rm /opt/aws-ofi-nccl/lib/libnccl-net*";
    guest.root(spoil).good();
    guest.shut_down();
    let spoiled = account.copied("rehearsal-spoiled", &guest.keep("rehearsal-spoiled"));
    drop(guest);
    let before = account.things();
    let line = ["--source-ami", spoiled.as_str(), "--name", "spoiled", "--output", "json", "--tag", "team=hpc"];
    let (said, command_lines) = watched(&mut account.build(&[], &line));
    assert!(command_lines.contains("efa-gen build --distro debian12"), "{command_lines}");
    let said = said.failed(7, &["Check the plugin", "the machine's log is in", "its console is in"]);
    let run = account.runs().pop().expect("a run");
    let kept = |name: &str| fs::read_to_string(account.runs_folder().join(&run).join(name)).expect("it is kept");
    let (log, console) = (kept("install.log"), kept("console.log"));
    assert!(log.contains("FAILED in stage check") && console.contains("Cloud-init v."), "{log}\n{console}");
    let calls = account.calls();
    let last = |action: &str| calls.iter().rposition(|call| call["action"] == action && call["dry"] == false);
    assert!(last("GetConsoleOutput") < last("TerminateInstances"), "{calls:?}");
    assert_same(&before, &account.things());
    let tags = account.call("describe_tags", &json!({})).to_string();
    for (what, text) in
        [("said", &said), ("argv", &command_lines), ("log", &log), ("console", &console), ("tags", &tags)]
    {
        assert!(!text.contains("PRIVATE KEY"), "{what} holds a private key:\n{text}");
    }
    account.keeps_no_secret();
}

/// A type with one EFA device and one GPU.
const GATE: [&str; 2] = ["--gate", "g4dn.8xlarge"];
const SHARED: [&str; 3] = ["--no-encrypt", "--share", "111122223333"];

fn shared_with(account: &Account, image: &Value) -> Value {
    let asked = json!({"ImageId": image["ImageId"], "Attribute": "launchPermission"});
    account.call("describe_image_attribute", &asked)["LaunchPermissions"].clone()
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_image_that_passes_its_gate_is_published() {
    let account = Account::alone_in("me-south-1");
    account.ready_image();
    let before = account.things();
    // Without the machines for it nothing is known of the image: it waits, and nothing else does.
    let (place, kind) = (format!("place={}", account.region), format!("type={}", GATE[1]));
    let room = |count: &str| steer("room", &[&place, &kind, &format!("count={count}")]);
    room("1");
    let said = ran(&mut account.short_build(&[], &[&GATE[..], &SHARED].concat()));
    said.failed(10, &["is kept, untested: go on with --resume", "has no room"]);
    let left: Vec<String> = account.things().into_iter().filter(|thing| !before.contains(thing)).collect();
    let kinds: Vec<&str> = left.iter().filter_map(|thing| thing.split(' ').next()).collect();
    assert_eq!(kinds, ["Images", "Snapshots"], "{left:?}");
    let run = account.runs().pop().expect("a run");
    assert_eq!(shared_with(&account, &account.images_of(&run)[0]), json!([]));
    room("any");
    let said = ran(&mut account.resume(&[], &run)).good();
    assert!(said.contains("NCCL test: ") && said.contains("2 ranks on 2 hosts"), "{said}");
    let images = account.images_of(&run);
    assert_eq!(tag(&images[0], "efa-gen:verdict"), "passed");
    assert_eq!(shared_with(&account, &images[0]), json!([{"UserId": "111122223333"}]));
    assert_eq!(account.instances_of(&run).len(), 3, "a builder and two machines to test the image on");
    account.published_then_removed(&run, &before);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_image_that_fails_its_gate_is_tagged_and_shared_with_nobody() {
    let account = Account::alone_in("ap-northeast-3");
    let before = account.things();
    // Something in the image keeps the plugin from EFA.
    let script = account.file("no-efa.sh");
    fs::write(&script, "#!/bin/sh\necho tcp >/etc/efa-gen-scenario\n").expect("a file can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    let script = script.display().to_string();
    let more = [&["--extra-script", script.as_str(), "--ssh-cidr", "10.78.0.1/32"][..], &GATE, &SHARED].concat();
    let said = ran(&mut account.through(&[], &account.words(&more)));
    said.failed(7, &["did not pass its gate", "libfabric provider tcp instead of efa", "gate.check.log", "hint:"]);
    let run = account.runs().pop().expect("a run");
    let images = account.images_of(&run);
    assert_eq!(tag(&images[0], "efa-gen:verdict"), "failed");
    assert_ne!(tag(&images[0], "efa-gen:state"), "published");
    assert_eq!(shared_with(&account, &images[0]), json!([]));
    account.remove_image(&text(&images[0]["ImageId"]), &[]).good();
    assert_same(&before, &account.things());
}

/// Of two builds side by side one loses its machine. The other is not disturbed.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn two_side_by_side_end_each_for_itself() {
    let [account] = Account::for_builds();
    let before = account.things();
    let mut command = account.build(&[], &["--distro", "ubuntu24"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let of_ubuntu = json!({"Filters": [{"Name": "tag:efa-gen:distribution", "Values": ["ubuntu24"]}]});
    let builder = wait_for("the second builder", 240, || {
        let found = account.call("describe_instances", &of_ubuntu);
        found["Reservations"].get(0).map(|there| text(&there["Instances"][0]["InstanceId"]))
    });
    account.call("terminate_instances", &json!({"InstanceIds": [builder]}));
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(10), "{said}");
    let gone = format!("builder {builder} is terminated");
    for words in ["[debian12] run ", "[ubuntu24] run ", gone.as_str(), "not every image was built"] {
        assert!(said.contains(words), "does not say {words:?}:\n{said}");
    }
    let row = |name: &str| said.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
    assert!(row("debian12 ").contains("built") && row("debian12 ").contains("ami-"), "{said}");
    assert!(row("ubuntu24 ").contains("failed") && !row("ubuntu24 ").contains("ami-"), "{said}");
    let built: Vec<String> = account.runs().into_iter().filter(|run| !account.images_of(run).is_empty()).collect();
    assert_eq!((account.runs().len(), built.len()), (2, 1));
    account.published_then_removed(&built[0], &before);
}
