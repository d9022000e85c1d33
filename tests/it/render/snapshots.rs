//! The snapshots are the product: what users get for every distribution, in every format, from its default stack.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::{catalog, default_plan, in_repository};
use efa_gen::catalog::nccl_env;
use efa_gen::guest::ssh_trust::{self, TrustedNode};
use efa_gen::guest::{console, user_data};
use efa_gen::nccl::command::{Collective, Sizes};
use efa_gen::nccl::output::slurm;
use efa_gen::plan::Plan;
use efa_gen::render::{self, Format, PackerGrammar};

/// Every text that is rendered for a plan, and the plan itself, by name.
fn product(plan: &Plan) -> Vec<(&'static str, String)> {
    let mut files: Vec<(&'static str, String)> = Format::all(PackerGrammar::Newest)
        .into_iter()
        .flat_map(|format| render::render(plan, &[format]).expect("every format can be rendered"))
        .filter(|file| file.compressed.is_none())
        .map(|file| (file.name, file.text))
        .collect();
    files.push(("plan.json", serde_json::to_string_pretty(plan).expect("a plan is plain data")));
    files
}

#[test]
fn every_distribution_and_format() {
    for distribution in &catalog().distributions {
        let folder = in_repository("snapshots").join(&distribution.id);
        for (name, text) in product(&default_plan(&distribution.id)) {
            insta::with_settings!({
                snapshot_path => &folder,
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, { insta::assert_snapshot!(name, text) });
        }
    }
}

/// What a builder of `efa-gen build` is told, and how what it prints is read again.
#[test]
fn a_builders_user_data() {
    let run = "20261122-171500-ab12";
    let text = user_data::user_data(user_data::UserDataTarget::Builder, run, 1_795_000_000, 14_400)
        .expect("it can be rendered");
    insta::with_settings!({
        snapshot_path => in_repository("snapshots/builder"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("user-data.sh", text) });

    let marks: Vec<&str> = text.split('"').filter(|word| word.starts_with("-----EFA-GEN")).collect();
    let [begin, end] = marks[..] else { panic!("{marks:?}") };
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFm4O7owudwZ8414SIHe1k5S0+0ilab6VaY/YVIc/nzb";
    let other = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBABXjKYxtayv1hGPyAXq++obAlZD67yx1ssWB32GKvn72Kn4QPFqu2TNdUfN5OGwRecAW7sLcJsBdTj9JaQbmmQ=";
    let whole = format!("boot\r\n{begin}\r\n{key} root@ip\r\n[    7.1] a line of the kernel's\r\n{end}\r\n");
    // It is printed several times, and may have been cut off at any of them.
    let cut = format!("{begin}\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMw\r\n");
    // A key that lost something is none, wherever it lost it; the others of its block are as good.
    let both = |key: &str| format!("{begin}\r\n{other}\r\n{key}\r\n{end}\r\n");
    for damaged in [&key[..key.len() - 4], &key.replacen('I', "", 1), &format!("{}{}", &key[..40], &key[44..])] {
        assert_eq!(console::host_keys(&both(damaged), run), Some(vec![other.to_owned()]), "{damaged}");
        assert_eq!(console::host_keys(&whole.replace(key, damaged), run), None, "{damaged}");
    }
    for good in [
        whole.clone(),
        format!("{cut}{whole}"),
        format!("{whole}{cut}"),
        format!("{cut}{end}\r\n{whole}{cut}"),
        format!("{whole}{cut}{end}\r\n"),
    ] {
        assert_eq!(console::host_keys(&good, run), Some(vec![key.to_owned()]), "{good}");
    }
    for bad in [
        whole.replace(key, ""),
        whole.replace(end, ""),
        whole.replace(begin, ""),
        whole.replace("AAAAC3", "ZZZZC3"),
        whole.replace("ssh-ed25519", "ssh-rsa"),
        whole.replace(run, "20261122-171500-ab13"),
        whole.replace(key, "ssh-dss AAAAB3NzaC1kc3MAAACBAJ"),
        String::new(),
    ] {
        assert_eq!(console::host_keys(&bad, run), None, "{bad}");
    }
}

/// Who logs what root does to the console, as sudo may, must not say that the seal went through before it began.
#[test]
fn a_builder_is_sealed_when_the_seals_own_command_has_said_so() {
    let run = "20261122-171500-ab12";
    let command = console::sealed_command(run);
    // As the seal starts it, a shell in a shell.
    let line = format!("setsid /bin/sh -c \"true >/dev/null 2>&1 && sync && {command}\"");
    let output = Command::new("/bin/sh").args(["-c", &line]).output().expect("a shell is there");
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(said, "-----EFA-GEN SEALED 20261122-171500-ab12-----\n");
    let mark = said.trim_end();
    for good in [
        said.clone(),
        format!("{mark}\r\n"),
        format!("boot\r\n{mark}\r\n[   99.1] reboot: Power down\r\n"),
        // Somebody else was in the middle of a line.
        format!("[   98.7] a line of the kernel's {mark}\r\n"),
        format!("cut off{mark}"),
    ] {
        assert!(console::is_sealed(&good, run), "{good}");
    }
    let sudo = "builder sudo[812]: admin : PWD=/home/admin ; USER=root ; COMMAND=/bin/sh -c";
    for bad in [
        String::new(),
        format!("{sudo} {line}\r\n"),
        format!("{sudo} '{line} </dev/null >/dev/null 2>&1 & wait $!; code=$?; exit $code'\r\n"),
        // sudo breaks long lines at blanks, and goes on in the next.
        format!(
            "{sudo} setsid /bin/sh -c \"true && sync && {command}\r\nbuilder sudo[812]: admin : (command continued) >/dev/console\"\r\n"
        ),
        format!("audit: cmd={command}\r\n"),
        // As an efa-gen before this one started it.
        format!("{sudo} \"sync && echo {mark} >/dev/console\" </dev/null\r\n"),
        said.replace("ab12", "ab13"),
        said.replace("SEALED", "BEGIN HOST KEYS"),
        mark[..mark.len() - 1].to_owned(),
        mark.replace("ALED", "AL\r\nED"),
    ] {
        assert!(!console::is_sealed(&bad, run), "{bad}");
    }
}

/// What a node of a cluster is told at its launch, and later by its login.
#[test]
fn a_nodes_user_data_and_trust() {
    let run = "20261122-171500-ab12";
    let boothook = user_data::user_data(user_data::UserDataTarget::Node("blue"), run, 1_795_000_000, 86_400)
        .expect("it can be rendered");
    let user_data = user_data::of_node(&boothook, None, None);
    let nodes = [1, 2].map(|number| TrustedNode {
        address: format!("10.0.0.{number}"),
        host_keys: vec![format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{number}")],
    });
    let trust = ssh_trust::trust(&ssh_trust::Trust {
        name: "blue",
        private: "(the cluster's private key)\n",
        known_hosts: &ssh_trust::known_hosts(&nodes),
        ssh_config: &ssh_trust::ssh_config("blue", &nodes),
        hostfile: &ssh_trust::hostfile(&nodes, 8),
    });
    let admission = ssh_trust::admission(&ssh_trust::Admission {
        name: "blue",
        public: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMw/H0CmJ+fJ3Zb5ZxSgvC8h0xq2yYbJ0b1f4b1c9XyZ efa-gen cluster blue",
        sources: &["10.0.0.1".to_owned(), "10.0.0.2".to_owned()],
        former: false,
    });
    insta::with_settings!({
        snapshot_path => in_repository("snapshots/builder"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("node.yaml", user_data);
        insta::assert_snapshot!("trust.sh", trust.expect("it can be rendered"));
        insta::assert_snapshot!("admission.sh", admission.expect("it can be rendered"));
    });
}

/// The batch job that `efa-gen validate --slurm` prints.
#[test]
fn a_batch_job() {
    let catalog = catalog();
    let version = |version: &str| Some(version.to_owned());
    let software = nccl_env::Software {
        efa: version("1.22.1"),
        nccl: version("2.18.6-1"),
        plugin: version("1.5.0"),
        gpudirect: false,
    };
    let job = slurm::job(&slurm::Job {
        nodes: 4,
        instance_type: catalog.instance_type("p4d.24xlarge").expect("it is known"),
        collectives: &[Collective::AllReduce, Collective::AllToAll],
        sizes: Sizes { min: 8, max: 1 << 30, iterations: 20 },
        limit: Duration::from_secs(1800),
        min_busbw: Some(42.5),
        tests: "/shared/nccl tests",
        software: &software,
        variables: &catalog.environment,
    });
    insta::with_settings!({
        snapshot_path => in_repository("snapshots/slurm"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("job.sh", job.expect("it can be rendered")); });
}

#[test]
fn no_snapshot_is_an_orphan() {
    let mut expected = BTreeSet::from(
        ["admission.sh", "node.yaml", "trust.sh", "user-data.sh"].map(|name| format!("builder/{name}.snap")),
    );
    expected.insert("slurm/job.sh.snap".into());
    // `permissions` without and with --tagged, and one of several uses in HCL.
    for used in ["build", "publish", "gate", "launch", "sweep", "packer", "session-manager"] {
        expected.extend(["", "-tagged"].map(|tagged| format!("policies/{used}{tagged}.json.snap")));
    }
    expected.insert("policies/publish-session-manager.tf.snap".into());
    for distribution in &catalog().distributions {
        for (name, _) in product(&default_plan(&distribution.id)) {
            expected.insert(format!("{}/{name}.snap", distribution.id));
        }
    }
    let mut found = BTreeSet::new();
    for folder in fs::read_dir(in_repository("snapshots")).expect("snapshots/ is there") {
        let folder = folder.expect("snapshots/ can be read");
        if folder.file_name() == "matrix.md" {
            continue;
        }
        for file in fs::read_dir(folder.path()).expect("snapshots/ holds folders only") {
            let name = file.expect("a snapshot folder can be read").file_name();
            found.insert(format!("{}/{}", folder.file_name().display(), name.display()));
        }
    }
    assert_eq!(expected, found);
}

/// What is called must be there, and what is there must be called.
#[test]
fn a_script_has_exactly_the_functions_that_it_needs() {
    let files = ["install", "lib/report", "lib/state", "lib/actions", "lib/checks", "lib/machine", "lib/walk"];
    let read = |name: &str| {
        std::fs::read_to_string(crate::support::in_repository(&format!("templates/script/{name}.sh")))
            .expect("it is there")
    };
    let template: String = files.map(read).concat();
    let defined = |text: &str| -> BTreeSet<String> {
        let names = text.lines().filter_map(|line| line.split_once("() {").map(|(name, _)| name.to_owned()));
        names.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect()
    };
    let known = defined(&template);
    assert!(known.len() > 60, "{known:?}");
    let mut smaller = 0;
    for distribution in &catalog().distributions {
        let plan = default_plan(&distribution.id);
        let script = render::render(&plan, &[Format::Script]).expect("it can be rendered").remove(0).text;
        let there = defined(&script);
        for name in &known {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let code = script.lines().filter(|line| !line.trim_start().starts_with('#'));
            let calls = code
                .filter(|line| !line.starts_with(&format!("{name}()")))
                .flat_map(|line| line.split(|c| !word(c)))
                .filter(|found| found == name);
            assert_eq!(calls.count() > 0, there.contains(name), "{}: {name}", distribution.id);
        }
        smaller += usize::from(there.is_superset(&known));
    }
    assert_eq!(smaller, 0, "no distribution needs all of them");
}
