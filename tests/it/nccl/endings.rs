//! What a log says of a run that failed: by its last words, by a warning of the plugin, and by what is no failure.

use crate::support::nccl::{ENDINGS, FAULTS, Run, judged, read};
use efa_gen::nccl::{Check, Finding, Outcome, Report, Severity, Verdict};

/// Judged without a type: bandwidth is not what these are about.
fn verdict(log: &str) -> (Report, Verdict) {
    let report = read(log, None);
    let verdict = judged(&report, None, 2);
    (report, verdict)
}

fn good(age: usize) -> String {
    Run::good(age, 80.0).text()
}

fn failures(verdict: &Verdict) -> Vec<&Finding> {
    verdict.of(Severity::Failure).collect()
}

/// A rank dies after rank 0 has printed the summary, or the pod is killed.
#[test]
fn a_whole_log_with_an_ending_that_says_the_run_died_never_passes() {
    for age in 0..5 {
        for ending in ENDINGS {
            let log = format!("{}{ending}\n", good(age));
            let (_, verdict) = verdict(&log);
            assert_eq!(verdict.outcome, Outcome::Fail, "{age} {ending}: {:#?}", verdict.findings);
            let first = failures(&verdict)[0];
            assert_eq!(first.check, Check::RunFailed, "{ending}");
            assert!(first.what.contains(ending) && !first.to_do.is_empty(), "{ending}: {}", first.what);
        }
    }
}

/// The same words where they mean nothing of the kind.
#[test]
fn words_that_say_that_all_went_well_are_no_failure() {
    for ending in [
        "command terminated with exit code 0",
        "worker-1 exited with code 0",
        "Process completed with exit code 0.",
        "+ kubectl exec pod -- false || echo command terminated with exit code 1",
        "logout",
    ] {
        let (_, verdict) = verdict(&format!("{}{ending}\n", good(4)));
        assert_eq!(verdict.outcome, Outcome::Pass, "{ending}: {:#?}", verdict.findings);
    }
}

fn warning(rank: u64, text: &str) -> String {
    format!(
        "ip-10-0-0-{}:{}:{} [{}] int fault(void):99 NCCL WARN {text}\n",
        rank / 8,
        4100 + rank,
        4300 + rank,
        rank % 8
    )
}

/// The commonest faults of EFA stand in the log as the plugin's warnings alone.
#[test]
fn a_warning_of_the_plugin_is_the_reason_with_rank_host_and_what_to_do() {
    for (text, to_do) in FAULTS {
        // A log that ends with it, before anything was measured.
        let whole = good(4);
        let head = &whole[..whole.find("#       size").expect("a header")];
        let (_, cut) = verdict(&format!("{head}{}", warning(9, text)));
        let found = failures(&cut);
        assert_eq!(cut.outcome, Outcome::Fail, "{text}");
        let reason = &found[0];
        assert_eq!(reason.check, Check::RunFailed, "{text}: {found:#?}");
        assert!(reason.what.contains("rank 9 (host ip-10-0-0-1)") && reason.what.contains(text), "{}", reason.what);
        assert!(reason.to_do.contains(to_do), "{text}: {}", reason.to_do);
        assert!(cut.sentence.contains(text), "{}", cut.sentence);
        // The same after the summary: a whole run does not lose a request.
        let (_, after) = verdict(&format!("{whole}{}", warning(9, text)));
        assert_eq!(after.outcome, Outcome::Fail, "{text}: {:#?}", after.findings);
    }
}

