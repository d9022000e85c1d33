//! What others put around the lines of a log changes nothing of what it says.

use std::io::Write;

use crate::support::nccl::{AGES, Run, judged, read};
use efa_gen::nccl::{Outcome, Rank, Reader, Report};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

/// Puts something around the line of this number, which this host wrote.
type Envelope = fn(usize, &str, &str) -> String;

/// Seconds of a day, as a clock shows them.
fn clock(at: usize) -> String {
    format!("{:02}:{:02}:{:02}", at / 3600 % 24, at / 60 % 60, at % 60)
}

const ENVELOPES: [(&str, Envelope); 36] = [
    ("docker logs --timestamps", |at, _, line| format!("2026-11-30T{}.{:09}Z {line}", clock(at), 7 * at + 100)),
    ("a container runtime's file", |at, _, line| format!("2026-11-30T{}.{:09}+00:00 stdout F {line}", clock(at), at)),
    ("journald", |at, _, line| format!("Nov 30 {} head nccl[4711]: {line}", clock(at))),
    ("syslog", |at, _, line| format!("<13>1 2026-11-30T{}.{:06}Z head nccl 4711 - - {line}", clock(at), at)),
    ("CloudWatch's table", |at, _, line| format!("2026-11-30T{} | {line}", clock(at))),
    ("CloudWatch with tabs", |at, _, line| format!("{}\t{line}", 1_796_000_000_000_usize + at)),
    ("GitHub Actions", |at, _, line| format!("2026-11-30T{}.{:07}Z {line}", clock(at), at)),
    ("pdsh", |_, host, line| format!("{host}: {line}")),
    ("pdsh in pdsh", |_, host, line| format!("head: {host}: {line}")),
    ("clush", |_, host, line| format!("{host}: {line}")),
    ("kubectl logs --prefix --timestamps", |at, host, line| {
        format!("[pod/nccl-{host}/mpi] 2026-11-30T{}.{:09}Z {line}", clock(at), at)
    }),
    ("stern", |_, host, line| format!("nccl-{host} mpi {line}")),
    ("docker compose", |_, host, line| format!("{host}-1  | {line}")),
    ("Ray", |_, _, line| format!("(RayTrainWorker pid=77, ip=10.0.0.1) {line}")),
    ("Ray with colours", |_, _, line| format!("\u{1b}[36m(worker pid=1, ip=10.0.0.2)\u{1b}[0m {line}")),
    ("SkyPilot before mpirun", |_, _, line| format!("(head, rank=0, pid=77) [1,0]<stdout>:{line}")),
    ("torchrun", |_, _, line| format!("[default0]:{line}")),
    ("torchrun's rank", |_, _, line| format!("[rank0]: {line}")),
    ("MPICH", |_, _, line| format!("[0] {line}")),
    ("mpirun --timestamp-output", |at, _, line| format!("Mon Nov 30 {} 2026<stdout>:{line}", clock(at))),
    ("mpirun of Open MPI 5", |_, _, line| format!("[prterun-head-77@1,0]<stdout>: {line}")),
    ("a colour's end", |_, _, line| format!("{line}\u{1b}[0m")),
    ("a colour", |_, _, line| format!("\u{1b}[1;32m{line}\u{1b}[39;49m")),
    ("a blank", |_, _, line| format!(" {line}")),
    ("Markdown", |_, _, line| format!("    {line}")),
    ("a quotation", |_, _, line| format!("> {line}")),
    ("grep -n", |at, _, line| format!("{}:{line}", at + 1)),
    ("grep with its file", |_, _, line| format!("run.log:{line}")),
    ("Docker's file", |at, _, line| json(&[("log", &format!("{line}\n")), ("stream", "stdout"), ("time", &clock(at))])),
    ("CloudWatch's JSON", |_, _, line| json(&[("message", line), ("ingestionTime", "1")])),
    ("JSON under another name", |at, _, line| json(&[("at", &clock(at)), ("line", line)])),
    ("JSON with colours", |_, _, line| json(&[("log", &format!("\u{1b}[36m{line}\u{1b}[0m\n")), ("stream", "stderr")])),
    ("aws logs get-log-events", |_, _, line| format!("            \"message\": {},", quoted(line))),
    ("CSV", |at, _, line| format!("\"{}\",\"{line}\"", clock(at))),
    ("tput sgr0", |_, _, line| format!("{line}\u{1b}(B\u{1b}[m")),
    ("Windows", |_, _, line| format!("{line}\r")),
];

fn json(fields: &[(&str, &str)]) -> String {
    let fields = fields.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("it is text")
}

