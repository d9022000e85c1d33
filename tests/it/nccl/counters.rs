//! EFA's counters: read from trees of files as the kernel shows them, compared before and after a run, and judged.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::mpirun::Stage;
use crate::support::nccl::{Run, judged, read};
use crate::support::scratch;
use efa_gen::nccl::counters::{self, HostTraffic, NicTraffic};
use efa_gen::nccl::{Check, Outcome, Report, Severity, Verdict};

const GIB: u64 = 1 << 30;

/// Where a driver of this age has its counters.
const SPLIT: &str = "ports/1/hw_counters";
const ONE_FOLDER: &str = "hw_counters";

/// Writes a device with these counters.
fn device(tree: &Path, name: &str, vendor: &str, place: &str, counters: &[(&str, &str)]) {
    let folder = tree.join(name);
    fs::create_dir_all(folder.join(place)).expect("a folder");
    fs::create_dir_all(folder.join("device")).expect("a folder");
    fs::write(folder.join("device/vendor"), format!("{vendor}\n")).expect("a file");
    for (counter, value) in counters {
        fs::write(folder.join(place).join(counter), value).expect("a file");
    }
}

/// What the script prints with this shell.
fn asked(shell: &str, tree: &Path) -> String {
    let script = counters::question(&tree.display().to_string());
    let output = Command::new(shell).args(["-c", &script]).output().expect("a shell");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_host_is_asked_by_any_shell_and_in_one_line() {
    let folder = scratch();
    let tree = folder.path();
    device(tree, "rdmap0s6", "0x1d0f", SPLIT, &[("tx_bytes", "12\n"), ("rx_bytes", "13\n"), ("retrans_pkts", "1\n")]);
    device(tree, "efa_1", "0x1d0f", ONE_FOLDER, &[("tx_bytes", "18446744073709551615\n"), ("rx_bytes", "7\n")]);
    // Of another maker, and one that shows nothing.
    device(tree, "mlx5_0", "0x15b3", SPLIT, &[("tx_bytes", "99\n")]);
    device(tree, "rdmap1s6", "0x1d0f", SPLIT, &[("tx_bytes", ""), ("rx_bytes", "\n")]);
    for shell in ["dash", "bash"] {
        let told = asked(shell, tree);
        let host = told.split(' ').nth(2).expect("a name");
        let line = format!(
            "EFA-GEN COUNTERS {host} efa_1=18446744073709551615,7,-,-,-,-,- rdmap0s6=12,13,-,-,1,-,- rdmap1s6=-,-,-,-,-,-,- .\n"
        );
        assert_eq!(told, line, "{shell}");
    }
    let empty = scratch();
    for tree in [empty.path(), &empty.path().join("none")] {
        let told = asked("dash", tree);
        assert_eq!(told.split(' ').count(), 4, "{told}");
        assert_eq!(counters::read(&told).len(), 1, "a host without a device is a host");
    }
}

#[test]
fn a_line_that_is_torn_is_not_read() {
    let whole = "EFA-GEN COUNTERS a rdmap0s6=1,2,3,4,5,6,7 .\n";
    assert_eq!(counters::read(whole).len(), 1);
    assert_eq!(counters::read(&format!("noise\n{whole}{}", whole.replace(" a ", " b "))).len(), 2);
    for torn in [
        &whole[..20],
        "EFA-GEN COUNTERS .\n",
        "EFA-GEN COUNTERS a rdmap0s6=1,2,3 .\n",
        "EFA-GEN COUNTERS a rdmap0s6=1,2,3,4,5,6,7,8 .\n",
        "EFA-GEN COUNTERS a rdmap0s6=1,2,3,4,5,6,x .\n",
        "EFA-GEN COUNTERS a rdmap0s6=1,2,3,4,5,6,18446744073709551616 .\n",
        "EFA-GEN COUNTERS a rdmap0s6 .\n",
        "EFA-GEN COUNTERS a  rdmap0s6=1,2,3,4,5,6,7 .\n",
        "a EFA-GEN COUNTERS a rdmap0s6=1,2,3,4,5,6,7 .\n",
    ] {
        assert!(counters::read(torn).is_empty(), "{torn}");
    }
}

/// What passed on host `a` between two answers.
fn passed(before: &str, after: &str) -> HostTraffic {
    let host = |devices: &str| counters::read(&format!("EFA-GEN COUNTERS a {devices} .\n"));
    let mut told = counters::traffic(&host(before), &host(after));
    assert_eq!(told.len(), 1);
    told.remove(0)
}

#[test]
fn a_difference_is_told_only_where_there_is_one() {
    let told = passed("e=10,20,1,0,0,0,0", "e=110,220,11,1,2,3,4");
    let nic = NicTraffic {
        name: "e".into(),
        sent: 100,
        received: 200,
        packets: Some(10),
        dropped: Some(1),
        retransmitted: Some(2),
        unresponsive: Some(3),
        impaired: Some(4),
    };
    assert_eq!((told.nics, told.unread), (vec![nic], vec![]));
    // Past the largest number.
    let wrapped = passed(&format!("e={},0,-,-,-,-,-", u64::MAX - 4), "e=5,7,-,-,-,-,-");
    assert_eq!((wrapped.nics[0].sent, wrapped.nics[0].received, wrapped.nics[0].packets), (10, 7, None));
    // An older driver counts less; one that was replaced meanwhile began anew.
    assert_eq!(passed("e=1,1,-,-,-,-,-", "e=2,2,5,5,5,5,5").nics[0].retransmitted, None);
    for (before, after) in [
        ("e=500,500,9,0,0,0,0", "e=3,3,1,0,0,0,0"),
        ("e=500,500,9,0,0,0,0", "e=600,600,1,0,0,0,0"),
        ("e=-,1,1,0,0,0,0", "e=-,2,2,0,0,0,0"),
        ("e=1,1,1,0,0,0,0", "f=2,2,2,0,0,0,0"),
    ] {
        let told = passed(before, after);
        assert!(told.nics.is_empty() && !told.unread.is_empty(), "{before} {after}: {told:?}");
    }
    let one = counters::read("EFA-GEN COUNTERS a e=1,1,1,0,0,0,0 .\n");
    assert!(counters::traffic(&[], &one).is_empty() && counters::traffic(&one, &[]).is_empty());
}

/// A host whose devices carried so many bytes each way.
fn host(name: &str, bytes: &[u64]) -> HostTraffic {
    let nic = |(at, bytes): (usize, &u64)| NicTraffic {
        name: format!("rdmap{at}s6"),
        sent: *bytes,
        received: *bytes,
        packets: Some(*bytes / 4096),
        dropped: Some(0),
        retransmitted: Some(0),
        unresponsive: Some(0),
        impaired: Some(0),
    };
    HostTraffic { host: name.to_owned(), nics: bytes.iter().enumerate().map(nic).collect(), unread: vec![] }
}

/// The verdict on a good run of two hosts with these counters.
fn verdict(traffic: Vec<HostTraffic>) -> Verdict {
    let report = read(Run::good(4, 45.8).text(), Some(0));
    judged(&Report { traffic: Some(traffic), ..report }, None, 2)
}

#[test]
fn too_few_bytes_are_a_failure_and_many_are_none() {
    // 100 iterations of twice 2 GiB in all, and 5 of 1 GiB: 405 GiB between two hosts at least.
    let four = |each: u64| host("a", &[each; 4]);
    let good = verdict(vec![four(102 * GIB), HostTraffic { host: "b".into(), ..four(103 * GIB) }]);
    assert_eq!(good.outcome, Outcome::Pass);
    let note =
        "EFA's counters agree: each of 2 hosts moved at least 408 GiB over all their NICs, and the test needs 405 GiB";
    assert!(good.notes.iter().any(|other| other == note), "{:?}", good.notes);
    // What a tree or a check sends besides never counts against it.
    for each in [51 * GIB, 900 * GIB, u64::MAX / 2] {
        assert_eq!(verdict(vec![four(each); 2]).outcome, Outcome::Pass, "{each}");
    }
    // One stands still, or carries what the first contact needs.
    for bytes in [0, 1 << 20, 50 * GIB] {
        let bad = verdict(vec![four(102 * GIB), HostTraffic { host: "b".into(), ..four(bytes) }]);
        assert_eq!((bad.outcome, bad.findings[0].check), (Outcome::Fail, Check::SocketFallback), "{bytes}");
        let what = &bad.findings[0].what;
        assert!(what.contains("through the devices of host b (") && what.ends_with("(405 GiB)"), "{what}");
    }
    // Of a run that did not end nobody knows how much it should be.
    let log = Run::good(4, 45.8).text();
    let cut = read(&log[..log.find("# Out of bounds").expect("a summary")], Some(0));
    let cut = judged(&Report { traffic: Some(vec![four(0); 2]), ..cut }, None, 2);
    assert!(cut.findings.iter().all(|finding| finding.check != Check::SocketFallback), "{:?}", cut.findings);
}

#[test]
fn every_collective_has_its_least_bytes() {
    for (program, needs) in [
        ("all_gather_perf", "202.5 GiB"),
        ("reduce_scatter_perf", "202.5 GiB"),
        ("alltoall_perf", "1.6 TiB"),
        ("sendrecv_perf", "405 GiB"),
    ] {
        let mut report = read(Run::good(4, 45.8).text(), Some(0));
        report.collective = Some(program.to_owned());
        report.traffic = Some(vec![host("a", &[2000 * GIB]), host("b", &[0])]);
        let what = &judged(&report, None, 2).findings[0].what;
        assert!(what.ends_with(&format!("({needs})")), "{program}: {what}");
    }
    let mut other = read(Run::good(4, 45.8).text(), Some(0));
    other.collective = Some("broadcast_perf".to_owned());
    other.traffic = Some(vec![host("a", &[0]), host("b", &[0])]);
    assert!(judged(&other, None, 2).findings.iter().all(|finding| finding.check != Check::SocketFallback));
}

/// The one warning of a run whose host `b` counted this.
fn warned(b: HostTraffic) -> String {
    let told = verdict(vec![host("a", &[150 * GIB; 4]), b]);
    assert_eq!(told.outcome, Outcome::Pass, "{:?}", told.findings);
    let warnings: Vec<_> = told.of(Severity::Warning).map(|finding| finding.what.clone()).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings[0].clone()
}

#[test]
fn nics_and_packets_that_differ_are_told() {
    let one = warned(host("b", &[500 * GIB, 0, 0, 0]));
    let silent = "nothing went over rdmap1s6, rdmap2s6, rdmap3s6";
    assert_eq!(one, format!("1 of 4 NICs of host b carried data, {silent}"));
    let little = warned(host("b", &[100 * GIB, 100 * GIB, 100 * GIB, 1 << 20]));
    assert_eq!(little, "3 of 4 NICs of host b carried data");
    let uneven = warned(host("b", &[150 * GIB, 140 * GIB, 140 * GIB, 30 * GIB]));
    assert_eq!(uneven, "rdmap3s6 of host b carried 20 % of what rdmap0s6 did");
    let with = |change: fn(&mut NicTraffic)| {
        let mut host = host("b", &[150 * GIB; 4]);
        change(&mut host.nics[2]);
        host
    };
    let again = warned(with(|nic| nic.retransmitted = Some(1_000_000)));
    assert_eq!(again, "host b sent 1000000 of 157286400 packets again");
    let ill = warned(with(|nic| (nic.unresponsive, nic.impaired) = (Some(2), Some(1))));
    assert_eq!(ill, "EFA of host b counted 2 peers that did not answer and 1 impaired connections");
    let dropped = warned(with(|nic| nic.dropped = Some(5)));
    assert_eq!(dropped, "EFA of host b received 5 packets and dropped them");
}

#[test]
fn what_was_not_read_is_a_note_and_no_reason() {
    for (traffic, note) in [
        (vec![], "EFA's counters were not read on 2 of 2 hosts"),
        (vec![host("a", &[450 * GIB])], "EFA's counters were not read on 1 of 2 hosts"),
        (vec![host("a", &[450 * GIB]), host("b", &[])], "no EFA device is below /sys/class/infiniband on b"),
        (
            vec![
                host("a", &[450 * GIB]),
                HostTraffic { host: "b".into(), nics: vec![], unread: vec!["rdmap0s6".into(), "rdmap1s6".into()] },
            ],
            "no usable counters for rdmap0s6, rdmap1s6 of b",
        ),
    ] {
        let told = verdict(traffic);
        assert_eq!(told.outcome, Outcome::Pass, "{:?}", told.findings);
        assert!(told.notes.iter().any(|other| other.contains(note)), "{note}: {:?}", told.notes);
    }
    let report = read(Run::good(4, 45.8).text(), Some(0));
    assert!(!judged(&report, None, 2).notes.iter().any(|note| note.contains("counters")), "nobody was asked");
}

/// mpirun's answer from a tree of each host, in which the run moves so much.
fn stage(moved: [u64; 2]) -> Stage {
    let stage = Stage::new(2, "cat \"$here/$kind\"; [ $kind = check ] || cp -r \"$here/after/.\" \"$here/now\"");
    for (at, moved) in moved.into_iter().enumerate() {
        for (folder, bytes) in [("now", 5_000), ("after", 5_000 + moved)] {
            let tree = stage.path(folder).join(format!("10.0.0.{at}"));
            let bytes = format!("{bytes}\n");
            device(&tree, "rdmap0s6", "0x1d0f", SPLIT, &[("tx_bytes", &bytes), ("rx_bytes", &bytes)]);
        }
    }
    stage.write(
        "answer",
        r#"for h in $asked; do
  printf '%s' "$3" | sed "s|/sys/class/infiniband|$here/now/$h|; s|\$(uname -n)|$h|" | /bin/sh
done"#,
    );
    stage
}

#[test]
fn a_run_is_compared_with_what_its_hosts_counted() {
    let good = stage([500 * GIB, 450 * GIB]);
    let ran = good.validate(&["--html", "page.html", "--output", "json"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    assert_eq!(
        told["report"]["traffic"][1]["nics"][0]["sent"].as_u64(),
        Some(450 * GIB),
        "{}",
        told["report"]["traffic"]
    );
    let page = good.read("page.html");
    assert!(page.contains("<h2>EFA's counters</h2>") && page.contains("<td>10.0.0.1</td>"), "{page}");
    let human = good.validate(&[]);
    assert!(human.stdout.contains("EFA's counters"), "{}", human.stdout);
    assert_eq!(human.code, 7, "the second run moves nothing: {}", human.stdout);
    assert!(human.stdout.contains("FAIL: socket fallback: EFA's counters: fewer bytes passed"), "{}", human.stdout);

    // Asked once for the interfaces, and before and after the run; not around the check.
    let asked = good.read("questions");
    assert_eq!(asked.lines().filter(|line| line.contains("EFA-GEN COUNTERS")).count(), 4, "{asked}");
    let none = Stage::new(2, "cat \"$here/$kind\"");
    let ran = none.validate(&[]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("note: EFA's counters were not read: "), "{}", ran.stderr);
}
