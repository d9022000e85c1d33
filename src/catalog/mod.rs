//! Owns the facts: distributions, software stacks, the EFA installer's releases, instance types and their prices, all
//! read from data files.

pub mod bar;
pub mod distribution;
pub mod efa_release;
pub mod instance_type;
pub mod nccl_env;
pub mod nic_layout;
pub mod price;
pub mod stack;

use std::collections::BTreeMap;

use include_dir::{Dir, include_dir};
use serde::Deserialize;

use self::bar::Bar;
use self::distribution::{Distribution, FileContent};
use self::instance_type::InstanceType;
use self::nccl_env::Variable;
use self::price::Prices;
use self::stack::{Pins, ResolvedStack};
use crate::error::{Class, Error, Result};
use crate::text::excerpt;

static DISTRIBUTIONS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/distros");

/// All facts, read and checked.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Distributions, sorted by id.
    pub distributions: Vec<Distribution>,
    /// Artifacts and stacks.
    pub pins: Pins,
    /// Instance types with EFA, sorted by name.
    pub instance_types: Vec<InstanceType>,
    /// What bus bandwidth a run of nccl-tests must reach.
    pub bars: Vec<Bar>,
    /// What programs of nccl-tests are run with.
    pub environment: Vec<Variable>,
    /// What instances and disks cost.
    pub prices: Prices,
    pub(crate) init_systems: BTreeMap<String, InitSystem>,
}

/// How an init system starts the script again after a reboot.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InitSystem {
    /// The job or unit file.
    pub unit: FileContent,
    /// Commands that make it start at each boot.
    pub enable: Vec<Vec<String>>,
    /// Starts it now without waiting; empty where the boot in progress will start it.
    #[serde(default)]
    pub start: Vec<String>,
    /// Commands that undo `enable` before the file is removed.
    #[serde(default)]
    pub disable: Vec<Vec<String>>,
    /// Succeeds where this init system runs.
    pub booted: Vec<String>,
    /// Commands after which nothing writes logs of connections, leases or a seed to the disk in this boot.
    pub quiesce: Vec<Vec<String>>,
    /// Raises the memlock limit of services, where the init system sets one.
    pub memlock: Option<FileContent>,
    /// How the GPUs are kept initialized.
    pub persistence: Persistence,
    /// How GDRCopy's module is loaded at boot; absent where that is not known.
    pub gdrcopy: Option<Unit>,
    /// Folder of files that name kernel modules to load at boot; absent where there is none.
    pub modules_load: Option<String>,
}

/// A job or unit of ours that starts at each boot.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unit {
    /// Its file.
    pub unit: FileContent,
    /// Commands that make it start at each boot.
    pub enable: Vec<Vec<String>>,
}

/// How an init system runs NVIDIA's persistence daemon, whose program the driver brings without a unit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Persistence {
    /// The job or unit file.
    pub unit: FileContent,
    /// Commands that make it start at each boot.
    pub enable: Vec<Vec<String>>,
    /// Succeeds while it runs.
    pub active: Vec<String>,
    /// Stops it, and whatever else uses the driver, if it runs.
    pub stop: Vec<String>,
}

impl Catalog {
    /// The facts that efa-gen carries. An error here is a mistake in its own data.
    pub fn embedded() -> Result<Self> {
        let files = DISTRIBUTIONS.files().filter_map(|file| {
            let path = file.path();
            let is_toml = path.extension().is_some_and(|extension| extension == "toml");
            is_toml.then(|| (path.file_stem().and_then(|stem| stem.to_str()), file.contents_utf8()))
        });
        let mut distributions = Vec::new();
        for file in files {
            let (Some(stem), Some(text)) = file else {
                return Err(Error::new(Class::Bug, "a distribution file is not UTF-8"));
            };
            distributions.push(Distribution::parse(stem, text)?);
        }
        Catalog::new(distributions, Pins::parse("pins.toml", include_str!("data/pins.toml"), &Pins::default())?)
    }

