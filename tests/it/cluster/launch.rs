//! What `efa-gen launch` finds out before it launches, and what it says when it is stopped. Against a stub of AWS whose machines
//! never tell their host keys.

use crate::support::aws::{done, is_dry, refuse};
use crate::support::builds::{BASE, EFA, LARGE, Stage, assert_ran, interrupted_twice, odd_machines, type_with};

const ZONES: &str = "<instanceTypeOfferingSet><item><location>us-east-1a</location></item>\
    <item><location>us-east-1b</location></item></instanceTypeOfferingSet>";

/// A launch of two nodes of a type, from the base AMI.
fn words(kind: &str) -> [&str; 11] {
    let from = ["--ami", BASE, "--distro", "debian12", "--ssh-cidr", "203.0.113.7/32"];
    let [a, b, c, d, e, f] = from;
    ["launch", "--nodes", "2", "--type", kind, a, b, c, d, e, f]
}

/// Every type has one EFA device; no console has anything.
fn stage(in_use: bool) -> Stage {
    odd_machines(
        || unreachable!("it is launched once"),
        move |action, _| match action {
            "DescribeInstanceTypes" => Some(done(action, &type_with(EFA))),
            "GetConsoleOutput" => Some(done(action, "")),
            "TerminateInstances" if in_use => Some(done(action, "")),
            _ => None,
        },
    )
}

#[test]
fn where_ec2_and_the_table_differ_ec2_is_believed_and_it_is_said() {
    let stage = stage(false);
    let plan = |kind: &str| stage.run(&[&words(kind)[..], &["--plan"]].concat());
    let note = "EC2 says that c6in.32xlarge has 1 EFA devices, efa-gen's table says 2; EC2's count is taken";
    let ran = plan("c6in.32xlarge");
    assert_ran(&ran, 0, &[note]);
    assert_eq!(ran.stdout.matches(" efa").count(), 1, "{}", ran.stdout);
    let ran = plan("p3dn.24xlarge");
    assert_ran(&ran, 0, &[]);
    assert!(!ran.stderr.contains("EC2 says"), "{}", ran.stderr);
}

/// What is left of addresses, the subnets in the zones in this order.
fn subnets(free: &[i32]) -> String {
    let item = |(index, free): (usize, &i32)| {
        format!(
            "<item><subnetId>subnet-{index}</subnetId><vpcId>vpc-0</vpcId><availabilityZone>us-east-1{}</availabilityZone>\
             <availableIpAddressCount>{free}</availableIpAddressCount></item>",
            ["a", "b"][index]
        )
    };
    format!("<subnetSet>{}</subnetSet>", free.iter().enumerate().map(item).collect::<String>())
}

/// A p4d has four EFA devices and takes one address.
#[test]
fn a_subnet_that_is_too_small_for_the_nodes_is_told_before_there_are_any() {
    let plan = |free: &'static [i32], nodes: &str| {
        let stage = odd_machines(
            || unreachable!("nothing is launched"),
            move |action, _| match action {
                "DescribeInstanceTypes" => Some(done(action, &type_with(LARGE))),
                "DescribeInstanceTypeOfferings" => Some(done(action, ZONES)),
                "DescribeSubnets" => Some(done(action, &subnets(free))),
                _ => None,
            },
        );
        let mut words = words("p4d.24xlarge");
        words[2] = nodes;
        let ran = stage.run(&[&words[..], &["--plan"]].concat());
        assert!(stage.stub.calls("RunInstances").iter().all(is_dry));
        ran
    };
    assert_ran(&plan(&[0], "2"), 4, &["subnet subnet-0 has no free address"]);
    assert_ran(&plan(&[3], "4"), 4, &["subnet subnet-0 has 3 free addresses, and 4 are needed"]);
    assert_ran(&plan(&[2, 3], "4"), 4, &["subnet subnet-1 has 3 free addresses, and 4 are needed"]);
    let ran = plan(&[4], "4");
    assert_ran(&ran, 0, &[]);
    assert_eq!(ran.stdout.matches("efa-only").count(), 3, "{}", ran.stdout);
    // The one that has room is the one that is tried first.
    let ran = plan(&[3, 4], "4");
    assert!(ran.stdout.contains("Zones tried, in this order: us-east-1b, us-east-1a."), "{}", ran.stdout);
}

#[test]
fn interrupted_twice_a_launch_says_what_is_left() {
    let stage = stage(true);
    let (code, line) = interrupted_twice(
        &stage,
        &mut stage.command(&words("p3dn.24xlarge")),
        "made instance i-1",
        "Terminate what still runs",
    );
    assert_eq!(code, 130, "{line}");
    assert!(line.contains("not seen to go: instance i-1 (us-east-1), security group sg-1 (us-east-1): "), "{line}");
    let run = stage.account.tags("i-1")["efa-gen:run"].clone();
    assert!(line.ends_with(&format!("efa-gen sweep --run {run} --yes removes it")), "{line}");
}

/// Nodes that install themselves run the installer as root, as a build does: it is looked at before there are any.
#[test]
fn no_node_installs_what_is_not_the_publishers() {
    for (forged, code, words) in [
        (None, 10, &["signature of ", " and digest are good (source of the digest: us)"]),
        (Some("fingerprint = \""), 3, &["wrong key", "not the pinned"]),
        (Some("sha256 = \""), 3, &["sum differs, signature good", "it is not the expected one"]),
    ] {
        let stage = odd_machines(
            || unreachable!("nothing is launched"),
            |action, params| match action {
                "DescribeInstanceTypes" => Some(done(action, &type_with(EFA))),
                "ImportKeyPair" if !is_dry(params) => Some(refuse("UnauthorizedOperation", "You are not authorized.")),
                _ => None,
            },
        );
        if let Some(key) = forged {
            stage.forge(key);
        }
        let mirror = stage.mirror();
        let ran = stage.run(
            &[&self::words("p3dn.24xlarge")[..], &["--install", "--stack-file", "stack.toml", "--mirror", &mirror][..]]
                .concat(),
        );
        assert_ran(&ran, code, words);
        for action in ["ImportKeyPair", "CreateSecurityGroup", "RunInstances"] {
            let made = stage.stub.calls(action).iter().any(|call| !is_dry(call));
            assert!(!made || forged.is_none(), "{forged:?}: {action}");
        }
        if forged.is_none() {
            assert!(stage.stub.calls("ImportKeyPair").iter().any(|call| !is_dry(call)), "it went no further");
        }
    }
}
