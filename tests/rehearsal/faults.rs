//! What goes wrong in a guest: each fault ends the script with the step's name, the cause and a way on, marks nothing done
//! that is not, and a new run, with the fault gone, goes on from there.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::image::{image_before, run_stage};
use crate::machine::{Guest, Ran, SCRIPT, base_image, beside, cloud, on_network, ran, rendered, steer, wait_for};
use crate::sample::share;

fn fault(guest: &Guest, name: &str) {
    steer("fault", &[&format!("address={}", guest.address), &format!("fault={name}")]);
}

fn stage(guest: &Guest, name: &str) -> Ran {
    guest.root(&format!("bash {SCRIPT} --stage {name}"))
}

/// A stage fails as expected; with the fault mended it succeeds. Nothing of it was marked done or complete.
#[track_caller]
fn fails_then_goes_on(guest: &Guest, name: &str, code: i32, words: &[&str], mend: impl FnOnce(&Guest)) {
    let said =
        stage(guest, name).failed(code, &["FAILED in stage", "\n  hint: ", "then go on with this step: sudo bash "]);
    for word in words {
        assert!(said.contains(word), "does not say {word:?}:\n{said}");
    }
    guest.root(&format!("test ! -e /var/lib/efa-gen/done/{name} && test ! -e /var/lib/efa-gen/complete")).good();
    mend(guest);
    run_stage(guest, name);
    guest.root(&format!("test -e /var/lib/efa-gen/done/{name}")).good();
}

/// Where the disk fills up: while a step is at work, before a command that begins so.
struct DiskFull {
    stage: &'static str,
    step: &'static str,
    command: &'static str,
    title: &'static str,
}

impl fmt::Display for DiskFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.stage, self.step)
    }
}

