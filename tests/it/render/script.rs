//! The install script, executed: progress, resuming, reboots, failure reports, exit codes.

use std::fs;

use crate::support::sandbox::{Sandbox, append, plan, stage, step};
use crate::support::{stderr, stdout};
use efa_gen::plan::{Action, Check, Run, Then, When, Word};

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
    let fails = step("fragile", vec![Run::new(["sh", "-c", &check]).into()]);
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
        "then run it again, it goes on with this step",
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
                step(word, vec![write, Run::new(["sh", "-c", &kill]).into()])
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
    let mut plan =
        plan(vec![stage("one", Then::Continue, vec![step("it", vec![Run::new(["echo", "hi"]).packages().into()])])]);
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
        Action::Assert(Check::Gone { paths: vec![sandbox.text("old*"), sandbox.text("machine-id")] }),
        Action::Assert(Check::Exists { path: Word::literal(conf.clone()) }),
        Action::Assert(Check::Contains { path: conf, text: "exclude=kernel*".into() }),
        Action::Assert(Check::Prints { argv: vec![Word::literal("echo"), Word::literal("V1.2")], text: "V1.2".into() }),
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
    let words = |words: &[&str]| words.iter().map(|word| Word::literal(*word)).collect::<Vec<_>>();
    let system =
        |id: &str, version: &str| Check::System { id: id.into(), version: version.into(), machine: "x86_64".into() };
    let cases = [
        (system("no-such-linux", "1"), 9, "this machine is "),
        (Check::FreeSpace { mib: 1 << 40 }, 9, "MiB free, this stage needs"),
        (Check::Exists { path: Word::literal("/no/such") }, 7, "/no/such does not exist"),
        (Check::Gone { paths: vec![there.clone()] }, 7, "is still there"),
        (Check::Contains { path: there, text: "other".into() }, 7, "does not say \"other\""),
        (Check::Prints { argv: words(&["echo", "V1.2"]), text: "V1.3".into() }, 7, "does not print \"V1.3\""),
        (Check::Prints { argv: words(&["false"]), text: String::new() }, 7, "exit status 1"),
        (
            Check::Installed { query: vec!["test".into(), "-e".into()], packages: words(&["/", "/no/such"]) },
            7,
            "package /no/such is not installed",
        ),
        (Check::LibrariesFound { library: "/no/such.so".into() }, 7, "does not exist"),
        (Check::Memlock { user: "no-such-user".into() }, 7, "there is no user no-such-user"),
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
    let (code, said) = sandbox.run_actions(vec![Run::new(["sh", "-c", &flaky]).packages().into()]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = sandbox.run_actions(vec![Run::new(["false"]).packages().into()]);
    assert_eq!(code, Some(6));
    assert!(said.contains("exit status 1, 3 times"), "{said}");
}

#[test]
fn the_plan_s_environment_reaches_the_commands() {
    let sandbox = Sandbox::new();
    let show = format!("printf '%s|%s' \"$PLAN_SAYS\" \"$OWN\" >{}", sandbox.text("out"));
    let run = Run::new(["sh", "-c", &show]).environment([("OWN", "a b")]).in_dir("/");
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
        vec![step("it", vec![Run::new(["sh", "-c", &once]).into()])],
    )]));
    let output = sandbox.run(&[]);
    assert_eq!(output.status.code(), Some(6), "{}", stdout(&output));
    assert!(stdout(&output).contains("  reason: interrupted by a signal\n"), "{}", stdout(&output));
    assert!(sandbox.run(&[]).status.success());
}

#[test]
fn what_needs_the_target_s_devices_is_no_condition_for_an_image() {
    let sandbox = Sandbox::new();
    let mut test = stage("test", Then::Continue, vec![step("it", vec![Run::new(["false"]).into()])]);
    test.run = When::Target;
    let seal = stage("seal", Then::Continue, vec![sandbox.trace_step("e", "e")]);
    sandbox.install(&plan(vec![stage("one", Then::Continue, vec![sandbox.trace_step("a", "a")]), test, seal]));
    assert!(sandbox.run(&["--stage", "one"]).status.success());
    assert!(sandbox.path("state/complete").exists());
    assert!(sandbox.run(&["--stage", "seal"]).status.success(), "a builder has no such devices");
    assert_eq!(sandbox.run(&["--stage", "test"]).status.code(), Some(6));
    let whole = Sandbox::new();
    let mut test = stage("test", Then::Continue, vec![step("it", vec![Run::new(["false"]).into()])]);
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
        vec![step("it", vec![Run::new(["sh", "-c", &show]).into()])],
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
