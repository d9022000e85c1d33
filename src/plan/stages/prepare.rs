//! Owns the stages "prepare" and "update": the right machine, package sources, tools, updates.

use super::parts::{SOURCES, install, package_run, stage, wait_for_cloud_init, write_file};
use crate::catalog::Catalog;
use crate::catalog::distribution::{OwnRepository, Repair};
use crate::plan::action::{Action, Assertion};
use crate::plan::model::{Stage, Step, Then};
use crate::plan::resolve::{ResolvedRequest, driver_bound, way_to_newer_kernels};

pub(crate) fn prepare(chosen: &ResolvedRequest) -> Stage {
    let distribution = chosen.distribution;
    let os = &distribution.os_release;
    let mut steps = vec![
        Step::new(
            "machine",
            format!("Check that this is {}", distribution.name),
            vec![
                Action::Assert(Assertion::System {
                    id: os.id.clone(),
                    version: os.version.clone(),
                    machine: os.machine.clone(),
                    kernel: os.kernel.clone(),
                }),
                // Here and not two reboots later; each stage looks again for what it needs.
                Action::Assert(Assertion::FreeSpace {
                    mib: 4096 + chosen.gpu.as_ref().map_or(0, |gpu| gpu.resolved.cuda.space_mib),
                }),
            ],
        )
        .hint("render a script for this machine, or give it a larger root volume"),
        Step::new("cloud-init", "Wait for cloud-init", vec![wait_for_cloud_init(distribution)])
            .why("until it is done, cloud-init may hold the package locks and rewrite the package sources")
            .hint("see /var/log/cloud-init.log; cloud-init itself must start it with --start"),
    ];
    steps.extend(package_sources(chosen));
    let mut actions = vec![package_run(&distribution.packages.refresh).into()];
    actions.extend(install(distribution, &distribution.packages.names.base));
    steps.push(Step::new("tools", "Install the tools that this script calls", actions).hint(SOURCES));
    stage("prepare", "Prepare the machine", Then::Continue, steps)
}

/// The user's own repository, or the repairs of the distribution's.
fn package_sources(chosen: &ResolvedRequest) -> Vec<Step> {
    let Some(OwnRepository { file, alone }) = &chosen.own_repository else {
        return chosen.distribution.repositories.iter().map(repair).collect();
    };
    let actions = vec![write_file(file), Action::EnsureLine { path: alone.path.clone(), line: alone.line.clone() }];
    let step = Step::new("own-repository", "Take packages from your own repository alone", actions)
        .why("the distribution's own repositories are off from here on, in the image too");
    vec![step]
}

fn repair(repair: &Repair) -> Step {
    let mut actions = Vec::new();
    if !repair.remove.is_empty() {
        actions.push(Action::Remove { paths: repair.remove.clone() });
    }
    actions.extend(repair.write.iter().map(write_file));
    actions.extend(repair.replace.iter().map(|replace| Action::Replace {
        files: replace.files.clone(),
        pattern: replace.pattern.clone(),
        with: replace.with.clone(),
    }));
    actions.extend(repair.run.iter().map(|argv| package_run(argv).into()));
    let mut step = Step::new(&repair.id, &repair.title, actions).why(&repair.why);
    step.hint.clone_from(&repair.hint);
    step
}

pub(crate) fn update(catalog: &Catalog, chosen: &ResolvedRequest) -> Stage {
    let upgrade = package_run(&chosen.distribution.packages.upgrade).into();
    let mut steps = vec![Step::new("upgrade", "Upgrade every package", vec![upgrade])
        .why("the reboot that follows is missing in AWS's guide of 2020: without it the headers of the running kernel may be gone")
        .hint(SOURCES)];
    if let Some((driver, max)) = driver_bound(chosen) {
        let check = Assertion::DriverKernel { driver: driver.version.clone(), max: max.to_owned() };
        steps.push(
            Step::new("kernel", "Check that the driver goes with the newest kernel", vec![Action::Assert(check)])
                .why("its build for that kernel would fail after the reboot, with words that do not name the kernel")
                .hint(way_to_newer_kernels(catalog, chosen)),
        );
    }
    stage("update", "Update the system, then reboot", Then::Reboot, steps)
}
