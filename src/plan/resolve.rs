//! Owns turning names into artifacts: which stack, which GPU architectures, which digests, and every refusal on the way.

use super::compatibility::{
    Combination, Modules, RULES, Violation, WithoutType, is_allowable, modules, nearest, told, violations, without_type,
};
use super::digests::{NO_DIGEST, digest_of_efa, in_fours, signer_of_efa, with_digest};
use super::request::Request;
use crate::catalog::distribution::{Distribution, KernelSeries, OwnRepository};
use crate::catalog::instance_type::{Fabric, InstanceType};
use crate::catalog::stack::{Download, Driver, Nvlsm, ResolvedStack, Source};
use crate::catalog::{Catalog, Unit};
use crate::error::{Class, Error, Result};
use crate::text::excerpt;
use crate::version;
use std::collections::{BTreeMap, BTreeSet};

/// The request with everything looked up and checked.
pub(crate) struct ResolvedRequest<'a> {
    pub distribution: &'a Distribution,
    pub instance_type: Option<&'a InstanceType>,
    pub efa_version: String,
    pub efa: Download,
    pub package_key: Option<PackageKey>,
    pub gpu: Option<ResolvedGpu<'a>>,
    pub stack_id: String,
    /// Rules that do not hold and that the user took upon himself.
    pub allowed: Vec<Violation>,
    /// How the user's own repository is taken, its address filled in.
    pub own_repository: Option<OwnRepository>,
}

/// The key by which the EFA installer checks its packages.
pub(crate) struct PackageKey {
    pub fingerprint: String,
    pub armored: String,
}

/// The GPU part of a stack, every digest known.
pub(crate) struct ResolvedGpu<'a> {
    pub resolved: ResolvedStack<'a>,
    pub architectures: Vec<String>,
    pub cuda: Download,
    pub driver: Download,
    pub fabric_manager: Option<Download>,
    pub nvlsm: Option<Nvlsm>,
    /// PCI device ids of every known GPU with NVLink 5.
    pub nvlink5: Vec<String>,
    pub modules: Modules,
    /// GDRCopy and how it starts at boot, if it is asked for.
    pub gdrcopy: Option<(&'a Source, &'a Unit)>,
    /// Without an instance type: those that the image is not for.
    pub left_out: Vec<(&'a InstanceType, Violation)>,
}

pub(crate) fn resolve<'a>(catalog: &'a Catalog, request: &'a Request) -> Result<ResolvedRequest<'a>> {
    let distribution = catalog.distribution(&request.distribution)?;
    let instance_type = request.instance_type.as_deref().map(|name| catalog.instance_type(name)).transpose()?;
    let own_repository = request.yum_repository.as_deref().map(|url| own_repository(distribution, url)).transpose()?;
    if request.test && request.no_gpu {
        return Err(Error::new(Class::Usage, "`--test` runs all_reduce_perf, which needs a GPU stack")
            .hint("leave out --no-gpu or --test"));
    }
    if request.gdrcopy && request.no_gpu {
        return Err(Error::new(Class::Usage, "`--with gdrcopy` copies to and from GPU memory, and needs a GPU stack")
            .hint("leave out --no-gpu or --with gdrcopy"));
    }
    if let Some(efa) = &request.efa {
        check_efa_version(efa)?;
    }
    for id in &request.allow {
        check_rule(id)?;
    }
    let asked = |stack: ResolvedStack<'a>| combination(distribution, instance_type, request, stack);
    let stack = resolve_stack(catalog, distribution, request, asked)?;
    let asked = asked(stack);
    if let Some(rule) = request.allow.iter().find(|rule| !is_allowable(rule, &asked)) {
        let message = format!(
            "rule `{rule}` can't be allowed: plugin {} is a part of its own EFA installer",
            stack.plugin.version
        );
        return Err(Error::new(Class::Usage, message)
            .hint("choose the stack that has this EFA installer: `efa-gen stacks` lists them"));
    }
    let (allowed, broken): (Vec<Violation>, Vec<Violation>) =
        violations(&asked).into_iter().partition(|one| request.allow.iter().any(|id| id == one.rule));
    refuse(catalog, &asked, &broken, &allowed, request)?;
    let mut given = request.sha256.clone();
    let efa = digest_of_efa(catalog, asked.efa, request.efa_digest.as_ref(), &mut given)?;
    let package_key = package_key(catalog, request, asked.efa)?;
    let gpu = if request.no_gpu { None } else { Some(resolve_gpu(catalog, asked, request, &mut given)?) };
    if let Some((name, _)) = given.first_key_value() {
        return Err(Error::new(Class::Usage, format!("--sha256 names `{name}`, which this plan does not download"))
            .hint("`efa-gen plan` lists the components of this plan"));
    }
    Ok(ResolvedRequest {
        distribution,
        instance_type,
        efa_version: asked.efa.to_owned(),
        efa,
        package_key,
        gpu,
        stack_id: stack.stack.id.clone(),
        allowed,
        own_repository,
    })
}

