//! The script is cut: killed, or the machine loses its power. Started again, it ends where an undisturbed run ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::image::{STAGES, image_before, run_stage};
use crate::machine::{Guest, SCRIPT, assert_same, base_image, beside, rendered, wait_for};
use crate::sample::share;
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
    // The first cut may come before SSH has told of the start.
    let started = guest.root(&format!("bash {SCRIPT} --start"));
    assert!([0, 255].contains(&started.code), "{}", started.text);
    // Eighty boots beside other tests.
    guest.wait_until_complete(1600);
    let cuts = guest.root("cat /root/cuts").good();
    let steps = guest.root(&format!("grep -cE '^  step ' {SCRIPT}; grep -c '^  step seal' {SCRIPT}")).good();
    let counts: Vec<usize> = steps.lines().map(|line| line.parse().expect("a number")).collect();
    // Before and after each step's mark; and before each stage's own.
    let stages = STAGES.len();
    assert_eq!(cuts.lines().count(), 2 * (counts[0] - counts[1]) + stages, "{cuts}");
    assert_same(&script::reference(), &guest.listing(false));
}

/// A generator of no quality, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The run's seed: given, to repeat a failure, or new.
fn random() -> Random {
    let given = std::env::var("EFA_GEN_REHEARSAL_SEED").ok();
    let seed = given.map_or_else(|| u64::from(std::process::id()), |text| text.parse().expect("a number"));
    eprintln!("EFA_GEN_REHEARSAL_SEED={seed}");
    Random(seed)
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn at_random_moments() {
    let mut random = random();
    let mut hits = Vec::new();
    // A script may be complete before the tenth cut: then another machine goes on.
    while hits.len() < 10 {
        let guest = Guest::launch(&base_image(), "");
        guest.give_script(&rendered("script", &[]));
        cut_until_complete(&guest, &mut random, &mut hits);
        assert_same(&script::reference(), &guest.listing(false));
    }
    let moments = hits.iter().collect::<BTreeSet<_>>().len();
    assert!(moments >= 3, "ten cuts hit {moments} moments: {hits:?}");
}

/// Stopped first: else the script may live long enough to report what it started, and systemd killed, as failed.
const KILL: &str = "for signal in STOP KILL; do systemctl kill --kill-who=all --signal=$signal efa-gen-install; done; ";

/// Cuts what runs until there are ten hits, by killing the script and by the power in turns; then lets it end.
fn cut_until_complete(guest: &Guest, random: &mut Random, hits: &mut Vec<String>) {
    // The guest may be rebooting just now.
    let start = || {
        wait_for("the script's start", 240, || (guest.root(&format!("bash {SCRIPT} --start")).code == 0).then_some(()));
    };
    while hits.len() < 10 && guest.root("test -e /var/lib/efa-gen/complete").code != 0 {
        start();
        std::thread::sleep(Duration::from_millis(200 + random.below(12_000)));
        let by_power = hits.len() % 2 == 1;
        let kill = if by_power { "" } else { KILL };
        let state = "systemctl is-active efa-gen-install; tail -n 1 /var/log/efa-gen/install.log";
        let seen = guest.root(&format!("{state}; {kill}true"));
        if seen.code != 0 || !seen.text.starts_with("active") {
            continue;
        }
        hits.push(seen.text.lines().last().unwrap_or_default().to_owned());
        eprintln!("cut: {}", hits.last().expect("one"));
        if by_power {
            guest.cut_power();
            guest.power_on();
        }
    }
    start();
    guest.wait_until_complete(900);
}

/// Every boundary of the rendered script's steps, "before STAGE.STEP" or "after STAGE.STEP", but the seal's: it ends the
/// logins by which this looks, so a build that is killed in it and resumed shows it (build_cuts.rs).
fn boundaries() -> Vec<String> {
    let script = std::fs::read_to_string(rendered("script", &[]).join("install.sh")).expect("the script");
    let steps = script.lines().filter_map(|line| line.strip_prefix("  step ")?.split(' ').next());
    let installed = steps.filter(|step| !step.starts_with("seal."));
    installed.flat_map(|step| ["before", "after"].map(|side| format!("{side} {step}"))).collect()
}

fn stage_of(boundary: &str) -> &str {
    boundary.split(&[' ', '.']).nth(1).expect("SIDE STAGE.STEP")
}

/// Cuts one guest that knew no cut before, from the image of the stage before; then the stage is done again, to the files
/// that it leaves undisturbed.
fn cut_alone(boundary: &str, expected: &[String]) {
    let stage = stage_of(boundary);
    let guest = Guest::launch(&image_before(stage), "");
    prepare(&guest, &format!("cut {boundary}"));
    guest.root(&format!("BASH_ENV=/root/hook.sh bash {SCRIPT} --stage {stage}"));
    guest.wait_until_up();
    assert_eq!(guest.root("cat /root/cuts").good().trim_end(), boundary);
    guest.root(&format!("test ! -e /var/lib/efa-gen/done/{stage}")).good();
    run_stage(&guest, stage);
    assert_same(expected, &guest.listing(false));
}

fn undisturbed(stage: &str) -> Vec<String> {
    let guest = Guest::launch(&image_before(stage), "");
    guest.give_script(&rendered("script", &[]));
    run_stage(&guest, stage);
    guest.listing(false)
}

/// In the middle of a package's own script, at the worst moment that was met: the certificates are linked, their hashes
/// are not, and Debian's update-ca-certificates would take that for all there is to do.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn between_certificates_and_their_hashes() {
    let guest = Guest::launch(&image_before("prepare"), "");
    guest.give_script(&rendered("script", &[]));
    let cut = b"#!/bin/sh\n[ \"$1\" != rehash ] || { touch /root/hook-was-here; sync; systemctl reboot --force --force; sleep 60; }\n\
                exec /usr/bin/openssl \"$@\"\n";
    guest.write("/usr/local/bin/openssl", "0755", cut);
    // Else apt gives packages a PATH without it.
    let path = b"DPkg::Path \"/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\";\n";
    guest.write("/etc/apt/apt.conf.d/hook", "0644", path);
    guest.root(&format!("bash {SCRIPT} --stage prepare"));
    guest.wait_until_up();
    guest.root("test -e /root/hook-was-here && ls /etc/ssl/certs/ca-certificates.crt.new").good();
    guest.root("rm /usr/local/bin/openssl /root/hook-was-here /etc/apt/apt.conf.d/hook").good();
    run_stage(&guest, "prepare");
    assert_same(&undisturbed("prepare"), &guest.listing(false));
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn at_a_step_boundary_alone() {
    let all = boundaries();
    assert_eq!(all.iter().map(|one| stage_of(one)).collect::<BTreeSet<_>>().len(), STAGES.len(), "{all:?}");
    let chosen = share(all);
    let stages: BTreeSet<&str> = chosen.iter().map(|one| stage_of(one)).collect();
    let expected: BTreeMap<&str, Vec<String>> = stages.into_iter().map(|stage| (stage, undisturbed(stage))).collect();
    std::thread::scope(|scope| {
        for some in chosen.chunks(chosen.len().div_ceil(2)) {
            scope.spawn(|| some.iter().for_each(|boundary| cut_alone(boundary, &expected[stage_of(boundary)])));
        }
    });
}
