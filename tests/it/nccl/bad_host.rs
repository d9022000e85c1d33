//! `efa-gen validate` looks for the bad host: when pairs are tested, what they name, and where that is shown.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::mpirun::Stage;
use crate::support::nccl::Run;
use crate::support::{names, stderr};

/// Hosts, a log of each kind, and for a pair with a host in `$bad` the shell text `bad`.
fn stage(hosts: usize, full: &str, bad_hosts: &str, bad: &str) -> Stage {
    // Hosts call themselves otherwise than their addresses.
    let script = format!(
        r#"say() {{ set -- $hosts "$@"; a=${{1##*.}} b=${{2##*.}}; shift 2
  sed -e "s/ip-10-0-0-0/node-$a/g; s/ip-10-0-0-1/node-$b/g" "$@" "$here/pair"; }}
case $kind in
  check) cat "$here/check" ;;
  full) {full} ;;
  pair) for host in $hosts; do case " {bad_hosts} " in *" $host "*) : ; {bad}
      exit ;; esac; done; say ;;
esac"#
    );
    let stage = Stage::new(hosts, &script);
    let pair = Run { min: 1 << 30, rows: vec![(4580, 4580)], ..Run::good(4, 45.8) };
    stage.write("pair", &pair.text());
    stage.write("slow", &Run { hosts: hosts as u64, ..Run::good(4, 11.5) }.text());
    stage
}

const SLOW: &str = "cat \"$here/slow\"";
const SLOW_PAIR: &str = "say -e 's/45\\.80/11.50/g'";

/// Calls for pairs of hosts.
fn pairs(stage: &Stage) -> usize {
    stage.calls().iter().filter(|call| call.contains("|-b|1073741824|-e|1073741824|-f|2|-g|1|-c|1|-n|5")).count()
}