/// A try that failed before the same process selected a provider is none.
#[test]
fn what_failed_before_a_provider_was_selected_was_a_try() {
    let whole = good(4);
    let selected = whole.find("NCCL INFO NET/OFI Selected provider").expect("it is there");
    let line = whole[..selected].rfind('\n').map_or(0, |at| at + 1);
    let text = warning(0, "NET/OFI Couldn't open domain. RC: -22, ERROR: Invalid argument");
    let (_, before) = verdict(&format!("{}{text}{}", &whole[..line], &whole[line..]));
    assert_eq!(before.outcome, Outcome::Pass, "{:#?}", before.findings);
    assert!(before.notes.iter().any(|note| note.contains("Couldn't open domain")), "{:?}", before.notes);
    // Memory that was refused is not: a limit does not go away.
    let text = warning(0, "NET/OFI Couldn't open CQ. RC: -12, ERROR: Cannot allocate memory");
    let (_, memory) = verdict(&format!("{}{text}{}", &whole[..line], &whole[line..]));
    assert_eq!(memory.outcome, Outcome::Fail);
    // Nor that of another process.
    let text = warning(0, "NET/OFI Couldn't open domain. RC: -22, ERROR: Invalid argument").replace(":4100:", ":999:");
    let (_, other) = verdict(&format!("{}{text}{}", &whole[..line], &whole[line..]));
    assert_eq!(other.outcome, Outcome::Fail);
}

/// GIN, the tuner and the topology warn in good runs.
#[test]
fn a_warning_after_a_whole_run_is_a_note_and_before_its_end_a_reason() {
    for text in [
        "GIN/Plugin: Could not find: libnccl-gin.so",
        "TUNER/Plugin: no tuner",
        "graph/xml.cc: no such attribute",
        "NET/OFI GIN only supports RDMA transport protocol.",
        "NET/OFI Failed to initialize GDRCopy: Failed to open gdr handle",
        "NET/OFI Failed to resolve GDRCopy v2 API",
    ] {
        let whole = good(4);
        let (_, after) = verdict(&format!("{whole}{}", warning(3, text)));
        assert_eq!(after.outcome, Outcome::Pass, "{text}: {:#?}", after.findings);
        assert!(after.notes.iter().any(|note| note.contains(text) && note.contains("rank 3")), "{:?}", after.notes);
        // Without its beginning nothing fails, and the warning may be why there is no more.
        let (_, excerpt) = verdict(&warning(3, text));
        assert_eq!(excerpt.outcome, Outcome::Inconclusive, "{text}: {:#?}", excerpt.findings);
        let told = excerpt.findings.iter().any(|finding| finding.what.contains(text));
        assert_eq!(told, text.starts_with("graph"), "{:#?}", excerpt.findings);
        assert!(told || excerpt.notes.iter().any(|note| note.contains(text)), "{:?}", excerpt.notes);
    }
}

#[test]
fn a_program_that_was_not_built_for_the_gpu_is_told_so() {
    for (text, to_do) in [
        ("Cuda failure 'named symbol not found'", "NVCC_GENCODE"),
        ("Cuda failure 209 'no kernel image is available for execution on the device'", "NVCC_GENCODE"),
        ("Cuda failure 2 'out of memory'", "nvidia-smi"),
        ("Cuda failure 'unknown error'", "Xid"),
    ] {
        let whole = good(4);
        let head = &whole[..whole.find("#       size").expect("a header")];
        let last = "ip-10-0-0-1: Test NCCL failure all_reduce.cu:44 'unhandled cuda error (run with NCCL_DEBUG=INFO for details) / '\n";
        let (_, verdict) = verdict(&format!("{head}{}{last}", warning(9, text)));
        let first = failures(&verdict)[0];
        assert!(first.what.contains(text) && first.to_do.contains(to_do), "{first:#?}");
        // Who has NCCL's lines is not sent for them.
        assert!(
            !verdict.findings.iter().any(|finding| finding.to_do.contains("NCCL_DEBUG=INFO")),
            "{:#?}",
            verdict.findings
        );
    }
    let (_, bare) = verdict("ip-10-0-0-1: Test NCCL failure all_reduce.cu:44 'unhandled cuda error'\n");
    assert!(failures(&bare)[0].to_do.contains("NCCL_DEBUG=INFO"), "{:#?}", bare.findings);
}

