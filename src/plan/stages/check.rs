//! Owns the stages that judge the machine: "check", and "test" (all_reduce_perf).

use super::driver::license;
use super::parts::{
    EFA_PREFIX, GDRCOPY_SANITY, MPI_OPTIONS, MPI_PREFIX, TESTS_PREFIX, give_timers_back, library_dirs, no_other_driver,
    plugin_lib_dir, stage,
};
use crate::catalog::InitSystem;
use crate::catalog::nccl_env::{self, Software, Variable};
use crate::plan::action::{Action, Assertion};
use crate::plan::argument::Argument;
use crate::plan::model::{CUDA_CONTEXTS, STATE_DIR, Stage, Step, Then, When};
use crate::plan::resolve::{ResolvedGpu, ResolvedRequest};

/// What EFA's packages reserve huge pages with at boot.
const HUGE_PAGES: &str = "/opt/amazon/bin/efa-hugepages-reserve.sh";

pub(crate) fn check(chosen: &ResolvedRequest, init: &InitSystem) -> Stage {
    let mut steps = chosen.gpu.as_ref().map_or_else(Vec::new, |gpu| gpu_checks(chosen, gpu, init));
    let fi_info = format!("{EFA_PREFIX}/bin/fi_info");
    steps.push(
        Step::new("efa", "Check the EFA devices", vec![Action::Assert(Assertion::EfaDevices { fi_info })])
            .hint("see dmesg; a reboot loads the module just installed"),
    );
    steps.push(
        Step::new(
            "huge-pages",
            "Check EFA's huge pages",
            vec![Action::Assert(Assertion::HugePages { reserve: HUGE_PAGES.into() })],
        )
        .hint("see systemctl status efa-config; a reboot reserves them"),
    );
    if chosen.distribution.kernel.ptrace.is_some() {
        steps.push(
            Step::new(
                "ptrace",
                "Check that processes may read each other's memory",
                vec![Action::Assert(Assertion::PtraceScope)],
            )
            .hint("see which file of /etc/sysctl.d sets it last"),
        );
    }
    let user = chosen.distribution.ami.user.clone();
    steps.push(
        Step::new("memlock", "Check the memlock limit", vec![Action::Assert(Assertion::Memlock { user })])
            .hint("see /etc/security/limits.d, and whether PAM reads it"),
    );
    if let Some(action) = give_timers_back(chosen.distribution) {
        steps.push(
            Step::new("timers", "Unmask the package timers", vec![action])
                .why("while the machine is set up, one of them between two boots could bring another kernel"),
        );
    }
    stage("check", "Check what was installed", Then::Continue, steps)
}

fn gpu_checks(chosen: &ResolvedRequest, gpu: &ResolvedGpu, init: &InitSystem) -> Vec<Step> {
    let flavour = gpu.modules.name();
    let module = Assertion::ModuleFlavour { flavour: flavour.into(), license: license(gpu).into() };
    let persistence = Assertion::Persistence { active: init.persistence.active.clone() };
    let library = format!("{}/libnccl-net.so", plugin_lib_dir(chosen, gpu));
    let driver = gpu.resolved.driver.version.clone();
    let mut steps = vec![
        Step::new("plugin", "Check the plugin", vec![Action::Assert(Assertion::LibrariesFound { library })])
            .why("a plugin that can't be loaded is silent: NCCL falls back to TCP")
            .hint("install again: --from efa"),
        Step::new("gpus", "Check the GPUs", vec![Action::Assert(Assertion::Gpus { driver })])
            .hint("see dmesg; a GPU needs the driver of its generation"),
        Step::new(
            "module",
            "Check the nvidia module",
            vec![Action::Assert(module), no_other_driver(chosen.distribution)],
        )
        .hint("remove another driver, then install again: --from driver"),
        Step::new(
            "fabric",
            "Check the fabric",
            vec![Action::Assert(Assertion::Fabric { nvlink5: gpu.nvlink5.clone() })],
        )
        .hint("see systemctl status nvidia-fabricmanager; render for this --instance-type"),
        Step::new(
            "cuda-contexts",
            "Make a CUDA context on every GPU",
            vec![Action::Assert(Assertion::CudaContexts { program: CUDA_CONTEXTS.into() })],
        )
        .why("error 802 means that the fabric is not up, 100 and 999 that the module does not drive the GPU")
        .hint("see dmesg, and systemctl status nvidia-fabricmanager"),
        Step::new("persistence", "Check the persistence daemon", vec![Action::Assert(persistence)])
            .hint("see the system's log"),
    ];
    if gpu.gdrcopy.is_some() {
        steps.push(
            Step::new(
                "gdrcopy",
                "Check GDRCopy",
                vec![Action::Assert(Assertion::Gdrcopy { program: GDRCOPY_SANITY.into() })],
            )
            .hint("see systemctl status gdrdrv, and dmesg"),
        );
    }
    if chosen.instance_type.is_some_and(|t| t.gpudirect) {
        steps.push(
            Step::new("gpudirect", "Check that EFA reaches GPU memory", vec![Action::Assert(Assertion::PeerToPeer)])
                .why("without GPUDirect the plugin refuses this instance type, or every byte goes through the CPU's memory")
                .hint("see dmesg; efa_nv_peermem needs the open nvidia module"),
        );
    }
    steps
}

pub(crate) fn test(chosen: &ResolvedRequest, gpu: &ResolvedGpu, environment: &[Variable]) -> Stage {
    let hostfile = format!("{STATE_DIR}/hostfile");
    let mut argv: Vec<Argument> =
        vec![Argument::literal(format!("{MPI_PREFIX}/bin/mpirun")), Argument::literal("--allow-run-as-root")];
    let software = Software {
        efa: Some(chosen.efa_version.clone()),
        nccl: Some(gpu.resolved.nccl.version.clone()),
        plugin: Some(gpu.resolved.plugin.version.clone()),
        gpudirect: chosen.instance_type.is_some_and(|t| t.gpudirect),
    };
    let own = gpu.resolved.stack.run_environment.clone();
    let mut variables = own.unwrap_or_else(|| nccl_env::of(environment, &software));
    variables.push(("LD_LIBRARY_PATH".into(), library_dirs(chosen).join(":")));
    for (name, value) in variables {
        argv.extend([Argument::literal("-x"), Argument::literal(format!("{name}={value}"))]);
    }
    let ranks = ["--hostfile", &hostfile, "-n", "{gpus}", "-N", "{gpus}"];
    argv.extend(ranks.iter().chain(&MPI_OPTIONS).map(|word| Argument::template(word)));
    argv.push(Argument::literal(format!("{TESTS_PREFIX}/build/all_reduce_perf")));
    argv.extend(["-b", "8", "-e", "1G", "-f", "2", "-g", "1", "-c", "1", "-n", "100"].map(Argument::literal));
    let step = Step::new(
        "all-reduce",
        "Run all_reduce_perf and judge its log",
        vec![Action::NcclTest { argv, hostfile, timeout_s: 1800 }],
    )
    .why("one host never uses the network: this proves that the plugin loads and selects EFA, no more");
    Stage { run: When::Target, ..stage("test", "all_reduce_perf on this machine", Then::Continue, vec![step]) }
}
