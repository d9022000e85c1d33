//! What comes from outside, on its way through the program: files' names, programs of this machine, guests, Packer, servers.
//! Nothing of it drives a terminal, fills the memory or shows a password.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::aws::{done, is_dry, refuse};
use crate::support::builds::{BASE, EFA, Stage, odd_machines, type_with};
use crate::support::hostile::{FLOOD, HOSTILE, MEMORY, assert_harmless, path_with, program, watched};
use crate::support::pgp::{bytes, fingerprint};
use crate::support::{command, mpirun, run_in, scratch, stderr, stdout};
use base64::Engine as _;

#[test]
fn a_name_of_a_file_or_an_argument_does_nothing_to_a_terminal() {
    let folder = scratch();
    // A name has no slash and no NUL, and need not be UTF-8.
    let name = HOSTILE.as_bytes();
    for name in [name, b"a\x9b2J\xff.tar.gz", b"\r\x1b[2Kgood signature  x"] {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(folder.path().join(name), bytes("efa.tar.gz")).expect("a file");
        for (file, code) in [("good.sig", 0), ("good.asc", 3)] {
            fs::write(folder.path().join("sig"), bytes(file)).expect("a file");
            fs::write(folder.path().join("key"), bytes("good.asc")).expect("a file");
            for output in ["human", "json"] {
                let mut verify = command(&["verify", "--signature", "sig", "--key", "key", "--fingerprint"]);
                verify.arg(fingerprint("good")).args(["--output", output]).arg("--").arg(name);
                let output = verify.current_dir(folder.path()).output().expect("it starts");
                let said = String::from_utf8(output.stdout.clone()).expect("UTF-8");
                assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
                assert_harmless(&said);
                assert_harmless(&String::from_utf8(output.stderr.clone()).expect("UTF-8"));
            }
        }
    }
    // Whatever else is named and is not there, by efa-gen or by clap.
    let folder = scratch();
    for words in [
        &["verify", HOSTILE][..],
        &["plan", "--distro", HOSTILE],
        &["plan", "--distro", "debian12", "--stack", HOSTILE],
        &["plan", "--distro", "debian12", "--stack-file", HOSTILE],
        &["render", "--distro", "debian12", "--mirror", HOSTILE],
        &["render", "--distro", "al2", "--yum-repository", HOSTILE],
        &["validate", "--log", HOSTILE],
        &["validate", "--hostfile", HOSTILE],
        &["build", "--resume", HOSTILE],
        &["build", "--distro", "debian12", "--on-error", HOSTILE],
        &["images", HOSTILE],
        &[HOSTILE],
    ] {
        let output = command(words).current_dir(folder.path()).output().expect("it starts");
        assert_ne!(output.status.code(), Some(0), "{words:?}");
        assert!(stderr(&output).contains("owned"), "{words:?}: {}", stderr(&output));
        assert_harmless(&stderr(&output));
        assert_harmless(&stdout(&output));
    }
}

#[test]
fn json_of_verify_names_the_file_as_it_is() {
    let folder = scratch();
    fs::write(folder.path().join(HOSTILE), bytes("efa.tar.gz")).expect("a file");
    fs::write(folder.path().join("sig"), bytes("good.sig")).expect("a file");
    fs::write(folder.path().join("key"), bytes("good.asc")).expect("a file");
    let good = fingerprint("good");
    let words = ["verify", HOSTILE, "--signature", "sig", "--key", "key", "--fingerprint", &good, "--output", "json"];
    let ran = run_in(folder.path(), &words);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(value["path"], HOSTILE, "{value}");
}

#[test]
fn a_program_of_this_machine_does_nothing_to_the_terminal_of_validate() {
    let stage = mpirun::Stage::new(2, "exit 1");
    stage.write("hostile", HOSTILE);
    let path = path_with(&stage.path(""));
    for (script, code) in [
        ("cat \"$here/hostile\"; exit 9", 7),
        ("cat \"$here/hostile\" >&2; exit 9", 7),
        ("printf '0\\n'; cat \"$here/hostile\"; exit 15", 7),
        ("printf '0\\n'; cat \"$here/hostile\"; exit 14", 7),
    ] {
        stage.program("nvidia-smi", script);
        for progress in [&[][..], &["--output", "json"]] {
            let mut validate = stage.command(&[&["--keep-log", "run.log"], progress].concat());
            let output = validate.env("PATH", &path).output().expect("it starts");
            assert_eq!(output.status.code(), Some(code), "{script}: {}", stderr(&output));
            assert!(stderr(&output).contains("]52;c;b3duZWQ="), "{script}: {}", stderr(&output));
            assert_harmless(&stderr(&output));
            assert_harmless(&stdout(&output));
        }
    }
}