/// Whoever waits for a missing plugin has no other reason; whoever was ended by Slurm has one.
#[test]
fn a_plugin_that_was_not_found_is_told_and_not_blamed() {
    let missing =
        "node-1:11:22 [0] NCCL INFO NET/Plugin: No plugin found (libnccl-net.so), using internal implementation\n";
    let (_, alone) = verdict(missing);
    assert_eq!(alone.outcome, Outcome::Fail);
    assert!(
        failures(&alone)[0].what.starts_with("NCCL did not find the plugin on process 11 of node-1"),
        "{:#?}",
        alone.findings
    );
    let limit = "slurmstepd: error: *** JOB 77 ON node-1 CANCELLED AT 2026-11-30T10:00:00 DUE TO TIME LIMIT ***\n";
    let (_, ended) = verdict(&format!("{missing}{limit}"));
    assert!(failures(&ended)[0].what.contains("DUE TO TIME LIMIT"), "{:#?}", ended.findings);
}

/// Rank lines that leave ranks out name some hosts, not all.
#[test]
fn one_host_of_an_incomplete_list_is_not_the_only_one() {
    let whole = good(4);
    let kept: String = whole
        .lines()
        .filter(|line| !line.contains(" Rank ") || line.contains("Rank 15"))
        .fold(String::new(), |text, line| text + line + "\n");
    let (report, verdict) = verdict(&kept);
    assert_eq!((report.hosts.len(), verdict.outcome), (1, Outcome::Inconclusive), "{:#?}", verdict.findings);
    // A list that is whole and of one host is.
    let one = Run { hosts: 1, ..Run::good(4, 80.0) }.text();
    assert_eq!(judged(&read(one, None), None, 2).outcome, Outcome::Fail);
}

#[test]
fn hosts_are_those_of_nccls_lines_where_there_are_no_others() {
    let lines: String =
        good(2).lines().filter(|line| line.contains("NCCL INFO")).fold(String::new(), |text, line| text + line + "\n");
    let (report, verdict) = verdict(&lines.replace("Selected Provider", "Some Provider"));
    assert_eq!((report.hosts.len(), report.ranks.len(), report.rank_count()), (2, 16, 0));
    assert_eq!(verdict.outcome, Outcome::Inconclusive);
    let named = "NCCL's own lines name 16 processes of 2 hosts (ip-10-0-0-0, ip-10-0-0-1)";
    assert!(verdict.findings.iter().any(|finding| finding.what.contains(named)), "{:#?}", verdict.findings);
}

/// A GPU of 16 GiB can't hold the buffers of 16 GiB: nccl-tests says so and ends earlier.
#[test]
fn a_run_that_nccl_tests_cut_short_by_itself_is_whole() {
    let whole = good(4);
    let asked = whole.replace("maxBytes 1073741824", "maxBytes 17179869184");
    let (_, short) = verdict(&asked);
    assert_eq!(failures(&short)[0].check, Check::Incomplete);
    let header = asked.find("#       size").expect("a header");
    let reduced =
        format!("{}# Reducing maxBytes to 1073741824 due to memory limitation\n{}", &asked[..header], &asked[header..]);
    let (_, verdict) = verdict(&reduced);
    assert_eq!(verdict.outcome, Outcome::Pass, "{:#?}", verdict.findings);
    assert!(verdict.notes.iter().any(|note| note.contains("reduced the largest size to 1 GiB")), "{:?}", verdict.notes);
    // Not where it ends before that size.
    let (_, cut) = super::endings::verdict(&reduced.replace("maxBytes to 1073741824", "maxBytes to 2147483648"));
    assert_eq!(failures(&cut)[0].check, Check::Incomplete);
}

#[test]
fn a_run_that_ended_without_its_average_is_not_called_unfinished() {
    let cut = |age: usize| {
        good(age).lines().filter(|line| !line.contains("Avg bus")).fold(String::new(), |text, line| text + line + "\n")
    };
    let (_, ended) = verdict(&cut(4));
    assert_eq!(ended.outcome, Outcome::Inconclusive, "{:#?}", ended.findings);
    assert!(ended.findings[0].what.contains("`Avg bus bandwidth`"), "{:#?}", ended.findings);
    // Older ones say nothing after it.
    assert_eq!(verdict(&cut(1)).1.outcome, Outcome::Fail);
}

