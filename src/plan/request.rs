//! Owns turning names into artifacts: which stack, which GPU architectures, which digests, and every
//! refusal on the way. Knows nothing of steps.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::catalog::distribution::{Distribution, EfaRange};
use crate::catalog::instance_type::InstanceType;
use crate::catalog::stack::{Download, Resolved, is_hex};
use crate::catalog::{Catalog, efa};
use crate::error::{Class, Error, Result};

/// What the user asked for, in names.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Distribution id or alias.
    pub distribution: String,
    /// Stack id, or `newest`; without one, the distribution's default.
    pub stack: Option<String>,
    /// Instance type to build for.
    pub instance_type: Option<String>,
    /// EFA installer version instead of the stack's.
    pub efa: Option<String>,
    /// Whether to leave out driver, CUDA and everything that needs them.
    pub no_gpu: bool,
    /// SHA-256 by component name, lower-case hex.
    pub sha256: BTreeMap<String, String>,
    /// Where every artifact is taken from instead of its own host: `MIRROR/HOST/PATH`.
    pub mirror: Option<String>,
    /// The user's own step: text of an executable file.
    pub extra_script: Option<String>,
    /// Whether to end with the all_reduce_perf run.
    pub test: bool,
}

/// The request with everything looked up and checked.
pub(super) struct Chosen<'a> {
    pub distribution: &'a Distribution,
    pub instance_type: Option<&'a InstanceType>,
    pub efa_version: String,
    pub efa: Download,
    pub gpu: Option<Gpu<'a>>,
    pub stack_id: String,
}

/// The GPU part of a stack, every digest known.
pub(super) struct Gpu<'a> {
    pub resolved: Resolved<'a>,
    pub architectures: Vec<String>,
    pub cuda: Download,
    pub driver: Download,
    pub fabric_manager: Option<Download>,
    pub open_modules: bool,
}

pub(super) fn choose<'a>(catalog: &'a Catalog, request: &Request) -> Result<Chosen<'a>> {
    let distribution = catalog.distribution(&request.distribution)?;
    let instance_type = request.instance_type.as_deref().map(|name| catalog.instance_type(name)).transpose()?;
    if request.test && request.no_gpu {
        return Err(Error::new(Class::Usage, "`--test` runs all_reduce_perf, which needs a GPU stack")
            .hint("leave out --no-gpu or --test"));
    }
    if let Some(chosen) = instance_type.filter(|chosen| !request.no_gpu && chosen.gpu.is_none()) {
        return Err(Error::new(Class::Plan, format!("{} has no NVIDIA GPU", chosen.name))
            .hint("add --no-gpu for a CPU-only EFA image"));
    }
    let resolved = resolve_stack(catalog, distribution, request.stack.as_deref(), instance_type)?;
    let efa_version = request.efa.clone().unwrap_or_else(|| resolved.stack.efa.clone());
    check_efa_version(distribution, instance_type, &efa_version)?;
    if !request.no_gpu {
        check_range(&resolved.plugin.efa, &efa_version, &format!("go with plugin {}", resolved.plugin.version))?;
    }
    let mut given = request.sha256.clone();
    let efa = digest_of_efa(catalog, &efa_version, &mut given)?;
    let gpu = if request.no_gpu { None } else { Some(choose_gpu(catalog, resolved, instance_type, &mut given)?) };
    if let Some((name, _)) = given.first_key_value() {
        return Err(Error::new(Class::Usage, format!("--sha256 names `{name}`, which this plan does not download"))
            .hint("`efa-gen plan` lists the components of this plan"));
    }
    Ok(Chosen { distribution, instance_type, efa_version, efa, gpu, stack_id: resolved.stack.id.clone() })
}

