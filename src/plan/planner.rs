//! Owns the planner: which stages, in which order, and what the plan says of itself. What each stage does is
//! decided in its own module; how an action is written in any format is not known here.

use super::action::{Action, GuestCommand};
use super::digests::in_fours;
use super::model::{BaseImage, BootHook, Component, Plan, Stage};
use super::request::{Request, mirrored};
use super::resolve::{ResolvedGpu, ResolvedRequest, driver_bound, resolve, too_new_kernel, way_to_newer_kernels};
use super::stages::parts::{package_locks, wait_for_cloud_init, write_file};
use super::stages::{check, driver, efa, environment, extra, kernel, nccl, prepare, seal};
use crate::catalog::distribution::Distribution;
use crate::catalog::instance_type::InstanceType;
use crate::catalog::stack::Download;
use crate::catalog::{Catalog, InitSystem};
use crate::error::Result;

/// Plans the install that the request asks for. Fails with what can't be had and what could.
pub fn plan(catalog: &Catalog, request: &Request) -> Result<Plan> {
    let chosen = resolve(catalog, request)?;
    let distribution = chosen.distribution;
    let init = &catalog.init_systems[&distribution.init];
    let components = components(&chosen);
    let mut stages = vec![prepare::prepare(&chosen), prepare::update(catalog, &chosen), kernel::kernel(&chosen)];
    if let Some(gpu) = &chosen.gpu {
        stages.push(driver::driver(distribution, init, gpu));
    }
    stages.push(efa::efa(&chosen));
    if let Some(gpu) = &chosen.gpu {
        stages.push(nccl::nccl(gpu));
        if gpu.resolved.plugin.source.is_some() {
            stages.push(nccl::plugin(&chosen, gpu));
        }
        stages.push(nccl::nccl_tests(gpu));
    }
    stages.push(environment::environment(&chosen, init, &components));
    if let Some(text) = &request.extra_script {
        stages.push(extra::extra(text)?);
    }
    stages.push(check::check(&chosen, init));
    if let Some(gpu) = chosen.gpu.as_ref().filter(|_| request.test) {
        stages.push(check::test(&chosen, gpu, &catalog.environment));
    }
    stages.push(seal::stage(distribution, init));
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
        allowed: chosen.allowed.iter().map(|one| one.rule).collect(),
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
            *url = mirrored(url, mirror);
        }
    }
}

fn notes(catalog: &Catalog, chosen: &ResolvedRequest, request: &Request) -> Vec<String> {
    let mut notes: Vec<String> = chosen.distribution.note.iter().cloned().collect();
    if let Some(mirror) = &request.mirror {
        notes.push(format!("Everything but the distribution's own packages is downloaded from {mirror}."));
    }
    notes.extend(
        chosen.allowed.iter().map(|one| format!("Allowed by you, against rule {}: {}.", one.rule, one.message)),
    );
    if let Some((name, note)) = chosen.instance_type.and_then(|t| Some((&t.name, t.note.as_ref()?))) {
        notes.push(format!("{name}: {note}."));
    }
    if let Some(key) = &chosen.package_key {
        let fingerprint = in_fours(&key.fingerprint);
        notes.push(format!(
            "The EFA installer installs nothing unless each of its packages is signed by key {fingerprint}."
        ));
    }
    if let Some(url) = &request.yum_repository {
        notes.push(format!("The distribution's packages come from {url} alone; the image keeps it so."));
    }
    let Some(gpu) = &chosen.gpu else {
        notes.push("CPU-only: no driver, no CUDA, no NCCL.".into());
        return notes;
    };
    if let (Some((driver, max)), Some(series)) = (driver_bound(chosen), too_new_kernel(chosen)) {
        notes.push(format!(
            "Kernel {} was seen in {}, and NVIDIA driver {} is for kernels up to {max}: the script ends before its first \
             reboot where that or a newer one is installed. To get one that goes on: {}.",
            series.version,
            series.seen,
            driver.version,
            way_to_newer_kernels(catalog, chosen)
        ));
    }
    let architectures = gpu.architectures.join(", ");
    let driver = &gpu.resolved.driver.version;
    notes.push(format!("Driver {driver} is built with its {} kernel modules.", gpu.modules.name()));
    let Some(chosen_type) = chosen.instance_type else {
        notes.push(format!("No instance type was chosen: GPU code is built for {architectures}."));
        notes.extend(left_out(gpu));
        let built = |t: &&InstanceType| t.gpu.as_ref().is_some_and(|g| gpu.architectures.contains(&g.architecture));
        let kept = |t: &&InstanceType| !gpu.left_out.iter().any(|(other, _)| other.name == t.name);
        let fabric = catalog.instance_types.iter().filter(built).filter(kept).filter(|t| t.fabric.is_managed_here());
        let names = fabric.map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
        if !names.is_empty() {
            notes.push(format!("No fabric manager: {names} need it, choose the type for one of these."));
        }
        return notes;
    };
    notes.push(format!("GPU code is built for {architectures}, for {}.", chosen_type.name));
    if let Some(nvlsm) = &gpu.nvlsm {
        notes.push(format!(
            "{} has NVLink 5: the fabric manager starts NVLink subnet manager {}.",
            chosen_type.name, nvlsm.version
        ));
    }
    notes
}

