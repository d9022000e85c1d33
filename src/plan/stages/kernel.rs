//! Owns the stage "kernel": headers and compilers for the running kernel, and nouveau off.

use super::parts::{KERNEL_COMPILER, SOURCES, install, stage, write_file};
use crate::catalog::distribution::Distribution;
use crate::plan::action::{Action, Assertion, GuestCommand};
use crate::plan::argument::Argument;
use crate::plan::model::{Stage, Step, Then};
use crate::plan::resolve::ResolvedRequest;

pub(crate) fn kernel(chosen: &ResolvedRequest) -> Stage {
    let distribution = chosen.distribution;
    let names = &distribution.packages.names;
    let mut headers = install(distribution, &names.headers);
    headers
        .push(Action::Assert(Assertion::Exists { path: Argument::template("/lib/modules/{kernel}/build/Makefile") }));
    let mut packages = names.compilers.clone();
    if chosen.gpu.is_some() {
        packages.extend(names.driver.iter().chain(&names.build).cloned());
    }
    let tools = install(distribution, &packages);
    let mut steps = vec![
        Step::new("newest", "Check that the newest kernel is running", vec![Action::Assert(Assertion::NewestKernel)])
            .why("modules are built for the running kernel, and the image boots the newest one")
            .hint("reboot the machine"),
        Step::new("headers", "Install the running kernel's headers", headers)
            .hint("the package sources may lack headers for this kernel: update the machine and reboot"),
        Step::new("compilers", "Install compilers and libraries", tools).hint(SOURCES),
        compiler(distribution),
    ];
    if chosen.gpu.is_none() {
        return stage("kernel", "Kernel headers and compilers", Then::Continue, steps);
    }
    steps.push(nouveau(distribution));
    stage("kernel", "Kernel headers and compilers; nouveau off, then reboot", Then::Reboot, steps)
}

/// Before the first long step, and whatever is built: the driver's modules and EFA's.
fn compiler(distribution: &Distribution) -> Step {
    let other = distribution.kernel.compiler.as_ref();
    let action = Action::KernelCompiler {
        version: "/proc/version".into(),
        link: KERNEL_COMPILER.into(),
        other: other.map(|other| (other.package.clone(), other.program.clone())),
        install: distribution.packages.install.clone(),
    };
    Step::new("compiler", "Find the compiler of the running kernel", vec![action])
        .why("the distribution's own compiler may be another one, and a module that it builds does not fit the kernel, or does not build")
        .hint(SOURCES)
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
        actions.push(GuestCommand::new(&kernel.nouveau_off.apply).into());
    }
    actions.push(GuestCommand::new(&kernel.rebuild_initramfs).into());
    Step::new("nouveau", "Turn nouveau off", actions)
        .why(format!(
            "AWS's guide overwrites GRUB_CMDLINE_LINUX; here the arguments of {} are added to, never replaced",
            kernel.boot_loader
        ))
        .hint("see the boot loader's messages, and whether /boot has room")
}
