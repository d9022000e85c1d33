//! Owns what goes with what: the rules, each a comparison of two facts of the catalog, and the one reader that applies them.

use super::digests::digest_of_efa;
use crate::catalog::Catalog;
use crate::catalog::distribution::{Distribution, EfaRange};
use crate::catalog::efa_release::releases;
use crate::catalog::instance_type::{Fabric, Gpu, InstanceType};
use crate::catalog::stack::ResolvedStack;
use crate::version::{at_least, compare};
use std::collections::BTreeMap;

/// Which of NVIDIA's kernel modules a driver is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modules {
    /// `Dual MIT/GPL`: from driver 515 on, and the only ones for Blackwell and for GPUDirect.
    Open,
    /// NVIDIA's closed ones: the only ones for Volta.
    Proprietary,
}

impl Modules {
    /// As NVIDIA's installer calls them.
    pub fn name(self) -> &'static str {
        match self {
            Modules::Open => "open",
            Modules::Proprietary => "proprietary",
        }
    }
}

/// What is asked to go together.
#[derive(Debug, Clone, Copy)]
pub struct Combination<'a> {
    /// Where it is installed.
    pub distribution: &'a Distribution,
    /// The software.
    pub stack: ResolvedStack<'a>,
    /// The EFA installer, the stack's or another.
    pub efa: &'a str,
    /// What it is built for, if that was said.
    pub instance_type: Option<&'a InstanceType>,
    /// Whether everything of NVIDIA is left out.
    pub no_gpu: bool,
    /// The modules of its driver.
    pub modules: Modules,
}

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Id of the rule.
    pub rule: &'static str,
    /// Both values, and where they are from.
    pub message: String,
}

/// One rule.
pub struct Rule {
    /// Name for `--allow` and in the matrix.
    pub id: &'static str,
    /// What must hold, for people.
    pub title: &'static str,
    /// Whether a user may take it upon himself: not what the machine is, nor what needs something that is not there. What is
    /// allowed may still fail on the machine, where the stage "check" looks.
    pub allowable: bool,
    broken: fn(&Combination) -> Option<String>,
}

/// Every rule, the most fundamental first.
pub static RULES: &[Rule] = &[
    Rule {
        id: "machine",
        title: "the distribution's images are for the type's CPU architecture",
        allowable: false,
        broken: machine,
    },
    Rule {
        id: "imex",
        title: "the type needs no IMEX daemon, which efa-gen does not install",
        allowable: false,
        broken: imex,
    },
    Rule {
        id: "gpu",
        title: "the type has an NVIDIA GPU, or the image is without GPU software",
        allowable: false,
        broken: gpu,
    },
    Rule {
        id: "efa-distribution",
        title: "the EFA installer supports the distribution",
        allowable: true,
        broken: efa_distribution,
    },
    Rule {
        id: "efa-device",
        title: "the EFA installer supports the type's EFA device",
        allowable: true,
        broken: efa_device,
    },
    Rule { id: "cuda-gpu", title: "CUDA can compile for the GPU", allowable: false, broken: cuda_gpu },
    Rule { id: "gpu-driver", title: "the driver supports the GPU", allowable: true, broken: gpu_driver },
    Rule {
        id: "gpu-modules",
        title: "the driver's kernel modules support the GPU, and GPUDirect where the type has it",
        allowable: false,
        broken: gpu_modules,
    },
    Rule {
        id: "fabric-manager",
        title: "a fabric manager of exactly the driver's version is pinned",
        allowable: false,
        broken: fabric_manager,
    },
    Rule {
        id: "nvlsm",
        title: "an NVLink subnet manager for the driver's branch is pinned",
        allowable: false,
        broken: nvlsm,
    },
    Rule {
        id: "fabric-modules",
        title: "the distribution's kernel has the InfiniBand modules",
        allowable: false,
        broken: fabric_modules,
    },
    Rule {
        id: "driver-efa",
        title: "EFA's kernel module can access GPU memory with this driver and kernel",
        allowable: true,
        broken: driver_efa,
    },
    Rule {
        id: "driver-kernel",
        title: "the driver builds on the distribution's kernel (checked only where its series is fixed)",
        allowable: true,
        broken: driver_kernel,
    },
    Rule { id: "cuda-driver", title: "the driver is new enough for CUDA", allowable: true, broken: cuda_driver },
    Rule { id: "cuda-gcc", title: "CUDA accepts the distribution's gcc", allowable: true, broken: cuda_gcc },
    Rule {
        id: "cuda-glibc",
        title: "the distribution's glibc is new enough for CUDA",
        allowable: true,
        broken: cuda_glibc,
    },
    Rule { id: "nccl-gcc", title: "the distribution's gcc can compile NCCL", allowable: true, broken: nccl_gcc },
    Rule {
        id: "efa-plugin",
        title: "the plugin works with the EFA installer's libfabric",
        allowable: true,
        broken: efa_plugin,
    },
    Rule { id: "nccl-plugin", title: "NCCL can load the plugin", allowable: true, broken: nccl_plugin },
];