#[test]
fn a_program_of_this_machine_that_prints_without_end_takes_no_memory() {
    let stage = mpirun::Stage::new(2, "exit 1");
    for (script, why) in [(FLOOD.to_owned(), "the answer is longer than 1 MiB"), (format!("{FLOOD} >&2; exit 1"), "")] {
        stage.program("nvidia-smi", &script);
        let mut validate = stage.command(&["--keep-log", "run.log"]);
        let (code, said, memory) = watched(validate.env("PATH", path_with(&stage.path(""))), &stage.path(""));
        assert!(code.is_some_and(|code| code != 0) && said.contains(why), "{code:?} {}", &said[..said.len().min(999)]);
        assert!(said.len() < 10_000 && memory < MEMORY, "{} bytes said, {memory} KiB", said.len());
    }
}

/// Puts a stand-in for ssh into a folder's `bin`, by whose own account nothing is configured.
fn ssh(folder: &Path, script: &str) {
    program(&folder.join("bin"), "ssh", &format!("[ \"$1\" != -G ] || exit 0\n{script}"));
}

/// A valid public key, of a host that nobody has.
fn host_key() -> String {
    format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{}", "A".repeat(43))
}

/// An account whose machines tell their host keys on a console that has hostile lines, too.
fn talking_machines() -> Stage {
    let run = Mutex::new(String::new());
    odd_machines(
        || unreachable!("it is launched once"),
        move |action, params| {
            let mut run = run.lock().expect("the run");
            match action {
                "RunInstances" if !is_dry(params) => {
                    let number = params.iter().find(|(_, value)| *value == "efa-gen:run").map(|(name, _)| name.clone());
                    let value = number.map(|name| name.replace(".Key", ".Value"));
                    *run = params[&value.expect("it is tagged")].clone();
                    None
                }
                "GetConsoleOutput" => {
                    let key = host_key();
                    let mark = |what: &str| format!("-----EFA-GEN {what} HOST KEYS {run}-----");
                    let console =
                        format!("{HOSTILE}\n{}\n{key}\n{}\r\nlogin:\r\n{HOSTILE}", mark("BEGIN"), mark("END"));
                    let output = base64::prelude::BASE64_STANDARD.encode(console);
                    Some(done(action, &format!("<output>{output}</output>")))
                }
                _ => None,
            }
        },
    )
}

/// Runs a build whose builder is reached by this stand-in for ssh: `stage` is what an install's stage does.
fn build(stage: &Stage, script: &str) -> Command {
    let folder = stage.folder.path();
    fs::write(folder.join("hostile"), HOSTILE).expect("a file");
    let here = folder.display();
    let answers = format!(
        "for line; do :; done\ncase $line in\n*'--stage '*) {} ;;\n*install.log*) cat {here}/hostile ;;\n\
         *'cat >'*) cat >/dev/null ;;\nesac",
        script.replace("HERE", &here.to_string())
    );
    ssh(folder, &answers);
    stage.account.0.lock().expect("the account").clear();
    let mut build = stage.build_command("debian12", &["--on-error", "keep"]);
    build.env("PATH", path_with(&folder.join("bin")));
    build
}

/// What lies in the folder of the only run.
fn kept(stage: &Stage, name: &str) -> String {
    let run = fs::read_dir(stage.runs()).expect("runs").next().expect("a run").expect("a run").path();
    String::from_utf8(fs::read(run.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))).expect("UTF-8")
}

