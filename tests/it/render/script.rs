//! The install script, executed: progress, resuming, reboots, failure reports, exit codes.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::support::hostile::HOSTILE;
use crate::support::sandbox::{Sandbox, append, plan, stage, step};
use crate::support::{stderr, stdout};
use efa_gen::plan::{Action, Argument, Assertion, GuestCommand, Then, When};

fn three_stages(sandbox: &Sandbox) -> efa_gen::plan::Plan {
    plan(vec![
        stage("one", Then::Reboot, vec![sandbox.trace_step("a", "a"), sandbox.trace_step("b", "b")]),
        stage("two", Then::Reboot, vec![sandbox.trace_step("c", "c")]),
        stage("three", Then::Continue, vec![sandbox.trace_step("d", "d")]),
        stage("seal", Then::Continue, vec![sandbox.trace_step("e", "e")]),
    ])
}

#[test]
fn installs_through_its_reboots_and_seals_only_when_asked() {
    let sandbox = Sandbox::new();
    sandbox.install(&three_stages(&sandbox));
    let outputs = sandbox.run_through_reboots();
    assert_eq!(outputs.len(), 3);
    assert!(outputs.iter().all(|output| output.status.success()));
    assert_eq!(stdout(&outputs[0]), "[1/4] Stage one\n        Do a\n        Do b\n        rebooting\n");
    assert_eq!(stdout(&outputs[2]), "[3/4] Stage three\n        Do d\nEFA-GEN COMPLETE: every stage is done.\n");
    let hook = |word: &str| format!("systemctl {word} hook\n");
    let enable = hook("enable");
    assert_eq!(sandbox.read("trace"), format!("{enable}a\nb\n{enable}c\n{enable}d\n{}", hook("disable")));
    assert!(sandbox.read("log/install.log").contains("+ sh -c echo\\ a"), "the log has every command");

    let before = (sandbox.listing("state"), sandbox.listing("log"));
    let again = sandbox.run(&[]);
    assert!(again.status.success());
    assert_eq!(stdout(&again), "EFA-GEN COMPLETE: every stage is done already.\n");
    assert_eq!(before, (sandbox.listing("state"), sandbox.listing("log")), "a run when complete changes nothing");

    for _ in 1..=2 {
        let seal = sandbox.run(&["--stage", "seal"]);
        assert_eq!(stdout(&seal), "[4/4] Stage seal\n        Do e\n", "each image is sealed anew");
    }
    assert_eq!(stdout(&sandbox.run(&["--stage", "one"])), "Stage one is done already.\n");
}

#[test]
fn a_failing_step_says_what_why_and_what_to_do_then_goes_on_from_there() {
    let sandbox = Sandbox::new();
    let flag = sandbox.text("flag");
    let check = format!("echo first complaint; echo second complaint; test -e {flag}");
    let fails = step("fragile", vec![GuestCommand::new(["sh", "-c", &check]).into()]);
    sandbox.install(&plan(vec![stage(
        "one",
        Then::Continue,
        vec![sandbox.trace_step("a", "a"), fails, sandbox.trace_step("z", "z")],
    )]));
    let output = sandbox.run(&[]);
    assert_eq!(output.status.code(), Some(6));
    let said = stdout(&output);
    for expected in [
        "FAILED in stage one, step: Do fragile\n",
        "  command: sh -c ",
        "  reason: exit status 1\n",
        "    | second complaint\n",
        "  hint: mend fragile\n",
        "then go on with this step: sudo bash ",
    ] {
        assert!(said.contains(expected), "`{expected}` is not in:\n{said}");
    }
    assert!(!sandbox.path("state/complete").exists());
    fs::write(&flag, "").expect("a file can be written");
    assert!(sandbox.run(&[]).status.success());
    assert_eq!(sandbox.read("trace").matches("a\n").count(), 1, "a done step is not done again");
    assert!(sandbox.path("state/complete").exists());
}

#[test]
fn killed_at_any_step_it_completes_with_the_same_result() {
    let result = |kill_at: Option<&str>| {
        let sandbox = Sandbox::new();
        let steps = |words: &[&str]| {
            let once = |word: &&str| {
                // The first time it comes to this step, the script is killed from inside the step.
                let kill = format!(
                    "if [ -e {0} ]; then rm {0}; kill -9 $PPID; sleep 1; fi",
                    sandbox.text(&format!("kill-{word}"))
                );
                let file = sandbox.path(&format!("out-{word}")).display().to_string();
                let write = Action::WriteFile { path: file, mode: "0644", content: format!("{word}\n") };
                step(word, vec![write, GuestCommand::new(["sh", "-c", &kill]).into()])
            };
            words.iter().map(once).collect::<Vec<_>>()
        };
        let stages =
            vec![stage("one", Then::Reboot, steps(&["a", "b"])), stage("two", Then::Continue, steps(&["c", "d"]))];
        sandbox.install(&plan(stages));
        if let Some(word) = kill_at {
            sandbox.write(&format!("kill-{word}"), "");
            let cut = sandbox.run_through_reboots();
            assert_eq!(cut.last().and_then(|output| output.status.code()), None, "the script was killed");
        }
        assert!(sandbox.run_through_reboots().last().is_some_and(|output| output.status.success()));
        let name = |path: &std::path::Path| path.strip_prefix(sandbox.path("")).expect("it is below").to_path_buf();
        let state = sandbox
            .listing("state")
            .into_iter()
            .filter(|(path, _)| !path.ends_with("install.sh") && !path.ends_with("plan"));
        let state: Vec<_> =
            state.map(|(path, bytes)| (name(&path), if path.ends_with("complete") { vec![] } else { bytes })).collect();
        let files: Vec<_> = ["a", "b", "c", "d"].iter().map(|word| sandbox.read(&format!("out-{word}"))).collect();
        (state, files)
    };
    let whole = result(None);
    for word in ["a", "b", "c", "d"] {
        assert_eq!(whole, result(Some(word)), "killed at {word}");
    }
}

