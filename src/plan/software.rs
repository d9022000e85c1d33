//! Owns the stages that install software from outside the distribution: driver, CUDA, EFA, NCCL, plugin, tests.

use super::action::{Action, Check, Run};
use super::parts::{
    EFA_PREFIX, MPI_PREFIX, NCCL_PREFIX, TESTS_PREFIX, cuda_prefix, cuda_release, fetch, prints, src, stage,
};
use super::request::{Chosen, Gpu};
use super::word::Word;
use super::{Stage, Step, Then};
use crate::catalog::efa::compare_versions;
use crate::catalog::stack::Download;

/// The script's own PATH; the plugin's build needs mpicc in front of it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn driver(gpu: &Gpu) -> Stage {
    let driver = gpu.resolved.driver;
    let cuda = gpu.resolved.cuda;
    let runfile = src("driver.run");
    let flavour = gpu.open_modules.then_some("--kernel-module-build-directory=kernel-open");
    // With a kernel named, installers up to R495 do not test-load the module, which fails without a GPU.
    let install = ["sh", &runfile, "--silent", "--no-drm", "--kernel-name={kernel}"].into_iter().chain(flavour);
    let mut steps = vec![
        Step::new(
            "nouveau",
            "Check that nouveau is not loaded",
            vec![
                Action::Assert(Check::ModuleAbsent { module: "nouveau".into() }),
                Action::Assert(Check::FreeSpace { mib: cuda.space_mib }),
            ],
        )
        .hint("reboot the machine if nouveau is loaded; give it a larger root volume if space is short"),
        Step::new(
            "driver",
            format!("Install NVIDIA driver {}", driver.version),
            vec![
                fetch(&gpu.driver, &runfile),
                Run::new(install).into(),
                prints(["modinfo", "-k", "{kernel}", "-F", "version", "nvidia"], &driver.version),
                Action::Remove { paths: vec![runfile] },
            ],
        )
        .why("before EFA: its modules are built against the driver's, and a driver rebuilt later breaks them")
        .hint(
            driver
                .note
                .iter()
                .fold("see /var/log/nvidia-installer.log".to_owned(), |hint, note| format!("{hint}; {note}")),
        ),
    ];
    if let Some(download) = &gpu.fabric_manager {
        steps.push(fabric_manager(download));
    }
    steps.push(cuda_toolkit(gpu));
    let title = format!("NVIDIA driver {} and CUDA {}", driver.version, cuda.version);
    stage("driver", title, Then::Continue, steps)
}

fn cuda_toolkit(gpu: &Gpu) -> Step {
    let cuda = gpu.resolved.cuda;
    let runfile = src("cuda.run");
    let prefix = cuda_prefix(gpu);
    let tmp = src("tmp");
    Step::new(
        "cuda",
        format!("Install CUDA {}", cuda.version),
        vec![
            fetch(&gpu.cuda, &runfile),
            Run::new(["mkdir", "-p", &tmp]).into(),
            Run::new([
                "sh",
                &runfile,
                "--silent",
                "--toolkit",
                &format!("--toolkitpath={prefix}"),
                &format!("--tmpdir={tmp}"),
            ])
            .into(),
            prints([&format!("{prefix}/bin/nvcc"), "--version"], &format!("release {},", cuda_release(gpu))),
            Action::Remove { paths: vec![runfile, tmp] },
        ],
    )
    .hint("see /var/log/cuda-installer.log")
}

fn fabric_manager(download: &Download) -> Step {
    let archive = src("fabric-manager.tar.xz");
    let dir = src("fabric-manager");
    // The archive holds one folder of its own name.
    let name = download.url.rsplit('/').next().and_then(|file| file.strip_suffix(".tar.xz")).unwrap_or("");
    let top = format!("{dir}/{name}");
    let copy = |from: &str, to: &str| -> Action { Run::new(["cp", "-R", from, to]).in_dir(&top).into() };
    Step::new(
        "fabric-manager",
        "Install the fabric manager",
        vec![
            fetch(download, &archive),
            Action::Unpack { archive: archive.clone(), dir: dir.clone() },
            Run::new(["mkdir", "-p", "/usr/share/nvidia/nvswitch"]).into(),
            copy("bin/.", "/usr/bin/"),
            copy("lib/.", "/usr/lib/"),
            copy("share/nvidia/.", "/usr/share/nvidia/"),
            copy("etc/.", "/usr/share/nvidia/nvswitch/"),
            copy("systemd/.", "/etc/systemd/system/"),
            Run::new(["systemctl", "enable", "nvidia-fabricmanager.service"]).into(),
            Action::Remove { paths: vec![archive, dir] },
        ],
    )
    .why("without it, and in exactly the driver's version, CUDA fails with error 802 on machines with an NVSwitch")
}

