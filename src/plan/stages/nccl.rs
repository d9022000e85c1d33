//! Owns the stages that build from source: NCCL, the plugin (aws-ofi-nccl), nccl-tests.

use super::parts::{EFA_PREFIX, MPI_PREFIX, NCCL_PREFIX, SOURCES, TESTS_PREFIX, cuda_prefix, install_by, src, stage};
use crate::plan::action::{Action, Assertion, GuestCommand};
use crate::plan::argument::Argument;
use crate::plan::model::{Stage, Step, Then};
use crate::plan::resolve::{ResolvedGpu, ResolvedRequest};
use crate::version;

/// The script's own PATH; the plugin's build needs mpicc in front of it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const BUILD: &str = "the compiler's messages are in the log; see whether this machine reaches that host";

pub(crate) fn nccl(gpu: &ResolvedGpu) -> Stage {
    let nccl = gpu.resolved.nccl;
    let dir = src("nccl");
    let mut make = vec![
        "make".to_owned(),
        "-j{jobs}".into(),
        "src.install".into(),
        format!("PREFIX={NCCL_PREFIX}"),
        format!("BUILDDIR={dir}/build"),
        format!("CUDA_HOME={}", cuda_prefix(gpu)),
        format!("NVCC_GENCODE={}", gencode(gpu)),
    ];
    make.extend(nccl.make.iter().cloned());
    // 2.7.8-1 is release 2.7.8, packaging 1.
    let release = nccl.version.split('-').next().unwrap_or(&nccl.version);
    let step = Step::new(
        "build",
        "Check out the pinned commit, build, install",
        vec![
            Action::Assert(Assertion::FreeSpace { mib: 6144 }),
            Action::Checkout { url: nccl.url.clone(), commit: nccl.commit.clone(), dir: dir.clone() },
            GuestCommand::new(&make).in_dir(&dir).into(),
            Action::Assert(Assertion::Exists {
                path: Argument::literal(format!("{NCCL_PREFIX}/lib/libnccl.so.{release}")),
            }),
            Action::Remove { paths: vec![dir] },
        ],
    )
    .why("jobs are bounded by cores and memory, and only the GPUs asked for are built: `make -j` is neither")
    .hint(BUILD);
    stage("nccl", format!("NCCL {} for {}", nccl.version, gpu.architectures.join(", ")), Then::Continue, vec![step])
}

pub(crate) fn plugin(chosen: &ResolvedRequest, gpu: &ResolvedGpu) -> Stage {
    let plugin = gpu.resolved.plugin;
    let dir = src("aws-ofi-nccl");
    let mut steps = Vec::new();
    if version::compare(&plugin.version, "1.7.0").is_ge() {
        let packages = &chosen.distribution.packages;
        // A repository of the user's own is not divided.
        let optional = packages.install_optional.as_ref().filter(|_| chosen.own_repository.is_none());
        let command = optional.unwrap_or(&packages.install);
        steps.push(
            Step::new("libraries", "Install hwloc", install_by(command, chosen.distribution, &packages.names.hwloc))
                .why("after EFA: it may bring the distribution's rdma-core, and where that is the newer one, the EFA installer fails")
                .hint(SOURCES),
        );
    }
    if let Some(source) = &plugin.source {
        let mut configure = vec![
            "./configure".to_owned(),
            format!("--prefix={}", plugin.prefix),
            format!("--with-libfabric={EFA_PREFIX}"),
            format!("--with-mpi={MPI_PREFIX}"),
            format!("--with-cuda={}", cuda_prefix(gpu)),
        ];
        configure.extend(source.configure.iter().cloned());
        let path = format!("{MPI_PREFIX}/bin:{PATH}");
        let build = |argv: &[String]| -> Action {
            GuestCommand::new(argv).in_dir(&dir).environment([("PATH", path.as_str())]).into()
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        steps.push(
            Step::new(
                "build",
                "Check out the pinned commit, build, install",
                vec![
                    Action::Checkout { url: source.url.clone(), commit: source.commit.clone(), dir: dir.clone() },
                    build(&words(&["./autogen.sh"])),
                    build(&configure),
                    build(&words(&["make", "-j{jobs}"])),
                    build(&words(&["make", "install"])),
                    Action::Assert(Assertion::Exists { path: Argument::literal(format!("{}/lib/{}", plugin.prefix, plugin.library)) }),
                    Action::Remove { paths: vec![dir.clone()] },
                ],
            )
            .why(
                "AWS's guide gives no prefix: on RPM distributions NCCL then never finds the plugin, runs over TCP and reports success",
            )
            .hint(BUILD),
        );
    }
    stage("plugin", format!("aws-ofi-nccl {}", plugin.version), Then::Continue, steps)
}

pub(crate) fn nccl_tests(gpu: &ResolvedGpu) -> Stage {
    let tests = gpu.resolved.nccl_tests;
    let dir = src("nccl-tests");
    let mut make = vec![
        "make".to_owned(),
        "-j{jobs}".into(),
        "MPI=1".into(),
        format!("MPI_HOME={MPI_PREFIX}"),
        format!("NCCL_HOME={NCCL_PREFIX}"),
        format!("CUDA_HOME={}", cuda_prefix(gpu)),
        format!("BUILDDIR={TESTS_PREFIX}/build"),
        format!("NVCC_GENCODE={}", gencode(gpu)),
    ];
    make.extend(tests.make.iter().cloned());
    let step = Step::new(
        "build",
        "Check out the pinned commit, build",
        vec![
            Action::Checkout { url: tests.url.clone(), commit: tests.commit.clone(), dir: dir.clone() },
            GuestCommand::new(&make).in_dir(&dir).into(),
            Action::Assert(Assertion::Exists {
                path: Argument::literal(format!("{TESTS_PREFIX}/build/all_reduce_perf")),
            }),
            Action::Remove {
                paths: vec![dir, format!("{TESTS_PREFIX}/build/*.o"), format!("{TESTS_PREFIX}/build/verifiable/*.o")],
            },
        ],
    )
    .hint(BUILD);
    stage("nccl-tests", format!("nccl-tests {}", tests.version), Then::Continue, vec![step])
}

/// nvcc's flags for exactly the chosen architectures.
fn gencode(gpu: &ResolvedGpu) -> String {
    let flag = |sm: &String| {
        let number = sm.trim_start_matches("sm_");
        format!("-gencode=arch=compute_{number},code=sm_{number}")
    };
    gpu.architectures.iter().map(flag).collect::<Vec<_>>().join(" ")
}
