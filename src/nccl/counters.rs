//! Owns EFA's counters, evidence of a run that does not come from NCCL's own words: the question for a host, the answer, and what
//! passed between two answers.
//!
//! Names are those of AWS's page "Monitor an Elastic Fabric Adapter on Amazon EC2" and of amzn/amzn-drivers
//! `kernel/linux/efa`: totals since the instance started or the driver was reset. Up to driver 1.12 they lie in one folder,
//! from 1.13 on those of the port in another; retransmissions and connections are counted from 2.17 on.

use std::collections::HashMap;

use serde::Serialize;

use crate::text::clean;

/// Where the kernel shows RDMA devices.
pub const DEVICES: &str = "/sys/class/infiniband";

/// What is read of each device, in this order.
const NAMES: [&str; 7] = [
    "tx_bytes",
    "rx_bytes",
    "tx_pkts",
    "rx_drops",
    "retrans_pkts",
    "unresponsive_remote_events",
    "impaired_remote_conn_events",
];

/// Amazon's number on the PCI bus: machines with NVLink 5 have RDMA devices of another maker, which carry no data of NCCL.
const AMAZON: &str = "0x1d0f";

const BEGIN: &str = "EFA-GEN COUNTERS ";
const END: &str = " .";

/// Most devices that are read of a host; none has more than 32.
const MOST: usize = 256;

/// Script for a POSIX shell that prints one line, in one write of fewer than 4,096 bytes for 32 devices: mpirun passes on so much
/// at once, and the lines of several hosts stay whole.
pub fn question(devices: &str) -> String {
    format!(
        "o=\"$(uname -n)\"; \
         for d in {devices}/*; do read -r m 2>/dev/null <\"$d/device/vendor\" && [ \"$m\" = {AMAZON} ] || continue; \
         o=\"$o ${{d##*/}}\"; s==; \
         for n in {names}; do x=; for f in \"$d/ports/1/hw_counters/$n\" \"$d/hw_counters/$n\"; do \
         [ ! -r \"$f\" ] || read -r x <\"$f\" && [ -z \"$x\" ] || break; done 2>/dev/null; \
         o=\"$o$s${{x:--}}\"; s=,; done; done; printf '{BEGIN}%s{END}\\n' \"$o\"",
        names = NAMES.join(" ")
    )
}

/// A host's devices, each with its counters; `None` is one that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCounters {
    /// The host's own name.
    pub host: String,
    /// Devices by name.
    devices: Vec<(String, [Option<u64>; NAMES.len()])>,
}

/// Reads the answers of all hosts; a line that is torn is none.
pub fn read(answers: &str) -> Vec<HostCounters> {
    answers.lines().filter_map(|line| host(line.trim_end().strip_prefix(BEGIN)?.strip_suffix(END)?)).collect()
}

fn host(text: &str) -> Option<HostCounters> {
    let mut words = text.split(' ');
    let host = clean(words.next().filter(|name| !name.is_empty())?.as_bytes());
    let devices = words.map(device).collect::<Option<Vec<_>>>()?;
    (devices.len() <= MOST).then_some(HostCounters { host, devices })
}

fn device(word: &str) -> Option<(String, [Option<u64>; NAMES.len()])> {
    let (name, figures) = word.split_once('=')?;
    let mut counters = [None; NAMES.len()];
    let mut figures = figures.split(',');
    for counter in &mut counters {
        *counter = match figures.next()? {
            "-" => None,
            figure => Some(figure.parse().ok()?),
        };
    }
    figures.next().is_none().then(|| (clean(name.as_bytes()), counters))
}

/// What passed through one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NicTraffic {
    /// `rdmap0s6`.
    pub name: String,
    /// Bytes.
    pub sent: u64,
    /// Bytes.
    pub received: u64,
    /// Packets sent.
    pub packets: Option<u64>,
    /// Packets received and dropped.
    pub dropped: Option<u64>,
    /// Packets sent again.
    pub retransmitted: Option<u64>,
    /// Times that a peer did not answer.
    pub unresponsive: Option<u64>,
    /// Times that a connection was impaired.
    pub impaired: Option<u64>,
}

/// What passed through a host's devices while a test ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostTraffic {
    /// The host's own name.
    pub host: String,
    /// Devices whose bytes were read before and after.
    pub nics: Vec<NicTraffic>,
    /// Devices of which that can't be told: they came, went, were reset, or show no bytes.
    pub unread: Vec<String>,
}

/// What passed between two answers. Hosts that gave one of them alone are left out.
pub fn traffic(before: &[HostCounters], after: &[HostCounters]) -> Vec<HostTraffic> {
    let begun: HashMap<&str, &HostCounters> =
        before.iter().map(|counters| (counters.host.as_str(), counters)).collect();
    let mut told = Vec::new();
    for end in after {
        let Some(begin) = begun.get(end.host.as_str()) else { continue };
        let mut host = HostTraffic { host: end.host.clone(), ..HostTraffic::default() };
        let names = end.devices.iter().map(|(name, _)| name);
        host.unread.extend(
            begin
                .devices
                .iter()
                .map(|(name, _)| name)
                .filter(|name| !names.clone().any(|other| other == *name))
                .cloned(),
        );
        for (name, counters) in &end.devices {
            let known = begin.devices.iter().find(|(other, _)| other == name);
            match known.and_then(|(_, from)| nic(name, from, counters)) {
                Some(nic) => host.nics.push(nic),
                None => host.unread.push(name.clone()),
            }
        }
        told.push(host);
    }
    told
}

fn nic(name: &str, from: &[Option<u64>; NAMES.len()], to: &[Option<u64>; NAMES.len()]) -> Option<NicTraffic> {
    let mut passed = [None; NAMES.len()];
    for (at, (from, to)) in from.iter().zip(to).enumerate() {
        passed[at] = match (from, to) {
            // One that went back was reset with its device, and so were all others.
            (Some(from), Some(to)) => Some(difference(*from, *to)?),
            _ => None,
        };
    }
    let [sent, received, packets, dropped, retransmitted, unresponsive, impaired] = passed;
    let (sent, received) = (sent?, received?);
    let name = name.to_owned();
    Some(NicTraffic { name, sent, received, packets, dropped, retransmitted, unresponsive, impaired })
}

/// From one to the other, also past the largest number; `None` where the counter began anew.
fn difference(from: u64, to: u64) -> Option<u64> {
    to.checked_sub(from).or_else(|| (from > u64::MAX / 2).then(|| to.wrapping_sub(from)))
}

impl HostTraffic {
    /// Bytes that all its devices sent, or received, whichever is more.
    pub fn bytes(&self) -> u64 {
        let sum = |of: fn(&NicTraffic) -> u64| self.nics.iter().map(of).fold(0, u64::saturating_add);
        sum(|nic| nic.sent).max(sum(|nic| nic.received))
    }

    /// Devices that carried data: no less than a hundredth of what the busiest one did.
    pub fn carrying(&self) -> usize {
        let busiest = self.nics.iter().map(NicTraffic::bytes).max().unwrap_or(0);
        self.nics.iter().filter(|nic| nic.bytes() > 0 && nic.bytes() >= busiest / 100).count()
    }
}

impl NicTraffic {
    /// Bytes sent and received.
    pub fn bytes(&self) -> u64 {
        self.sent.saturating_add(self.received)
    }
}
