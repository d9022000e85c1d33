//! NCCL's RAS: its answers of a run of two hosts whose second rank was stopped, and how a run that hangs is asked.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::support::mpirun::Stage;
use crate::support::nccl::{Run, judged, read};
use efa_gen::nccl::{Check, Outcome, Report, ras};

/// Real answers of NCCL 2.30.7, which say the same.
const JSON: &str = include_str!("../../fixtures/nccl-ras/2.30.7-stopped-rank.json");
const TEXT: &str = include_str!("../../fixtures/nccl-ras/2.30.7-stopped-rank.txt");

/// The port is one: a test that answers there, or lets a run ask, has it alone.
static PORT: Mutex<()> = Mutex::new(());

/// Nobody else answers there, or asks, as long as this is held.
pub fn port() -> MutexGuard<'static, ()> {
    PORT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As the server says it before its answer, from 2.28.7 on and before.
fn json(document: &str) -> String {
    format!("SERVER PROTOCOL 2\nOK\nOK\n{document}")
}

fn text(report: &str) -> String {
    format!("SERVER PROTOCOL 2\nOK\nERROR: Unknown command SET FORMAT json\n{report}")
}

#[test]
fn a_rank_that_is_missing_is_read_from_json_and_from_text() {
    for (answer, state) in [(json(JSON), "unresponsive"), (text(TEXT), "")] {
        let ras = ras::read(&answer).expect("it is an answer");
        let [rank] = &ras.missing[..] else { panic!("{ras:?}") };
        assert_eq!((rank.rank, rank.host.as_str(), rank.pid, rank.state), (1, "10.9.0.2", 10624, state));
        assert_eq!(ras.missing_count, 1);
    }
    let dead = JSON.replace("\"considered_dead\": false", "\"considered_dead\": true");
    assert_eq!(ras::read(&json(&dead)).expect("it is an answer").missing[0].state, "considered dead");
}

#[test]
fn what_is_no_answer_of_ras_is_not_read() {
    for answer in [
        String::new(),
        "HTTP/1.1 400 Bad Request\n".into(),
        "SERVER PROTOCOL two\nOK\nOK\n{}".into(),
        "SERVER PROTOCOL 2\nERROR: Unknown command\n".into(),
        json("{\"communicators\": 1}"),
        json(&JSON.replace("10.9.0.2", "a\"b")),
        json(&JSON[..JSON.len() / 2]),
        "{".repeat(100_000),
        json(&"[".repeat(100_000)),
    ] {
        assert_eq!(ras::read(&answer), None, "{}", &answer[..answer.len().min(80)]);
    }
    // A host's name is somebody else's text.
    let odd = ras::read(&text(&TEXT.replace("10.9.0.2", "\u{1b}[31mred"))).expect("it is an answer");
    assert!(!odd.missing[0].host.contains('\u{1b}'), "{odd:?}");
}

#[test]
fn whom_ras_misses_is_the_first_reason() {
    let log = Run::good(4, 80.0).text();
    let begun = read(&log[..log.find("#       size").expect("a header")], Some(124));
    let with = |answer: &str| judged(&Report { ras: ras::read(answer), ..begun.clone() }, None, 2);
    let missing = with(&json(JSON));
    assert_eq!((missing.outcome, missing.findings[0].check), (Outcome::Fail, Check::RunFailed));
    let what = "NCCL's RAS had no answer of rank 1 (process 10624 of 10.9.0.2, unresponsive)";
    assert_eq!(missing.findings[0].what, what);
    assert!(missing.sentence.contains(what), "{}", missing.sentence);
    // Its silence proves nothing.
    let healthy = with(&json("{\"communicators\": [{\"missing_ranks_count\": 0, \"missing_ranks\": []}]}"));
    assert_eq!(healthy.outcome, Outcome::Fail);
    assert!(healthy.notes.iter().any(|note| note.contains("which proves nothing")), "{:?}", healthy.notes);
    assert!(!judged(&begun, None, 2).notes.iter().any(|note| note.contains("RAS")), "nobody was asked");
}

/// Answers one question after the other, as the process of a job does, until it is told to end.
fn server(answer: String) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:28028").expect("nobody else has the port");
    let accepting = listener.try_clone().expect("a second handle");
    thread::spawn(move || {
        while let Ok((mut connection, _)) = accepting.accept() {
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"STATUS\n") && connection.read(&mut byte).is_ok_and(|length| length == 1) {
                asked.push(byte[0]);
            }
            if asked == b"CLIENT PROTOCOL 2\nTIMEOUT 5\nSET FORMAT json\nVERBOSE STATUS\n" {
                let _ = connection.write_all(answer.as_bytes());
            } else if asked.is_empty() {
                return;
            }
        }
    });
    listener
}

#[test]
fn the_question_is_a_line_for_a_real_shell() {
    let _port = port();
    let ask = || Command::new("sh").args(["-c", ras::QUESTION]).output().expect("a shell");
    let nobody = ask();
    assert!(!nobody.status.success() && nobody.stdout.is_empty() && nobody.stderr.is_empty(), "{nobody:?}");
    let _listener = server(json(JSON));
    let told = ask();
    assert!(told.status.success(), "{told:?}");
    assert!(ras::read(&String::from_utf8_lossy(&told.stdout)).is_some_and(|ras| ras.missing_count == 1));
    // It ends with the test.
    drop(std::net::TcpStream::connect("127.0.0.1:28028"));
}

#[test]
fn a_run_that_hangs_is_asked_before_it_is_ended() {
    let _port = port();
    let _listener = server(json(JSON));
    let stage = Stage::new(2, "sed '/#       size/,$d' \"$here/full\"; exec sleep 60");
    let ran = stage.validate(&["--timeout", "6s"]);
    assert_eq!(ran.code, 7, "{}{}", ran.stdout, ran.stderr);
    let what = "NCCL's RAS had no answer of rank 1 (process 10624 of 10.9.0.2, unresponsive)";
    assert!(ran.stdout.contains(what), "{}", ran.stdout);
    drop(std::net::TcpStream::connect("127.0.0.1:28028"));
}
