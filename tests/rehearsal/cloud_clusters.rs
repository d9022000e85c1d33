//! The rehearsal cloud does what a cluster needs of it: many machines by one call, room for fewer, elastic addresses, and
//! light hosts where only SSH is needed.
//! (The API's own tests, without machines, are cloud/tests.)

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::account::Account;
use crate::machine::{Guest, Ran, base_image, cloud, ec2, on_network, ran, steer, tail, text, try_ec2, wait_for};

/// Types with four EFA devices, one on each card. Each test has its own: the room for one is not the other's.
const TYPE: &str = "p4d.24xlarge";
const OTHER_TYPE: &str = "p4de.24xlarge";

/// A zone of us-east-1 that offers the type, and a subnet there.
fn place(kind: &str) -> (String, String) {
    let of_type = json!([{"Name": "instance-type", "Values": [kind]}]);
    let offers =
        ec2("describe_instance_type_offerings", &json!({"LocationType": "availability-zone", "Filters": of_type}));
    let zone = text(&offers["InstanceTypeOfferings"][0]["Location"]);
    let of_zone = json!({"Filters": [{"Name": "availability-zone", "Values": [zone]}]});
    (zone, text(&ec2("describe_subnets", &of_zone)["Subnets"][0]["SubnetId"]))
}

