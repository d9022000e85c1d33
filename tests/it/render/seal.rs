//! The seal as it is rendered for each distribution, executed over a planted machine: what must be gone, what must stay.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::canaries::{IN_HOME, ON_MACHINE, SECRET};
use crate::support::sandbox::{Sandbox, plan, stage, step};
use crate::support::{catalog, default_plan, stdout};
use efa_gen::plan::{Action, Assertion, Stage, Then, When};

/// Where the caller's logins came from.
const CALLER: &str = "203.0.113.77";

/// Homes below the planted machine: of root, the login user, services, and somebody who is gone.
const HOMES: [&str; 6] = [
    "root",
    "home/ubuntu",
    "var/lib/service",
    "srv/odd [home] it's *",
    "home/gone",
    // Of some daemons it is /.
    "",
];

/// What is the image's own.
const KEPT: [&str; 17] = [
    "home/ubuntu/.bashrc",
    "home/ubuntu/.vimrc",
    "home/ubuntu/.gitconfig",
    "home/ubuntu/work/config.json",
    "home/ubuntu/work/id_rsa.txt",
    "home/ubuntu/.docker/cli-plugins/x",
    "home/ubuntu/.cache/huggingface/hub/model.bin",
    "home/ubuntu/.local/bin/x",
    "var/lib/service/data",
    "etc/ssh/sshd_config",
    "etc/cron.d/job",
    "etc/pki/tls/cert.pem",
    "core-data/x",
    "opt/core.1",
    "var/lib/efa-gen/complete",
    "var/lib/efa-gen/nccl.json",
    "net/home/.aws/credentials",
];

/// Folders that daemons miss when they are gone.
const FOLDERS: [&str; 8] = [
    "tmp",
    "var/tmp",
    "var/log/audit",
    "var/lib/cloud",
    "var/spool/cron/crontabs",
    "var/spool/cron/atjobs",
    "var/spool/at/spool",
    "home/ubuntu/.ssh",
];

fn plant(root: &Path, path: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().expect("it has one")).expect("a folder can be made");
    fs::write(&file, format!("{SECRET} of {path}, from {CALLER}\n")).expect("a file can be written");
}

const CONFIG: &str = "Host own\n  User me\n";

/// A machine whose root is the sandbox's folder `root`.
fn planted() -> Sandbox {
    let sandbox = Sandbox::new();
    let root = sandbox.path("root");
    let passwd: String = HOMES
        .iter()
        .filter(|home| **home != "home/gone")
        .chain(&["net/home", "none", "dev/null"])
        .map(|home| format!("u:x:0:0:Some One:{}:/bin/sh\n", root.join(home).display()))
        .collect();
    let passwd = passwd + "relative:x:0:0::var/lib/service:/bin/sh\nempty:x:0:0:::/bin/sh\n";
    for home in HOMES {
        IN_HOME.iter().for_each(|path| plant(&root, format!("{home}/{path}").trim_start_matches('/')));
        let block = format!("# efa-gen: begin of the cluster\nHost {SECRET}\n# efa-gen: end of the cluster\n");
        fs::write(root.join(home).join(".ssh/config"), format!("{CONFIG}{block}Host last\n"))
            .expect("it can be written");
    }
    ON_MACHINE.iter().for_each(|path| plant(&root, path));
    KEPT.iter().for_each(|path| plant(&root, path));
    fs::create_dir_all(root.join("var/spool/cron/crontabs")).expect("a folder can be made");
    fs::write(root.join("etc/fstab"), "/dev/xvda1 / ext4 defaults 0 1\n").expect("a file can be written");
    sandbox.write("passwd", &passwd);
    sandbox.program("getent", &format!("[ \"$*\" = passwd ] && cat {}", sandbox.text("passwd")));
    // Whatever file system the test runs on, this home's is another, without a disk.
    sandbox.program("stat", "case $* in *net/home*) echo 77 ;; *) PATH=/usr/bin:/bin exec stat \"$@\" ;; esac");
    sandbox
}

