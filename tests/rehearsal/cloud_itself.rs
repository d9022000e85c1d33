//! The rehearsal cloud is what the other tests take it for: machines that boot and reboot, an API that refuses what EC2
//! refuses, faults in front of it. (The API's own tests, without guests, are cloud/test_ec2.py.)

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Instant;

use serde_json::json;

use crate::machine::{Guest, base_image, cloud, ec2, on_network, ran, steer, text, try_ec2, wait_for};

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_guest_boots_reboots_stops_and_starts() {
    let started = Instant::now();
    let guest = Guest::launch(&base_image(), "");
    eprintln!("a guest is ready after {:.1} s", started.elapsed().as_secs_f32());
    assert_eq!(guest.root("systemctl is-system-running --wait").good(), "running\n");
    let boot = || guest.root("cat /proc/sys/kernel/random/boot_id").good();
    let first = boot();
    ec2("reboot_instances", &json!({"InstanceIds": [guest.id]}));
    wait_for("another boot", 60, || {
        let now = guest.root("cat /proc/sys/kernel/random/boot_id");
        (now.code == 0 && now.text != first).then_some(())
    });
    guest.root("echo kept >/root/kept").good();
    guest.shut_down();
    assert!(!guest.answers());
    guest.power_on();
    assert_eq!(guest.root("cat /root/kept").good(), "kept\n");
    let console = ec2("get_console_output", &json!({"InstanceId": guest.id, "Latest": true}));
    assert!(text(&console["Output"]).contains("Cloud-init v. 22.4.2 finished"), "the API gives the real console");
    // A machine that turns itself off is stopped, as it was launched.
    let _ = guest.root("shutdown -h now");
    guest.wait_for_state("stopped");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn sixteen_guests_at_once_each_with_an_address_and_identity_of_its_own() {
    let started = Instant::now();
    let guests: Vec<Guest> = (0..16).map(|_| Guest::start(&base_image(), "")).collect();
    let mut seen = BTreeSet::new();
    for guest in &guests {
        guest.trust();
        seen.insert(guest.root("cat /etc/machine-id; hostname; hostname -I").good());
    }
    eprintln!("16 guests are ready after {:.1} s", started.elapsed().as_secs_f32());
    assert_eq!(seen.len(), 16, "{seen:?}");
    guests[0].wait_until_up();
    let reach = format!("ssh-keyscan -t ed25519 {} 2>/dev/null | wc -l", guests[15].address);
    assert_eq!(guests[0].root(&reach).good(), "1\n", "they reach each other");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn light_hosts_answer_ssh() {
    let addresses = steer("hosts", &["count=64"]);
    let addresses: Vec<&str> = addresses.lines().collect();
    assert_eq!(addresses.len(), 64);
    for address in [addresses[0], addresses[63]] {
        let known = format!("-oUserKnownHostsFile={}", cloud().join("hosts/known_hosts").display());
        let key = cloud().join("key").display().to_string();
        let mut command =
            on_network(&["ssh", "-i", &key, &known, "-oBatchMode=yes", &format!("root@{address}"), "hostname"]);
        let name = ran(command.stdin(Stdio::null())).good();
        assert_eq!(name, format!("host-{}\n", address.replace('.', "-")));
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_api_refuses_what_ec2_refuses() {
    let image = base_image();
    let launch = |more: serde_json::Value| {
        let mut arguments = json!({"ImageId": image, "InstanceType": "c5.4xlarge", "MinCount": 1, "MaxCount": 1});
        arguments.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        try_ec2("run_instances", &arguments).expect_err("it is refused")
    };
    for (more, code) in [
        (json!({"UserData": "x".repeat(16 * 1024 + 1)}), "InvalidParameterValue"),
        (json!({"KeyName": "nobody's"}), "InvalidKeyPair.NotFound"),
        (json!({"ImageId": "ami-0123456789abcdef0"}), "InvalidAMIID.NotFound"),
        (json!({"Placement": {"GroupName": "none"}}), "InvalidPlacementGroup.Unknown"),
        (json!({"NetworkInterfaces": [{"DeviceIndex": 0, "InterfaceType": "efa"}]}), "Unsupported: "),
        (json!({"DryRun": true}), "DryRunOperation"),
    ] {
        let error = launch(more.clone());
        assert!(error.to_lowercase().contains(&code.to_lowercase()), "{more}: {error}");
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn faults_stand_in_front_of_the_api() {
    let rules = cloud().join("faults.yaml");
    let rule = |operation: &str, times: u32, code: &str, status: u32| {
        format!(
            "  - service: ec2\n    operation: {operation}\n    times: {times}\n    error: {{code: {code}, status: {status}}}\n"
        )
    };
    let text = "upstream: http://10.78.0.1\nport: 9999\nrules:\n".to_owned()
        + &rule("DescribeImages", 1, "RequestLimitExceeded", 503)
        + &rule("RunInstances", 9, "InsufficientInstanceCapacity", 500);
    std::fs::write(&rules, text).expect("a file can be written");
    let cache = std::env::var("EFA_GEN_REHEARSAL_TOOLS").expect("tests/rehearsal/run sets it");
    let program = std::path::Path::new(&cache).join("../venv/bin/microburst");
    let mut proxy = on_network(&[program.as_os_str(), "-c".as_ref(), rules.as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("microburst starts");
    let ask = |action: &str| {
        let form = format!("Action={action}&Version=2016-11-15&ImageId=ami-1&MinCount=1&MaxCount=1");
        let sign = "Authorization: AWS4-HMAC-SHA256 Credential=rehearsal/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0";
        ran(&mut on_network(&["curl", "-s", "-H", sign, "-d", &form, "http://127.0.0.1:9999/"])).text
    };
    let first = wait_for("microburst", 20, || Some(ask("DescribeImages")).filter(|answer| !answer.is_empty()));
    assert!(first.contains("RequestLimitExceeded"), "{first}");
    assert!(ask("DescribeImages").contains("DescribeImagesResponse"), "the second call passes");
    assert!(ask("RunInstances").contains("InsufficientInstanceCapacity"));
    // on_network becomes the command, so this is microburst's own process.
    proxy.kill().expect("it runs");
    proxy.wait().expect("it ends");
}
