//! The script's stages one by one, with an image of the machine between them, as Packer and a native build do it; and the
//! sealed image, launched again.

use std::collections::HashMap;

use crate::machine::{Guest, SCRIPT, base_image, once, rendered, wait_for};

/// The stages that every machine goes through, in the plan's order.
pub const STAGES: [&str; 10] =
    ["prepare", "update", "kernel", "driver", "efa", "nccl", "plugin", "nccl-tests", "environment", "check"];

/// The image of a machine on which everything before this stage is done. Made once for all stages.
pub fn image_before(stage: &str) -> String {
    if stage == STAGES[0] {
        return base_image();
    }
    let images = once("stages", || serde_json::to_string(&make_images()).expect("it is text"));
    let images: HashMap<String, String> = serde_json::from_str(&images).expect("JSON");
    images[stage].clone()
}

/// Runs each stage by itself and keeps the machine after each; the last one, "sealed", is fit to be launched.
fn make_images() -> HashMap<String, String> {
    let guest = Guest::launch(&base_image(), "");
    guest.give_script(&rendered("script", &[]));
    let mut images = HashMap::new();
    for (stage, next) in STAGES.iter().zip(STAGES.iter().skip(1).chain(&["sealed"])) {
        run_stage(&guest, stage);
        if *next == "sealed" {
            // DKMS makes a key where it signs what it builds; here it signs nothing.
            guest.root("mkdir -p /var/lib/dkms && touch /var/lib/dkms/mok.key /var/lib/dkms/mok.pub").good();
            guest.root(&format!("bash {SCRIPT} --stage seal")).good();
        }
        guest.shut_down();
        images.insert((*next).to_owned(), guest.keep(&format!("rehearsal-before-{next}")));
        if *next != "sealed" {
            guest.power_on();
        }
    }
    images
}

/// Runs one stage to its end, through the reboot after it if there is one.
pub fn run_stage(guest: &Guest, stage: &str) {
    let ran = guest.root(&format!("bash {SCRIPT} --stage {stage}"));
    // A reboot ends the connection, before or after the script's own end.
    let reboots = ran.text.contains("rebooting");
    assert!(ran.code == 0 || reboots, "{stage}: exit status {}: {}", ran.code, ran.text);
    if reboots {
        wait_for("the new boot", 240, || {
            (guest.root(&format!("bash {SCRIPT} --after-reboot")).code == 0).then_some(())
        });
    }
}

/// Two machines of one image have neither machine-id nor host keys in common.
pub fn each_has_its_own(first: &Guest, second: &Guest) {
    for identity in ["cat /etc/machine-id", "cut -d ' ' -f 1,2 /etc/ssh/ssh_host_*_key.pub"] {
        let (one, other) = (first.root(identity).good(), second.root(identity).good());
        assert!(!one.trim().is_empty());
        for line in one.lines() {
            assert!(!other.contains(line), "{identity}: both have {line}");
        }
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_sealed_image_is_launched_again_and_knows_nothing_of_its_builder() {
    let first = Guest::launch(&image_before("sealed"), "");
    let second = Guest::launch(&image_before("sealed"), "");
    each_has_its_own(&first, &second);
    let keys = first
        .root("cat /home/admin/.ssh/authorized_keys | wc -l; ls /root/.ssh/id_* /home/*/.ssh/id_* 2>/dev/null | wc -l");
    assert_eq!(keys.good(), "1\n0\n", "the launch's key alone");
    let gone = "/root/.*_history /home/*/.*_history /var/log/efa-gen /var/lib/dkms/mok.*";
    assert_eq!(first.root(&format!("ls -d {gone} 2>/dev/null || true")).good(), "");
    first.root("grep -q . /var/lib/efa-gen/complete && test ! -e /var/lib/efa-gen/src").good();
    let said = first.root("bash /var/lib/efa-gen/install.sh").good();
    assert!(said.contains("EFA-GEN COMPLETE: every stage is done already."), "{said}");
}
