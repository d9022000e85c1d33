//! Owns where machines can be launched and who reaches them: their type, the zones that have it, subnets, routes, addresses,
//! quotas. It only reads. Knows nothing of images, builds or clusters.

use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::error::Class;
use serde::Serialize;

use crate::build::problem::Problem;
use crate::cli::cloud::ReachArgs;
use crate::download::Downloader;
use crate::ec2::Aws;
use crate::ec2::model::{Subnet, TypeInfo};

/// Tells the address that a request came from, as one line (AWS's own, used by its documentation).
const CHECK_IP: &str = "https://checkip.amazonaws.com";

/// vCPU quotas by the letters that a type begins with, on demand and spot (AWS EC2 User Guide, "Amazon EC2 instance type
/// quotas"). Types of other letters have quotas of their own, which are not checked.
const QUOTAS: [(&[&str], &str, &str); 3] = [
    (&["p"], "L-417A185B", "L-7212CCBC"),
    (&["g", "gr", "vt"], "L-DB2E81BA", "L-3819A6DF"),
    (&["a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"], "L-1216C47A", "L-34B43A08"),
];

/// The programs that carry a connection of ours through Session Manager.
pub const CARRIERS: [&str; 2] = ["aws", "session-manager-plugin"];

/// A kind of machine that is to be launched.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub kind: String,
    pub info: TypeInfo,
    /// Where it is tried, in this order.
    pub subnets: Vec<Subnet>,
}

/// What machines are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The flag that names the type, and what to think of besides.
    pub flag: &'a str,
    /// `x86_64`, and what it is the architecture of; `None` where that is not known.
    pub architecture: Option<(&'a str, &'a str)>,
    pub subnet: Option<&'a str>,
    pub spot: bool,
    /// Whether the console must be read while the machine runs.
    pub console: bool,
    /// Whether a vCPU quota stands in the way; what is bought in advance has none.
    pub quota: bool,
    pub count: u32,
}

/// A look around in one region. What is wrong and what its user should know comes together here.
#[derive(Debug)]
pub struct Look<'a> {
    pub aws: &'a Aws,
    pub catalog: &'a Catalog,
    pub problems: Vec<Problem>,
    pub notes: Vec<String>,
}

impl<'a> Look<'a> {
    pub fn new(aws: &'a Aws, catalog: &'a Catalog) -> Self {
        Look { aws, catalog, problems: Vec::new(), notes: Vec::new() }
    }

    /// Takes a problem, once: two machines may have the same one.
    pub fn add(&mut self, problem: impl Into<Problem>) {
        let problem = problem.into();
        if !self.problems.iter().any(|known| known.what == problem.what) {
            self.problems.push(problem);
        }
    }

    /// What EC2 says of a type, and the subnets in zones that have it. Tells whether such machines would start, as far as
    /// that is known.
    pub async fn machine(&mut self, kind: &str, wish: &Wish<'_>) -> Option<Machine> {
        match self.aws.instance_type(kind).await {
            Ok(Some(info)) => {
                let subnets = self.subnets(kind, wish).await;
                let machine = Machine { kind: kind.to_owned(), info, subnets };
                self.check_machine(&machine, wish).await;
                Some(machine)
            }
            Ok(None) => {
                let known = self.catalog.instance_type(kind).ok().and_then(|known| known.note.clone());
                let note = known.map_or(String::new(), |note| format!(": {note}"));
                let what = format!("{} does not offer {kind}{note}", self.aws.region);
                self.add(Problem::new(what, format!("choose another {}, or another region", wish.flag)));
                None
            }
            Err(error) => {
                self.add(error);
                None
            }
        }
    }

    async fn check_machine(&mut self, machine: &Machine, wish: &Wish<'_>) {
        let Machine { kind, info, .. } = machine;
        if let Some((architecture, of)) = wish.architecture
            && !info.architectures.iter().any(|name| name == architecture)
        {
            let all = info.architectures.join(", ");
            let what = format!("{kind} is a machine for {all}, {of} is for {architecture}");
            self.add(Problem::new(what, "choose a type of that architecture"));
        }
        if wish.spot && !info.spot {
            self.add(Problem::new(format!("{kind} can't be had as spot"), "leave out --spot"));
        }
        if !info.nitro && wish.console {
            let what = format!("the console of {kind} can't be read while it runs");
            self.add(Problem::new(what, "choose a type of the Nitro system, or --host-key inject"));
        }
        if wish.quota {
            self.check_quota(machine, wish).await;
        }
    }

