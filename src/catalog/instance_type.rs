//! Owns what is known offline of instance types with EFA: NICs, cards, bandwidth, GPUs. It is the
//! fallback and cross-check; what EC2's DescribeInstanceTypes says wins. Knows nothing of stacks.

use serde::{Deserialize, Serialize};

use super::bar::Bar;
use crate::error::{Class, Error, Result};

/// One instance type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceType {
    /// `p3dn.24xlarge`.
    pub name: String,
    /// EFA devices at most.
    pub efa: u32,
    /// Interfaces at most, for each network card.
    pub interfaces_per_card: Vec<u32>,
    /// Network bandwidth, Mbit/s.
    pub bandwidth_mbps: u64,
    /// Number of GPUs.
    pub gpus: u32,
    /// The GPU, if it has one that this catalog knows.
    pub gpu: Option<Gpu>,
    /// Whether GPUs and EFA exchange data without the CPU.
    pub gpudirect: bool,
    /// Whether it has an NVSwitch and so needs the fabric manager.
    pub nvswitch: bool,
    /// Oldest EFA installer that drives it, where that is newer than EFA itself.
    pub efa_min: Option<String>,
    /// What its users should know.
    pub note: Option<String>,
}

/// A GPU model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// As the table of types spells it.
    pub id: String,
    /// For people.
    pub name: String,
    /// `sm_70`.
    pub architecture: String,
    /// Whether NVIDIA's open kernel modules drive it (from Turing on).
    pub open_modules: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    gpu: Vec<Gpu>,
    r#type: Vec<TypeExtra>,
    bar: Vec<Bar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeExtra {
    name: String,
    #[serde(default)]
    gpudirect: bool,
    #[serde(default)]
    nvswitch: bool,
    efa_min: Option<String>,
    note: Option<String>,
}

/// Reads the table of types (tab-separated) and what `instance_types.toml` adds to it: more of some types, and the bars.
pub(crate) fn parse(table: &str, extra: &str) -> Result<(Vec<InstanceType>, Vec<Bar>)> {
    let wrong = |message: String| Error::new(Class::Bug, format!("instance type data: {message}"));
    let extra: Extra = toml::from_str(extra).map_err(|error| wrong(error.to_string()))?;
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.starts_with("instance_type\t"));
    let types = rows
        .map(|row| parse_row(row, &extra).ok_or_else(|| wrong(format!("row `{row}`"))))
        .collect::<Result<Vec<_>>>()?;
    let named = extra.r#type.iter().map(|extra| &extra.name).chain(extra.bar.iter().flat_map(|bar| &bar.types));
    if let Some(stray) = named.into_iter().find(|name| !types.iter().any(|t| t.name == **name)) {
        return Err(wrong(format!("`{stray}` is not in the table")));
    }
    Ok((types, extra.bar))
}

fn parse_row(row: &str, extra: &Extra) -> Option<InstanceType> {
    let mut columns = row.split('\t');
    let name = columns.next()?.to_owned();
    let efa = columns.next()?.parse().ok()?;
    let _cards = columns.next()?;
    let interfaces = columns.next()?;
    let interfaces_per_card =
        interfaces.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>()?;
    let bandwidth_mbps = columns.next()?.parse().unwrap_or(0);
    let gpus = columns.next().unwrap_or("");
    let gpu_id = columns.next().unwrap_or("");
    let added = extra.r#type.iter().find(|extra| extra.name == name);
    Some(InstanceType {
        efa,
        interfaces_per_card,
        bandwidth_mbps,
        gpus: if gpus.is_empty() { 0 } else { gpus.parse().ok()? },
        gpu: extra.gpu.iter().find(|gpu| gpu.id == gpu_id).cloned(),
        gpudirect: added.is_some_and(|added| added.gpudirect),
        nvswitch: added.is_some_and(|added| added.nvswitch),
        efa_min: added.and_then(|added| added.efa_min.clone()),
        note: added.and_then(|added| added.note.clone()),
        name,
    })
}
