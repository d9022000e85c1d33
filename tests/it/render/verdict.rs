//! The verdict that the rendered script gives of an all_reduce_perf log. The logs of real runs are our own: those of
//! nccl-tests 2.18.3 are what the rendered script itself ran and judged on two H200 without EFA.

use std::fs;

use crate::support::nccl::{AGES, ENDINGS, FAULTS, PREFIXES, Run, fixture, read, shared};
use crate::support::sandbox::Sandbox;
use efa_gen::nccl::{Expect, Outcome};
use efa_gen::plan::{Action, Argument};

/// Runs the NCCL test with a stand-in for mpirun that prints this log and exits so.
fn judge(log: &str, status: i32) -> (Option<i32>, String) {
    let sandbox = Sandbox::new();
    sandbox.write("gpus", "2");
    sandbox.write("the-log", log);
    sandbox.program("mpirun", &format!("cat {}; exit {status}", sandbox.text("the-log")));
    let argv = vec![Argument::literal("mpirun"), Argument::literal("-n"), Argument::template("{gpus}")];
    sandbox.run_actions(vec![Action::NcclTest { argv, hostfile: sandbox.text("hostfile"), timeout_s: 30 }])
}

#[test]
fn the_verdict_is_read_from_the_log_not_from_the_exit_status() {
    let good = Run { hosts: 1, gpus: 2, ..Run::good(3, 45.8) }.text();
    let (code, said) = judge(&good, 0);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("EFA-GEN VERDICT: PASS on one host"), "{said}");
    let cases = [
        (good.clone(), 1, "exit status 1"),
        (
            recorded("ar-v2.18.3-ofi-asked-for-efa.log"),
            3,
            "exit status 3: NET/OFI Unable to find a protocol that worked.",
        ),
        (good.clone(), 124, "it did not end in time"),
        (good.replace("# Out of bounds values : 0 OK", "# Out of bounds values : 3 FAILED"), 0, "wrong values"),
        (good.replace("# Avg bus bandwidth", "# "), 0, "the log is incomplete"),
        (
            good.replace("NET/OFI Selected Provider is efa", "NET/OFI something else"),
            0,
            "no rank selected a libfabric provider",
        ),
        (
            good.replacen("Selected Provider is efa", "Selected Provider is tcp;ofi_rxm", 1),
            0,
            "libfabric provider tcp efa instead of efa",
        ),
        (
            good.replace("Using network AWS Libfabric", "Using network Socket"),
            0,
            "NCCL uses network Socket instead of the plugin",
        ),
        (recorded("ar-v2.19.6-ofi-tcp.log"), 0, "libfabric provider tcp instead of efa"),
        (recorded("ar-v2.19.6-ofi-efa-absent.log"), 0, "no rank selected a libfabric provider"),
        (recorded("ar-v2.19.6-net-socket.log"), 0, "no rank selected a libfabric provider"),
        (recorded("ar-v2.18.3-two-gpus-ofi-tcp.log"), 0, "libfabric provider tcp instead of efa"),
        (recorded("ar-v2.18.3-two-gpus-net-socket.log"), 0, "no rank selected a libfabric provider"),
        (recorded("ar-truncated.log"), 0, "the log is incomplete"),
        (recorded("one-host-efa.log"), 0, "the log is incomplete: 2 of 28 rows"),
        (String::new(), 0, "the log is incomplete"),
    ];
    for (log, status, why) in cases {
        let (code, said) = judge(&log, status);
        assert_eq!(code, Some(7), "{why}: {said}");
        assert!(said.contains(&format!("EFA-GEN VERDICT: FAIL: {why}")), "{why}: {said}");
    }
}

/// A log of a real run, without the exit status that its recorder wrote at its end.
fn recorded(name: &str) -> String {
    let lines = fixture(name).0;
    lines.split_inclusive('\n').filter(|line| !line.starts_with("rc=")).collect()
}

