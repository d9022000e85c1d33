//! The script is cut: killed, or the machine loses its power. Started again, it ends where an undisturbed run ends.

use std::time::Duration;

use crate::image::{STAGES, image_before, run_stage};
use crate::machine::{Guest, SCRIPT, assert_same, base_image, beside, full, rendered};
use crate::script;

/// Gives the guest the script and the hook, and makes systemd start the script again after each cut.
fn prepare(guest: &Guest, mode: &str) {
    guest.give_script(&rendered("script", &[]));
    guest.write("/root/hook.sh", "0644", &std::fs::read(beside("hook.sh")).expect("the hook"));
    guest.write("/root/hook", "0644", mode.as_bytes());
    guest.root("touch /root/cuts; mkdir -p /etc/systemd/system/efa-gen-install.service.d").good();
    let unit = b"[Unit]\nStartLimitIntervalSec=0\n[Service]\nEnvironment=BASH_ENV=/root/hook.sh\nRestart=on-failure\nRestartSec=1\n";
    guest.write("/etc/systemd/system/efa-gen-install.service.d/hook.conf", "0644", unit);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn at_every_step_boundary() {
    let guest = Guest::launch(&base_image(), "");
    prepare(&guest, "cut");
    guest.root(&format!("bash {SCRIPT} --start")).good();
    guest.wait_until_complete(900);
    let cuts = guest.root("cat /root/cuts").good();
    let steps = guest.root(&format!("grep -cE '^  step ' {SCRIPT}; grep -c '^  step seal' {SCRIPT}")).good();
    let counts: Vec<usize> = steps.lines().map(|line| line.parse().expect("a number")).collect();
    // Before and after each step's mark; and before each stage's own.
    let stages = STAGES.len();
    assert_eq!(cuts.lines().count(), 2 * (counts[0] - counts[1]) + stages, "{cuts}");
    assert_same(script::reference(), &guest.listing(false));
}

/// A generator of no quality, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn at_random_moments() {
    let seed = std::env::var("EFA_GEN_REHEARSAL_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("EFA_GEN_REHEARSAL_SEED={seed}");
    let mut random = Random(seed);
    let guest = Guest::launch(&base_image(), "");
    guest.give_script(&rendered("script", &[]));
    for cut in 0..10 {
        guest.root(&format!("bash {SCRIPT} --start")).good();
        std::thread::sleep(Duration::from_millis(200 + random.below(9000)));
        if cut % 2 == 0 {
            // The guest may be rebooting just now.
            let _ = guest.root("systemctl kill --kill-who=all --signal=KILL efa-gen-install");
            guest.wait_until_up();
        } else {
            guest.cut_power();
            guest.power_on();
        }
    }
    guest.root(&format!("bash {SCRIPT} --start")).good();
    guest.wait_until_complete(900);
    assert_same(script::reference(), &guest.listing(false));
}

/// Each boundary on a guest that knew no cut before, from the image of the stage before it.
#[test]
#[ignore = "needs root and the rehearsal cloud, and takes long: tests/rehearsal/run --full"]
fn at_each_step_boundary_alone() {
    if !full() {
        eprintln!("left out: each boundary on a guest of its own, which tests/rehearsal/run --full does");
        return;
    }
    for stage in STAGES {
        let image = image_before(stage);
        let undisturbed = Guest::launch(&image, "");
        run_stage(&undisturbed, stage);
        let expected = undisturbed.listing(false);
        let steps = undisturbed.root(&format!("sed -n 's/^  step \\({stage}\\.[a-z-]*\\) .*/\\1/p' {SCRIPT}")).good();
        assert!(!steps.is_empty(), "stage {stage} has steps");
        for boundary in steps.lines().flat_map(|step| [format!("before {step}"), format!("after {step}")]) {
            let guest = Guest::launch(&image, "");
            prepare(&guest, &format!("cut {boundary}"));
            guest.root(&format!("BASH_ENV=/root/hook.sh bash {SCRIPT} --stage {stage}"));
            assert_eq!(guest.root("cat /root/cuts").good().trim_end(), boundary);
            run_stage(&guest, stage);
            assert_same(&expected, &guest.listing(false));
        }
    }
}
