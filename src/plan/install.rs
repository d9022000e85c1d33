//! Owns the planner: which stages, in which order, and what the plan says of itself. What each stage does is
//! decided in its own module; how an action is written in any format is not known here.

use super::action::{Action, Run};
use super::parts::{package_locks, stage, wait_for_cloud_init, write_file};
use super::request::{Chosen, Request, choose};
use super::{Base, BootHook, Component, Plan, Stage, Step, Then, finish, seal, software, system};
use crate::catalog::distribution::Distribution;
use crate::catalog::instance_type::InstanceType;
use crate::catalog::stack::Download;
use crate::catalog::{Catalog, InitSystem};
use crate::error::{Class, Error, Result};

const EXTRA_SCRIPT: &str = "/var/lib/efa-gen/extra-script";

/// Plans the install that the request asks for. Fails with what can't be had and what could.
pub fn plan(catalog: &Catalog, request: &Request) -> Result<Plan> {
    let chosen = choose(catalog, request)?;
    let distribution = chosen.distribution;
    let init = &catalog.init_systems[&distribution.init];
    let components = components(&chosen);
    let mut stages = vec![system::prepare(&chosen), system::update(distribution), system::kernel(&chosen)];
    if let Some(gpu) = &chosen.gpu {
        stages.push(software::driver(gpu));
    }
    stages.push(software::efa(&chosen));
    if let Some(gpu) = &chosen.gpu {
        stages.push(software::nccl(gpu));
        if gpu.resolved.plugin.source.is_some() {
            stages.push(software::plugin(gpu));
        }
        stages.push(software::nccl_tests(gpu));
    }
    stages.push(finish::environment(&chosen, init, &components));
    if let Some(text) = &request.extra_script {
        stages.push(extra(text)?);
    }
    stages.push(finish::check(&chosen));
    if let Some(gpu) = chosen.gpu.as_ref().filter(|_| request.test) {
        stages.push(finish::test(&chosen, gpu, &catalog.environment));
    }
    stages.push(seal::stage(distribution));
    if let Some(mirror) = &request.mirror {
        take_from(mirror, &mut stages);
    }
    Ok(Plan {
        schema: 1,
        distribution: distribution.id.clone(),
        distribution_name: distribution.name.clone(),
        notes: notes(catalog, &chosen, request),
        stack: chosen.stack_id.clone(),
        instance_type: chosen.instance_type.map(|t| t.name.clone()),
        architectures: chosen.gpu.as_ref().map_or_else(Vec::new, |gpu| gpu.architectures.clone()),
        components,
        base: base(&chosen),
        environment: distribution.packages.environment.clone().into_iter().collect(),
        package_locks: package_locks(distribution),
        recover_packages: distribution.packages.recover.clone(),
        refresh_packages: distribution.packages.refresh.clone(),
        after_reboot: vec![wait_for_cloud_init(distribution)],
        boot_hook: boot_hook(init),
        stages,
    })
}

/// Turns every download to the mirror, where an artifact lies in a folder named after its host.
fn take_from(mirror: &str, stages: &mut [Stage]) {
    for action in stages.iter_mut().flat_map(|stage| &mut stage.steps).flat_map(|step| &mut step.actions) {
        if let Action::Fetch { url, .. } | Action::Checkout { url, .. } = action {
            *url = super::mirrored(url, mirror);
        }
    }
}

fn notes(catalog: &Catalog, chosen: &Chosen, request: &Request) -> Vec<String> {
    let mut notes: Vec<String> = chosen.distribution.note.iter().cloned().collect();
    if let Some(mirror) = &request.mirror {
        notes.push(format!("Everything but the distribution's own packages is downloaded from {mirror}."));
    }
    let Some(gpu) = &chosen.gpu else {
        notes.push("CPU-only: no driver, no CUDA, no NCCL.".into());
        return notes;
    };
    let architectures = gpu.architectures.join(", ");
    let Some(chosen_type) = chosen.instance_type else {
        notes.push(format!("No instance type was chosen: GPU code is built for {architectures}."));
        let built = |t: &&InstanceType| t.gpu.as_ref().is_some_and(|g| gpu.architectures.contains(&g.architecture));
        let switched: Vec<_> = catalog.instance_types.iter().filter(built).filter(|t| t.nvswitch).collect();
        if !switched.is_empty() {
            let names = switched.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
            notes.push(format!("No fabric manager: {names} need it, choose the type for one of these."));
        }
        return notes;
    };
    notes.push(format!("GPU code is built for {architectures}, for {}.", chosen_type.name));
    notes.extend(chosen_type.note.iter().map(|note| format!("{}: {note}.", chosen_type.name)));
    notes
}

