//! `efa-gen validate`: exit codes, what it prints, and the files that it writes, with logs that mean harm.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::support::nccl::Run;
use crate::support::{command, names, run_in, scratch};

/// A log that passes on one's own bar.
const GOOD: f64 = 45.8;

#[test]
fn exit_codes_and_sentences() {
    let folder = scratch();
    let good = Run::good(4, GOOD).text();
    fs::write(folder.path().join("good"), &good).expect("it can be written");
    fs::write(folder.path().join("socket"), good.replace("Using network Libfabric", "Using network Socket"))
        .expect("it can be written");
    fs::write(folder.path().join("silent"), good.replace("NCCL INFO", "NCCL HUSH")).expect("it can be written");
    fs::write(folder.path().join("empty"), "").expect("it can be written");
    let cases: [(&[&str], i32, &str); 13] = [
        (&["--log", "good"], 0, "PASS: EFA on every one of 16 ranks on 2 hosts, 45.80 GB/s at 1 GiB"),
        (&["--log", "good", "--instance-type", "p4d.24xlarge", "--exit-status", "0"], 0, "  30 GB/s at 1 GiB"),
        (
            &["--log", "good", "--instance-type", "p5.48xlarge"],
            7,
            "FAIL: too slow: 45.80 GB/s at 1 GiB is below 250 GB/s",
        ),
        (&["--log", "good", "--hosts", "3"], 7, "FAIL: not a network test: 2 hosts took part"),
        (
            &["--log", "good", "--min-busbw", "46"],
            7,
            "FAIL: too slow: 45.80 GB/s at 1 GiB is below 46 GB/s (--min-busbw)",
        ),
        (&["--log", "good", "--exit-status", "124"], 7, "FAIL: run failed: it did not end in time (exit status 124)"),
        (&["--log", "good", "--exit-status=-9"], 7, "FAIL: run failed: exit status -9"),
        (
            &["--log", "socket"],
            7,
            "FAIL: socket fallback: NCCL uses network Socket instead of the plugin on rank 0, rank 1, rank 2 and 13 more (host ip-10-0-0-0, ip-10-0-0-1)",
        ),
        (&["--log", "silent"], 7, "INCONCLUSIVE: no line by NCCL"),
        (&["--log", "empty"], 7, "INCONCLUSIVE: the log holds no result of nccl-tests"),
        // What is only drawn beside the first does not count.
        (&["--log", "good", "--log", "socket"], 0, "PASS"),
        (&["--log", "socket", "--log", "good"], 7, "FAIL: socket fallback"),
        (&["--log", "good", "--output", "json"], 0, "\"outcome\": \"pass\""),
    ];
    for (arguments, code, sentence) in cases {
        let ran = run_in(folder.path(), &[&["validate"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains(sentence), "{arguments:?}: {}", ran.stdout);
        let inconclusive = ran.stderr.contains("INCONCLUSIVE: the log proves neither");
        assert_eq!(inconclusive, sentence.starts_with("INCONCLUSIVE"), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("hint: "), code == 7, "{}", ran.stderr);
    }
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let folder = scratch();
    fs::write(folder.path().join("good"), Run::good(4, GOOD).text()).expect("it can be written");
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--log", "good", "--hostfile", "good"], 2, "cannot be used with"),
        (&["--log", "none"], 5, "could not read log none"),
        (&["--log", "."], 2, "is a folder"),
        (&["--log", "good", "--instance-type", "p4d.24xlrge"], 2, "did you mean `p4d.24xlarge`?"),
        (&["--log", "good", "--hosts", "0"], 2, "--hosts"),
        (&["--log", "good", "--min-busbw", "NaN"], 2, "not a bandwidth"),
        (&["--log", "good", "--min-busbw", "-1"], 2, "-1"),
        (&["--log", "good", "--exit-status", "x"], 2, "--exit-status"),
        (&["--log", "good", "--html", "no/page.html"], 5, "could not write no/page.html"),
    ];
    for (arguments, code, message) in cases {
        let ran = run_in(folder.path(), &[&["validate"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{arguments:?}: {}", ran.stderr);
    }
    assert_eq!(names(folder.path()), ["good"]);
}

#[test]
fn standard_input_is_read() {
    let mut child = command(&["validate", "--log", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let log = Run::good(0, 3.41).text();
    child.stdin.take().expect("it has one").write_all(log.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", crate::support::stderr(&output));
}

/// Markup, entities, control characters and quotes in every place of a log that is shown.
const HOSTILE: &str = "<script>alert(1)</script>&amp;\"'\u{1b}[31m\u{7}]]>--><!--\u{202e}";

#[test]
fn text_of_a_log_can_do_nothing_to_what_shows_it() {
    let folder = scratch();
    let word = HOSTILE.replace(' ', "");
    let log = Run::good(4, GOOD)
        .text()
        .replace("NVIDIA A100", HOSTILE)
        .replace("ip-10-0-0-1", &word)
        .replace("^lo,docker", HOSTILE)
        .replace("Using network Libfabric", &format!("Using network {HOSTILE}"))
        .replace("is efa, fabric", &format!("is {word}, fabric"))
        .replace("P2P/IPC", &format!("P2P/{word}"))
        .replace("starting: all_reduce_perf", &format!("starting: {HOSTILE}"))
        + &format!("h:1:1 [0] NCCL WARN {HOSTILE}\nTest failure {HOSTILE}\nssh: connect to host {HOSTILE}\n");
    let name = "<b>&\".log";
    fs::write(folder.path().join(name), log).expect("it can be written");
    let ran = run_in(folder.path(), &["validate", "--log", name, "--html", "page.html", "--junit", "junit.xml"]);
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    for terminal in [&ran.stdout, &ran.stderr] {
        assert!(!terminal.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{terminal}");
    }
    let page = fs::read_to_string(folder.path().join("page.html")).expect("it is there");
    let xml = fs::read_to_string(folder.path().join("junit.xml")).expect("it is there");
    for text in [&page, &xml] {
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;&quot;&#39;"), "{text}");
        assert!(!text.contains("<script") && !text.contains("<b>&") && !text.contains("]]>"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n') && !text.contains('\u{202e}'));
    }
    balanced(&xml);
    balanced(&page.replace("<!DOCTYPE html>", ""));
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let folder = scratch();
    for (name, age) in [("a", 1), ("b", 4)] {
        fs::write(folder.path().join(name), Run::good(age, GOOD).text()).expect("it can be written");
    }
    let arguments = [
        "validate",
        "--log",
        "a",
        "--log",
        "b",
        "--instance-type",
        "p4d.24xlarge",
        "--html",
        "p.html",
        "--junit",
        "j.xml",
    ];
    let ran = run_in(folder.path(), &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let page = fs::read_to_string(folder.path().join("p.html")).expect("it is there");
    for outside in ["http://", "https://", "src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "the page holds {outside}");
    }
    for part in [
        "prefers-color-scheme: dark",
        "bar 26 GB/s at 1 GiB",
        "link 50 GB/s a host",
        "class=\"c1 in-place\"",
        "ip-10-0-0-1",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    let xml = fs::read_to_string(folder.path().join("j.xml")).expect("it is there");
    assert!(xml.contains("tests=\"9\" failures=\"0\" errors=\"0\" skipped=\"1\""), "{xml}");
    balanced(&page.replace("<!DOCTYPE html>", ""));
    balanced(&xml);
}

/// Every tag is closed by its own, apart from those that HTML knows as empty.
fn balanced(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, rest) = tag.split_once('>').expect("every tag ends");
        let name = tag.split([' ', '\n']).next().unwrap_or_default();
        assert!(!rest.contains('>') || name == "style", "{tag} {rest}");
        if tag.starts_with('?') || tag.ends_with('/') || name == "meta" {
            continue;
        }
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