/// Up to nccl-tests 2.13.3, and hypercube until today, the operation of a test that has none is blank.
#[test]
fn rows_without_an_operation_are_read() {
    for age in 0..5 {
        let whole = good(age);
        let (with, _) = verdict(&whole);
        let blank = whole.replace("  float     sum", "  float        ");
        let (without, judged) = verdict(&blank);
        assert_eq!((without.row_count, without.damaged_rows), (with.row_count, 0), "{age}");
        assert_eq!(without.last, with.last, "{age}");
        assert_eq!(without.rows.last().map(|row| row.redop.as_str()), Some(""), "{age}");
        assert_eq!(judged.outcome, Outcome::Pass, "{age}: {:#?}", judged.findings);
        // Nor is a field that is missing elsewhere taken for it.
        let row = blank.lines().rfind(|line| line.contains("  float  ")).expect("a row");
        let (cut, _) = verdict(&blank.replace(row, &row[..row.len() - 7]));
        assert_eq!(cut.damaged_rows, 1, "{age}");
    }
}

/// Web pages and documents lose the first letter of a line.
#[test]
fn a_footer_without_its_sign_is_read() {
    for age in 0..5 {
        let lost = good(age).replace("\n#", "\n").replace("0 OK", "248 FAILED");
        let (report, verdict) = verdict(lost.strip_prefix('#').unwrap_or(&lost));
        assert_eq!((report.out_of_bounds, report.rank_count()), (Some((248, false)), 16), "{age}");
        assert_eq!(failures(&verdict)[0].check, Check::WrongResult, "{age}: {:#?}", verdict.findings);
    }
    let (short, _) = verdict("Out of bounds values : 248 FAILED\n");
    assert_eq!(short.out_of_bounds, Some((248, false)));
}

/// nccl-tests before 2.16.7 do not name themselves.
#[test]
fn a_test_without_a_name_is_told_by_its_rows() {
    let of = |change: &dyn Fn(String) -> String| verdict(&change(good(3))).0.inferred_collective;
    assert_eq!(of(&|log| log), Some("all_reduce"));
    assert_eq!(of(&|log| log.replace("sum     -1", "sum      0")), Some("reduce"));
    assert_eq!(of(&|log| log.replace("sum     -1", "none      0")), Some("broadcast"));
    let (named, _) = verdict(&good(4));
    assert_eq!((named.inferred_collective, named.collective.as_deref()), (None, Some("all_reduce_perf")));
    // A sendrecv never compares in place, and is not held against all_reduce's bar.
    let alone = good(3)
        .lines()
        .map(|line| match line.strip_suffix("      0") {
            Some(row) if line.contains("  float  ") => format!("{row}    N/A\n"),
            _ => format!("{line}\n"),
        })
        .collect::<String>();
    let report = read(&alone, Some(0));
    assert_eq!(report.inferred_collective, Some("sendrecv"));
    let verdict = judged(&report, Some("p4d.24xlarge"), 2);
    assert_eq!((verdict.outcome, verdict.bar), (Outcome::Pass, None), "{:#?}", verdict.findings);
}

#[test]
fn whole_numbers_do_not_round() {
    let old = good(1).replace("  float  ", "  uint8  ");
    assert_eq!(verdict(&old.replace("5e-07", "0e+00")).1.outcome, Outcome::Pass);
    let (report, wrong) = verdict(&old.replace("5e-07", "3e+02"));
    assert!(report.wrong_values > 0 && failures(&wrong)[0].check == Check::WrongResult);
}