fn needs_a_distribution(action: &Action) -> bool {
    matches!(
        action,
        Action::Run(_) | Action::UnmaskUnits | Action::Assert(Assertion::Initramfs { .. } | Assertion::DkmsInstalled)
    )
}

/// The seal's actions with every path below the sandbox's root, without those that need a whole distribution.
fn below_root(sandbox: &Sandbox, seal: &Stage) -> Stage {
    let root = sandbox.text("root");
    let below = |path: &String| format!("{root}{path}");
    let all = |paths: &Vec<String>| paths.iter().map(below).collect::<Vec<_>>();
    let action = |action: &Action| match action {
        action if needs_a_distribution(action) => None,
        Action::Remove { paths } => Some(Action::Remove { paths: all(paths) }),
        Action::Empty { paths } => Some(Action::Empty { paths: all(paths) }),
        Action::RemoveFromHomes { homes, paths } => {
            Some(Action::RemoveFromHomes { homes: below(homes), paths: paths.clone() })
        }
        Action::StripSsh { homes } => Some(Action::StripSsh { homes: below(homes) }),
        Action::RemoveSwap { fstab, files } => Some(Action::RemoveSwap { fstab: below(fstab), files: all(files) }),
        Action::Renew { path, content } => Some(Action::Renew { path: below(path), content: content.clone() }),
        Action::WriteFile { path, mode, content } => {
            Some(Action::WriteFile { path: below(path), mode, content: content.clone() })
        }
        Action::Quiesce { argv, .. } => Some(Action::Quiesce { booted: vec!["false".into()], argv: argv.clone() }),
        Action::LeaveDigest => Some(Action::LeaveDigest),
        Action::Assert(Assertion::Gone { paths }) => Some(Action::Assert(Assertion::Gone { paths: all(paths) })),
        Action::Assert(Assertion::GoneFromHomes { homes, paths }) => {
            Some(Action::Assert(Assertion::GoneFromHomes { homes: below(homes), paths: paths.clone() }))
        }
        Action::Assert(Assertion::SshStripped { homes }) => {
            Some(Action::Assert(Assertion::SshStripped { homes: below(homes) }))
        }
        other => panic!("the seal has an action that this test does not know: {other:?}"),
    };
    let steps = seal.steps.iter().map(|one| step(&one.id, one.actions.iter().filter_map(action).collect()));
    stage("seal", Then::Continue, steps.collect())
}

fn seal_of(distribution: &str) -> Stage {
    default_plan(distribution).stages.into_iter().find(|stage| stage.run == When::Image).expect("every plan has one")
}

/// Every file below the folder that still has it, but for those that stay.
fn still_there(sandbox: &Sandbox, words: &str) -> Vec<String> {
    let root = sandbox.path("root");
    let name = |path: &Path| path.strip_prefix(&root).expect("it is below").display().to_string();
    let has = |bytes: &[u8]| bytes.windows(words.len()).any(|window| window == words.as_bytes());
    let found = sandbox.listing("root").into_iter().filter(|(_, bytes)| has(bytes)).map(|(path, _)| name(&path));
    found.filter(|path| !KEPT.contains(&path.as_str())).collect()
}

