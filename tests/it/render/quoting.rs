//! What the script's shell receives is byte for byte what the plan said.

use std::process::Command;

use crate::support::catalog;
use efa_gen::plan::{Action, Argument, GuestCommand, GuestVariable, Segment};
use efa_gen::render::{self, Format, actions};
use efa_gen::shell;
use proptest::prelude::*;

/// Runs shell text; returns what it printed.
fn shell_prints(shell: &str, text: &str) -> Vec<u8> {
    let output = Command::new(shell).args(["-c", text]).env_clear().env("PATH", "/usr/bin:/bin").output();
    let output = output.unwrap_or_else(|error| panic!("{shell} starts: {error}"));
    assert!(output.status.success(), "{shell} fails on:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Text that a careless renderer would let through.
fn hostile() -> impl Strategy<Value = String> {
    let nasty = prop_oneof![
        Just("$(reboot)".to_owned()),
        Just("`reboot`".to_owned()),
        Just("'\"'\"'".to_owned()),
        Just("\\".to_owned()),
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("-n".to_owned()),
        Just("~root".to_owned()),
        Just("*".to_owned()),
        Just("!!".to_owned()),
        Just("EOF\n".to_owned()),
        Just("a=b; rm -rf /".to_owned()),
        Just("\u{1b}[31m\u{7f}".to_owned()),
        Just("\u{2028}é漢\u{1F980}".to_owned()),
        "[^\u{0}]{0,12}",
    ];
    prop::collection::vec(nasty, 0..4).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn arguments_arrive_whole(arguments in prop::collection::vec(hostile(), 1..6)) {
        let mut run = GuestCommand::new(["show"]);
        run.argv.extend(arguments.iter().map(|text| Argument::literal(text.clone())));
        let body = actions::body(&[run.into()]).expect("there is no NUL in it");
        let expected: Vec<u8> = arguments.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        for shell in ["bash", "sh"] {
            let text = format!("run() {{ shift; for a; do printf '%s\\0' \"$a\"; done; }}\n{body}\n");
            prop_assert_eq!(&shell_prints(shell, &text), &expected, "{}", shell);
        }
    }

    #[test]
    fn environment_arrives_whole(value in hostile()) {
        let run = GuestCommand::new(["sh", "-c", "printf %s \"$V\""]).environment([("V", value.as_str())]);
        let body = actions::body(&[run.into()]).expect("there is no NUL in it");
        prop_assert_eq!(shell_prints("bash", &format!("run() {{ \"$@\"; }}\n{body}\n")), value.as_bytes());
    }

    #[test]
    fn file_content_arrives_whole(content in hostile(), lines in prop::collection::vec("EOF_{0,3}|[ -~\\t]{0,20}", 0..5)) {
        for content in [content, lines.iter().map(|line| format!("{line}\n")).collect()] {
            let write = Action::WriteFile { path: "/x".into(), mode: "0644", content: content.clone() };
            let body = actions::body(&[write]).expect("there is no NUL in it");
            prop_assert_eq!(shell_prints("bash", &format!("write_file() {{ cat; }}\n{body}\n")), content.as_bytes());
        }
    }

    #[test]
    fn facts_stand_between_literal_text(before in hostile(), after in hostile()) {
        let word = actions::word(&Argument::template(&format!("{before}{{kernel}}{after}"))).expect("there is no NUL in it");
        let printed = shell_prints("bash", &format!("KERNEL='5.4 $x'\nprintf %s {word}\n"));
        let expected = format!("{before}5.4 $x{after}").into_bytes();
        prop_assert_eq!(printed, expected);
    }

    #[test]
    fn an_extra_script_arrives_whole(text in hostile()) {
        let script = format!("#!/bin/sh\n{text}");
        let request = efa_gen::plan::Request { extra_script: Some(script.clone()), ..crate::support::request("ubuntu18", "guide") };
        let plan = efa_gen::plan::plan(&catalog(), &request).expect("it can be planned");
        let rendered = render::render(&plan, &[Format::Script]).expect("it can be rendered").remove(0).text;
        let function = rendered.split("\nextra_run() {\n").nth(1).and_then(|rest| rest.split("\nstage_extra() {").next());
        let body = function.expect("the script has the step").rsplit_once("\n  run ").expect("the step runs it").0;
        prop_assert_eq!(shell_prints("bash", &format!("write_file() {{ cat; }}\n{body}\n")), script.as_bytes());
    }
}

#[test]
fn nul_can_not_be_passed_and_is_refused() {
    let mut run = GuestCommand::new(["show"]);
    run.argv.push(Argument::literal("a\0b"));
    assert!(actions::body(&[run.into()]).is_err());
    let write = Action::WriteFile { path: "/x".into(), mode: "0644", content: "a\0b\n".into() };
    assert!(actions::body(&[write]).is_err());
}

#[test]
fn templates_of_words_know_the_facts_and_nothing_else() {
    let parts = |text: &str| Argument::template(text).parts().to_vec();
    let text = |text: &str| Segment::Text(text.into());
    assert_eq!(parts("linux-headers-{kernel}"), [text("linux-headers-"), Segment::Guest(GuestVariable::Kernel)]);
    assert_eq!(
        parts("-j{jobs}x{gpus}"),
        [text("-j"), Segment::Guest(GuestVariable::Jobs), text("x"), Segment::Guest(GuestVariable::Gpus)]
    );
    assert_eq!(parts("{other}${kernel"), [text("{other}${kernel")]);
    assert_eq!(parts(""), [text("")]);
}

/// Constructs that bash learnt after 4.2, the oldest that a distribution of the catalog has.
const NEWER_THAN_BASH_4_2: [(&str, &str); 14] = [
    ("@Q}", "4.4"),
    ("@E}", "4.4"),
    ("@P}", "4.4"),
    ("@A}", "4.4"),
    ("mapfile -d", "4.4"),
    ("readarray -d", "4.4"),
    ("local -n", "4.3"),
    ("declare -n", "4.3"),
    ("inherit_errexit", "4.4"),
    ("EPOCHSECONDS", "5.0"),
    ("EPOCHREALTIME", "5.0"),
    ("wait -n", "4.3"),
    ("wait -p", "5.1"),
    ("[-1]=", "4.3"),
];

/// Lines with an array that may be empty: `"${a[@]}"` of such a one fails under `set -u` before bash 4.4.
/// `"${a[@]+"${a[@]}"}"` is safe, and so is a line that looks at the count first.
fn unguarded_arrays(script: &str) -> Vec<&str> {
    let never_empty = ["STAGES", "!STAGES", "query"];
    let risky = |line: &&str| {
        let known = never_empty.iter().any(|name| line.contains(&format!("\"${{{name}[@]}}\"")));
        line.contains("[@]}\"") && !line.contains("[@]+\"${") && !line.contains("${#") && !known
    };
    script.lines().filter(risky).collect()
}

#[test]
fn scripts_need_no_more_than_bash_4_2() {
    for distribution in &catalog().distributions {
        let plan = crate::support::default_plan(&distribution.id);
        let script = render::render(&plan, &[Format::Script]).expect("it can be rendered").remove(0).text;
        for (construct, version) in NEWER_THAN_BASH_4_2 {
            assert!(!script.contains(construct), "{}: `{construct}` came with bash {version}", distribution.id);
        }
        assert_eq!(unguarded_arrays(&script), Vec::<&str>::new(), "{}", distribution.id);
        let parsed = Command::new("bash").args(["-n", "-c", &script]).output().expect("bash starts");
        assert!(parsed.status.success(), "{}: {}", distribution.id, String::from_utf8_lossy(&parsed.stderr));
    }
}

#[test]
fn the_lint_finds_what_it_looks_for() {
    assert_eq!(unguarded_arrays("for x in \"${found[@]}\"; do").len(), 1);
    assert!(unguarded_arrays("for x in \"${found[@]+\"${found[@]}\"}\"; do").is_empty());
}

#[test]
fn the_words_of_a_command_stay_words() {
    let joined = |words: &[&str]| shell::join(words).expect("there is no NUL in it");
    // An assignment for every shell, a path for zsh; elsewhere `=` needs no quotes.
    assert_eq!(joined(&["A=1", "env", "A=1"]), "'A=1' env A=1");
    assert_eq!(joined(&["echo", "=ls", "a b", ""]), "echo '=ls' 'a b' ''");
    let output = Command::new("sh").args(["-c", &joined(&["A=1", "x"])]).output().expect("sh starts");
    assert_eq!(output.status.code(), Some(127), "no program has this name: {output:?}");
    assert!(shell::join(&["a\0b"]).is_err());
}
