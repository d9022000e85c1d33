//! Numbers that no honest log, hostfile or flag holds: each ends in a verdict or a sentence, never in a panic, a wrapped sum
//! or a pass.

use std::fmt::Write as _;
use std::fs;

use crate::support::nccl::{Run, judged, read};
use crate::support::{Ran, command, run_in, scratch};
use efa_gen::nccl::output::chart::NamedReport;
use efa_gen::nccl::output::facts::facts;
use efa_gen::nccl::output::{html, junit};
use efa_gen::nccl::pairs::{Matrix, Outliers, PairResult, rounds};
use efa_gen::nccl::{Outcome, command as nccl};

/// The largest numbers of their kinds, those beside them, and what is no number of any kind.
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "9999999999999999999",
    "18446744073709551614",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "-1",
    "NaN",
    "inf",
];

/// Those that wrap soonest, for the tests with many places for a number.
const EDGES: [&str; 5] = ["0", "1", "9223372036854775808", "18446744073709551614", "18446744073709551615"];

/// Reads the log, judges it and shows it in every form; it must not pass.
fn show(log: &str) {
    for exit_status in [None, Some(0)] {
        let report = read(log, exit_status);
        for instance_type in [None, Some("p4d.24xlarge")] {
            let verdict = judged(&report, instance_type, u64::MAX);
            assert_ne!(verdict.outcome, Outcome::Pass, "{log}");
            facts(&report, &verdict);
            if exit_status.is_none() && instance_type.is_some() {
                let named = [NamedReport { name: "log", report: &report }];
                html::html(&named, &verdict, None, None).expect("a page");
                junit::junit(&[("log", &verdict)]).expect("XML");
                serde_json::to_string(&report).expect("JSON");
            }
        }
    }
}

/// A good log in which each number of the text stands for another.
#[test]
fn a_log_with_any_number_in_any_place_is_read() {
    let good = Run::good(4, 45.8).up_to(64).text();
    // Every kind of line once: what it says is the same on all ranks.
    let mut seen = std::collections::BTreeSet::new();
    let shape = |line: &str| line.replace(|c: char| c.is_ascii_digit(), "");
    let kinds: Vec<&str> = good.lines().filter(|line| seen.insert(shape(line))).collect();
    assert!(kinds.len() > 12, "{}", kinds.len());
    let mut logs = 0;
    for kind in kinds {
        let digits = |c: char| c.is_ascii_digit();
        let mut at = 0;
        while let Some(start) = kind[at..].find(digits).map(|found| at + found) {
            let end = kind[start..].find(|c| !digits(c)).map_or(kind.len(), |length| start + length);
            for number in ["0", "9223372036854775808", "18446744073709551615"] {
                let line = format!("{}{number}{}", &kind[..start], &kind[end..]);
                // Not judged against a bar: a changed number need not make a bad run.
                let report = read(good.replacen(kind, &line, 1), Some(0));
                let verdict = judged(&report, Some("p4d.24xlarge"), 2);
                facts(&report, &verdict);
                logs += 1;
            }
            at = end;
        }
    }
    assert!(logs > 100, "{logs}");
}

#[test]
fn the_sizes_of_a_run_may_be_any_numbers() {
    for min in EDGES {
        for max in EDGES {
            for step in ["0", "1", "18446744073709551615"] {
                for unit in ["factor", "bytes"] {
                    let sizes = format!("minBytes {min} maxBytes {max} step: {step}({unit})");
                    show(&format!(
                        "# nThread {max} nGpus {max} {sizes} warmup iters: {max} iters: {max} validation: 1\n\
                         {max} {max} float sum -1 1 1 1 {max} 1 1 1 {max}\n# Out of bounds values : {max} OK\n\
                         # Avg bus bandwidth : {max}\n"
                    ));
                }
            }
        }
    }
}

#[test]
fn ranks_and_counts_of_a_document_may_be_any_numbers() {
    for number in NUMBERS {
        let device =
            format!(r#"{{"rank":{number},"pid":{number},"hostname":"a","device":{number},"device_info":"x"}}"#);
        let timing = format!(r#"{{"time":{number},"alg_bw":{number},"bus_bw":{number},"nwrong":{number}}}"#);
        let row = format!(
            r#"{{"size":{number},"count":{number},"type":"float","redop":"sum","out_of_place":{timing},"in_place":{timing}}}"#
        );
        show(&format!(
            r#"{{"nccl_version":{number},"config":{{"nthreads":{number},"ngpus":{number},"minimum_bytes":{number},
            "maximum_bytes":{number},"step_factor":{number},"step_bytes":{number},"iterations":{number},
            "validation":{number},"devices":[{device},{device}]}},"results":[{row},{row},{row}],
            "out_of_bounds":{{"count":{number},"okay":"true"}},"average_bus_bandwidth":{{"bandwidth":{number}}}}}"#
        ));
    }
}

