//! What a build or a launch finds out before it makes anything, and that one problem hides no other. Against a stub of AWS.

use crate::support::account::Entry;
use crate::support::aws::{Params, done};
use crate::support::builds::{BASE, EFA, Stage, assert_ran, type_with};
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