#[test]
fn nothing_of_a_machine_or_its_people_is_in_an_image() {
    let mut tried = Vec::new();
    for distribution in catalog().distributions {
        let seal = seal_of(&distribution.id);
        // What differs besides is the package manager's, which is not run here.
        let actions = seal.steps.iter().flat_map(|step| step.actions.clone());
        let ours: Vec<_> = actions.filter(|action| !needs_a_distribution(action)).collect();
        if tried.contains(&ours) {
            continue;
        }
        tried.push(ours);
        let sandbox = planted();
        sandbox.install(&plan(vec![below_root(&sandbox, &seal)]));
        let sealed = sandbox.run(&["--stage", "seal"]);
        let said = stdout(&sealed);
        assert!(sealed.status.success(), "{}: {said}", distribution.id);
        assert_eq!(still_there(&sandbox, SECRET), Vec::<String>::new(), "{}", distribution.id);
        assert_eq!(still_there(&sandbox, CALLER), Vec::<String>::new(), "{}", distribution.id);
        for path in KEPT {
            assert!(sandbox.read(&format!("root/{path}")).contains(SECRET), "{}: {path}", distribution.id);
        }
        for folder in FOLDERS {
            assert!(sandbox.path("root").join(folder).is_dir(), "{}: {folder}", distribution.id);
        }
        for home in HOMES {
            let config = sandbox.read(&format!("root/{home}/.ssh/config"));
            assert_eq!(config, format!("{CONFIG}Host last\n"), "{}: {home}", distribution.id);
        }
        let machine_id = fs::metadata(sandbox.path("root/etc/machine-id")).expect("systemd asks for it");
        assert_eq!(machine_id.len(), 0, "{}", distribution.id);
        assert!(said.contains("net/home is on no disk of this machine"), "{}: {said}", distribution.id);
        let again = Command::new("sh").arg(sandbox.path("state/install.sh")).output().expect("sh starts");
        assert_eq!(stdout(&again), "EFA-GEN COMPLETE: every stage is done already.\n", "{}", distribution.id);
    }
}

/// Each canary by itself: a check that looks at the first alone would not be seen otherwise.
#[test]
fn what_the_seal_could_not_remove_fails_it() {
    let sandbox = Sandbox::new();
    let root = sandbox.text("root");
    sandbox.program("getent", &format!("echo u:x:0:0::{root}/home:"));
    let homes = format!("{root}/none/*");
    let gone = |path: &str| Assertion::Gone { paths: vec![format!("{root}/none"), format!("{root}/{path}")] };
    let from_homes =
        |path: &str| Assertion::GoneFromHomes { homes: homes.clone(), paths: vec!["none".into(), path.into()] };
    let stripped = Assertion::SshStripped { homes: homes.clone() };
    let cases = [
        ("etc/x", gone("etc/x")),
        ("etc/x", gone("etc/*")),
        ("etc/deep/er/x", gone("etc/*")),
        ("etc/.x", gone("etc/*")),
        ("etc/two\nlines", gone("etc/*")),
        ("home/.aws/x", from_homes(".aws")),
        ("home/.x/y/token", from_homes(".x/*/*token*")),
        ("home/.x history", from_homes(".*history*")),
        ("home/.ssh/id_ed25519", stripped.clone()),
        ("home/.ssh/.x", stripped.clone()),
        ("home/.ssh/d/config", stripped.clone()),
    ];
    for (path, check) in cases {
        let _ = fs::remove_dir_all(sandbox.path("root"));
        fs::create_dir_all(sandbox.path("root/home")).expect("a folder can be made");
        let (code, said) = sandbox.run_actions(vec![Action::Assert(check.clone())]);
        assert_eq!(code, Some(0), "{path}, before it is there: {said}");
        plant(&sandbox.path("root"), path);
        let (code, said) = sandbox.run_actions(vec![Action::Assert(check.clone())]);
        assert_eq!(code, Some(7), "{path}: {said}");
        assert!(said.contains(&root) && said.contains(" is still there"), "{path}: {said}");
    }
    fs::remove_dir_all(sandbox.path("root/home/.ssh")).expect("it is there");
    fs::create_dir(sandbox.path("root/home/.ssh")).expect("a folder can be made");
    let block = "# efa-gen: begin of the cluster\nHost x\n# efa-gen: end of the cluster\n";
    sandbox.write("root/home/.ssh/config", block);
    let (code, said) = sandbox.run_actions(vec![Action::Assert(stripped)]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("still has the cluster's block"), "{said}");
}

