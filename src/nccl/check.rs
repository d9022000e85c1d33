//! Owns the checks, one function each, in the order of [`Check`]; that of the bandwidth has a module. Knows nothing of how a
//! log is read. Evidence that is not there is missing, not good.

use super::bandwidth::{bandwidth, is_all_reduce};
use super::evidence::ROWS;
use super::message::{PLUGIN_NAMES, PROVIDER};
use super::naming::{few, size, who};
use super::report::{End, Rank, Report};
use super::verdict::{Check, Expect, Finding, Weight};
use crate::catalog::bar::version_at_least;

/// How far the printed average may be from that of the rows, GB/s: half of the last printed digit, with room.
const AVERAGE_TOLERANCE: f64 = 0.006;

/// NCCL tells its network from this version on (`Using network ...`).
const TELLS_NETWORK: &str = "2.6.4";

const DEBUG: &str = "run it with NCCL_DEBUG=INFO on every rank (mpirun -x NCCL_DEBUG=INFO) and keep the whole log";
const WHOLE: &str = "judge the whole log, from the line `# nThread` on to the end";
const LIBRARY_PATH: &str = "put the folder of the plugin's libnccl-net.so (/opt/amazon/ofi-nccl/lib or lib64, \
                            /opt/aws-ofi-nccl/lib) into LD_LIBRARY_PATH there: mpirun -x LD_LIBRARY_PATH";
const DEVICE: &str = "check with `fi_info -p efa -t FI_EP_RDM` there that the host has an EFA device, and that the plugin's \
                      libfabric is the one of the EFA installer (/opt/amazon/efa)";

/// What the checks found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub findings: Vec<Finding>,
    pub unjudged: Vec<Check>,
    pub notes: Vec<String>,
    pub bar: Option<(f64, u64)>,
}

impl Found {
    fn add(&mut self, check: Check, weight: Weight, what: impl Into<String>, to_do: impl Into<String>) {
        self.findings.push(Finding { check, weight, what: what.into(), to_do: to_do.into() });
    }

    pub fn fail(&mut self, check: Check, what: impl Into<String>, to_do: impl Into<String>) {
        self.add(check, Weight::Failure, what, to_do);
    }

    pub fn miss(&mut self, check: Check, what: impl Into<String>, to_do: impl Into<String>) {
        self.add(check, Weight::Missing, what, to_do);
    }

    pub fn skip(&mut self, check: Check) {
        self.unjudged.push(check);
    }

    pub fn warn(&mut self, check: Check, what: impl Into<String>, to_do: impl Into<String>) {
        self.add(check, Weight::Warning, what, to_do);
    }
}

pub(super) fn all(found: &mut Found, report: &Report, expect: &Expect) {
    run(found, report);
    complete(found, report, expect);
    values(found, report);
    hosts(found, report, expect);
    if report.json {
        let what = "nccl-tests' JSON holds no word about the network: providers, channels and most ranks are not in it";
        found.miss(Check::WrongProvider, what, "judge the text output of a run with NCCL_DEBUG=INFO");
        [Check::SocketFallback, Check::GdrLost, Check::FewNics].into_iter().for_each(|check| found.skip(check));
    } else {
        provider(found, report);
        network(found, report);
        channels(found, report);
        gdr(found, report, expect);
        nics(found, report, expect);
    }
    bandwidth(found, report, expect);
    versions(found, report);
}

fn run(found: &mut Found, report: &Report) {
    let check = Check::RunFailed;
    if report.exit_status == Some(124) {
        let to_do = "look for the rank that printed nothing last, or give it more time";
        found.fail(check, "it did not end in time (exit status 124)", to_do);
    }
    // What brought the failures about, where the ranks have told it before.
    if report.row_count == 0 && !report.failures.is_empty() {
        let failed = |rank: &Rank| rank.trouble.is_some() && rank.providers.is_empty();
        if report.ranks.iter().any(|rank| rank.plugin_missing) {
            let ranks = who(report, |rank| rank.plugin_missing);
            found.fail(check, format!("NCCL did not find the plugin on {ranks}"), LIBRARY_PATH);
        } else if let Some(rank) = report.ranks.iter().find(|rank| failed(rank)) {
            let said = rank.trouble.as_deref().unwrap_or_default();
            found.fail(check, format!("the plugin found no provider on {}: {said}", who(report, failed)), DEVICE);
        }
    }
    for failure in &report.failures {
        let again = if failure.count > 1 { format!(" ({} times)", failure.count) } else { String::new() };
        found.fail(check, format!("{}{again}", failure.line), failure.to_do);
    }
    if report.exit_status.is_none() {
        found.notes.push("the exit status is not known (--exit-status)".into());
    }
    // After the texts, which say more.
    if let Some(status) = report.exit_status.filter(|status| ![0, 124].contains(status)) {
        found.fail(check, format!("exit status {status}"), "what the ranks printed last tells why");
    }
}