/// A list that ends too early has no hole. NCCL says how many ranks there are, and names processes of its own.
#[test]
fn ranks_that_no_line_proves_are_never_passed_over() {
    let three = Run { hosts: 3, ..Run::good(4, 80.0) }.text();
    let of_third = |line: &&str| {
        let rank = line.split_once(" Rank ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u32>().ok());
        !line.contains("ip-10-0-0-2") && rank.is_none_or(|rank| rank < 16)
    };
    let kept: String = three.lines().filter(of_third).map(|line| format!("{line}\n")).collect();
    let comm = "ip-10-0-0-1:4108:4308 [0] NCCL INFO comm 0x1 rank 8 nranks 24 cudaDev 0 busId 101c0 - Init COMPLETE\n";
    let (report, tail) = verdict(&format!("{comm}{kept}"));
    assert_eq!((report.rank_count(), tail.outcome), (16, Outcome::Inconclusive), "{:#?}", tail.findings);
    // A process without a Rank line, which says nothing of its network.
    let gone = |line: &&str| !line.contains("Rank 15") && !line.contains(":4115:4315");
    let silent: String = good(4).lines().filter(gone).map(|line| format!("{line}\n")).collect();
    let stranger = "ip-10-0-0-1:4115:4315 [7] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>\n";
    let (_, strange) = verdict(&format!("{silent}{stranger}"));
    assert_eq!(strange.outcome, Outcome::Inconclusive, "{:#?}", strange.findings);
    // Of how many hosts it was is not known, so no bar judges it.
    let four = Run { hosts: 4, ..Run::good(4, 20.0) }.text();
    let listed = |line: &&str| !line.contains(" Rank ") || line.contains("ip-10-0-0-0") || line.contains("ip-10-0-0-1");
    let listed: String = four.lines().filter(listed).map(|line| format!("{line}\n")).collect();
    let barless = judged(&read(listed, Some(0)), Some("p4d.24xlarge"), 2);
    assert_eq!((barless.outcome, barless.bar), (Outcome::Inconclusive, None), "{:#?}", barless.findings);
}

/// The first fault of a kind is the cause; who says another thing later is not said to have said it.
#[test]
fn the_first_fault_of_a_kind_is_quoted_with_who_said_it() {
    let whole = good(4);
    let head = &whole[..whole.find("#       size").expect("a header")];
    let first = warning(9, "NET/OFI Request 0x1 completed with error. RC: 20. Error: unreachable remote");
    let later = warning(3, "NET/OFI Request 0x2 completed with error. RC: 125. Error: operation canceled");
    let (_, told) = verdict(&format!("{head}{first}{later}"));
    let reason = &failures(&told)[0].what;
    assert!(
        reason.contains("on rank 9 (host ip-10-0-0-1): NET/OFI Request 0x1") && !reason.contains("rank 3"),
        "{reason}"
    );
    assert!(reason.ends_with("; 1 rank reported a similar error later"), "{reason}");
    // Whose peer was killed has another question first.
    let killed = "mpirun noticed that process rank 1 with PID 9990 on node 10.9.0.2 exited on signal 9 (Killed).\n";
    let (_, died) = verdict(&format!("{head}{first}{killed}"));
    assert!(failures(&died)[0].what.starts_with("mpirun noticed"), "{:#?}", died.findings);
    assert!(failures(&died)[0].to_do.contains("out-of-memory killer"), "{:#?}", died.findings);
    assert!(failures(&died)[1].to_do.starts_with("a process died"), "{:#?}", died.findings);
}

/// Another program's log has NCCL's lines and nothing of nccl-tests.
#[test]
fn a_training_log_gets_what_it_can_have() {
    let log = good(3);
    let lines = log.lines().filter(|line| line.contains(" NCCL INFO ")).map(|line| format!("{line}\n"));
    let training: String = lines.collect();
    let (report, told) = verdict(&training);
    assert_eq!((told.outcome, report.hosts.len()), (Outcome::Inconclusive, 2));
    let what = "EFA on 16 of 16 processes of 2 hosts; no bandwidth was measured: the log holds no result of nccl-tests";
    assert_eq!(told.findings[0].what, what);
    assert_eq!(told.findings.len(), 1, "{:#?}", told.findings);
    // One that says nothing of it, and one that says something else.
    let silent = training.replacen("NET/OFI Selected", "NET/OFI silent", 1);
    assert!(verdict(&silent).1.findings[0].what.starts_with("EFA on 15 of 16 processes of 2 hosts"));
    let (_, other) = verdict(&training.replacen("provider is efa", "provider is tcp", 1).replacen(
        "Provider is efa",
        "Provider is tcp",
        1,
    ));
    assert_eq!(other.outcome, Outcome::Fail, "{:#?}", other.findings);
    let none = training.replace("NET/OFI Selected", "NET/OFI silent");
    assert_eq!(verdict(&none).1.findings[0].what, "the log holds no result of nccl-tests");
}
