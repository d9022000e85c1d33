//! Logs of every age from a model: parsed back, cut, changed, fed in pieces. What is changed must not pass.

mod support;

use efa_gen::nccl::{Check, Expect, Outcome, Reader, Report, Verdict, Weight, judge};
use proptest::prelude::*;
use support::catalog;
use support::nccl::{AGES, PREFIXES, Run, judged, read};

/// A run of any age, launcher and size.
fn runs() -> impl Strategy<Value = Run> {
    let rows = prop::collection::vec((0u64..60_000, 0u64..60_000), 1..32);
    let order = prop::collection::vec(any::<u64>(), 0..400);
    (0..AGES.len(), 0..PREFIXES.len(), 2u64..5, 1u64..9, any::<bool>(), rows, order, 1u64..33).prop_map(
        |(age, prefix, hosts, gpus, gdr, rows, order, nics)| Run {
            prefix: PREFIXES[prefix],
            hosts,
            gpus,
            gdr,
            nics,
            rows,
            order,
            ..Run::good(age, 1.0)
        },
    )
}

fn in_pieces(log: &[u8], lengths: &[usize]) -> Report {
    let (mut reader, mut rest, mut at) = (Reader::new(), log, 0);
    while !rest.is_empty() {
        let length = lengths.get(at % lengths.len().max(1)).copied().unwrap_or(1).clamp(1, rest.len());
        reader.feed(&rest[..length]);
        (rest, at) = (&rest[length..], at + 1);
    }
    reader.finish(None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_model_wrote_is_read_back(run in runs()) {
        let report = read(run.text(), Some(0));
        let age = run.age();
        prop_assert_eq!(report.rank_count() as u64, run.ranks());
        prop_assert_eq!(report.ranks.len() as u64, run.ranks(), "no process without a rank");
        prop_assert_eq!(report.hosts.len() as u64, run.hosts);
        prop_assert_eq!(report.gpus_per_host(), Some(run.gpus));
        prop_assert_eq!(&report.versions.nccl, &[age.nccl]);
        prop_assert_eq!(&report.versions.cuda, &[age.cuda]);
        prop_assert_eq!(report.versions.plugin.first().map(String::as_str), age.plugin.map(|(_, version)| version));
        prop_assert_eq!(report.providers.len(), 1);
        prop_assert_eq!(report.providers[0].count, run.ranks());
        let networks = report.networks.iter().map(|network| (network.name.as_str(), network.count)).collect::<Vec<_>>();
        prop_assert_eq!(networks, if age.says_network { vec![(age.network, run.ranks())] } else { vec![] });
        let net: Vec<_> = report.channels.iter().filter(|channels| channels.transport.starts_with("NET/")).collect();
        prop_assert_eq!(net.len(), 1);
        prop_assert_eq!((net[0].gdr, net[0].count), (run.gdr, run.net_channels()));
        for rank in &report.ranks {
            prop_assert_eq!(&rank.providers, &["efa"]);
            prop_assert_eq!(rank.nics, age.provider.contains("{n}").then_some(run.nics));
        }
        let busbw: Vec<_> = report.rows.iter().map(|row| (row.out_of_place.busbw, row.in_place.as_ref().map(|t| t.busbw))).collect();
        let wrote: Vec<_> = run.rows.iter().map(|(out, inside)| (*out as f64 / 100.0, Some(*inside as f64 / 100.0))).collect();
        prop_assert_eq!(busbw, wrote);
        prop_assert_eq!(report.environment.get("NCCL_SOCKET_IFNAME").map(String::as_str), Some("^lo,docker"));
        let verdict = judged(&report, None, run.hosts);
        prop_assert_eq!(verdict.outcome, Outcome::Pass, "{:#?}", verdict.findings);
        prop_assert_eq!(judged(&report, None, run.hosts + 1).outcome, Outcome::Fail);
    }

    #[test]
    fn pieces_of_any_length_give_the_same_report(run in runs(), lengths in prop::collection::vec(1usize..5000, 1..20)) {
        let log = run.text();
        prop_assert_eq!(in_pieces(log.as_bytes(), &lengths), read(&log, None));
    }

    #[test]
    fn a_log_that_is_cut_never_passes(run in runs(), cut in any::<prop::sample::Index>()) {
        let log = run.text();
        // Up to the last thing that must be there: the average's first digit, or the line that concludes.
        let needed = if run.age().names_test { "# Collective test concluded" } else { "# Avg bus bandwidth    : " };
        let needed = log.find(needed).expect("it is there") + needed.len();
        let cut = cut.index(needed);
        for status in [None, Some(0)] {
            prop_assert_ne!(judged(&read(&log[..cut], status), None, 2).outcome, Outcome::Pass, "cut at {}", cut);
        }
    }

    #[test]
    fn a_log_whose_beginning_is_lost_never_passes(run in runs(), cut in any::<prop::sample::Index>()) {
        let log = run.text();
        let needed = log.find("# Using devices").expect("it is there");
        let preamble = log.find("# nThread").expect("it is there");
        let cut = preamble + 1 + cut.index(needed - preamble);
        prop_assert_ne!(judged(&read(&log[cut..], Some(0)), None, 2).outcome, Outcome::Pass);
    }

    #[test]
    fn one_line_less_never_makes_a_bad_run_pass(run in runs(), line in any::<prop::sample::Index>(), provider in "tcp|tcp;ofi_rxm|verbs|efa;ofi_rxd|efax|EFA|shm") {
        let log = Run { provider, ..run }.text();
        let lines: Vec<&str> = log.lines().collect();
        let gone = line.index(lines.len());
        let log: String = lines.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, line)| format!("{line}\n")).collect();
        prop_assert_ne!(judged(&read(log, Some(0)), None, 2).outcome, Outcome::Pass);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), lengths in prop::collection::vec(1usize..50, 1..5)) {
        let report = in_pieces(&bytes, &lengths);
        prop_assert_ne!(judged(&report, None, 1).outcome, Outcome::Pass);
        prop_assert_eq!(report, read(&bytes, None));
    }

    #[test]
    fn a_log_with_changed_bytes_is_read_without_a_panic(run in runs(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30)) {
        let mut log = run.text().into_bytes();
        for (at, byte) in edits {
            let at = at.index(log.len());
            log[at] = byte;
        }
        let report = read(&log, Some(0));
        let _ = judged(&report, Some("p4d.24xlarge"), 2);
        prop_assert_eq!(&in_pieces(&log, &[7, 4096]), &Report { exit_status: None, ..read(&log, None) });
    }
}

