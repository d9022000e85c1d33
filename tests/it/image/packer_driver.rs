//! `efa-gen build --driver packer`, with a Packer that only notes how it was called, and an AWS of a few fixed answers. Real
//! Packers are in the rehearsal.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::aws::{Answer, Params, Stub, done, is_dry, refuse};
use crate::support::hostile::{FLOOD, HOSTILE, MEMORY, assert_harmless, watched};
use crate::support::http::{Reply, Server};
use crate::support::pgp::{bytes, fingerprint};
use crate::support::{Ran, command, names, scratch};
use serde_json::Value;
use tempfile::TempDir;

/// Notes how it was called; `build` runs the file `build`.
const PACKER: &str = r#"#!/bin/sh
echo "$*" >>"$FAKE/argv"
case $1 in
  version) cat "$FAKE/version" ;;
  init) [ ! -e "$FAKE/offline" ] || { echo "Failed getting the plugin: no route" >&2; exit 1; } ;;
  build) env >"$FAKE/env" && cp -R . "$FAKE/given" && . "$FAKE/build" ;;
esac
"#;

/// What a good build does.
const GOOD: &str = r#"echo "==> amazon-ebs.image: Stopping the source instance..."
echo '{"builds": [{"artifact_id": "us-east-1:ami-00000000000000001"}, {"artifact_id": "eu-west-1:ami-00000000000000009,us-east-1:ami-0b0b0b0b0b0b0b0b0"}]}' >manifest.json
touch "$FAKE/made"
"#;

const BASE: &str = "ami-0a0a0a0a0a0a0a0a0";
const BUILT: &str = "ami-0b0b0b0b0b0b0b0b0";

/// A folder with the fake Packer, the AWS that it speaks of, and the mirror of the EFA installer.
struct Stage {
    folder: TempDir,
    /// One that the Packer can log in to.
    distribution: &'static str,
    aws: Stub,
    mirror: Server,
}