const REACH: &str =
    "see whether this machine reaches that host; with --mirror a script takes everything from another one";
const BUILD: &str =
    "the compiler's own messages are in the log; see whether this machine reaches the host that the sources come from";

pub(super) fn efa(chosen: &Chosen) -> Stage {
    let version = &chosen.efa_version;
    let archive = src("efa.tar.gz");
    let dir = src("efa");
    let at_least = |limit: &str| compare_versions(version, limit).is_ge();
    // The installer knew --enable-gdr from 1.10.0 on and stopped needing it with 1.14.0.
    let gdr = chosen.instance_type.is_some_and(|t| t.gpudirect) && at_least("1.10.0") && !at_least("1.14.0");
    let argv = ["./efa_installer.sh", "-y"].into_iter().chain(gdr.then_some("-g"));
    // It installs packages of the distribution, so it is a package command itself.
    let mut run = vec![
        Run::new(argv).in_dir(&format!("{dir}/aws-efa-installer")).packages().into(),
        Action::Assert(Check::Contains {
            path: "/opt/amazon/efa_installed_packages".into(),
            text: format!("EFA installer version: {version}"),
        }),
    ];
    for program in [format!("{EFA_PREFIX}/bin/fi_info"), format!("{MPI_PREFIX}/bin/mpirun")] {
        run.push(Action::Assert(Check::Exists { path: Word::literal(program) }));
    }
    if chosen.gpu.is_none() && at_least("1.41.0") {
        // Its module needs symbols of the NVIDIA driver, which a CPU-only image does not have.
        let argv = chosen.distribution.packages.remove.iter().map(String::as_str).chain(["efa-nv-peermem"]);
        run.push(Run::new(argv).packages().into());
    }
    let steps = vec![
        Step::new(
            "fetch",
            "Download the installer and check its digest",
            vec![
                Action::Assert(Check::FreeSpace { mib: 3072 }),
                fetch(&chosen.efa, &archive),
                Action::Unpack { archive: archive.clone(), dir: dir.clone() },
            ],
        )
        .why("its digest stands here, and at the top who published it: no key and no keyring is needed on this machine")
        .hint(REACH),
        Step::new("install", format!("Run EFA installer {version}"), run)
            .hint("its own messages are in the log; it needs the running kernel's headers and the distribution's package sources"),
        Step::new("tidy", "Remove the installer", vec![Action::Remove { paths: vec![archive, dir] }]),
    ];
    stage("efa", format!("EFA installer {version}"), Then::Continue, steps)
}

pub(super) fn nccl(gpu: &Gpu) -> Stage {
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
            Action::Assert(Check::FreeSpace { mib: 6144 }),
            Action::Checkout { url: nccl.url.clone(), commit: nccl.commit.clone(), dir: dir.clone() },
            Run::new(&make).in_dir(&dir).into(),
            Action::Assert(Check::Exists { path: Word::literal(format!("{NCCL_PREFIX}/lib/libnccl.so.{release}")) }),
            Action::Remove { paths: vec![dir] },
        ],
    )
    .why("jobs are bounded by cores and memory, and only the GPUs asked for are built: `make -j` is neither")
    .hint(BUILD);
    stage("nccl", format!("NCCL {} for {}", nccl.version, gpu.architectures.join(", ")), Then::Continue, vec![step])
}

pub(super) fn plugin(gpu: &Gpu) -> Stage {
    let plugin = gpu.resolved.plugin;
    let dir = src("aws-ofi-nccl");
    let mut steps = Vec::new();
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
        let build =
            |argv: &[String]| -> Action { Run::new(argv).in_dir(&dir).environment([("PATH", path.as_str())]).into() };
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
                    Action::Assert(Check::Exists { path: Word::literal(format!("{}/lib/{}", plugin.prefix, plugin.library)) }),
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

pub(super) fn nccl_tests(gpu: &Gpu) -> Stage {
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
            Run::new(&make).in_dir(&dir).into(),
            Action::Assert(Check::Exists { path: Word::literal(format!("{TESTS_PREFIX}/build/all_reduce_perf")) }),
            Action::Remove { paths: vec![dir, format!("{TESTS_PREFIX}/build/*.o")] },
        ],
    )
    .hint(BUILD);
    stage("nccl-tests", format!("nccl-tests {}", tests.version), Then::Continue, vec![step])
}

/// nvcc's flags for exactly the chosen architectures.
fn gencode(gpu: &Gpu) -> String {
    let flag = |sm: &String| {
        let number = sm.trim_start_matches("sm_");
        format!("-gencode=arch=compute_{number},code=sm_{number}")
    };
    gpu.architectures.iter().map(flag).collect::<Vec<_>>().join(" ")
}