#[test]
fn a_block_without_an_end_is_the_users() {
    let begin = "# efa-gen: begin of the cluster\n";
    let end = "# efa-gen: end of the cluster\n";
    let cases = [
        (format!("a\n{begin}b\n{end}c\n"), "a\nc\n".to_owned()),
        (format!("a\n{begin}b\n"), format!("a\n{begin}b\n")),
        (format!("a\n{begin}b\n{begin}c\n{end}d\n"), format!("a\n{begin}b\nd\n")),
        (format!("a\n{end}b\n"), format!("a\n{end}b\n")),
        (format!("{begin}{end}"), String::new()),
        (
            " # efa-gen: begin of the cluster\nb\n".to_owned() + end,
            " # efa-gen: begin of the cluster\nb\n".to_owned() + end,
        ),
        (String::new(), String::new()),
    ];
    for (before, after) in cases {
        let sandbox = Sandbox::new();
        fs::create_dir_all(sandbox.path("home/.ssh")).expect("a folder can be made");
        sandbox.write("home/.ssh/config", &before);
        sandbox.program("getent", &format!("echo u:x:0:0::{}:", sandbox.text("home")));
        let homes = sandbox.text("none/*");
        let check = Action::Assert(Assertion::SshStripped { homes: homes.clone() });
        let (code, said) = sandbox.run_actions(vec![Action::StripSsh { homes }, check]);
        assert_eq!(code, Some(0), "{before:?}: {said}");
        assert_eq!(sandbox.read("home/.ssh/config"), after, "{before:?}");
    }
}

/// Root follows no link that a user has laid out of his home.
#[test]
fn a_link_in_a_home_is_removed_and_not_what_it_leads_to() {
    let sandbox = Sandbox::new();
    for folder in ["home", "victim/config"] {
        fs::create_dir_all(sandbox.path(folder)).expect("a folder can be made");
    }
    sandbox.write("victim/config.json", SECRET);
    sandbox.write("victim/config/x", SECRET);
    for link in [".ssh", ".docker", ".aws", ".config", ".bash_history"] {
        symlink(sandbox.path("victim"), sandbox.path("home").join(link)).expect("a link can be made");
    }
    sandbox.program("getent", &format!("echo u:x:0:0::{}:", sandbox.text("home")));
    let homes = sandbox.text("none/*");
    let paths = [".docker/*.json", ".aws", ".config", ".*history*"].map(str::to_owned).to_vec();
    let (code, said) =
        sandbox.run_actions(vec![Action::StripSsh { homes: homes.clone() }, Action::RemoveFromHomes { homes, paths }]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((sandbox.read("victim/config.json"), sandbox.read("victim/config/x")), (SECRET.into(), SECRET.into()));
    assert!(said.contains("home/.ssh leads out of its home"), "{said}");
    for link in [".aws", ".config", ".bash_history"] {
        assert!(!sandbox.path("home").join(link).is_symlink(), "{link}");
    }
}

/// Debian's /var/log/README is a link, which leads nowhere where no documentation is installed.
#[test]
fn a_link_that_leads_nowhere_keeps_no_log_from_being_emptied() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("log/apt")).expect("a folder can be made");
    symlink("/nonexistent/README.logs", sandbox.path("log/README")).expect("a link can be made");
    sandbox.write("log/apt/history.log", SECRET);
    sandbox.write("log/syslog", SECRET);
    let paths = vec![sandbox.text("log/*"), sandbox.text("nothing/*"), sandbox.text("no-such-file")];
    let (code, said) =
        sandbox.run_actions(vec![Action::Empty { paths: paths.clone() }, Action::Assert(Assertion::Gone { paths })]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((sandbox.read("log/apt/history.log"), sandbox.read("log/syslog")), (String::new(), String::new()));
    assert!(sandbox.path("log/README").is_symlink());
}

#[test]
fn a_machine_that_tells_of_nobody_is_not_sealed() {
    for getent in ["exit 2", "exit 0"] {
        let sandbox = Sandbox::new();
        sandbox.program("getent", getent);
        let (code, said) = sandbox.run_actions(vec![Action::StripSsh { homes: sandbox.text("none/*") }]);
        assert_eq!(code, Some(6), "{said}");
        assert!(said.contains("getent passwd told of nobody"), "{said}");
    }
}