fn wrapped(log: &str, envelope: Envelope) -> String {
    let mut text = String::new();
    for (at, line) in log.lines().enumerate() {
        let host =
            if line.contains(" NCCL INFO ") { line.split(':').next().unwrap_or_default() } else { "ip-10-0-0-0" };
        text += &envelope(at, host, line);
        text.push('\n');
    }
    text
}

/// What counts of a report: all but its own size, and what an envelope calls the hosts.
fn facts(report: Report) -> Report {
    let ranks = report.ranks.into_iter().map(|rank| Rank { outer_host: None, ..rank }).collect();
    Report { lines: 0, ranks, ..report }
}

#[test]
fn the_same_log_in_any_envelope_says_the_same() {
    for age in 0..AGES.len() {
        let log = Run::good(age, 80.0).text();
        let bare = facts(read(&log, Some(0)));
        assert_eq!(judged(&bare, None, 2).outcome, Outcome::Pass);
        for (name, envelope) in ENVELOPES {
            let report = facts(read(wrapped(&log, envelope), Some(0)));
            assert_eq!(report, bare, "{age} {name}");
        }
    }
}

/// One that a shell, a viewer or a program of Windows made of the whole file.
#[test]
fn the_same_log_in_another_encoding_says_the_same() {
    for age in 0..AGES.len() {
        let log = Run::good(age, 80.0).text();
        let bare = facts(read(&log, Some(0)));
        let units: Vec<u16> = log.encode_utf16().collect();
        let little =
            [&[0xff, 0xfe][..], &units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<_>>()].concat();
        let big = [&[0xfe, 0xff][..], &units.iter().flat_map(|unit| unit.to_be_bytes()).collect::<Vec<_>>()].concat();
        let marked = [&[0xef, 0xbb, 0xbf][..], log.as_bytes()].concat();
        let old = log.replace('\n', "\r");
        for (name, bytes) in
            [("UTF-16", &little), ("UTF-16BE", &big), ("UTF-8 with a mark", &marked), ("CR", &old.into_bytes())]
        {
            assert_eq!(facts(read(bytes, Some(0))), bare, "{age} {name}");
            // Where it is cut makes no difference.
            let mut reader = Reader::new();
            bytes.chunks(7).for_each(|piece| reader.feed(piece));
            assert_eq!(facts(reader.finish(Some(0))), bare, "{age} {name} in pieces");
        }
    }
}

/// `mpirun --tag-output` puts its tag before each piece of a row.
#[test]
fn tags_within_a_row_are_taken_out() {
    let log = Run::good(3, 80.0).text();
    let bare = facts(read(&log, Some(0)));
    let tagged: String = log
        .lines()
        .map(|line| match line.split_once("  float") {
            Some((size, rest)) => format!("[1,0]<stdout>:{size}[1,0]<stdout>:  float[1,0]<stdout>:{rest}\n"),
            None => format!("[1,0]<stdout>:{line}\n"),
        })
        .collect();
    assert_eq!(facts(read(tagged, Some(0))), bare);
}

/// One line is no proof of what stands before the others, and what holds a process of NCCL's is no text that repeats.
#[test]
fn a_text_before_a_line_is_learned_from_two() {
    let once = "note: # Out of bounds values : 0 OK\n";
    assert_eq!(read(once, None).out_of_bounds, None);
    let twice = "note: # Avg bus bandwidth    : 7.5 \nnote: # Out of bounds values : 0 OK\n";
    assert_eq!(read(twice, None).out_of_bounds, Some((0, true)));
    let different = "note: # Avg bus bandwidth    : 7.5 \nnotes: # Out of bounds values : 0 OK\n";
    assert_eq!(read(different, None).out_of_bounds, None);
    let process = "a:1:2 # Avg bus bandwidth    : 7.5 \na:1:2 # Out of bounds values : 0 OK\n";
    assert_eq!(read(process, None).out_of_bounds, None);
}

/// A stamp looks like HOST:PID:TID, and is none.
#[test]
fn a_stamp_is_no_process() {
    for stamp in ["10:11:12", "2026-11-30T10:11:12", "[10:11:12]"] {
        let report = read(format!("{stamp} NCCL INFO Using network Libfabric\n"), None);
        assert_eq!((report.networks.len(), report.ranks.len()), (0, 0), "{stamp}");
        assert_eq!(report.unread_lines, 1, "{stamp}: it is said that a line was not read");
    }
}

/// The answer never says "not in the log" of what it could not read.
#[test]
fn lines_that_were_not_read_are_told_with_an_example() {
    let log: String = Run::good(4, 80.0)
        .text()
        .lines()
        .enumerate()
        .map(|(at, line)| format!("{}{}\n", "ab".repeat(at % 7), line.replace(':', "|")))
        .collect();
    let report = read(log, None);
    let verdict = judged(&report, None, 2);
    assert_eq!(verdict.outcome, Outcome::Inconclusive, "{:#?}", verdict.findings);
    let told = verdict.findings.iter().find(|finding| finding.what.contains("could not be read, the first: "));
    assert!(told.is_some(), "{:#?}", verdict.findings);
    assert!(
        !verdict.findings.iter().any(|finding| finding.what.contains("no line by NCCL")),
        "{:#?}",
        verdict.findings
    );
}

