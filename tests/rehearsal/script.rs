//! The install script on a guest, from nothing to complete, and once more.

use std::fs;
use std::process::Command;

use crate::canaries::{IN_HOME, ON_MACHINE, SECRET};
use crate::image::{image_before, run_stage};
use crate::machine::{Guest, Ran, SCRIPT, assert_same, base_image, cloud, once, quoted, ran, rendered};

/// What every other way to the end must lead to: the listing after one undisturbed run.
pub fn reference() -> Vec<String> {
    let listing = once("reference", || {
        let guest = Guest::launch(&base_image(), "");
        guest.give_script(&rendered("script", &[]));
        let started = guest.root(&format!("bash {SCRIPT} --start")).good();
        assert!(!started.contains("FAILED"), "{started}");
        guest.wait_until_complete(600);
        inspect(&guest);
        run_again(&guest);
        guest.listing(false).join("\n")
    });
    listing.lines().map(str::to_owned).collect()
}

/// Log, state, and what the artifacts wrote down of how they were called.
fn inspect(guest: &Guest) {
    let log = guest.root("cat /var/log/efa-gen/install.log").good();
    assert_eq!(log.matches("=== ").count(), 5, "one start and three reboots, each a line in the log:\n{log}");
    for words in [
        "[1/11] Prepare the machine",
        "[10/11] Check what was installed",
        "note: no EFA device on this machine",
        "EFA-GEN COMPLETE: every stage is done.",
        "EFA device not detected, skipping test.",
    ] {
        assert!(log.contains(words), "the log does not say {words:?}");
    }
    let calls = "cat /opt/nccl/share/rehearsal-call /opt/aws-ofi-nccl/share/rehearsal-call /opt/nccl-tests/build/rehearsal-call \
                 /var/log/nvidia-installer.log /var/log/cuda-installer.log";
    let calls = guest.root(calls).good();
    for words in [
        "NVCC_GENCODE=-gencode=arch=compute_70,code=sm_70 -gencode=arch=compute_90,code=sm_90",
        "--prefix=/opt/aws-ofi-nccl --with-libfabric=/opt/amazon/efa",
        "MPI=1",
        "--silent --no-drm --kernel-name=",
        "--silent --toolkit --toolkitpath=/usr/local/cuda-13.0",
    ] {
        assert!(calls.contains(words), "not called with {words:?}:\n{calls}");
    }
    guest
        .root("test ! -e /etc/systemd/system/efa-gen-install.service && ! systemctl is-enabled efa-gen-install")
        .good();
    guest
        .root("grep -q modprobe.blacklist=nouveau /boot/grub/grub.cfg && ! ls /var/lib/efa-gen/src/* 2>/dev/null")
        .good();
    let kernels = guest.root("ls /boot/vmlinuz-* | wc -l; uname -r; modinfo -k $(uname -r) -F version nvidia").good();
    assert!(
        kernels.starts_with("2\n") && kernels.ends_with("580.159.04\n"),
        "a new kernel, and the driver for it: {kernels}"
    );
}

