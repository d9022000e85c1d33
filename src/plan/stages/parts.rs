//! Owns what several stages are put together from: paths, package commands, downloads.

use crate::catalog::distribution::{Distribution, FileContent};
use crate::catalog::stack::Download;
use crate::plan::action::{Action, Assertion, GuestCommand};
use crate::plan::argument::Argument;
use crate::plan::model::{STATE_DIR, Stage, Step, Then, When};
use crate::plan::resolve::{ResolvedGpu, ResolvedRequest};
use crate::version;

/// Where the EFA installer puts libfabric.
pub const EFA_PREFIX: &str = "/opt/amazon/efa";
/// Where it puts Open MPI.
pub const MPI_PREFIX: &str = "/opt/amazon/openmpi";
/// Where NCCL goes.
pub const NCCL_PREFIX: &str = "/opt/nccl";
/// Where nccl-tests go.
pub const TESTS_PREFIX: &str = "/opt/nccl-tests";

/// Where GDRCopy goes.
pub(crate) const GDRCOPY_PREFIX: &str = "/opt/gdrcopy";
/// Its own tests.
pub(crate) const GDRCOPY_SANITY: &str = "/opt/gdrcopy/bin/gdrcopy_sanity";

/// How Open MPI is run beside NCCL: its own messages over TCP, because it may take EFA for itself otherwise (AWS's guide from
/// November 2020 on), and not over bridges that lead nowhere; ranks on whatever cores they like.
pub const MPI_OPTIONS: [&str; 11] = [
    "--mca",
    "pml",
    "^cm",
    "--mca",
    "btl",
    "tcp,self",
    "--mca",
    "btl_tcp_if_exclude",
    "lo,docker0",
    "--bind-to",
    "none",
];

/// What to look at when a package command fails.
pub(crate) const SOURCES: &str = "see whether this machine reaches the package sources, and whether the disk is full";

pub(crate) fn stage(id: &'static str, title: impl Into<String>, then: Then, steps: Vec<Step>) -> Stage {
    Stage { id, title: title.into(), then, run: When::Install, steps }
}

pub(crate) fn write_file(file: &FileContent) -> Action {
    Action::WriteFile { path: file.path.clone(), mode: "0644", content: file.content.clone() }
}

pub(crate) fn fetch(download: &Download, path: &str) -> Action {
    let sha256 = download.sha256.clone().expect("resolve() gives every download a digest");
    let (url, sha512) = (download.url.clone(), download.sha512.clone());
    Action::Fetch { url, sha256, sha512, path: path.to_owned() }
}

pub(crate) fn prints<const N: usize>(argv: [&str; N], text: &str) -> Action {
    Action::Assert(Assertion::Prints {
        argv: argv.iter().map(|word| Argument::template(word)).collect(),
        text: text.to_owned(),
    })
}

/// Masks the distribution's timers and waits for the package locks.
pub(crate) fn package_locks(distribution: &Distribution) -> Vec<Action> {
    let packages = &distribution.packages;
    let mut actions = Vec::new();
    if !packages.timers.is_empty() {
        actions.push(Action::MaskUnits { units: packages.timers.clone() });
    }
    if !packages.locks.is_empty() {
        actions.push(Action::WaitForLocks { files: packages.locks.clone() });
    }
    actions
}

/// Unmasks the timers that [`package_locks`] masked, if the distribution has any.
pub(crate) fn give_timers_back(distribution: &Distribution) -> Option<Action> {
    (!distribution.packages.timers.is_empty()).then_some(Action::UnmaskUnits)
}

/// Waits until cloud-init has finished this boot.
pub(crate) fn wait_for_cloud_init(distribution: &Distribution) -> Action {
    match distribution.cloud_init.wait.as_slice() {
        [] => Action::WaitForBootFinished,
        argv => Action::WaitForCloudInit { argv: argv.to_vec() },
    }
}

pub(crate) fn package_run(argv: &[String]) -> GuestCommand {
    GuestCommand::new(argv).packages()
}

/// Installs packages and checks each: yum succeeds as long as one of those it was given exists.
pub(crate) fn install(distribution: &Distribution, names: &[String]) -> Vec<Action> {
    install_by(&distribution.packages.install, distribution, names)
}

/// The same by another command, to which the packages are appended.
pub(crate) fn install_by(command: &[String], distribution: &Distribution, names: &[String]) -> Vec<Action> {
    let packages = &distribution.packages;
    let argv: Vec<String> = command.iter().chain(names).cloned().collect();
    let names = names.iter().map(|name| Argument::template(name)).collect();
    vec![
        package_run(&argv).into(),
        Action::Assert(Assertion::Installed { query: packages.installed.clone(), packages: names }),
    ]
}

/// Checks that no package brings a driver beside the pinned one.
pub(crate) fn no_other_driver(distribution: &Distribution) -> Action {
    Action::Assert(Assertion::NoPackages { query: distribution.packages.drivers.clone() })
}

/// Whether this EFA installer brings the module efa_nv_peermem (release notes, 1.41.0).
pub(crate) fn has_peermem(efa_version: &str) -> bool {
    version::compare(efa_version, "1.41.0").is_ge()
}

/// `10.1`, the version's first two numbers: the third is another one in nvcc than in the runfile's name.
pub(crate) fn cuda_release(gpu: &ResolvedGpu) -> String {
    gpu.resolved.cuda.version.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// `/usr/local/cuda-10.1`.
pub(crate) fn cuda_prefix(gpu: &ResolvedGpu) -> String {
    format!("/usr/local/cuda-{}", cuda_release(gpu))
}

pub(crate) fn plugin_lib_dir(chosen: &ResolvedRequest, gpu: &ResolvedGpu) -> String {
    let plugin = gpu.resolved.plugin;
    let lib = if plugin.source.is_some() { "lib" } else { &chosen.distribution.lib_dir };
    format!("{}/{lib}", plugin.prefix)
}

pub(crate) fn library_dirs(chosen: &ResolvedRequest) -> Vec<String> {
    let lib = &chosen.distribution.lib_dir;
    let mut dirs = vec![format!("{EFA_PREFIX}/{lib}"), format!("{MPI_PREFIX}/{lib}")];
    if let Some(gpu) = &chosen.gpu {
        dirs.extend([format!("{NCCL_PREFIX}/lib"), plugin_lib_dir(chosen, gpu), format!("{}/lib64", cuda_prefix(gpu))]);
        dirs.extend(gpu.gdrcopy.map(|_| format!("{GDRCOPY_PREFIX}/lib")));
    }
    dirs
}

/// The compiler of the running kernel: a link, because only the machine knows which one it is.
pub(crate) const KERNEL_COMPILER: &str = "/var/lib/efa-gen/kernel-gcc";

pub(crate) fn src(name: &str) -> String {
    format!("{STATE_DIR}/src/{name}")
}