fn complete(found: &mut Found, report: &Report, expect: &Expect) {
    let check = Check::Incomplete;
    if report.end == End::Excerpt {
        let what = if report.row_count == 0 {
            "the log holds no result of nccl-tests"
        } else {
            "the log is an excerpt: its beginning, which says what was to be measured, is missing"
        };
        found.miss(check, what, WHOLE);
        return;
    }
    if report.runs > 1 {
        let to_do =
            "judge one run at a time; ranks that each start a run of their own come of nccl-tests built without MPI=1";
        found.miss(check, format!("the log holds {} runs", report.runs), to_do);
    }
    let sizes = report.preamble.as_ref().and_then(super::row::Preamble::sizes);
    let Some(last) = &report.last else {
        found.fail(check, "no size was measured", "what the ranks printed last tells why");
        return;
    };
    let wanted = expect.last_size.or(sizes.map(|(_, size)| size));
    let slack = 16 * (report.rank_count() as u64).max(1);
    if let Some(wanted) = wanted.filter(|wanted| last.size.saturating_add(slack) <= *wanted) {
        let what = format!("it ends at {}, {} was asked for", size(last.size), size(wanted));
        found.fail(check, what, "give it more time, or look for the rank that stopped");
    } else if let Some((count, _)) = sizes.filter(|(count, _)| report.row_count < *count) {
        found.fail(check, format!("{} of {count} rows are there", report.row_count), WHOLE);
    }
    if report.damaged_rows > 0 {
        found.fail(check, format!("{} rows are cut or garbled", report.damaged_rows), WHOLE);
    }
    if report.out_of_bounds.is_none() || report.average_busbw.is_none() {
        found.fail(check, "no summary: the run did not end, or the log was cut", WHOLE);
    } else if report.end == End::Truncated && !found.findings.iter().any(|finding| finding.check == check) {
        found.fail(check, "the line that concludes the test is missing", WHOLE);
    }
    if let (Some(printed), Some(rows)) = (report.average_busbw, report.average_of_rows)
        && (printed - rows).abs() > AVERAGE_TOLERANCE.max(printed.abs() * 1e-5)
    {
        let what = format!(
            "the summary's average, {printed}, is not that of the rows, {rows:.4}: rows are missing or changed"
        );
        found.miss(check, what, WHOLE);
    }
}

fn values(found: &mut Found, report: &Report) {
    let check = Check::WrongResult;
    let to_do = "do not use these hosts together until it is gone: test one pair of hosts after the other, and check the \
                 GPUs (nvidia-smi -q -d ECC)";
    if report.row_count == 0 {
        found.skip(check);
    }
    if report.wrong_values > 0 {
        let rows =
            report.rows.iter().filter(|row| row.wrong() > 0).take(3).map(|row| size(row.size)).collect::<Vec<_>>();
        found.fail(check, format!("{} wrong values, first at {}", report.wrong_values, rows.join(", ")), to_do);
    }
    if let Some((count, ok)) = report.out_of_bounds
        && (count > 0 || !ok)
    {
        found.fail(check, format!("the summary counts {count} values out of bounds"), to_do);
    }
    // alltoall and others never check in place; a row that differs from the rest is another matter.
    let all_in_place = report.unchecked_in_place == report.row_count && !is_all_reduce(report);
    let unchecked = report.unchecked_rows.max(if all_in_place { 0 } else { report.unchecked_in_place });
    if unchecked > 0 {
        let what = format!("nobody checked the values of {unchecked} of {} rows", report.row_count);
        found.miss(check, what, "run it with -c 1");
    }
}

fn hosts(found: &mut Found, report: &Report, expect: &Expect) {
    let check = Check::NotANetworkTest;
    let count = report.hosts.len() as u64;
    if report.json || count == 0 {
        let to_do = if report.json { "judge the text output" } else { WHOLE };
        found.miss(check, "which hosts took part is not in the log", to_do);
        return;
    }
    if report.ranks_unsound || report.too_many_ranks {
        let what = if report.too_many_ranks {
            "more ranks than can be told apart".to_owned()
        } else {
            format!("the {} Rank lines leave ranks out or contradict each other", report.rank_count())
        };
        found.miss(check, what, WHOLE);
    }
    let names = few(report.hosts.iter().map(String::as_str));
    if count == 1 && expect.hosts > 1 {
        let what = format!("only one host took part ({names}): its GPUs reach each other without a network");
        found.fail(check, what, "start the ranks on two hosts or more (a hostfile with slots)");
    } else if count < expect.hosts {
        let what = format!("{count} hosts took part ({names}), {} were asked for", expect.hosts);
        found.fail(check, what, "check the hostfile and its slots");
    } else if count > expect.hosts && expect.hosts > 1 {
        found.notes.push(format!("{count} hosts took part, at least {} were asked for", expect.hosts));
    }
}