#[test]
fn a_reboot_that_is_due_comes_before_any_later_stage() {
    let sandbox = Sandbox::new();
    sandbox.program("shutdown", "kill -TERM $PPID");
    sandbox.install(&three_stages(&sandbox));
    sandbox.run(&[]);
    let again = sandbox.run(&[]);
    assert_eq!(stdout(&again), "A reboot is due.\n        rebooting\n", "the boot id is still the old one");
    assert!(!sandbox.read("trace").contains("c\n"));
    sandbox.write("boot_id", "boot-2\n");
    assert!(stdout(&sandbox.run(&["--after-reboot"])).is_empty());
    assert!(stdout(&sandbox.run(&[])).contains("[2/4] Stage two"));
}

#[test]
fn one_stage_at_a_time_in_order_only() {
    let sandbox = Sandbox::new();
    sandbox.install(&three_stages(&sandbox));
    let early = sandbox.run(&["--stage", "three"]);
    assert_eq!(early.status.code(), Some(7));
    assert!(stdout(&early).contains("stage three needs stage one, which is not done"));
    assert!(sandbox.run(&["--stage", "one"]).status.success());
    assert!(sandbox.run(&["--stage", "two"]).status.success());
    assert!(stdout(&sandbox.run(&["--stage", "three"])).ends_with("EFA-GEN COMPLETE: every stage is done.\n"));
    assert!(!sandbox.read("trace").contains("systemctl"), "whoever runs single stages starts them himself");
}

#[test]
fn from_a_stage_does_it_and_all_that_follow_again() {
    let sandbox = Sandbox::new();
    sandbox.install(&three_stages(&sandbox));
    sandbox.run_through_reboots();
    let output = sandbox.run(&["--from", "two"]);
    assert!(stdout(&output).starts_with("[2/4] Stage two\n"), "{}", stdout(&output));
    sandbox.run_through_reboots();
    let trace = sandbox.read("trace");
    assert_eq!(["a\n", "c\n", "d\n"].map(|word| trace.matches(word).count()), [1, 2, 2]);
}

#[test]
fn list_and_help_need_neither_root_nor_state() {
    let sandbox = Sandbox::new();
    sandbox.install(&three_stages(&sandbox));
    sandbox.program("id", "echo 1000");
    let list = stdout(&sandbox.run(&["--list"]));
    assert_eq!(list.matches("-- reboot --").count(), 2, "{list}");
    assert!(list.contains(" 1  one ") && list.contains("only with --stage seal"), "{list}");
    assert!(stdout(&sandbox.run(&["--help"])).contains("exit codes:"));
    assert!(!sandbox.path("state").exists());
}

#[test]
fn refusals_have_their_own_exit_codes() {
    let sandbox = Sandbox::new();
    sandbox.install(&three_stages(&sandbox));
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let output = sandbox.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stdout(&output));
        assert!(stdout(&output).contains(words), "{arguments:?}: {}", stdout(&output));
    };
    refused(&["--what"], 2, "cannot make sense of: --what");
    refused(&["--from"], 2, "cannot make sense of");
    refused(&["--from", "nowhere"], 2, "hint: one of: one two three seal");
    refused(&["--from", "seal"], 2, "hint: it is run with --stage seal");
    refused(&["--stage", "$(reboot)"], 2, "there is no stage $(reboot)");
    sandbox.program("id", "echo 1000");
    refused(&[], 9, "must be run as root");
    sandbox.program("id", "echo 0");

    fs::create_dir_all(sandbox.path("state")).expect("a folder can be made");
    let lock = fs::File::create(sandbox.path("state/lock")).expect("a file can be made");
    lock.lock().expect("a lock can be taken");
    refused(&[], 8, "another run of this script is at work");
    assert!(sandbox.run(&["--start"]).status.success(), "the boot hook finds a run at work: no error");
    drop(lock);

    sandbox.run(&[]);
    sandbox.install(&plan(vec![stage("other", Then::Continue, vec![sandbox.trace_step("x", "x")])]));
    refused(&[], 9, "this machine was begun with another plan");
}

#[test]
fn what_is_complete_for_one_plan_is_not_for_another() {
    let sandbox = Sandbox::new();
    sandbox.install(&plan(vec![stage("one", Then::Continue, vec![sandbox.trace_step("a", "a")])]));
    assert!(sandbox.run(&[]).status.success());
    sandbox.install(&plan(vec![stage("two", Then::Continue, vec![sandbox.trace_step("b", "b")])]));
    for arguments in [&[][..], &["--start"]] {
        let output = sandbox.run(arguments);
        assert_eq!(output.status.code(), Some(9), "{}", stdout(&output));
        assert!(stdout(&output).contains("this machine was begun with another plan"), "{}", stdout(&output));
    }
    assert_eq!(sandbox.read("trace").matches("b\n").count(), 0);
}

