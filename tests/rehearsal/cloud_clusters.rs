//! The rehearsal cloud does what a cluster needs of it: many machines by one call, room for fewer, elastic addresses.
//! (The API's own tests, without machines, are cloud/test_ec2.py.)

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::machine::{Guest, base_image, ec2, on_network, ran, steer, text, try_ec2, wait_for};

/// The type that these tests launch: four EFA devices, one on each card.
const TYPE: &str = "p4d.24xlarge";

/// A zone of us-east-1 that offers the type, and a subnet there.
fn place() -> (String, String) {
    let of_type = json!([{"Name": "instance-type", "Values": [TYPE]}]);
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
    let (zone, subnet) = place();
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
    wait_for("the placement group is free", 60, || {
        try_ec2("delete_placement_group", &json!({"GroupName": "several"})).ok()
    });
    steer("room", &[&format!("place={zone}"), &format!("type={TYPE}"), "count=any"]);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_elastic_address_leads_to_the_guest_that_has_it() {
    let (_, subnet) = place();
    let launch = json!({"InstanceType": TYPE, "MinCount": 2, "MaxCount": 2, "NetworkInterfaces": interfaces(&subnet)});
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
        wait_for("it answers at the elastic one", 20, || (key_at(&public).as_ref() == Some(&own)).then_some(()));
        guest
            .root(&format!("cloud-init query ds.meta_data.ami-launch-index && hostname -I | grep -wF {public}"))
            .good();
    }
    let release = json!({"AllocationId": address["AllocationId"]});
    let in_use = try_ec2("release_address", &release).expect_err("it is associated");
    assert!(in_use.contains("InvalidIPAddress.InUse"), "{in_use}");
    ec2("disassociate_address", &json!({"AssociationId": association}));
    wait_for("nobody answers there", 20, || key_at(&public).is_none().then_some(()));
    ec2("release_address", &release);
}