fn own_repository(distribution: &Distribution, url: &str) -> Result<OwnRepository> {
    let Some(known) = &distribution.packages.own_repository else {
        let message = format!("--yum-repository is not for {}, whose packages yum does not install", distribution.name);
        return Err(Error::new(Class::Usage, message).hint("leave it out, or choose a distribution that has yum"));
    };
    let mut own = known.clone();
    own.file.content = own.file.content.replace("{url}", url);
    Ok(own)
}

/// The driver and the newest kernel series that it builds for, where somebody says.
pub(crate) fn driver_bound<'a>(chosen: &ResolvedRequest<'a>) -> Option<(&'a Driver, &'a str)> {
    let driver = chosen.gpu.as_ref()?.resolved.driver;
    Some((driver, driver.kernel_max.as_deref()?))
}

/// The distribution's kernel series, where it is newer than those that the driver builds for.
pub(crate) fn too_new_kernel<'a>(chosen: &ResolvedRequest<'a>) -> Option<&'a KernelSeries> {
    let (_, max) = driver_bound(chosen)?;
    chosen.distribution.kernel.series.as_ref().filter(|series| version::compare(&series.version, max).is_gt())
}

/// The stack of this distribution and GPU whose driver goes with newer kernels, as a hint.
pub(crate) fn way_to_newer_kernels(catalog: &Catalog, chosen: &ResolvedRequest) -> String {
    let Some((driver, max)) = driver_bound(chosen) else { return String::new() };
    let fits = |stack: &ResolvedStack| {
        let gpu = chosen.instance_type.and_then(|t| t.gpu.as_ref());
        let combination = Combination {
            distribution: chosen.distribution,
            stack: *stack,
            efa: &stack.stack.efa,
            instance_type: chosen.instance_type,
            no_gpu: false,
            modules: modules(&stack.driver.version, gpu),
        };
        violations(&combination).is_empty()
    };
    let own = chosen.distribution.newest.iter().filter_map(|id| catalog.stack(id).ok());
    let all = catalog.pins.stack.iter().filter_map(|stack| catalog.pins.resolve(stack).ok());
    let stacks: Vec<ResolvedStack> = own.chain(all).filter(fits).collect();
    // Backwards: the last of equals is taken, and the best one is the first.
    let bounds = stacks.iter().rev().filter_map(|stack| Some((stack, stack.driver.kernel_max.as_deref()?)));
    let newer = bounds.filter(|(_, bound)| version::compare(bound, max).is_gt());
    if let Some((stack, bound)) = newer.max_by(|one, other| version::compare(one.1, other.1)) {
        let ResolvedStack { stack, driver, .. } = stack;
        return format!("choose --stack {}: its driver {} is for kernels up to {bound}", stack.id, driver.version);
    }
    let unknown = stacks.iter().rev().filter(|stack| stack.driver.kernel_max.is_none());
    let newer = unknown.filter(|stack| version::compare(&stack.driver.version, &driver.version).is_gt());
    match newer.max_by(|one, other| version::compare(&one.driver.version, &other.driver.version)) {
        Some(ResolvedStack { stack, driver, .. }) => format!(
            "choose --stack {}: its driver {} is newer, but for which kernels is not known here",
            stack.id, driver.version
        ),
        None => "name a newer driver in a --stack-file: no stack here has one for this distribution and GPU".into(),
    }
}

/// What a request asks to go together, with this stack.
fn combination<'a>(
    distribution: &'a Distribution,
    instance_type: Option<&'a InstanceType>,
    request: &'a Request,
    stack: ResolvedStack<'a>,
) -> Combination<'a> {
    Combination {
        distribution,
        stack,
        efa: request.efa.as_deref().unwrap_or(&stack.stack.efa),
        instance_type,
        no_gpu: request.no_gpu,
        modules: modules(&stack.driver.version, instance_type.and_then(|t| t.gpu.as_ref())),
    }
}