/// Every rule that does not hold, in the order of [`RULES`].
pub fn violations(combination: &Combination) -> Vec<Violation> {
    let broken = |rule: &Rule| (rule.broken)(combination).map(|message| Violation { rule: rule.id, message });
    RULES.iter().filter_map(broken).collect()
}

/// The modules that a driver is built with for these GPUs: the open ones, where they drive every one of them.
pub fn modules<'a>(driver: &str, gpus: impl IntoIterator<Item = &'a Gpu>) -> Modules {
    let open = |gpu: &Gpu| gpu.open_min.as_ref().is_some_and(|first| at_least(driver, first));
    let mut gpus = gpus.into_iter().peekable();
    if gpus.peek().is_some() && gpus.all(open) { Modules::Open } else { Modules::Proprietary }
}

/// What an image without an instance type is for.
pub(crate) struct WithoutType<'a> {
    /// The modules of its driver.
    pub modules: Modules,
    /// The types that they drive.
    pub driven: Vec<&'a InstanceType>,
    /// The types that are left out, each with the first rule that excludes it.
    pub left_out: Vec<(&'a InstanceType, Violation)>,
}

/// Which types an image without a chosen one can be for. What connects the GPUs does not count: it has nothing for that.
/// Rules that are allowed exclude no type.
pub(crate) fn without_type<'a>(catalog: &'a Catalog, asked: Combination<'a>, allowed: &[String]) -> WithoutType<'a> {
    let driver = &asked.stack.driver.version;
    let with_gpu = |t: &&InstanceType| t.gpu.is_some() && machine_of(t) == asked.distribution.os_release.machine;
    let built = |t: &&InstanceType| {
        let one = Combination { instance_type: Some(*t), ..asked };
        cuda_gpu(&one).is_none() && gpu_driver(&one).is_none()
    };
    let all: Vec<&InstanceType> = catalog.instance_types.iter().filter(with_gpu).collect();
    let modules = modules(driver, all.iter().copied().filter(built).filter_map(|t| t.gpu.as_ref()));
    let (mut driven, mut left_out) = (Vec::new(), Vec::new());
    for one in all {
        let of_type = violations(&Combination { instance_type: Some(one), modules, ..asked });
        let counts = |one: &Violation| !FABRIC.contains(&one.rule) && !allowed.iter().any(|rule| rule == one.rule);
        match of_type.into_iter().find(counts) {
            Some(violation) => left_out.push((one, violation)),
            None => driven.push(one),
        }
    }
    WithoutType { modules, driven, left_out }
}

const FABRIC: [&str; 3] = ["fabric-manager", "nvlsm", "fabric-modules"];