#[test]
fn a_compressed_log_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Run::good(4, 80.0).text();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(log.as_bytes()).expect("it is memory");
    let path = folder.path().join("run.log.gz");
    std::fs::write(&path, gzip.finish().expect("it is memory")).expect("a file");
    let ran = crate::support::efa_gen(&["validate", "--exit-status", "0", "--log", path.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && said.contains("EFA-GEN VERDICT: PASS"), "{said}");
    // Half of it is damaged, not short.
    let bytes = std::fs::read(&path).expect("it is there");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("a file");
    let ran = crate::support::efa_gen(&["validate", "--exit-status", "0", "--log", path.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains("can't be decompressed"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is wrong with a run, its envelope hides nothing of it.
    #[test]
    fn any_log_in_any_envelope_is_judged_as_the_bare_one(
        age in 0..AGES.len(),
        envelope in 0..ENVELOPES.len(),
        gdr in any::<bool>(),
        provider in "efa|tcp|efa;ofi_rxd|verbs",
        gone in any::<prop::sample::Index>(),
    ) {
        let log = Run { gdr, provider, ..Run::good(age, 80.0) }.text();
        let lines: Vec<&str> = log.lines().collect();
        let gone = gone.index(lines.len());
        let log: String = lines.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, line)| format!("{line}\n")).collect();
        let (bare, within) = (read(&log, None), read(wrapped(&log, ENVELOPES[envelope].1), None));
        prop_assert_eq!(judged(&within, None, 2).outcome, judged(&bare, None, 2).outcome, "{}", ENVELOPES[envelope].0);
        prop_assert_eq!(facts(within), facts(bare), "{}", ENVELOPES[envelope].0);
    }
}

/// As a rotated log comes, one file behind the other.
#[test]
fn every_frame_of_zstandard_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.log.zst");
    let frame =
        |text: &str| ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    let log = Run::good(4, 80.0).text();
    let (first, second) = log.split_at(log.len() / 2);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let judge = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("a file");
        let ran = crate::support::efa_gen(&["validate", "--exit-status", "0", "--log", path.to_str().expect("a path")]);
        (ran.status.code(), String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr))
    };
    let whole = [skippable.clone(), frame(first), skippable, frame(second)].concat();
    let (code, said) = judge(&whole);
    assert!(code == Some(0) && said.contains("EFA-GEN VERDICT: PASS"), "{said}");
    let (code, said) =
        judge(&[whole.clone(), frame("srun: error: node-1: task 3: Segmentation fault (core dumped)\n")].concat());
    assert!(code == Some(7) && said.contains("Segmentation fault"), "{said}");
    for damaged in [&whole[..whole.len() - 5], &[&whole[..], b"rest"].concat()] {
        let (code, said) = judge(damaged);
        assert!(code == Some(5) && said.contains("can't be decompressed"), "{code:?} {said}");
    }
}

/// A container's end stands beside its last words, or before them in the same line.
#[test]
fn what_an_envelope_says_of_a_failure_is_read_as_well() {
    let log = Run::good(4, 80.0).text();
    for line in [
        r#"{"level":"error","msg":"launcher failed","error":"command terminated with exit code 137"}"#,
        r#"{"message":"Container terminated","reason":"OOMKilled"}"#,
        r#"{"msg":"step","stderr":"srun: error: node1: task 3: Segmentation fault"}"#,
        "srun: error: ip-10-0-0-1: task 9: Killed ip-10-0-0-0:4100:4200 [0] NCCL INFO comm 0x1 - Destroy COMPLETE",
        "[ip-10-0-0-1:04101] Signal: Segmentation fault (11)ip-10-0-0-0:4100:4200 [0] NCCL INFO comm 0x1",
        "terminate called after throwing an instance of 'ip-10-0-0-0:4100:4200 [0] NCCL INFO comm 0x1",
    ] {
        let verdict = judged(&read(format!("{log}{line}\n"), None), None, 2);
        assert_eq!(verdict.outcome, Outcome::Fail, "{line}");
    }
    let other = r#"{"log":"stdout","message":"node-1:11:12 [0] NCCL INFO Using network Libfabric"}"#;
    assert_eq!(read(other, None).networks.len(), 1);
    // A shell that shows a command shows no message.
    let trace = "++ echo ip-10-0-0-0:4100:4200 [0] NCCL INFO NET/OFI Selected Provider is efa\n";
    assert_eq!(read(trace, None).nccl_lines, 0);
    assert_eq!(
        judged(&read(format!("{log}++ grep -c 'Test NCCL failure' run.log\n"), None), None, 2).outcome,
        Outcome::Pass
    );
}

