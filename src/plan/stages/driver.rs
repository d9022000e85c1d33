//! Owns the stage "driver": the NVIDIA driver, the fabric manager, CUDA.

use super::parts::{
    GDRCOPY_PREFIX, GDRCOPY_SANITY, KERNEL_COMPILER, cuda_prefix, cuda_release, fetch, no_other_driver, prints, src,
    stage,
};
use crate::catalog::InitSystem;
use crate::catalog::distribution::Distribution;
use crate::catalog::stack::{Download, Nvlsm, Source};
use crate::plan::action::{Action, Assertion, GuestCommand};
use crate::plan::argument::Argument;
use crate::plan::compatibility::Modules;
use crate::plan::model::{CUDA_CONTEXTS, Stage, Step, Then};
use crate::plan::resolve::ResolvedGpu;
use crate::version::at_least;

/// Where the fabric manager looks for the subnet manager.
const NVLSM: &str = "/opt/nvidia/nvlsm";

/// What `modinfo` says of the license of a module of this flavour.
pub(crate) fn license(gpu: &ResolvedGpu) -> &'static str {
    match gpu.modules {
        Modules::Open => "Dual MIT/GPL",
        Modules::Proprietary => "NVIDIA",
    }
}

pub(crate) fn driver(distribution: &Distribution, init: &InitSystem, gpu: &ResolvedGpu) -> Stage {
    let driver = gpu.resolved.driver;
    let cuda = gpu.resolved.cuda;
    let runfile = src("driver.run");
    // With a kernel named, installers up to R495 do not test-load the module, which fails without a GPU.
    let flavour = modules_flag(&driver.version, gpu.modules);
    let install =
        ["sh", &runfile, "--silent", "--no-drm", "--kernel-name={kernel}"].into_iter().chain(flavour.as_deref());
    let mut steps = vec![
        Step::new(
            "nouveau",
            "Check that there is no other driver",
            vec![
                Action::Assert(Assertion::ModuleAbsent { module: "nouveau".into() }),
                no_other_driver(distribution),
                Action::Assert(Assertion::FreeSpace { mib: cuda.space_mib }),
            ],
        )
        .hint("reboot if nouveau is loaded; take a base image without another driver, or a larger root volume"),
        Step::new(
            "driver",
            format!("Install NVIDIA driver {}", driver.version),
            vec![
                fetch(&gpu.driver, &runfile),
                Action::FreeDriver { stop: init.persistence.stop.clone() },
                GuestCommand::new(install).environment([("CC", KERNEL_COMPILER)]).into(),
                prints(["modinfo", "-k", "{kernel}", "-F", "version", "nvidia"], &driver.version),
                prints(["modinfo", "-k", "{kernel}", "-F", "license", "nvidia"], license(gpu)),
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
        steps.push(fabric_manager(distribution, download));
    }
    steps.extend(gpu.nvlsm.as_ref().map(subnet_manager));
    steps.extend([cuda_toolkit(gpu), cuda_contexts(gpu)]);
    steps.extend(gpu.gdrcopy.map(|(source, _)| gdrcopy(source, gpu)));
    let title = format!("NVIDIA driver {} and CUDA {}", driver.version, cuda.version);
    stage("driver", title, Then::Continue, steps)
}

/// Which modules, always said: an installer that is not told looks for a GPU, which a builder may not have. Before 515 there is
/// one kind and no flag; `--kernel-module-type` came with 560 (nvidia-installer, option_table.h of 515 and 560).
fn modules_flag(driver: &str, modules: Modules) -> Option<String> {
    if !at_least(driver, "515") {
        return None;
    }
    if at_least(driver, "560") {
        return Some(format!("--kernel-module-type={}", modules.name()));
    }
    let folder = match modules {
        Modules::Open => "kernel-open",
        Modules::Proprietary => "kernel",
    };
    Some(format!("--kernel-module-build-directory={folder}"))
}

fn cuda_toolkit(gpu: &ResolvedGpu) -> Step {
    let cuda = gpu.resolved.cuda;
    let runfile = src("cuda.run");
    let prefix = cuda_prefix(gpu);
    let tmp = src("tmp");
    Step::new(
        "cuda",
        format!("Install CUDA {}", cuda.version),
        vec![
            fetch(&gpu.cuda, &runfile),
            GuestCommand::new(["mkdir", "-p", &tmp]).into(),
            GuestCommand::new([
                "sh",
                &runfile,
                "--silent",
                "--toolkit",
                &format!("--toolkitpath={prefix}"),
                &format!("--tmpdir={tmp}"),
            ])
            .into(),
            prints([&format!("{prefix}/bin/nvcc"), "--version"], &format!("release {},", cuda_release(gpu))),
            GuestCommand::new(["ln", "-sfn", &prefix, "/usr/local/cuda"]).into(),
            Action::Remove { paths: vec![runfile, tmp] },
        ],
    )
    .hint("see /var/log/cuda-installer.log")
}

fn cuda_contexts(gpu: &ResolvedGpu) -> Step {
    let source = src("cuda-contexts.cu");
    let folder = CUDA_CONTEXTS.rsplit_once('/').map_or("/", |(folder, _)| folder);
    Step::new(
        "cuda-contexts",
        "Build what makes a CUDA context on every GPU",
        vec![
            Action::WriteFile {
                path: source.clone(),
                mode: "0644",
                content: include_str!("../../../templates/driver/cuda-contexts.cu").into(),
            },
            GuestCommand::new(["mkdir", "-p", folder]).into(),
            GuestCommand::new([&format!("{}/bin/nvcc", cuda_prefix(gpu)), "-o", CUDA_CONTEXTS, &source]).into(),
            Action::Assert(Assertion::Exists { path: Argument::literal(CUDA_CONTEXTS) }),
            Action::Remove { paths: vec![source] },
        ],
    )
    .why("nvidia-smi looks healthy where every CUDA program fails: without the fabric, or with a module of the wrong flavour")
}

fn gdrcopy(source: &Source, gpu: &ResolvedGpu) -> Step {
    let dir = src("gdrcopy");
    // The module tells two numbers of three.
    let release = source.version.split('.').take(2).collect::<Vec<_>>().join(".");
    let make = |words: &[String]| -> Action {
        GuestCommand::new(["make".to_owned(), "-j{jobs}".to_owned()].iter().chain(words).chain(&source.make))
            .in_dir(&dir)
            .into()
    };
    let programs = [
        format!("prefix={GDRCOPY_PREFIX}"),
        format!("CUDA={}", cuda_prefix(gpu)),
        "lib_install".to_owned(),
        "exes_install".to_owned(),
    ];
    let module = ["KVER={kernel}".to_owned(), format!("CC={KERNEL_COMPILER}"), "drv_install".to_owned()];
    Step::new(
        "gdrcopy",
        format!("Install GDRCopy {}", source.version),
        vec![
            Action::Checkout { url: source.url.clone(), commit: source.commit.clone(), dir: dir.clone() },
            make(&programs),
            make(&module),
            prints(["modinfo", "-k", "{kernel}", "-F", "version", "gdrdrv"], &release),
            Action::Assert(Assertion::Exists { path: Argument::literal(GDRCOPY_SANITY) }),
            Action::Remove { paths: vec![dir] },
        ],
    )
    .why("its module is built against the driver's, open or proprietary as that one is")
    .hint("the compiler's messages are in the log; see whether this machine reaches that host")
}

fn fabric_manager(distribution: &Distribution, download: &Download) -> Step {
    let archive = src("fabric-manager.tar.xz");
    let dir = src("fabric-manager");
    let copy = |from: &str, to: &str| -> Action {
        GuestCommand::new(["cp", "-R", "--remove-destination", from, to]).in_dir(&dir).into()
    };
    Step::new(
        "fabric-manager",
        "Install the fabric manager",
        vec![
            fetch(download, &archive),
            Action::Unpack { archive: archive.clone(), dir: dir.clone(), strip: true },
            GuestCommand::new(["mkdir", "-p", "/usr/share/nvidia/nvswitch"]).into(),
            copy("bin/.", "/usr/bin/"),
            copy("lib/.", &format!("/usr/{}/", distribution.lib_dir)),
            copy("share/nvidia/.", "/usr/share/nvidia/"),
            copy("etc/.", "/usr/share/nvidia/nvswitch/"),
            copy("systemd/.", "/etc/systemd/system/"),
            GuestCommand::new(["systemctl", "enable", "nvidia-fabricmanager.service"]).into(),
            Action::Remove { paths: vec![archive, dir.clone()] },
        ],
    )
    .why(
        "without it, and in exactly the driver's version, CUDA fails with error 802 where NVSwitches connect the GPUs; where \
         none do, as on most builders, its unit can't start, which harms nothing",
    )
    .hint("the archive lacks what is copied: compare it with NVIDIA's own")
}

fn subnet_manager(nvlsm: &Nvlsm) -> Step {
    let archive = src("nvlsm.tar.xz");
    let dir = src("nvlsm");
    let exists = |path: &str| Action::Assert(Assertion::Exists { path: Argument::literal(path) });
    Step::new(
        "nvlsm",
        format!("Install NVLink subnet manager {}", nvlsm.version),
        vec![
            fetch(&nvlsm.download, &archive),
            Action::Unpack { archive: archive.clone(), dir: dir.clone(), strip: true },
            GuestCommand::new(["mkdir", "-p", NVLSM, "/usr/share/nvidia"]).into(),
            GuestCommand::new(["cp", "-R", "sbin", "lib", NVLSM]).in_dir(&dir).into(),
            GuestCommand::new(["cp", "-R", "share/nvidia/.", "/usr/share/nvidia/"]).in_dir(&dir).into(),
            exists(&format!("{NVLSM}/sbin/nvlsm")),
            exists("/usr/share/nvidia/nvlsm"),
            Action::Remove { paths: vec![archive, dir] },
        ],
    )
    .why("the fabric manager's own start script starts it where it finds NVLink 5, so it has no unit")
    .hint("the archive lacks what is copied: compare it with NVIDIA's own")
}