/// Types that an image without a chosen one does not drive, a sentence for each rule that excludes them.
fn left_out(gpu: &ResolvedGpu) -> Vec<String> {
    let mut by_rule: Vec<(&str, Vec<&str>)> = Vec::new();
    for (instance_type, violation) in &gpu.left_out {
        match by_rule.iter_mut().find(|(rule, _)| *rule == violation.rule) {
            Some((_, names)) => names.push(&instance_type.name),
            None => by_rule.push((violation.rule, vec![&instance_type.name])),
        }
    }
    let sentence = |(rule, names): (&str, Vec<&str>)| format!("Not for {} (rule {rule}).", names.join(", "));
    by_rule.into_iter().map(sentence).collect()
}

fn base(chosen: &ResolvedRequest) -> BaseImage {
    let Distribution { ami, os_release, cloud_init, .. } = chosen.distribution;
    // Room for the distribution, EFA and the user's own software, and for CUDA and the build trees.
    let root_gib =
        20 + chosen.gpu.as_ref().map_or(0, |gpu| (20 + gpu.resolved.cuda.space_mib / 1024).next_multiple_of(10));
    BaseImage {
        owners: ami.owners.clone(),
        name: ami.name.clone(),
        architecture: os_release.machine.clone(),
        user: ami.user.clone(),
        sudo_needs_tty: ami.sudo_needs_tty,
        root_device: ami.root_device.clone(),
        openssh: ami.openssh.clone(),
        root_gib,
        imdsv2: cloud_init.imdsv2,
    }
}

fn boot_hook(init: &InitSystem) -> BootHook {
    let run_all =
        |argvs: &[Vec<String>]| argvs.iter().map(|argv| GuestCommand::new(argv).into()).collect::<Vec<Action>>();
    let mut install = vec![write_file(&init.unit)];
    install.extend(run_all(&init.enable));
    let mut remove = run_all(&init.disable);
    remove.push(Action::Remove { paths: vec![init.unit.path.clone()] });
    let start = if init.start.is_empty() { Vec::new() } else { vec![GuestCommand::new(&init.start).into()] };
    BootHook { install, start, remove }
}

fn components(chosen: &ResolvedRequest) -> Vec<Component> {
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
    if let Some(nvlsm) = &gpu.nvlsm {
        list.push(download("nvlsm", "NVLink subnet manager", &nvlsm.version, &nvlsm.download));
    }
    list.push(download("cuda", "CUDA toolkit", &stack.cuda.version, &gpu.cuda));
    if let Some((gdrcopy, _)) = gpu.gdrcopy {
        list.push(tree("gdrcopy", "GDRCopy", &gdrcopy.version, &gdrcopy.url, &gdrcopy.commit, &gdrcopy.published));
    }
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