#[test]
fn a_due_reboot_is_taken_up_with_the_boot_hook_and_not_forgotten_by_from() {
    let sandbox = Sandbox::new();
    sandbox.program("shutdown", "kill -TERM $PPID");
    sandbox.install(&three_stages(&sandbox));
    sandbox.run(&["--stage", "one"]);
    let again = sandbox.run(&["--from", "two"]);
    assert_eq!(stdout(&again), "A reboot is due.\n        rebooting\n");
    assert!(sandbox.read("trace").contains("systemctl enable hook"), "or nothing would go on after it");
}

#[test]
fn a_package_command_recovers_first_and_a_failed_recovery_is_a_failed_try() {
    let sandbox = Sandbox::new();
    sandbox.program("sleep", "exit 0");
    let trace = sandbox.path("trace").display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut plan = plan(vec![stage(
        "one",
        Then::Continue,
        vec![step("it", vec![GuestCommand::new(["echo", "hi"]).packages().into()])],
    )]);
    let fails_twice = format!("echo recover >>{trace}; [ $(grep -c recover {trace}) -ge 3 ]");
    plan.recover_packages = vec![words(&["false"]), words(&["sh", "-c", &fails_twice])];
    sandbox.install(&plan);
    let output = sandbox.run(&[]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert_eq!(sandbox.read("trace").matches("recover").count(), 3);
}

#[test]
fn start_installs_the_hook_and_releases_the_lock() {
    let sandbox = Sandbox::new();
    let lock = sandbox.text("state/lock");
    sandbox.program(
        "systemctl",
        &format!("echo \"$@\" >>{0}; flock -n {lock} true && echo free >>{0}; true", sandbox.text("trace")),
    );
    sandbox.install(&three_stages(&sandbox));
    assert!(sandbox.run(&["--start"]).status.success());
    assert_eq!(sandbox.read("trace"), "enable hook\nstart hook\nfree\n");
}

#[test]
fn what_a_failed_step_quotes_does_nothing_to_the_console() {
    let sandbox = Sandbox::new();
    let forged = "\rEFA-GEN COMPLETE\n\u{1b}[1GEFA-GEN COMPLETE\n\u{9b}2KEFA-GEN COMPLETE\nEFA-GEN COMPLETE";
    sandbox.write("hostile", &format!("{HOSTILE}\n{forged}\n+ download https://user:s3cret@mirror/efa\n"));
    let hostile = sandbox.text("hostile");
    let said = |line: &str| {
        let command = GuestCommand::new(["sh", "-c", line, "a\n\rEFA-GEN COMPLETE\n\u{1b}[2J"]);
        let (code, said) = sandbox.run_actions(vec![command.into()]);
        assert_ne!(code, Some(0), "{said}");
        let odd = said.chars().find(|c| !matches!(c, '\n' | '\t' | ' '..='~'));
        assert_eq!(odd, None, "{said:?}");
        assert!(said.contains("FAILED in stage one, step: "), "{said}");
        let forged = said.lines().find(|line| line.starts_with("EFA-GEN"));
        assert_eq!(forged, None, "{said}");
        said
    };
    let quoted = said(&format!("cat {hostile}; exit 3"));
    assert!(quoted.matches("    | EFA-GEN COMPLETE\n").count() >= 2, "{quoted}");
    assert!(quoted.contains("    | + download https://***@mirror/efa\n"), "{quoted}");
    assert!(!quoted.contains("s3cret"), "{quoted}");
    said(&format!("cat {hostile} >&2; exit 3"));
    // A line without end is no end of it either.
    let long = said(&format!("head -c 3000000 /dev/zero | tr '\\0' x; cat {hostile}; exit 3"));
    assert!(long.len() < 10_000 && long.contains("https://***@mirror"), "{} bytes", long.len());
    // The log has what was said.
    assert!(sandbox.read("log/install.log").contains(forged), "{}", sandbox.read("log/install.log").len());
}

#[test]
fn a_script_from_a_pipe_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.install(&three_stages(&sandbox));
    let mut command = std::process::Command::new("bash");
    let script = fs::File::open(sandbox.path("install.sh")).expect("the script is there");
    let output = command.stdin(script).env_clear().env("PATH", "/usr/bin:/bin").output().expect("bash starts");
    assert_eq!(output.status.code(), Some(2), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("the script must be run from a file, not from a pipe"), "{}", stdout(&output));
    assert!(!sandbox.path("trace").exists());
}

