//! What a build finds out before it makes anything, against the cloud's own AMI catalog.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::account::{Account, changes};
use crate::machine::{Ran, ran, text};

/// The catalog has older images of each, newer ones of strangers, other families of the same owner, and deprecated ones
/// (cloud/ec2/amis.json).
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn every_distribution_begins_from_its_own_newest_image() {
    let account = Account::shared("us-east-1");
    let line = ["build", "--distro", "all", "--plan", "--output", "json", "--region", "us-east-1"];
    let output = account.through(&[], &[&line[..], &["--ssh-cidr", "10.78.0.1/32"]].concat()).output();
    let output = output.expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plans: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    let bases: BTreeMap<String, (String, String)> = plans
        .iter()
        .map(|plan| {
            let base = &plan["preflight"]["account"]["base"];
            (text(&plan["distribution"]), (text(&base["id"]), text(&base["root_device"])))
        })
        .collect();
    let expected = [
        ("al1", "ami-0be559c854d6e2aad", "/dev/xvda"),
        ("al2", "ami-07fa2dd80f7a7e06d", "/dev/xvda"),
        ("al2-5.10", "ami-0a8ff606eb0ecc1be", "/dev/xvda"),
        ("centos7", "ami-0bba31f985ef40295", "/dev/sda1"),
        ("debian12", "ami-00342ea36a7b8c57c", "/dev/xvda"),
        ("rhel7.6", "ami-003337b166af8e495", "/dev/sda1"),
        ("rhel7.7", "ami-0e806bc52842f9fdd", "/dev/sda1"),
        ("rhel7.8", "ami-03fbc729109a6cb24", "/dev/sda1"),
        ("ubuntu16", "ami-06ef9394655747d42", "/dev/sda1"),
        ("ubuntu18", "ami-08072799da537901b", "/dev/sda1"),
        ("ubuntu24", "ami-035f15434f3cb8fec", "/dev/sda1"),
    ];
    let expected = expected.map(|(id, base, root)| (id.to_owned(), (base.to_owned(), root.to_owned())));
    assert_eq!(bases, BTreeMap::from(expected));
    let changing: Vec<Value> = account.calls().into_iter().filter(changes).collect();
    assert_eq!(changing, Vec::<Value>::new());
}

/// What a plan says of a subnet, with software from the Internet.
fn planned(account: &Account, more: &[&str]) -> Ran {
    let line = ["build", "--distro", "debian12", "--plan", "--output", "json", "--region", account.region];
    ran(&mut account.through(&[], &[&line[..], more].concat()))
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_subnet_without_the_way_that_a_build_needs_is_told_before_anything_is_made() {
    let [account] = Account::for_builds();
    let id = |call: &str, arguments: &Value, kind: &str, id: &str| text(&account.call(call, arguments)[kind][id]);
    let vpc = id("create_vpc", &json!({"CidrBlock": "10.99.0.0/16"}), "Vpc", "VpcId");
    let subnet = json!({"VpcId": vpc, "CidrBlock": "10.99.1.0/28"});
    let subnet = id("create_subnet", &subnet, "Subnet", "SubnetId");
    let ours = ["--ssh-cidr", "10.78.0.1/32"];
    let private = ["--private", "--ssh-cidr", "10.0.0.0/8"];
    let plan = |more: &[&str]| planned(&account, &[&["--subnet", subnet.as_str()], more].concat());
    let refused = |more: &[&str], words: &str| plan(more).failed(4, &[&subnet, words, "\"hint\":"]);
    let mirror = ["--mirror", "http://mirror.rehearsal.test"];

    refused(&ours, "has no route to the Internet");
    refused(&private, "has no route to the Internet");
    refused(&["--session-manager", "--instance-profile", "any"], "has no route to the Internet");
    refused(&[&ours[..], &mirror].concat(), "nothing from outside can reach the builder");
    // With a mirror in the VPC a builder without any way out is reached from within.
    let said = plan(&[&private, &mirror[..]].concat()).good();
    let shown: Value =
        serde_json::from_str(&said[said.find("\n[").map_or(0, |at| at + 1)..said.rfind(']').expect("JSON") + 1])
            .expect("JSON");
    let found = &shown[0]["preflight"]["account"];
    assert_eq!((&found["public_address"], &found["ssh_cidrs"]), (&json!(false), &json!(["10.0.0.0/8"])), "{found}");

    let gateway = id("create_internet_gateway", &json!({}), "InternetGateway", "InternetGatewayId");
    account.call("attach_internet_gateway", &json!({"InternetGatewayId": gateway, "VpcId": vpc}));
    let of_vpc = json!({"Filters": [{"Name": "vpc-id", "Values": [vpc]}]});
    let table = text(&account.call("describe_route_tables", &of_vpc)["RouteTables"][0]["RouteTableId"]);
    let route = json!({"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway});
    account.call("create_route", &route);
    plan(&ours).good();
    refused(&private, "leads out through an Internet gateway");

    for _ in 0..11 {
        account.call("create_network_interface", &json!({"SubnetId": subnet}));
    }
    refused(&ours, "has no free address");
}

/// Who asks is who may connect, and nobody else.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_callers_own_address_is_the_one_that_may_connect() {
    let said = planned(&Account::new(), &[]).good();
    for words in ["\"10.78.0.1/32\"", "open to 10.78.0.1 alone, your address as https://checkip.amazonaws.com sees it"]
    {
        assert!(said.contains(words), "does not say {words:?}:\n{said}");
    }
}
