//! Owns which network interfaces a type is launched with: the layouts are data.

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};

/// What an interface is, in EC2's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicKind {
    /// The ordinary network alone.
    Interface,
    /// The ordinary network and an EFA device.
    Efa,
    /// An EFA device without an address.
    EfaOnly,
}

impl NicKind {
    /// As `InterfaceType` of RunInstances has it.
    pub fn name(self) -> &'static str {
        match self {
            NicKind::Interface => "interface",
            NicKind::Efa => "efa",
            NicKind::EfaOnly => "efa-only",
        }
    }
}

/// One interface of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// `NetworkCardIndex`.
    pub card: u32,
    /// `DeviceIndex`.
    pub device: u32,
    /// `InterfaceType`.
    pub kind: NicKind,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layouts {
    layout: Vec<Layout>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    id: String,
    types: Vec<String>,
    interfaces: Vec<Interfaces>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Interfaces {
    kind: NicKind,
    cards: (u32, Card),
    device: u32,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Card {
    Number(u32),
    Last(Last),
}

#[derive(Debug, Deserialize)]
enum Last {
    #[serde(rename = "last")]
    Last,
}

/// The interfaces of an instance type with so many EFA devices and network cards, the primary one first.
///
/// Errors: the type has no EFA device; the layout does not give every one of them an interface.
pub fn layout(kind: &str, efa: u32, cards: u32) -> Result<Vec<Nic>> {
    if efa == 0 {
        return Err(Error::new(Class::Plan, format!("{kind} has no EFA device"))
            .hint("`efa-gen instance-types` lists the types that have"));
    }
    let wrong = |error: toml::de::Error| Error::new(Class::Bug, "nic_layouts.toml can't be read").with_source(error);
    let Layouts { layout } = toml::from_str(include_str!("data/nic_layouts.toml")).map_err(wrong)?;
    let general = if efa == 1 { "one" } else { "several" };
    let named = layout.iter().find(|layout| layout.types.iter().any(|name| name == kind));
    let layout = named.or_else(|| layout.iter().find(|layout| layout.id == general));
    let layout = layout.ok_or_else(|| Error::new(Class::Bug, format!("nic_layouts.toml has no `{general}`")))?;
    let nics: Vec<Nic> = layout.interfaces.iter().flat_map(|one| one.nics(cards)).collect();
    let devices = nics.iter().filter(|nic| nic.kind != NicKind::Interface).count();
    if u32::try_from(devices) != Ok(efa) || nics.iter().any(|nic| nic.card >= cards) {
        let message = format!(
            "{kind} has {efa} EFA devices on {cards} network cards, the layout `{}` is for {devices} devices",
            layout.id
        );
        return Err(Error::new(Class::Plan, message).hint("efa-gen does not know this type's interfaces yet"));
    }
    Ok(nics)
}

impl Interfaces {
    fn nics(&self, cards: u32) -> impl Iterator<Item = Nic> {
        let last = match self.cards.1 {
            Card::Number(card) => card,
            Card::Last(Last::Last) => cards.saturating_sub(1),
        };
        let (device, kind) = (self.device, self.kind);
        (self.cards.0..=last).map(move |card| Nic { card, device, kind })
    }
}
