//! What real logs say and come to. Our own runs are fixtures; other people's logs are read where they are, and are no part
//! of the project. Nothing here ran on AWS: the passing logs are AWS's own and other people's.

use std::fs;

use crate::support::nccl::{fixture, judged, read, shared};
use efa_gen::nccl::{Channels, Check, End, Outcome, Report, Severity, SizeBandwidth, Verdict};

/// What a log must yield.
struct Wanted {
    name: &'static str,
    end: End,
    ranks: usize,
    hosts: usize,
    rows: u64,
    /// First and last size.
    sizes: (u64, u64),
    average: Option<f64>,
    /// Whether the summary counts no value out of bounds; `None` without a summary.
    in_bounds: Option<bool>,
    nccl: &'static str,
    providers: &'static [(&'static str, u64)],
    networks: &'static [(&'static str, u64)],
    /// Transport, GPUDirect, lines.
    channels: &'static [(&'static str, bool, u64)],
    /// At the last size.
    busbw: (f64, f64),
    outcome: Outcome,
    /// Failed checks, or those without proof where none failed.
    checks: &'static [Check],
}

const NOTHING: Wanted = Wanted {
    name: "",
    end: End::Failed,
    ranks: 0,
    hosts: 0,
    rows: 0,
    sizes: (0, 0),
    average: None,
    in_bounds: None,
    nccl: "",
    providers: &[],
    networks: &[],
    channels: &[],
    busbw: (0.0, 0.0),
    outcome: Outcome::Fail,
    checks: &[],
};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn hold(wanted: &Wanted, report: &Report, verdict: &Verdict) {
    let name = wanted.name;
    assert_eq!(report.end, wanted.end, "{name}");
    assert_eq!((report.rank_count(), report.hosts.len()), (wanted.ranks, wanted.hosts), "{name}: ranks, hosts");
    assert_eq!(report.row_count, wanted.rows, "{name}: rows");
    assert_eq!(report.rows.len() as u64, wanted.rows, "{name}: rows");
    let sizes = (report.rows.first().map_or(0, |row| row.size), report.rows.last().map_or(0, |row| row.size));
    assert_eq!(sizes, wanted.sizes, "{name}: sizes");
    assert_eq!(report.average_busbw, wanted.average, "{name}: average");
    if let (Some(printed), Some(rows)) = (report.average_busbw, report.average_of_rows) {
        assert!((printed - rows).abs() < 0.005, "{name}: {printed} {rows}");
    }
    assert_eq!(report.out_of_bounds.map(|(count, ok)| count == 0 && ok), wanted.in_bounds, "{name}: out of bounds");
    assert_eq!((report.wrong_values, report.damaged_rows, report.garbled_lines), (0, 0, 0), "{name}");
    assert_eq!(report.versions.nccl.first().map_or("", String::as_str), wanted.nccl, "{name}: NCCL");
    let named = |counted: &[efa_gen::nccl::Counted]| -> Vec<(String, u64)> {
        counted.iter().map(|counted| (counted.name.clone(), counted.count)).collect()
    };
    let texts = |wanted: &[(&str, u64)]| -> Vec<(String, u64)> {
        wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    assert_eq!(named(&report.providers), texts(wanted.providers), "{name}: providers");
    assert_eq!(named(&report.networks), texts(wanted.networks), "{name}: networks");
    let mut channels = report.channels.clone();
    channels.sort_by(|a, b| a.transport.cmp(&b.transport));
    let transport =
        |(name, gdr, count): &(&str, bool, u64)| Channels { transport: (*name).into(), gdr: *gdr, count: *count };
    assert_eq!(channels, wanted.channels.iter().map(transport).collect::<Vec<_>>(), "{name}: channels");
    let last = report.last.clone().unwrap_or(SizeBandwidth { size: 0, out_of_place: 0.0, in_place: Some(0.0) });
    assert_eq!((last.out_of_place, last.in_place), (wanted.busbw.0, Some(wanted.busbw.1)), "{name}: bandwidth");
    assert_eq!(verdict.outcome, wanted.outcome, "{name}: {:#?}", verdict.findings);
    let severity = if wanted.outcome == Outcome::Fail { Severity::Failure } else { Severity::Missing };
    let mut checks: Vec<Check> = verdict.of(severity).map(|finding| finding.check).collect();
    checks.dedup();
    assert_eq!(checks, wanted.checks, "{name}: {:#?}", verdict.findings);
    assert!(verdict.findings.iter().all(|finding| !finding.what.is_empty() && !finding.to_do.is_empty()), "{name}");
}

/// Two H200 of one host.
const OURS: Wanted = Wanted {
    end: End::Complete,
    ranks: 2,
    hosts: 1,
    in_bounds: Some(true),
    nccl: "2.28.9",
    networks: &[("Socket", 2)],
    ..NOTHING
};

#[test]
fn our_own_runs_yield_what_is_known_of_them() {
    let wanted = [
        Wanted {
            name: "ar-v2.19.6-mpi-p2p.log",
            rows: 28,
            sizes: (8, GIB),
            average: Some(87.1219),
            channels: &[("P2P/CUMEM", false, 48)],
            busbw: (328.28, 328.71),
            checks: &[Check::NotANetworkTest, Check::SocketFallback],
            ..OURS
        },
        Wanted {
            name: "ar-v2.19.6-net-socket.log",
            rows: 26,
            sizes: (8, 256 * MIB),
            average: Some(1.05378),
            channels: &[("NET/Socket", false, 8)],
            busbw: (2.99, 2.78),
            checks: &[Check::NotANetworkTest, Check::SocketFallback],
            ..OURS
        },
        Wanted {
            name: "ar-v2.19.6-ofi-tcp.log",
            rows: 24,
            sizes: (8, 64 * MIB),
            average: Some(0.80106),
            providers: &[("tcp", 2)],
            networks: &[("Libfabric", 2)],
            channels: &[("NET/Libfabric", false, 8)],
            busbw: (2.28, 1.86),
            checks: &[Check::NotANetworkTest, Check::WrongProvider],
            ..OURS
        },
        Wanted {
            name: "ar-v2.19.6-ofi-efa-absent.log",
            rows: 24,
            sizes: (8, 64 * MIB),
            average: Some(0.688807),
            channels: &[("NET/Socket", false, 8)],
            busbw: (2.16, 2.93),
            checks: &[Check::NotANetworkTest, Check::WrongProvider, Check::SocketFallback],
            ..OURS
        },
        Wanted {
            name: "ar-truncated.log",
            end: End::TimedOut,
            rows: 25,
            sizes: (8, 128 * MIB),
            in_bounds: None,
            channels: &[("P2P/CUMEM", false, 48)],
            busbw: (284.55, 285.30),
            checks: &[Check::RunFailed, Check::Incomplete, Check::NotANetworkTest, Check::SocketFallback],
            ..OURS
        },
        Wanted {
            name: "ar-v2.19.6-single.log",
            rows: 28,
            sizes: (8, GIB),
            average: Some(83.4814),
            nccl: "",
            networks: &[],
            busbw: (326.66, 327.82),
            checks: &[Check::NotANetworkTest],
            ..OURS
        },
        Wanted {
            name: "ar-v2.19.6.json",
            // `config.devices` lists one of two.
            ranks: 1,
            rows: 7,
            sizes: (MIB, 64 * MIB),
            average: Some(152.508184),
            networks: &[],
            busbw: (261.555908, 262.719109),
            outcome: Outcome::Inconclusive,
            checks: &[Check::NotANetworkTest, Check::WrongProvider],
            ..OURS
        },
        Wanted { name: "ar-too-many-ranks.log", checks: &[Check::RunFailed, Check::Incomplete], ..NOTHING },
        Wanted { name: "mpirun-unreachable.log", checks: &[Check::RunFailed, Check::Incomplete], ..NOTHING },
    ];
    for wanted in wanted {
        let (log, status) = fixture(wanted.name);
        let report = read(&log, status);
        hold(&wanted, &report, &judged(&report, None, 2));
        // Nor does any pass for a cluster or for a host, of whatever type.
        for hosts in [1, 2, 4] {
            for instance_type in [None, Some("p3dn.24xlarge"), Some("p5.48xlarge")] {
                assert_ne!(judged(&report, instance_type, hosts).outcome, Outcome::Pass, "{} {hosts}", wanted.name);
            }
        }
    }
}

#[test]
fn details_of_our_own_runs() {
    let (log, status) = fixture("ar-v2.19.6-ofi-efa-absent.log");
    let report = read(&log, status);
    assert_eq!(report.versions.plugin, ["1.17.3"]);
    assert_eq!(report.versions.libfabric, ["1.22"]);
    assert_eq!(report.versions.cuda, ["13.0"]);
    assert_eq!(report.versions.driver_cuda, ["13.0"]);
    assert_eq!(report.versions.nccl_tests, ["2.19.6"]);
    assert_eq!((report.warning_count, report.warnings.len()), (6, 3));
    assert_eq!(report.environment.get("NCCL_P2P_DISABLE").map(String::as_str), Some("1"));
    assert_eq!((report.gpus[0].name.as_str(), report.gpus[0].count), ("NVIDIA H200", 2));
    assert!(report.ranks.iter().all(|rank| rank.provider_error.as_deref() == Some("No eligible providers were found")));
    let verdict = judged(&report, None, 2);
    let provider = verdict.findings.iter().find(|finding| finding.check == Check::WrongProvider).expect("there is one");
    assert_eq!(
        provider.what,
        "the plugin found no provider on rank 0, rank 1 (host vm): No eligible providers were found"
    );

    let (log, status) = fixture("ar-v2.19.6-ofi-tcp.log");
    let best = read(&log, status).best.expect("there are rows");
    assert_eq!((best.size, best.out_of_place, best.in_place), (4 * MIB, 2.23, Some(2.52)));

    let (log, status) = fixture("ar-too-many-ranks.log");
    let verdict = judged(&read(&log, status), None, 2);
    assert!(verdict.sentence.contains("3 requested but only 2 were found"), "{}", verdict.sentence);

    let report = read(fixture("ar-v2.19.6.json").0, None);
    assert!(report.json && report.nccl_lines == 0);
    assert_eq!(report.environment.get("NCCL_NVLS_ENABLE").map(String::as_str), Some("0"));
    assert!(!report.environment.contains_key("NCCL_VERSION"), "an image's variable, not the library's");
    assert_eq!(report.preamble.and_then(|preamble| preamble.sizes()), Some((7, 64 * MIB)));
}

#[test]
fn a_run_on_one_host_is_labelled_and_never_passes_for_a_cluster() {
    let (log, _) = fixture("one-host-efa.log");
    // The fixture holds two rows of 28.
    let log = log.replace("step: 2(factor)", "step: 134217728(factor)");
    let report = read(&log, Some(0));
    let alone = judged(&report, None, 1);
    assert_eq!(alone.outcome, Outcome::Pass, "{:#?}", alone.findings);
    assert_eq!(alone.scope, "one host");
    assert!(alone.sentence.starts_with("on one host: "), "{}", alone.sentence);
    for hosts in [2, 3, 64] {
        let verdict = judged(&report, None, hosts);
        assert_eq!(verdict.outcome, Outcome::Fail);
        assert!(verdict.sentence.starts_with("not a network test: only one host"), "{}", verdict.sentence);
    }
}

#[test]
fn other_runs_of_ours_with_nccl_2_30() {
    for (name, status, check) in [
        ("ar-v2.18.3-ofi-asked-for-efa.log", 3, Check::RunFailed),
        ("ar-v2.18.3-two-gpus-net-socket.log", 0, Check::SocketFallback),
        ("ar-v2.18.3-two-gpus-ofi-tcp.log", 0, Check::WrongProvider),
    ] {
        let report = read(fixture(name).0, Some(status));
        assert_eq!(
            (report.versions.nccl.clone(), report.versions.plugin.clone()),
            (vec!["2.30.4".into()], vec!["1.21.1".into()])
        );
        for hosts in [1, 2] {
            let verdict = judged(&report, None, hosts);
            assert!(
                verdict.of(Severity::Failure).any(|finding| finding.check == check),
                "{name}: {:#?}",
                verdict.findings
            );
        }
    }
}

/// NCCL_NET makes a missing plugin, or one without a device, an error: what the verdict says first is why, not that NCCL
/// failed.
#[test]
fn a_hard_error_names_what_brought_it_about() {
    for (name, words, to_do) in [
        (
            "two-gpus-efa-asked.log",
            "the plugin found no provider on rank 0, rank 1 (host vm): No eligible providers were found",
            "EFA",
        ),
        ("two-gpus-no-plugin.log", "NCCL did not find the plugin on rank 0, rank 1 (host vm)", "libnccl-net.so"),
    ] {
        let report = read(fixture(name).0, Some(3));
        let verdict = judged(&report, None, 1);
        let first = verdict.findings.first().expect("it failed");
        assert_eq!((verdict.outcome, first.check), (Outcome::Fail, Check::RunFailed), "{name}");
        assert!(first.what.contains(words), "{name}: {}", first.what);
        assert!(first.to_do.contains(to_do), "{name}: {}", first.to_do);
        assert!(verdict.findings.iter().any(|finding| finding.what.contains("Failed to initialize any NET plugin")));
    }
    // A run that went on without the plugin is another matter.
    let verdict = judged(&read(fixture("ar-v2.18.3-two-gpus-net-socket.log").0, Some(0)), None, 1);
    assert!(verdict.findings.iter().all(|finding| finding.check != Check::RunFailed), "{:?}", verdict.findings);
}

/// AWS's and other people's logs.
const PUBLIC: Wanted =
    Wanted { end: End::Complete, in_bounds: Some(true), outcome: Outcome::Pass, hosts: 2, ..NOTHING };
const EXCERPT: Wanted = Wanted {
    end: End::Excerpt,
    in_bounds: Some(true),
    outcome: Outcome::Inconclusive,
    rows: 31,
    sizes: (0, GIB),
    ..NOTHING
};
const UNPROVED: &[Check] = &[Check::Incomplete, Check::NotANetworkTest, Check::WrongProvider];

fn public() -> [Wanted; 10] {
    [
        Wanted {
            name: "aws-eks-efa-examples-mpi-nccl-test-log-16.log",
            ranks: 16,
            rows: 28,
            sizes: (8, GIB),
            average: Some(2.28496),
            nccl: "2.6.4",
            providers: &[("efa", 16)],
            networks: &[("AWS Libfabric", 16)],
            channels: &[("NET/AWS Libfabric", false, 64), ("P2P/IPC", false, 248)],
            busbw: (5.47, 5.47),
            ..PUBLIC
        },
        Wanted {
            name: "aws-eks-efa-examples-mpi-nccl-test-log-np-2.log",
            ranks: 2,
            rows: 29,
            sizes: (8, 2 * GIB),
            average: Some(1.11948),
            nccl: "2.6.4",
            providers: &[("efa", 2)],
            networks: &[("AWS Libfabric", 2)],
            channels: &[("NET/AWS Libfabric", false, 16)],
            busbw: (2.55, 2.55),
            ..PUBLIC
        },
        Wanted {
            name: "p3dn-2019-nccl2.4.6-efa-16gpu-cybertronai.txt",
            ranks: 16,
            rows: 21,
            sizes: (8, 8 * MIB),
            average: Some(0.708142),
            nccl: "2.4.6",
            providers: &[("efa", 16)],
            channels: &[("NET/AWS Libfabric", false, 8), ("P2P/IPC", false, 28)],
            busbw: (3.41, 3.41),
            ..PUBLIC
        },
        Wanted {
            name: "p4d-2x8-nccl2.8.3-mpi-tagged.txt",
            ranks: 16,
            rows: 28,
            sizes: (8, GIB),
            average: Some(7.80081),
            nccl: "2.8.3",
            providers: &[("efa", 16)],
            networks: &[("AWS Libfabric", 16)],
            channels: &[("NET/AWS Libfabric", true, 64), ("P2P/IPC/read", false, 256)],
            busbw: (32.71, 32.84),
            ..PUBLIC
        },
        Wanted {
            name: "g4dn-2x1-nccl2.12.7-ofi1.5.0aws-mpi-tagged.txt",
            ranks: 2,
            rows: 31,
            sizes: (0, GIB),
            average: Some(1.15327),
            nccl: "2.12.7",
            providers: &[("efa", 2)],
            networks: &[("AWS Libfabric", 2)],
            channels: &[("NET/AWS Libfabric", false, 8)],
            busbw: (3.11, 3.12),
            ..PUBLIC
        },
        Wanted {
            name: "g4dn-2x1-efa-mpi-tagged.excerpt.txt",
            hosts: 1,
            average: Some(0.960456),
            providers: &[("efa", 1)],
            networks: &[("AWS Libfabric", 1)],
            busbw: (2.83, 2.82),
            checks: &[Check::Incomplete, Check::NotANetworkTest, Check::SocketFallback],
            ..EXCERPT
        },
        Wanted {
            name: "g4dn-2x1-fallback-socket-mpi-tagged.excerpt.txt",
            hosts: 1,
            average: Some(0.733914),
            networks: &[("Socket", 1)],
            busbw: (2.00, 1.98),
            outcome: Outcome::Fail,
            checks: &[Check::SocketFallback],
            ..EXCERPT
        },
        Wanted {
            name: "p4de-2x8-awsome-srun-tagged.excerpt.txt",
            rows: 29,
            sizes: (8, 2 * GIB),
            in_bounds: None,
            busbw: (78.33, 78.33),
            checks: UNPROVED,
            ..EXCERPT
        },
        Wanted {
            name: "p5-2x8-awsome-srun-tagged.excerpt.txt",
            rows: 32,
            sizes: (8, 16 * GIB),
            in_bounds: None,
            busbw: (487.09, 487.26),
            checks: UNPROVED,
            ..EXCERPT
        },
        Wanted {
            name: "p5-2x8-eks-gpu-efa-mpi-tagged.excerpt.txt",
            rows: 32,
            sizes: (0, 2 * GIB),
            average: Some(79.9352),
            busbw: (444.31, 444.41),
            checks: UNPROVED,
            ..EXCERPT
        },
    ]
}

#[test]
#[ignore = "reads other people's samples, in the folder that EFA_GEN_SHARED names"]
fn public_logs_yield_what_is_known_of_them() {
    let folder = shared("nccl-logs/public");
    for wanted in public() {
        let report = read(fs::read(folder.join(wanted.name)).expect("the log is there"), None);
        hold(&wanted, &report, &judged(&report, None, 2));
    }
}

#[test]
#[ignore = "reads other people's samples, in the folder that EFA_GEN_SHARED names"]
fn bars_judge_public_logs() {
    let folder = shared("nccl-logs/public");
    let of = |name: &str, instance_type| {
        judged(&read(fs::read(folder.join(name)).expect("it is there"), None), Some(instance_type), 2)
    };
    let p3dn = of("aws-eks-efa-examples-mpi-nccl-test-log-16.log", "p3dn.24xlarge");
    assert_eq!((p3dn.outcome, p3dn.bar), (Outcome::Pass, Some((4.5, GIB))), "{:#?}", p3dn.findings);
    let one_gpu = of("aws-eks-efa-examples-mpi-nccl-test-log-np-2.log", "p3dn.24xlarge");
    assert_eq!((one_gpu.outcome, one_gpu.bar), (Outcome::Pass, Some((2.2, GIB))));
    let p4d = of("p4d-2x8-nccl2.8.3-mpi-tagged.txt", "p4d.24xlarge");
    assert_eq!((p4d.outcome, p4d.bar), (Outcome::Pass, Some((26.0, GIB))), "{:#?}", p4d.findings);
    // g types: evidence only.
    let g4dn = of("g4dn-2x1-nccl2.12.7-ofi1.5.0aws-mpi-tagged.txt", "g4dn.8xlarge");
    assert_eq!((g4dn.outcome, g4dn.bar), (Outcome::Pass, None));
    assert!(g4dn.notes.iter().any(|note| note.contains("no bar is known")), "{:?}", g4dn.notes);
    // EFA is proved, but no row is of the bar's size.
    let old = of("p3dn-2019-nccl2.4.6-efa-16gpu-cybertronai.txt", "p3dn.24xlarge");
    assert_eq!(old.outcome, Outcome::Inconclusive);
    assert_eq!(old.findings[0].check, Check::TooSlow);
    // The same on a type that has GPUDirect.
    let lost = of("aws-eks-efa-examples-mpi-nccl-test-log-16.log", "p4d.24xlarge");
    assert_eq!((lost.outcome, lost.findings[0].check), (Outcome::Fail, Check::GdrLost));
}

#[test]
#[ignore = "reads other people's samples, in the folder that EFA_GEN_SHARED names"]
fn public_failures_fail() {
    let folder = shared("nccl-logs/public");
    let blocks = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(folder.join(name)).expect("it is there");
        text.split("### ").skip(1).map(|block| block.split_once('\n').map_or("", |(_, body)| body).to_owned()).collect()
    };
    let excerpts = blocks("failures.excerpts.txt");
    let first = [
        Check::RunFailed,
        Check::RunFailed,
        Check::RunFailed,
        Check::SocketFallback,
        Check::WrongProvider,
        Check::WrongProvider,
        Check::RunFailed,
        Check::RunFailed,
        Check::WrongProvider,
    ];
    assert_eq!(excerpts.len(), first.len());
    for (block, check) in excerpts.iter().zip(first) {
        let verdict = judged(&read(block, None), None, 2);
        assert_eq!(
            (verdict.outcome, verdict.findings[0].check),
            (Outcome::Fail, check),
            "{block}{:#?}",
            verdict.findings
        );
    }
    let ssh = judged(&read(&excerpts[6], None), None, 2);
    assert!(
        ssh.sentence.starts_with("run failed: ssh: Could not resolve hostname nccl-tests-worker-3"),
        "{}",
        ssh.sentence
    );

    let texts = blocks("openmpi-4.0.3-failure-texts.txt");
    assert!(texts.len() >= 18, "{}", texts.len());
    for text in texts.iter().filter(|text| !text.trim().is_empty()) {
        let report = read(text, None);
        assert_eq!(report.failures.len(), 1, "{text}");
        assert_eq!(judged(&report, None, 2).findings[0].check, Check::RunFailed, "{text}");
    }
}