impl Stage {
    fn new(version: &str, build: &str) -> Self {
        let folder = scratch();
        let fake = folder.path().join("fake");
        fs::create_dir_all(fake.join("bin")).expect("a folder");
        let program = fake.join("bin/packer");
        fs::write(&program, PACKER).expect("a file");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(fake.join("version"), version).expect("a file");
        fs::write(fake.join("build"), build).expect("a file");
        stack_file(folder.path());
        let tags = Arc::new(Mutex::new(BTreeMap::new()));
        let aws = Stub::start(move |call, params| answer(call, params, &fake, &tags));
        let mirror = Server::start(|asked| match asked.path.rsplit('/').next().unwrap_or_default() {
            name if name.starts_with("our-efa-") && name.ends_with(".gz") => {
                Reply::file(asked, &bytes("efa.tar.gz"), "\"one\"")
            }
            name if name.starts_with("our-efa-") => Reply::new(200, &bytes("good.sig")),
            _ => Reply::new(200, &bytes("good.asc")),
        });
        let distribution = if version.contains(" v1.6.") { "al2" } else { "debian12" };
        Stage { folder, distribution, aws, mirror }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The binary with the fake Packer and AWS; no arguments yet.
    fn binary(&self) -> Command {
        let mut command = command(&[]);
        let path = std::env::var("PATH").expect("a PATH");
        command.current_dir(self.folder.path());
        command.env("PATH", format!("{}:{path}", self.path("fake/bin").display()));
        command.env("FAKE", self.path("fake")).env("HOME", self.folder.path()).env("PKR_VAR_share_accounts", "[\"1\"]");
        self.aws.set(&mut command);
        command.env("AWS_SECRET_ACCESS_KEY", "a-secret");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.binary();
        command.args(["build", "--distro", self.distribution, "--stack", "newest"]);
        command.args(["--driver", "packer", "--source-ami", BASE]);
        command.args(["--stack-file", "stack.toml", "--mirror", &format!("{}/efa", self.mirror.url)]);
        command.args(["--ssh-cidr", "203.0.113.7/32"]).args(more);
        command
    }

    fn run(&self, more: &[&str]) -> Ran {
        ended(self.command(more).spawn().expect("the binary starts"))
    }

    /// Starts it, and waits until the fake Packer builds.
    fn begin(&self) -> Child {
        let child = self.command(&[]).spawn().expect("the binary starts");
        let end = Instant::now() + Duration::from_secs(60);
        while !self.path("fake/building").exists() {
            assert!(Instant::now() < end, "Packer was not started");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A stack file whose EFA installers, those of the distributions' newest stacks, are the OpenPGP fixture.
fn stack_file(folder: &Path) {
    use sha2::Digest;
    let sha256: String = sha2::Sha256::digest(bytes("efa.tar.gz")).iter().map(|byte| format!("{byte:02x}")).collect();
    let signer = format!("fingerprint = \"{}\", key = \"https://keys.example/team.asc\"", fingerprint("good"));
    let one = |version: &str| {
        let url = format!("https://downloads.example/our-efa-{version}.tar.gz");
        format!(
            "[[efa]]\nversion = \"{version}\"\ndownload = {{ url = \"{url}\", sha256 = \"{sha256}\", published = \"us\" }}\nsigner = {{ {signer} }}\n"
        )
    };
    fs::write(folder.join("stack.toml"), one("1.49.0") + &one("1.50.0")).expect("a file");
}

type Tags = Mutex<BTreeMap<String, String>>;

/// AWS, as far as it is asked here. Before the fake Packer has built there is no image.
fn answer(call: &str, params: &Params, fake: &Path, tags: &Tags) -> Answer {
    if is_dry(params) {
        return refuse("DryRunOperation", "it would have succeeded");
    }
    let get = |name: String| params.get(&name).cloned();
    let public = fake.join("public").exists();
    let subnet = |zone: &str| {
        format!(
            "<item><subnetId>subnet-0{zone}</subnetId><vpcId>vpc-0</vpcId><availabilityZone>us-east-1{zone}</availabilityZone>\
             <availableIpAddressCount>9</availableIpAddressCount><mapPublicIpOnLaunch>{public}</mapPublicIpOnLaunch></item>"
        )
    };
    let inner = match call {
        "GetServiceQuota" => return (400, r#"{"__type": "AccessDeniedException"}"#.to_owned()),
        "GetCallerIdentity" => "<GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/u</Arn>\
            <Account>123456789012</Account></GetCallerIdentityResult>"
            .to_owned(),
        "DescribeInstanceTypes" => "<instanceTypeSet><item><instanceType>c5.4xlarge</instanceType>\
            <hypervisor>nitro</hypervisor><vCpuInfo><defaultVCpus>16</defaultVCpus></vCpuInfo>\
            <processorInfo><supportedArchitectures><item>x86_64</item></supportedArchitectures></processorInfo>\
            <supportedUsageClasses><item>on-demand</item><item>spot</item></supportedUsageClasses></item></instanceTypeSet>"
            .to_owned(),
        "DescribeInstanceTypeOfferings" => {
            "<instanceTypeOfferingSet><item><location>us-east-1b</location></item></instanceTypeOfferingSet>".to_owned()
        }
        "DescribeSubnets" => format!("<subnetSet>{}{}</subnetSet>", subnet("a"), subnet("b")),
        "DescribeRouteTables" => "<routeTableSet><item><routeSet><item>\
            <destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><gatewayId>igw-0</gatewayId></item></routeSet></item></routeTableSet>"
            .to_owned(),
        "DescribeImageAttribute" => {
            "<launchPermission><item><userId>210987654321</userId></item></launchPermission>".to_owned()
        }
        "DescribeImages" => images(params, fake, tags),
        "CreateTags" => {
            let pair = |n: u32| Some((get(format!("Tag.{n}.Key"))?, get(format!("Tag.{n}.Value"))?));
            tags.lock().expect("the tags").extend((1..).map_while(pair));
            String::new()
        }
        _ => "<return>true</return>".to_owned(),
    };
    done(call, &inner)
}

fn images(params: &Params, fake: &Path, tags: &Tags) -> String {
    let asked = ["ImageId.1", "Filter.1.Name"].iter().find_map(|name| params.get(*name)).map_or("", String::as_str);
    let image = |id: &str, name: &str, tags: &str| {
        format!(
            "<imagesSet><item><imageId>{id}</imageId><name>{name}</name><imageState>available</imageState>\
             <architecture>x86_64</architecture><enaSupport>true</enaSupport><imdsSupport>v2.0</imdsSupport>\
             <rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/xvda</deviceName>\
             <ebs><snapshotId>snap-0</snapshotId><volumeSize>8</volumeSize></ebs></item></blockDeviceMapping>\
             <tagSet>{tags}</tagSet></item></imagesSet>"
        )
    };
    if asked == BASE {
        return image(BASE, "base", "");
    }
    if !fake.join("made").exists() || (asked != BUILT && asked != "tag:efa-gen:run") {
        return "<imagesSet/>".to_owned();
    }
    // What Packer would have tagged it with.
    let text = fs::read_to_string(fake.join("given/efa-gen.pkrvars.json")).expect("the variables");
    let given: Value = serde_json::from_str(&text).expect("JSON");
    let mut all: BTreeMap<String, String> = serde_json::from_value(given["more_tags"].clone()).expect("tags");
    all.insert("efa-gen:run".into(), given["run"].as_str().unwrap_or_default().into());
    all.extend(tags.lock().expect("the tags").clone());
    let item = |(key, value): (&String, &String)| format!("<item><key>{key}</key><value>{value}</value></item>");
    let name = given["ami_name"].as_str().unwrap_or_default();
    image(BUILT, name, &all.iter().map(item).collect::<String>())
}

#[test]
fn packer_makes_the_image_and_efa_gen_publishes_it() {
    for (version, newest) in [("Packer v1.6.6\n", false), ("Packer v1.16.0-dev (abc)\n\nYour version is old\n", true)] {
        let stage = Stage::new(version, GOOD);
        let flags =
            ["--output", "json", "--tag", "team=a {{b}} ${c}", "--root-gib", "99", "--spot", "--share", "210987654321"];
        // A named profile wins over the environment.
        fs::create_dir(stage.path(".aws")).expect("a folder");
        let work = "[work]\naws_access_key_id = other\naws_secret_access_key = another\n";
        fs::write(stage.path(".aws/credentials"), work).expect("a file");
        let ran = stage.run(&[&flags[..], &["--name", "my image", "--no-encrypt", "--profile", "work"]].concat());
        assert_eq!(ran.code, 0, "{version}: {}", ran.stderr);
        let row: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(row[0]["images"][0]["image"], BUILT, "{}", ran.stdout);

        let calls = if newest { "version\nversion\ninit .\n" } else { "version\nversion\n" };
        let calls = format!("{calls}build -color=false -var-file=efa-gen.pkrvars.json .\n");
        assert_eq!(stage.read("fake/argv"), calls);
        let environment = stage.read("fake/env");
        assert!(!environment.contains("PKR_VAR_"), "{environment}");
        assert!(environment.contains("\nAWS_PROFILE=work\n"), "{environment}");
        assert!(
            !environment.contains("AWS_SECRET_ACCESS_KEY="),
            "the profile's credentials are Packer's to find: {environment}"
        );

        let template = stage.read("fake/given/image.pkr.hcl");
        assert_eq!(template.contains("required_version = \">= 1.7.0\""), newest);
        assert_eq!(stage.path("fake/given/plugins.pkr.hcl").exists(), newest);
        assert!(stage.read("fake/given/builder-user-data").contains("shutdown -h now"));
        let given: Value = serde_json::from_str(&stage.read("fake/given/efa-gen.pkrvars.json")).expect("JSON");
        for variable in given.as_object().expect("an object").keys() {
            assert!(template.contains(&format!("variable \"{variable}\"")), "the template has no {variable}");
        }
        let texts =
            [("source_ami", BASE), ("subnet_id", "subnet-0b"), ("spot_price", "auto"), ("ami_name", "my image")];
        for (name, value) in texts {
            assert_eq!(given[name], value, "{name}");
        }
        assert_eq!(given["root_gib"], 99);
        assert_eq!(given["encrypt"], false);
        assert_eq!(given["ssh_cidrs"][0], "203.0.113.7/32");
        assert_eq!(given["associate_public_ip_address"], true);
        assert_eq!(given["key_pair_type"], if newest { "ed25519".into() } else { Value::Null });
        assert_eq!(ran.stderr.contains("this Packer can't require IMDSv2"), !newest, "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("this Packer's login key is RSA"), !newest, "{}", ran.stderr);
        assert_eq!(given["more_tags"]["team"], "a {{\"{{\"}}b}} ${c}", "Go's templates find nothing in it");
        assert!(ran.stderr.contains("Stopping the source instance"), "Packer's lines are told: {}", ran.stderr);
        assert!(!format!("{given}{}{}", ran.stderr, stage.read("fake/argv")).contains("a-secret"));

        assert_eq!(stage.aws.calls("ModifyImageAttribute").len(), 1, "efa-gen shares it");
        for packers in ["RunInstances", "CreateImage", "DeregisterImage"] {
            let real = stage.aws.calls(packers).iter().any(|params| params.get("DryRun").is_none());
            assert!(!real, "{packers} is not efa-gen's here");
        }
    }
}

#[test]
fn the_flags_on_the_way_to_the_builder_reach_packer() {
    let given = |version: &str, more: &[&str]| -> Value {
        let stage = Stage::new(version, GOOD);
        let ran = stage.run(more);
        assert_eq!(ran.code, 0, "{version}: {}", ran.stderr);
        serde_json::from_str(&stage.read("fake/given/efa-gen.pkrvars.json")).expect("JSON")
    };
    for version in ["Packer v1.6.6", "Packer v1.16.0"] {
        let private = given(version, &["--private", "--key-type", "rsa"]);
        assert_eq!(private["ssh_interface"], "private_ip");
        assert_eq!(private["associate_public_ip_address"], false);
        assert_eq!(private["key_pair_type"], if version.contains("1.16") { "rsa".into() } else { Value::Null });
    }
}

#[test]
fn a_failed_build_says_why_in_packers_own_words() {
    let errored = "echo \"==> amazon-ebs.image: step 3\"; echo \"Build 'amazon-ebs.image' errored after 3 minutes 2 seconds: REASON\" >&2; exit 1";
    let cases = [
        ("Script exited with non-zero exit status: 6. Allowed exit codes are: [0]", 6),
        ("Error launching source instance: UnauthorizedOperation: no", 10),
    ];
    for (reason, code) in cases {
        let stage = Stage::new("Packer v1.16.0", &errored.replace("REASON", reason));
        let ran = stage.run(&[]);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("error: packer build failed: {reason}")), "{}", ran.stderr);
        assert!(ran.stderr.contains("the last that it said:\n    | ==> amazon-ebs.image: step 3"), "{}", ran.stderr);
    }
}

#[test]
fn packers_lines_do_nothing_to_a_terminal_and_take_no_memory() {
    let errored =
        "echo \"Build 'x' errored after 3 minutes: Script exited with non-zero exit status $(cat \"$FAKE/hostile\")\"";
    for build in [&format!("{errored}; exit 1"), "cat \"$FAKE/hostile\"; cat \"$FAKE/hostile\" >&2; exit 1"] {
        let stage = Stage::new("Packer v1.16.0", build);
        fs::write(stage.path("fake/hostile"), HOSTILE).expect("a file");
        let ran = stage.run(&[]);
        assert!(ran.code == 6 || ran.code == 10, "{}", ran.stderr);
        assert!(ran.stderr.matches("]52;c;b3duZWQ=").count() >= 2, "as it comes and by the error: {}", ran.stderr);
        assert_harmless(&ran.stderr);
        let runs = fs::read_dir(stage.path(".local/state/efa-gen/runs")).expect("runs");
        let logs: Vec<String> = runs
            .map(|run| fs::read_to_string(run.expect("a run").path().join("build.log")).expect("its log"))
            .collect();
        assert!(logs.len() == 1 && logs[0].contains("]52;c;b3duZWQ="), "{logs:?}");
        assert_harmless(&logs[0]);
    }
    let stage = Stage::new(HOSTILE, GOOD);
    let ran = stage.run(&[]);
    assert!(ran.stderr.contains("`packer version` did not say which one it is"), "{}", ran.stderr);
    assert_harmless(&ran.stderr);
    let stage = Stage::new("Packer v1.16.0", &format!("{FLOOD}; echo; {FLOOD} >&2; echo the end >&2; exit 1"));
    let (code, said, memory) = watched(&mut stage.command(&[]), stage.folder.path());
    assert_eq!(code, Some(10), "{}", &said[said.len().saturating_sub(999)..]);
    assert!(said.matches("more bytes in this line]").count() >= 2, "{} bytes", said.len());
    assert!(memory < MEMORY, "{memory} KiB");
    let error = &said[said.find("error: ").expect("an error")..];
    assert!(error.len() < 6_000, "{} bytes: {error}", error.len());
}

#[test]
fn a_plugin_that_can_not_be_had_and_a_manifest_without_the_region_are_told() {
    let stage = Stage::new("Packer v1.16.0", GOOD);
    fs::write(stage.path("fake/offline"), "").expect("a file");
    let ran = stage.run(&[]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("packer init failed") && ran.stderr.contains("plugins install"), "{}", ran.stderr);
    assert!(!stage.read("fake/argv").contains("build"), "nothing is built without it");

    let stage =
        Stage::new("Packer v1.6.6", "echo '{\"builds\": [{\"artifact_id\": \"eu-west-1:ami-1\"}]}' >manifest.json");
    let ran = stage.run(&[]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    assert!(ran.stderr.contains("manifest.json names no image of us-east-1"), "{}", ran.stderr);
}

#[test]
fn what_packer_can_not_do_is_refused_before_anything_is_made() {
    let inject = ["--host-key", "inject", "--on-error", "keep", "--ssh-cidr", "2001:db8::7/128"];
    let cases: [(&str, &[&str], i32, &[&str]); 5] = [
        ("Packer v1.6.6", &inject, 2, &["--host-key inject", "--on-error keep", "2001:db8::7/128: Packer 1.6.6 takes"]),
        ("Packer v1.16.0", &["--on-error", "ask"], 2, &["--on-error ask does not go"]),
        ("Packer v1.6.5", &[], 4, &["Packer 1.6.5 is too old", "1.6.6 or newer"]),
        ("Packer v0.12.0", &[], 4, &["Packer 0.12.0 is too old"]),
        ("skipping line: 1", &[], 5, &["but \"skipping line: 1\"", "cracklib"]),
    ];
    for (version, more, code, words) in cases {
        let stage = Stage::new(version, GOOD);
        let ran = stage.run(more);
        assert_eq!(ran.code, code, "{version}: {}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "{version}: no {word:?} in {}", ran.stderr);
        }
        assert_eq!(stage.read("fake/argv"), "version\n", "{version}");
    }
}

#[test]
fn an_old_packer_is_not_taken_where_it_would_fail_later() {
    let refused = |change: &dyn Fn(&mut Stage), more: &[&str], code: i32, words: &[&str]| {
        let mut stage = Stage::new("Packer v1.6.6", GOOD);
        change(&mut stage);
        let ran = stage.run(more);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "no {word:?} in {}", ran.stderr);
        }
        assert_eq!(stage.read("fake/argv"), "version\n", "nothing is built");
    };
    let other = |distribution: &'static str| move |stage: &mut Stage| stage.distribution = distribution;
    refused(&other("debian12"), &[], 4, &["Packer 1.6 can't log in to Debian 12", "OpenSSH 8.8", "1.7 or newer"]);
    refused(&other("ubuntu24"), &[], 4, &["Packer 1.6 can't log in to Ubuntu 24.04", "this one is 9.6"]);
    let as_it_is = |_: &mut Stage| {};
    refused(&as_it_is, &["--key-type", "ed25519"], 2, &["--key-type ed25519: Packer 1.6.6 makes RSA keys alone"]);
    refused(&as_it_is, &["--key-type", "ecdsa"], 2, &["--key-type ecdsa does not go with --driver packer"]);
    let public = |stage: &mut Stage| fs::write(stage.path("fake/public"), "").expect("a file");
    let words = ["--private: subnet subnet-0b gives public addresses, and Packer 1.6.6 can't do without"];
    refused(&public, &["--private"], 4, &words);

    // A newer one tells EC2 what the builder is to have.
    let mut stage = Stage::new("Packer v1.16.0", GOOD);
    public(&mut stage);
    let ran = stage.run(&["--private"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(stage.read("fake/given/efa-gen.pkrvars.json").contains("\"associate_public_ip_address\": false"));
}

#[test]
fn without_packer_there_is_a_hint() {
    let stage = Stage::new("", GOOD);
    let mut command = stage.command(&[]);
    command.env("PATH", "/nonexistent");
    let ran = ended(command.spawn().expect("the binary starts"));
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no `packer` on the PATH"), "{}", ran.stderr);
    assert!(ran.stderr.contains("leave out --driver packer"), "{}", ran.stderr);
}

/// Waits to be interrupted, and counts how often it is.
const PATIENT: &str = r#"trap 'echo INT >>"$FAKE/signals"; echo cleaning; CLEAN' INT
echo $$ >"$FAKE/building.new" && mv "$FAKE/building.new" "$FAKE/building"
while :; do sleep 0.1; done
"#;

fn tell(child: &Child) {
    let told = Command::new("sh").args(["-c", "kill -s INT \"$1\"", "sh", &child.id().to_string()]).status();
    assert!(told.expect("a shell").success());
}

#[test]
fn an_interrupt_is_passed_on_once_and_waited_for() {
    let stage = Stage::new("Packer v1.16.0", &PATIENT.replace("CLEAN", "sleep 1; touch \"$FAKE/clean\"; exit 1"));
    let child = stage.begin();
    tell(&child);
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert_eq!(stage.read("fake/signals"), "INT\n");
    assert!(stage.path("fake/clean").exists(), "it was waited for");
    assert!(ran.stderr.contains("cleaning"), "what it says then is told, too: {}", ran.stderr);
}

#[test]
fn a_second_interrupt_ends_packer_at_once() {
    let stage = Stage::new("Packer v1.16.0", &PATIENT.replace("CLEAN", "sleep 60"));
    let (child, began) = (stage.begin(), Instant::now());
    tell(&child);
    while !stage.path("fake/signals").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    tell(&child);
    let ran = ended(child);
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}

#[test]
fn a_plan_tells_time_and_cost_and_how_they_were_come_by() {
    let stage = Stage::new("Packer v1.16.0", GOOD);
    let estimate = |more: &[&str]| {
        let ran = stage.run(&[&["--plan", "--output", "json"], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let row: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        row[0]["preflight"]["estimate"].clone()
    };
    let minutes = |estimate: &Value, end: usize| estimate["minutes"][end].as_u64().expect("minutes");
    let every = estimate(&[]);
    assert!(minutes(&every, 0) < minutes(&every, 1), "{every}");
    assert!(every["dollars"].as_f64().is_some_and(|dollars| dollars > 0.1 && dollars < 5.0), "{every}");
    for words in ["us-east-1", "2026-07-20", "8 GPU architectures on 16 vCPUs", "nothing was timed on AWS"] {
        assert!(every["basis"].as_str().is_some_and(|basis| basis.contains(words)), "{words}: {every}");
    }
    let one = estimate(&["--instance-type", "p5.48xlarge"]);
    assert!(minutes(&one, 1) < minutes(&every, 1), "one architecture takes less: {one}");
    let none = estimate(&["--no-gpu"]);
    assert!(none["basis"].as_str().is_some_and(|basis| basis.starts_with("Nothing is compiled for GPUs")), "{none}");
    assert!(!stage.path("fake/given").exists(), "nothing was built");
}

#[test]
fn after_a_crash_only_an_image_that_is_there_goes_on() {
    for made in [false, true] {
        let stage = Stage::new("Packer v1.16.0", &PATIENT.replace("CLEAN", "exit 1"));
        let mut child = stage.begin();
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let packer = stage.read("fake/building");
        let killed = Command::new("sh").args(["-c", "kill -s KILL \"$1\"", "sh", packer.trim()]).status();
        assert!(killed.expect("a shell").success());
        if made {
            fs::write(stage.path("fake/made"), "").expect("a file");
        }
        let runs = names(&stage.path(".local/state/efa-gen/runs"));
        let ran = ended(stage.binary().args(["build", "--resume", &runs[0]]).spawn().expect("the binary starts"));
        if made {
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            assert!(ran.stdout.contains(BUILT), "{}", ran.stdout);
        } else {
            assert_eq!(ran.code, 2, "{}", ran.stderr);
            assert!(ran.stderr.contains("ended before Packer had made its image"), "{}", ran.stderr);
            assert!(ran.stderr.contains(&format!("efa-gen sweep --run {}", runs[0])), "{}", ran.stderr);
        }
        assert_eq!(stage.read("fake/argv").matches("build").count(), 1, "Packer is not started again");
    }
}
