//! Owns the check of the bandwidth: which bar a run is judged by, and whether it reaches it.

use crate::catalog::bar::{Bar, BarQuery};
use crate::nccl::judge::verdict::{Check, Expect, Findings};
use crate::nccl::log::report::Report;
use crate::text::size;

const SLOW_HOST: &str = "find the slow host by testing pairs of hosts; check the placement group, the number of EFAs and NCCL's \
                    environment";

/// Where there is no other pair.
const SLOW_PAIR: &str =
    "test each of the two hosts with a third one; check the placement group, the number of EFAs and NCCL's environment";

pub(crate) fn bandwidth(found: &mut Findings, report: &Report, expect: &Expect) {
    let check = Check::TooSlow;
    if let Some(bar) = expect.min_busbw {
        own_bar(found, report, bar);
        return;
    }
    let Some(instance_type) = expect.instance_type else {
        found.notes.push("bandwidth is not judged: neither --instance-type nor --min-busbw is given".into());
        found.skip(check);
        return;
    };
    let run = BarQuery {
        instance_type: &instance_type.name,
        hosts: report.hosts.len() as u64,
        gpus_per_host: report.gpus_per_host().unwrap_or(0),
        nccl: report.versions.nccl.first().map(String::as_str),
        plugin: report.versions.plugin.first().map(String::as_str),
    };
    let algorithm = report.environment.get("NCCL_ALGO");
    let ring = algorithm.is_some_and(|algorithm| algorithm.eq_ignore_ascii_case("ring"));
    // Of how many hosts it was must be known.
    let judged = report.is_all_reduce() && (ring || algorithm.is_none()) && !report.json && !report.ranks_unsound;
    let fits: Vec<_> = expect.bars.iter().rev().filter(|bar| judged && bar.fits(&run)).collect();
    let measured = |bar: &&&Bar| report.rows.iter().any(|row| row.size == bar.size);
    // Of several sizes the one that was measured.
    let Some(bar) = fits.iter().find(measured).or(fits.first()) else {
        found.notes.push(no_bar(&run));
        found.skip(check);
        return;
    };
    found.bar = Some((bar.fail_below, bar.size));
    if !bar.measured {
        found.notes.push(format!("the bar of {} GB/s is unmeasured: {}", bar.fail_below, bar.source));
    }
    let Some(row) = report.rows.iter().rfind(|row| row.size == bar.size) else {
        let what = format!("the bar for {} is at {}, and no row is of that size", instance_type.name, size(bar.size));
        found.miss(check, what, format!("run it with -e {}, or give --min-busbw", bar.size));
        return;
    };
    if bar.hosts == 2 {
        // NVLSTree and trees halve the traffic between two: 464 GB/s on two p5en.48xlarge, 365 on four (stas00/ml-engineering).
        found.notes.push(
            "two hosts look better than more would: a tree halves the traffic between them; test on four or more"
                .into(),
        );
    }
    let busbw = row.worst_busbw();
    if busbw.is_nan() || busbw < bar.fail_below {
        let to_do = if bar.hosts == 2 && run.hosts == 2 { SLOW_PAIR } else { SLOW_HOST };
        found.fail(check, below(busbw, bar.fail_below, bar.size, &bar.source), to_do);
        return;
    }
    match &bar.free_choice {
        // Worth knowing; what it depends on besides is not known well enough to fail a run by.
        Some(free) if !ring && busbw < free.warn_below => {
            let what = below(busbw, free.warn_below, bar.size, &free.source);
            found.warn(check, format!("{what}; the log does not show NCCL_ALGO=Ring, which is slower"), SLOW_HOST);
        }
        Some(_) if !ring => {}
        _ => {
            if let Some(warn) = bar.warn_below.filter(|warn| busbw < *warn) {
                found.warn(check, below(busbw, warn, bar.size, &bar.source), SLOW_HOST);
            }
        }
    }
}

/// Why a run is not judged by a bar.
fn no_bar(run: &BarQuery) -> String {
    if run.hosts == 0 {
        return "bandwidth is not judged: the log does not show how many hosts took part".to_owned();
    }
    let shape = format!("{} on {} hosts with {} GPUs each", run.instance_type, run.hosts, run.gpus_per_host);
    format!("bandwidth is not judged: no bar is known for {shape}; give one with --min-busbw")
}

/// The user's own bar, at the largest size.
fn own_bar(found: &mut Findings, report: &Report, bar: f64) {
    let check = Check::TooSlow;
    let Some(row) = report.rows.last() else {
        found.skip(check);
        return;
    };
    found.bar = Some((bar, row.size));
    // No comparison with NaN holds.
    if row.worst_busbw().is_nan() || row.worst_busbw() < bar {
        found.fail(check, below(row.worst_busbw(), bar, row.size, "--min-busbw"), SLOW_HOST);
    }
}

fn below(busbw: f64, bar: f64, at: u64, source: &str) -> String {
    format!("{busbw:.2} GB/s at {} is below {bar} GB/s ({source})", size(at))
}