#[test]
fn actions_on_files_do_what_they_say_and_nothing_more() {
    let sandbox = Sandbox::new();
    let conf = sandbox.text("yum.conf");
    let menu = sandbox.text("menu.lst");
    sandbox.write("yum.conf", "[main]\nreleasever=latest\nlast line has no break");
    sandbox.write(
        "menu.lst",
        "default 0\ntitle x\n\tkernel /boot/vmlinuz root=LABEL=/ console=ttyS0\n  kernel /b quiet\n",
    );
    sandbox.write("a b.repo", "mirrorlist=http://x\n");
    sandbox.write("old-1", "x");
    sandbox.write("old 2", "x");
    sandbox.write("machine-id", "abc\n");
    let actions = vec![
        Action::EnsureLine { path: conf.clone(), line: "exclude=kernel*".into() },
        Action::Replace { files: conf.clone(), pattern: "^releasever=.*".into(), with: "releasever=2018.03".into() },
        Action::Replace { files: sandbox.text("*.repo"), pattern: "^mirrorlist=".into(), with: "#mirrorlist=".into() },
        Action::AppendToLines {
            path: menu,
            lines: "^[[:space:]]*kernel[[:space:]]".into(),
            text: " nouveau=off".into(),
        },
        Action::Remove { paths: vec![sandbox.text("old*"), sandbox.text("never-there")] },
        Action::Empty { paths: vec![sandbox.text("machine-id"), sandbox.text("never-there")] },
        Action::Assert(Assertion::Gone { paths: vec![sandbox.text("old*"), sandbox.text("machine-id")] }),
        Action::Assert(Assertion::Exists { path: Argument::literal(conf.clone()) }),
        Action::Assert(Assertion::Contains { path: conf, text: "exclude=kernel*".into() }),
        Action::Assert(Assertion::Prints {
            argv: vec![Argument::literal("echo"), Argument::literal("V1.2")],
            text: "V1.2".into(),
        }),
    ];
    for round in 1..=2 {
        let (code, said) = sandbox.run_actions(actions.clone());
        assert_eq!(code, Some(0), "round {round}: {said}");
        assert_eq!(sandbox.read("yum.conf"), "[main]\nreleasever=2018.03\nlast line has no break\nexclude=kernel*\n");
        let menu = "default 0\ntitle x\n\tkernel /boot/vmlinuz root=LABEL=/ console=ttyS0 nouveau=off\n  kernel /b quiet nouveau=off\n";
        assert_eq!(sandbox.read("menu.lst"), menu);
        assert_eq!(sandbox.read("a b.repo"), "#mirrorlist=http://x\n");
        assert!(!sandbox.path("old-1").exists() && !sandbox.path("old 2").exists());
        assert_eq!(sandbox.read("machine-id"), "");
        assert!(sandbox.path("machine-id").exists());
    }
}

#[test]
fn checks_that_do_not_hold_fail_the_step() {
    let sandbox = Sandbox::new();
    sandbox.write("there", "text\n");
    let there = sandbox.text("there");
    let words = |words: &[&str]| words.iter().map(|word| Argument::literal(*word)).collect::<Vec<_>>();
    let system = |id: &str, version: &str| Assertion::System {
        id: id.into(),
        version: version.into(),
        machine: "x86_64".into(),
        kernel: None,
    };
    let os = |key: &str| {
        let text = fs::read_to_string("/etc/os-release").expect("this machine has one");
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap_or_default();
        value.trim_matches('"').to_owned()
    };
    // All else is right; the kernel is of another series.
    let other_kernel = Assertion::System {
        id: os("ID"),
        version: os("VERSION_ID"),
        machine: std::env::consts::ARCH.into(),
        kernel: Some("2.4.".into()),
    };
    let cases = [
        (other_kernel, 9, ", not 2.4.*"),
        (system("no-such-linux", "1"), 9, "this machine is "),
        (Assertion::FreeSpace { mib: 1 << 40 }, 9, "MiB free, this stage needs"),
        (Assertion::Exists { path: Argument::literal("/no/such") }, 7, "/no/such does not exist"),
        (Assertion::Gone { paths: vec![there.clone()] }, 7, "is still there"),
        (Assertion::Contains { path: there, text: "other".into() }, 7, "does not say \"other\""),
        (Assertion::Prints { argv: words(&["echo", "V1.2"]), text: "V1.3".into() }, 7, "does not print \"V1.3\""),
        (Assertion::Prints { argv: words(&["false"]), text: String::new() }, 7, "exit status 1"),
        (
            Assertion::Installed { query: vec!["test".into(), "-e".into()], packages: words(&["/", "/no/such"]) },
            7,
            "package /no/such is not installed",
        ),
        (Assertion::LibrariesFound { library: "/no/such.so".into() }, 7, "does not exist"),
        (Assertion::Memlock { user: "no-such-user".into() }, 7, "there is no user no-such-user"),
    ];
    for (check, code, words) in cases {
        let (found, said) = sandbox.run_actions(vec![Action::Assert(check.clone())]);
        assert_eq!(found, Some(code), "{check:?}: {said}");
        assert!(said.contains(words), "{check:?}: {said}");
        assert!(!sandbox.path("state/complete").exists());
    }
}

