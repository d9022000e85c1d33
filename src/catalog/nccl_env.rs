//! Owns the environment that programs of nccl-tests are run with, by the versions of what they run on, as
//! `environment.toml` states it.

use serde::Deserialize;

use crate::error::{Class, Error, Result};
use crate::version;

/// A variable, and the software that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    plugin_from: Option<String>,
    plugin_before: Option<String>,
    nccl_from: Option<String>,
    efa_before: Option<String>,
    #[serde(default)]
    gpudirect: bool,
}

/// What programs of nccl-tests run on, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Software {
    /// EFA installer, `1.50.0`.
    pub efa: Option<String>,
    /// NCCL, `2.18.6-1`.
    pub nccl: Option<String>,
    /// aws-ofi-nccl, `1.7.4`.
    pub plugin: Option<String>,
    /// Whether GPUs and EFA exchange data without the CPU.
    pub gpudirect: bool,
}

impl Software {
    /// For people: `EFA 1.50.0, NCCL 2.30.4-1, plugin 1.21.1`, or that it is not known.
    pub fn describe(&self) -> String {
        let named = [("EFA", &self.efa), ("NCCL", &self.nccl), ("plugin", &self.plugin)];
        let known: Vec<String> =
            named.iter().filter_map(|(name, version)| Some(format!("{name} {}", version.as_ref()?))).collect();
        if known.is_empty() { "software that is not known".into() } else { known.join(", ") }
    }
}

impl Variable {
    fn fits(&self, software: &Software) -> bool {
        let from = |minimum: &Option<String>, version: &Option<String>| match (minimum, version) {
            (None, _) => true,
            (Some(minimum), Some(version)) => version::at_least(version, minimum),
            (Some(_), None) => false,
        };
        let before = |limit: &Option<String>, version: &Option<String>| match (limit, version) {
            (None, _) => true,
            (Some(limit), Some(version)) => !version::at_least(version, limit),
            (Some(_), None) => false,
        };
        from(&self.plugin_from, &software.plugin)
            && before(&self.plugin_before, &software.plugin)
            && from(&self.nccl_from, &software.nccl)
            && before(&self.efa_before, &software.efa)
            && (software.gpudirect || !self.gpudirect)
    }
}

/// Names and values for this software, in the order of the table, no name twice.
pub fn of(table: &[Variable], software: &Software) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for variable in table.iter().filter(|variable| variable.fits(software)) {
        match variables.iter_mut().find(|(name, _)| *name == variable.name) {
            Some((_, value)) => value.clone_from(&variable.value),
            None => variables.push((variable.name.clone(), variable.value.clone())),
        }
    }
    variables
}

/// Reads the table.
pub(crate) fn parse(text: &str) -> Result<Vec<Variable>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        variable: Vec<Variable>,
    }
    let table: Table = toml::from_str(text)
        .map_err(|error| Error::new(Class::Bug, "environment.toml can't be read").with_source(error))?;
    Ok(table.variable)
}