#[test]
fn a_builder_does_nothing_to_the_terminal_nor_to_who_reads_the_runs_files() {
    for progress in [&[][..], &["--output", "json"]] {
        let stage = talking_machines();
        let mut build = build(&stage, "cat HERE/hostile; cat HERE/hostile >&2; exit 6");
        let output = build.args(progress).output().expect("it starts");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(6), "{said}");
        assert!(said.matches("]52;c;b3duZWQ=").count() >= 2, "it is said as it comes, and by the error: {said}");
        assert_harmless(&said);
        assert_harmless(&stdout(&output));
        assert!(kept(&stage, "console.log").contains("-----\nlogin:\n"), "{:?}", kept(&stage, "console.log"));
        for name in ["build.log", "install.log", "console.log"] {
            let text = kept(&stage, name);
            assert!(text.contains("]52;c;b3duZWQ="), "{name}: {text:?}");
            let odd = text.chars().find(|c| !crate::support::hostile::is_harmless(*c) && *c != '\n');
            assert_eq!(odd, None, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_builder_that_prints_without_end_takes_no_memory() {
    let stage = talking_machines();
    let mut build = build(&stage, &format!("{FLOOD}; echo; echo the end; exit 6"));
    let (code, said, memory) = watched(&mut build, stage.folder.path());
    assert_eq!(code, Some(6), "{}", &said[said.len().saturating_sub(999)..]);
    assert!(said.contains("[cut: 199934464 more bytes in this line]"), "{}", &said[said.len().saturating_sub(999)..]);
    assert!(memory < MEMORY, "{memory} KiB");
    // The line as it came, and what the error repeats.
    assert!(said.len() < (64 << 10) + (20 << 10), "{} bytes", said.len());
    let error = &said[said.find("error: ").expect("an error")..];
    assert!(error.len() < 5_000 && error.contains("the end"), "{error}");
}

#[test]
fn a_builder_that_answers_without_end_is_an_error() {
    let stage = talking_machines();
    let mut build = build(&stage, "exit 6");
    let flood = format!(
        "for line; do :; done\ncase $line in\n*sha256sum*) {FLOOD} | fold -w 1000 ;;\n*'cat >'*) cat >/dev/null ;;\nesac"
    );
    ssh(stage.folder.path(), &flood);
    let (code, said, memory) = watched(&mut build, stage.folder.path());
    assert!(
        said.contains("the answer is longer than 1 MiB on i-1"),
        "{code:?} {}",
        &said[said.len().saturating_sub(999)..]
    );
    assert!(said.len() < 10_000 && memory < MEMORY, "{} bytes said, {memory} KiB", said.len());
}

#[test]
fn no_error_of_a_download_shows_a_password() {
    let folder = scratch();
    let good = fingerprint("good");
    for url in ["http://user:s3cret@127.0.0.1:9/efa", "http://s3cret@127.0.0.1:9", "http://user:s3c/ret@127.0.0.1:9/"] {
        for words in [
            &["fetch", "--efa", "1.51.0", "--fingerprint", &good, "--base-url", url][..],
            &["plan", "--distro", "debian12", "--stack-file", url],
            &["validate", "--log", url],
            &["validate", url],
        ] {
            let ran = run_in(folder.path(), words);
            assert_ne!(ran.code, 0, "{words:?}");
            assert!(!ran.stderr.contains("s3c"), "{words:?}: {}", ran.stderr);
            assert!(!ran.stdout.contains("s3c"), "{words:?}: {}", ran.stdout);
        }
    }
    // A proxy's, of the environment.
    for proxy in ["http://user:s3cret@127.0.0.1:9", "user:s3cret@127.0.0.1:9", "http://user:s3cret@no such host:80"] {
        let mut fetch = command(&["fetch", "--efa", "1.51.0", "--base-url", "https://mirror.invalid"]);
        let output = fetch.env("HTTPS_PROXY", proxy).current_dir(folder.path()).output().expect("it starts");
        assert_ne!(output.status.code(), Some(0));
        assert!(!stderr(&output).contains("s3cret"), "{proxy}: {}", stderr(&output));
    }
}

#[test]
fn hostile_lines_of_an_error_of_aws_are_harmless() {
    // XML has no other control characters.
    let text: String = HOSTILE.chars().filter(|c| !c.is_ascii_control() || "\r\n\t".contains(*c)).collect();
    let stage =
        Stage::new(move |_, action, _| (action == "DescribeInstances").then(|| refuse("UnauthorizedOperation", &text)));
    let ran = stage.sweep(&[]);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("owned"), "{}", ran.stderr);
    assert_harmless(&ran.stderr);
}

/// A cluster `c1` of two nodes that this machine launched, as far as its record goes.
fn cluster() -> Stage {
    let run = Arc::new(Mutex::new(String::new()));
    let known = Arc::clone(&run);
    let stage = odd_machines(
        || unreachable!("nothing is launched"),
        move |action, params| match (action, known.lock().expect("the run").as_str()) {
            ("RunInstances", _) if !is_dry(params) => Some(refuse("UnauthorizedOperation", "No.")),
            ("DescribeInstanceTypes", _) => Some(done(action, &type_with(EFA))),
            ("DescribeInstances", run) if !run.is_empty() => {
                let tag = |key: &str, value: &str| format!("<item><key>{key}</key><value>{value}</value></item>");
                let tags = tag("efa-gen:run", run) + &tag("efa-gen:cluster", "c1");
                let node = |n: u32| {
                    format!(
                        "<item><instancesSet><item><instanceId>i-{n}</instanceId><instanceState><name>running</name></instanceState>\
                         <privateIpAddress>10.0.0.{n}</privateIpAddress><ipAddress>192.0.2.{n}</ipAddress>\
                         <tagSet>{tags}</tagSet></item></instancesSet></item>"
                    )
                };
                Some(done(action, &format!("<reservationSet>{}{}</reservationSet>", node(1), node(2))))
            }
            _ => None,
        },
    );
    let launch = ["launch", "--name", "c1", "--nodes", "2", "--type", "p3dn.24xlarge", "--ami", BASE, "--keep"];
    let ran = stage.run(&[&launch[..], &["--distro", "debian12", "--ssh-cidr", "203.0.113.7/32"]].concat());
    assert!(ran.stderr.contains("RunInstances"), "{}", ran.stderr);
    let folder = fs::read_dir(stage.runs()).expect("runs").next().expect("a run").expect("a run");
    // Its nodes are those that its ledger has.
    let line = |id: &str| {
        format!(
            "{{\"region\":\"us-east-1\",\"kind\":\"instance\",\"id\":\"{id}\",\"name\":\"\",\"state\":\"\",\"created\":\"\",\"tags\":{{}}}}\n"
        )
    };
    let ledger = folder.path().join("made.jsonl");
    let made = fs::read_to_string(&ledger).unwrap_or_default();
    fs::write(ledger, made + &line("i-1") + &line("i-2")).expect("a file");
    *run.lock().expect("the run") = folder.file_name().into_string().expect("text");
    stage
}

#[test]
fn what_nodes_say_is_raw_only_where_no_terminal_shows_it() {
    let stage = cluster();
    let folder = stage.folder.path();
    fs::write(folder.join("hostile"), HOSTILE).expect("a file");
    ssh(folder, &format!("cat {}/hostile", folder.display()));
    let mut run = stage.command(&["cluster", "run", "c1", "--", "look"]);
    run.env("PATH", path_with(&folder.join("bin")));
    let output = run.output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for node in ["10.0.0.1", "10.0.0.2"] {
        for line in HOSTILE.lines() {
            assert!(stdout(&output).contains(&format!("{node}: {line}\n")), "{:?}", stdout(&output));
        }
    }
    let shown = at_a_terminal(&run);
    // The terminal's own line breaks.
    let shown = shown.replace("\r\n", "\n");
    assert!(shown.contains("10.0.0.2: a\\u{1b}]0;owned\\u{7}\\u{1b}[2J"), "{shown:?}");
    assert!(shown.contains("10.0.0.1: EFA-GEN VERDICT: PASS\n"), "{shown:?}");
    assert_harmless(&shown);
    // One that fails with the connection, and one that prints without end.
    ssh(folder, &format!("cat {}/hostile >&2; exit 255", folder.display()));
    let output = run.output().expect("it starts");
    assert!(stderr(&output).contains("the connection was lost"), "{}", stderr(&output));
    assert_harmless(&stderr(&output));
    ssh(folder, FLOOD);
    let (code, said, memory) = watched(&mut run, folder);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(memory < MEMORY, "{memory} KiB");
}

#[test]
fn a_node_that_answers_a_check_with_anything_is_named_in_one_harmless_line() {
    let stage = cluster();
    let folder = stage.folder.path();
    fs::write(folder.join("hostile"), HOSTILE).expect("a file");
    let here = folder.display();
    // Every answer is hostile; the answer has no end.
    let facts =
        "=== kernel\\n%s\\n=== gpus\\n1%s, %s\\n=== release\\n%s\\n=== unreachable\\n%s\\n=== clock\\n0\\n=== end\\n";
    let hostile = format!("h=$(tr -d '\\n' <{here}/hostile); printf '{facts}' \"$h$$\" \"$h$$\" \"$h\" \"$h\" \"$h\"");
    let long = "h=$(head -c 60000 /dev/zero | tr '\\0' x)";
    let long = format!("{long}; printf '{facts}' \"$$$h\" \"$$$h\" \"$h\" \"=$h\" \"$h\"");
    for script in [hostile, long, format!("cat {here}/hostile; exit 1"), format!("{FLOOD} | fold -w 100")] {
        ssh(folder, &script);
        for output in ["human", "json"] {
            let mut check = stage.command(&["cluster", "check", "c1", "--output", output]);
            check.env("PATH", path_with(&folder.join("bin")));
            let output = check.output().expect("it starts");
            assert_eq!(output.status.code(), Some(7), "{script}: {}", stderr(&output));
            assert_harmless(&stderr(&output));
            assert_harmless(&stdout(&output));
        }
        let mut check = stage.command(&["cluster", "check", "c1"]);
        check.env("PATH", path_with(&folder.join("bin")));
        let (_, said, memory) = watched(&mut check, folder);
        assert!(said.len() < 10_000 && memory < MEMORY, "{} bytes said, {memory} KiB", said.len());
    }
}

/// What a command shows at a terminal of its own.
fn at_a_terminal(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let line = shlex::try_join(words.map(|word| word.to_str().expect("text"))).expect("no NUL");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.current_dir(command.get_current_dir().expect("a folder"));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    stdout(&script.output().expect("script starts"))
}
