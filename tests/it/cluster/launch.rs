//! What `efa-gen launch` finds out before it launches, and what it says when it is stopped. Against a stub of AWS whose machines
//! never tell their host keys.

use crate::support::aws::done;
use crate::support::builds::{BASE, EFA, Stage, assert_ran, interrupted_twice, odd_machines, type_with};

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
