//! Owns the check of what EFA's devices counted while the test ran: whether the data went over them, and over all of them.

use super::naming::few;
use crate::nccl::counters::HostTraffic;
use crate::nccl::judge::verdict::{Check, Findings};
use crate::nccl::log::report::{End, Report};
use crate::text::rounded_size;

/// A device that carried less than this part of the busiest one's share is told.
const UNEVEN: u64 = 2;

/// One packet of so many that is sent again is told. What is usual is not known.
const RETRANSMITTED: u64 = 1000;

pub(crate) fn traffic(found: &mut Findings, report: &Report) {
    let Some(hosts) = &report.traffic else { return };
    let read: Vec<&HostTraffic> = hosts.iter().filter(|host| !host.nics.is_empty()).collect();
    unread(found, report, hosts);
    if read.is_empty() {
        return;
    }
    let least = least_bytes(report).filter(|_| report.end == End::Complete);
    if let Some(least) = least {
        let idle = |host: &&&HostTraffic| host.bytes() < least / 2;
        let of: Vec<String> =
            read.iter().filter(idle).map(|host| format!("{} ({})", host.host, rounded_size(host.bytes()))).collect();
        if !of.is_empty() {
            let what = format!(
                "EFA's counters: fewer bytes passed through the devices of host {} than the test moves between hosts ({})",
                few(of.iter().map(String::as_str)),
                rounded_size(least)
            );
            let to_do = "traffic bypassed EFA, or the counters do not work: compare tx_bytes below \
                         /sys/class/infiniband on that host before and after a run";
            found.fail(Check::SocketFallback, what, to_do);
            return;
        }
    }
    balance(found, &read);
    events(found, &read);
    if let (Some(least), Some(host)) = (least, read.iter().min_by_key(|host| host.bytes())) {
        let all = read.iter().all(|host| host.carrying() == host.nics.len());
        let nics = if all { "all their NICs" } else { "their NICs" };
        found.notes.push(format!(
            "EFA's counters agree: each of {} hosts moved at least {} over {nics}, and the test needs {}",
            read.len(),
            rounded_size(host.bytes()),
            rounded_size(least)
        ));
    }
}

/// Whose counters say nothing.
fn unread(found: &mut Findings, report: &Report, hosts: &[HostTraffic]) {
    let silent = report.hosts.len().saturating_sub(hosts.len());
    if silent > 0 {
        found.notes.push(format!("EFA's counters were not read on {silent} of {} hosts", report.hosts.len()));
    }
    let none: Vec<&str> = hosts
        .iter()
        .filter(|host| host.nics.is_empty() && host.unread.is_empty())
        .map(|host| host.host.as_str())
        .collect();
    if !none.is_empty() {
        let names = few(none.into_iter());
        found.notes.push(format!("EFA's counters: no EFA device is below /sys/class/infiniband on {names}"));
    }
    let lost = |host: &HostTraffic| format!("{} of {}", few(host.unread.iter().map(String::as_str)), host.host);
    let lost: Vec<String> = hosts.iter().filter(|host| !host.unread.is_empty()).map(lost).collect();
    if !lost.is_empty() {
        let names = few(lost.iter().map(String::as_str));
        found.notes.push(format!("EFA's counters: no usable counters for {names}: missing, or reset during the run"));
    }
}

