//! Owns where machines can be launched: their type, the zones that have it, subnets with room.

use serde::Serialize;

use super::context::PreflightContext;
use super::problem::Problem;
use crate::aws::model::{Image, Subnet, TypeInfo};

/// A kind of machine that is to be launched.
#[derive(Debug, Clone, Serialize)]
pub struct InstancePlacement {
    #[serde(rename = "kind")]
    pub instance_type: String,
    pub info: TypeInfo,
    /// Where it is tried, in this order.
    pub subnets: Vec<Subnet>,
}

/// What machines are asked for.
#[derive(Debug, Clone, Copy)]
pub struct MachineRequirements<'a> {
    /// The flag that names the type, and what to think of besides.
    pub flag: &'a str,
    /// `x86_64`, and what it is the architecture of; `None` where that is not known.
    pub architecture: Option<(&'a str, &'a str)>,
    /// What its machines boot, where that is known.
    pub image: Option<&'a Image>,
    pub subnet: Option<&'a str>,
    pub spot: bool,
    /// Whether the console must be read while the machine runs.
    pub console: bool,
    /// Whether a vCPU quota stands in the way; what is bought in advance has none.
    pub quota: bool,
    pub count: u32,
}

impl PreflightContext<'_> {
    /// What EC2 says of a type, and the subnets in zones that have it. Tells whether such machines would start, as far as
    /// that is known.
    pub async fn machine(&mut self, kind: &str, requirements: &MachineRequirements<'_>) -> Option<InstancePlacement> {
        match self.aws.instance_type(kind).await {
            Ok(Some(info)) => {
                let subnets = self.subnets(kind, requirements).await;
                let machine = InstancePlacement { instance_type: kind.to_owned(), info, subnets };
                self.check_machine(&machine, requirements).await;
                Some(machine)
            }
            Ok(None) => {
                let known = self.catalog.instance_type(kind).ok().and_then(|known| known.note.clone());
                let note = known.map_or(String::new(), |note| format!(": {note}"));
                let what = format!("{} does not offer {kind}{note}", self.aws.region);
                self.add(Problem::new(what, format!("choose another {}, or another region", requirements.flag)));
                None
            }
            Err(error) => {
                self.add(error);
                None
            }
        }
    }

    async fn check_machine(&mut self, machine: &InstancePlacement, requirements: &MachineRequirements<'_>) {
        let InstancePlacement { instance_type: kind, info, .. } = machine;
        if let Some((architecture, of)) = requirements.architecture
            && !info.architectures.iter().any(|name| name == architecture)
        {
            let all = info.architectures.join(", ");
            let what = format!("{kind} is a machine for {all}, {of} is for {architecture}");
            self.add(Problem::new(what, "choose a type of that architecture"));
        }
        if let Some(image) = requirements.image {
            self.check_boot_mode(kind, &info.boot_modes, image);
        }
        if requirements.spot && !info.spot {
            self.add(Problem::new(format!("{kind} can't be had as spot"), "leave out --spot"));
        }
        if !info.nitro && requirements.console {
            let what = format!("the console of {kind} can't be read while it runs");
            self.add(Problem::new(what, "choose a type of the Nitro system, or --host-key inject"));
        }
        if requirements.quota {
            self.check_quota(machine, requirements).await;
        }
    }

    /// An image of one boot mode needs a type that has it; `uefi-preferred` takes what the type has, and an image without a
    /// word the type's own (Amazon EC2 User Guide, "Instance launch behavior with Amazon EC2 boot modes").
    pub fn check_boot_mode(&mut self, kind: &str, has: &[String], image: &Image) {
        let mode = image.boot_mode.as_str();
        if ["", "uefi-preferred"].contains(&mode) || has.is_empty() || has.iter().any(|one| one == mode) {
            return;
        }
        let what = format!("{kind} boots by {}, {} is an image for {mode}", has.join(", "), image.id);
        self.add(Problem::new(what, "choose an image for uefi-preferred, or a type that boots as this one needs"));
    }

    /// Subnets in zones that have the type.
    async fn subnets(&mut self, kind: &str, requirements: &MachineRequirements<'_>) -> Vec<Subnet> {
        let zones = match self.aws.zones_with(kind).await {
            Ok(zones) => zones,
            Err(error) => {
                self.add(error);
                return Vec::new();
            }
        };
        let filter = match requirements.subnet {
            Some(id) => ("subnet-id", id),
            None => ("default-for-az", "true"),
        };
        let mut subnets = match self.aws.subnets(&[filter]).await {
            Ok(subnets) => subnets,
            Err(error) => {
                self.add(error);
                return Vec::new();
            }
        };
        if subnets.is_empty() {
            self.add(match requirements.subnet {
                Some(id) => {
                    Problem::new(format!("{} has no subnet {id}", self.aws.region), "is it in this region and account?")
                }
                None => Problem::new(
                    format!("{} has no default VPC in this account", self.aws.region),
                    "give --subnet, or make one: aws ec2 create-default-vpc",
                ),
            });
            return subnets;
        }
        let all = subnets.clone();
        subnets.retain(|subnet| zones.contains(&subnet.zone));
        if let (true, Some(subnet)) = (subnets.is_empty(), all.first()) {
            let what = match requirements.subnet {
                Some(id) => format!("zone {} of subnet {id} does not have {kind}", subnet.zone),
                None => format!("no zone of {} with a default subnet has {kind}", self.aws.region),
            };
            let have = if zones.is_empty() {
                "no zone of the region has it now".into()
            } else {
                format!("these zones have it: {}", zones.join(", "))
            };
            self.add(Problem::new(what, have));
        }
        // Of a machine's interfaces one has an address, whatever its type: `nic_layouts.toml`.
        let needed = i32::try_from(requirements.count).unwrap_or(i32::MAX);
        let small = |subnet: &Subnet| subnet.free_addresses < needed;
        let largest = subnets.iter().max_by_key(|subnet| subnet.free_addresses);
        if let Some(subnet) = largest.filter(|subnet| small(subnet)) {
            let free = match subnet.free_addresses {
                0 => "no free address".to_owned(),
                free => format!("{free} free addresses, and {needed} are needed"),
            };
            let what = format!("subnet {} has {free}", subnet.id);
            self.add(Problem::new(what, "choose another --subnet, or fewer machines"));
        }
        subnets.sort_by(|one, other| (small(one), &one.zone).cmp(&(small(other), &other.zone)));
        subnets
    }
}