/// A second run finds everything done and writes nothing.
fn run_again(guest: &Guest) {
    let before = guest.listing(true);
    let said = guest.root(&format!("bash {SCRIPT}")).good();
    assert!(said.contains("EFA-GEN COMPLETE: every stage is done already."), "{said}");
    assert_same(&before, &guest.listing(true));
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn from_nothing_to_complete_and_again() {
    assert!(reference().len() > 10_000, "the listing is of a whole system");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_machine_of_another_distribution_is_refused_before_anything_is_done() {
    let guest = Guest::launch(&base_image(), "");
    guest.give_script(&rendered("script", &[]));
    guest.root("sed -i s/^VERSION_ID=.*/VERSION_ID=11/ /usr/lib/os-release").good();
    let said = guest
        .root(&format!("bash {SCRIPT}"))
        .failed(9, &["FAILED in stage prepare, step: Check that this is Debian 12"]);
    assert!(said.contains("this machine is debian 11 x86_64, not debian 12 x86_64"), "{said}");
    guest.root("test ! -e /var/lib/efa-gen/done/prepare.machine && test ! -e /var/lib/efa-gen/complete").good();
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn without_a_gpu_from_nothing_to_a_sealed_machine() {
    let guest = Guest::launch(&base_image(), "");
    guest.give_script(&rendered("no-gpu", &["--no-gpu"]));
    guest.root(&format!("bash {SCRIPT} --start")).good();
    guest.wait_until_complete(600);
    let log = guest.root("cat /var/log/efa-gen/install.log").good();
    assert!(log.contains("[6/7] Check what was installed") && !log.to_lowercase().contains("nccl"), "{log}");
    guest.root("test -x /opt/amazon/efa/bin/fi_info && test -x /opt/amazon/openmpi/bin/mpirun").good();
    let none =
        guest.root("ls -d /usr/local/cuda* /opt/nccl* /opt/aws-ofi-nccl /usr/bin/nvidia-smi 2>/dev/null || true");
    assert_eq!(none.good(), "");
    run_again(&guest);
    // The seal ends the logins, and so do the canaries: all of it is one command.
    guest.write("/run/plant.sh", "0600", plant().as_bytes());
    let caller = ran(&mut guest.ssh("echo ${SSH_CONNECTION%% *}")).good();
    guest
        .root(&format!(
            "bash /run/plant.sh && bash {SCRIPT} --stage seal && test ! -s /etc/machine-id && ! ls /etc/ssh/ssh_host_*"
        ))
        .good();
    guest.shut_down();
    let image = guest.keep("rehearsal-no-gpu-sealed");
    // What this machine has written, as the image has it; the base is nobody's.
    let disk = cloud().join("layers").join(image).join("upper");
    inside(&format!("test -e {}/var/lib/efa-gen/complete", disk.display())).good();
    for words in [SECRET, caller.trim()] {
        let found = inside(&format!("grep -r -l -a -F -D skip -e {} {}", quoted(words), disk.display()));
        assert_eq!((found.code, found.text.as_str()), (1, ""), "{words}");
    }
}

/// A command line among the cloud's mounts, where the disks of its machines are.
fn inside(line: &str) -> Ran {
    let enter = fs::read_to_string(cloud().join("enter")).expect("it can be read");
    let (_, rest) = enter.split_once("--net=/proc/").expect("it names the cloud's process");
    let (pid, _) = rest.split_once('/').expect("a path");
    ran(Command::new("nsenter").arg(format!("--mount=/proc/{pid}/ns/mnt")).args(["sh", "-c", line]))
}

/// Everything that an image must not have, in the homes of root, the login user, a service, a daemon whose home is /, and
/// somebody who is gone.
fn plant() -> String {
    let mut script = "set -e\nuseradd --home-dir /srv/service --create-home service\nuseradd --no-create-home --home-dir / daemon2\n".to_owned();
    let homes = ["root", "home/admin", "srv/service", "home/gone", "."];
    let in_homes = homes.iter().flat_map(|home| IN_HOME.iter().map(move |path| format!("{home}/{path}")));
    // The journal does not start with such a machine-id.
    let on_machine = ON_MACHINE.iter().filter(|path| **path != "etc/machine-id");
    for path in in_homes.chain(on_machine.map(|path| (*path).to_owned())) {
        let (folder, _) = path.rsplit_once('/').unwrap_or((".", ""));
        script += &format!(
            "mkdir -p -- {}; echo {SECRET} >>{}\n",
            quoted(&format!("/{folder}")),
            quoted(&format!("/{path}"))
        );
    }
    script
}

/// The default plan has no step for it. Another plan takes over a machine on which all before that stage is done.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_type_with_an_nvswitch_gets_the_fabric_manager_and_who_asks_gdrcopy() {
    let guest = Guest::launch(&image_before("driver"), "");
    let files = rendered("nvswitch", &["--instance-type", "p4d.24xlarge", "--with", "gdrcopy"]);
    guest.give_script(&files);
    guest.root(&format!("bash {SCRIPT} --stage driver")).failed(9, &["this machine was begun with another plan"]);
    guest.root(&format!("sed -n 's/^readonly PLAN=//p' {SCRIPT} >/var/lib/efa-gen/plan")).good();
    run_stage(&guest, "driver");
    let enabled = guest.root("nv-fabricmanager --version; systemctl is-enabled nvidia-fabricmanager").good();
    assert_eq!(enabled, "Fabric Manager version is : 580.159.04\nenabled\n");
    guest.root("cd /usr/share/nvidia/nvswitch && test -s fabricmanager.cfg && test -s dgxa100_hgxa100_topology").good();
    guest.root("test -s /usr/lib/libnvfm.so.1 && ! ls /var/lib/efa-gen/src/fabric*").good();
    assert_eq!(guest.root("modinfo -k $(uname -r) -F version gdrdrv").good(), "2.5\n");
    guest.root("test -s /opt/gdrcopy/lib/libgdrapi.so.2 && test ! -e /var/lib/efa-gen/src/gdrcopy").good();
    // Systemd has no complaint about its unit, which does nothing without a driver.
    let unit = unit_of(&fs::read_to_string(files.join("install.sh")).expect("the script"));
    guest.write("/etc/systemd/system/gdrdrv.service", "0644", unit.as_bytes());
    assert_eq!(guest.root("systemd-analyze verify gdrdrv.service 2>&1").good(), "");
    guest.root("systemctl enable gdrdrv.service && systemctl start gdrdrv.service && test ! -e /dev/gdrdrv").good();
}

/// What the script writes as gdrdrv.service.
fn unit_of(script: &str) -> String {
    let (_, rest) = script.split_once("/gdrdrv.service <<'EOF'\n").expect("the script writes it");
    rest.split_once("\nEOF\n").expect("it ends").0.to_owned() + "\n"
}

/// What the fabric manager and CUDA refuse on a B200, one after the other; and that nothing is left to refuse.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_type_with_nvlink_5_needs_all_that_its_plan_brings() {
    let guest = Guest::launch(&image_before("driver"), "");
    guest.give_script(&rendered("nvlink5", &["--instance-type", "p6-b200.48xlarge"]));
    guest.root(&format!("sed -n 's/^readonly PLAN=//p' {SCRIPT} >/var/lib/efa-gen/plan")).good();
    run_stage(&guest, "driver");
    guest.root("test -s /opt/nvidia/nvlsm/lib/libgrpc_mgr.so && test -s /usr/share/nvidia/nvlsm/nvlsm.conf").good();
    assert_eq!(guest.root("modinfo -k $(uname -r) -F license nvidia").good(), "Dual MIT/GPL\n");
    guest.write("/etc/efa-gen-hardware", "0644", b"instance-type p6-b200.48xlarge\ngpus 8\ngpu B200\n");
    let start = || guest.root("systemctl start nvidia-fabricmanager; systemctl status --no-pager nvidia-fabricmanager");
    let contexts = "/opt/efa-gen/bin/cuda-contexts";
    guest.root(contexts).failed(1, &["error 802"]);
    start().failed(3, &["Kernel module \"ib_umad\" has not been loaded"]);
    // What stage efa does, but for its packages.
    guest.write("/etc/modules-load.d/efa-gen-nvlink5.conf", "0644", b"mlx5_ib\nib_umad\n");
    start().failed(3, &["ibstat: command not found"]);
    guest.write("/usr/sbin/ibstat", "0755", b"#!/bin/sh\n");
    guest.root("mv /opt/nvidia/nvlsm /root/").good();
    start().failed(3, &["nvlsm\" does not exist"]);
    guest.root("mv /root/nvlsm /opt/nvidia/").good();
    guest.root(contexts).failed(1, &["error 802"]);
    let other = |question: &str, answer: &str| {
        let text =
            format!("#!/bin/sh\ncase $* in *{question}*) echo {answer} ;; *) exec /usr/sbin/modinfo \"$@\" ;; esac\n");
        guest.write("/usr/local/sbin/modinfo", "0755", text.as_bytes());
    };
    other("version", "535.129.03");
    start().failed(3, &["doesn't match driver version 535.129.03"]);
    guest.root("rm /usr/local/sbin/modinfo").good();
    start().good();
    let good = guest.root(contexts).good();
    assert_eq!(good.lines().filter(|line| line.contains(": context on NVIDIA B200")).count(), 8, "{good}");
    other("license", "NVIDIA");
    guest.root(&format!("PATH=/usr/local/sbin:$PATH {contexts}")).failed(1, &["error 100"]);
}
