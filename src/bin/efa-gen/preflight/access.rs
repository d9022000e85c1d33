//! Owns who reaches a machine, and what it reaches: routes, addresses, Session Manager.

use efa_gen::catalog::distribution::Distribution;
use efa_gen::error::Class;

use super::context::PreflightContext;
use super::problem::Problem;
use crate::aws::model::Subnet;
use crate::cli::cloud::ReachArgs;
use crate::io::http::Downloader;

/// Tells the address that a request came from, as one line (AWS's own, used by its documentation).
const CHECK_IP: &str = "https://checkip.amazonaws.com";

/// The programs that carry a connection of ours through Session Manager.
pub const CARRIERS: [&str; 2] = ["aws", "session-manager-plugin"];

impl PreflightContext<'_> {
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