/// `newest` is the first of the distribution's own stacks that can build for the GPU.
fn resolve_stack<'a>(
    catalog: &'a Catalog,
    distribution: &Distribution,
    stack: Option<&str>,
    instance_type: Option<&InstanceType>,
) -> Result<Resolved<'a>> {
    let stack = stack.unwrap_or(&distribution.default);
    if stack != "newest" {
        return catalog.stack(stack);
    }
    let Some(first) = distribution.newest.first() else {
        return Err(Error::new(Class::Plan, format!("{} has no stack of its own yet", distribution.name)));
    };
    let architecture = instance_type.and_then(|t| t.gpu.as_ref()).map(|gpu| &gpu.architecture);
    for id in &distribution.newest {
        let resolved = catalog.stack(id)?;
        if architecture.is_none_or(|architecture| resolved.cuda.architectures.contains(architecture)) {
            return Ok(resolved);
        }
    }
    catalog.stack(first)
}

fn check_efa_version(distribution: &Distribution, instance_type: Option<&InstanceType>, version: &str) -> Result<()> {
    let well_formed = version.split('.').count() == 3 && version.split('.').all(|part| part.parse::<u32>().is_ok());
    if !well_formed {
        return Err(Error::new(Class::Usage, format!("`{}` is not an EFA installer version", version.escape_debug()))
            .hint(
                "a version is three numbers, such as 1.9.5; `latest` is never rendered, because it can't be pinned",
            ));
    }
    check_range(&distribution.efa, version, &format!("support {}", distribution.name))?;
    let older = |limit: &str| efa::compare_versions(version, limit) == Ordering::Less;
    if let Some((name, min)) =
        instance_type.and_then(|t| Some((&t.name, t.efa_min.as_deref()?))).filter(|(_, min)| older(min))
    {
        return Err(Error::new(
            Class::Plan,
            format!("EFA installer {version} does not drive {name}, which needs {min}"),
        )
        .hint("choose another distribution, stack or instance type"));
    }
    Ok(())
}

/// `what` completes "EFA installer X does not ... yet".
fn check_range(range: &EfaRange, version: &str, what: &str) -> Result<()> {
    if efa::compare_versions(version, &range.first) == Ordering::Less {
        return Err(Error::new(Class::Plan, format!("EFA installer {version} does not {what} yet"))
            .hint(format!("the first one that does is {}", range.first)));
    }
    match &range.last {
        Some(last) if efa::compare_versions(version, last) == Ordering::Greater => {
            Err(Error::new(Class::Plan, format!("EFA installer {version} does not {what} any more"))
                .hint(format!("the last one that does is {last}: `--efa {last}`")))
        }
        _ => Ok(()),
    }
}

fn digest_of_efa(catalog: &Catalog, version: &str, given: &mut BTreeMap<String, String>) -> Result<Download> {
    let release = efa::release(version);
    let own = catalog.pins.efa.iter().find(|efa| efa.version == version).map(|efa| efa.download.clone());
    let download = own.unwrap_or_else(|| Download {
        url: format!("{}/{}", efa::BASE_URL, efa::tarball_name(version)),
        sha256: release.and_then(|release| release.sha256).map(str::to_owned),
        published: release.map_or("nobody", |release| release.source).to_owned(),
    });
    let hint = format!(
        "`efa-gen fetch --efa {version}` checks the tarball's signature and prints its digest; pass that as --sha256 efa=HEX"
    );
    with_digest("efa", &download, given, &hint)
}

/// The download with a digest: the published one, or the one that the user gave where none is.
fn with_digest(name: &str, download: &Download, given: &mut BTreeMap<String, String>, hint: &str) -> Result<Download> {
    let sha256 = match (&download.sha256, given.remove(name)) {
        (Some(published), None) => published.clone(),
        (Some(published), Some(own)) if own == *published => own,
        (Some(published), Some(_)) => {
            return Err(Error::new(
                Class::Refused,
                format!("--sha256 {name}=... differs from the published digest {published}"),
            )
            .hint(format!("the published one is from {}; leave --sha256 {name} out", download.published)));
        }
        (None, Some(own)) => own,
        (None, None) => {
            return Err(Error::new(
                Class::Plan,
                format!("artifact `{name}` ({}) has no published SHA-256", download.url),
            )
            .hint(hint));
        }
    };
    Ok(Download { sha256: Some(sha256), ..download.clone() })
}

