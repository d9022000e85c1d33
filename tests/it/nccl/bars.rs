//! The bars that a run's bandwidth is judged by, and that each can be believed.

use crate::support::catalog;
use crate::support::nccl::{Run, judged, read};
use efa_gen::nccl::{Check, Expect, Outcome, Severity, judge};

#[test]
fn bars_are_keyed_on_the_shape_of_the_run() {
    let at = |age: usize, busbw: f64, instance_type: &str| {
        judged(&read(Run::good(age, busbw).text(), Some(0)), Some(instance_type), 2)
    };
    let outcomes = |age, instance_type: &str, bar: f64| {
        assert_eq!(at(age, bar, instance_type).outcome, Outcome::Pass, "{instance_type} {bar}");
        let slow = at(age, bar - 0.01, instance_type);
        assert_eq!((slow.outcome, slow.findings[0].check), (Outcome::Fail, Check::TooSlow), "{instance_type} {bar}");
    };
    outcomes(1, "p3dn.24xlarge", 4.5);
    // NCCL 2.8 and plugin 1.1, then 2.28 and 1.17.
    outcomes(2, "p4d.24xlarge", 26.0);
    outcomes(4, "p4de.24xlarge", 30.0);
    outcomes(4, "p5.48xlarge", 250.0);
    outcomes(4, "p6-b200.48xlarge", 250.0);
    outcomes(4, "p6-b300.48xlarge", 500.0);
    assert!(at(4, 600.0, "p6-b300.48xlarge").notes.iter().any(|note| note.contains("unmeasured")));
    // No bar for another number of hosts or GPUs, for another test, or for a tree.
    let run = Run::good(4, 1.0);
    for log in [
        Run { hosts: 4, ..run.clone() }.text(),
        Run { gpus: 4, ..run.clone() }.text(),
        run.text().replace("all_reduce_perf", "alltoall_perf"),
        run.text()
            .replace("NCCL_SOCKET_IFNAME set by environment to ^lo,docker", "NCCL_ALGO set by environment to Tree"),
    ] {
        let verdict = judged(&read(log, Some(0)), Some("p4d.24xlarge"), 2);
        assert_eq!((verdict.outcome, verdict.bar), (Outcome::Pass, None), "{:#?}", verdict.findings);
        assert!(verdict.notes.iter().any(|note| note.contains("bandwidth is not judged")), "{:?}", verdict.notes);
    }
    // One's own bar is at the largest size, whatever the type.
    let report = read(run.text(), Some(0));
    for (bar, outcome) in [(1.0, Outcome::Pass), (1.01, Outcome::Fail)] {
        let expect = Expect { min_busbw: Some(bar), ..Expect::default() };
        assert_eq!(judge(&report, &expect).outcome, outcome, "{bar}");
    }
    let short = Expect { last_size: Some(8 << 30), ..Expect::default() };
    assert_eq!(judge(&report, &short).findings[0].check, Check::Incomplete);
}

#[test]
fn a_run_of_nccls_own_choice_is_warned_of_and_a_ring_is_not() {
    // NCCL and plugin of 2020, then of today.
    let warnings = |age, instance_type: &str, busbw: f64, algorithm: Option<&str>| {
        let mut log = Run::good(age, busbw).text();
        if let Some(algorithm) = algorithm {
            let line = format!("NCCL_ALGO set by environment to {algorithm}");
            log = log.replace("NCCL_SOCKET_IFNAME set by environment to ^lo,docker", &line);
            assert!(log.contains(&line));
        }
        let verdict = judged(&read(log, Some(0)), Some(instance_type), 2);
        assert_eq!(verdict.outcome, Outcome::Pass, "{:#?}", verdict.findings);
        verdict
            .of(Severity::Warning)
            .filter(|found| found.check == Check::TooSlow)
            .map(|f| f.what.clone())
            .collect::<Vec<_>>()
    };
    let none: [String; 0] = [];
    for (instance_type, ring, free) in
        [("p4d.24xlarge", 40.0, 55.0), ("p4de.24xlarge", 40.0, 55.0), ("p5.48xlarge", 250.0, 300.0)]
    {
        assert_eq!(warnings(4, instance_type, free, None), none, "{instance_type}");
        let slow = warnings(4, instance_type, free - 0.01, None);
        assert_eq!(slow.len(), 1, "{instance_type}");
        assert!(slow[0].contains(&format!("below {free} GB/s")) && slow[0].contains("NCCL_ALGO"), "{slow:?}");
        for forced in ["Ring", "RING", "Ring."] {
            assert_eq!(warnings(4, instance_type, ring, Some(forced)), none, "{instance_type} {forced}");
        }
    }
    let slow = Run::good(4, 29.99)
        .text()
        .replace("NCCL_SOCKET_IFNAME set by environment to ^lo,docker", "NCCL_ALGO set by environment to Ring");
    assert_eq!(judged(&read(slow, Some(0)), Some("p4d.24xlarge"), 2).outcome, Outcome::Fail);
    // A ring's own warning, and one only.
    let slow = warnings(4, "p4d.24xlarge", 39.99, Some("Ring"));
    assert!(slow.len() == 1 && slow[0].contains("below 40 GB/s") && !slow[0].contains("NCCL_ALGO"), "{slow:?}");
    // No such figure is known of an old stack, or of other types.
    assert_eq!(warnings(2, "p4d.24xlarge", 26.0, None), none);
    assert_eq!(warnings(1, "p3dn.24xlarge", 5.2, None), none);
    assert_eq!(warnings(4, "p6-b300.48xlarge", 500.0, None), none);
}

#[test]
fn every_bar_has_a_source_and_is_no_faster_than_the_nics() {
    let catalog = catalog();
    assert!(!catalog.bars.is_empty());
    for bar in &catalog.bars {
        assert!(bar.source.len() > 20, "{bar:?}");
        assert!(bar.warn_below.is_none_or(|warn| warn > bar.fail_below), "{bar:?}");
        for name in &bar.types {
            let link = catalog.instance_type(name).expect("the type is known").bandwidth_mbps as f64 / 8000.0;
            assert!(bar.warn_below.unwrap_or(bar.fail_below) < link, "{name}: no ring is faster than {link}");
            let ranks = (bar.hosts * bar.gpus_per_host) as f64;
            let tree = link * 2.0 * (ranks - 1.0) / ranks;
            if let Some(free) = &bar.free_choice {
                assert!(
                    free.source.len() > 20 && free.warn_below > bar.warn_below.unwrap_or(bar.fail_below),
                    "{bar:?}"
                );
                assert!(bar.hosts == 2 && free.warn_below < tree, "{name}: no tree is faster than {tree}");
            }
        }
    }
}
