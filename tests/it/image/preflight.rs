//! What a build or a launch finds out before it makes anything, and that one problem hides no other. Against a stub of AWS.

use crate::support::account::Entry;
use std::collections::BTreeSet;

use crate::support::aws::{Params, done, is_dry, refuse};
use crate::support::builds::{BASE, BASE_IMAGE, EFA, LARGE, Stage, assert_ran, machines, odd_machines, type_with};
use crate::support::stderr;

/// The way out leads to a gateway that has been deleted.
const NOWHERE: &str = "<routeTableSet><item><routeSet><item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock>\
    <natGatewayId>nat-0</natGatewayId><state>blackhole</state></item></routeSet></item></routeTableSet>";

/// An account without P3, without one AMI and without a way out, in which a name is taken and G4 has another processor.
fn poor() -> Stage {
    let given = |params: &Params, name: &str, value: &str| params.get(name).is_some_and(|given| given == value);
    let stage = Stage::new(move |_, action, params| {
        let none = match action {
            "DescribeInstanceTypes" if given(params, "Filter.1.Value.1", "p3dn.24xlarge") => {
                "<instanceTypeSet/>".into()
            }
            "DescribeInstanceTypes" if given(params, "Filter.1.Value.1", "g4dn.8xlarge") => {
                type_with(EFA).replace("x86_64", "arm64")
            }
            "DescribeImages" if given(params, "ImageId.1", "ami-00000404") => "<imagesSet/>".into(),
            "DescribeRouteTables" => NOWHERE.into(),
            _ => return None,
        };
        Some(done(action, &none))
    });
    let taken = Entry { name: "mine".into(), ..Entry::new("ami-00000077", "x", "") };
    stage.account.0.lock().expect("the account").push(taken);
    stage
}

const NO_TYPE: &str = "us-east-1 does not offer p3dn.24xlarge";
const NO_AMI: &str = "the region us-east-1 has no AMI ami-00000404 that this account may see";
const NO_WAY: &str = "subnet subnet-0 has no route to the Internet";

#[test]
fn a_build_is_told_everything_at_once() {
    let stage = poor();
    let plan = ["build", "--distro", "debian12", "--plan", "--ssh-cidr", "203.0.113.7/32"];
    let wrong = ["--name", "mine", "--root-gib", "8", "--gate", "c5.4xlarge"];
    let run = |more: &[&str]| stage.run(&[&plan[..], &wrong, more].concat());
    let no_gpu = "--gate c5.4xlarge has no GPU";
    let of_base = ["--root-gib 8 is too small", "the name mine is taken by ami-00000077"];

    let no_type = run(&["--source-ami", BASE, "--builder-type", "p3dn.24xlarge"]);
    assert_ran(&no_type, 4, &[&[NO_TYPE, no_gpu, "5 problems found before anything was made"], &of_base[..]].concat());
    let no_base = run(&["--source-ami", "ami-00000404"]);
    assert_ran(
        &no_base,
        4,
        &[&[NO_AMI, NO_WAY, no_gpu, "6 problems found before anything was made"], &of_base[..]].concat(),
    );
    let neither = run(&["--source-ami", "ami-00000404", "--builder-type", "p3dn.24xlarge"]);
    assert_ran(
        &neither,
        4,
        &[&[NO_AMI, NO_TYPE, no_gpu, "6 problems found before anything was made"], &of_base[..]].concat(),
    );
}