/// A guest has no efa-gen, so the script has a judge of its own. What it makes itself has no prefix, is of one host and of the
/// stacks' nccl-tests: on such logs it passes what efa-gen passes, and nothing else.
#[test]
fn the_script_and_efa_gen_agree_on_every_log_of_its_own() {
    let mut logs: Vec<(String, String, i32)> = Vec::new();
    // Older NCCL does not name its network, and no stack has it.
    for (index, age) in AGES.iter().enumerate().filter(|(_, age)| age.says_network) {
        let good = Run { hosts: 1, gpus: 2, ..Run::good(index, 45.8) }.text();
        logs.push((format!("{}: good", age.nccl), good.clone(), 0));
        logs.push((format!("{}: reduced", age.nccl), reduced(&good), 0));
        let lines: Vec<&str> = good.split_inclusive('\n').collect();
        for cut in (1..=12).chain([20, 35]).filter(|cut| *cut < lines.len()) {
            logs.push((format!("{}: {cut} lines missing", age.nccl), lines[..lines.len() - cut].concat(), 0));
            let without = [&lines[..lines.len() - cut], &lines[lines.len() - cut + 1..]].concat().concat();
            // That of the sum is checked against the rows by efa-gen alone; its neighbours are blank comments.
            if lines[lines.len() - cut].trim() != "#" {
                logs.push((format!("{}: without line {cut} from the end", age.nccl), without, 0));
            }
        }
        for (from, to) in [
            ("provider is efa", "provider is tcp;ofi_rxm"),
            ("Provider is efa", "Provider is tcp;ofi_rxm"),
            ("Using network", "Not using network"),
            ("NET/OFI Selected", "NET/OFI did not select"),
            ("values : 0 OK", "values : 3 FAILED"),
        ] {
            logs.push((format!("{}: {to}", age.nccl), good.replacen(from, to, 1), 0));
        }
        logs.push((format!("{}: status 1", age.nccl), good, 1));
    }
    let newest = Run { hosts: 1, gpus: 2, ..Run::good(4, 45.8) }.text();
    for ending in ENDINGS {
        logs.push((ending.to_owned(), format!("{newest}{ending}\n"), 0));
    }
    for (text, _) in FAULTS {
        let warning = format!("ip-10-0-0-0:4101:4301 [1] int fault(void):99 NCCL WARN {text}\n");
        logs.push((format!("after: {text}"), format!("{newest}{warning}"), 0));
    }
    for (name, log, status) in &logs {
        let library = efa_gen::nccl::judge(&read(log, Some(*status)), &Expect { hosts: 1, ..Expect::default() });
        let (code, said) = judge(log, *status);
        let passes = library.outcome == Outcome::Pass;
        assert_eq!(code == Some(0), passes, "{name}: {said}\n{:?}", library.findings);
    }
    assert!(logs.len() > 100, "{}", logs.len());
}

/// The same run on a GPU with less memory: nccl-tests says so, and measures fewer sizes.
fn reduced(log: &str) -> String {
    let asked = "maxBytes 1073741824";
    let said = "# Reducing maxBytes to 1073741824 due to memory limitation\n";
    let at = log.find("#       size").expect("a header");
    format!("{}{said}{}", log[..at].replace(asked, "maxBytes 17179869184"), &log[at..])
}

/// Of all other logs it never passes what efa-gen fails.
#[test]
fn the_script_passes_nothing_that_efa_gen_fails() {
    let (mut passed, mut failed) = (0, 0);
    for entry in fs::read_dir(crate::support::in_repository("tests/fixtures/nccl")).expect("the fixtures are there") {
        let name = entry.expect("the folder can be read").file_name().to_string_lossy().into_owned();
        if name.ends_with(".log") {
            let (log, status) = fixture(&name);
            let did = not_better(&name, &log, status.unwrap_or(0));
            (passed, failed) = (passed + usize::from(did), failed + usize::from(!did));
        }
    }
    for (index, _) in AGES.iter().enumerate() {
        let two = Run::good(index, 45.8);
        not_better("two hosts", &two.text(), 0);
        for prefix in PREFIXES {
            not_better("a prefix", &Run { prefix, ..two.clone() }.text(), 0);
        }
    }
    assert!(failed > 8, "{passed} passed, {failed} failed");
}

#[test]
#[ignore = "reads other people's logs, in the folder that EFA_GEN_SHARED names"]
fn the_script_passes_none_of_other_peoples_logs_that_efa_gen_fails() {
    for folder in ["nccl-logs/public", "nccl-logs/field", "nccl-logs/ours-two-hosts"] {
        for entry in fs::read_dir(shared(folder)).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            let log = fs::read(&path).expect("a log");
            not_better(&path.display().to_string(), &String::from_utf8_lossy(&log), 0);
        }
    }
}

/// Whether the script passes this log; then efa-gen does not fail it.
fn not_better(name: &str, log: &str, status: i32) -> bool {
    let library = efa_gen::nccl::judge(&read(log, Some(status)), &Expect { hosts: 1, ..Expect::default() });
    let (code, said) = judge(log, status);
    let passes = code == Some(0);
    assert!(!passes || library.outcome != Outcome::Fail, "{name}: {said}\n{:?}", library.findings);
    passes
}