#[test]
fn a_swap_file_that_is_mounted_at_boot_is_made_anew() {
    let sandbox = Sandbox::new();
    let (mounted, other) = (sandbox.text("swapfile"), sandbox.text("swap.img"));
    for file in ["swapfile", "swap.img"] {
        sandbox.write(file, &format!("{SECRET}\n"));
    }
    fs::create_dir(sandbox.path("swap.d")).expect("a folder can be made");
    symlink(sandbox.path("passwd"), sandbox.path("swap.link")).expect("a link can be made");
    sandbox.write("passwd", SECRET);
    sandbox.write("fstab", &format!("# {other} none swap sw 0 0\n{mounted} none swap sw 0 0\n"));
    sandbox.program("mkswap", &format!("echo \"$@\" >>{}", sandbox.text("seen")));
    let files = vec![sandbox.text("swap*")];
    let (code, said) = sandbox.run_actions(vec![Action::RemoveSwap { fstab: sandbox.text("fstab"), files }]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read(&mounted).expect("it stays"), vec![0; SECRET.len() + 1]);
    assert_eq!(sandbox.read("seen"), format!("{mounted}\n"));
    assert!(!Path::new(&other).exists() && sandbox.path("swap.d").is_dir());
    assert_eq!(sandbox.read("passwd"), SECRET, "no link is followed");
}

/// In a chroot there are no services; on a machine one that can't be stopped is not overlooked.
#[test]
fn services_are_stopped_where_there_are_any() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (booted, then, code, trace) in
        [("true", "exit 0", 0, "stop a b\n"), ("false", "exit 0", 0, ""), ("true", "exit 5", 6, "stop a b\n")]
    {
        let sandbox = Sandbox::new();
        sandbox.program("stopper", &format!("echo \"$@\" >>{}; {then}", sandbox.text("seen")));
        let (found, said) = sandbox
            .run_actions(vec![Action::Quiesce { booted: words(&[booted]), argv: words(&["stopper", "stop", "a b"]) }]);
        assert_eq!((found, sandbox.read("seen").as_str()), (Some(code), trace), "{booted}: {said}");
    }
    for distribution in catalog().distributions {
        let stops = |action: &Action| matches!(action, Action::Quiesce { .. });
        let seal = seal_of(&distribution.id);
        let position = |id: &str| seal.steps.iter().position(|step| step.id == id).expect("the step is there");
        assert!(seal.steps[position("quiet")].actions.iter().any(stops), "{}", distribution.id);
        assert!(position("quiet") < position("logs"), "{}: or what it stops writes once more", distribution.id);
    }
}

#[test]
fn the_script_leaves_its_digest_and_nothing_else() {
    let sandbox = Sandbox::new();
    let secret = vec![Action::WriteFile { path: sandbox.text("out"), mode: "0600", content: format!("{SECRET}\n") }];
    let seal = stage("seal", Then::Continue, vec![step("script", vec![Action::LeaveDigest])]);
    sandbox.install(&plan(vec![stage("one", Then::Continue, vec![step("it", secret)]), seal]));
    assert!(sandbox.run(&[]).status.success());
    let kept = fs::metadata(sandbox.path("state/install.sh")).expect("the boot hook starts it");
    assert_eq!(kept.permissions().mode() & 0o777, 0o600, "it holds what its user wrote");
    let log = fs::metadata(sandbox.path("log/install.log")).expect("there is a log");
    assert_eq!(log.permissions().mode() & 0o777, 0o600);
    let whole = Command::new("sha256sum").arg(sandbox.path("install.sh")).output().expect("sha256sum starts");
    let digest = stdout(&whole).split_once(' ').expect("a digest and a name").0.to_owned();
    let sealed = sandbox.run(&["--stage", "seal"]);
    assert!(sealed.status.success(), "{}", stdout(&sealed));
    let note = sandbox.read("state/install.sh");
    assert!(note.contains(&digest) && !note.contains(SECRET), "{note}");
    assert!(!sandbox.path("install.sh").exists(), "nor is the file that was started");
    let ran = |arguments: &[&str]| {
        Command::new("bash").arg(sandbox.path("state/install.sh")).args(arguments).output().expect("bash starts")
    };
    for good in [&[][..], &["--start"]] {
        assert_eq!(stdout(&ran(good)), "EFA-GEN COMPLETE: every stage is done already.\n", "{good:?}");
    }
    for bad in [&["--stage", "seal"][..], &["--stage", "one"], &["--from", "one"], &["--what"]] {
        let output = ran(bad);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{bad:?}");
    }
}