    /// The same facts and the user's own stacks, from a file of the form of `pins.toml`.
    pub fn with_stacks(self, name: &str, text: &str) -> Result<Self> {
        let pins = Pins::parse(name, text, &self.pins)?;
        Ok(Catalog { pins, ..self })
    }

    /// A catalog of these distributions and stacks, with efa-gen's own instance types and init systems.
    /// Refuses ids or aliases that two distributions claim, and references that lead nowhere.
    pub fn new(mut distributions: Vec<Distribution>, pins: Pins) -> Result<Self> {
        distributions.sort_by(|a, b| a.id.cmp(&b.id));
        let init_systems: BTreeMap<String, InitSystem> = toml::from_str(include_str!("data/init_systems.toml"))
            .map_err(|error| Error::new(Class::Bug, "init_systems.toml can't be read").with_source(error))?;
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for distribution in &distributions {
            let wrong =
                |message: String| Error::new(Class::Usage, format!("distribution {}: {message}", distribution.id));
            for name in std::iter::once(&distribution.id).chain(&distribution.aliases) {
                if let Some(other) = taken.insert(name, &distribution.id) {
                    return Err(wrong(format!("`{name}` is also a name of {other}")));
                }
            }
            if !init_systems.contains_key(&distribution.init) {
                return Err(wrong(format!("init system `{}` is not in init_systems.toml", distribution.init)));
            }
            let named = distribution.newest.iter().chain(Some(&distribution.default).filter(|id| *id != "newest"));
            if let Some(missing) = named.into_iter().find(|id| !pins.stack.iter().any(|s| s.id == **id)) {
                return Err(wrong(format!("stack `{missing}` is not in the stack file")));
            }
        }
        let (instance_types, bars) = instance_type::parse(
            include_str!("data/efa_instance_types.tsv"),
            include_str!("data/instance_types.toml"),
        )?;
        let environment = nccl_env::parse(include_str!("data/environment.toml"))?;
        let prices = Prices::parse(include_str!("data/prices.toml"))?;
        Ok(Catalog { distributions, pins, instance_types, bars, environment, prices, init_systems })
    }

    /// The distribution with this id or alias.
    pub fn distribution(&self, name: &str) -> Result<&Distribution> {
        let known = |d: &&Distribution| d.id == name || d.aliases.iter().any(|alias| alias == name);
        self.distributions.iter().find(known).ok_or_else(|| {
            let names = self.distributions.iter().flat_map(|d| std::iter::once(&d.id).chain(&d.aliases));
            unknown("distribution", name, names.map(String::as_str), "`efa-gen distros` lists them")
        })
    }

    /// The instance type with this name.
    pub fn instance_type(&self, name: &str) -> Result<&InstanceType> {
        self.instance_types.iter().find(|t| t.name == name).ok_or_else(|| {
            let names = self.instance_types.iter().map(|t| t.name.as_str());
            unknown("instance type with EFA", name, names, "`efa-gen instance-types` lists them")
        })
    }

    /// The stack with this id and its artifacts.
    pub fn stack(&self, id: &str) -> Result<ResolvedStack<'_>> {
        let stack = self.pins.stack.iter().find(|stack| stack.id == id).ok_or_else(|| {
            let names = self.pins.stack.iter().map(|stack| stack.id.as_str()).chain(["newest"]);
            unknown("stack", id, names, "`efa-gen stacks` lists them")
        })?;
        self.pins.resolve(stack).map_err(|missing| Error::new(Class::Bug, format!("stack `{id}` names {missing}")))
    }
}

/// "unknown X `name`, did you mean `other`?"
fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>, hint: &str) -> Error {
    let closest = known.map(|other| (strsim::jaro_winkler(name, other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    let guess = match closest {
        Some((likeness, other)) if likeness > 0.8 => format!(", did you mean `{other}`?"),
        _ => String::new(),
    };
    Error::new(Class::Usage, format!("unknown {what} `{}`{guess}", excerpt(name))).hint(hint)
}