#[test]
fn what_the_network_breaks_is_tried_again_and_then_given_up() {
    let sandbox = Sandbox::new();
    sandbox.program("sleep", "exit 0");
    let count = sandbox.path("count");
    let flaky = format!("echo x >>{0}; [ $(wc -l <{0}) -ge 3 ]", count.display());
    let (code, said) = sandbox.run_actions(vec![GuestCommand::new(["sh", "-c", &flaky]).packages().into()]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = sandbox.run_actions(vec![GuestCommand::new(["false"]).packages().into()]);
    assert_eq!(code, Some(6));
    assert!(said.contains("exit status 1, 3 times"), "{said}");
}

#[test]
fn the_plan_s_environment_reaches_the_commands() {
    let sandbox = Sandbox::new();
    let show = format!("printf '%s|%s' \"$PLAN_SAYS\" \"$OWN\" >{}", sandbox.text("out"));
    let run = GuestCommand::new(["sh", "-c", &show]).environment([("OWN", "a b")]).in_dir("/");
    let (code, said) = sandbox.run_actions(vec![run.into(), append(&sandbox.path("trace"), "end")]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(sandbox.read("out"), "it's $HOME|a b");
}

#[test]
fn a_signal_is_reported_and_the_step_is_done_again() {
    let sandbox = Sandbox::new();
    let once = format!("if [ ! -e {0} ]; then touch {0}; kill -TERM $PPID; fi", sandbox.text("once"));
    sandbox.install(&plan(vec![stage(
        "one",
        Then::Continue,
        vec![step("it", vec![GuestCommand::new(["sh", "-c", &once]).into()])],
    )]));
    let output = sandbox.run(&[]);
    assert_eq!(output.status.code(), Some(6), "{}", stdout(&output));
    assert!(stdout(&output).contains("  reason: interrupted by a signal\n"), "{}", stdout(&output));
    assert!(sandbox.run(&[]).status.success());
}

#[test]
fn what_needs_the_target_s_devices_is_no_condition_for_an_image() {
    let sandbox = Sandbox::new();
    let mut test = stage("test", Then::Continue, vec![step("it", vec![GuestCommand::new(["false"]).into()])]);
    test.run = When::Target;
    let seal = stage("seal", Then::Continue, vec![sandbox.trace_step("e", "e")]);
    sandbox.install(&plan(vec![stage("one", Then::Continue, vec![sandbox.trace_step("a", "a")]), test, seal]));
    assert!(sandbox.run(&["--stage", "one"]).status.success());
    assert!(sandbox.path("state/complete").exists());
    assert!(sandbox.run(&["--stage", "seal"]).status.success(), "a builder has no such devices");
    assert_eq!(sandbox.run(&["--stage", "test"]).status.code(), Some(6));
    let whole = Sandbox::new();
    let mut test = stage("test", Then::Continue, vec![step("it", vec![GuestCommand::new(["false"]).into()])]);
    test.run = When::Target;
    whole.install(&plan(vec![stage("one", Then::Continue, vec![whole.trace_step("a", "a")]), test]));
    assert_eq!(whole.run(&[]).status.code(), Some(6), "asked for, it is run");
    assert!(!whole.path("state/complete").exists());
}

#[test]
fn a_disk_that_takes_nothing_more_is_no_bug_of_the_script() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    let path = sandbox.text("file/below");
    for content in ["line\n", "no line"] {
        let write = Action::WriteFile { path: path.clone(), mode: "0644", content: content.into() };
        let (code, said) = sandbox.run_actions(vec![write]);
        assert_eq!(code, Some(6), "{said}");
        assert!(said.contains("is the disk full?") && said.contains("step: Do it"), "{said}");
    }
}

#[test]
fn the_callers_environment_does_not_reach_what_is_built() {
    let sandbox = Sandbox::new();
    let show = format!("env >{}", sandbox.text("env"));
    sandbox.install(&plan(vec![stage(
        "one",
        Then::Continue,
        vec![step("it", vec![GuestCommand::new(["sh", "-c", &show]).into()])],
    )]));
    let mut command = sandbox.command(&[]);
    for name in [
        "CXX",
        "DEBUG",
        "NVCC_GENCODE",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "HOME",
        "https_proxy",
        "NO_PROXY",
        "SSL_CERT_FILE",
    ] {
        command.env(name, "the-callers");
    }
    command.env("BASH_FUNC_sh%%", "() { echo the function of the caller; false; }");
    assert!(command.status().expect("bash starts").success());
    let environment = sandbox.read("env");
    let mut kept: Vec<&str> = environment.lines().filter_map(|line| line.strip_suffix("=the-callers")).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["HOME", "NO_PROXY", "SSL_CERT_FILE", "https_proxy"], "{environment}");
    assert!(environment.contains("PLAN_SAYS="), "{environment}");
}

/// git clone exits with 128 whatever went wrong, and clears up before it does.
#[test]
fn a_clone_that_fills_the_disk_is_not_the_networks_fault() {
    let clone = |says: &str| {
        let sandbox = Sandbox::new();
        sandbox.program("git", &format!("echo 'fatal: {says}' >&2; exit 128"));
        let (url, commit) = ("http://127.0.0.1:1/x.git".into(), "0".repeat(40));
        let (code, said) = sandbox.run_actions(vec![Action::Checkout { url, commit, dir: sandbox.text("tree") }]);
        assert!(said.contains("FAILED in stage one, step: Do it") && said.contains("  hint: mend it"), "{said}");
        (code, said)
    };
    let (code, said) = clone("write error: No space left on device");
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("the disk is full"), "{said}");
    let (code, said) = clone("unable to access: Could not resolve host");
    assert_eq!(code, Some(5), "{said}");
}

/// What any user of the machine may call a file in /tmp.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "x\netc",
        "\n",
        "trailing\n",
        " ",
        "a b",
        "-rf",
        "--",
        ".dot",
        "..dots",
        "*",
        "?",
        "[ab]",
        "\\",
        "\\n",
        "'",
        "\"",
        "$HOME",
        "$(touch pwned)",
        "`touch pwned`",
        ";touch pwned",
        "\t",
        "\r",
        "\u{1b}[2J",
        "{a,b}",
        "~",
        "&",
        "é",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.push(b"\xff\xfe".to_vec());
    names.push((1..=255).filter(|byte| *byte != b'/').collect());
    names
}

#[test]
fn a_file_s_name_is_never_text() {
    let file = |folder: &std::path::Path, name: &[u8]| folder.join(std::ffi::OsStr::from_bytes(name));
    for name in odd_names() {
        let sandbox = Sandbox::new();
        for folder in ["swept", "kept"] {
            fs::create_dir(sandbox.path(folder)).expect("a folder can be made");
            fs::write(file(&sandbox.path(folder), &name), "secret").expect("a file can be written");
        }
        let glob = vec![sandbox.text("swept/*")];
        let gone = Action::Assert(Assertion::Gone { paths: glob.clone() });
        let (code, said) = sandbox.run_actions(vec![gone.clone()]);
        assert_eq!(code, Some(7), "{name:?}: {said}");
        let (code, said) = sandbox.run_actions(vec![Action::Empty { paths: glob.clone() }, gone]);
        assert_eq!(code, Some(0), "{name:?}: {said}");
        assert_eq!(fs::read(file(&sandbox.path("swept"), &name)).expect("it is still there"), b"", "{name:?}");
        let (code, said) = sandbox.run_actions(vec![Action::Remove { paths: glob }]);
        assert_eq!(code, Some(0), "{name:?}: {said}");
        assert_eq!(fs::read_dir(sandbox.path("swept")).expect("the folder stays").count(), 0, "{name:?}");
        assert_eq!(fs::read(file(&sandbox.path("kept"), &name)).expect("nobody asked for it"), b"secret", "{name:?}");
    }
}

