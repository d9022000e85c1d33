//! Logs of every age from a model: parsed back, cut, changed, fed in pieces. What is changed must not pass.

use crate::support::nccl::{AGES, PREFIXES, Run, judged, read};
use efa_gen::nccl::{Check, Outcome, Reader, Report, Severity, Verdict};
use proptest::prelude::*;

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

/// Texts after the fixed parts of Open MPI 5's launcher, PRRTE 3.0.0 and 3.0.9, whose lines break at other words.
#[test]
fn what_open_mpi_5_says_of_a_failure_fails_and_tells_what_to_do() {
    let good = Run::good(4, 45.8).text();
    let judge = |said: &str| judged(&read(good.replacen("#\n#", &format!("{said}\n#"), 1), Some(0)), None, 2);
    for (said, to_do) in [
        ("bash: line 1: prted: command not found", "prted"),
        ("bash: line 1: /opt/amazon/openmpi5/bin/prted: No such file or directory", "the same path"),
        ("The value of the MCA parameter \"plm_ssh_agent\" was set to a path\nthat could not be found:", "ssh"),
        ("The ssh launcher has been given a prefix to use, but could not determine\nthe type", "whole path"),
        ("There are not enough slots available in the system to satisfy the 16\nslots that were", "slots"),
        ("Either there are not enough slots available in the system to launch\nthe 16 processes", "slots"),
        ("prterun was unable to reliably start one or more daemons.\nThis usually", "ssh before this one"),
        ("PRTE was unable to reliably start one or more daemons.", "ssh before this one"),
        ("A daemon died unexpectedly with status 127 while attempting\nto launch so we are aborting.", "ssh before"),
        ("An PRTE daemon has unexpectedly failed after launch and before\ncommunicating back", "ssh before"),
        ("A daemon has no recorded node:\n\n  Daemon:  [prterun-a-1@0,1]", "hostfile"),
        ("PRTE has lost communication with a remote daemon.\n\n  HNP daemon   : [prterun-a-1@0,0]", "still up"),
        ("A critical communication path was lost to:\n\n   My name:      [prterun-a-1@0,0]", "still up"),
        ("PRTE does not know how to route a message to the specified daemon\nlocated on", "ssh before"),
        ("PRTE is unable to establish a communication connection to the\nspecified daemon", "ssh before"),
        ("prterun was unable to find the specified executable file, and therefore\ndid not launch the job.", "path"),
        ("prterun was unable to find the specified executable file, and therefore did\nnot launch the job.", "path"),
        ("prterun noticed that process rank 3 with PID 712 on node b exited on signal 9 (Killed).", "out-of-memory"),
        ("prterun noticed that process rank 3 with PID 712 on node b exited on\nsignal 9 (Killed).", "before it ended"),
        ("prterun has exited due to process rank 3 with PID 712 on\nnode b calling \"abort\".", "before it ended"),
        (
            "prterun detected that one or more processes exited with non-zero status, thus causing\nthe",
            "before it ended",
        ),
        ("prterun detected that one or more processes exited with non-zero status,\nthus", "before it ended"),
        (
            "prterun job prterun-a-1@1 terminated normally, but 2 processes returned\nnon-zero exit codes.. Per \
             user-direction, the job has been aborted.",
            "before it ended",
        ),
    ] {
        let verdict = judge(said);
        let first = &verdict.findings[0];
        assert_eq!(
            (verdict.outcome, first.check),
            (Outcome::Fail, Check::RunFailed),
            "{said}: {:#?}",
            verdict.findings
        );
        assert_eq!(verdict.of(Severity::Failure).count(), 1, "{said}: {:#?}", verdict.findings);
        assert!(first.to_do.contains(to_do), "{said}: {}", first.to_do);
    }
    let late = judge("The user-provided time limit for job execution has been reached:\n\n   Timeout: 60 seconds");
    assert!(
        late.outcome == Outcome::Fail && late.findings[0].to_do.contains("raise the time limit"),
        "{:#?}",
        late.findings
    );
    // What says no such thing.
    for said in ["prterun: 16 processes on 2 nodes", "The daemons have been started", "#"] {
        assert_eq!(judge(said).outcome, Outcome::Pass, "{said}");
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
    let (socket, _) = crate::support::nccl::fixture("ar-v2.19.6-net-socket.log");
    assert_eq!(judged(&read(socket, Some(0)), None, 1).outcome, Outcome::Fail);
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