const NO_DIGEST: &str = "pass its digest, from a source you trust, as --sha256 NAME=HEX";

fn choose_gpu<'a>(
    catalog: &Catalog,
    resolved: Resolved<'a>,
    instance_type: Option<&InstanceType>,
    given: &mut BTreeMap<String, String>,
) -> Result<Gpu<'a>> {
    let model = instance_type.and_then(|t| t.gpu.as_ref());
    if let Some(model) = model.filter(|model| !resolved.cuda.architectures.contains(&model.architecture)) {
        return Err(Error::new(
            Class::Plan,
            format!("CUDA {} can't build for {} ({})", resolved.cuda.version, model.name, model.architecture),
        )
        .hint(format!("stack `{}` builds for {}", resolved.stack.id, resolved.cuda.architectures.join(", "))));
    }
    let architectures = match model {
        Some(model) => vec![model.architecture.clone()],
        None => resolved.cuda.architectures.clone(),
    };
    // NVIDIA's open modules became the default with R560, and Blackwell has no others.
    let driver_major = resolved.driver.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let every_gpu_open = catalog
        .instance_types
        .iter()
        .filter_map(|t| t.gpu.as_ref())
        .filter(|gpu| architectures.contains(&gpu.architecture))
        .all(|gpu| gpu.open_modules);
    let fabric_manager = match instance_type.filter(|t| t.nvswitch) {
        Some(t) => {
            let known = resolved.driver.fabric_manager.as_ref().ok_or_else(|| {
                let message =
                    format!("{} has an NVSwitch, and no fabric manager {} is pinned", t.name, resolved.driver.version);
                Error::new(Class::Plan, message).hint("choose another stack or instance type")
            })?;
            Some(with_digest("fabric-manager", known, given, NO_DIGEST)?)
        }
        None => None,
    };
    Ok(Gpu {
        resolved,
        architectures,
        cuda: with_digest("cuda", &resolved.cuda.download, given, NO_DIGEST)?,
        driver: with_digest("driver", &resolved.driver.download, given, NO_DIGEST)?,
        fabric_manager,
        open_modules: driver_major.is_some_and(|major| major >= 560) && every_gpu_open,
    })
}

/// Parses `NAME=HEX` as given to `--sha256`; upper case is folded.
pub fn parse_sha256(text: &str) -> Result<(String, String)> {
    let malformed = || {
        Error::new(Class::Usage, format!("`{}` is not NAME=HEX with 64 hex digits", text.escape_debug()))
            .hint("for example --sha256 efa=2df4201e046833c7dc8160907bee7f52b76ff80ed147376a2d0ed8a0dd66b2db")
    };
    let (name, hex) = text.split_once('=').ok_or_else(malformed)?;
    let hex = hex.to_ascii_lowercase();
    if name.is_empty() || !is_hex(&hex, 64) {
        return Err(malformed());
    }
    Ok((name.to_owned(), hex))
}

/// Checks `--mirror`: http or https, for every artifact is checked by its digest or commit; no blanks. A slash at
/// its end is dropped.
pub fn parse_mirror(text: &str) -> Result<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let sound =
        |rest: &str| !rest.is_empty() && !rest.chars().any(|c| c.is_whitespace() || c.is_control() || "?#".contains(c));
    if rest.is_some_and(sound) {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err(Error::new(Class::Usage, format!("`{}` is not the address of a mirror", text.escape_debug()))
        .hint("for example http://mirror.example:8080/efa, below which lies github.com/NVIDIA/nccl.git, a `git clone --mirror`"))
}

/// Where a mirror has an artifact: in a folder named after its host.
pub fn mirrored(url: &str, mirror: &str) -> String {
    url.replacen("https:/", mirror, 1)
}
