//! The user-data, through cloud-init's Ec2 datasource and IMDSv2, on a guest that nobody logs in to.

use std::fs;

use sha2::{Digest, Sha256};

use crate::machine::{Guest, assert_same, base_image, rendered, steer, wait_for};
use crate::script;

/// Has the metadata service tell a guest's user-data.
const READ_USER_DATA: &str = "T=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
    http://169.254.169.254/latest/api/token); \
    curl -sf -H \"X-aws-ec2-metadata-token: $T\" http://169.254.169.254/latest/user-data";

/// User-data as EC2 is given it, and the same as people read it.
fn user_data() -> (Vec<u8>, String) {
    let folder = rendered("script", &[]);
    let compressed = fs::read(folder.join("user-data.yaml.gz")).expect("it is rendered");
    (compressed, fs::read_to_string(folder.join("user-data.yaml")).expect("it is rendered"))
}

/// Waits for words on the console of a machine.
fn says(guest: &Guest, words: &str) {
    wait_for(words, 300, || guest.console().contains(words).then_some(()));
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_instance_installs_itself() {
    let (compressed, readable) = user_data();
    let guest = Guest::start(&base_image(), &compressed);
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
    let told = guest.root(&format!("{READ_USER_DATA} | sha256sum")).good();
    let digest: String = Sha256::digest(&compressed).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(told.starts_with(&digest), "the metadata service answers the very bytes: {told}");
    assert_eq!(guest.root("cloud-init query userdata").good().trim_end(), readable.trim_end());
    // What cloud-init wrote is the text in the user-data, without what it is indented by.
    let written = guest.root("sed 's/^\\(.\\)/   \\1/' /var/lib/efa-gen/install.sh").good();
    assert!(readable.contains(&format!("  content: |\n{written}- path: ")), "{written}");
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
    assert_eq!(guest.root(READ_USER_DATA).good(), "#cloud-config\n# a secret\n");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_failure_is_told_on_the_console_and_the_next_boot_goes_on() {
    let guest = Guest::start(&base_image(), &user_data().0);
    let at = format!("address={}", guest.address);
    steer("cut-off", &[&at, "server=10.78.0.2"]);
    says(&guest, "FAILED in stage prepare, step: Install the tools that this script calls");
    says(&guest, "hint: see whether this machine reaches the package sources");
    let console = guest.console();
    assert!(console.contains("Temporary failure resolving") && !console.contains("EFA-GEN COMPLETE"), "{console}");
    steer("reconnect", &[&at, "server=10.78.0.2"]);
    guest.trust();
    guest.cut_power();
    guest.power_on();
    says(&guest, "[2/10] ");
}
