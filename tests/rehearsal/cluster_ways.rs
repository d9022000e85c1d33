//! The ways of a launch that are not the default: a security group of one's own, no placement group, no public address, nodes
//! that stay after a failure; and what a check finds, as a program reads it.

use std::fs;

use serde_json::{Value, json};

use crate::account::Account;
use crate::cluster::KIND;
use crate::machine::{Ran, assert_same, ran, text};

/// A launch of two light hosts.
fn launch(account: &Account, image: &str, options: &[&str], more: &[&str]) -> Ran {
    let line = ["--ami", image, "--nodes", "2", "--name", "own"];
    ran(&mut account.launch(options, &[&line[..], more].concat()))
}

fn actions(account: &Account) -> Vec<String> {
    account.calls().iter().filter(|call| call["dry"] == false).map(|call| text(&call["action"])).collect()
}

/// The nodes, as EC2 has them.
fn nodes(account: &Account) -> Vec<Value> {
    let named = json!({"Filters": [
        {"Name": "tag:efa-gen:cluster", "Values": ["own"]}, {"Name": "instance-state-name", "Values": ["running"]},
    ]});
    let found = account.call("describe_instances", &named);
    let reservations = found["Reservations"].as_array().cloned().unwrap_or_default();
    reservations.iter().flat_map(|one| one["Instances"].as_array().cloned().unwrap_or_default()).collect()
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_group_of_ones_own_is_used_and_stays() {
    let account = Account::new();
    let image = account.light_image();
    let vpc = json!({"Filters": [{"Name": "is-default", "Values": ["true"]}]});
    let vpc = text(&account.call("describe_vpcs", &vpc)["Vpcs"][0]["VpcId"]);
    let group = json!({"GroupName": "ours", "Description": "ours", "VpcId": vpc});
    let group = text(&account.call("create_security_group", &group)["GroupId"]);
    let launch = |more: &[&str]| launch(&account, &image, &[], &[&["--security-group", group.as_str()], more].concat());
    // Until its members may talk in both directions, it is refused, and by name.
    let members = json!([{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]);
    for call in ["authorize_security_group_ingress", "authorize_security_group_egress"] {
        launch(&[]).failed(4, &[&group, "names the group itself", "hint: "]);
        account.call(call, &json!({"GroupId": group, "IpPermissions": members}));
    }
    let before = account.things();
    launch(&["--no-placement-group"]).good();
    let made = actions(&account);
    for action in ["CreateSecurityGroup", "CreatePlacementGroup", "AuthorizeSecurityGroupIngress"] {
        assert!(!made.iter().any(|name| name == action), "{action}: {made:?}");
    }
    for node in nodes(&account) {
        assert_eq!(node["SecurityGroups"][0]["GroupId"], json!(group), "{node}");
        assert_eq!(text(&node["Placement"]["GroupName"]), "", "{node}");
    }
    assert_eq!(nodes(&account).len(), 2);
    ran(&mut account.cluster(&["admit", "own"])).failed(2, &["no security group of its own", &group]);
    account.removed("own", &before);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn nodes_without_a_public_address_are_reached_from_within() {
    let account = Account::new();
    let image = account.light_image();
    let before = account.things();
    launch(&account, &image, &[], &["--private"]).good();
    let nodes = nodes(&account);
    assert_eq!(nodes.len(), 2);
    assert!(nodes.iter().all(|node| text(&node["PublicIpAddress"]).is_empty()), "{nodes:?}");
    let group = account.group_of("own");
    let rules = group["IpPermissions"].as_array().expect("rules");
    let addresses: Vec<&Value> = rules
        .iter()
        .flat_map(|rule| rule["IpRanges"].as_array().expect("ranges"))
        .map(|range| &range["CidrIp"])
        .collect();
    assert_eq!(addresses, ["10.78.0.1/32"], "{group}");
    let said = ran(&mut account.cluster(&["run", "own", "--", "hostname"])).good();
    for node in &nodes {
        let address = text(&node["PrivateIpAddress"]);
        assert!(said.contains(&format!("{address}: ip-")), "{said}");
    }
    ran(&mut account.cluster(&["admit", "own"])).failed(2, &["reached by private addresses", "--ssh-cidr"]);
    account.removed("own", &before);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn nodes_without_an_open_port_are_reached_through_session_manager() {
    let account = Account::new();
    let image = account.light_image();
    let before = account.things();
    let (profile, path) = account.session_manager();
    let line = ["launch", "--ami", &image, "--type", KIND, "--nodes", "2", "--name", "own", "--region", account.region];
    let manager = ["--session-manager", "--instance-profile", &profile];
    let mut command = account.through(&[], &[&line[..], &manager].concat());
    ran(command.env("PATH", &path)).good();
    let group = account.group_of("own");
    let rules = group["IpPermissions"].as_array().expect("rules");
    assert!(rules.iter().all(|rule| rule["IpRanges"] == json!([])), "only the nodes reach each other: {group}");
    // What comes after the launch goes the same way, and fails with the words of what carries it.
    let run = ["run", "own", "--", "hostname"];
    let said = ran(account.cluster(&run).env("PATH", &path)).good();
    assert_eq!(said.matches(": ip-").count(), 2, "{said}");
    fs::write(account.file("bin/aws"), "#!/bin/sh\necho TargetNotConnected >&2\nexit 254\n")
        .expect("a file can be written");
    let said = ran(account.cluster(&run).env("PATH", &path)).failed(6, &["TargetNotConnected", "2 of 2 nodes"]);
    assert!(!said.contains("cluster admit"), "there is no port: {said}");
    ran(&mut account.cluster(&["admit", "own"])).failed(2, &["reached through Session Manager"]);
    account.removed("own", &before);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn what_a_failed_launch_made_stays_if_that_is_asked_for() {
    let account = Account::new();
    let image = account.light_image();
    let before = account.things();
    let denied = ["--refuse", "GetConsoleOutput=UnauthorizedOperation"];
    launch(&account, &image, &denied, &["--keep"]).failed(10, &["everything is kept: efa-gen sweep --run"]);
    assert_eq!(nodes(&account).len(), 2);
    let run = account.runs().pop().expect("a run");
    account.sweep(&run).good();
    assert_same(&before, &account.things());
    assert_eq!(account.runs(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_check_is_told_as_json_and_names_the_node() {
    let account = Account::new();
    let image = account.light_image();
    let before = account.things();
    launch(&account, &image, &[], &[]).good();
    let check = |code: i32| -> Value {
        let output = account.cluster(&["check", "own", "--output", "json"]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON alone on stdout")
    };
    let good = check(0);
    assert_eq!(good["nodes"].as_array().map(Vec::len), Some(2), "{good}");
    assert_eq!(good["findings"], json!([]), "{good}");
    let spoil = "echo 0 | sudo tee /etc/efa-gen-efa-devices";
    ran(&mut account.cluster(&["ssh", "own", "--node", "1", "--", spoil])).good();
    let bad = check(7);
    let address = text(&nodes(&account).last().expect("a node")["PrivateIpAddress"]);
    let findings = bad["findings"].to_string();
    assert!(findings.contains("libfabric finds 0 EFA devices") && findings.contains(&address), "{bad}");
    assert_eq!(bad["findings"].as_array().map(Vec::len), Some(1), "{bad}");
    account.removed("own", &before);
}