/// The second line of such a name was a path below /, where the script works.
#[test]
fn the_second_line_of_a_name_is_no_path() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("swept")).expect("a folder can be made");
    let victim = tempfile::Builder::new().prefix("efa-gen-victim").tempdir_in("/");
    // Only root can make one there; without, the name leads nowhere, and the other test holds the rest.
    let Ok(victim) = victim else { return };
    let name = victim.path().file_name().expect("it has a name").to_string_lossy().into_owned();
    fs::write(victim.path().join("content"), "kept").expect("a file can be written");
    fs::write(sandbox.path("swept").join(format!("x\n{name}")), "").expect("a file can be written");
    fs::write(sandbox.path("swept/x"), "").expect("a file can be written");
    let glob = vec![sandbox.text("swept/*")];
    let actions = vec![Action::Empty { paths: glob.clone() }, Action::Remove { paths: glob }];
    let (code, said) = sandbox.run_actions(actions);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read(victim.path().join("content")).expect("it is untouched"), b"kept");
}

/// The lines of the distributions' own kernels, the major version of their default gcc, and what is made of it.
const KERNELS: [(&str, &str, &str); 10] = [
    (
        "Linux version 6.1.0-18-cloud-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)",
        "12",
        "gcc",
    ),
    (
        "Linux version 6.8.0-1008-aws (buildd@lcy02-amd64-061) (x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0, GNU ld (GNU Binutils for Ubuntu) 2.42) #8-Ubuntu SMP Sat Apr 20 00:46:25 UTC 2024",
        "13",
        "gcc",
    ),
    (
        "Linux version 6.5.0-1022-aws (buildd@lcy02-amd64-024) (x86_64-linux-gnu-gcc-12 (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0, GNU ld (GNU Binutils for Ubuntu) 2.38) #22~22.04.1-Ubuntu SMP",
        "11",
        "gcc12-gcc",
    ),
    (
        "Linux version 4.15.0-1021-aws (buildd@lcy01-amd64-024) (gcc version 7.3.0 (Ubuntu 7.3.0-16ubuntu3)) #21-Ubuntu SMP Tue Aug 28 10:23:07 UTC 2018",
        "7",
        "gcc",
    ),
    (
        "Linux version 4.4.0-1128-aws (buildd@lcy02-amd64-030) (gcc version 5.4.0 20160609 (Ubuntu 5.4.0-6ubuntu1~16.04.12) ) #142-Ubuntu SMP",
        "5.4.0",
        "gcc",
    ),
    (
        "Linux version 3.10.0-1160.el7.x86_64 (mockbuild@kbuilder.bsys.centos.org) (gcc version 4.8.5 20150623 (Red Hat 4.8.5-44) (GCC) ) #1 SMP Mon Oct 19 16:18:59 UTC 2020",
        "4.8.5",
        "gcc",
    ),
    (
        "Linux version 4.14.336-253.554.amzn2.x86_64 (mockbuild@ip-10-0-32-152) (gcc version 7.3.1 20180712 (Red Hat 7.3.1-17) (GCC)) #1 SMP Thu Jan 18 20:27:18 UTC 2024",
        "7",
        "gcc",
    ),
    (
        "Linux version 5.10.234-225.910.amzn2.x86_64 (mockbuild@ip-10-0-44-229) (gcc10-gcc (GCC) 10.5.0 20230707 (Red Hat 10.5.0-1), GNU ld version 2.35.2-9.amzn2.0.1) #1 SMP Fri Feb 14 16:52:40 UTC 2025",
        "7",
        "gcc10-gcc",
    ),
    (
        "Linux version 4.14.336-180.562.amzn1.x86_64 (mockbuild@koji-pdx-corp-gobi-60001) (gcc version 7.2.1 20170915 (Red Hat 7.2.1-2) (GCC)) #1 SMP",
        "4.8.5",
        "gcc7-gcc",
    ),
    ("Linux version 6.12.8-1 (builder@host) (gcc (GCC) 15.3.0, GNU ld (GNU Binutils) 2.46) #1 SMP", "15", "gcc"),
];

/// A machine with this line and this gcc, where a package gccN brings gccN-gcc, and the action that looks for the compiler.
fn compiler(line: &str, gcc: &str, brings: &str, known: bool) -> (Sandbox, Action) {
    let sandbox = Sandbox::new();
    sandbox.write("version", line);
    sandbox.program("gcc", &format!("[ \"$*\" = -dumpversion ] && echo {gcc}"));
    let program = sandbox.text("bin/$1-gcc");
    sandbox.program(
        "bring",
        &format!(
            "echo $1 >>{}; printf '#!/bin/sh\necho {brings}\n' >{program}; chmod +x {program}",
            sandbox.text("brought")
        ),
    );
    let action = Action::KernelCompiler {
        version: sandbox.text("version"),
        link: sandbox.text("kernel-gcc"),
        other: known.then(|| ("gcc{major}".into(), "gcc{major}-gcc".into())),
        install: vec!["bring".into()],
    };
    (sandbox, action)
}