/// A run of the newest age that passes on p4d with room, one text of its log changed.
fn changed(from: &str, to: &str) -> Verdict {
    let good = Run::good(4, 45.8).text();
    assert_eq!(judged(&read(&good, Some(0)), Some("p4d.24xlarge"), 2).outcome, Outcome::Pass);
    let log = good.replace(from, to);
    assert!(log != good, "{from} is not in the log");
    judged(&read(log, Some(0)), Some("p4d.24xlarge"), 2)
}

#[test]
fn a_passing_log_with_one_thing_wrong_does_not_pass() {
    use Check::*;
    use Outcome::{Fail, Inconclusive};
    let rank3 = "ip-10-0-0-0:4103:4203 [3] NCCL INFO";
    let named = |from: &'static str, to: &'static str| (from.to_owned(), to.to_owned());
    let of_rank3 = |from: &str, to: &str| (format!("{rank3} {from}"), format!("{rank3} {to}"));
    let cases = [
        (named("Selected provider is efa", "Selected provider is tcp;ofi_rxm"), Fail, WrongProvider),
        (of_rank3("NET/OFI Selected provider is efa", "NET/OFI Selected provider is tcp"), Fail, WrongProvider),
        (of_rank3("NET/OFI Selected provider is efa", "NET/OFI Selected provider is efa;ofi_rxd"), Fail, WrongProvider),
        (of_rank3("NET/OFI Selected provider is efa", "NET/OFI Selected provider is efa2"), Fail, WrongProvider),
        (of_rank3("NET/OFI Selected provider is efa", "NET/OFI No eligible providers were found"), Fail, WrongProvider),
        (of_rank3("NET/OFI Selected provider is efa", "NET/OFI looks for"), Inconclusive, WrongProvider),
        (named("NET/OFI Selected", "NET/OFI Considers"), Inconclusive, WrongProvider),
        (of_rank3("Using network Libfabric", "Using network Socket"), Fail, SocketFallback),
        (of_rank3("Using network Libfabric", "Using network IB"), Fail, SocketFallback),
        (of_rank3("Using network Libfabric", "Using network LibfabricX"), Fail, SocketFallback),
        (of_rank3("Using network Libfabric", "Using"), Inconclusive, SocketFallback),
        (named("Using network", "Uses network"), Inconclusive, SocketFallback),
        (named("[send] via NET/Libfabric/3/GDRDMA", "[send] via NET/Socket/0"), Fail, SocketFallback),
        (named("[send] via NET/Libfabric/3/GDRDMA", "[send] via NET/IB/3/GDRDMA"), Fail, SocketFallback),
        (named(" via NET/", " with NET/"), Inconclusive, SocketFallback),
        (named("/GDRDMA", ""), Fail, GdrLost),
        (named("[receive] via NET/Libfabric/0/GDRDMA", "[receive] via NET/Libfabric/0"), Fail, GdrLost),
        (of_rank3("Connected", "NET/OFI GDR disabled on GDR-supported instance type p4d\nx"), Fail, GdrLost),
        (named("on ip-10-0-0-1 ", "on ip-10-0-0-0 "), Fail, NotANetworkTest),
        (named("#  Rank  5 ", "#  Rang  5 "), Inconclusive, NotANetworkTest),
        (named("#  Rank  5 ", "#  Rank  4 "), Inconclusive, NotANetworkTest),
        (named("#  Rank ", "#  Rang "), Inconclusive, NotANetworkTest),
        (named("    0\n# Out", "    7\n# Out"), Fail, WrongResult),
        (named("values : 0 OK", "values : 3 FAILED"), Fail, WrongResult),
        (named("values : 0 OK", "values : 0 FAILED"), Fail, WrongResult),
        (named("    0\n# Out", "  N/A\n# Out"), Inconclusive, WrongResult),
        (named("# Out of bounds", "# Out"), Fail, Incomplete),
        (named("# Avg bus bandwidth    : 3.", "# Avg bus bandwidth    : x3."), Fail, Incomplete),
        (named("# Avg bus bandwidth    : ", "# Avg bus bandwidth    : 1"), Inconclusive, Incomplete),
        (named("# Avg bus bandwidth    : ", "# Avg bus bandwidth    : inf "), Fail, Incomplete),
        (named("# Collective test concluded", "# "), Fail, Incomplete),
        (named("maxBytes 1073741824", "maxBytes 8589934592"), Fail, Incomplete),
        (named("minBytes 8 ", "minBytes 4 "), Fail, Incomplete),
        (named("# nThread 1", "# nThreads 1"), Inconclusive, Incomplete),
        (named("  4194304       1048576  float", "  4194304       1048576  floaty"), Fail, Incomplete),
        (
            named("  4194304       1048576  float     sum     -1", "  4194304       1048576  float     sum"),
            Fail,
            Incomplete,
        ),
        (
            named(
                "#\n",
                "# nThread 1 nGpus 1 minBytes 8 maxBytes 8 step: 2(factor) warmup iters: 5 iters: 1 validation: 1\n",
            ),
            Inconclusive,
            Incomplete,
        ),
        (named("#\n#", "ORTE has lost communication with a remote daemon.\n#"), Fail, RunFailed),
        (named("#\n#", "ip-10-0-0-1: Test NCCL failure common.cu:958 'unhandled system error'\n#"), Fail, RunFailed),
        (named("#\n#", "ssh: connect to host ip-10-0-0-1 port 22: Connection timed out\n#"), Fail, RunFailed),
        (
            named("#\n#", "slurmstepd: error: *** STEP 1.0 ON a CANCELLED AT 2026 DUE TO TIME LIMIT ***\n#"),
            Fail,
            RunFailed,
        ),
    ];
    for ((from, to), outcome, check) in cases {
        // Where a text stands often, all are changed; the last row's end stands once.
        let verdict = changed(&from, &to);
        let first = verdict.findings.first().map(|finding| finding.check);
        assert_eq!((verdict.outcome, first), (outcome, Some(check)), "{from} -> {to}: {:#?}", verdict.findings);
    }
}