/// The value of `name=VALUE` in a row of the table, up to the next such.
fn fact<'a>(facts: &'a str, name: &str) -> Option<&'a str> {
    let rest = &facts[facts.find(&format!("{name}="))? + name.len() + 1..];
    let end = rest.match_indices(' ').map(|(at, _)| at).find(|at| {
        let word = rest[at + 1..].split(' ').next().unwrap_or_default();
        word.contains('=')
    });
    Some(rest[..end.unwrap_or(rest.len())].trim())
}

/// Logs from public issues, each with the answer that was written down before any program read it.
#[test]
#[ignore = "reads other people's samples, in the folder that EFA_GEN_SHARED names"]
fn logs_from_the_field_are_judged_as_people_judge_them() {
    let folder = shared("nccl-logs/field");
    let table = fs::read_to_string(folder.join("sources.md")).expect("the table is there");
    let mut read_files = 0;
    for line in
        table.lines().filter(|line| line.starts_with("| ") && line.contains(".log |") || line.contains(".txt |"))
    {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, _, kind, outcome, facts, ..] = columns[..] else { panic!("{line}") };
        let report = read(fs::read(folder.join(name)).expect("the log is there"), None);
        let verdict = judged(&report, (kind != "-").then_some(kind), 2);
        let wanted = if outcome == "FAIL" { Outcome::Fail } else { Outcome::Inconclusive };
        assert_eq!(verdict.outcome, wanted, "{name}: {:#?}", verdict.findings);
        let number = |name: &str| {
            fact(facts, name).filter(|value| *value != "-").map(|value| value.parse::<f64>().expect(value))
        };
        let best = report.best.as_ref().map_or(0.0, |best| best.in_place.unwrap_or(0.0).max(best.out_of_place));
        let wrong = report.out_of_bounds.map_or(report.wrong_values, |(count, _)| count.max(report.wrong_values));
        for (name_of, is) in [
            ("hosts", report.hosts.len() as f64),
            ("ranks", report.rank_count() as f64),
            ("procs", report.ranks.len() as f64),
            ("rows", report.row_count as f64),
            ("best", best),
            ("avg", report.average_busbw.unwrap_or(0.0)),
            ("wrong", wrong as f64),
            ("nics", report.ranks.first().and_then(|rank| rank.nics).unwrap_or(0) as f64),
        ] {
            // Two hosts of the list without Rank lines are those that NCCL's lines name.
            if let Some(wanted) =
                number(name_of).filter(|_| name_of != "hosts" || report.rank_count() > 0 || report.hosts.is_empty())
            {
                assert!((is - wanted).abs() < 1e-9, "{name}: {name_of} is {is}, must be {wanted}");
            }
        }
        for (name_of, seen) in [("provider", &report.providers), ("networks", &report.networks)] {
            let seen: Vec<String> = seen.iter().map(|one| format!("{}:{}", one.name, one.count)).collect();
            if let Some(wanted) = fact(facts, name_of) {
                assert_eq!(seen, [wanted], "{name}: {name_of}");
            }
        }
        for (name_of, seen) in [("nccl", &report.versions.nccl), ("plugin", &report.versions.plugin)] {
            if let Some(wanted) = fact(facts, name_of) {
                assert_eq!(*seen, [wanted], "{name}: {name_of}");
            }
        }
        // The reason is quoted, and who has NCCL's lines is not sent for them.
        assert!(!verdict.sentence.is_empty() && report.unread_lines == 0, "{name}");
        read_files += 1;
    }
    assert_eq!(read_files, 20);
}