#[test]
fn one_slow_host_is_named() {
    let stage = stage(4, SLOW, "10.0.0.2", SLOW_PAIR);
    let flags = ["--min-busbw", "40", "--html", "page.html", "--output", "json"];
    let ran = stage.validate(&flags);
    assert_eq!(ran.code, 7, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(pairs(&stage), 6, "every pair once");
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    assert_eq!(told["pairs"]["found"], serde_json::json!({"hosts": [2]}));
    assert_eq!(told["pairs"]["hosts"][2]["median"], 11.5);
    assert_eq!(told["pairs"]["pairs"].as_array().expect("a list").len(), 6);
    assert_eq!(told["verdict"]["findings"][0]["check"], "too-slow");
    let named = "one host stands out: 10.0.0.2 (node-2): median 11.50 GB/s, the best pair 45.80";
    assert!(ran.stderr.contains("\nhint: test without 10.0.0.2; look there"), "{}", ran.stderr);
    let page = stage.read("page.html");
    for part in [
        named,
        "<h2>Pairs of hosts</h2>",
        "every pair of 4 hosts (6), in 3 rounds",
        "<tr class=\"mark bad\"><td class=\"number\">2</td>",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    let cell = |text: &str| format!("<td class=\"number\">{text}</td>");
    let row = ["11.50", "11.50", "-", "11.50"].map(cell).concat();
    assert!(page.contains(&format!("<tr><th class=\"number\">2</th>{row}</tr>")), "{page}");
    let logs = names(&stage.path("run.pairs"));
    assert_eq!(logs.len(), 6);
    assert!(logs.contains(&"10.0.0.1+10.0.0.2.log".to_owned()), "{logs:?}");

    let ran = stage.validate(&["--min-busbw", "40"]);
    assert!(ran.stdout.contains("note     pairs: every pair of 4 hosts (6), in 3 rounds: one host"), "{}", ran.stdout);
    assert!(ran.stdout.contains(" 2  10.0.0.2  node-2  3      11.50   11.50   11.50"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\n   2  11.50  11.50      -  11.50\n"), "{}", ran.stdout);
    assert!(ran.stderr.contains("pairs of hosts are tested, because it is slow"), "{}", ran.stderr);
    assert!(ran.stderr.contains("10.0.0.0 and 10.0.0.2:    11.50 GB/s\n"), "{}", ran.stderr);
}

/// Hosts; flags; what the whole run does; the bad hosts and what their pairs do; the exit code; what is told; pairs tested.
type Case = (usize, &'static [&'static str], &'static str, &'static str, &'static str, i32, &'static str, usize);

const FAIL: &str = "echo 'mpirun was unable to launch'; exit 1";

const CASES: [Case; 15] = [
    (
        4,
        &["--min-busbw", "40"],
        SLOW,
        "10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3",
        SLOW_PAIR,
        7,
        "all hosts are alike: their pairs reach 11.50 to 11.50 GB/s at 1 GiB",
        6,
    ),
    (
        5,
        &["--min-busbw", "40"],
        SLOW,
        "10.0.0.1 10.0.0.3",
        SLOW_PAIR,
        7,
        "these hosts stand out: 10.0.0.1 (node-1): median 11.50",
        10,
    ),
    (
        4,
        &["--min-busbw", "40"],
        SLOW,
        "10.0.0.3",
        FAIL,
        7,
        "one host stands out: 10.0.0.3: 3 of 3 pairs failed (run failed: exit status 1)",
        6,
    ),
    (
        4,
        &["--min-busbw", "40"],
        SLOW,
        "10.0.0.1",
        "say -e 's/values : 0 OK/values : 9 FAILED/'",
        7,
        "10.0.0.1 (node-1): 3 of 3 pairs failed (wrong result",
        6,
    ),
    (
        4,
        &["--min-busbw", "40"],
        SLOW,
        "10.0.0.1",
        "say -e 's/45\\.80/11.50/g; s/(found 4 nics)/(found 3 nics)/'",
        7,
        "one host stands out: 10.0.0.1 (node-1): median 11.50 GB/s, the best pair 45.80, 3 NICs, others 4",
        6,
    ),
    (
        4,
        &[],
        "sed 's/values : 0 OK/values : 2 FAILED/' \"$here/full\"",
        "10.0.0.1",
        "say -e 's/values : 0 OK/values : 2 FAILED/'",
        7,
        "one host stands out: 10.0.0.1",
        6,
    ),
    (4, &["--timeout", "2s"], "exec sleep 600", "10.0.0.2", FAIL, 7, "FAIL: run failed: it did not end in time", 6),
    (4, &[], "head -n 50 \"$here/full\"; exit 1", "10.0.0.2", FAIL, 7, "one host stands out: 10.0.0.2", 6),
    // What names a host, or can't be a host's fault alone, needs no pairs; nor can two hosts be told apart.
    (
        4,
        &[],
        "echo 'ssh: connect to host 10.0.0.2 port 22: Connection refused'; exit 255",
        "",
        "",
        7,
        "Connection refused",
        0,
    ),
    (
        4,
        &[],
        "cat \"$here/full\"; echo 'mpirun noticed that process rank 9 with PID 0 on node ip-10-0-0-1 exited on signal 9 (Killed).'; exit 137",
        "",
        "",
        7,
        "process rank 9",
        0,
    ),
    (4, &[], "sed 's/Using network Libfabric/Using network Socket/' \"$here/full\"", "", "", 7, "socket fallback", 0),
    (2, &["--min-busbw", "40"], SLOW, "10.0.0.1", SLOW_PAIR, 7, "too slow: 11.50 GB/s", 0),
    // No bar is known for three p4d; the one of two tells that something may be wrong.
    (
        3,
        &["--instance-type", "p4d.24xlarge"],
        SLOW,
        "10.0.0.2",
        SLOW_PAIR,
        7,
        "FAIL: too slow: one host stands out: 10.0.0.2 (node-2)",
        3,
    ),
    (
        3,
        &["--instance-type", "p4d.24xlarge"],
        SLOW,
        "10.0.0.0 10.0.0.1 10.0.0.2",
        SLOW_PAIR,
        7,
        "FAIL: too slow: 3 pairs are below the bar; all hosts are alike",
        3,
    ),
    (
        3,
        &["--instance-type", "p4d.24xlarge"],
        SLOW,
        "",
        "",
        0,
        "all hosts are alike: their pairs reach 45.80 to 45.80",
        3,
    ),
];

#[test]
fn pairs_are_tested_where_they_tell_something() {
    let _port = super::ras::port();
    for (hosts, flags, full, bad_hosts, bad, code, told, count) in CASES {
        let stage = stage(hosts, full, bad_hosts, bad);
        let ran = stage.validate(flags);
        assert_eq!(ran.code, code, "{full} {bad}: {}{}", ran.stdout, ran.stderr);
        assert!((ran.stdout.clone() + &ran.stderr).contains(told), "{full} {bad}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(pairs(&stage), count, "{full} {bad}: {}", ran.stderr);
        assert_eq!(stage.path("run.pairs").exists(), count > 0);
        assert_eq!(ran.stdout.contains("pairs, busbw GB/s at 1 GiB"), count > 0, "{}", ran.stdout);
    }
}

#[test]
fn a_check_that_hangs_is_followed_by_pairs_of_all_hosts() {
    let _port = super::ras::port();
    let stage = stage(3, "exit 99", "10.0.0.1", FAIL);
    stage.change("mpirun", "check) cat \"$here/check\"", "check) exec sleep 600");
    let ran = stage.validate(&["--timeout", "2s"]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(ran.stdout.contains("this is the fast check on 2 of 3 hosts"), "{}", ran.stdout);
    assert!(ran.stderr.contains("hint: test without 10.0.0.1; look there"), "{}", ran.stderr);
    assert_eq!((pairs(&stage), stage.calls().len()), (3, 4));
}

#[test]
fn of_many_hosts_some_rounds_are_enough() {
    let stage = stage(20, SLOW, "10.0.0.7", SLOW_PAIR);
    let ran = stage.validate(&["--min-busbw", "40", "--html", "page.html"]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert_eq!(pairs(&stage), 30);
    assert!(
        ran.stdout.contains(
            "30 pairs of 20 hosts, in 3 of the 19 rounds that have every pair: one host stands out: 10.0.0.7 (node-7)"
        ),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("pairs: round 3 of 3, 10 pairs at 1 GiB"), "{}", ran.stderr);
    assert!(!stage.read("page.html").contains("<table class=\"matrix\">"), "too many to look at");
}

#[test]
fn with_efa_gen_every_pair_ends() {
    let stage = stage(
        6,
        SLOW,
        "10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5",
        "echo $$ >>\"$here/pids\"; exec sleep 600",
    );
    let mut command = stage.command(&["--hostfile", "hosts", "--keep-log", "run.log", "--min-busbw", "40"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let end = Instant::now() + Duration::from_secs(20);
    while stage.read("pids").lines().count() < 3 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(stage.read("pids").lines().count(), 3, "three pairs of six hosts at a time");
    assert!(Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().expect("kill starts").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    for pid in stage.read("pids").lines() {
        let alive = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        assert!(!alive, "{pid}");
    }
}