/// The nearest combination that works and can be rendered, as flags: with this distribution, the newest stack first, then
/// with others, those that are still supported and have the newest stacks first. Of a stack whose own EFA installer does not
/// fit, the newest one that does.
pub(crate) fn nearest(catalog: &Catalog, asked: &Combination) -> Option<String> {
    let newest = |distribution: &Distribution| distribution.newest.first().and_then(|id| catalog.stack(id).ok());
    let driver = |one: &Distribution| newest(one).map_or("0", |stack| stack.driver.version.as_str());
    let mut others: Vec<_> = catalog.distributions.iter().filter(|other| other.id != asked.distribution.id).collect();
    others.sort_by(|one, other| {
        let supported = one.note.is_some().cmp(&other.note.is_some());
        supported.then_with(|| compare(driver(other), driver(one)))
    });
    std::iter::once(asked.distribution).chain(others).find_map(|distribution| {
        let newest = distribution.newest.iter();
        let rest =
            catalog.pins.stack.iter().rev().map(|stack| &stack.id).filter(|id| !distribution.newest.contains(id));
        newest.chain(rest).find_map(|id| {
            let stack = catalog.stack(id).ok()?;
            let efa = fitting_efa(catalog, &Combination { distribution, stack, ..*asked })?;
            let mut flags = format!("--distro {} --stack {id}", distribution.id);
            if efa != stack.stack.efa {
                flags += &format!(" --efa {efa}");
            }
            if let Some(instance_type) = asked.instance_type {
                flags += &format!(" --instance-type {}", instance_type.name);
            }
            Some(if asked.no_gpu { format!("{flags} --no-gpu") } else { flags })
        })
    })
}

/// The EFA installer, the stack's own or the newest other one, with which nothing is broken and whose digest is known.
fn fitting_efa(catalog: &Catalog, combination: &Combination) -> Option<String> {
    let own = combination.stack.stack.efa.as_str();
    let of_type = combination.instance_type.and_then(|t| t.gpu.as_ref());
    let modules = modules(&combination.stack.driver.version, of_type);
    let broken = |efa: &str| violations(&Combination { efa, modules, ..*combination });
    if broken(own).iter().any(|one| !EFA.contains(&one.rule)) {
        return None;
    }
    let mut known: Vec<&str> = releases().map(|release| release.version).collect();
    known.sort_by(|one, other| compare(other, one));
    let fits = |efa: &&str| broken(efa).is_empty() && digest_of_efa(catalog, efa, None, &mut BTreeMap::new()).is_ok();
    std::iter::once(own).chain(known).find(fits).map(str::to_owned)
}

/// Rules that another EFA installer may keep.
const EFA: [&str; 4] = ["efa-distribution", "efa-device", "driver-efa", "efa-plugin"];

/// `uname -m` of a type's machine.
fn machine_of(instance_type: &InstanceType) -> &str {
    match instance_type.architecture.as_str() {
        "arm64" => "aarch64",
        other => other,
    }
}

fn machine(c: &Combination) -> Option<String> {
    let (t, here) = (c.instance_type?, &c.distribution.os_release.machine);
    let wanted = machine_of(t);
    (wanted != here).then(|| format!("{} is {wanted}, and the images of {} are {here}", t.name, c.distribution.name))
}

fn imex(c: &Combination) -> Option<String> {
    let t = c.instance_type.filter(|t| t.fabric == Fabric::Imex)?;
    Some(format!("{} needs NVIDIA's IMEX daemon on every host, which efa-gen does not install", t.name))
}

fn gpu(c: &Combination) -> Option<String> {
    let t = c.instance_type.filter(|t| !c.no_gpu && t.gpu.is_none())?;
    Some(format!("{} has no NVIDIA GPU", t.name))
}

fn efa_distribution(c: &Combination) -> Option<String> {
    in_range(&c.distribution.efa, c.efa, &format!("support {}", c.distribution.name))
}

fn efa_device(c: &Combination) -> Option<String> {
    let t = c.instance_type?;
    let min = t.efa_min.as_deref().filter(|min| !at_least(c.efa, min))?;
    let source = t.efa_source.as_deref().unwrap_or_default();
    Some(format!("EFA installer {} does not drive {}, which needs {min} ({source})", c.efa, t.name))
}

/// The GPU, unless everything of NVIDIA is left out.
fn driven<'a>(c: &Combination<'a>) -> Option<(&'a InstanceType, &'a Gpu)> {
    let t = c.instance_type.filter(|_| !c.no_gpu)?;
    Some((t, t.gpu.as_ref()?))
}

