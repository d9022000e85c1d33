//! Owns what several stages are put together from: paths, package commands, downloads. Knows no stage.

use super::action::{Action, Check, Run};
use super::request::{Chosen, Gpu};
use super::word::Word;
use super::{STATE_DIR, Stage, Step, Then, When};
use crate::catalog::distribution::{Distribution, FileContent};
use crate::catalog::stack::Download;

/// Where the EFA installer puts libfabric.
pub const EFA_PREFIX: &str = "/opt/amazon/efa";
/// Where it puts Open MPI.
pub const MPI_PREFIX: &str = "/opt/amazon/openmpi";
/// Where NCCL goes.
pub const NCCL_PREFIX: &str = "/opt/nccl";
/// Where nccl-tests go.
pub const TESTS_PREFIX: &str = "/opt/nccl-tests";

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

pub(super) fn stage(id: &'static str, title: impl Into<String>, then: Then, steps: Vec<Step>) -> Stage {
    Stage { id, title: title.into(), then, run: When::Install, steps }
}

pub(super) fn write_file(file: &FileContent) -> Action {
    Action::WriteFile { path: file.path.clone(), mode: "0644", content: file.content.clone() }
}

pub(super) fn fetch(download: &Download, path: &str) -> Action {
    let sha256 = download.sha256.clone().expect("choose() gives every download a digest");
    Action::Fetch { url: download.url.clone(), sha256, path: path.to_owned() }
}

pub(super) fn prints<const N: usize>(argv: [&str; N], text: &str) -> Action {
    Action::Assert(Check::Prints {
        argv: argv.iter().map(|word| Word::template(word)).collect(),
        text: text.to_owned(),
    })
}

/// Stops the distribution's timers and waits for the package locks.
pub(super) fn package_locks(distribution: &Distribution) -> Vec<Action> {
    let packages = &distribution.packages;
    let mut actions: Vec<Action> = packages.quiet.iter().map(|argv| Run::new(argv).into()).collect();
    if !packages.locks.is_empty() {
        actions.push(Action::WaitForLocks { files: packages.locks.clone() });
    }
    actions
}

/// Waits until cloud-init has finished this boot.
pub(super) fn wait_for_cloud_init(distribution: &Distribution) -> Action {
    match distribution.cloud_init.wait.as_slice() {
        [] => Action::WaitForBootFinished,
        argv => Action::WaitForCloudInit { argv: argv.to_vec() },
    }
}

pub(super) fn package_run(argv: &[String]) -> Run {
    Run::new(argv).packages()
}

/// Installs packages and checks each: yum succeeds as long as one of those it was given exists.
pub(super) fn install(distribution: &Distribution, names: &[String]) -> Vec<Action> {
    let packages = &distribution.packages;
    let argv: Vec<String> = packages.install.iter().chain(names).cloned().collect();
    let names = names.iter().map(|name| Word::template(name)).collect();
    vec![
        package_run(&argv).into(),
        Action::Assert(Check::Installed { query: packages.installed.clone(), packages: names }),
    ]
}

/// `10.1`, the version's first two numbers: the third is another one in nvcc than in the runfile's name.
pub(super) fn cuda_release(gpu: &Gpu) -> String {
    gpu.resolved.cuda.version.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// `/usr/local/cuda-10.1`.
pub(super) fn cuda_prefix(gpu: &Gpu) -> String {
    format!("/usr/local/cuda-{}", cuda_release(gpu))
}

pub(super) fn plugin_lib_dir(chosen: &Chosen, gpu: &Gpu) -> String {
    let plugin = gpu.resolved.plugin;
    let lib = if plugin.source.is_some() { "lib" } else { &chosen.distribution.lib_dir };
    format!("{}/{lib}", plugin.prefix)
}

pub(super) fn library_dirs(chosen: &Chosen) -> Vec<String> {
    let lib = &chosen.distribution.lib_dir;
    let mut dirs = vec![format!("{EFA_PREFIX}/{lib}"), format!("{MPI_PREFIX}/{lib}")];
    if let Some(gpu) = &chosen.gpu {
        dirs.extend([format!("{NCCL_PREFIX}/lib"), plugin_lib_dir(chosen, gpu), format!("{}/lib64", cuda_prefix(gpu))]);
    }
    dirs
}

pub(super) fn src(name: &str) -> String {
    format!("{STATE_DIR}/src/{name}")
}
