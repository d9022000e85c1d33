//! The user-data, through cloud-init's Ec2 datasource and IMDSv2, on a guest that nobody logs in to.

use std::fs;

use crate::machine::{Guest, assert_same, base_image, rendered, steer, wait_for};
use crate::script;

/// Waits for words on the console of a machine.
fn says(guest: &Guest, words: &str) {
    wait_for(words, 300, || guest.console().contains(words).then_some(()));
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_instance_installs_itself() {
    let user_data = fs::read_to_string(rendered("script", &[]).join("user-data.yaml")).expect("it is rendered");
    let guest = Guest::start(&base_image(), &user_data);
    // The console alone tells: nobody is logged in.
    wait_for("the end on the console", 600, || {
        let console = guest.console();
        assert!(!console.contains("FAILED in stage"), "{console}");
        console.contains("EFA-GEN COMPLETE: every stage is done.").then_some(())
    });
    let console = guest.console();
    for words in
        ["[1/10] Prepare the machine", "Upgrade every package", "rebooting", "[10/10] Check what was installed"]
    {
        assert!(console.contains(words), "the console does not say {words:?}");
    }
    guest.trust();
    let log = guest.root("cat /var/log/cloud-init.log").good();
    assert!(log.contains("Fetching Ec2 IMDSv2 API Token"), "cloud-init spoke IMDSv2");
    assert!(guest.root("cloud-init query ds.meta_data.instance-id").good().contains(&guest.id));
    assert_eq!(guest.root("cloud-init query userdata").good().trim_end(), user_data.trim_end());
    assert_same(&script::reference(), &guest.listing(false));
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_metadata_service_answers_nobody_without_a_token() {
    let guest = Guest::launch(&base_image(), "#cloud-config\n# a secret\n");
    let ask =
        |more: &str| guest.root(&format!("curl -s -o /dev/null -w '%{{http_code}}' {more} http://169.254.169.254"));
    for path in
        ["/latest/meta-data/instance-id", "/latest/user-data", "/latest/dynamic/instance-identity/document", "/"]
    {
        let line = format!("curl -s -o /dev/null -w '%{{http_code}}' http://169.254.169.254{path}");
        // sudo has a word of its own while nobody answers for the machine's name.
        assert!(guest.root(&line).good().starts_with("401"), "{path}");
    }
    assert_eq!(ask("-H 'X-aws-ec2-metadata-token: guessed'").good(), "401");
    assert_eq!(ask("-X PUT").good(), "404", "a token is asked for at its own path");
    let token =
        "T=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)";
    let read = "curl -sf -H \"X-aws-ec2-metadata-token: $T\" http://169.254.169.254/latest/user-data";
    assert_eq!(guest.root(&format!("{token}; {read}")).good(), "#cloud-config\n# a secret\n");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_failure_is_told_on_the_console_and_the_next_boot_goes_on() {
    let user_data = fs::read_to_string(rendered("script", &[]).join("user-data.yaml")).expect("it is rendered");
    let guest = Guest::start(&base_image(), &user_data);
    let at = format!("address={}", guest.address);
    steer("cut-off", &[&at, "server=10.78.0.2"]);
    says(&guest, "FAILED in stage prepare, step: Install the tools that this script calls");
    says(&guest, "hint: see whether the package sources answer from this machine");
    let console = guest.console();
    assert!(console.contains("Temporary failure resolving") && !console.contains("EFA-GEN COMPLETE"), "{console}");
    steer("reconnect", &[&at, "server=10.78.0.2"]);
    guest.trust();
    guest.cut_power();
    guest.power_on();
    says(&guest, "[2/10] ");
}