fn cuda_gpu(c: &Combination) -> Option<String> {
    let (_, gpu) = driven(c)?;
    let (cuda, sm) = (c.stack.cuda, &gpu.architecture);
    let known = cuda.architectures.join(", ");
    (!cuda.architectures.contains(sm))
        .then(|| format!("CUDA {} can't build for {} ({sm}): it builds for {known}", cuda.version, gpu.name))
}

fn gpu_driver(c: &Combination) -> Option<String> {
    let (_, gpu) = driven(c)?;
    let driver = &c.stack.driver.version;
    let words =
        |bound: String| Some(format!("driver {driver} does not know {}: it takes {bound} ({})", gpu.name, gpu.source));
    if !at_least(driver, &gpu.driver_min) {
        return words(format!("{} or newer", gpu.driver_min));
    }
    let dropped = gpu.driver_below.as_ref().filter(|branch| at_least(driver, branch))?;
    words(format!("a branch older than {dropped}"))
}

fn gpu_modules(c: &Combination) -> Option<String> {
    let (t, gpu) = driven(c)?;
    let driver = &c.stack.driver.version;
    match c.modules {
        Modules::Open => gpu.open_min.as_ref().is_none_or(|first| !at_least(driver, first)).then(|| {
            format!("the open kernel modules of driver {driver} do not drive {} ({})", gpu.name, gpu.source)
        }),
        Modules::Proprietary if !gpu.proprietary => {
            Some(format!("no proprietary kernel modules drive {} ({})", gpu.name, gpu.source))
        }
        // Older kernels have no such check.
        Modules::Proprietary => (t.gpudirect && c.distribution.kernel.gpudirect_efa.is_some()).then(|| {
            let first = gpu.open_min.as_deref().unwrap_or("none");
            format!(
                "{} exchanges data between GPU and EFA, for which kernels since September 2023 need the open kernel modules: \
                 the first driver that has them for {} is {first}, and this is {driver} (aws/aws-parallelcluster#6014)",
                t.name, gpu.name
            )
        }),
    }
}

/// The type, if software must start what connects its GPUs.
fn with_fabric<'a>(c: &Combination<'a>, those: &[Fabric]) -> Option<&'a InstanceType> {
    driven(c).map(|(t, _)| t).filter(|t| those.contains(&t.fabric))
}

fn fabric_manager(c: &Combination) -> Option<String> {
    let t = with_fabric(c, &[Fabric::NvSwitch, Fabric::NvLink5])?;
    let driver = c.stack.driver;
    driver
        .fabric_manager
        .is_none()
        .then(|| format!("{} has an NVSwitch, and no fabric manager {} is pinned", t.name, driver.version))
}

fn nvlsm(c: &Combination) -> Option<String> {
    let t = with_fabric(c, &[Fabric::NvLink5])?;
    let driver = c.stack.driver;
    driver
        .nvlsm
        .is_none()
        .then(|| format!("{} needs an NVLink subnet manager, and none is pinned for driver {}", t.name, driver.version))
}

fn fabric_modules(c: &Combination) -> Option<String> {
    let t = with_fabric(c, &[Fabric::NvLink5])?;
    let name = &c.distribution.name;
    c.distribution.fabric.is_none().then(|| {
        format!(
            "{} needs the kernel modules mlx5_ib and ib_umad, and no package of {name} is known to have them",
            t.name
        )
    })
}

fn driver_efa(c: &Combination) -> Option<String> {
    let (t, _) = driven(c).filter(|(t, _)| t.gpudirect)?;
    let (driver, kernel) = (c.stack.driver, &c.distribution.kernel);
    let needed = [driver.efa_min.as_deref(), kernel.gpudirect_efa.as_deref()].into_iter().flatten();
    let min = needed.filter(|min| !at_least(c.efa, min)).max_by(|one, other| compare(one, other))?;
    Some(format!(
        "EFA installer {} does not get GPU memory from driver {} on {} with the kernel of {}, which needs {min}",
        c.efa, driver.version, t.name, c.distribution.name
    ))
}

