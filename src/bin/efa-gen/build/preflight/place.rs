//! Owns where a machine can be launched and who reaches it: its type, the zones that have it, subnets, routes, addresses,
//! quotas. It only reads. Knows nothing of images.

use efa_gen::error::Class;

use super::{Machine, Preflight};
use crate::build::problem::Problem;
use crate::cli::cloud::{Driver, HostKey};
use crate::download::Downloader;
use crate::ec2::model::Subnet;

/// Tells the address that a request came from, as one line (AWS's own, used by its documentation).
const CHECK_IP: &str = "https://checkip.amazonaws.com";

/// vCPU quotas by the first letters of a type, on demand and spot (AWS EC2 User Guide, "Amazon EC2 instance type quotas").
const QUOTAS: [(&[&str], &str, &str); 3] = [
    (&["p"], "L-417A185B", "L-7212CCBC"),
    (&["g", "vt"], "L-DB2E81BA", "L-3819A6DF"),
    (&["a", "c", "d", "h", "i", "m", "r", "t", "z"], "L-1216C47A", "L-34B43A08"),
];

impl Preflight<'_> {
    /// What EC2 says of a type, and the subnets in zones that have it.
    pub(super) async fn machine(&mut self, kind: &str, flag: &str) -> Option<Machine> {
        match self.aws.instance_type(kind).await {
            Ok(Some(info)) => {
                let subnets = self.subnets(kind).await;
                Some(Machine { kind: kind.to_owned(), info, subnets })
            }
            Ok(None) => {
                let known = self.catalog.instance_type(kind).ok().and_then(|known| known.note.clone());
                let note = known.map_or(String::new(), |note| format!(": {note}"));
                let what = format!("{} does not offer {kind}{note}", self.aws.region);
                self.add(Problem::new(
                    what,
                    format!("choose another {flag}, or another region; a builder needs no GPU and no EFA"),
                ));
                None
            }
            Err(error) => {
                self.add(error);
                None
            }
        }
    }

    pub(super) async fn check_machine(&mut self, machine: &Machine) {
        let Machine { kind, info, .. } = machine;
        if !info.architectures.contains(&self.plan.base.architecture) {
            let of = info.architectures.join(", ");
            let what = format!("{kind} is a machine for {of}, the plan is for {}", self.plan.base.architecture);
            self.add(Problem::new(what, "choose a type of the plan's architecture"));
        }
        if self.args.builder.spot && !info.spot {
            self.add(Problem::new(format!("{kind} can't be had as spot"), "leave out --spot"));
        }
        if !info.nitro && self.args.reach.host_key == HostKey::Console && self.args.driver == Driver::Native {
            let what = format!("the console of {kind} can't be read while it runs");
            self.add(Problem::new(what, "choose a type of the Nitro system, or --host-key inject"));
        }
        self.check_quota(machine).await;
    }

    /// Subnets in zones that have the type.
    async fn subnets(&mut self, kind: &str) -> Vec<Subnet> {
        let zones = match self.aws.zones_with(kind).await {
            Ok(zones) => zones,
            Err(error) => {
                self.add(error);
                return Vec::new();
            }
        };
        let filter = match &self.args.builder.subnet {
            Some(id) => ("subnet-id", id.as_str()),
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
            self.add(match &self.args.builder.subnet {
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
            let what = match &self.args.builder.subnet {
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
        let full: Vec<&Subnet> = subnets.iter().filter(|subnet| subnet.free_addresses == 0).collect();
        if let (Some(subnet), true) = (full.first(), full.len() == subnets.len()) {
            self.add(Problem::new(format!("subnet {} has no free address", subnet.id), "choose another --subnet"));
        }
        subnets.sort_by(|one, other| one.zone.cmp(&other.zone));
        subnets
    }

    /// Whether the builder gets a public address; there must be a way out, or the downloads fail after minutes.
    pub(super) async fn route(&mut self, subnet: &Subnet) -> bool {
        let via = match self.aws.default_route(subnet).await {
            Ok(via) => via,
            Err(error) => {
                self.add(error);
                return false;
            }
        };
        let internet = via.as_ref().is_some_and(|via| via.starts_with("igw-"));
        let reach = &self.args.reach;
        if via.is_none() && self.args.recipe.mirror.is_none() {
            let what = format!("subnet {} has no route to the Internet", subnet.id);
            self.add(Problem::new(
                what,
                "choose a subnet with a route through an Internet or NAT gateway, or --mirror within the VPC",
            ));
        } else if !internet && !reach.private && !reach.session_manager {
            let what =
                format!("subnet {} has no Internet gateway: nothing from outside can reach the builder", subnet.id);
            self.add(Problem::new(
                what,
                "connect by --private from within, by --session-manager, or choose another --subnet",
            ));
        }
        internet && !reach.private
    }

    /// Who may connect.
    pub(super) async fn cidrs(&mut self, public: bool) -> Vec<String> {
        let reach = &self.args.reach;
        if !reach.ssh_cidr.is_empty() || reach.session_manager || !public {
            return reach.ssh_cidr.clone();
        }
        let asked = tokio::task::spawn_blocking(|| Downloader::new().small(CHECK_IP, 64)).await;
        let answer = asked.ok().and_then(std::result::Result::ok).and_then(|bytes| String::from_utf8(bytes).ok());
        match answer.and_then(|text| text.trim().parse::<std::net::IpAddr>().ok()) {
            Some(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                self.notes.push(format!(
                    "port 22 of the builder is open to {address} alone, your address as {CHECK_IP} sees it"
                ));
                vec![format!("{address}/{bits}")]
            }
            None => {
                let what = format!("{CHECK_IP} did not tell your address");
                self.add(Problem {
                    class: Class::Io,
                    ..Problem::new(what, "name the addresses that may connect: --ssh-cidr 203.0.113.7/32")
                });
                Vec::new()
            }
        }
    }

    /// Only the limit: what is in use, EC2 tells no one before RunInstances.
    async fn check_quota(&mut self, machine: &Machine) {
        let Machine { kind, info, .. } = machine;
        let family: String = kind.chars().take_while(char::is_ascii_alphabetic).collect();
        let quota = QUOTAS.iter().find(|(names, ..)| {
            names.contains(&family.as_str()) || names.iter().any(|n| family.starts_with(n) && n.len() == 1)
        });
        let Some((_, on_demand, spot)) = quota else { return };
        let code = if self.args.builder.spot { spot } else { on_demand };
        match self.aws.quota(code).await {
            Ok(Some(limit)) if limit < f64::from(info.vcpus) => {
                let what = format!("the account's quota {code} is {limit} vCPUs, {kind} has {}", info.vcpus);
                self.add(Problem::new(what, "ask for more under Service Quotas, or choose a smaller type"));
            }
            Ok(_) => {}
            Err(error) => self.notes.push(format!("the vCPU quota was not checked: {error}")),
        }
    }
}

/// Who may connect, as a range of addresses that is not the whole Internet.
pub(super) fn check_cidr(cidr: &str) -> std::result::Result<(), Problem> {
    let wrong = |why: &str| Problem::usage(format!("--ssh-cidr {cidr}: {why}"), "write it like 203.0.113.7/32");
    let (address, bits) = cidr.split_once('/').ok_or_else(|| wrong("there is no `/`"))?;
    let address: std::net::IpAddr = address.parse().map_err(|_| wrong("this is not an address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits.parse::<u8>() {
        Ok(0) => Err(wrong("the whole Internet is not one of those who may connect")),
        Ok(bits) if bits < 8 => Err(wrong("that is most of the Internet: /8 at least")),
        Ok(bits) if bits <= most => Ok(()),
        _ => Err(wrong("the number after `/` is wrong")),
    }
}