/// Whether every device carried its share.
fn balance(found: &mut Findings, hosts: &[&HostTraffic]) {
    let idle = |host: &&&HostTraffic| host.carrying() < host.nics.len();
    let name = |host: &&HostTraffic| {
        let silent = host.nics.iter().filter(|nic| nic.bytes() == 0).map(|nic| nic.name.as_str());
        let names: Vec<&str> = silent.collect();
        let names =
            if names.is_empty() { String::new() } else { format!(", nothing went over {}", few(names.into_iter())) };
        format!("{} of {} NICs of host {} carried data{names}", host.carrying(), host.nics.len(), host.host)
    };
    let told: Vec<String> = hosts.iter().filter(idle).map(name).collect();
    if !told.is_empty() {
        let to_do =
            "see whether a rank runs on every GPU, and whether the plugin found every NIC; then test that host's pairs";
        found.warn(Check::FewNics, few(told.iter().map(String::as_str)), to_do);
        return;
    }
    let uneven = hosts.iter().filter_map(|host| {
        let least = host.nics.iter().min_by_key(|nic| nic.bytes())?;
        let most = host.nics.iter().max_by_key(|nic| nic.bytes())?;
        let share = (100 * u128::from(least.bytes())).checked_div(u128::from(most.bytes()))?;
        (least.bytes() < most.bytes() / UNEVEN)
            .then(|| format!("{} of host {} carried {share} % of what {} did", least.name, host.host, most.name))
    });
    let uneven: Vec<String> = uneven.collect();
    if !uneven.is_empty() {
        let to_do = "compare this NIC's throughput with the others on that host";
        found.warn(Check::FewNics, few(uneven.iter().map(String::as_str)), to_do);
    }
}

/// What devices and fabric had trouble with.
fn events(found: &mut Findings, hosts: &[&HostTraffic]) {
    let sum = |host: &HostTraffic, of: fn(&crate::nccl::counters::NicTraffic) -> Option<u64>| {
        host.nics.iter().filter_map(of).fold(0, u64::saturating_add)
    };
    let mut tell = |what: &dyn Fn(&HostTraffic) -> Option<String>, to_do: &str| {
        let told: Vec<String> = hosts.iter().filter_map(|host| what(host)).collect();
        if !told.is_empty() {
            found.warn(Check::TooSlow, few(told.iter().map(String::as_str)), to_do);
        }
    };
    tell(
        &|host| {
            let (again, packets) = (sum(host, |nic| nic.retransmitted), sum(host, |nic| nic.packets));
            (again > packets / RETRANSMITTED)
                .then(|| format!("host {} sent {again} of {packets} packets again", host.host))
        },
        "the fabric drops packets: test pairs of hosts to find the bad path",
    );
    tell(
        &|host| {
            let (silent, poor) = (sum(host, |nic| nic.unresponsive), sum(host, |nic| nic.impaired));
            (silent > 0 || poor > 0).then(|| {
                format!(
                    "EFA of host {} counted {silent} peers that did not answer and {poor} impaired connections",
                    host.host
                )
            })
        },
        "test pairs of hosts to find the other end",
    );
    tell(
        &|host| {
            let dropped = sum(host, |nic| nic.dropped);
            (dropped > 0).then(|| format!("EFA of host {} received {dropped} packets and dropped them", host.host))
        },
        "that host does not keep up: see whether another program uses its EFA devices",
    );
}

/// Bytes that must leave, or reach, every host at least, whatever NCCL's algorithm: per iteration what the collective needs
/// (all-reduce: 2(n-1)/n of the size for n hosts, as in a ring of them), for every measured iteration and the warm-up at the
/// largest size.
fn least_bytes(report: &Report) -> Option<u64> {
    let preamble = report.preamble.as_ref()?;
    let (hosts, ranks) = (report.hosts.len() as f64, report.rank_count() as f64);
    if hosts < 2.0 || ranks < hosts || report.row_count > report.rows.len() as u64 {
        return None;
    }
    let name = report.collective.as_deref().or(report.inferred_collective)?;
    let others = (hosts - 1.0) / hosts;
    let share = match name.strip_suffix("_perf").unwrap_or(name) {
        "all_reduce" => 2.0 * others,
        "all_gather" | "reduce_scatter" => others,
        "alltoall" => ranks / hosts * others,
        "sendrecv" => 1.0,
        _ => return None,
    };
    let iterations = preamble.iters as f64;
    let measured = report.rows.iter().map(|row| {
        let placements = 1.0 + f64::from(u8::from(row.in_place.is_some()));
        row.size as f64 * iterations * placements
    });
    let largest = report.rows.iter().map(|row| row.size).max()? as f64;
    let bytes = share * (measured.sum::<f64>() + largest * preamble.warmup_iters as f64);
    // As a float it is exact enough for a bound that is halved.
    Some(bytes as u64)
}
