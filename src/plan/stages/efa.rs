//! Owns the stage "efa": the EFA installer.

use super::parts::{
    EFA_PREFIX, KERNEL_COMPILER, MPI_PREFIX, SOURCES, fetch, has_peermem, install, package_run, prints, src, stage,
};
use crate::catalog::distribution::{Distribution, FabricPackages};
use crate::plan::action::{Action, Assertion, GuestCommand};
use crate::plan::argument::Argument;
use crate::plan::model::{Stage, Step, Then};
use crate::plan::resolve::{PackageKey, ResolvedRequest};
use crate::version;

const REACH: &str = "see whether this machine reaches that host; render with --mirror for another one";

pub(crate) fn efa(chosen: &ResolvedRequest) -> Stage {
    let version = &chosen.efa_version;
    let archive = src("efa.tar.gz");
    let dir = src("efa");
    let at_least = |limit: &str| version::compare(version, limit).is_ge();
    // The installer knew --enable-gdr from 1.10.0 on and stopped needing it with 1.14.0.
    let gdr = chosen.instance_type.is_some_and(|t| t.gpudirect) && at_least("1.10.0") && !at_least("1.14.0");
    let check = chosen.package_key.as_ref().map(|_| "--check-signatures");
    let argv = ["./efa_installer.sh", "-y"].into_iter().chain(gdr.then_some("-g")).chain(check);
    let mut run = chosen.package_key.as_ref().map_or_else(Vec::new, package_key);
    // DKMS forgets CC (dkms 3.0.10), and rpm gives a package's scripts a PATH of their own: make is told as well.
    let compiler = format!("CC={KERNEL_COMPILER}");
    let mut environment = vec![("CC", KERNEL_COMPILER.to_owned()), ("MAKEFLAGS", compiler)];
    if check.is_some() {
        environment.extend([("EFA_INSTALLER_KEY", key_file()), ("GNUPGHOME", key_ring())]);
    }
    let environment = environment.iter().map(|(name, value)| (*name, value.as_str()));
    run.extend([
        // It installs packages of the distribution, so it is a package command itself.
        GuestCommand::new(argv).in_dir(&format!("{dir}/aws-efa-installer")).environment(environment).packages().into(),
        Action::Assert(Assertion::Contains {
            path: "/opt/amazon/efa_installed_packages".into(),
            text: format!("EFA installer version: {version}"),
        }),
    ]);
    for program in [format!("{EFA_PREFIX}/bin/fi_info"), format!("{MPI_PREFIX}/bin/mpirun")] {
        run.push(Action::Assert(Assertion::Exists { path: Argument::literal(program) }));
    }
    if chosen.gpu.is_none() && has_peermem(version) {
        // Its module needs symbols of the NVIDIA driver, which a CPU-only image does not have.
        let argv = chosen.distribution.packages.remove.iter().map(String::as_str).chain(["efa-nv-peermem"]);
        run.push(GuestCommand::new(argv).packages().into());
    }
    let mut install_step = Step::new("install", format!("Run EFA installer {version}"), run)
        .hint("its messages are in the log; it needs the kernel's headers and the package sources");
    if check.is_some() {
        install_step = install_step.why("it installs nothing if one of its packages is not signed by the key");
    }
    let mut steps = vec![
        Step::new(
            "fetch",
            "Download the installer",
            vec![
                Action::Assert(Assertion::FreeSpace { mib: 3072 }),
                fetch(&chosen.efa, &archive),
                Action::Unpack { archive: archive.clone(), dir: dir.clone(), strip: false },
            ],
        )
        .why("its digest stands here, and at the top who published it: no key and no keyring is needed on this machine")
        .hint(REACH),
        install_step,
        tidy(chosen, vec![archive, dir]),
    ];
    if chosen.gpu.as_ref().is_some_and(|gpu| gpu.nvlsm.is_some()) {
        steps.extend(chosen.distribution.fabric.as_ref().map(|fabric| infiniband(chosen.distribution, fabric)));
    }
    let names = &chosen.distribution.packages.names.signatures;
    if chosen.package_key.is_some() && !names.is_empty() {
        let install = install(chosen.distribution, names);
        steps.insert(1, Step::new("gnupg", "Install what checks signatures", install).hint(SOURCES));
    }
    stage("efa", format!("EFA installer {version}"), Then::Continue, steps)
}

fn infiniband(distribution: &Distribution, fabric: &FabricPackages) -> Step {
    let modules = ["mlx5_ib", "ib_umad"];
    let apart = (!fabric.modules.is_empty()).then(|| package_run(&fabric.modules).into());
    let mut actions: Vec<Action> = apart.into_iter().chain(install(distribution, &fabric.packages)).collect();
    actions.extend(modules.map(|module| prints(["modinfo", "-k", "{kernel}", module], "")));
    actions.push(Action::WriteFile {
        path: "/etc/modules-load.d/efa-gen-nvlink5.conf".into(),
        mode: "0644",
        content: modules.join("\n") + "\n",
    });
    Step::new("infiniband", "Install what reaches the NVSwitches", actions)
        .why("they are InfiniBand devices for Linux. It comes after the EFA installer, whose rdma-core must not meet the distribution's")
        .hint("the package sources may lack modules for this kernel: update the machine and reboot")
}

/// Where the installer finds the key; it takes the path in EFA_INSTALLER_KEY (AWS EC2 User Guide, "Get started with EFA and
/// NCCL", 2026).
fn key_file() -> String {
    src("efa.key")
}

/// A home for gpg, so that root's own keyring stays as it is: the guide names gpg for .deb and `rpm --checksig` for .rpm, and
/// not where either keeps the key meanwhile.
fn key_ring() -> String {
    src("efa.gnupg")
}

/// What the installer needs to check its packages.
fn package_key(key: &PackageKey) -> Vec<Action> {
    vec![
        Action::WriteFile { path: key_file(), mode: "0644", content: key.armored.clone() },
        GuestCommand::new(["mkdir", "-p", "-m", "0700", &key_ring()]).into(),
    ]
}

/// The key was for the installer alone: nothing of the image goes by it.
fn tidy(chosen: &ResolvedRequest, mut paths: Vec<String>) -> Step {
    let Some(key) = &chosen.package_key else {
        return Step::new("tidy", "Remove the installer", vec![Action::Remove { paths }]);
    };
    let keys = vec![key_file(), key_ring()];
    paths.extend(keys.iter().cloned());
    let mut actions = vec![
        Action::Remove { paths },
        Action::ForgetKey { fingerprint: key.fingerprint.clone() },
        Action::Assert(Assertion::Gone { paths: keys }),
    ];
    if !chosen.distribution.packages.names.signatures.is_empty() {
        // gpg leaves an agent behind, which would write into its home again.
        let end = GuestCommand::new(["gpgconf", "--kill", "all"]).environment([("GNUPGHOME", key_ring().as_str())]);
        actions.insert(0, end.into());
    }
    Step::new("tidy", "Remove the installer and the key of its packages", actions)
}