/// The file that was started may lie where the seal itself cleans: /tmp, the home of whoever uploaded it.
#[test]
fn a_script_that_the_seal_has_removed_leaves_its_digest() {
    let sandbox = Sandbox::new();
    let script = sandbox.text("install.sh");
    let gone = step("traces", vec![Action::Remove { paths: vec![script] }]);
    let seal = stage("seal", Then::Continue, vec![gone, step("script", vec![Action::LeaveDigest])]);
    sandbox.install(&plan(vec![stage("one", Then::Continue, vec![step("it", vec![])]), seal]));
    assert!(sandbox.run(&[]).status.success());
    let whole = Command::new("sha256sum").arg(sandbox.path("install.sh")).output().expect("sha256sum starts");
    let digest = stdout(&whole).split_once(' ').expect("a digest and a name").0.to_owned();
    let sealed = sandbox.run(&["--stage", "seal"]);
    assert!(sealed.status.success(), "{}", stdout(&sealed));
    assert!(sandbox.read("state/install.sh").contains(&digest));
}

/// What a daemon of the base image writes meanwhile is emptied again; what never stops is named.
#[test]
fn a_log_that_is_written_to_meanwhile_is_emptied() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("agents")).expect("a folder can be made");
    sandbox.write("agents/agent.log", SECRET);
    // The first two looks find a line that has just come.
    let count = sandbox.text("count");
    let find = |times: u32| {
        format!(
            "/usr/bin/find \"$@\"; case \"$*\" in *-print*) n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) >{count}; \
             [ $n -ge {times} ] || echo \"$1\" ;; esac"
        )
    };
    sandbox.program("find", &find(2));
    let paths = vec![sandbox.text("agents/*")];
    let (code, said) = sandbox.run_actions(vec![Action::Empty { paths: paths.clone() }]);
    assert_eq!((code, sandbox.read("agents/agent.log")), (Some(0), String::new()), "{said}");
    assert_eq!(sandbox.read("count"), "3\n");
    sandbox.program("find", &find(99));
    let (code, said) = sandbox.run_actions(vec![Action::Empty { paths }]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("agent.log is not empty after 5 tries"), "{said}");
}

/// For root tar keeps what the archive says of owner and mode, unless it is told not to.
#[test]
fn an_archive_brings_no_setuid_program() {
    let sandbox = Sandbox::new();
    sandbox.write("program", "x");
    fs::set_permissions(sandbox.path("program"), fs::Permissions::from_mode(0o6777)).expect("a mode can be set");
    let made =
        Command::new("tar").arg("-C").arg(sandbox.path("")).args(["-cf", &sandbox.text("a.tar"), "program"]).status();
    assert!(made.expect("tar starts").success());
    sandbox.program("tar", "PATH=/usr/bin:/bin exec tar --same-permissions \"$@\"");
    let unpack = Action::Unpack { archive: sandbox.text("a.tar"), dir: sandbox.text("unpacked"), strip: false };
    let (code, said) = sandbox.run_actions(vec![unpack]);
    assert_eq!(code, Some(0), "{said}");
    let mode = fs::metadata(sandbox.path("unpacked/program")).expect("it is unpacked").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}