/// The stage fails there; with space again, the same stage succeeds.
fn disk_full(&DiskFull { stage: name, step, command, title }: &DiskFull) {
    let before = if name == "seal" { "check" } else { name };
    let guest = Guest::launch(&image_before(before), "");
    guest.give_script(&rendered("script", &[]));
    if before != name {
        run_stage(&guest, before);
    }
    guest.write("/root/hook.sh", "0644", &fs::read(beside("hook.sh")).expect("the hook"));
    guest.write("/root/hook", "0644", format!("pause {}_{step} {command}", name.replace('-', "_")).as_bytes());
    let said = std::thread::scope(|scope| {
        let run = scope.spawn(|| guest.root(&format!("BASH_ENV=/root/hook.sh bash {SCRIPT} --stage {name}")));
        let paused = || guest.root("test -e /run/paused").code == 0;
        wait_for("the step", 600, || (run.is_finished() || paused()).then_some(()));
        if run.is_finished() {
            panic!("{name}.{step} ended before it was reached: {}", run.join().expect("it is run").text);
        }
        // The journal would give room back: on a full disk it removes its oldest files.
        guest.root("journalctl --relinquish-var").good();
        // Again while something else, such as the daily look for updates, does.
        wait_for("a disk that stays full", 120, || {
            steer("leave-free", &[&format!("address={}", guest.address), "mib=0"]);
            std::thread::sleep(std::time::Duration::from_secs(1));
            (guest.root("stat --file-system --format %a /").good().trim() == "0").then_some(())
        });
        guest.root("touch /run/go-on").good();
        run.join().expect("it is run")
    });
    assert_eq!(said.code, 6, "{name}.{step}: {}", said.text);
    assert!(said.text.contains(&format!("FAILED in stage {name}, step: {title}")), "{}", said.text);
    assert!(said.text.contains("\n  hint: "), "{}", said.text);
    let cause = ["No space left on device", "the disk is full", "is the disk full?"];
    assert!(cause.iter().any(|words| said.text.contains(words)), "{name}.{step}: {}", said.text);
    guest.root(&format!("test ! -e /var/lib/efa-gen/done/{name}.{step}")).good();
    let nothing = if name == "seal" { "-s /etc/machine-id" } else { "! -e /var/lib/efa-gen/complete" };
    guest.root(&format!("test {nothing}")).good();
    steer("leave-free", &[&format!("address={}", guest.address), "mib=40000"]);
    run_stage(&guest, name);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_disk_is_full_in_a_stage() {
    let all = [
        ("prepare", "tools", "package", "Install the tools that this script calls"),
        ("update", "upgrade", "package", "Upgrade every package"),
        ("kernel", "compilers", "package", "Install compilers and libraries"),
        ("driver", "driver", "run", "Install NVIDIA driver 580.159.04"),
        ("efa", "install", "in_folder", "Run EFA installer 1.50.0"),
        ("nccl", "build", "checkout", "Check out the pinned commit, build, install"),
        ("plugin", "build", "checkout", "Check out the pinned commit, build, install"),
        ("nccl-tests", "build", "checkout", "Check out the pinned commit, build"),
        ("environment", "memlock", "write_file", "Let every session lock memory"),
        ("check", "memlock", "assert_memlock", "Check the memlock limit"),
        ("seal", "kernels", "assert_dkms_installed", "Check that every kernel can boot"),
    ];
    let all = all.map(|(stage, step, command, title)| DiskFull { stage, step, command, title });
    share(all.into()).iter().for_each(disk_full);
}

/// Before it begins, where a stage knows what it needs.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_stage_that_needs_more_than_the_disk_has_does_not_begin() {
    let guest = Guest::launch(&image_before("nccl"), "");
    guest.give_script(&rendered("script", &[]));
    let at = format!("address={}", guest.address);
    steer("leave-free", &[&at, "mib=6000"]);
    let words = ["step: Check out the pinned commit", "MiB free, this stage needs 6144 MiB"];
    fails_then_goes_on(&guest, "nccl", 9, &words, |_| {
        steer("leave-free", &[&at, "mib=40000"]);
    });
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_lock_held_for_a_minute_is_waited_for() {
    let guest = Guest::launch(&base_image(), "");
    guest.give_script(&rendered("script", &[]));
    let hold = "import fcntl, time; file = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); time.sleep(60)";
    guest.root(&format!("nohup python3 -c \"{hold}\" >/dev/null 2>&1 & sleep 0.5")).good();
    let started = std::time::Instant::now();
    let said = stage(&guest, "prepare").good();
    assert!(said.contains("note: waiting for the lock on /var/lib/dpkg/lock-frontend"), "{said}");
    assert!(started.elapsed().as_secs() >= 50, "it waited");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn no_name_is_resolved() {
    let guest = Guest::launch(&base_image(), "");
    guest.give_script(&rendered("script", &[]));
    let at = format!("address={}", guest.address);
    steer("cut-off", &[&at, "server=10.78.0.2"]);
    let words = ["step: Install the tools that this script calls", "Temporary failure resolving", "package sources"];
    fails_then_goes_on(&guest, "prepare", 6, &words, |_| {
        steer("reconnect", &[&at, "server=10.78.0.2"]);
    });
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_mirror_breaks_off_answers_nothing_or_serves_something_else() {
    let guest = Guest::launch(&image_before("efa"), "");
    guest.give_script(&rendered("script", &[]));
    let step = "step: Download the installer";
    for (name, code, words) in [
        ("wrong", 3, "wrong content: SHA-256 is"),
        ("cut", 5, "curl failed with status"),
        ("down", 5, "HTTP status 503"),
    ] {
        fault(&guest, name);
        stage(&guest, "efa").failed(code, &[step, words, "\n  hint: "]);
        guest
            .root("cd /var/lib/efa-gen && test ! -e src/efa.tar.gz && test ! -e done/efa.fetch && test ! -e complete")
            .good();
    }
    fault(&guest, "none");
    run_stage(&guest, "efa");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_installer_fails() {
    let guest = Guest::launch(&image_before("efa"), "");
    guest.give_script(&rendered("script", &[]));
    guest.root("touch /etc/rehearsal-installer-fails").good();
    let words = ["step: Run EFA installer 1.50.0", "exit status 1, 3 times", "Error: failed to install rdma-core"];
    fails_then_goes_on(&guest, "efa", 6, &words, |guest| {
        guest.root("rm /etc/rehearsal-installer-fails").good();
    });
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_distributions_archive_is_not_signed_by_its_key() {
    let guest = Guest::launch(&base_image(), "");
    guest.give_script(&rendered("script", &[]));
    // The guest trusts another key than the one that signs: to apt, that is a forged archive.
    guest.root("cd /usr/share/keyrings && mv debian-archive-keyring.gpg kept && cp debian-archive-bookworm-stable.gpg debian-archive-keyring.gpg").good();
    let words = ["step: Install the tools that this script calls", "is not signed"];
    fails_then_goes_on(&guest, "prepare", 6, &words, |guest| {
        guest.root("cd /usr/share/keyrings && mv kept debian-archive-keyring.gpg").good();
    });
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_reboot_that_does_not_come_is_said_and_made_up_for() {
    let guest = Guest::launch(&image_before("environment"), "");
    guest.give_script(&rendered("script", &[]));
    guest.write("/usr/local/sbin/shutdown", "0755", b"#!/bin/sh\nexit 0\n");
    let said = stage(&guest, "environment").failed(7, &["the machine did not reboot within 5 minutes", "\n  hint: "]);
    assert!(said.contains("FAILED in stage environment"), "{said}");
    guest.root("test ! -e /var/lib/efa-gen/complete && test -e /var/lib/efa-gen/reboot").good();
    guest.root("rm /usr/local/sbin/shutdown").good();
    // The next run makes the reboot first, and then goes on.
    guest.root(&format!("bash {SCRIPT} --start")).good();
    guest.wait_until_complete(240);
    let log = guest.root("cat /var/log/efa-gen/install.log").good();
    assert!(log.contains("A reboot is due."), "{log}");
}

/// The signature is checked where efa-gen runs, before any guest sees the tarball.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_tarball_with_a_bad_signature_gets_no_name() {
    let fetch = |stack: &Path, out: &str| {
        let mut command = on_network(&[env!("CARGO_BIN_EXE_efa-gen"), "fetch", "--efa", "1.50.0"]);
        command.args(["--mirror", "http://mirror.rehearsal.test", "--stack-file"]).arg(stack);
        ran(command.arg("--out").arg(cloud().join(out)))
    };
    let stack = cloud().join("stack.toml");
    let said = fetch(&stack, "fetched").good();
    assert!(said.contains("good signature") && said.contains("Rehearsal <rehearsal@rehearsal.test>"), "{said}");

    // Another tarball under the same signature, with its digest put right: the signature alone is left to refuse it.
    let folder = cloud().join("mirror/efa-installer.amazonaws.com");
    let name = "aws-efa-installer-1.50.0.tar.gz";
    let mut forged = fs::read(folder.join(name)).expect("the tarball");
    forged.push(0);
    fs::write(folder.join("forged.tar.gz"), &forged).expect("a file can be written");
    fs::copy(folder.join(format!("{name}.sig")), folder.join("forged.tar.gz.sig")).expect("a file can be copied");
    let sums =
        std::process::Command::new("sha256sum").arg(folder.join(name)).arg(folder.join("forged.tar.gz")).output();
    let sums = String::from_utf8(sums.expect("sha256sum").stdout).expect("text");
    let digests: Vec<&str> = sums.lines().map(|line| &line[..64]).collect();
    let text = fs::read_to_string(&stack).expect("the stack file");
    let text = text.replace(name, "forged.tar.gz").replace(digests[0], digests[1]);
    fs::write(cloud().join("forged.toml"), text).expect("a file can be written");
    fetch(&cloud().join("forged.toml"), "forged").failed(3, &["signature"]);
    assert!(!cloud().join("forged/forged.tar.gz").exists());
}