#[test]
fn rank_lines_may_have_any_numbers() {
    for number in NUMBERS {
        let mut log = String::new();
        for rank in ["0", number, "18446744073709551615"] {
            let _ = writeln!(log, "#  Rank {rank} Group {number} Pid {number} on host device {number} [0x10] GPU");
            let _ = writeln!(log, "host:{number}:{number} [{number}] NCCL INFO cudaDriverVersion {number}");
            let _ =
                writeln!(log, "host:{number}:1 [0] NCCL INFO NET/OFI Selected provider is efa (found {number} nics)");
            let _ =
                writeln!(log, "host:1:1 [0] NCCL INFO NCCL version {number}.{number}.{number}+cuda{number}.{number}");
        }
        show(&log);
    }
}

fn validate(arguments: &[&str]) -> Ran {
    run_in(scratch().path(), &[&["validate"], arguments].concat())
}

#[test]
fn flags_may_be_any_numbers() {
    let folder = scratch();
    fs::write(folder.path().join("log"), Run::good(4, 45.8).text()).expect("a file");
    for number in NUMBERS {
        for flag in ["--hosts", "--min-busbw", "--exit-status"] {
            let flag = format!("{flag}={number}");
            let ran = run_in(folder.path(), &["validate", "--log", "log", &flag, "--html", "page.html"]);
            assert!([0, 2, 7].contains(&ran.code), "{flag}: {}: {}", ran.code, ran.stderr);
        }
        for flag in ["--max-size", "--iterations", "--timeout", "--nodes"] {
            let mut all = vec!["validate", "--slurm", "--instance-type", "p4d.24xlarge"];
            for (name, value) in [("--max-size", "1G"), ("--iterations", "20"), ("--timeout", "30m"), ("--nodes", "2")]
            {
                if name != flag {
                    all.extend([name, value]);
                }
            }
            for unit in ["", "s", "m", "h", "K", "G"] {
                let flag = format!("{flag}={number}{unit}");
                let ran = run_in(folder.path(), &[&all[..], &[flag.as_str()]].concat());
                assert!([0, 2].contains(&ran.code), "{flag}: {}: {}", ran.code, ran.stderr);
            }
        }
        for unit in ["s", "m", "h", "d"] {
            let older = format!("--older-than={number}{unit}");
            let output =
                command(&["sweep", &older]).env("AWS_EC2_METADATA_DISABLED", "true").output().expect("it starts");
            assert!([Some(2), Some(10)].contains(&output.status.code()), "{older}: {output:?}");
            let ttl = format!("--ttl={number}{unit}");
            let output = command(&["launch", "--instance-type", "p4d.24xlarge", "--nodes", "2", &ttl]);
            let output = { output }.env("AWS_EC2_METADATA_DISABLED", "true").output().expect("it starts");
            assert!([Some(2), Some(10)].contains(&output.status.code()), "{ttl}: {output:?}");
        }
    }
}

#[test]
fn slots_may_be_any_numbers() {
    for number in NUMBERS {
        let read = nccl::hosts(&format!("a slots={number}\nb slots={number}\n"), None);
        match number.parse::<u32>() {
            Ok(slots) if slots > 0 => {
                let hosts = read.unwrap_or_else(|error| panic!("{number}: {error}"));
                assert!(hosts.iter().all(|host| host.slots == slots));
            }
            _ => assert!(read.expect_err(number).to_string().contains("the slots of a are not a number")),
        }
    }
    let folder = scratch();
    fs::write(folder.path().join("hosts"), "a slots=4294967295\nb slots=4294967295\n").expect("a file");
    for program in ["mpirun", "all_reduce_perf"] {
        fs::write(folder.path().join(program), "#!/bin/sh\nexit 1\n").expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path().join(program), mode).expect("a mode");
    }
    let flags = ["validate", "--hostfile", "hosts", "--mpirun", "./mpirun", "--tests-dir", "."];
    let ran = run_in(folder.path(), &flags);
    assert_eq!(ran.code, 7, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("on 2 hosts, 8589934590 GPUs"), "{}", ran.stderr);
}

/// So many that work which grows with their square would take hours.
const MANY: usize = 100_000;

fn many_hosts() -> String {
    (0..MANY).map(|host| format!("10.{}.{}.{} slots=8\n", host >> 16, host >> 8 & 255, host & 255)).collect()
}

