//! Owns the checks of the network: libfabric's provider, NCCL's network, channels, GPUDirect, NICs.

use std::collections::HashSet;

use super::hints::{DEVICE, LIBRARY_PATH, debug};
use super::naming::{few, who};

use crate::nccl::judge::verdict::{Check, Expect, Findings, Severity};
use crate::nccl::log::message::{PLUGIN_NAMES, PROVIDER};
use crate::nccl::log::report::{Rank, Report};
use crate::version;

/// Begins the finding of a plugin that is not there.
pub(crate) const NOT_FOUND: &str = "NCCL did not find the plugin";

const CHOSEN: &str =
    "the plugin was loaded, and NCCL chose another network: unset NCCL_NET, also in /etc/nccl.conf and ~/.nccl.conf";

/// NCCL tells its network from this version on (`Using network ...`).
const TELLS_NETWORK: &str = "2.6.4";

pub(crate) fn provider(found: &mut Findings, report: &Report) {
    let check = Check::WrongProvider;
    for wrong in report.providers.iter().filter(|provider| provider.name != PROVIDER) {
        let ranks = who(report, |rank| rank.providers.contains(&wrong.name));
        found.fail(check, format!("libfabric provider {} instead of {PROVIDER} on {ranks}", wrong.name), DEVICE);
    }
    let without =
        |rank: &&Rank| rank.providers.is_empty() && rank.provider_error.is_some() && !rank.says_only_that_it_failed();
    if let Some(first) = report.ranks.iter().find(without) {
        let ranks = who(report, |rank| without(&rank));
        let text = first.provider_error.as_deref().unwrap_or_default();
        found.fail(check, format!("the plugin found no provider on {ranks}: {text}"), DEVICE);
    }
    let silent = |rank: &&Rank| rank.providers.is_empty();
    let everywhere = report.rank_count() > 0 && !report.ranks.iter().any(|rank| silent(&rank));
    if let Some(text) = &report.provider_error {
        if everywhere {
            found.warn(check, format!("something said: {text}; every rank selected a provider all the same"), DEVICE);
        } else {
            found.fail(check, text.clone(), DEVICE);
        }
    }
    if found.findings.iter().any(|finding| (finding.check, finding.severity) == (check, Severity::Failure)) {
        return;
    }
    if report.nccl_lines == 0 && report.unread_lines > 0 {
        found.skip(check);
    } else if report.nccl_lines == 0 {
        found.miss(check, "no line by NCCL: nothing tells which network it used", debug(report));
    } else if report.providers.is_empty() {
        found.miss(check, "no rank says which libfabric provider it selected", debug(report));
    } else if report.ranks.iter().any(|rank| silent(&rank)) {
        let ranks = who(report, |rank| silent(&rank));
        found.miss(check, format!("no line tells which provider {ranks} selected"), debug(report));
    }
}

pub(crate) fn network(found: &mut Findings, report: &Report) {
    let check = Check::SocketFallback;
    for wrong in report.networks.iter().filter(|network| !PLUGIN_NAMES.contains(&network.name.as_str())) {
        let over = |rank: &Rank| rank.networks.contains(&wrong.name);
        let ranks = who(report, over);
        let missing = report.ranks.iter().any(|rank| over(rank) && rank.plugin_missing);
        let failed = report.ranks.iter().any(|rank| over(rank) && rank.provider_error.is_some());
        let (why, to_do) = match (missing, failed) {
            (true, _) => (": NCCL did not find the plugin", LIBRARY_PATH),
            (false, true) => (": the plugin failed, and NCCL went on without it", DEVICE),
            // It was loaded, and something else was chosen.
            (false, false) if !report.plugin_path.is_empty() => ("", CHOSEN),
            (false, false) => ("", LIBRARY_PATH),
        };
        found.fail(check, format!("NCCL uses network {} instead of the plugin on {ranks}{why}", wrong.name), to_do);
    }
    // Where its network is not told, the next line would be the internal one's.
    let lost = |rank: &Rank| rank.plugin_missing && rank.networks.is_empty();
    let told = found.findings.iter().any(|finding| finding.what.starts_with(NOT_FOUND));
    if report.ranks.iter().any(lost) && !told {
        found.fail(check, format!("{NOT_FOUND} on {}", who(report, lost)), LIBRARY_PATH);
    }
    // A version that is not known may be one that tells.
    let tells =
        report.versions.nccl.is_empty() || report.versions.nccl.iter().any(|v| version::at_least(v, TELLS_NETWORK));
    if report.nccl_lines == 0 || !tells {
        return;
    }
    let silent = |rank: &Rank| rank.networks.is_empty();
    if report.networks.is_empty() {
        found.miss(check, "NCCL does not say which network it uses", debug(report));
    } else if report.ranks.iter().any(silent) {
        found.miss(check, format!("no line tells which network {} uses", who(report, silent)), debug(report));
    }
}

