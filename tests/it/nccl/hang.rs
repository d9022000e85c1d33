//! A run that hangs: what the hosts say of its processes while it does, and what each printed last.

use std::process::{Command, Stdio};

use crate::support::mpirun::Stage;
use crate::support::nccl::{Run, judged, read};
use crate::support::scratch;
use efa_gen::nccl::processes::{self, HostProcesses};
use efa_gen::nccl::{Check, Outcome, Report, Verdict};

/// A log that has begun and measured nothing, ended for want of time, with what the hosts said.
fn verdict(hosts: Vec<HostProcesses>) -> Verdict {
    let log = Run::good(4, 80.0).text();
    let begun = &log[..log.find("#       size").expect("a header")];
    let last_words = processes::last_words(begun.as_bytes());
    judged(&Report { processes: hosts, last_words, ..read(begun, Some(124)) }, None, 2)
}

fn host(address: &str, processes: &[(&str, &str)]) -> HostProcesses {
    let lines = processes.iter().map(|(pid, rest)| format!("EFA-GEN PROCESS {pid} {rest} .\n"));
    processes::read(address, 2, &format!("EFA-GEN HOST ip-{address} .\n{}", lines.collect::<String>()))
}

#[test]
fn the_host_that_holds_it_up_is_named() {
    let good = host("10.0.0.1", &[("11", "S futex_wait"), ("12", "R 0")]);
    for (other, what) in [
        (
            host("10.0.0.2", &[("21", "T do_signal_stop"), ("22", "S -")]),
            "during the hang processes were stopped: process 21 of ip-10.0.0.2",
        ),
        (
            host("10.0.0.2", &[("21", "t ptrace_stop"), ("22", "S -")]),
            "processes were stopped: process 21 of ip-10.0.0.2",
        ),
        (
            host("10.0.0.2", &[("21", "S -")]),
            "during the hang processes were missing: 1 of 2 were there on ip-10.0.0.2",
        ),
        (host("10.0.0.2", &[("21", "S -"), ("22", "Z -")]), "processes were missing: 1 of 2 were there on ip-10.0.0.2"),
        (host("10.0.0.2", &[]), "processes were missing: 0 of 2 were there on ip-10.0.0.2"),
        (
            HostProcesses { no_answer: Some("No route to host".into()), ..processes::read("10.0.0.2", 2, "") },
            "during the hang no answer came from 10.0.0.2 (No route to host)",
        ),
        (processes::read("10.0.0.2", 2, "garbage\n"), "no answer came from 10.0.0.2 (its answer could not be read)"),
    ] {
        let told = verdict(vec![good.clone(), other]);
        assert_eq!((told.outcome, told.findings[0].check), (Outcome::Fail, Check::RunFailed));
        assert!(told.findings[0].what.contains(what), "{what}: {}", told.findings[0].what);
        assert!(!told.findings[0].what.contains("10.0.0.1"), "{}", told.findings[0].what);
    }
    let all = verdict(vec![good.clone(), HostProcesses { address: "10.0.0.2".into(), ..good.clone() }]);
    assert!(all.findings[0].what.starts_with("it did not end in time"), "{:?}", all.findings[0]);
    let waits = verdict(vec![good, host("10.0.0.2", &[("21", "D efa_com_wait"), ("22", "S -")])]);
    let note = "during the hang process 21 of ip-10.0.0.2 waited in the kernel (efa_com_wait)";
    assert!(waits.notes.iter().any(|other| other == note), "{:?}", waits.notes);
}

#[test]
fn who_has_been_silent_the_longest_is_quoted() {
    let log = "1: a:7:8 [0] NCCL INFO one\nx\na:9:9 [1] NCCL INFO two\nb:7:7 [0] NCCL INFO three\na:9:10 [1] NCCL INFO four\n";
    let words = processes::last_words(log.as_bytes());
    let told: Vec<_> = words.iter().map(|words| (words.process.as_str(), words.text.as_str(), words.line)).collect();
    assert_eq!(told, [("a:7", "one", 1), ("b:7", "three", 4), ("a:9", "four", 5)]);
    let long = format!("a:1:1 [0] NCCL INFO {}\u{1b}[31m\n", "x".repeat(10_000));
    let words = processes::last_words(long.as_bytes());
    assert!(words[0].text.len() < 300 && !words[0].text.contains('\u{1b}'), "{}", words[0].text.len());
    assert!(verdict(vec![]).notes.iter().any(|note| note.starts_with("silent since line ")));
}

#[test]
fn a_host_names_the_processes_of_a_program_alone() {
    let folder = scratch();
    // As Linux cuts it.
    let program = folder.path().join("reduce_scatter_perf");
    std::os::unix::fs::symlink("/bin/sleep", &program).expect("a link");
    let question = processes::question("reduce_scatter_perf");
    let ask = || {
        let output = Command::new("sh").args(["-c", &question]).output().expect("a shell");
        assert!(output.status.success(), "{output:?}");
        processes::read("here", 1, &String::from_utf8_lossy(&output.stdout))
    };
    let mine = |told: &HostProcesses, pid: u32| {
        told.processes.iter().find(|process| process.pid == pid.to_string()).map(|process| process.state.clone())
    };
    assert_eq!(ask().no_answer, None);
    let mut rank = Command::new(&program).arg("30").stdin(Stdio::null()).spawn().expect("it starts");
    let pid = rank.id();
    let is = |state: &str| (0..100).any(|_| mine(&ask(), pid).is_some_and(|is| is == state));
    assert!(is("S"), "{:?}", ask());
    let stop = Command::new("kill").args(["-STOP", &pid.to_string()]).status().expect("kill");
    assert!(stop.success() && is("T"), "{:?}", ask());
    rank.kill().expect("it ends");
    rank.wait().expect("it has ended");
    assert_eq!(mine(&ask(), pid), None);
}

#[test]
fn where_ras_does_not_answer_the_hosts_are_asked() {
    let _port = super::ras::port();
    let stage = Stage::new(2, "sed '/#       size/,$d' \"$here/full\"; exec sleep 60");
    stage.write(
        "answer",
        r#"case $3 in *'EFA-GEN PROCESS'*) ;; *) exit 1 ;; esac
[ "$asked" != 10.0.0.1 ] || { echo 'ssh: connect to host 10.0.0.1 port 22: No route to host' >&2; echo ---- >&2; exit 1; }
echo 'EFA-GEN HOST a .'; for p in 1 2 3 4 5 6 7 8; do echo "EFA-GEN PROCESS $p S - ."; done"#,
    );
    let ran = stage.validate(&["--timeout", "4s"]);
    assert_eq!(ran.code, 7, "{}{}", ran.stdout, ran.stderr);
    let what = "no answer came from 10.0.0.1 (ssh: connect to host 10.0.0.1 port 22: No route to host)";
    assert!(ran.stdout.contains(what), "{}", ran.stdout);
    assert!(ran.stdout.contains("note     silent since line "), "{}", ran.stdout);
}