#[test]
fn a_hostfile_of_many_hosts_is_read() {
    let text = many_hosts();
    let hosts = nccl::hosts(&text, None).expect("it is good");
    assert_eq!(hosts.len(), MANY);
    assert_eq!(hosts[MANY - 1].address, "10.1.134.159");
    let twice = format!("{text}10.0.0.0 slots=8\n");
    let error = nccl::hosts(&twice, None).expect_err("the first is there again").to_string();
    assert_eq!(error, "hostfile: 10.0.0.0 stands there twice");
    let other = format!("{text}10.9.9.9 slots=4\n");
    let error = nccl::hosts(&other, None).expect_err("the last is another kind").to_string();
    assert!(error.contains("10.0.0.0 has 8 slots and 10.9.9.9 has 4"), "{error}");
}

#[test]
fn more_hosts_than_a_command_can_name_are_refused_before_anything_is_run() {
    let folder = scratch();
    fs::write(folder.path().join("hosts"), many_hosts()).expect("a file");
    for program in ["mpirun", "all_reduce_perf"] {
        fs::write(folder.path().join(program), "#!/bin/sh\n: >ran\n").expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path().join(program), mode).expect("a mode");
    }
    let flags = ["validate", "--hostfile", "hosts", "--mpirun", "./mpirun", "--tests-dir", "."];
    let ran = run_in(folder.path(), &flags);
    assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("and Linux takes 131072"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: test fewer hosts at a time") && ran.stderr.len() < 1_000, "{}", ran.stderr);
    assert!(!folder.path().join("ran").exists());
}

#[test]
fn the_pairs_of_many_hosts_are_made_and_judged() {
    let addresses: Vec<String> = (0..MANY).map(|host| format!("h{host}")).collect();
    let rounds = rounds(MANY);
    assert_eq!(rounds.len(), 3);
    // A half of the hosts is bad.
    let result = |pair: (usize, usize)| PairResult {
        hosts: pair,
        busbw: (pair.0.is_multiple_of(2) && pair.1.is_multiple_of(2)).then_some(10.0),
        failure: None,
        below_bar: false,
        sides: Vec::new(),
    };
    let pairs: Vec<PairResult> = rounds.iter().flatten().map(|pair| result(*pair)).collect();
    let matrix = Matrix::new(&addresses, 1 << 30, 3, pairs);
    assert_eq!(matrix.hosts.len(), MANY);
    assert!(matrix.hosts.iter().all(|host| host.pairs == 3), "each is in a pair of each round");
    assert!(matches!(&matrix.found, Outliers::Hosts(named) if !named.is_empty()), "{:?}", matrix.found);
}

/// One error quotes a piece of what is wrong, however long that is.
#[test]
fn an_error_quotes_a_piece_of_a_long_text() {
    let folder = scratch();
    let long = "x".repeat(100_000);
    let stack = |text: String| {
        fs::write(folder.path().join("stack.toml"), text).expect("a file");
        run_in(folder.path(), &["render", "--distro", "debian12", "--stack-file", "stack.toml", "--out", "out"])
    };
    let pin = |url: &str, sha256: &str| {
        format!(
            "[[efa]]\nversion = \"1.50.0\"\ndownload = {{ url = \"{url}\", sha256 = \"{sha256}\", published = \"us\" }}\n"
        )
    };
    for (text, says) in [
        (long.clone(), "line 1, column "),
        (format!("{long} = 1\n"), "line 1, column 1: unknown field `xxx"),
        (format!("efa = \"{long}\"\n"), "line 1, column 7: invalid type: string"),
        (format!("# {long}\nefa = [ {} !\n", "1, ".repeat(30_000)), "line 2, column "),
        (format!("a = \"{}\n", "\u{e9}".repeat(100_000)), "line 1, column "),
        (pin(&long, ""), "is not an https URL"),
        (pin("https://example.org/x", &long), "is not a SHA-256"),
        (format!("[[efa]]\nversion = \"{long}\"\nsize = 1\n"), "line "),
    ] {
        let ran = stack(text);
        assert_eq!(ran.code, 2, "{says}: {}", &ran.stderr[..ran.stderr.len().min(500)]);
        assert!(ran.stderr.len() < 1_500, "{says}: {} bytes", ran.stderr.len());
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
    }
    for (hosts, says) in [
        (format!("{long} slots=8\n"), "is longer than a host's name can be"),
        (format!("a!{long} slots=8\n"), "is not a host's name"),
        (format!("a slots=8 {long}\n"), "after a is not known"),
        (format!("a slots={long}\n"), "the slots of a are not a number"),
    ] {
        let error = nccl::hosts(&hosts, None).expect_err(says).to_string();
        assert!(error.contains(says) && error.len() < 1_000, "{says}: {} bytes: {error:.300}", error.len());
    }
    let ran = validate(&["--log", "x", "--instance-type", &long]);
    assert!(ran.code == 2 && ran.stderr.len() < 1_500, "{} bytes", ran.stderr.len());
}
