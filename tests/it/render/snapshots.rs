//! The snapshots are the product: what users get for every distribution, in every format, from its default stack.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::time::Duration;

use crate::support::{catalog, default_plan, in_repository};
use base64::Engine;
use efa_gen::catalog::environment;
use efa_gen::cluster::test::{Collective, Sizes};
use efa_gen::cluster::trust::{self, Node};
use efa_gen::plan::{Plan, When};
use efa_gen::render::slurm;
use efa_gen::render::{self, Format, PackerGrammar, builder};

/// Every file that is rendered for a plan, and the plan itself, by name.
fn product(plan: &Plan) -> Vec<(&'static str, String)> {
    let mut files: Vec<(&'static str, String)> = Format::all(PackerGrammar::Newest)
        .into_iter()
        .flat_map(|format| render::render(plan, &[format]).expect("every format can be rendered"))
        .map(|file| (file.name, file.text))
        .collect();
    let packed = files.iter_mut().find(|(name, _)| *name == "user-data.yaml").expect("cloud-init is a format");
    let payload = payload(&packed.1);
    packed.1 = packed.1.replace(&payload, "<install.sh without comments, gzip, base64>");
    files.push(("plan.json", serde_json::to_string_pretty(plan).expect("a plan is plain data")));
    files
}

/// The base64 text that the user-data carries.
fn payload(user_data: &str) -> String {
    let line =
        user_data.lines().find(|line| line.trim_start().starts_with("H4sI")).expect("the user-data carries gzip");
    line.trim_start().to_owned()
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
    let text = builder::user_data(builder::Machine::Builder, run, 1_795_000_000, 14_400).expect("it can be rendered");
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
        assert_eq!(builder::host_keys(&both(damaged), run), Some(vec![other.to_owned()]), "{damaged}");
        assert_eq!(builder::host_keys(&whole.replace(key, damaged), run), None, "{damaged}");
    }
    for good in [
        whole.clone(),
        format!("{cut}{whole}"),
        format!("{whole}{cut}"),
        format!("{cut}{end}\r\n{whole}{cut}"),
        format!("{whole}{cut}{end}\r\n"),
    ] {
        assert_eq!(builder::host_keys(&good, run), Some(vec![key.to_owned()]), "{good}");
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
        assert_eq!(builder::host_keys(&bad, run), None, "{bad}");
    }
}

/// What a node of a cluster is told at its launch, and later by its login.
#[test]
fn a_nodes_user_data_and_trust() {
    let run = "20261122-171500-ab12";
    let boothook =
        builder::user_data(builder::Machine::Node("blue"), run, 1_795_000_000, 86_400).expect("it can be rendered");
    let user_data = builder::of_node(&boothook, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMw efa-gen cluster blue", None);
    let nodes = [1, 2].map(|number| Node {
        address: format!("10.0.0.{number}"),
        host_keys: vec![format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{number}")],
    });
    let trust = builder::trust(&builder::Trust {
        name: "blue",
        private: "(the cluster's private key)\n",
        known_hosts: &trust::known_hosts(&nodes),
        ssh_config: &trust::ssh_config("blue", &nodes),
        hostfile: &trust::hostfile(&nodes, 8),
    });
    insta::with_settings!({
        snapshot_path => in_repository("snapshots/builder"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!("node.yaml", user_data);
        insta::assert_snapshot!("trust.sh", trust.expect("it can be rendered"));
    });
}

/// The batch job that `efa-gen validate --slurm` prints.
#[test]
fn a_batch_job() {
    let catalog = catalog();
    let version = |version: &str| Some(version.to_owned());
    let software = environment::Software {
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
    let mut expected =
        BTreeSet::from(["node.yaml", "trust.sh", "user-data.sh"].map(|name| format!("builder/{name}.snap")));
    expected.insert("slurm/job.sh.snap".into());
    for distribution in &catalog().distributions {
        for (name, _) in product(&default_plan(&distribution.id)) {
            expected.insert(format!("{}/{name}.snap", distribution.id));
        }
    }
    let mut found = BTreeSet::new();
    for folder in fs::read_dir(in_repository("snapshots")).expect("snapshots/ is there") {
        let folder = folder.expect("snapshots/ can be read");
        for file in fs::read_dir(folder.path()).expect("snapshots/ holds folders only") {
            let name = file.expect("a snapshot folder can be read").file_name();
            found.insert(format!("{}/{}", folder.file_name().display(), name.display()));
        }
    }
    assert_eq!(expected, found);
}

#[test]
fn user_data_carries_the_script_without_comments_and_seal() {
    for distribution in &catalog().distributions {
        let plan = default_plan(&distribution.id);
        let text = |format| render::render(&plan, &[format]).expect("it can be rendered").remove(0).text;
        let packed = base64::engine::general_purpose::STANDARD
            .decode(payload(&text(Format::CloudInit)))
            .expect("the payload is base64");
        let mut carried = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut carried).expect("the payload is gzip");
        let whole = text(Format::Script);
        let code: Vec<_> = whole.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let strange = |line: &&str| !code.contains(line) && !line.starts_with("readonly ") && *line != "#!/bin/bash";
        assert_eq!(carried.lines().filter(strange).collect::<Vec<_>>(), Vec::<&str>::new(), "{}", distribution.id);
        assert!(!carried.contains("seal_") && whole.contains("seal_"), "{}", distribution.id);
        for stage in plan.stages.iter().filter(|stage| stage.run != When::Image).flat_map(|stage| &stage.steps) {
            assert!(
                carried.contains(&stage.title.replace('\'', "\\'")) || carried.contains(&stage.title),
                "{}",
                stage.title
            );
        }
        assert!(carried.starts_with("#!/bin/bash\n"), "{}", distribution.id);
    }
}

#[test]
fn user_data_stays_under_the_limit_of_ec2() {
    for distribution in &catalog().distributions {
        for stack in BTreeSet::from([distribution.default.as_str(), "newest"]) {
            let request = efa_gen::plan::Request { test: true, ..crate::support::request(&distribution.id, stack) };
            let plan = efa_gen::plan::plan(&catalog(), &request).expect("it can be planned");
            let text = render::render(&plan, &[Format::CloudInit]).expect("it can be rendered").remove(0).text;
            assert!(text.starts_with("#cloud-config\n"));
            assert!(text.len() <= 16384, "{} {stack}: {} bytes", distribution.id, text.len());
        }
    }
}

#[test]
fn user_data_that_does_not_fit_is_refused_with_the_excess() {
    let noise: String = (0..4000u32).map(|n| format!("{:x}\n", n.wrapping_mul(2_654_435_761))).collect();
    let request = efa_gen::plan::Request {
        extra_script: Some(format!("#!/bin/sh\n{noise}")),
        ..crate::support::request("ubuntu18", "guide")
    };
    let plan = efa_gen::plan::plan(&catalog(), &request).expect("a long script is no problem for the plan");
    let error = render::render(&plan, &[Format::CloudInit]).expect_err("it can't fit");
    assert!(error.to_string().contains("more than EC2 allows"), "{error}");
    assert!(render::render(&plan, &[Format::Script]).is_ok());
}

/// What is called must be there, and what is there must be called.
#[test]
fn a_script_has_exactly_the_functions_that_it_needs() {
    let template =
        std::fs::read_to_string(crate::support::in_repository("templates/script/install.sh")).expect("the template");
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