#[test]
fn the_exit_status_can_only_make_it_worse() {
    let good = Run::good(4, 45.8).text();
    for status in [1, 2, 137, 139, -9] {
        let verdict = judged(&read(&good, Some(status)), None, 2);
        assert_eq!((verdict.outcome, verdict.findings[0].check), (Outcome::Fail, Check::RunFailed), "{status}");
    }
    let late = judged(&read(&good, Some(124)), None, 2);
    assert!(late.sentence.contains("did not end in time"), "{}", late.sentence);
    let (socket, _) = support::nccl::fixture("ar-v2.19.6-net-socket.log");
    assert_eq!(judged(&read(socket, Some(0)), None, 1).outcome, Outcome::Fail);
}

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
            .of(Weight::Warning)
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

#[test]
fn memory_does_not_grow_with_the_log() {
    // More ranks, names, warnings, rows and longer lines than are kept.
    let mut reader = Reader::new();
    reader.feed(b"# nThread 1 nGpus 1 minBytes 8 maxBytes 8 step: 2(factor) warmup iters: 5 iters: 1 validation: 1\n");
    for at in 0..40_000u64 {
        reader.feed(format!("#  Rank {at} Pid 1 on h{at} device 0 [0x10] X{at}\n").as_bytes());
        reader.feed(format!("h{at}:1:1 [0] NCCL INFO Using network N{at}\nh:1:1 [0] NCCL WARN w{at}\n").as_bytes());
        reader.feed(format!("h:1:1 [0] NCCL INFO NCCL_V{at} set by environment to 1\n").as_bytes());
        reader.feed(b"8 2 float sum -1 1 1 1 0 1 1 1 0\n");
    }
    reader.feed(&vec![b'x'; 3 << 20]);
    let report = reader.finish(Some(0));
    assert!(report.too_many_ranks && report.ranks.len() <= 16_384 * 2 && report.rows.len() <= 4096);
    assert_eq!((report.row_count, report.warning_count), (40_000, 40_000));
    assert!(report.networks.len() <= 32 && report.warnings.len() <= 65 && report.environment.len() <= 64);
    assert_ne!(judged(&report, None, 2).outcome, Outcome::Pass);
}