/// Its interfaces as a cluster has them.
fn interfaces(subnet: &str) -> Vec<Value> {
    let nic = |card: u32| {
        json!({"NetworkCardIndex": card, "DeviceIndex": u32::from(card > 0), "InterfaceType": "efa", "SubnetId": subnet,
               "DeleteOnTermination": true})
    };
    (0..4).map(nic).collect()
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn several_guests_are_launched_by_one_call() {
    let (zone, subnet) = place(TYPE);
    ec2("create_placement_group", &json!({"GroupName": "several", "Strategy": "cluster"}));
    let wanted = |least: u32, most: u32| {
        json!({"InstanceType": TYPE, "MinCount": least, "MaxCount": most, "Placement": {"GroupName": "several"},
               "NetworkInterfaces": interfaces(&subnet)})
    };
    steer("room", &[&format!("place={zone}"), &format!("type={TYPE}"), "count=3"]);
    let mut all_four = wanted(4, 4);
    all_four["ImageId"] = base_image().into();
    let refused = try_ec2("run_instances", &all_four).expect_err("there is room for three");
    assert!(refused.contains("InsufficientInstanceCapacity"), "{refused}");
    let guests = Guest::start_several(&base_image(), "", &wanted(2, 4));
    assert_eq!(guests.len(), 3);
    let ids: Vec<&str> = guests.iter().map(|guest| guest.id.as_str()).collect();
    let found = ec2("describe_instances", &json!({"InstanceIds": ids}));
    for (index, shown) in found["Reservations"][0]["Instances"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(shown["AmiLaunchIndex"], json!(index));
        assert_eq!(shown["NetworkInterfaces"].as_array().map(Vec::len), Some(4));
        assert_eq!(shown["PublicIpAddress"], Value::Null);
    }
    let mut seen = BTreeSet::new();
    for guest in &guests {
        guest.trust();
        let index = "cloud-init query ds.meta_data.ami-launch-index";
        let address = guest.root("cloud-init query --all | grep -c public-ipv4; true").good();
        assert_eq!(address, "0\n", "no public address");
        seen.insert(guest.root(&format!("{index}; hostname; hostname -I; cat /etc/machine-id")).good());
        for other in &guests {
            let reach = format!("ssh-keyscan -t ed25519 {} 2>/dev/null | wc -l", other.address);
            assert_eq!(guest.root(&reach).good(), "1\n", "{} reaches {}", guest.id, other.id);
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!(seen.iter().filter_map(|text| text.lines().next()).collect::<Vec<_>>(), ["0", "1", "2"]);
    let in_use = try_ec2("delete_placement_group", &json!({"GroupName": "several"})).expect_err("it is in use");
    assert!(in_use.contains("InvalidPlacementGroup.InUse"), "{in_use}");
    drop(guests);
    wait_for("the placement group is free", 240, || {
        try_ec2("delete_placement_group", &json!({"GroupName": "several"})).ok()
    });
    steer("room", &[&format!("place={zone}"), &format!("type={TYPE}"), "count=any"]);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_elastic_address_leads_to_the_guest_that_has_it() {
    let (_, subnet) = place(OTHER_TYPE);
    let launch =
        json!({"InstanceType": OTHER_TYPE, "MinCount": 2, "MaxCount": 2, "NetworkInterfaces": interfaces(&subnet)});
    let guests = Guest::start_several(&base_image(), "", &launch);
    let address = ec2("allocate_address", &json!({"Domain": "vpc"}));
    let public = text(&address["PublicIp"]);
    let key_at = |address: &str| {
        let scan = ran(&mut on_network(&["ssh-keyscan", "-T", "5", "-t", "ed25519", address])).text;
        scan.lines().find_map(|line| line.split_once(" ssh-ed25519 ")).map(|(_, key)| key.to_owned())
    };
    assert_eq!(key_at(&public), None, "nobody has it");
    let mut association = String::new();
    for guest in &guests {
        guest.trust();
        let shown = ec2("describe_instances", &json!({"InstanceIds": [guest.id]}));
        let primary = &shown["Reservations"][0]["Instances"][0]["NetworkInterfaces"][0]["NetworkInterfaceId"];
        let wanted = json!({"AllocationId": address["AllocationId"], "NetworkInterfaceId": primary});
        association = text(&ec2("associate_address", &wanted)["AssociationId"]);
        let own = key_at(&guest.address).expect("it answers at its own address");
        wait_for("it answers at the elastic one", 240, || (key_at(&public).as_ref() == Some(&own)).then_some(()));
        // As on EC2: the guest answers at the address and its metadata contains it, but no interface has it.
        assert_eq!(guest.root("hostname -I").good().trim(), guest.address);
        let token =
            "curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token";
        let told = "http://169.254.169.254/latest/meta-data/public-ipv4";
        let line = format!("curl -sf -H \"X-aws-ec2-metadata-token: $({token})\" {told}");
        assert_eq!(guest.root(&line).good(), public);
    }
    let release = json!({"AllocationId": address["AllocationId"]});
    let in_use = try_ec2("release_address", &release).expect_err("it is associated");
    assert!(in_use.contains("InvalidIPAddress.InUse"), "{in_use}");
    ec2("disassociate_address", &json!({"AssociationId": association}));
    wait_for("nobody answers there", 240, || key_at(&public).is_none().then_some(()));
    ec2("release_address", &release);
}

/// User-data as a cluster's nodes have it: the boothook that prints the host keys, and the cluster's key.
fn node_user_data(run: &str, key: &str) -> String {
    let boothook = format!("#cloud-boothook\n#!/bin/sh\necho \"-----EFA-GEN BEGIN HOST KEYS {run}-----\"\n");
    let config = format!("#cloud-config\n{}\n", json!({"ssh_authorized_keys": [key]}));
    let parts =
        json!([{"type": "text/cloud-boothook", "content": boothook}, {"type": "text/cloud-config", "content": config}]);
    format!("#cloud-config-archive\n{parts}\n")
}

/// ssh as the login user with a key of our own, trusting what the console showed; the command's output.
fn ssh_with(key: &Path, guest: &Guest, line: &str) -> Ran {
    let words = ["timeout", "30", "ssh", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oLogLevel=ERROR"];
    let known = format!("-oUserKnownHostsFile={}", guest.known_hosts().display());
    let mut command = on_network(&words);
    command.arg(known).arg("-i").arg(key).arg(format!("admin@{}", guest.address)).arg(line);
    ran(&mut command)
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn light_hosts_are_launched_by_the_hundred() {
    let key = cloud().join("cluster-key");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "cluster", "-f"]).arg(&key).status();
    assert!(made.is_ok_and(|status| status.success()));
    let public = fs::read_to_string(cloud().join("cluster-key.pub")).expect("a key");
    steer("file", &["region=us-east-1", "index=7", "path=/etc/efa-gen-scenario", "text=slow"]);
    let launch = json!({"InstanceType": "c5n.18xlarge", "MinCount": 256, "MaxCount": 256});
    let started = Instant::now();
    let guests = Guest::start_several(
        &Account::shared("us-east-1").light_image(),
        &node_user_data("run-1", public.trim()),
        &launch,
    );
    assert_eq!(guests.len(), 256);
    let ids: Vec<&str> = guests.iter().map(|guest| guest.id.as_str()).collect();
    wait_for("256 running", 300, || {
        let running = json!({"InstanceIds": ids, "Filters": [{"Name": "instance-state-name", "Values": ["running"]}]});
        let found = ec2("describe_instances", &running);
        (found["Reservations"][0]["Instances"].as_array().map(Vec::len) == Some(256)).then_some(())
    });
    let running = started.elapsed();
    let list = cloud().join("light-hosts");
    fs::write(&list, guests.iter().map(|guest| guest.address.clone() + "\n").collect::<String>()).expect("a file");
    let scan = ran(&mut on_network(&["ssh-keyscan", "-T", "10", "-t", "ed25519", "-f", &list.display().to_string()]));
    let keys: BTreeSet<&str> = scan.text.lines().filter_map(|line| Some(line.split_once(" ssh-ed25519 ")?.1)).collect();
    assert_eq!(keys.len(), 256, "each has a host key of its own: {}", tail(&scan.text, 5));
    eprintln!(
        "256 light hosts: running after {:.1} s, asked for their keys after {:.1} s",
        running.as_secs_f32(),
        started.elapsed().as_secs_f32()
    );
    for (index, guest) in guests.iter().enumerate().filter(|(index, _)| [0, 7, 8, 255].contains(index)) {
        guest.trust();
        let console = ec2("get_console_output", &json!({"InstanceId": guest.id, "Latest": true}));
        let shown = text(&console["Output"]);
        let between = shown.split("-----EFA-GEN BEGIN HOST KEYS run-1-----").nth(1).expect("the run's mark");
        assert!(keys.iter().any(|key| between.contains(key)), "{shown}");
        // The EC2 key pair, and the key of the user-data.
        let name = format!("ip-{}\n", guest.address.replace('.', "-"));
        assert_eq!(ran(&mut guest.ssh("hostname")).good(), name);
        let line = "hostname && cat ~/.ssh/authorized_keys | wc -l && sudo id -u && hostname -I && date +%Y >/dev/null";
        assert_eq!(ssh_with(&key, guest, line).good(), format!("{name}2\n0\n{} \n", guest.address));
        let hardware = guest.root("cat /run/rehearsal-hardware").good();
        assert_eq!(hardware, "instance-type c5n.18xlarge\nefa-devices 0\ngpus 0\ngpu\n");
        let scenario = guest.root("cat /etc/efa-gen-scenario 2>/dev/null; true").good();
        assert_eq!(scenario, if index == 7 { "slow\n" } else { "" });
        guest.root(&format!("getent hosts {}", name.trim())).good();
        if index != 8 {
            guest.root("touch /etc/here && test $(ps -e | grep -c sshd) -lt 8").good();
        }
    }
    assert_ne!(guests[8].root("test -e /etc/here").code, 0, "a file of one is not another's");
    // A machine that ends itself, as it was launched: stopped, and started again.
    let _ = guests[7].root("shutdown -h now");
    guests[7].wait_for_state("stopped");
    guests[7].power_on();
    assert_eq!(guests[7].root("cat /etc/efa-gen-scenario").good(), "slow\n");
    let started = Instant::now();
    ec2("terminate_instances", &json!({"InstanceIds": ids}));
    wait_for("256 terminated", 300, || {
        let left =
            json!({"InstanceIds": ids, "Filters": [{"Name": "instance-state-name", "Values": ["shutting-down"]}]});
        ec2("describe_instances", &left)["Reservations"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    eprintln!("terminated after {:.1} s", started.elapsed().as_secs_f32());
    guests.into_iter().for_each(std::mem::forget);
}
