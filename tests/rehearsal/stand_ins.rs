//! The stand-ins refuse what the real installers refuse: a plan that called them wrongly would not get through them.

use crate::image::image_before;
use crate::machine::{Guest, base_image};

const MIRROR: &str = "http://mirror.rehearsal.test";

/// A guest with a file of the mirror as /root/NAME.
fn with(guest: &Guest, path: &str, name: &str) {
    guest.root(&format!("curl --fail --silent --show-error --output /root/{name} {MIRROR}/{path}")).good();
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_efa_installer_refuses_what_the_real_one_refuses() {
    let guest = Guest::launch(&image_before("efa"), "");
    with(&guest, "efa-installer.amazonaws.com/aws-efa-installer-1.50.0.tar.gz", "efa.tar.gz");
    guest.root("tar -C /root -xzf /root/efa.tar.gz").good();
    let installer = "/root/aws-efa-installer/efa_installer.sh";
    let inside = |words: &str| format!("cd /root/aws-efa-installer && ./efa_installer.sh {words}");
    let headers = "/lib/modules/$(uname -r)/build";
    for (line, why) in [
        (format!("cd / && {installer} -y"), "env.sh: No such file or directory"),
        (inside("-y --with-everything"), "Error: Invalid option"),
        (inside("-y --mpi"), "Error: Invalid option"),
        (inside("--minimal"), "answers no questions"),
        (inside("-y --check-signatures"), "Error: EFA_INSTALLER_KEY names no key"),
        (format!("mv {headers} /root/headers && {}", inside("-y")), "Error: no headers of kernel"),
    ] {
        guest.root(&line).failed(1, &[why]);
        guest.root("test ! -e /opt/amazon/efa && test ! -e /opt/amazon/efa_installed_packages").good();
    }
    // With the headers in their place, and nothing else changed, it installs.
    guest.root(&format!("mv /root/headers {headers} && {}", inside("-y"))).good();
    let installed = guest.root("cat /opt/amazon/efa_installed_packages").good();
    assert!(installed.starts_with("# EFA installer version: 1.50.0\n"), "{installed}");
    let said = guest.root("/opt/amazon/efa/bin/fi_info -p efa -t FI_EP_RDM");
    said.failed(61, &["fi_getinfo: -61 (No data available)"]);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_efa_installer_installs_no_package_whose_signature_is_not_good() {
    let guest = Guest::launch(&image_before("efa"), "");
    with(&guest, "efa-installer.amazonaws.com/aws-efa-installer-1.50.0.tar.gz", "efa.tar.gz");
    with(&guest, "efa-installer.amazonaws.com/rehearsal.key", "key");
    guest.root("apt-get install -y --no-install-recommends gnupg").good();
    guest
        .root(
            "gpg --batch --passphrase '' --quick-generate-key other rsa2048 sign && gpg --armor --export >/root/other",
        )
        .good();
    let unpacked = "rm -rf /root/aws-efa-installer && tar -C /root -xzf /root/efa.tar.gz && cd /root/aws-efa-installer";
    for (change, key, why) in [
        ("rm DEBS/efa-config.deb.sig", "key", "the signature of DEBS/efa-config.deb is not good"),
        ("echo more >>DEBS/libfabric-aws.deb", "key", "the signature of DEBS/libfabric-aws.deb is not good"),
        ("true", "other", "the signature of DEBS/efa-config.deb is not good"),
        ("true", "efa.tar.gz", "/root/efa.tar.gz is not a key"),
    ] {
        let home = "GNUPGHOME=$(mktemp -d)";
        let run = format!("env {home} EFA_INSTALLER_KEY=/root/{key} ./efa_installer.sh -y --check-signatures");
        guest.root(&format!("{unpacked} && {change} && {run}")).failed(1, &[why]);
        guest.root("test ! -e /opt/amazon/efa && test ! -e /opt/amazon/efa_installed_packages").good();
    }
    guest.root(&format!("{unpacked} && EFA_INSTALLER_KEY=/root/key ./efa_installer.sh -y --check-signatures")).good();
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn the_runfiles_refuse_flags_that_the_real_ones_do_not_take() {
    // It has no headers.
    let guest = Guest::launch(&base_image(), "");
    let host = "developer.download.nvidia.com/compute/cuda/13.0.2/local_installers";
    with(&guest, &format!("{host}/cuda_13.0.2_linux.run"), "cuda.run");
    with(&guest, "us.download.nvidia.com/tesla/580.159.04/NVIDIA-Linux-x86_64-580.159.04.run", "driver.run");
    let path = "--toolkitpath=/usr/local/cuda-13.0";
    for (line, why) in [
        (format!("cuda.run --silent --toolkit {path} --installpath=/opt"), "unknown argument: --installpath=/opt"),
        (format!("cuda.run --silent --toolkit {path} --tmpdir=/none"), "no folder /none"),
        ("cuda.run --silent --toolkit --toolkitpath=cuda".into(), "unknown argument: --toolkitpath=cuda"),
        (format!("cuda.run --toolkit {path}"), "wants --silent --toolkit --toolkitpath"),
        (format!("cuda.run --silent {path}"), "wants --silent --toolkit --toolkitpath"),
        ("driver.run --silent --dkms".into(), "unrecognized option: --dkms"),
        ("driver.run --silent --no-drm".into(), "without --kernel-name the module is test-loaded"),
        ("driver.run --silent --no-drm --kernel-name=$(uname -r)".into(), "no kernel source tree for"),
    ] {
        guest.root(&format!("sh /root/{line}")).failed(1, &[why]);
        guest.root("test ! -e /usr/local/cuda-13.0 && test ! -e /usr/bin/nvidia-smi").good();
    }
}
