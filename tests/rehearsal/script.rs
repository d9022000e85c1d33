//! The install script on a guest, from nothing to complete, and once more.

use crate::image::{image_before, run_stage};
use crate::machine::{Guest, SCRIPT, assert_same, base_image, once, rendered};

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
        "NVCC_GENCODE=-gencode=arch=compute_70,code=sm_70 -gencode=arch=compute_80,code=sm_80",
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
    // The seal ends the logins; what it has removed is told on the connection that asked for it.
    guest.root(&format!("bash {SCRIPT} --stage seal && test ! -s /etc/machine-id && ! ls /etc/ssh/ssh_host_*")).good();
}

/// The default plan has no step for it. Another plan takes over a machine on which all before that stage is done.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_type_with_an_nvswitch_gets_the_fabric_manager() {
    let guest = Guest::launch(&image_before("driver"), "");
    guest.give_script(&rendered("nvswitch", &["--instance-type", "p4d.24xlarge"]));
    guest.root(&format!("bash {SCRIPT} --stage driver")).failed(9, &["this machine was begun with another plan"]);
    guest.root(&format!("sed -n 's/^readonly PLAN=//p' {SCRIPT} >/var/lib/efa-gen/plan")).good();
    run_stage(&guest, "driver");
    let enabled = guest.root("nv-fabricmanager --version; systemctl is-enabled nvidia-fabricmanager").good();
    assert_eq!(enabled, "Fabric Manager version is : 580.159.04\nenabled\n");
    guest.root("cd /usr/share/nvidia/nvswitch && test -s fabricmanager.cfg && test -s dgxa100_hgxa100_topology").good();
    guest.root("test -s /usr/lib/libnvfm.so.1 && ! ls /var/lib/efa-gen/src/fabric*").good();
}