fn provider(found: &mut Found, report: &Report) {
    let check = Check::WrongProvider;
    for wrong in report.providers.iter().filter(|provider| provider.name != PROVIDER) {
        let ranks = who(report, |rank| rank.providers.contains(&wrong.name));
        found.fail(check, format!("libfabric provider {} instead of {PROVIDER} on {ranks}", wrong.name), DEVICE);
    }
    let without = |rank: &&Rank| rank.providers.is_empty() && rank.trouble.is_some();
    if let Some(first) = report.ranks.iter().find(without) {
        let ranks = who(report, |rank| without(&rank));
        let said = first.trouble.as_deref().unwrap_or_default();
        found.fail(check, format!("the plugin found no provider on {ranks}: {said}"), DEVICE);
    }
    let silent = |rank: &&Rank| rank.rank.is_some() && rank.providers.is_empty();
    let everywhere = report.rank_count() > 0 && !report.ranks.iter().any(|rank| silent(&rank));
    if let Some(said) = &report.trouble {
        if everywhere {
            found.warn(check, format!("something said: {said}; every rank selected a provider all the same"), DEVICE);
        } else {
            found.fail(check, said.clone(), DEVICE);
        }
    }
    if found.findings.iter().any(|finding| (finding.check, finding.weight) == (check, Weight::Failure)) {
        return;
    }
    if report.nccl_lines == 0 {
        found.miss(check, "no line by NCCL: nothing tells which network it used", DEBUG);
    } else if report.providers.is_empty() {
        found.miss(check, "no rank says which libfabric provider it selected", DEBUG);
    } else if report.ranks.iter().any(|rank| silent(&rank)) {
        let ranks = who(report, |rank| silent(&rank));
        found.miss(check, format!("no line tells which provider {ranks} selected"), DEBUG);
    }
}

fn network(found: &mut Found, report: &Report) {
    let check = Check::SocketFallback;
    for wrong in report.networks.iter().filter(|network| !PLUGIN_NAMES.contains(&network.name.as_str())) {
        let over = |rank: &Rank| rank.networks.contains(&wrong.name);
        let ranks = who(report, over);
        let missing = report.ranks.iter().any(|rank| over(rank) && rank.plugin_missing);
        let failed = report.ranks.iter().any(|rank| over(rank) && rank.trouble.is_some());
        let (why, to_do) = match (missing, failed) {
            (true, _) => (": NCCL did not find the plugin", LIBRARY_PATH),
            (false, true) => (": the plugin failed, and NCCL went on without it", DEVICE),
            (false, false) => ("", LIBRARY_PATH),
        };
        found.fail(check, format!("NCCL uses network {} instead of the plugin on {ranks}{why}", wrong.name), to_do);
    }
    // A version that is not known may be one that tells.
    let tells =
        report.versions.nccl.is_empty() || report.versions.nccl.iter().any(|v| version_at_least(v, TELLS_NETWORK));
    if report.nccl_lines == 0 || !tells {
        return;
    }
    let silent = |rank: &Rank| rank.rank.is_some() && rank.networks.is_empty();
    if report.networks.is_empty() {
        found.miss(check, "NCCL does not say which network it uses", DEBUG);
    } else if report.ranks.iter().any(silent) {
        found.miss(check, format!("no line tells which network {} uses", who(report, silent)), DEBUG);
    }
}

fn channels(found: &mut Found, report: &Report) {
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
    if report.hosts.len() == 1 || report.nccl_lines == 0 {
        return;
    }
    if !report.channels.iter().any(|channels| net(&channels.transport).is_some()) {
        found.miss(check, "no channel over the network is in the log", DEBUG);
        return;
    }
    let over = |host: &&String| report.ranks.iter().any(|rank| rank.host == **host && rank.net_channels > 0);
    let silent: Vec<&str> = report.hosts.iter().filter(|host| !over(host)).map(String::as_str).collect();
    if !silent.is_empty() {
        let what = format!("no channel over the network is shown for host {}", few(silent.into_iter()));
        found.miss(check, what, DEBUG);
    }
}

fn gdr(found: &mut Found, report: &Report, expect: &Expect) {
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

fn nics(found: &mut Found, report: &Report, expect: &Expect) {
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

fn versions(found: &mut Found, report: &Report) {
    for (name, seen) in [("NCCL", &report.versions.nccl), ("the plugin", &report.versions.plugin)] {
        if seen.len() > 1 {
            let what = format!("ranks run different versions of {name}: {}", few(seen.iter().map(String::as_str)));
            found.warn(Check::RunFailed, what, "install the same image on every host");
        }
    }
    if report.row_count > ROWS as u64 {
        found.notes.push(format!("{} rows; {ROWS} are kept", report.row_count));
    }
}
