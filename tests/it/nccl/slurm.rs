//! `efa-gen validate --slurm`: the batch job, run with a stand-in for srun and judged by the binary itself.

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use crate::support::mpirun::Stage;
use crate::support::nccl::{Prefix, Run};
use crate::support::{efa_gen, run_in, stderr, stdout};

/// The job of these flags, with the programs in this folder below the test's own.
fn job(stage: &Stage, tests: &str, flags: &[&str]) {
    let fixed = ["validate", "--slurm", "--nodes", "2", "--instance-type", "p4d.24xlarge", "--tests-dir", tests];
    let ran = run_in(&stage.path(""), &[&fixed, flags].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    stage.write("job", &ran.stdout);
    let check = Command::new("bash").args(["-n", "job"]).current_dir(stage.path("")).output().expect("bash starts");
    assert!(check.status.success(), "{}", stderr(&check));
}

/// A stage whose srun labels its lines as srun does, and the job run on it. `with_efa_gen`: whether the job finds it.
fn submitted(script: &str, flags: &[&str], with_efa_gen: bool) -> (Stage, Output) {
    let stage = Stage::new(2, "");
    for (name, run) in [("check", Run::good(4, 45.8).up_to(8 << 20)), ("full", Run::good(4, 45.8))] {
        stage.write(name, &Run { prefix: Prefix::Srun, ..run }.text());
    }
    stage.program("srun", script);
    job(&stage, ".", flags);
    if with_efa_gen {
        symlink(env!("CARGO_BIN_EXE_efa-gen"), stage.path("efa-gen")).expect("a link can be made");
    }
    let path = format!("{}:/usr/bin:/bin", stage.path("").display());
    let mut bash = Command::new("bash");
    bash.arg("job").current_dir(stage.path("")).env_clear().env("PATH", path).env("SLURM_JOB_ID", "17");
    let output = bash.output().expect("bash starts");
    (stage, output)
}

const REPLAY: &str = "cat \"$here/$kind\"";

#[test]
fn a_pass_is_status_0() {
    let (stage, output) = submitted(REPLAY, &["--stack", "cuda-11.8"], true);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(stdout(&output).matches("EFA-GEN VERDICT: PASS: EFA on every one of 16 ranks on 2 hosts").count(), 2);
    let calls = stage.calls();
    assert_eq!(calls.len(), 2);
    let flags = "|--mpi=pmix|--export=ALL|--nodes=2|--ntasks=16|--ntasks-per-node=8|--label|--kill-on-bad-exit=1|./all_reduce_perf";
    assert_eq!(calls[0], format!("{flags}|-b|8|-e|8388608|-f|2|-g|1|-c|1|-n|5"));
    assert_eq!(calls[1], format!("{flags}|-b|8|-e|1073741824|-f|2|-g|1|-c|1|-n|20"));
    assert_eq!(stage.read("efa-gen-validate-17.all-reduce.log"), stage.read("full"));
}

#[test]
fn the_environment_arrives() {
    let script = format!("env >\"$here/env\"; {REPLAY}");
    let (stage, output) = submitted(&script, &["--stack", "cuda-11.8"], true);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let environment = stage.read("env");
    for line in [
        "NCCL_NET=AWS Libfabric",
        "NCCL_SOCKET_IFNAME=^lo,docker,virbr,br-,cni",
        "NCCL_ALGO=Ring",
        "FI_EFA_USE_DEVICE_RDMA=1",
    ] {
        assert!(environment.lines().any(|set| set == line), "{line}: {environment}");
    }
    let path = environment.lines().find_map(|line| line.strip_prefix("LD_LIBRARY_PATH=")).expect("it is set");
    assert!(path.split(':').all(|folder| folder.starts_with('/')), "an empty one would be the current folder: {path}");
}

#[test]
fn what_is_no_pass_is_no_status_0() {
    let cases: [(&str, &[&str], i32, &str, usize); 10] = [
        ("sed 's/Using network Libfabric/Using network Socket/' \"$here/$kind\"", &[], 7, "FAIL: socket fallback", 1),
        (
            "[ $kind = check ] || set -- -e 's/values : 0 OK/values : 3 FAILED/'; sed -e '' \"$@\" \"$here/$kind\"",
            &[],
            7,
            "FAIL: wrong result",
            2,
        ),
        ("cat \"$here/$kind\"; exit 3", &[], 7, "FAIL: run failed: exit status 3", 1),
        (
            "echo 'srun: error: Unable to allocate resources'; exit 1",
            &[],
            7,
            "FAIL: run failed: srun: error: Unable",
            1,
        ),
        // What srun says before and after it is not the reason.
        (
            "echo 'srun: error: MPI: Unable to load any plugin'; echo \"srun: error: Invalid MPI type 'pmix', --mpi=list for acceptable types\"; exit 1",
            &[],
            7,
            "FAIL: run failed: srun: error: Invalid MPI type 'pmix'",
            1,
        ),
        (
            "echo 'srun: error: node-0: tasks 0-7: Exited with exit code 2'; echo ' 5: slurmstepd-node-0: error: execve(): ./all_reduce_perf: No such file or directory'; exit 2",
            &[],
            7,
            "FAIL: run failed: slurmstepd-node-0: error: execve(): ./all_reduce_perf: No such file",
            1,
        ),
        ("exec sleep 600", &["--timeout", "1s"], 7, "FAIL: run failed: it did not end in time", 1),
        (REPLAY, &["--min-busbw", "46"], 7, "FAIL: too slow: 45.80 GB/s at 1 GiB is below 46 GB/s", 2),
        (
            "[ $program != alltoall_perf ] || exit 9; cat \"$here/$kind\"",
            &["--collective", "all-reduce", "--collective", "alltoall"],
            7,
            "FAIL: run failed: exit status 9",
            3,
        ),
        ("[ $kind = full ] || cat \"$here/check\"", &[], 7, "INCONCLUSIVE", 2),
    ];
    for (script, flags, code, told, calls) in cases {
        let (stage, output) = submitted(script, flags, true);
        assert_eq!(output.status.code(), Some(code), "{script}: {}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains(&format!("EFA-GEN VERDICT: {told}")), "{script}: {}", stdout(&output));
        assert_eq!(stage.calls().len(), calls, "{script}");
    }
}

#[test]
fn without_a_judge_there_is_no_pass() {
    let (stage, output) = submitted(REPLAY, &[], false);
    assert_eq!(output.status.code(), Some(7), "{}{}", stdout(&output), stderr(&output));
    let told = "there is no verdict. Where there is one: efa-gen validate --log efa-gen-validate-17.all-reduce.log --exit-status 0 --hosts 2 --instance-type p4d.24xlarge\n";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
    assert_eq!(stage.calls().len(), 2);
}

#[test]
fn an_odd_folder_is_one_word() {
    let stage = Stage::new(2, "");
    let odd = "tests of o'neill $(reboot)";
    job(&stage, odd, &[]);
    assert!(stage.read("job").contains("\ntests=\"tests of o'neill \"'$(reboot)'\n"), "{}", stage.read("job"));
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    for (flags, message) in [
        (&["--nodes", "2"][..], "--instance-type <TYPE>"),
        (&["--instance-type", "p5.48xlarge"], "--nodes <N>"),
        (&["--nodes", "0", "--instance-type", "p5.48xlarge"], "0 is not in"),
        (&["--nodes", "2", "--instance-type", "c5n.18xlarge"], "c5n.18xlarge has no GPU"),
        (&["--nodes", "2", "--instance-type", "p5.48xlrge"], "did you mean `p5.48xlarge`?"),
        (&["--nodes", "2", "--instance-type", "p5.48xlarge", "--hostfile", "x"], "cannot be used with"),
        (&["--nodes", "2", "--instance-type", "p5.48xlarge", "--html", "x"], "cannot be used with"),
        (&["--nodes", "2", "--instance-type", "p5.48xlarge", "--exit-status", "0"], "cannot be used with"),
        (&["--nodes", "2", "--instance-type", "p5.48xlarge", "--output", "json"], "cannot be used with"),
        (&["--nodes", "2", "--instance-type", "p5.48xlarge", "--stack", "gude"], "did you mean `guide`?"),
    ] {
        let output = efa_gen(&[&["validate", "--slurm"], flags].concat());
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{flags:?}");
        assert!(stderr(&output).contains(message), "{flags:?}: {}", stderr(&output));
    }
    let output = efa_gen(&["validate", "--nodes", "2"]);
    assert!(stderr(&output).contains("--slurm"), "{}", stderr(&output));
}