fn base(chosen: &Chosen) -> Base {
    let Distribution { ami, os_release, cloud_init, .. } = chosen.distribution;
    // Room for the distribution, EFA and the user's own software, and for CUDA and the build trees.
    let root_gib =
        20 + chosen.gpu.as_ref().map_or(0, |gpu| (20 + gpu.resolved.cuda.space_mib / 1024).next_multiple_of(10));
    Base {
        owners: ami.owners.clone(),
        name: ami.name.clone(),
        architecture: os_release.machine.clone(),
        user: ami.user.clone(),
        sudo_needs_tty: ami.sudo_needs_tty,
        root_device: ami.root_device.clone(),
        root_gib,
        imdsv2: cloud_init.imdsv2,
    }
}

fn boot_hook(init: &InitSystem) -> BootHook {
    let run_all = |argvs: &[Vec<String>]| argvs.iter().map(|argv| Run::new(argv).into()).collect::<Vec<Action>>();
    let mut install = vec![write_file(&init.unit)];
    install.extend(run_all(&init.enable));
    let mut remove = run_all(&init.disable);
    remove.push(Action::Remove { paths: vec![init.unit.path.clone()] });
    let start = if init.start.is_empty() { Vec::new() } else { vec![Run::new(&init.start).into()] };
    BootHook { install, start, remove }
}

fn components(chosen: &Chosen) -> Vec<Component> {
    let download = |name, title, version: &str, download: &Download| Component {
        name,
        title,
        version: version.to_owned(),
        origin: download.url.clone(),
        digest: download.sha256.as_ref().map(|hex| format!("sha256:{hex}")),
        published: download.published.clone(),
    };
    let tree = |name, title, version: &str, url: &str, commit: &str, published: &str| Component {
        name,
        title,
        version: version.to_owned(),
        origin: url.to_owned(),
        digest: Some(format!("commit:{commit}")),
        published: published.to_owned(),
    };
    let mut list = vec![download("efa", "EFA installer", &chosen.efa_version, &chosen.efa)];
    let Some(gpu) = &chosen.gpu else { return list };
    let stack = &gpu.resolved;
    list.push(download("driver", "NVIDIA driver", &stack.driver.version, &gpu.driver));
    if let Some(fabric_manager) = &gpu.fabric_manager {
        list.push(download("fabric-manager", "NVIDIA fabric manager", &stack.driver.version, fabric_manager));
    }
    list.push(download("cuda", "CUDA toolkit", &stack.cuda.version, &gpu.cuda));
    let nccl = stack.nccl;
    list.push(tree("nccl", "NCCL", &nccl.version, &nccl.url, &nccl.commit, &nccl.published));
    list.push(match &stack.plugin.source {
        Some(source) => {
            tree("plugin", "aws-ofi-nccl", &stack.plugin.version, &source.url, &source.commit, &source.published)
        }
        None => Component {
            name: "plugin",
            title: "aws-ofi-nccl",
            version: stack.plugin.version.clone(),
            origin: "bundled with the EFA installer".into(),
            digest: None,
            published: "EFA release notes".into(),
        },
    });
    let tests = stack.nccl_tests;
    list.push(tree("nccl-tests", "nccl-tests", &tests.version, &tests.url, &tests.commit, &tests.published));
    list
}

fn extra(text: &str) -> Result<Stage> {
    if !text.starts_with("#!") {
        return Err(Error::new(Class::Usage, "the extra script does not begin with `#!`")
            .hint("begin it with the interpreter, for example `#!/bin/bash`"));
    }
    if text.contains('\0') {
        return Err(Error::new(Class::Usage, "the extra script holds a NUL byte, so it is not a text file"));
    }
    let step = Step::new(
        "run",
        "Run the extra script",
        vec![
            Action::WriteFile { path: EXTRA_SCRIPT.into(), mode: "0755", content: text.to_owned() },
            Run::new([EXTRA_SCRIPT]).into(),
            Action::Remove { paths: vec![EXTRA_SCRIPT.into()] },
        ],
    )
    .hint("it is your own script; when it fails, this step runs it again from its beginning");
    Ok(stage("extra", "Your own steps", Then::Continue, vec![step]))
}