/// Runs of ours across two hosts: what each shows is in the first sentence.
#[test]
#[ignore = "reads other people's samples, in the folder that EFA_GEN_SHARED names"]
fn runs_across_two_hosts_say_what_they_show() {
    let folder = shared("nccl-logs/ours-two-hosts");
    let tcp = "wrong provider: libfabric provider tcp instead of efa on rank 0, rank 1";
    for (name, rows, average, begins) in [
        ("ofi-ar-whole.log", 24, Some(0.823_598), tcp),
        ("ofi-all_gather.log", 8, Some(0.799_643), tcp),
        ("ofi-alltoall.log", 8, Some(0.729_591), tcp),
        ("ofi-hypercube.log", 8, Some(0.669_35), tcp),
        ("ofi-ar-stamp.log", 3, Some(2.626_97), tcp),
        ("sock-ar-all-ops.log", 144, Some(2.0596), "socket fallback: NCCL uses network Socket"),
        (
            "end-kill9-rank.log",
            0,
            None,
            "run failed: mpirun noticed that process rank 1 with PID 9990 on node 10.9.0.2",
        ),
        (
            "end-stop-rank.log",
            0,
            None,
            "run failed: mpirun noticed that process rank 1 with PID 10624 on node 10.9.0.2",
        ),
        ("end-link-cut.log", 0, None, "incomplete: no size was measured"),
    ] {
        let report = read(fs::read(folder.join(name)).expect("the log is there"), None);
        let verdict = judged(&report, None, 2);
        assert_eq!((report.row_count, report.average_busbw), (rows, average), "{name}");
        assert_eq!((report.hosts.len(), report.rank_count()), (2, 2), "{name}");
        assert_eq!(verdict.outcome, Outcome::Fail, "{name}");
        assert!(verdict.sentence.starts_with(begins), "{name}: {}", verdict.sentence);
    }
}
