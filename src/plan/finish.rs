//! Owns the stages that make what was installed usable and check it: paths, limits, local checks, the test run.

use super::action::{Action, Check, Run};
use super::parts::{
    EFA_PREFIX, MPI_OPTIONS, MPI_PREFIX, TESTS_PREFIX, cuda_prefix, library_dirs, package_run, plugin_lib_dir, stage,
    write_file,
};
use super::request::{Chosen, Gpu};
use super::word::Word;
use super::{Component, RELEASE_FILE, STATE_DIR, Stage, Step, Then, When};
use crate::catalog::InitSystem;
use crate::catalog::environment::{self, Software, Variable};

pub(super) fn environment(chosen: &Chosen, init: &InitSystem, components: &[Component]) -> Stage {
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
    let steps = vec![
        Step::new("libraries", "Make the libraries known to the loader", {
            let mut actions = bundled_plugin_link(chosen);
            actions.push(Action::WriteFile {
                path: "/etc/ld.so.conf.d/efa-gen.conf".into(),
                mode: "0644",
                content: libraries,
            });
            actions.push(Run::new(["ldconfig"]).into());
            actions
        })
        .why("MPI starts ranks without a login shell, so what only a shell's startup file sets is not there"),
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
        ),
        Step::new("memlock", "Let every session lock memory", limits)
            .why("EFA registers memory; a limit of 64 KiB ends in \"Cannot allocate memory\""),
        Step::new("hold", "Hold the kernel", hold).why("a later kernel has none of the modules that were built here"),
        Step::new(
            "release",
            format!("Record what was installed in {RELEASE_FILE}"),
            vec![Action::WriteFile { path: RELEASE_FILE.into(), mode: "0644", content: release }],
        ),
    ];
    stage("environment", "Paths, limits, held kernel, then reboot into what was installed", Then::Reboot, steps)
}

/// One line of JSON a component, in brackets.
fn release(components: &[Component]) -> String {
    let line = |c: &Component| {
        serde_json::json!({ "name": c.name, "version": c.version, "origin": c.origin, "digest": c.digest }).to_string()
    };
    format!("[\n{}\n]\n", components.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

/// EFA packages from 1.44 on name the plugin libnccl-net-ofi.so; NCCL looks for libnccl-net.so.
fn bundled_plugin_link(chosen: &Chosen) -> Vec<Action> {
    let Some(gpu) = chosen.gpu.as_ref().filter(|gpu| gpu.resolved.plugin.source.is_none()) else { return Vec::new() };
    let dir = plugin_lib_dir(chosen, gpu);
    vec![
        Action::Assert(Check::Exists { path: Word::literal(format!("{dir}/{}", gpu.resolved.plugin.library)) }),
        Run::new(["ln", "-sfn", &gpu.resolved.plugin.library, &format!("{dir}/libnccl-net.so")]).into(),
    ]
}

fn profile(chosen: &Chosen, csh: bool) -> String {
    let mut bins = vec![format!("{EFA_PREFIX}/bin"), format!("{MPI_PREFIX}/bin")];
    bins.extend(chosen.gpu.as_ref().map(|gpu| format!("{}/bin", cuda_prefix(gpu))));
    let bins = bins.join(":");
    if csh {
        return format!("if (\":${{PATH}}:\" !~ *:{bins}:*) setenv PATH {bins}:${{PATH}}\n");
    }
    format!("case \":$PATH:\" in\n  *:{bins}:*) ;;\n  *) export PATH={bins}:$PATH ;;\nesac\n")
}

pub(super) fn check(chosen: &Chosen) -> Stage {
    let mut steps = Vec::new();
    if let Some(gpu) = &chosen.gpu {
        let library = format!("{}/libnccl-net.so", plugin_lib_dir(chosen, gpu));
        steps.push(
            Step::new(
                "plugin",
                "Check that the plugin can be loaded",
                vec![Action::Assert(Check::LibrariesFound { library })],
            )
            .why("a plugin that can't be loaded is silent: NCCL falls back to TCP")
            .hint("do everything from the EFA installer on again: --from efa"),
        );
        let driver = gpu.resolved.driver.version.clone();
        steps.push(
            Step::new("gpus", "Check the GPUs, if there are any", vec![Action::Assert(Check::Gpus { driver })]).hint(
                "see dmesg for what the nvidia module says; a GPU instance type needs the driver of its generation",
            ),
        );
    }
    let fi_info = format!("{EFA_PREFIX}/bin/fi_info");
    steps.push(
        Step::new(
            "efa",
            "Check the EFA devices, if there are any",
            vec![Action::Assert(Check::EfaDevices { fi_info })],
        )
        .hint("see whether the efa module is loaded (modprobe efa, dmesg); a reboot loads the one just installed"),
    );
    let user = chosen.distribution.ami.user.clone();
    steps.push(
        Step::new("memlock", "Check the memlock limit of a new session", vec![Action::Assert(Check::Memlock { user })])
            .hint("see /etc/security/limits.d and whether PAM reads it"),
    );
    stage("check", "Check what was installed", Then::Continue, steps)
}

pub(super) fn test(chosen: &Chosen, gpu: &Gpu, environment: &[Variable]) -> Stage {
    let hostfile = format!("{STATE_DIR}/hostfile");
    let mut argv: Vec<Word> =
        vec![Word::literal(format!("{MPI_PREFIX}/bin/mpirun")), Word::literal("--allow-run-as-root")];
    let software = Software {
        efa: Some(chosen.efa_version.clone()),
        nccl: Some(gpu.resolved.nccl.version.clone()),
        plugin: Some(gpu.resolved.plugin.version.clone()),
        gpudirect: chosen.instance_type.is_some_and(|t| t.gpudirect),
    };
    let own = gpu.resolved.stack.run_environment.clone();
    let mut variables = own.unwrap_or_else(|| environment::of(environment, &software));
    variables.push(("LD_LIBRARY_PATH".into(), library_dirs(chosen).join(":")));
    for (name, value) in variables {
        argv.extend([Word::literal("-x"), Word::literal(format!("{name}={value}"))]);
    }
    let ranks = ["--hostfile", &hostfile, "-n", "{gpus}", "-N", "{gpus}"];
    argv.extend(ranks.iter().chain(&MPI_OPTIONS).map(|word| Word::template(word)));
    argv.push(Word::literal(format!("{TESTS_PREFIX}/build/all_reduce_perf")));
    argv.extend(["-b", "8", "-e", "1G", "-f", "2", "-g", "1", "-c", "1", "-n", "100"].map(Word::literal));
    let step = Step::new(
        "all-reduce",
        "Run all_reduce_perf and judge its log",
        vec![Action::NcclTest { argv, hostfile, timeout_s: 1800 }],
    )
    .why("one host never uses the network: this proves that the plugin loads and selects EFA, no more")
    .hint("the whole output is in the log; the verdict names the line that decided");
    Stage { run: When::Target, ..stage("test", "all_reduce_perf on this machine", Then::Continue, vec![step]) }
}
