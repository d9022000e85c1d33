//! Owns the stages that bring the distribution into shape: sources, updates, kernel, headers, nouveau.

use super::action::{Action, Check, Run};
use super::parts::{install, package_run, stage, wait_for_cloud_init, write_file};
use super::request::Chosen;
use super::word::Word;
use super::{Stage, Step, Then};
use crate::catalog::distribution::Distribution;
use crate::catalog::efa::compare_versions;

pub(super) fn prepare(chosen: &Chosen) -> Stage {
    let distribution = chosen.distribution;
    let os = &distribution.os_release;
    let mut steps = vec![
        Step::new(
            "machine",
            format!("Check that this is {}", distribution.name),
            vec![
                Action::Assert(Check::System {
                    id: os.id.clone(),
                    version: os.version.clone(),
                    machine: os.machine.clone(),
                }),
                // Here and not two reboots later; each stage looks again for what it needs.
                Action::Assert(Check::FreeSpace { mib: 4096 + chosen.gpu.as_ref().map_or(0, |gpu| gpu.resolved.cuda.space_mib) }),
            ],
        )
        .hint(
            "this script is for one distribution: render another one for this machine, or give it a larger root volume",
        ),
        Step::new(
            "cloud-init",
            "Wait for cloud-init",
            vec![wait_for_cloud_init(distribution)],
        )
        .why("until it is done, cloud-init may hold the package locks and rewrite the package sources")
        .hint("see /var/log/cloud-init.log; if cloud-init itself is to start this script, let it call install.sh --start"),
    ];
    for repair in &distribution.repositories {
        let mut actions: Vec<Action> = repair.write.iter().map(write_file).collect();
        actions.extend(repair.replace.iter().map(|replace| Action::Replace {
            files: replace.files.clone(),
            pattern: replace.pattern.clone(),
            with: replace.with.clone(),
        }));
        actions.extend(repair.run.iter().map(|argv| package_run(argv).into()));
        let mut step = Step::new(&repair.id, &repair.title, actions).why(&repair.why);
        step.hint.clone_from(&repair.hint);
        steps.push(step);
    }
    let mut actions = vec![package_run(&distribution.packages.refresh).into()];
    actions.extend(install(distribution, &distribution.packages.names.base));
    steps.push(Step::new("tools", "Install the tools that this script calls", actions).hint(SOURCES));
    stage("prepare", "Prepare the machine", Then::Continue, steps)
}

const SOURCES: &str = "see whether the package sources answer from this machine, and whether the disk is full";

pub(super) fn update(distribution: &Distribution) -> Stage {
    let step = Step::new("upgrade", "Upgrade every package", vec![package_run(&distribution.packages.upgrade).into()])
        .why("the reboot that follows is missing in AWS's guide of 2020: without it the headers of the running kernel may be gone")
        .hint(SOURCES);
    stage("update", "Update the system, then reboot into its kernel", Then::Reboot, vec![step])
}

pub(super) fn kernel(chosen: &Chosen) -> Stage {
    let distribution = chosen.distribution;
    let names = &distribution.packages.names;
    let mut headers = install(distribution, &names.headers);
    headers.push(Action::Assert(Check::Exists { path: Word::template("/lib/modules/{kernel}/build/Makefile") }));
    let mut packages = names.compilers.clone();
    if let Some(gpu) = &chosen.gpu {
        packages.extend(names.driver.iter().chain(&names.build).cloned());
        let plugin = gpu.resolved.plugin;
        if plugin.source.is_some() && compare_versions(&plugin.version, "1.7.0").is_ge() {
            packages.extend(names.hwloc.iter().cloned());
        }
    }
    let tools = install(distribution, &packages);
    let mut steps = vec![
        Step::new("newest", "Check that the newest kernel is running", vec![Action::Assert(Check::NewestKernel)])
            .why("modules are built for the running kernel, and the image boots the newest one")
            .hint("reboot the machine, then run the script again"),
        Step::new("headers", "Install the running kernel's headers", headers)
            .hint("the package sources no longer have headers for this kernel: update the machine and reboot"),
        Step::new("compilers", "Install compilers and libraries", tools).hint(SOURCES),
    ];
    if chosen.gpu.is_none() {
        return stage("kernel", "Kernel headers and compilers", Then::Continue, steps);
    }
    steps.push(nouveau(distribution));
    stage("kernel", "Kernel headers and compilers; nouveau off, then reboot", Then::Reboot, steps)
}

fn nouveau(distribution: &Distribution) -> Step {
    let kernel = &distribution.kernel;
    let mut actions = vec![Action::WriteFile {
        path: "/etc/modprobe.d/blacklist-nouveau.conf".into(),
        mode: "0644",
        content: "blacklist nouveau\noptions nouveau modeset=0\n".into(),
    }];
    actions.extend(kernel.nouveau_off.write.as_ref().map(write_file));
    actions.extend(kernel.nouveau_off.append.as_ref().map(|append| Action::AppendToLines {
        path: append.path.clone(),
        lines: append.lines.clone(),
        text: append.text.clone(),
    }));
    if !kernel.nouveau_off.apply.is_empty() {
        actions.push(Run::new(&kernel.nouveau_off.apply).into());
    }
    actions.push(Run::new(&kernel.rebuild_initramfs).into());
    Step::new("nouveau", "Turn nouveau off", actions)
        .why(format!(
            "AWS's guide overwrites GRUB_CMDLINE_LINUX; here the arguments of {} are added to, never replaced",
            kernel.boot_loader
        ))
        .hint("the boot loader's own messages are in the log; every kernel in /boot must have room for an initramfs")
}
