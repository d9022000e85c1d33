//! The verdict that the rendered script gives of an all_reduce_perf log. The logs of real runs are our own: those of
//! nccl-tests 2.18.3 are what the rendered script itself ran and judged on two H200 without EFA.

use std::fs;

use crate::support::nccl::{AGES, Run, fixture};
use crate::support::sandbox::Sandbox;
use efa_gen::nccl::{Check, Expect, Outcome, Reader, Severity};
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
    let read = |name: &str| {
        fs::read_to_string(crate::support::in_repository("tests/fixtures/nccl").join(name))
            .expect("the fixture is there")
    };
    let good = read("one-host-efa.log");
    let (code, said) = judge(&good, 0);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("EFA-GEN VERDICT: PASS on one host"), "{said}");
    let cases = [
        (good.clone(), 1, "exit status 1"),
        (read("ar-v2.18.3-ofi-asked-for-efa.log"), 3, "exit status 3: NET/OFI Unable to find a protocol that worked."),
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
            "libfabric provider efa tcp instead of efa",
        ),
        (
            good.replace("Using network AWS Libfabric", "Using network Socket"),
            0,
            "NCCL uses network Socket instead of the plugin",
        ),
        (read("ar-v2.19.6-ofi-tcp.log"), 0, "libfabric provider tcp instead of efa"),
        (read("ar-v2.19.6-ofi-efa-absent.log"), 0, "no rank selected a libfabric provider"),
        (read("ar-v2.19.6-net-socket.log"), 0, "no rank selected a libfabric provider"),
        (read("ar-v2.18.3-two-gpus-ofi-tcp.log"), 0, "libfabric provider tcp instead of efa"),
        (read("ar-v2.18.3-two-gpus-net-socket.log"), 0, "no rank selected a libfabric provider"),
        (read("ar-truncated.log"), 0, "the log is incomplete"),
        (String::new(), 0, "the log is incomplete"),
    ];
    for (log, status, why) in cases {
        let (code, said) = judge(&log, status);
        assert_eq!(code, Some(7), "{why}: {said}");
        assert!(said.contains(&format!("EFA-GEN VERDICT: FAIL: {why}")), "{why}: {said}");
    }
}

/// A guest has no efa-gen, so the script has a judge of its own: of a run on one host it must not think better than efa-gen,
/// but for rows that are not there (it does not count them), and not worse of a good one.
#[test]
fn the_script_and_efa_gen_agree_on_every_log() {
    let mut logs: Vec<(String, String, i32)> = Vec::new();
    for entry in fs::read_dir(crate::support::in_repository("tests/fixtures/nccl")).expect("the fixtures are there") {
        let name = entry.expect("the folder can be read").file_name().to_string_lossy().into_owned();
        if name.ends_with(".log") {
            let (log, status) = fixture(&name);
            logs.push((name, log, status.unwrap_or(0)));
        }
    }
    // Older NCCL does not name its network, and no stack has it.
    for (index, age) in AGES.iter().enumerate().filter(|(_, age)| age.says_network) {
        let good = Run { hosts: 1, gpus: 2, ..Run::good(index, 45.8) };
        logs.push((format!("a good run, {}", age.nccl), good.text(), 0));
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, log, status) in logs {
        let mut reader = Reader::new();
        reader.feed(log.as_bytes());
        let verdict = efa_gen::nccl::judge(&reader.finish(Some(status)), &Expect { hosts: 1, ..Expect::default() });
        let (code, said) = judge(&log, status);
        if code == Some(0) {
            let against = verdict
                .findings
                .iter()
                .find(|finding| finding.severity != Severity::Warning && finding.check != Check::Incomplete);
            assert!(against.is_none(), "{name}: {against:?}");
            passed += 1;
        } else {
            assert_ne!(verdict.outcome, Outcome::Pass, "{name}: {said}");
            failed += 1;
        }
    }
    assert!(passed > 2 && failed > 8, "{passed} passed, {failed} failed");
}