#[test]
fn a_launch_is_told_everything_at_once() {
    let stage = poor();
    let run = |kind: &str, ami: &str| {
        let line = ["launch", "--plan", "--nodes", "2", "--distro", "debian12", "--install", "--root-gib", "8"];
        stage.run(&[&line[..], &["--type", kind, "--ami", ami, "--ssh-cidr", "203.0.113.7/32"]].concat())
    };
    assert_ran(&run("p3dn.24xlarge", BASE), 4, &[NO_TYPE, "--root-gib 8 is too small", "2 problems found"]);
    let other = "g4dn.8xlarge is a machine for arm64, the image is for x86_64";
    assert_ran(&run("g4dn.8xlarge", BASE), 4, &[other, NO_WAY, "--root-gib 8 is too small", "3 problems found"]);
    // Without the image it is the plan that says what its machines are.
    let plans = "g4dn.8xlarge is a machine for arm64, the plan is for x86_64";
    let no_image = run("g4dn.8xlarge", "ami-00000404");
    assert_ran(&no_image, 4, &[NO_AMI, plans, NO_WAY, "--root-gib 8 is too small", "4 problems found"]);
    let line = ["launch", "--plan", "--nodes", "2", "--type", "g4dn.8xlarge", "--ssh-cidr", "203.0.113.7/32"];
    let ran = stage.run(&[&line[..], &["--ami", "ami-00000404", "--distro", "debian"]].concat());
    assert_ran(&ran, 4, &[NO_AMI, "unknown distribution", "did you mean"]);
    assert!(!ran.stderr.contains("is a machine for"), "nobody knows of which kind: {}", ran.stderr);
}

