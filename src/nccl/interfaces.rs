//! Owns over which interfaces the hosts of a test meet: those that the user names, or on each host the one that holds the
//! address by which the others reach it. Bridges for containers and virtual machines (docker0, virbr0, cni0), which look the
//! same on every host and lead nowhere, stay out.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::command::{Host, INCLUDE};
use crate::error::{Class, Error, Result};
use crate::shell::quote;
use crate::text::excerpt;

const BEGIN: &str = "EFA-GEN ADDRESSES ";
const IS: &str = "EFA-GEN IS ";
const END: &str = " .";

/// Script for a POSIX shell that prints a host's interfaces and addresses, in one line.
pub const QUESTION: &str = "o=\"$(ip -o -4 address show | while read -r n i f a r; do printf ' %s=%s' \"$i\" \"$a\"; done)\"; \
     printf 'EFA-GEN ADDRESSES%s .\\n' \"$o\"";

/// More networks than this are not named to Open MPI.
const MOST_NETWORKS: usize = 8;

/// NCCL's variable.
pub const VARIABLE: &str = "NCCL_SOCKET_IFNAME";

/// The interfaces that Open MPI and NCCL may use, as `--interfaces` names them: names, or networks such as 10.0.0.0/16.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// Open MPI's parameter.
    pub mca: (String, String),
    /// NCCL's variable; NCCL knows names alone.
    pub variable: Option<(String, String)>,
}

/// Reads a list of them, with commas.
pub fn named(text: &str) -> Result<InterfaceOptions> {
    let wrong = |one: &str| {
        Error::new(Class::Usage, format!("`{}` is neither an interface's name nor a network", excerpt(one)))
            .hint("for example eth0, or 10.0.0.0/16; `ip -brief address` lists both on a host")
    };
    let mut names = Vec::new();
    for one in text.split(',') {
        match one.split_once('/') {
            Some((address, length)) => {
                let address: Ipv4Addr = address.parse().map_err(|_| wrong(one))?;
                let length =
                    length.parse::<u32>().ok().filter(|length| (1..=32).contains(length)).ok_or_else(|| wrong(one))?;
                if u64::from(u32::from(address)) & ((1_u64 << (32 - length)) - 1) != 0 {
                    return Err(wrong(one).hint("the address has bits behind the network's length"));
                }
            }
            None => {
                // Linux, `IFNAMSIZ`.
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if one.is_empty() || one.len() > 15 || one.starts_with('-') || !one.chars().all(plain) {
                    return Err(wrong(one));
                }
                names.push(one);
            }
        }
    }
    let all_names = names.len() == text.split(',').count();
    Ok(InterfaceOptions {
        mca: (INCLUDE.to_owned(), text.to_owned()),
        // With the sign a name is that name, not the beginning of one.
        variable: all_names.then(|| (VARIABLE.to_owned(), format!("={text}"))),
    })
}

/// Line for a shell that tells which address the first host takes for each name; `None` where all are addresses.
pub fn resolution(hosts: &[Host]) -> Result<Option<String>> {
    let names = hosts.iter().map(|host| host.address.as_str()).filter(|name| name.parse::<Ipv4Addr>().is_err());
    let names = names.map(quote).collect::<Result<Vec<String>>>()?;
    Ok((!names.is_empty()).then(|| {
        format!(
            "for n in {}; do getent ahostsv4 \"$n\" | {{ read -r a r && printf '{IS}%s %s\\n' \"$n\" \"$a\"; }}; done; :",
            names.join(" ")
        )
    }))
}

/// The interfaces by which the hosts reach each other, from their answers and the first host's word of their names.
///
/// Errors, as a reason: whose address no host has told; too many networks.
pub fn between(hosts: &[Host], resolved: &str, answers: &str) -> std::result::Result<InterfaceOptions, String> {
    let known: HashMap<&str, &str> =
        resolved.lines().filter_map(|line| line.trim_end().strip_prefix(IS)?.split_once(' ')).collect();
    let mut holders: HashMap<Ipv4Addr, (&str, u32)> = HashMap::new();
    for line in answers.lines() {
        let Some(rest) = line.trim_end().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)) else { continue };
        for (name, held) in rest.split(' ').filter_map(|word| word.split_once('=')) {
            let Some((address, length)) = held.split_once('/') else { continue };
            if let (Ok(address), Ok(length @ 1..=32)) = (address.parse::<Ipv4Addr>(), length.parse::<u32>())
                && !address.is_loopback()
            {
                holders.insert(address, (name.split('@').next().unwrap_or(name), length));
            }
        }
    }
    let (mut names, mut networks): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for host in hosts {
        let text = known.get(host.address.as_str()).copied().unwrap_or(&host.address);
        let held = text.parse::<Ipv4Addr>().ok().and_then(|address| Some((address, holders.get(&address)?)));
        let Some((address, (name, length))) = held else {
            return Err(format!("no host says which of its interfaces holds {}", excerpt(text)));
        };
        let network = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - length)));
        let network = format!("{network}/{length}");
        if !names.contains(name) {
            names.push(name);
        }
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    if networks.len() > MOST_NETWORKS {
        return Err(format!("the hosts lie in {} networks", networks.len()));
    }
    // What they are called comes from the hosts.
    named(&names.join(",")).map_err(|error| error.to_string())?;
    Ok(InterfaceOptions {
        mca: (INCLUDE.to_owned(), networks.join(",")),
        variable: Some((VARIABLE.to_owned(), format!("={}", names.join(",")))),
    })
}