#[test]
fn the_compiler_is_the_running_kernel_s() {
    for (line, gcc, wanted) in KERNELS {
        let major = wanted.trim_start_matches("gcc").trim_end_matches("-gcc");
        let (sandbox, action) = compiler(line, gcc, &format!("{major}.5.0"), true);
        for round in 1..=2 {
            let (code, said) = sandbox.run_actions(vec![action.clone()]);
            assert_eq!(code, Some(0), "{line}: {said}");
            assert!(!said.contains("note:"), "{line}: {said}");
            let link = fs::read_link(sandbox.path("kernel-gcc")).expect("a link is made");
            assert_eq!(link, sandbox.path("bin").join(wanted), "{line}");
            let brought = if wanted == "gcc" { String::new() } else { format!("gcc{major}\n") };
            assert_eq!(sandbox.read("brought"), brought, "round {round}: {line}");
        }
    }
}

#[test]
fn a_kernel_whose_compiler_can_t_be_had_is_told_of() {
    let amazon = KERNELS[7].0;
    // Unknown here, built by another program, without a word: the default one is taken, and it is said.
    for (line, known, words) in [
        (amazon, false, "gcc 7 is taken: gcc 10 of this kernel is not known here"),
        (
            "Linux version 6.6.0 (u@h) (Ubuntu clang version 14.0.0-1ubuntu1, Ubuntu LLD 14.0.0) #1 SMP",
            true,
            "clang version 1",
        ),
        ("Linux version 6.6.0 (u@h) (clang version 17.0.6, LLD 17.0.6) #1 SMP", true, "clang version 1"),
        ("Linux version 6.6.0 (u@h) (icc 2021.9) #1 SMP", true, "gcc 7 is taken: "),
        ("Linux version 6.6.0 gcc version 10.5.0", true, "gcc 7 is taken: "),
        ("", true, "gcc 7 is taken: "),
    ] {
        let (sandbox, action) = compiler(line, "7", "10.5.0", known);
        let (code, said) = sandbox.run_actions(vec![action]);
        assert_eq!(code, Some(0), "{line}: {said}");
        assert!(said.contains("note: ") && said.contains(words), "{line}: {said}");
        assert_eq!(fs::read_link(sandbox.path("kernel-gcc")).expect("a link"), sandbox.path("bin/gcc"), "{line}");
        assert_eq!(sandbox.read("brought"), "", "{line}");
    }
    // A package that is not there, or brings something else, ends it here and not at the driver.
    let (sandbox, action) = compiler(amazon, "7", "11.2.0", true);
    let (code, said) = sandbox.run_actions(vec![action]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("this kernel's gcc is 10"), "{said}");
    let (sandbox, action) = compiler(amazon, "7", "10.5.0", true);
    sandbox.program("bring", "exit 1");
    sandbox.program("sleep", "exit 0");
    let (code, said) = sandbox.run_actions(vec![action]);
    assert_eq!(code, Some(6), "{said}");
    assert!(!sandbox.path("kernel-gcc").is_symlink(), "{said}");
}

/// A systemctl whose units are files that say their state.
fn units(states: &[(&str, &str)]) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("units")).expect("a folder can be made");
    for (unit, state) in states {
        sandbox.write(&format!("units/{unit}"), state);
    }
    let units = sandbox.text("units");
    sandbox.program(
        "systemctl",
        &format!(
            "cd {units}\ncase $1 in\n  is-enabled) cat \"$2\" 2>/dev/null ;;\n  \
             mask) grep -q fixed \"$2\" && exit 1; [ -e \"$2.was\" ] || cp \"$2\" \"$2.was\"; echo masked >\"$2\" ;;\n  \
             unmask) mv \"$2.was\" \"$2\" ;;\n  stop) echo \"$2\" >>stopped ;;\nesac"
        ),
    );
    sandbox
}