fn check_rule(id: &str) -> Result<()> {
    let allowable = || RULES.iter().filter(|rule| rule.allowable).map(|rule| rule.id).collect::<Vec<_>>().join(", ");
    let wrong = |message: String| Err(Error::new(Class::Usage, message).hint(format!("these can be: {}", allowable())));
    match RULES.iter().find(|rule| rule.id == id) {
        None => wrong(format!("there is no compatibility rule `{}` to allow", excerpt(id))),
        Some(rule) if !rule.allowable => wrong(format!("rule `{id}` can't be allowed: {}", rule.title)),
        Some(_) => Ok(()),
    }
}

/// Fails where rules are broken that the user did not allow, or where one is allowed that holds.
fn refuse(
    catalog: &Catalog,
    asked: &Combination,
    broken: &[Violation],
    allowed: &[Violation],
    request: &Request,
) -> Result<()> {
    if let Some(idle) = request.allow.iter().find(|id| !allowed.iter().any(|one| one.rule == **id)) {
        let message = format!("`--allow {idle}` has no effect: that rule holds for this combination");
        return Err(Error::new(Class::Usage, message).hint("leave it out"));
    }
    if broken.is_empty() {
        return Ok(());
    }
    let without_gpu = broken.iter().any(|one| one.rule == "gpu");
    let works = match nearest(catalog, &Combination { no_gpu: asked.no_gpu || without_gpu, ..*asked }) {
        Some(flags) => format!("this works: {flags}"),
        None => "no combination that efa-gen knows works".to_owned(),
    };
    let own = broken.iter().filter(|one| is_allowable(one.rule, asked));
    let own: Vec<_> = own.map(|one| format!("--allow {}", one.rule)).collect();
    let hint =
        if own.len() == broken.len() { format!("{works}; or take it upon yourself: {}", own.join(" ")) } else { works };
    Err(Error::new(Class::Plan, told(broken)).hint(hint))
}

/// `newest` is the first of the distribution's own stacks that breaks no rule but those that are allowed.
fn resolve_stack<'a>(
    catalog: &'a Catalog,
    distribution: &Distribution,
    request: &Request,
    asked: impl Fn(ResolvedStack<'a>) -> Combination<'a>,
) -> Result<ResolvedStack<'a>> {
    let stack = request.stack.as_deref().unwrap_or(&distribution.default);
    if stack != "newest" {
        return catalog.stack(stack);
    }
    let Some(first) = distribution.newest.first() else {
        return Err(Error::new(Class::Plan, format!("{} has no stack of its own yet", distribution.name)));
    };
    for id in &distribution.newest {
        let resolved = catalog.stack(id)?;
        let broken = violations(&asked(resolved));
        if broken.iter().all(|one| request.allow.iter().any(|id| id == one.rule)) {
            return Ok(resolved);
        }
    }
    catalog.stack(first)
}

fn check_efa_version(version: &str) -> Result<()> {
    let plain = |part: &str| part.parse::<u32>().is_ok_and(|number| number.to_string() == part);
    if version.split('.').count() == 3 && version.split('.').all(plain) {
        return Ok(());
    }
    Err(Error::new(Class::Usage, format!("`{}` is not an EFA installer version", excerpt(version)))
        .hint("a version is three numbers, such as 1.9.5; `latest` is never rendered, because it can't be pinned"))
}

/// The first EFA installer whose packages are signed (AWS EC2 User Guide, "Get started with EFA and NCCL", 2026).
const SIGNED_PACKAGES: &str = "1.48.0";

/// The key that signs this installer, out of those that may go to the guest.
fn package_key(catalog: &Catalog, request: &Request, version: &str) -> Result<Option<PackageKey>> {
    if request.package_keys.is_empty() {
        return Ok(None);
    }
    if version::compare(version, SIGNED_PACKAGES).is_lt() {
        let message = format!("--check-signatures: the packages of EFA installer {version} are not signed");
        return Err(Error::new(Class::Plan, message).hint(format!(
            "packages are signed from {SIGNED_PACKAGES} on; leave it out, the digest of the whole tarball is checked in any case"
        )));
    }
    let fingerprint = signer_of_efa(catalog, version)?.to_ascii_uppercase();
    let Some(armored) = request.package_keys.get(&fingerprint).cloned() else {
        let message = format!(
            "--check-signatures: EFA {version} is signed by {}, whose key is not in the file",
            in_fours(&fingerprint)
        );
        return Err(Error::new(Class::Refused, message).hint("give the key file of whoever signs this installer"));
    };
    Ok(Some(PackageKey { fingerprint, armored }))
}