/// Docker's names of containers are hexadecimal, and some are digits alone.
#[test]
fn a_host_may_have_a_number_for_a_name() {
    let log = Run::good(4, 80.0).text().replace("ip-10-0-0-0", "482913075560").replace("ip-10-0-0-1", "182913075561");
    assert_eq!(judged(&read(log, Some(0)), None, 2).outcome, Outcome::Pass);
}

/// What nobody can be called is no host, and takes no memory.
#[test]
fn a_host_has_no_name_longer_than_a_name_can_be() {
    let report = read(format!("{}:1:2 [0] NCCL INFO Using network Libfabric\n", "a".repeat(60_000)), None);
    assert_eq!((report.ranks.len(), report.unread_lines), (0, 1));
}

/// In a log in which every rank's evidence is there, prose and a torn line take nothing away.
#[test]
fn a_line_that_only_looks_like_one_is_a_note_where_all_is_proved() {
    let log = Run::good(4, 80.0).text();
    for line in ["Searching for NCCL INFO lines in the log", "1 [1] NCCL INFO Channel 00/0 : 1[1] -> 2[2] via P2P/IPC"]
    {
        let verdict = judged(&read(format!("{log}{line}\n"), Some(0)), None, 2);
        assert_eq!(verdict.outcome, Outcome::Pass, "{line}: {:#?}", verdict.findings);
        assert!(verdict.notes.iter().any(|note| note.contains(line)), "{:?}", verdict.notes);
    }
    let warning = judged(&read(format!("{log}1 [1] NCCL WARN something\n"), Some(0)), None, 2);
    assert_eq!(warning.outcome, Outcome::Inconclusive);
}

#[test]
fn of_several_footers_the_worst_counts() {
    for age in 0..AGES.len() {
        let bad = Run::good(age, 80.0).text().replace("0 OK", "248 FAILED");
        for later in [
            "Out of bounds values : 0 OK\n",
            "# Out of bounds values : 0 OK\n",
            "run1.log:# Out of bounds values : 0 OK\nrun1.log:# Avg bus bandwidth    : 1\n",
        ] {
            let verdict = judged(&read(format!("{bad}{later}"), Some(0)), None, 2);
            assert_eq!(verdict.outcome, Outcome::Fail, "{age} {later}");
        }
    }
    // However many texts stood before lines already.
    let others: String =
        ('a'..='z').map(|name| format!("{name}: # Avg bus bandwidth : 1\n{name}: # Avg bus bandwidth : 1\n")).collect();
    let log = format!("{others}{}host: # Out of bounds values : 5 FAILED\n", Run::good(4, 80.0).text());
    assert_ne!(judged(&read(log, Some(0)), None, 2).outcome, Outcome::Pass);
}

/// The host that a line names before it, where NCCL calls it by another name.
#[test]
fn where_two_names_of_a_host_differ_both_are_told() {
    let log = Run::good(4, 80.0).text();
    let with = |before: &dyn Fn(&str) -> String| {
        let lines = log.lines().map(|line| {
            let host = if line.contains("ip-10-0-0-1:") { "1" } else { "0" };
            format!("{}{line}\n", before(host))
        });
        let report = read(lines.collect::<String>(), Some(0));
        let verdict = judged(&report, None, 2);
        assert_eq!(verdict.outcome, Outcome::Pass, "{:#?}", verdict.findings);
        let told = verdict.notes.into_iter().find(|note| note.contains("names hosts in another way"));
        (report.ranks[15].outer_host.clone(), told)
    };
    let worker =
        "what stands before the lines names hosts in another way: ip-10-0-0-0 is worker-0, ip-10-0-0-1 is worker-1";
    for before in [
        "worker-{}: ",
        "[pod/worker-{}/nccl] ",
        "Nov 30 10:00:00 worker-{} mpirun[77]: ",
        "2026-11-30T10:00:00.1Z worker-{} | ",
    ] {
        let (outer, told) = with(&|host| before.replace("{}", host));
        assert_eq!((outer.as_deref(), told.as_deref()), (Some("worker-1"), Some(worker)), "{before}");
    }
    for before in [
        "",
        "ip-10-0-0-{}: ",
        "ip-10-0-0-{}.ec2.internal: ",
        "2026-11-30T10:00:00.1Z stdout F ",
        "[1,0]<stdout>:",
        "0: ",
        "Nov 30 10:00:00 ",
    ] {
        let (outer, told) = with(&|host| before.replace("{}", host));
        assert_eq!((outer, told), (None, None), "{before}");
    }
}