#[test]
fn what_two_machines_have_in_common_is_told_once() {
    let stage = Stage::new(|_, action, _| (action == "DescribeSubnets").then(|| done(action, "<subnetSet/>")));
    let ran = stage.build(&["--plan", "--gate", "p5.48xlarge", "--subnet", "subnet-404"]);
    assert_ran(&ran, 4, &["subnet-404"]);
    assert_eq!(ran.stderr.matches("subnet-404").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_type_that_the_region_does_not_have_says_that_aws_retires_it() {
    let stage = Stage::new(|_, action, params| {
        let retired = params.get("Filter.1.Value.1").is_some_and(|kind| kind == "p3dn.24xlarge");
        (action == "DescribeInstanceTypes" && retired).then(|| done(action, "<instanceTypeSet/>"))
    });
    let why = "us-east-1 does not offer p3dn.24xlarge: AWS retires P3";
    for flag in ["--builder-type", "--gate"] {
        let ran = stage.build(&["--plan", flag, "p3dn.24xlarge"]);
        assert_ran(&ran, 4, &[why, &format!("hint: choose another {flag}")]);
    }
    // It is what a launch takes when nothing else is said.
    let ran = stage.run(&["launch", "--plan", "--nodes", "2", "--ami", BASE, "--distro", "debian12"]);
    assert_ran(&ran, 4, &[why, "hint: choose another --type"]);
}

#[test]
fn session_manager_needs_the_programs_that_carry_the_connection() {
    let stage = Stage::new(|_, action, _| (action == "DescribeInstanceTypes").then(|| done(action, &type_with(EFA))));
    let launch = ["launch", "--type", "c5.4xlarge", "--nodes", "2", "--ami", BASE];
    let build = ["build", "--source-ami", BASE];
    let rest = ["--distro", "debian12", "--plan", "--session-manager", "--instance-profile", "any"];
    let path = stage.folder.path().join("bin");
    std::fs::create_dir(&path).expect("a folder");
    for (there, missing) in
        [("none", ["aws", "session-manager-plugin"].as_slice()), ("aws", &["session-manager-plugin"])]
    {
        std::fs::write(path.join(there), "").expect("a file");
        for line in [&build[..], &launch] {
            let output = stage.command(&[line, &rest].concat()).env("PATH", &path).output().expect("it starts");
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(4), "{said}");
            let by =
                missing.iter().map(|name| format!("--session-manager connects by `{name}`, which is not on the PATH"));
            assert!(by.clone().all(|words| said.contains(&words)), "{said}");
            assert_eq!(said.matches("connects by").count(), by.len(), "{said}");
        }
    }
    // Packer has a way of its own, but for the gate, which is ours.
    let packers = |more: &[&str]| {
        let line = [&build[..], &rest, &["--driver", "packer"], more].concat();
        stderr(&stage.command(&line).env("PATH", &path).output().expect("it starts"))
    };
    assert!(!packers(&[]).contains("connects by"), "{}", packers(&[]));
    assert!(packers(&["--gate", "c5.4xlarge"]).contains("connects by `session-manager-plugin`"));
    std::fs::write(path.join("session-manager-plugin"), "").expect("a file");
    for line in [&build[..], &launch] {
        let output = stage.command(&[line, &rest].concat()).env("PATH", &path).output().expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

/// A group whose members reach each other.
const MEMBERS: &str = "<securityGroupInfo><item><groupId>sg-1</groupId><vpcId>vpc-0</vpcId><ipPermissions><item>\
    <ipProtocol>-1</ipProtocol><groups><item><groupId>sg-1</groupId></item></groups></item></ipPermissions>\
    <ipPermissionsEgress><item><ipProtocol>-1</ipProtocol><groups><item><groupId>sg-1</groupId></item></groups></item>\
    </ipPermissionsEgress></item></securityGroupInfo>";

/// Machines of that type, of which there are none left; `again` is never asked.
fn large() -> Stage {
    odd_machines(
        || unreachable!("none is launched"),
        |action, params| match action {
            "DescribeInstanceTypes" => Some(done(action, &type_with(LARGE))),
            "CreatePlacementGroup" if !is_dry(params) => Some(done(action, "")),
            "RunInstances" if !is_dry(params) => Some(refuse("VcpuLimitExceeded", "None is left.")),
            "DescribeSecurityGroups" if params.contains_key("GroupId.1") => Some(done(action, MEMBERS)),
            _ => None,
        },
    )
}

/// The tags of each resource that a call asks for, by its kind.
fn tagged(call: &Params) -> Vec<(String, Params)> {
    let tags = |n: u32| -> Params {
        let tag = |m: u32, end: &str| call.get(&format!("TagSpecification.{n}.Tag.{m}.{end}")).cloned();
        (1..).map_while(|m| Some((tag(m, "Key")?, tag(m, "Value")?))).collect()
    };
    (1..).map_while(|n| Some((call.get(&format!("TagSpecification.{n}.ResourceType"))?.clone(), tags(n)))).collect()
}

const MAKE: [&str; 5] =
    ["ImportKeyPair", "CreateSecurityGroup", "RunInstances", "CreatePlacementGroup", "AllocateAddress"];

/// Action, kind and tags of everything that was asked for by dry run, or in earnest.
fn asked(stage: &Stage, dry: bool) -> Vec<(&'static str, String, Params)> {
    let of = |action: &'static str| {
        let calls = stage.stub.calls(action).into_iter().filter(move |call| is_dry(call) == dry);
        calls.flat_map(move |call| {
            let tagged = tagged(&call);
            assert!(!tagged.is_empty(), "{action} tags nothing: {call:?}");
            tagged.into_iter().map(move |(kind, tags)| (action, kind, tags))
        })
    };
    MAKE.into_iter().flat_map(of).collect()
}

/// The one run that all of these are of.
fn run_of(asked: &[(&str, String, Params)]) -> String {
    let runs: BTreeSet<&String> = asked
        .iter()
        .map(|(action, kind, tags)| tags.get("efa-gen:run").unwrap_or_else(|| panic!("{action} of {kind}: {tags:?}")))
        .collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    let run = runs.into_iter().next().expect("a run").clone();
    let form: String = run.chars().map(|c| if c.is_ascii_hexdigit() { '0' } else { c }).collect();
    assert_eq!(form, "00000000-000000-0000", "{run}");
    run
}

#[test]
fn every_dry_run_of_a_build_carries_the_tags_of_what_is_made() {
    let stage = large();
    let gate = ["--gate", "p4d.24xlarge", "--tag", "team=hpc"];
    assert_ran(&stage.build(&[&gate[..], &["--plan"]].concat()), 0, &[]);
    let planned = asked(&stage, true);
    let run = run_of(&planned);
    let actions: BTreeSet<&str> = planned.iter().map(|(action, ..)| *action).collect();
    assert_eq!(actions, MAKE.into_iter().collect(), "each is asked for");
    assert!(planned.iter().all(|(.., tags)| tags["team"] == "hpc"), "{planned:?}");
    let of = |action: &str, name: &str| -> BTreeSet<String> {
        let found = planned.iter().filter(|(of, ..)| *of == action);
        found.map(|(.., tags)| tags.get(name).cloned().unwrap_or_default()).collect()
    };
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(of("RunInstances", "efa-gen:role"), set(&["builder", "node"]));
    assert!(!of("RunInstances", "efa-gen:until").contains(""), "{planned:?}");
    assert_eq!(of("AllocateAddress", "efa-gen:role"), set(&["node"]));
    assert_eq!(of("CreatePlacementGroup", "efa-gen:cluster"), set(&[&format!("gate-{run}")]));
}

#[test]
fn what_a_build_makes_is_of_the_run_that_its_dry_runs_asked_for() {
    let stage = machines(|| unreachable!("it is launched once"));
    stage.account.0.lock().expect("the account").clear();
    assert_ran(&stage.build(&["--on-error", "keep"]), 10, &["GetConsoleOutput"]);
    let (dry, made) = (asked(&stage, true), asked(&stage, false));
    let run = run_of(&dry);
    assert_eq!(run_of(&made), run);
    let without_time = |asked: Vec<(&'static str, String, Params)>| -> Vec<(&'static str, String, Params)> {
        let timeless = |(action, kind, mut tags): (_, _, Params)| {
            if let Some(until) = tags.get_mut("efa-gen:until") {
                "some time".clone_into(until);
            }
            (action, kind, tags)
        };
        asked.into_iter().map(timeless).collect()
    };
    assert_eq!(without_time(dry.clone()), without_time(made), "the same kinds with the same tags");
    // A run that goes on is itself in its dry runs.
    let before = dry.len();
    assert_ran(&stage.run(&["build", "--resume", &run]), 10, &["GetConsoleOutput"]);
    let again = asked(&stage, true);
    assert!(again.len() > before, "it asks again");
    assert_eq!(run_of(&again), run);
}

#[test]
fn each_build_asks_for_itself() {
    let stage = Stage::good();
    for distribution in ["debian12", "ubuntu24"] {
        let planned = stage.build_command(distribution, &["--plan"]).output().expect("it starts");
        assert_eq!(planned.status.code(), Some(0), "{}", stderr(&planned));
    }
    let runs: BTreeSet<String> =
        asked(&stage, true).into_iter().map(|(.., tags)| tags["efa-gen:run"].clone()).collect();
    assert_eq!(runs.len(), 2, "{runs:?}");
}

#[test]
fn every_dry_run_of_a_launch_carries_the_tags_of_its_nodes_and_so_does_a_growth() {
    let stage = large();
    stage.account.0.lock().expect("the account").clear();
    let launch = ["launch", "--type", "p4d.24xlarge", "--nodes", "2", "--ami", BASE, "--distro", "debian12"];
    let more = ["--name", "blue", "--ssh-cidr", "203.0.113.7/32", "--tag", "team=hpc"];
    assert_ran(&stage.run(&[&launch[..], &more, &["--plan"]].concat()), 0, &[]);
    let planned = asked(&stage, true);
    let first = run_of(&planned);
    assert_eq!(planned.iter().map(|(action, ..)| *action).collect::<BTreeSet<_>>(), MAKE.into_iter().collect());
    assert!(planned.iter().all(|(.., tags)| tags["efa-gen:cluster"] == "blue" && tags["team"] == "hpc"), "{planned:?}");

    let ran = stage.run(&[&launch[..], &more, &["--private", "--keep"]].concat());
    assert_ran(&ran, 10, &["VcpuLimitExceeded"]);
    let made = asked(&stage, false);
    let run = run_of(&made);
    let dry: Vec<_> = asked(&stage, true).into_iter().filter(|(.., tags)| tags["efa-gen:run"] != first).collect();
    assert_eq!(run_of(&dry), run);
    let keys = |asked: &[(&'static str, String, Params)], action: &str| -> BTreeSet<(String, Vec<String>)> {
        let of = asked.iter().filter(|(of, ..)| *of == action);
        of.map(|(_, kind, tags)| (kind.clone(), tags.keys().cloned().collect())).collect()
    };
    for action in ["ImportKeyPair", "CreateSecurityGroup", "RunInstances", "CreatePlacementGroup"] {
        assert_eq!(keys(&dry, action), keys(&made, action), "{action}");
    }

    // The nodes to come are of the cluster that is there, and so are the dry runs.
    let node = Entry::new("i-9", &run, &jiff::Timestamp::now().to_string());
    let node = node.tag("efa-gen:cluster", "blue").tag("efa-gen:role", "node");
    stage.account.0.lock().expect("the account").push(node);
    // Its leader is no machine; by then all has been asked.
    assert_ran(&stage.run(&["cluster", "grow", "blue", "--nodes", "1"]), 5, &["leader i-9"]);
    let grown: Vec<_> = asked(&stage, true).into_iter().filter(|(.., tags)| tags["efa-gen:run"] == run).collect();
    assert!(grown.len() > dry.len(), "a growth asks too");
    assert!(grown.iter().all(|(.., tags)| tags["efa-gen:cluster"] == "blue"), "{grown:?}");
}

/// An image has the boot mode of what it is made from, and a type of another one never starts.
#[test]
fn an_image_that_a_type_cannot_boot_is_told_before_anything_is_made() {
    const LEGACY: &str = "<supportedBootModes><item>legacy-bios</item></supportedBootModes>";
    const BOTH: &str = "<supportedBootModes><item>legacy-bios</item><item>uefi</item></supportedBootModes>";
    let stage = |mode: &'static str| {
        Stage::new(move |_, action, params| {
            let is = |name: &str, value: &str| params.get(name).is_some_and(|given| given == value);
            match action {
                "DescribeInstanceTypes" if is("Filter.1.Value.1", "p4d.24xlarge") => {
                    Some(done(action, &type_with(&format!("{LARGE}{LEGACY}"))))
                }
                "DescribeInstanceTypes" => Some(done(action, &type_with(&format!("{LARGE}{BOTH}")))),
                "DescribeImages" if is("ImageId.1", BASE) => {
                    let mode = format!("<bootMode>{mode}</bootMode></item></imagesSet>");
                    Some(done(action, &BASE_IMAGE.replace("</item></imagesSet>", &mode)))
                }
                _ => None,
            }
        })
    };
    let uefi = stage("uefi");
    let refused = format!("p4d.24xlarge boots by legacy-bios, {BASE} is an image for uefi");
    let gate = uefi.build(&["--plan", "--gate", "p4d.24xlarge"]);
    assert_ran(&gate, 4, &[&refused, "hint: choose an image for uefi-preferred"]);
    assert_eq!(gate.stderr.matches("boots by").count(), 1, "{}", gate.stderr);
    assert_ran(&uefi.build(&["--plan", "--builder-type", "p4d.24xlarge"]), 4, &[&refused]);
    // What the image is for counts, whoever builds it.
    let planned = uefi.build(&["--plan", "--instance-type", "p4d.24xlarge"]);
    assert_ran(&planned, 4, &[&refused]);
    let line =
        ["launch", "--plan", "--nodes", "2", "--ami", BASE, "--distro", "debian12", "--ssh-cidr", "203.0.113.7/32"];
    assert_ran(&uefi.run(&[&line[..], &["--type", "p4d.24xlarge"]].concat()), 4, &[&refused]);
    assert_ran(&uefi.run(&[&line[..], &["--type", "p5.48xlarge"]].concat()), 0, &[]);
    for mode in ["legacy-bios", "uefi-preferred", ""] {
        let ran = stage(mode).build(&["--plan", "--gate", "p4d.24xlarge"]);
        assert_ran(&ran, 0, &[]);
    }
}