    /// Subnets in zones that have the type.
    async fn subnets(&mut self, kind: &str, wish: &Wish<'_>) -> Vec<Subnet> {
        let zones = match self.aws.zones_with(kind).await {
            Ok(zones) => zones,
            Err(error) => {
                self.add(error);
                return Vec::new();
            }
        };
        let filter = match wish.subnet {
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
            self.add(match wish.subnet {
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
            let what = match wish.subnet {
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
        let needed = i32::try_from(wish.count).unwrap_or(i32::MAX);
        let room = |subnet: &&Subnet| subnet.free_addresses >= needed;
        if let (Some(subnet), false) = (subnets.first(), subnets.iter().any(|subnet| room(&subnet))) {
            let free = if needed == 1 {
                "no free address".into()
            } else {
                format!("{} free addresses", subnet.free_addresses)
            };
            self.add(Problem::new(format!("subnet {} has {free}", subnet.id), "choose another --subnet"));
        }
        subnets.sort_by(|one, other| one.zone.cmp(&other.zone));
        subnets
    }

    /// Whether a machine there can have a public address. Where it `downloads`, there must be a way out, or it fails after
    /// minutes; through an Internet gateway there is none for a machine that is to be `without` a public address.
    pub async fn route(
        &mut self,
        subnet: &Subnet,
        reach: &ReachArgs,
        whose: &str,
        downloads: bool,
        without: bool,
    ) -> bool {
        let via = match self.aws.default_route(subnet).await {
            Ok(via) => via,
            Err(error) => {
                self.add(error);
                return false;
            }
        };
        let internet = via.as_ref().is_some_and(|via| via.starts_with("igw-"));
        if via.is_none() && downloads {
            let what = format!("subnet {} has no route to the Internet", subnet.id);
            self.add(Problem::new(
                what,
                "choose a subnet with a route through an Internet or NAT gateway, or --mirror within the VPC",
            ));
        } else if internet && without && downloads {
            let what =
                format!("subnet {} leads out through an Internet gateway, which needs public addresses", subnet.id);
            self.add(Problem::new(
                what,
                "--private gives none: choose a subnet with a route through a NAT gateway, or --mirror within the VPC",
            ));
        } else if !internet && !reach.private && !reach.session_manager {
            let what = format!("subnet {} has no Internet gateway: nothing from outside can reach {whose}", subnet.id);
            self.add(Problem::new(
                what,
                "connect by --private from within, by --session-manager, or choose another --subnet",
            ));
        }
        internet && !reach.private
    }

    /// Who may connect.
    pub async fn cidrs(&mut self, reach: &ReachArgs, public: bool, whose: &str) -> Vec<String> {
        if !reach.ssh_cidr.is_empty() || reach.session_manager || !public {
            return reach.ssh_cidr.clone();
        }
        let asked = tokio::task::spawn_blocking(|| Downloader::new().small(CHECK_IP, 64)).await;
        let answer = asked.ok().and_then(std::result::Result::ok).and_then(|bytes| String::from_utf8(bytes).ok());
        match answer.and_then(|text| text.trim().parse::<std::net::IpAddr>().ok()) {
            Some(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                self.notes
                    .push(format!("port 22 of {whose} is open to {address} alone, your address as {CHECK_IP} sees it"));
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

    /// Session Manager reaches what has the SSM agent. `publishers`: it is the publisher's own image.
    pub fn check_agent(&mut self, reach: &ReachArgs, distribution: &Distribution, image: &str, publishers: bool) {
        if !reach.session_manager || distribution.ami.ssm_agent {
            return;
        }
        let what = format!("{}'s own AMIs have no SSM agent, which --session-manager needs", distribution.name);
        if publishers {
            self.add(Problem::new(what, "start from an AMI of yours that has it, or connect by --private"));
        } else {
            self.notes.push(format!("{what}: {image} must have it"));
        }
    }

    /// Only the limit: what is in use, EC2 tells no one before RunInstances.
    async fn check_quota(&mut self, machine: &Machine, wish: &Wish<'_>) {
        let Machine { kind, info, .. } = machine;
        let family: String = kind.chars().take_while(char::is_ascii_alphabetic).collect();
        let quota = QUOTAS.iter().find(|(names, ..)| names.contains(&family.as_str()));
        let Some((_, on_demand, spot)) = quota else { return };
        let code = if wish.spot { spot } else { on_demand };
        match self.aws.quota(code).await {
            Ok(Some(limit)) if limit < f64::from(info.vcpus) * f64::from(wish.count) => {
                let have = if wish.count == 1 { "has".into() } else { format!("times {} has", wish.count) };
                let vcpus = i64::from(info.vcpus) * i64::from(wish.count);
                let what = format!("the account's quota {code} is {limit} vCPUs, {kind} {have} {vcpus}");
                self.add(Problem::new(what, "ask for more under Service Quotas, or choose a smaller type"));
            }
            Ok(_) => {}
            Err(error) => self.notes.push(format!("the vCPU quota was not checked: {error}")),
        }
    }
}

/// Every flag that says who may connect, and for `--session-manager` the programs that carry the connection.
pub fn check_reach(reach: &ReachArgs, carriers: &[&str]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = reach.ssh_cidr.iter().filter_map(|cidr| check_cidr(cidr).err()).collect();
    if reach.private && reach.ssh_cidr.is_empty() {
        problems.push(Problem::usage(
            "--private needs --ssh-cidr",
            "name the private range that you connect from, such as 10.0.0.0/8",
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = |name: &&str| !std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    for name in carriers.iter().copied().filter(missing).filter(|_| reach.session_manager) {
        problems.push(Problem::new(
            format!("--session-manager connects by `{name}`, which is not on the PATH"),
            "install the AWS CLI and its Session Manager plugin (AWS Systems Manager User Guide)",
        ));
    }
    problems
}

/// Who may connect, as a range of addresses that is not the whole Internet.
fn check_cidr(cidr: &str) -> std::result::Result<(), Problem> {
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
