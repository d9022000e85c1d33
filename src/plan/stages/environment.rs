//! Owns the stage "environment": what logins and NCCL need to find what was installed, and the record of what that is.

use super::parts::{
    EFA_PREFIX, MPI_PREFIX, cuda_prefix, has_peermem, library_dirs, package_run, plugin_lib_dir, stage, write_file,
};
use crate::catalog::{InitSystem, Unit};
use crate::plan::action::{Action, Assertion, GuestCommand};
use crate::plan::argument::Argument;
use crate::plan::compatibility::Modules;
use crate::plan::model::{Component, RELEASE_FILE, Stage, Step, Then};
use crate::plan::resolve::{ResolvedGpu, ResolvedRequest};

pub(crate) fn environment(chosen: &ResolvedRequest, init: &InitSystem, components: &[Component]) -> Stage {
    let kernel_hold = &chosen.distribution.kernel.hold;
    let mut limits = vec![Action::WriteFile {
        path: "/etc/security/limits.d/99-efa-gen.conf".into(),
        mode: "0644",
        content: "* soft memlock unlimited\n* hard memlock unlimited\nroot soft memlock unlimited\nroot hard memlock unlimited\n".into(),
    }];
    limits.extend(init.memlock.as_ref().map(write_file));
    let mut hold: Vec<Action> = kernel_hold
        .line
        .iter()
        .map(|line| Action::EnsureLine { path: line.path.clone(), line: line.line.clone() })
        .collect();
    if !kernel_hold.run.is_empty() {
        hold.push(package_run(&kernel_hold.run).into());
    }
    let libraries = library_dirs(chosen).join("\n") + "\n";
    let release = release(components);
    let mut steps = vec![
        Step::new("libraries", "Make the libraries known to the loader", {
            let mut actions = bundled_plugin_link(chosen);
            actions.push(Action::WriteFile {
                path: "/etc/ld.so.conf.d/efa-gen.conf".into(),
                mode: "0644",
                content: libraries,
            });
            actions.push(GuestCommand::new(["ldconfig"]).into());
            actions
        })
        .why("MPI starts ranks without a login shell, so what only a shell's startup file sets is not there"),
        profiles(chosen),
        Step::new("memlock", "Let every session lock memory", limits)
            .why("EFA registers memory; a limit of 64 KiB ends in \"Cannot allocate memory\""),
    ];
    steps.extend(chosen.gpu.as_ref().map(|gpu| gpu_state(chosen, gpu, init)));
    steps.extend(chosen.gpu.as_ref().and_then(|gpu| gpu.gdrcopy).map(|(_, unit)| gdrcopy(unit)));
    steps.extend(chosen.distribution.kernel.ptrace.as_ref().map(|file| {
        Step::new("ptrace", "Let processes read each other's memory", vec![write_file(file)]).why(
            "ranks of one node exchange data so (CMA: Open MPI's shared memory, EFA's); AWS sets it on its own images",
        )
    }));
    steps.extend([
        Step::new("hold", "Hold the kernel", hold).why("a later kernel has none of the modules that were built here"),
        Step::new(
            "release",
            format!("Write {RELEASE_FILE}"),
            vec![Action::WriteFile { path: RELEASE_FILE.into(), mode: "0644", content: release }],
        ),
    ]);
    stage("environment", "Paths, limits, held kernel, then reboot", Then::Reboot, steps)
}

fn profiles(chosen: &ResolvedRequest) -> Step {
    Step::new(
        "profile",
        "Set PATH for login shells",
        vec![
            Action::WriteFile {
                path: "/etc/profile.d/efa-gen.sh".into(),
                mode: "0644",
                content: profile(chosen, false),
            },
            Action::WriteFile {
                path: "/etc/profile.d/efa-gen.csh".into(),
                mode: "0644",
                content: profile(chosen, true),
            },
        ],
    )
}

fn gpu_state(chosen: &ResolvedRequest, gpu: &ResolvedGpu, init: &InitSystem) -> Step {
    let mut actions = vec![write_file(&init.persistence.unit)];
    actions.extend(init.persistence.enable.iter().map(|argv| GuestCommand::new(argv).into()));
    if let Some(folder) = &init.modules_load {
        // It refuses to be loaded beside the proprietary module.
        let peermem = gpu.modules == Modules::Open && has_peermem(&chosen.efa_version);
        let modules = ["nvidia-uvm"].into_iter().chain(peermem.then_some("efa_nv_peermem"));
        actions.push(Action::WriteFile {
            path: format!("{folder}/efa-gen-gpu.conf"),
            mode: "0644",
            content: modules.map(|module| format!("{module}\n")).collect(),
        });
    }
    Step::new("gpu-state", "Load the GPUs' modules at boot", actions)
        .why(
            "otherwise the driver initializes every GPU again for each program that comes when none runs; without a GPU, as on \
             most builders, neither can start, which harms nothing",
        )
}

fn gdrcopy(unit: &Unit) -> Step {
    let mut actions = vec![write_file(&unit.unit)];
    actions.extend(unit.enable.iter().map(|argv| GuestCommand::new(argv).into()));
    Step::new("gdrcopy", "Load GDRCopy's module at boot", actions)
        .why("the module makes no device file of its own; without a GPU, as on most builders, there is none")
}

/// One line of JSON a component, in brackets.
fn release(components: &[Component]) -> String {
    let line = |c: &Component| {
        serde_json::json!({ "name": c.name, "version": c.version, "origin": c.origin, "digest": c.digest }).to_string()
    };
    format!("[\n{}\n]\n", components.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

/// EFA packages from 1.44 on name the plugin libnccl-net-ofi.so; NCCL looks for libnccl-net.so.
fn bundled_plugin_link(chosen: &ResolvedRequest) -> Vec<Action> {
    let Some(gpu) = chosen.gpu.as_ref().filter(|gpu| gpu.resolved.plugin.source.is_none()) else { return Vec::new() };
    let dir = plugin_lib_dir(chosen, gpu);
    vec![
        Action::Assert(Assertion::Exists { path: Argument::literal(format!("{dir}/{}", gpu.resolved.plugin.library)) }),
        GuestCommand::new(["ln", "-sfn", &gpu.resolved.plugin.library, &format!("{dir}/libnccl-net.so")]).into(),
    ]
}

fn profile(chosen: &ResolvedRequest, csh: bool) -> String {
    let mut bins = vec![format!("{EFA_PREFIX}/bin"), format!("{MPI_PREFIX}/bin")];
    bins.extend(chosen.gpu.as_ref().map(|gpu| format!("{}/bin", cuda_prefix(gpu))));
    let bins = bins.join(":");
    if csh {
        return format!("if (\":${{PATH}}:\" !~ *:{bins}:*) setenv PATH {bins}:${{PATH}}\n");
    }
    format!("case \":$PATH:\" in\n  *:{bins}:*) ;;\n  *) export PATH={bins}:$PATH ;;\nesac\n")
}
