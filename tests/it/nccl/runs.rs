//! `efa-gen validate` when it runs the test itself, with a stand-in for mpirun: verdict and exit code by what it does, how it
//! is called, and that nothing is left at work.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::mpirun::Stage;
use crate::support::nccl::{Run, fixture};
use crate::support::{names, stderr, stdout};

/// Prints the log of its kind.
const REPLAY: &str = "cat \"$here/$kind\"";

#[test]
fn a_pass_is_a_check_on_two_hosts_and_a_run_on_all() {
    let stage = Stage::new(3, REPLAY);
    let ran = stage.validate(&["--html", "page.html", "--junit", "junit.xml"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(
        ran.stdout.contains("VERDICT: PASS: EFA on every one of 24 ranks on 3 hosts, 45.80 GB/s at 1 GiB"),
        "{}",
        ran.stdout
    );
    // Rows come as they are measured, NCCL's own lines do not.
    assert!(ran.stderr.contains("check: all_reduce_perf on 2 hosts, 16 GPUs, up to 8 MiB\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("     1 GiB    45.80 GB/s, in place 45.80\n"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("all-reduce: the log is run.log\n") && !ran.stderr.contains("NCCL INFO"),
        "{}",
        ran.stderr
    );
    let calls = stage.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls[0].contains("|--host|10.0.0.0:8,10.0.0.1:8|-n|16|-N|8|"), "{}", calls[0]);
    assert!(calls[0].ends_with("/all_reduce_perf|-b|8|-e|8388608|-f|2|-g|1|-c|1|-n|5"), "{}", calls[0]);
    assert!(calls[1].contains("|--host|10.0.0.0:8,10.0.0.1:8,10.0.0.2:8|-n|24|-N|8|"), "{}", calls[1]);
    assert!(calls[1].ends_with("/all_reduce_perf|-b|8|-e|1073741824|-f|2|-g|1|-c|1|-n|20"), "{}", calls[1]);
    // What is kept is the whole log, which can be judged again.
    assert!(
        stage.read("run.log").ends_with(&stage.read("full"))
            && stage.read("run.check.log").ends_with(&stage.read("check"))
    );
    assert!(
        stage.read("page.html").contains("<b>PASS</b>")
            && stage.read("junit.xml").contains("failures=\"0\" errors=\"0\"")
    );
    let again = crate::support::run_in(&stage.path(""), &["validate", "--log", "run.log", "--hosts", "3"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
}

/// What mpirun does, in shell; the verdict's first line; how often it is called.
const FAILURES: [(&str, &str, usize); 15] = [
    (
        "sed 's/Using network Libfabric/Using network Socket/' \"$here/$kind\"",
        "socket fallback: NCCL uses network Socket",
        1,
    ),
    (
        "sed 's/provider is efa, fabric is efa-direct/provider is tcp;ofi_rxm, fabric is x/' \"$here/$kind\"",
        "wrong provider: libfabric provider tcp instead of efa on rank 0",
        1,
    ),
    (
        "[ $kind = check ] || set -- -e 's/values : 0 OK/values : 3 FAILED/'; sed -e '' \"$@\" \"$here/$kind\"",
        "wrong result: the summary counts 3 values out of bounds",
        2,
    ),
    (
        "head -n 60 \"$here/$kind\"; echo 'mpirun noticed that process rank 3 with PID 0 on node b exited on signal 9 (Killed).'; exit 137",
        "run failed: mpirun noticed that process rank 3",
        1,
    ),
    (
        "[ $kind = full ] || exec cat \"$here/$kind\"; head -n 60 \"$here/full\"; exit 134",
        "run failed: exit status 134",
        2,
    ),
    (
        "echo 'ssh: connect to host 10.0.0.1 port 22: Connection refused' >&2; echo 'ORTE was unable to reliably start one or more daemons.'; exit 1",
        "run failed: ssh: connect to host 10.0.0.1 port 22: Connection refused",
        1,
    ),
    ("echo 'Host key verification failed.' >&2; exit 1", "run failed: Host key verification failed.", 1),
    (
        "echo 'user@10.0.0.1: Permission denied (publickey).' >&2; exit 1",
        "run failed: user@10.0.0.1: Permission denied (publickey).",
        1,
    ),
    ("echo 'bash: orted: command not found' >&2; exit 127", "run failed: bash: orted: command not found", 1),
    (
        "echo 'a: Test NCCL failure common.cu:958 invalid usage'; echo 'Error: network Libfabric not found.'; exit 3",
        "run failed: Error: network Libfabric not found.",
        1,
    ),
    // It ended badly, whatever its log says.
    ("cat \"$here/$kind\"; exit 1", "run failed: exit status 1", 1),
    // What the program prints is never taken for how it ended.
    ("echo 'EFA-GEN EXIT 0'; echo 'EFA-GEN EXIT 0' >&2; exit 5", "run failed: exit status 5", 1),
    ("[ $kind = check ] || kind=check; cat \"$here/$kind\"", "incomplete: it ends at 8 MiB, 1 GiB was asked for", 2),
    ("exit 0", "INCONCLUSIVE: the log holds no result of nccl-tests", 2),
    (
        "[ $kind = check ] || sed 's/ip-10-0-0-1 /ip-10-0-0-0 /' \"$here/full\"; [ $kind = full ] || cat \"$here/check\"",
        "not a network test: only one host took part",
        2,
    ),
];

#[test]
fn what_fails_is_named_and_ends_the_test() {
    for (script, sentence, calls) in FAILURES {
        let stage = Stage::new(2, script);
        let ran = stage.validate(&[]);
        let first = ran.stdout.lines().next().unwrap_or_default();
        assert_eq!(ran.code, 7, "{script}: {first}{}", ran.stderr);
        let verdict =
            if sentence.starts_with("INCONCLUSIVE") { sentence.to_owned() } else { format!("FAIL: {sentence}") };
        assert!(first.starts_with(&format!("EFA-GEN VERDICT: {verdict}")), "{script}: {first}");
        assert_eq!(stage.calls().len(), calls, "{script}");
        assert_eq!(
            ran.stdout.contains("this is the fast check on 2 of 2 hosts"),
            calls == 1,
            "{script}: {}",
            ran.stdout
        );
        assert!(ran.stderr.contains("hint: "), "{}", ran.stderr);
    }
}

#[test]
fn bandwidth_is_judged_on_the_run_and_not_on_the_check() {
    for (flags, code, sentence) in [
        (&["--min-busbw", "45"][..], 0, "PASS"),
        (&["--min-busbw", "46"], 7, "FAIL: too slow: 45.80 GB/s at 1 GiB is below 46 GB/s"),
        (&["--instance-type", "p4d.24xlarge"], 0, "PASS"),
        (&["--instance-type", "p5.48xlarge"], 7, "FAIL: too slow: 45.80 GB/s at 1 GiB is below 250 GB/s"),
        (
            &["--max-size", "8M", "--instance-type", "p4d.24xlarge"],
            7,
            "INCONCLUSIVE: the bar for p4d.24xlarge is at 1 GiB",
        ),
        (&["--hosts", "3"], 7, "FAIL: not a network test: 2 hosts took part"),
    ] {
        let stage = Stage::new(2, REPLAY);
        let ran = stage.validate(flags);
        assert_eq!(ran.code, code, "{flags:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains(&format!("VERDICT: {sentence}")), "{flags:?}: {}", ran.stdout);
        assert_eq!(stage.calls().len(), 2, "{flags:?}");
    }
}

#[test]
fn every_collective_is_run_and_judged() {
    let stage = Stage::new(
        2,
        "[ $kind = check ] || set -- -e \"s/all_reduce_perf/$program/\"; [ $program != alltoall_perf ] || set -- \"$@\" -e 's/values : 0 OK/values : 1 FAILED/'; sed -e '' \"$@\" \"$here/$kind\"",
    );
    let flags = ["all-gather", "alltoall", "sendrecv", "all-gather"].map(|name| ["--collective", name]).concat();
    let ran = stage.validate(&[&flags[..], &["--junit", "junit.xml", "--output", "json"]].concat());
    assert_eq!(ran.code, 7, "{}{}", ran.stdout, ran.stderr);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    assert_eq!(told["report"]["collective"], "alltoall_perf", "what failed is told first");
    let runs: Vec<_> = told["runs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|run| (run["log"].as_str(), run["verdict"]["outcome"].as_str()))
        .collect();
    let wanted = [("run.alltoall.log", "fail"), ("run.log", "pass"), ("run.sendrecv.log", "pass")];
    assert_eq!(runs, wanted.map(|(log, outcome)| (Some(log), Some(outcome))));
    assert_eq!(stage.read("junit.xml").matches("<testsuite ").count(), 3);
    let programs: Vec<_> = stage
        .calls()
        .iter()
        .map(|call| {
            call.split('|')
                .find(|word| word.ends_with("_perf"))
                .expect("a program")
                .rsplit('/')
                .next()
                .expect("a name")
                .to_owned()
        })
        .collect();
    assert_eq!(programs, ["all_gather_perf", "all_gather_perf", "alltoall_perf", "sendrecv_perf"]);
    // Every line of progress is a document of its own.
    for line in ran.stderr.lines().take_while(|line| !line.starts_with("error: ")) {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_run_that_did_not_end_well_is_the_last() {
    let stage = Stage::new(2, "[ $kind = check ] || [ $program != all_gather_perf ] || exit 9; cat \"$here/$kind\"");
    let ran = stage.validate(&["--collective", "all-gather", "--collective", "all-reduce"]);
    assert_eq!(ran.code, 7);
    assert!(ran.stdout.contains("FAIL: run failed: exit status 9"), "{}", ran.stdout);
    assert_eq!(stage.calls().len(), 2);
}

#[test]
fn the_environment_is_that_of_the_stack() {
    let variables = |flags: &[&str]| {
        let stage = Stage::new(2, REPLAY);
        let ran = stage.validate(flags);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        (stage.calls().remove(1), ran.stderr)
    };
    let (old, said) = variables(&["--stack", "guide"]);
    assert!(old.contains("|-x|FI_PROVIDER=efa|") && old.contains("|-x|NCCL_NET=AWS Libfabric|"), "{old}");
    assert!(said.contains("note: environment for EFA 1.9.5, NCCL 2.7.8-1, plugin 1.1.0: by --stack guide"), "{said}");
    let (new, _) = variables(&["--stack", "cuda-13.0"]);
    assert!(new.contains("|-x|NCCL_NET=Libfabric|-x|NCCL_ALGO=Ring|") && !new.contains("FI_"), "{new}");
    let (unknown, said) = variables(&[]);
    assert!(unknown.contains("|-x|NCCL_NET=AWS Libfabric|-x|NCCL_ALGO=Ring|") && !unknown.contains("FI_"), "{unknown}");
    assert!(
        said.contains("environment for software that is not known: this machine has no /etc/efa-gen.json"),
        "{said}"
    );
    let (gdr, _) = variables(&["--stack", "cuda-11.8", "--instance-type", "p4d.24xlarge"]);
    assert!(gdr.contains("|-x|FI_EFA_USE_DEVICE_RDMA=1|"), "{gdr}");
}

#[test]
fn a_machine_that_is_not_ours_is_told_where_libraries_lie() {
    let stage = Stage::new(2, REPLAY);
    let mut command = stage.command(&["--hostfile", "hosts", "--keep-log", "run.log"]);
    let output = command.env("LD_LIBRARY_PATH", "/my/nccl:/my/plugin").output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let call = stage.calls().remove(0);
    assert!(call.contains("|-x|LD_LIBRARY_PATH=/my/nccl:/my/plugin:/opt/amazon/efa/lib:"), "{call}");
}

#[test]
fn without_hosts_it_is_this_one_with_all_its_gpus() {
    let stage = Stage::new(2, "cat \"$here/one\"");
    stage.write("one", &fixture("one-host-efa.log").0);
    stage.program("nvidia-smi", "printf '0\\n1\\n'");
    let path = format!("{}:{}", stage.path("").display(), std::env::var("PATH").unwrap_or_default());
    let output = stage.command(&["--keep-log", "run.log"]).env("PATH", &path).output().expect("it starts");
    // The fixture leaves sizes out.
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stdout(&output).contains("FAIL: incomplete: 2 of 28 rows are there"), "{}", stdout(&output));
    assert!(!stdout(&output).contains("not a network test"), "{}", stdout(&output));
    let calls = stage.calls();
    assert!(calls[1].contains("|--host|localhost:2|-n|2|-N|2|"), "{calls:?}");
    assert_eq!(calls.len(), 2, "nvidia-smi and one run: one host needs no check");

    stage.write("one", &Run { hosts: 1, gpus: 2, ..Run::good(4, 45.8) }.text());
    let mut passes = stage.command(&["--keep-log", "run.log"]);
    let output = passes.env("PATH", &path).output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("PASS: on one host: the plugin loads and selects EFA"), "{}", stdout(&output));
    assert!(stdout(&output).contains("(the network itself needs two hosts)"), "{}", stdout(&output));
    // What CUDA does not show, no rank can use.
    for (visible, asked) in [("1", "localhost:1|-n|1|"), ("0,1,5", "localhost:2|"), ("0,-1,1", "localhost:1|")] {
        let mut fewer = stage.command(&["--keep-log", "run.log"]);
        fewer.env("PATH", &path).env("CUDA_VISIBLE_DEVICES", visible).output().expect("it starts");
        let last = stage.calls().pop().expect("a run");
        assert!(last.contains(asked), "{visible}: {last}");
    }
    let mut none = stage.command(&[]);
    let output = none.env("PATH", &path).env("CUDA_VISIBLE_DEVICES", "").output().expect("it starts");
    assert!(stderr(&output).contains("CUDA_VISIBLE_DEVICES shows none"), "{}", stderr(&output));
    let mut two = stage.command(&["--keep-log", "run.log", "--hosts", "2"]);
    let output = two.env("PATH", &path).output().expect("it starts");
    assert!(stdout(&output).contains("FAIL: not a network test: only one host took part"), "{}", stdout(&output));

    let lost = "after 1 of them: 0";
    let none = "this machine has no NVIDIA GPU that works";
    for (script, what, why) in [
        ("echo 'NVIDIA-SMI has failed'; exit 9", none, "status 9: NVIDIA-SMI has failed"),
        ("printf 'GPU 1 is lost' >&2; exit 15", none, "status 15: GPU 1 is lost"),
        ("echo 'no devices'", none, ": no devices"),
        ("exit 14", none, "status 14"),
        ("printf '0\\n'; exit 15", "this machine may have more GPUs than work", lost),
    ] {
        stage.program("nvidia-smi", script);
        let output = stage.command(&[]).env("PATH", &path).output().expect("it starts");
        assert_eq!(output.status.code(), Some(7));
        assert!(stderr(&output).contains(what) && stderr(&output).contains(why), "{why}: {}", stderr(&output));
    }
    // A warning that all have been listed with, and GPUs that somebody has chosen: told, and gone on with.
    for (script, variable) in [("printf '0\\n'; exit 14", "NONE"), ("printf '0\\n'; exit 15", "CUDA_VISIBLE_DEVICES")] {
        stage.program("nvidia-smi", script);
        let mut command = stage.command(&["--keep-log", "run.log"]);
        let output = command.env("PATH", &path).env(variable, "0").output().expect("it starts");
        assert!(stage.calls().pop().is_some_and(|run| run.contains("localhost:1|")), "{}", stderr(&output));
        assert!(stderr(&output).contains(lost), "{}", stderr(&output));
    }
}

#[test]
fn what_is_asked_wrongly_is_refused_before_anything_runs() {
    let long = "1 slots=8\n".repeat(1_700_000);
    for (hosts, flags, code, message) in [
        ("", &[][..], 2, "hostfile: it names no host"),
        ("# none\n\n", &[], 2, "hostfile: it names no host"),
        ("a slots=8\nb slots=8\na slots=8\n", &[], 2, "hostfile: a stands there twice"),
        ("a slots=8\nb slots=4\n", &[], 2, "a has 8 slots and b has 4"),
        ("a\nb\n", &[], 2, "a has no slots"),
        ("a 8\n", &[], 2, "`8` after a is not known"),
        ("a slot=8\n", &["--instance-type", "p5.48xlarge"], 2, "`slot=8` after a is not known"),
        ("a slots=0\n", &[], 2, "the slots of a are not a number"),
        ("a slots=eight\n", &[], 2, "the slots of a are not a number"),
        ("a;reboot slots=8\n", &[], 2, "`a;reboot` is not a host's name"),
        ("--allow slots=8\n", &[], 2, "`--allow` is not a host's name"),
        ("user@a slots=8\n", &[], 2, "`user@a` is not a host's name"),
        (&long, &[], 2, "is larger than"),
        ("a slots=8\n", &["--instance-type", "p9"], 2, "unknown instance type"),
        ("a slots=8\n", &["--stack", "gude"], 2, "did you mean `guide`?"),
        ("a slots=8\n", &["--timeout", "0s"], 2, "not a time of at most a day"),
        ("a slots=8\n", &["--timeout", "2d"], 2, "not a time of at most a day"),
        ("a slots=8\n", &["--max-size", "1T"], 2, "not a size"),
        ("a slots=8\n", &["--max-size", "0"], 2, "not a size"),
        ("a slots=8\n", &["--collective", "broadcast"], 2, "possible values"),
        ("a slots=8\n", &["--iterations", "0"], 2, "--iterations"),
        ("a slots=8\n", &["--exit-status", "0"], 2, "cannot be used with"),
        ("a slots=8\n", &["--log", "hosts"], 2, "cannot be used with"),
        ("a slots=8\n", &["--mpirun", "./none"], 7, "this machine has no program ./none"),
        ("a slots=8\n", &["--tests-dir", "none"], 7, "none/all_reduce_perf"),
        ("a slots=8\n", &["--keep-log", "none/run.log"], 5, "could not write log none/run.log"),
        ("a slots=8\n", &["--keep-log", "."], 5, "could not write log"),
    ] {
        let stage = Stage::new(2, REPLAY);
        stage.write("hosts", hosts);
        let given = |name: &str| flags.first() == Some(&name);
        let fixed: &[&str] = if given("--log") { &[] } else { &["--hostfile", "hosts"] };
        let mut all = vec!["validate"];
        for (name, value) in [("--mpirun", "./mpirun"), ("--tests-dir", ".")] {
            if !given(name) && !given("--log") {
                all.extend([name, value]);
            }
        }
        let extra: &[&str] = if given("--log") { &["--hostfile", "hosts"] } else { &[] };
        let ran = crate::support::run_in(&stage.path(""), &[&all[..], fixed, extra, flags].concat());
        assert_eq!(ran.code, code, "{flags:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(message), "{hosts:.20} {flags:?}: {}", ran.stderr);
        assert!(stage.calls().is_empty(), "{flags:?}");
    }
    let stage = Stage::new(2, REPLAY);
    let ran = crate::support::run_in(&stage.path(""), &["validate", "--hostfile", "none"]);
    assert_eq!((ran.code, ran.stderr.contains("could not read hostfile none")), (5, true), "{}", ran.stderr);
}

#[test]
fn slots_come_from_the_type_where_the_file_has_none() {
    let stage = Stage::new(2, REPLAY);
    stage.write("hosts", "10.0.0.0 # the first\n\n10.0.0.1 max_slots=8\n");
    let ran = stage.validate(&["--instance-type", "p4d.24xlarge"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(stage.calls()[0].contains("|--host|10.0.0.0:8,10.0.0.1:8|"), "{}", stage.calls()[0]);
}

/// Prints a part of its log, notes its process and its child's, and hangs; told to end, it ends its child first.
const HANG: &str =
    "head -n 60 \"$here/$kind\"; sleep 600 & trap \"kill $!; exit 143\" TERM; echo $! $$ >\"$here/pids\"; wait";

/// Whether the processes that the stand-in noted are gone, given some seconds.
fn gone(stage: &Stage) -> bool {
    let pids = stage.read("pids");
    assert!(!pids.is_empty(), "the stand-in was at work");
    let end = Instant::now() + Duration::from_secs(20);
    let alive = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended.
        !status.is_empty() && !status.contains(") Z ")
    };
    while pids.split_whitespace().any(alive) {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

#[test]
fn a_run_that_hangs_is_ended_and_judged() {
    let _port = super::ras::port();
    for (script, calls, name) in [
        (HANG.to_owned(), 1, "run.check.log"),
        (format!("[ $kind = full ] || exec cat \"$here/$kind\"; {HANG}"), 2, "run.log"),
    ] {
        let stage = Stage::new(2, &script);
        let began = Instant::now();
        let ran = stage.validate(&["--timeout", "2s"]);
        assert_eq!(ran.code, 7, "{}", ran.stderr);
        assert!(ran.stdout.contains("FAIL: run failed: it did not end in time (exit status 124)"), "{}", ran.stdout);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        assert_eq!(stage.calls().len(), calls);
        assert!(gone(&stage) && stage.read(name).contains("# Using devices"));
    }
}

#[test]
fn with_efa_gen_the_run_ends() {
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(130)), ("KILL", None)] {
        let stage = Stage::new(2, HANG);
        let mut command = stage.command(&["--hostfile", "hosts", "--keep-log", "run.log"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let end = Instant::now() + Duration::from_secs(20);
        while stage.read("pids").is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill starts").success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), code, "{}", stderr(&output));
        assert!(gone(&stage), "{signal}");
        assert_eq!(stderr(&output).contains("check: the log is run.check.log"), code.is_some(), "{}", stderr(&output));
        assert!(!names(&stage.path("")).contains(&"run.log".to_owned()));
    }
}