fn driver_kernel(c: &Combination) -> Option<String> {
    let driver = c.stack.driver;
    let max = driver.kernel_max.as_deref().filter(|_| !c.no_gpu)?;
    let series = c.distribution.kernel.series.as_ref().filter(|series| series.stays)?;
    let name = &c.distribution.name;
    compare(&series.version, max).is_gt().then(|| {
        format!("NVIDIA driver {} is for kernels up to {max}, and {name} has kernel {}", driver.version, series.version)
    })
}

fn cuda_driver(c: &Combination) -> Option<String> {
    let (cuda, driver) = (c.stack.cuda, &c.stack.driver.version);
    let min = cuda.driver_min.as_deref().filter(|min| !c.no_gpu && !at_least(driver, min))?;
    Some(format!("programs of CUDA {} do not run on driver {driver}: they take {min} or newer", cuda.version))
}

fn cuda_gcc(c: &Combination) -> Option<String> {
    let (cuda, gcc) = (c.stack.cuda, &c.distribution.toolchain.gcc);
    let first = cuda.gcc_below.as_deref().filter(|first| !c.no_gpu && at_least(gcc, first))?;
    let name = &c.distribution.name;
    Some(format!("CUDA {} refuses gcc {first} and newer, and {name} has {gcc}", cuda.version))
}

fn cuda_glibc(c: &Combination) -> Option<String> {
    let (cuda, glibc) = (c.stack.cuda, &c.distribution.toolchain.glibc);
    let min = cuda.glibc_min.as_deref().filter(|min| !c.no_gpu && !at_least(glibc, min))?;
    let name = &c.distribution.name;
    Some(format!("CUDA {} needs glibc {min}, and {name} has {glibc}", cuda.version))
}

fn nccl_gcc(c: &Combination) -> Option<String> {
    if c.no_gpu {
        return None;
    }
    let (nccl, gcc) = (c.stack.nccl, &c.distribution.toolchain.gcc);
    let name = &c.distribution.name;
    if let Some(min) = nccl.gcc_min.as_deref().filter(|min| !at_least(gcc, min)) {
        return Some(format!("NCCL {} needs gcc {min}, and {name} has {gcc}", nccl.version));
    }
    let first = nccl.gcc_below.as_deref().filter(|first| at_least(gcc, first))?;
    Some(format!("NCCL {} is not compiled by gcc {first} and newer, and {name} has {gcc}", nccl.version))
}

fn efa_plugin(c: &Combination) -> Option<String> {
    let plugin = c.stack.plugin;
    in_range(&plugin.efa, c.efa, &format!("go with plugin {}", plugin.version)).filter(|_| !c.no_gpu)
}

fn nccl_plugin(c: &Combination) -> Option<String> {
    let (plugin, nccl) = (c.stack.plugin, &c.stack.nccl.version);
    let min = plugin.nccl_min.as_deref().filter(|min| !c.no_gpu && !at_least(nccl, min))?;
    Some(format!("NCCL {nccl} can't load plugin {}, which needs {min}", plugin.version))
}

/// `what` completes "EFA installer X does not ... yet".
fn in_range(range: &EfaRange, efa: &str, what: &str) -> Option<String> {
    if !at_least(efa, &range.first) {
        return Some(format!("EFA installer {efa} does not {what} yet: the first one that does is {}", range.first));
    }
    let last = range.last.as_deref().filter(|last| compare(efa, last).is_gt())?;
    Some(format!("EFA installer {efa} does not {what} any more: the last one that does is {last}"))
}

/// Whether this combination's user may take the rule upon himself. A plugin that an EFA installer brings is in no other.
pub(crate) fn is_allowable(rule: &str, asked: &Combination) -> bool {
    let bundled = asked.stack.plugin.source.is_none();
    RULES.iter().any(|known| known.id == rule && known.allowable) && !(rule == "efa-plugin" && bundled)
}

/// The violations as one message.
pub(crate) fn told(violations: &[Violation]) -> String {
    violations.iter().map(|one| format!("{} [rule {}]", one.message, one.rule)).collect::<Vec<_>>().join("; ")
}