pub(crate) fn channels(found: &mut Findings, report: &Report) {
    let check = Check::SocketFallback;
    let net = |transport: &str| transport.strip_prefix("NET/").map(str::to_owned);
    // The cause, where the network's lines told it.
    let told = found.findings.iter().find(|finding| finding.check == check).map(|finding| finding.to_do.clone());
    for channels in &report.channels {
        if let Some(name) = net(&channels.transport).filter(|name| !PLUGIN_NAMES.contains(&name.as_str())) {
            let what = format!("{} channels go over network {name} instead of the plugin", channels.count);
            found.fail(check, what, told.clone().unwrap_or_else(|| LIBRARY_PATH.to_owned()));
        }
    }
    if report.rank_count() > 0 && report.hosts.len() == 1 || report.nccl_lines == 0 {
        return;
    }
    if !report.channels.iter().any(|channels| net(&channels.transport).is_some()) {
        found.miss(check, "no channel over the network is in the log", debug(report));
        return;
    }
    let over = report.ranks.iter().filter(|rank| rank.net_channels > 0).map(|rank| rank.host.as_str());
    let over: HashSet<&str> = over.collect();
    let silent: Vec<&str> = report.hosts.iter().map(String::as_str).filter(|host| !over.contains(host)).collect();
    if !silent.is_empty() {
        let what = format!("no channel over the network is shown for host {}", few(silent.into_iter()));
        found.miss(check, what, debug(report));
    }
}

pub(crate) fn gdr(found: &mut Findings, report: &Report, expect: &Expect) {
    let check = Check::GdrLost;
    let to_do = "unset NCCL_NET_GDR_LEVEL and NCCL_TOPO_FILE, and check that the driver's peer memory works (plugin and EFA \
                 installer new enough for the type)";
    if report.ranks.iter().any(|rank| rank.gdr_disabled) {
        let ranks = who(report, |rank| rank.gdr_disabled);
        found.fail(check, format!("the plugin gave GPUDirect up on {ranks}"), to_do);
    }
    let Some(instance_type) = expect.instance_type else {
        found.notes.push("GPUDirect and the number of NICs are not judged: --instance-type is not given".into());
        found.skip(check);
        return;
    };
    if !instance_type.gpudirect || report.ranks.iter().all(|rank| rank.net_channels == 0) {
        found.skip(check);
    }
    let lost = |rank: &Rank| rank.gdr_channels < rank.net_channels;
    if instance_type.gpudirect && report.ranks.iter().any(lost) {
        let ranks = who(report, lost);
        found.fail(
            check,
            format!("channels without GPUDirect (GDRDMA) on {ranks}; {} has it", instance_type.name),
            to_do,
        );
    }
}

pub(crate) fn nics(found: &mut Findings, report: &Report, expect: &Expect) {
    let Some(instance_type) = expect.instance_type.filter(|_| report.ranks.iter().any(|rank| rank.nics.is_some()))
    else {
        found.skip(Check::FewNics);
        return;
    };
    let wanted = u64::from(instance_type.efa);
    let other = |rank: &Rank| rank.nics.is_some_and(|nics| nics != wanted);
    if let Some(first) = report.ranks.iter().find(|rank| other(rank)) {
        let nics = first.nics.unwrap_or_default();
        let what = format!("{nics} NICs instead of {wanted} on {}", who(report, other));
        found.warn(Check::FewNics, what, format!("attach every EFA that {} has to each host", instance_type.name));
    }
}