fn resolve_gpu<'a>(
    catalog: &'a Catalog,
    asked: Combination<'a>,
    request: &Request,
    given: &mut BTreeMap<String, String>,
) -> Result<ResolvedGpu<'a>> {
    let resolved = asked.stack;
    let of_type = asked.instance_type.and_then(|t| Some((t, t.gpu.as_ref()?)));
    let (modules, architectures, left_out) = match of_type {
        Some((_, model)) => (asked.modules, vec![model.architecture.clone()], Vec::new()),
        None => {
            let image = without_type(catalog, asked, &request.allow);
            (image.modules, architectures_of(&asked, &image)?, image.left_out)
        }
    };
    let fabric = of_type.map_or(Fabric::None, |(t, _)| t.fabric);
    let driver = resolved.driver;
    let fabric_manager = driver.fabric_manager.as_ref().filter(|_| fabric.is_managed_here());
    let mut nvlsm = driver.nvlsm.clone().filter(|_| fabric == Fabric::NvLink5);
    if let Some(nvlsm) = &mut nvlsm {
        nvlsm.download = with_digest("nvlsm", &nvlsm.download, given, NO_DIGEST)?;
    }
    let with_nvlink5 = catalog.instance_types.iter().filter(|t| t.fabric == Fabric::NvLink5);
    let nvlink5: BTreeSet<&String> = with_nvlink5.filter_map(|t| t.gpu.as_ref()).flat_map(|gpu| &gpu.pci).collect();
    Ok(ResolvedGpu {
        resolved,
        architectures,
        cuda: with_digest("cuda", &resolved.cuda.download, given, NO_DIGEST)?,
        driver: with_digest("driver", &driver.download, given, NO_DIGEST)?,
        fabric_manager: fabric_manager.map(|one| with_digest("fabric-manager", one, given, NO_DIGEST)).transpose()?,
        nvlsm,
        nvlink5: nvlink5.into_iter().cloned().collect(),
        modules,
        gdrcopy: if request.gdrcopy { Some(gdrcopy(catalog, &asked)?) } else { None },
        left_out,
    })
}

/// GDRCopy of the stack, and how this distribution starts it.
fn gdrcopy<'a>(catalog: &'a Catalog, asked: &Combination<'a>) -> Result<(&'a Source, &'a Unit)> {
    let refused = |message: String| {
        let with = catalog.pins.stack.iter().filter(|stack| stack.gdrcopy.is_some()).map(|stack| stack.id.as_str());
        let hint = format!("leave out --with gdrcopy, or choose one of: {}", with.collect::<Vec<_>>().join(", "));
        Error::new(Class::Plan, message).hint(hint)
    };
    let source = asked.stack.gdrcopy.ok_or_else(|| {
        refused(format!("stack `{}` has no GDRCopy: none is known to go with its driver", asked.stack.stack.id))
    })?;
    let distribution = asked.distribution;
    let unit = catalog.init_systems[&distribution.init]
        .gdrcopy
        .as_ref()
        .ok_or_else(|| refused(format!("how {} starts GDRCopy's module at boot is not known", distribution.name)))?;
    Ok((source, unit))
}

/// The architectures of the stack that some type which the image is for has.
fn architectures_of(asked: &Combination, image: &WithoutType) -> Result<Vec<String>> {
    let of_driven =
        |sm: &&String| image.driven.iter().any(|t| t.gpu.as_ref().is_some_and(|gpu| gpu.architecture == **sm));
    let architectures: Vec<String> = asked.stack.cuda.architectures.iter().filter(of_driven).cloned().collect();
    if architectures.is_empty() {
        let (stack, name) = (&asked.stack.stack.id, &asked.distribution.name);
        let message = format!("stack `{stack}` drives no GPU of an EFA instance type on {name}");
        return Err(Error::new(Class::Plan, message).hint("`efa-gen stacks` lists the others"));
    }
    Ok(architectures)
}
