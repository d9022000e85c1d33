//! Owns what is known offline of instance types with EFA: NICs, cards, bandwidth, GPUs. It is the fallback and
//! cross-check; what EC2's DescribeInstanceTypes says wins.

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
    /// Network cards; 0 where that is not known.
    pub cards: u32,
    /// Interfaces at most, for each network card.
    pub interfaces_per_card: Vec<u32>,
    /// Network bandwidth, Mbit/s.
    pub bandwidth_mbps: u64,
    /// Number of GPUs.
    pub gpus: u32,
    /// The GPU, if it has one that this catalog knows.
    pub gpu: Option<Gpu>,
    /// EC2's word for its machine: `x86_64` or `arm64`.
    pub architecture: String,
    /// EC2's words for the ways in which it boots: `legacy-bios`, `uefi`.
    pub boot_modes: Vec<String>,
    /// Whether GPUs and EFA exchange data without the CPU.
    pub gpudirect: bool,
    /// What connects its GPUs, and so what software they need besides the driver.
    pub fabric: Fabric,
    /// Oldest EFA installer that drives it, where that is newer than EFA itself.
    pub efa_min: Option<String>,
    /// Why that one.
    pub efa_source: Option<String>,
    /// What its users should know.
    pub note: Option<String>,
}

/// What connects the GPUs of a machine, and so what must run before CUDA does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fabric {
    /// Nothing that has to be set up.
    #[default]
    None,
    /// NVSwitches, which the fabric manager sets up.
    NvSwitch,
    /// NVSwitches of the fifth NVLink: the fabric manager needs the NVLink subnet manager (nvlsm) beside it.
    NvLink5,
    /// NVSwitches outside the machine; GPUs of several machines share memory through nvidia-imex.
    Imex,
}

impl Fabric {
    /// Whether the machine itself runs the fabric manager.
    pub fn is_managed_here(self) -> bool {
        matches!(self, Fabric::NvSwitch | Fabric::NvLink5)
    }
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
    /// Its PCI device ids (`0x2901`), where a check looks for them.
    #[serde(default)]
    pub pci: Vec<String>,
    /// First driver that drives it.
    pub driver_min: String,
    /// First branch of the driver that no longer does.
    pub driver_below: Option<String>,
    /// First driver whose open kernel modules drive it; without one, none do.
    pub open_min: Option<String>,
    /// Whether the proprietary kernel modules drive it.
    pub proprietary: bool,
    /// Whether it does not register with an NVSwitch fabric, of which nvidia-smi then tells nothing.
    #[serde(default)]
    pub unregistered: bool,
    /// Where these are from.
    pub source: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    gpu: Vec<Gpu>,
    efa_device: Vec<EfaDevice>,
    accelerator: Vec<Accelerator>,
    r#type: Vec<TypeExtra>,
    bar: Vec<Bar>,
}

/// A generation of the EFA device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EfaDevice {
    pci: String,
    module: String,
    installer: String,
    families: Vec<String>,
}

/// Accelerators of another maker.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accelerator {
    families: Vec<String>,
    note: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeExtra {
    name: String,
    #[serde(default)]
    gpudirect: bool,
    #[serde(default)]
    fabric: Fabric,
    /// Oldest EFA installer, where it is newer than its device needs.
    efa: Option<EfaMinimum>,
    note: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct EfaMinimum {
    min: String,
    source: String,
}

impl InstanceType {
    /// `p5` of `p5.48xlarge`.
    pub fn family(&self) -> &str {
        family(&self.name)
    }
}

fn family(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
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
    let devices = extra.efa_device.iter().flat_map(|device| &device.families);
    let mut families = devices.chain(extra.accelerator.iter().flat_map(|accelerator| &accelerator.families));
    if let Some(stray) = families.find(|family| !types.iter().any(|t| t.family() == **family)) {
        return Err(wrong(format!("family `{stray}` is not in the table")));
    }
    Ok((types, extra.bar))
}

fn parse_row(row: &str, extra: &Extra) -> Option<InstanceType> {
    let mut columns = row.split('\t');
    let name = columns.next()?.to_owned();
    let efa = columns.next()?.parse().ok()?;
    let cards = columns.next()?;
    let cards = if cards.is_empty() { 0 } else { cards.parse().ok()? };
    let interfaces = columns.next()?;
    let interfaces_per_card =
        interfaces.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>()?;
    let bandwidth_mbps = columns.next()?.parse().unwrap_or(0);
    let gpus = columns.next().unwrap_or("");
    let gpu_id = columns.next().unwrap_or("");
    let architecture = columns.next()?.to_owned();
    let boot_modes = columns.next()?.split(',').map(str::to_owned).collect();
    let added = extra.r#type.iter().find(|extra| extra.name == name);
    let own = |families: &[String]| families.iter().any(|one| one == family(&name));
    let device = extra.efa_device.iter().find(|device| own(&device.families));
    let of_device = device.map(|device| EfaMinimum {
        min: device.installer.clone(),
        source: format!("its device may be {}, which kernel module efa {} knows first", device.pci, device.module),
    });
    let (efa_min, efa_source) =
        added.and_then(|added| added.efa.clone()).or(of_device).map(|one| (one.min, one.source)).unzip();
    let notes = added.and_then(|added| added.note.clone());
    let accelerator = extra.accelerator.iter().find(|accelerator| own(&accelerator.families));
    Some(InstanceType {
        efa,
        cards,
        interfaces_per_card,
        bandwidth_mbps,
        gpus: if gpus.is_empty() { 0 } else { gpus.parse().ok()? },
        gpu: extra.gpu.iter().find(|gpu| gpu.id == gpu_id).cloned(),
        architecture,
        boot_modes,
        gpudirect: added.is_some_and(|added| added.gpudirect),
        fabric: added.map_or(Fabric::None, |added| added.fabric),
        efa_min,
        efa_source,
        note: notes.or_else(|| accelerator.map(|accelerator| accelerator.note.clone())),
        name,
    })
}
