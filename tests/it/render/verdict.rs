//! The verdict that the rendered script gives of an all_reduce_perf log. The logs of real runs are our own: those of
//! nccl-tests 2.18.3 are what the rendered script itself ran and judged on two H200 without EFA.

use std::fs;

use crate::support::sandbox::Sandbox;
use efa_gen::plan::{Action, Word};

/// Runs the NCCL test with a stand-in for mpirun that prints this log and exits so.
fn judge(log: &str, status: i32) -> (Option<i32>, String) {
    let sandbox = Sandbox::new();
    sandbox.write("gpus", "2");
    sandbox.write("the-log", log);
    sandbox.program("mpirun", &format!("cat {}; exit {status}", sandbox.text("the-log")));
    let argv = vec![Word::literal("mpirun"), Word::literal("-n"), Word::template("{gpus}")];
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