#[test]
fn timers_are_masked_until_the_end_and_are_then_as_they_were() {
    let sandbox = units(&[("a.timer", "enabled"), ("b.timer", "masked"), ("c.timer", "masked-runtime")]);
    let all: Vec<String> = ["a.timer", "b.timer", "c.timer", "none.timer"].map(str::to_owned).to_vec();
    let see = || -> Action {
        let text = format!("cd {} && cat a.timer b.timer c.timer >>../seen", sandbox.text("units"));
        GuestCommand::new(["sh", "-c", &text]).into()
    };
    let mask = Action::MaskUnits { units: all };
    let (code, said) = sandbox.run_actions(vec![mask.clone(), mask.clone(), see(), Action::UnmaskUnits, see()]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(sandbox.read("seen"), "masked\nmaskedmasked-runtimeenabledmaskedmasked-runtime");
    assert_eq!(sandbox.read("units/stopped"), "a.timer\na.timer\n", "what was not masked here is not stopped either");
    assert!(!sandbox.path("units/none.timer").exists());
    // Once more, after the end: masked and given back again.
    let (code, said) = sandbox.run_actions(vec![Action::UnmaskUnits, mask, Action::UnmaskUnits, Action::UnmaskUnits]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(sandbox.read("units/a.timer"), "enabled");
}

#[test]
fn a_timer_that_a_cut_left_unmasked_is_masked_and_one_that_can_t_be_is_told_of() {
    let sandbox = units(&[("a.timer", "enabled"), ("d.timer", "fixed")]);
    let mask = Action::MaskUnits { units: vec!["a.timer".into(), "d.timer".into()] };
    // As a cut leaves it between the record and the mask.
    let record =
        Action::WriteFile { path: sandbox.text("state.masked/a.timer"), mode: "0644", content: "a.timer\n".into() };
    let (code, said) = sandbox.run_actions(vec![record, mask]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(sandbox.read("units/a.timer"), "masked\n");
    assert!(said.contains("note: d.timer can't be masked"), "{said}");
    assert!(!said.contains("note: a.timer"), "{said}");
}

/// What dpkg knows of on a machine, by its own pattern, and what the hold makes of it.
#[test]
fn what_dpkg_says_is_installed_of_the_kernel_is_held() {
    let installed = "ii linux-image-6.8.0-1008-aws\nii linux-image-aws-edge\nhi linux-headers-aws\nrc linux-image-6.5.0-1-aws\nun linux-image-virtual\n";
    let mut tried = 0;
    for distribution in crate::support::catalog().distributions {
        let argv = &distribution.kernel.hold.run;
        if argv.is_empty() {
            assert!(distribution.kernel.hold.line.is_some(), "{}", distribution.id);
            continue;
        }
        tried += 1;
        let sandbox = Sandbox::new();
        sandbox.program("sleep", "exit 0");
        sandbox.program("apt-mark", &format!("[ $# -gt 1 ] || exit 100; echo \"$@\" >>{}", sandbox.text("held")));
        let hold = |sandbox: &Sandbox, says: &str, code: i32| {
            sandbox.write("says", says);
            let (asked, says) = (sandbox.text("asked"), sandbox.text("says"));
            // With a pattern that nothing matches, dpkg-query fails and still says the rest.
            sandbox.program("dpkg-query", &format!("printf '%s\\n' \"$@\" >{asked}; cat {says}; exit 1"));
            let (found, said) = sandbox.run_actions(vec![GuestCommand::new(argv).packages().into()]);
            assert_eq!(found, Some(code), "{}: {said}", distribution.id);
        };
        hold(&sandbox, installed, 0);
        let held = "hold linux-image-6.8.0-1008-aws linux-image-aws-edge linux-headers-aws\n";
        assert_eq!(sandbox.read("held"), held, "{}", distribution.id);
        let asked = sandbox.read("asked");
        assert!(asked.starts_with("-W\n-f\n${db:Status-Abbrev}${binary:Package}\\n\n"), "{asked}");
        for pattern in ["linux-image-*\n", "linux-headers-*\n"] {
            assert!(asked.contains(pattern), "{}: {asked}", distribution.id);
        }
        hold(&sandbox, "un linux-image-virtual\n", 6);
        hold(&sandbox, "", 6);
        assert_eq!(sandbox.read("held"), held, "nothing was held of what is not there");
    }
    assert_eq!(tried, 4);
}

/// The repository file of CentOS 7.9, as far as the substitutions meet it.
const CENTOS: &str = "[base]\nname=CentOS-$releasever - Base\nmirrorlist=http://mirrorlist.centos.org/?release=$releasever&arch=$basearch&repo=os&infra=$infra\n#baseurl=http://mirror.centos.org/centos/$releasever/os/$basearch/\ngpgcheck=1\n[fasttrack]\nbaseurl=http://mirror.centos.org/centos/$releasever/fasttrack/$basearch/\n[base-source]\nbaseurl=http://vault.centos.org/centos/$releasever/os/Source/\n";

#[test]
fn packages_of_the_vault_come_by_https_and_from_a_second_host() {
    let catalog = crate::support::catalog();
    let distribution = catalog.distribution("centos7").expect("the catalog has it");
    let sandbox = Sandbox::new();
    sandbox.write("CentOS-Base.repo", CENTOS);
    let replace = |with: &efa_gen::catalog::distribution::Replace| Action::Replace {
        files: sandbox.text("CentOS-*.repo"),
        pattern: with.pattern.clone(),
        with: with.with.clone(),
    };
    let actions: Vec<Action> = distribution.repositories[0].replace.iter().map(replace).collect();
    let wanted = "[base]\nname=CentOS-$releasever - Base\n#mirrorlist=http://mirrorlist.centos.org/?release=$releasever&arch=$basearch&repo=os&infra=$infra\nbaseurl=https://vault.centos.org/7.9.2009/os/$basearch/ https://archive.kernel.org/centos-vault/7.9.2009/os/$basearch/\nfailovermethod=priority\ngpgcheck=1\n[fasttrack]\nbaseurl=https://vault.centos.org/7.9.2009/fasttrack/$basearch/ https://archive.kernel.org/centos-vault/7.9.2009/fasttrack/$basearch/\nfailovermethod=priority\n[base-source]\nbaseurl=http://vault.centos.org/centos/$releasever/os/Source/\n";
    for round in 1..=2 {
        let (code, said) = sandbox.run_actions(actions.clone());
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(sandbox.read("CentOS-Base.repo"), wanted, "round {round}");
    }
}

/// A step has a function of its own, named after stage and step: it must not take the place of one that it calls.
#[test]
fn no_function_of_a_script_is_defined_twice() {
    for distribution in crate::support::catalog().distributions {
        let plan = crate::support::default_plan(&distribution.id);
        let script = efa_gen::render::render(&plan, &[efa_gen::render::Format::Script]).expect("it can be rendered");
        let mut names: Vec<&str> =
            script[0].text.lines().filter_map(|line| line.split_once("() {")).map(|(n, _)| n).collect();
        names.retain(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        assert!(names.len() > 40, "{names:?}");
        names.sort_unstable();
        let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{}: {twice:?}", distribution.id);
    }
}
