//! The rehearsal cloud is what the other tests take it for: machines that boot and reboot, an API that refuses what EC2
//! refuses, faults in front of it. (The API's own tests, without guests, are cloud/tests.)

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Instant;

use serde_json::json;

use crate::machine::{Guest, base_image, beside, cloud, ec2, on_network, ran, tail, text, try_ec2, wait_for};

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
    wait_for("another boot", 240, || {
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
    let rule = |operation: &str, rest: &str| format!("  - {{service: ec2, operation: {operation}, {rest}}}\n");
    let text = "upstream: http://10.78.0.1\nport: 9999\nrules:\n".to_owned()
        + &rule("DescribeImages", "sequence: {fail: 1, pass: 2}, error: {code: RequestLimitExceeded, status: 503}")
        + &rule("RunInstances", "times: 9, error: {code: InsufficientInstanceCapacity, status: 500}")
        + &rule("CreateKeyPair", "times: 1, response: {abort_bytes: 0}")
        + &rule("DescribeVpcs", "times: 1, reset: true")
        + &rule("DescribeSubnets", "times: 1, latency: 1500");
    std::fs::write(&rules, text).expect("a file can be written");
    let cache = std::env::var("EFA_GEN_REHEARSAL_TOOLS").expect("tests/rehearsal/run sets it");
    let program = std::path::Path::new(&cache).join("../venv/bin/microburst");
    /// on_network becomes the command, so this is microburst's own process.
    struct Ended(std::process::Child);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let proxy = on_network(&[program.as_os_str(), "-c".as_ref(), rules.as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("microburst starts");
    let _proxy = Ended(proxy);
    let ask = |form: &str| {
        let form = format!("Version=2016-11-15&Action={form}");
        let sign = "Authorization: AWS4-HMAC-SHA256 Credential=rehearsal/20260101/us-east-1/ec2/aws4_request, \
                    SignedHeaders=host, Signature=0";
        ran(&mut on_network(&["curl", "-sS", "-H", sign, "-d", &form, "http://127.0.0.1:9999/"]))
    };
    wait_for("microburst", 240, || {
        (ran(&mut on_network(&["curl", "-sf", "http://127.0.0.1:9999/_microburst/rules"])).code == 0).then_some(())
    });
    for answer in ["RequestLimitExceeded", "DescribeImagesResponse", "DescribeImagesResponse", "RequestLimitExceeded"] {
        let said = ask("DescribeImages");
        assert!(said.text.contains(answer), "by call index, {answer}: {}", tail(&said.text, 5));
    }
    assert!(ask("RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1").text.contains("InsufficientInstanceCapacity"));
    // The call took effect; its answer is lost.
    assert_ne!(ask("CreateKeyPair&KeyName=lost-reply").code, 0);
    ec2("describe_key_pairs", &json!({"KeyNames": ["lost-reply"]}));
    assert_ne!(ask("DescribeVpcs").code, 0, "the connection is reset");
    assert!(ask("DescribeVpcs").text.contains("DescribeVpcsResponse"));
    let started = Instant::now();
    assert!(ask("DescribeSubnets").text.contains("DescribeSubnetsResponse"));
    assert!(started.elapsed().as_millis() >= 1500, "it came late");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn without_root_it_says_what_it_needs() {
    use std::os::unix::process::CommandExt;
    for (program, argument) in [("control.py", Some("up")), ("run", None), ("rootfs.sh", None)] {
        let copy = std::env::temp_dir().join(format!("efa-gen-{program}-{}", std::process::id()));
        std::fs::copy(beside(program), &copy).expect("a file can be copied");
        let mut command = std::process::Command::new(&copy);
        command.args(argument).args(argument.map(|_| "/nowhere")).current_dir("/").uid(65534).gid(65534);
        let said = ran(&mut command);
        std::fs::remove_file(&copy).expect("a file can be removed");
        said.failed(9, &["the rehearsal needs root: it makes mounts and network namespaces of its own"]);
    }
}
