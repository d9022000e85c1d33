//! The rendered files before the real programs that will read them, and the NCCL test by the real mpirun. These need programs
//! that a fresh machine does not have, so they are ignored by a plain `cargo test`; `.ci/run` installs the programs and runs
//! them all.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::mpirun::Stage;
use crate::support::nccl::Run;
use crate::support::sandbox::Sandbox;
use crate::support::{catalog, command, efa_gen, stderr, stdout};
use efa_gen::plan::Action;
use efa_gen::version::at_least;

/// Runs a program; a missing one fails the test.
fn program(name: &str, arguments: &[&str], folder: &Path) -> Output {
    Command::new(name)
        .args(arguments)
        .current_dir(folder)
        .env("CHECKPOINT_DISABLE", "1")
        .env("PACKER_NO_COLOR", "1")
        .env("HOME", folder)
        .output()
        .unwrap_or_else(|error| panic!("{name} does not start: {error}; .ci/run installs it"))
}

/// Renders everything for every distribution, stack and grammar; calls back with the folder and what it holds.
fn each_rendering(mut look: impl FnMut(&Path, &str)) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("extra"), "#!/bin/sh\necho \"it's $HOME and ${x}\"\n").expect("it can be written");
    let extra = folder.path().join("extra").display().to_string();
    for distribution in &catalog().distributions {
        let variants: [&[&str]; 4] =
            [&[], &["--stack", "newest", "--test"], &["--no-gpu"], &["--extra-script", &extra]];
        for (index, variant) in variants.iter().enumerate() {
            // Packer 1.6 can't log in where sshd takes no SHA-1.
            let old = !at_least(&distribution.ami.openssh, "8.8");
            for grammar in ["1.6", "1.7"].into_iter().filter(|grammar| *grammar == "1.7" || old) {
                let name = format!("{}-{index}-{grammar}", distribution.id);
                let out = folder.path().join(&name);
                let out_text = out.display().to_string();
                let fixed = ["render", "--distro", &distribution.id, "--packer", grammar, "--out", &out_text];
                let output = efa_gen(&[&fixed[..], variant].concat());
                assert!(output.status.success(), "{name}: {}", stderr(&output));
                look(&out, &name);
            }
        }
    }
}

#[test]
#[ignore = "needs shellcheck; run by .ci/run"]
fn shellcheck_finds_nothing_in_any_script() {
    let mut seen = BTreeSet::new();
    each_rendering(|folder, name| {
        // It does not depend on Packer's grammar.
        if !seen.insert(fs::read(folder.join("install.sh")).expect("it is rendered")) {
            return;
        }
        let output = program("shellcheck", &["install.sh"], folder);
        assert!(output.status.success(), "{name}: {}{}", stdout(&output), stderr(&output));
    });
}

#[test]
#[ignore = "needs shellcheck; run by .ci/run"]
fn shellcheck_finds_nothing_in_a_batch_job() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for variant in [&["--stack", "guide"][..], &["--collective", "alltoall", "--min-busbw", "3.5"]] {
        let fixed = ["validate", "--slurm", "--nodes", "4", "--instance-type", "p3dn.24xlarge"];
        let job = efa_gen(&[&fixed, variant].concat());
        fs::write(folder.path().join("job.sh"), &job.stdout).expect("it can be written");
        let output = program("shellcheck", &["job.sh"], folder.path());
        assert!(job.status.success() && output.status.success(), "{}{}", stderr(&job), stdout(&output));
    }
}

#[test]
#[ignore = "needs packer; run by .ci/run"]
fn packer_takes_every_template() {
    each_rendering(|folder, name| {
        let format = program("packer", &["fmt", "-check", "-diff", "image.pkr.hcl"], folder);
        assert!(format.status.success(), "{name}: {}", stdout(&format));
        if name.ends_with("1.6") {
            let validate = ["validate", "-var", "ssh_cidrs=[\"203.0.113.7/32\"]", "image.pkr.hcl"];
            let output = program("packer", &validate, folder);
            assert!(output.status.success(), "{name}: {}{}", stdout(&output), stderr(&output));
        } else {
            let plugins = program("packer", &["fmt", "-check", "-diff", "plugins.pkr.hcl"], folder);
            assert!(plugins.status.success(), "{name}: {}", stdout(&plugins));
        }
    });
}

#[test]
#[ignore = "needs packer; run by .ci/run"]
fn packer_refuses_values_that_the_template_forbids() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let out = folder.path().display().to_string();
    assert!(efa_gen(&["render", "--distro", "ubuntu18", "--packer", "1.6", "--out", &out]).status.success());
    let good = "ssh_cidrs=[\"203.0.113.7/32\"]";
    let cases = [
        ("ssh_cidrs=[]", "never the whole Internet"),
        ("ssh_cidrs=[\"0.0.0.0/0\"]", "never the whole Internet"),
        ("ssh_cidrs=[\"203.0.113.7/32\", \"203.0.113.7/0\"]", "never the whole Internet"),
        ("ssh_cidrs=[\"128.0.0.0/1\"]", "never the whole Internet"),
        ("ssh_cidrs=[\"0.0.0.0/00\"]", "never the whole Internet"),
        ("ssh_cidrs=[\"::/0\"]", "never the whole Internet"),
        ("region=everywhere", "must look like us-east-1"),
        ("subnet_id=vpc-1", "must look like subnet-"),
        ("spot_price=cheap", "must be empty, auto or a number"),
        ("root_gib=8", "GiB or more"),
        ("share_accounts=[\"12\"]", "An account is twelve digits"),
        ("ssh_interface=telepathy", "must be public_ip"),
        ("run=last night's", "has letters, digits"),
        ("security_group_ids=[\"default\"]", "must look like sg-"),
        ("remote_folder=/tmp; reboot", "must look like /var/tmp"),
        ("root_iops=100", "3000 or more"),
        ("root_throughput=1", "125 or more"),
        ("kms_key_id=alias/aws/ebs", "Leave the key out"),
        ("region_kms_keys={\"eu-west-1\" = \"alias/aws/ebs\"}", "Give a key of yours"),
        ("associate_public_ip_address=true", "give subnet_id"),
        ("ssh_bastion_host=192.0.2.1", "needs ssh_bastion_username"),
    ];
    let share = "share_accounts=[\"111122223333\"]";
    let copies = "copy_regions=[\"eu-west-1\"]";
    let key = "kms_key_id=alias/images";
    let of_several: [(&[&str], &str); 4] = [
        (&[share], "can't be shared"),
        (&[share, "region_kms_keys={\"eu-west-1\" = \"alias/images\"}", copies], "can't be shared"),
        (&[key, copies], "the copy to eu-west-1 has no key in region_kms_keys"),
        (&[key, copies, "region_kms_keys={\"eu-west-1\" = \"\"}"], "the copy to eu-west-1 has no key"),
    ];
    let validate = |values: &[&str]| {
        let mut line = vec!["validate", "-var", good];
        values.iter().for_each(|value| line.extend(["-var", *value]));
        line.push("image.pkr.hcl");
        let output = program("packer", &line, folder.path());
        // It breaks long lines.
        let said = (stdout(&output) + &stderr(&output)).split_whitespace().collect::<Vec<_>>().join(" ");
        (output.status.success(), said)
    };
    let cases = cases.iter().map(|(value, words)| (std::slice::from_ref(value), *words));
    for (values, words) in cases.chain(of_several) {
        let (taken, said) = validate(values);
        assert!(!taken && said.contains(words), "{values:?}: {said}");
    }
    let fits: [&[&str]; 6] = [
        &[share, "encrypt=false"],
        &[share, key],
        &[share, key, copies, "region_kms_keys={\"eu-west-1\" = \"alias/images\"}"],
        &[copies],
        &["associate_public_ip_address=true", "subnet_id=subnet-0a", "security_group_ids=[\"sg-0a\"]"],
        &["ssh_bastion_host=192.0.2.1", "ssh_bastion_username=me", "ssh_bastion_agent_auth=true"],
    ];
    for values in fits {
        let (taken, said) = validate(values);
        assert!(taken, "{values:?}: {said}");
    }
    let without = program("packer", &["validate", "image.pkr.hcl"], folder.path());
    assert!(!without.status.success(), "the addresses that may connect must be given");
}

#[test]
#[ignore = "needs cloud-init; run by .ci/run"]
fn cloud_init_takes_every_user_data() {
    let mut seen = BTreeSet::new();
    each_rendering(|folder, name| {
        if !seen.insert(fs::read(folder.join("user-data.yaml")).expect("it is rendered")) {
            return;
        }
        let output = program("cloud-init", &["schema", "--config-file", "user-data.yaml"], folder);
        assert!(output.status.success(), "{name}: {}{}", stdout(&output), stderr(&output));
        let text = fs::read_to_string(folder.join("user-data.yaml")).expect("it is rendered");
        let unpacked = program("gunzip", &["-c", "user-data.yaml.gz"], folder);
        assert!(unpacked.status.success() && stdout(&unpacked) == text, "{name}: {}", stderr(&unpacked));
        // cloud-init's own reader of YAML gives every line, byte for byte, without what it is indented by.
        let lines = text.split_once("content: |\n").and_then(|(_, rest)| rest.split_once("\n- path: "));
        let lines = lines.expect("the script stands in the user-data").0.split('\n');
        let script: String = lines.map(|line| format!("{}\n", line.strip_prefix("   ").unwrap_or(line))).collect();
        let load =
            "import sys, yaml; sys.stdout.write(yaml.safe_load(open('user-data.yaml'))['write_files'][0]['content'])";
        let loaded = program("/usr/bin/python3", &["-c", load], folder);
        assert!(stdout(&loaded) == script, "{name}: {}", stderr(&loaded));
        assert!(program("bash", &["-n", "-c", &script], folder).status.success(), "{name}");
    });
}

#[test]
#[ignore = "needs curl and tar; run by .ci/run"]
fn fetch_checks_the_digest_before_the_file_has_its_name() {
    use sha2::Digest;
    let sandbox = Sandbox::new();
    sandbox.program("sleep", "exit 0");
    sandbox.write("payload", "the right content\n");
    let tar = program("tar", &["-czf", "served.tar.gz", "payload"], &sandbox.path(""));
    assert!(tar.status.success());
    let bytes = fs::read(sandbox.path("served.tar.gz")).expect("it is there");
    let sha256: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let url = format!("file://{}", sandbox.text("served.tar.gz"));
    let fetch = |sha256: &str| Action::Fetch {
        url: url.clone(),
        sha256: sha256.into(),
        sha512: None,
        path: sandbox.text("got/it.tar.gz"),
    };

    let (code, said) = sandbox.run_actions(vec![fetch(&"0".repeat(64))]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&format!("wrong content: SHA-256 is {sha256}")), "{said}");
    assert_eq!(fs::read_dir(sandbox.path("got")).expect("the folder is there").count(), 0, "nothing is left");

    // An interrupted download goes on where it was cut.
    fs::write(sandbox.path("got/it.tar.gz.part"), &bytes[..20]).expect("it can be written");
    let unpack = Action::Unpack { archive: sandbox.text("got/it.tar.gz"), dir: sandbox.text("unpacked"), strip: false };
    fs::create_dir(sandbox.path("unpacked")).expect("a folder can be made");
    sandbox.write("unpacked/stale", "from an earlier run");
    let (code, said) = sandbox.run_actions(vec![fetch(&sha256), unpack]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(sandbox.read("unpacked/payload"), "the right content\n");
    assert!(!sandbox.path("unpacked/stale").exists(), "the folder is a fresh one");

    let missing =
        Action::Fetch { url: format!("{url}.missing"), sha256, sha512: None, path: sandbox.text("got/other") };
    let (code, said) = sandbox.run_actions(vec![missing]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("curl failed with status 37"), "{said}");
}

#[test]
#[ignore = "needs git; run by .ci/run"]
fn checkout_ends_at_exactly_the_pinned_commit() {
    let sandbox = Sandbox::new();
    let repository = sandbox.path("repository");
    fs::create_dir(&repository).expect("a folder can be made");
    let git = |arguments: &[&str]| {
        let fixed = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"];
        let output = program("git", &[&fixed[..], arguments].concat(), &repository);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output).trim().to_owned()
    };
    git(&["init", "-q"]);
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    let first = git(&["rev-parse", "HEAD"]);
    fs::write(repository.join("later"), "x").expect("it can be written");
    git(&["add", "later"]);
    git(&["commit", "-q", "-m", "second"]);
    let url = format!("file://{}", repository.display());
    let checkout =
        |commit: &str| Action::Checkout { url: url.clone(), commit: commit.into(), dir: sandbox.text("tree") };

    let (code, said) = sandbox.run_actions(vec![checkout(&first)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(sandbox.path("tree/.git").exists() && !sandbox.path("tree/later").exists());
    let (code, said) = sandbox.run_actions(vec![checkout(&"0".repeat(40))]);
    assert_eq!(code, Some(6), "{said}");
    let gone = Action::Checkout { url: "file:///no/such/repository".into(), commit: first, dir: sandbox.text("tree") };
    let (code, said) = sandbox.run_actions(vec![gone]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("git clone failed"), "{said}");
}

#[test]
#[ignore = "needs curl; run by .ci/run"]
fn fetch_goes_on_after_a_busy_server_and_a_cut_but_not_after_a_no() {
    use crate::support::http::{Reply, Server};
    use sha2::Digest;
    let sandbox = Sandbox::new();
    sandbox.program("sleep", "exit 0");
    let body: Vec<u8> = (0..5000u32).flat_map(u32::to_le_bytes).collect();
    let sha256: String = sha2::Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let served = body.clone();
    let server = Server::start(move |asked| match (asked.path.as_str(), asked.nth) {
        ("/file", 0) => Reply::new(503, b"busy"),
        ("/file", 1) => Reply::new(200, &served).cut(700),
        ("/file", _) => {
            let start =
                asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
            let start: usize = start.expect("what is there already is not asked for again");
            Reply::new(206, &served[start..])
                .header("Content-Range", &format!("bytes {start}-{}/{}", served.len() - 1, served.len()))
        }
        _ => Reply::new(404, b"<Error><Code>NoSuchKey</Code></Error>"),
    });
    let fetch = |path: &str| Action::Fetch {
        url: format!("{}{path}", server.url),
        sha256: sha256.clone(),
        sha512: None,
        path: sandbox.text("got"),
    };
    let (code, said) = sandbox.run_actions(vec![fetch("/file")]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read(sandbox.path("got")).expect("it is there"), body);
    assert_eq!(server.asked("/file").len(), 3);
    fs::remove_file(sandbox.path("got")).expect("it can be removed");
    let (code, said) = sandbox.run_actions(vec![fetch("/missing")]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("curl failed with status 22, HTTP status 404"), "{said}");
    assert_eq!(server.asked("/missing").len(), 1, "a no is final");
    assert!(!sandbox.path("got").exists());
}

/// `efa-gen validate` with the real mpirun, which starts this in place of the program on two local slots, or on a host that
/// it can't reach.
fn real_mpirun(stage: &Stage, program: &str, flags: &[&str]) -> Output {
    stage.program("all_reduce_perf", program);
    stage.program("nvidia-smi", "printf '0\\n1\\n'");
    let path = format!("{}:{}", stage.path("").display(), std::env::var("PATH").unwrap_or_default());
    fs::remove_file(stage.path("mpirun")).expect("the stand-in is there");
    let fixed = ["validate", "--mpirun", "mpirun", "--tests-dir", ".", "--keep-log", "run.log", "--timeout", "5s"];
    let mut started = command(&[&fixed, flags].concat());
    let output = started.current_dir(stage.path("")).env("PATH", path).env("HOME", stage.path("")).output();
    output.expect("the binary starts")
}

#[test]
#[ignore = "needs Open MPI; run by .ci/run"]
fn mpirun_takes_the_command_and_its_ends_are_told() {
    let good = Run { hosts: 1, gpus: 2, ..Run::good(4, 45.8) }.text();
    let cases: [(&str, &[&str], &str); 5] = [
        ("[ $OMPI_COMM_WORLD_RANK -gt 0 ] || cat \"$here/good\"", &[], "PASS: on one host"),
        ("sleep 600 & echo $! >>\"$here/pids\"; wait", &[], "FAIL: run failed: it did not end in time"),
        (
            // Who dies before mpirun has counted every rank as running is told of in other words.
            "[ $OMPI_COMM_WORLD_RANK -gt 0 ] || exec sleep 600; sleep 1; kill -9 $$",
            &[],
            "FAIL: run failed: mpirun noticed that process rank 1",
        ),
        ("exit 0", &["--collective", "sendrecv"], "FAIL: run failed: "),
        (
            "exit 0",
            &["--hostfile", "hosts"],
            "FAIL: run failed: ssh: connect to host 10.0.0.1 port 22: Connection refused",
        ),
    ];
    for (program, flags, sentence) in cases {
        let stage = Stage::new(2, "");
        stage.write("good", &good);
        stage.program("ssh", "echo 'ssh: connect to host 10.0.0.1 port 22: Connection refused' >&2; exit 255");
        stage.program("sendrecv_perf", "");
        // mpirun finds it, and no machine can start it.
        stage.write("sendrecv_perf", "#!/no/such/shell\n");
        let output = real_mpirun(&stage, program, flags);
        let said = format!("{}{}{}", stdout(&output), stderr(&output), stage.read("run.log"));
        assert!(stdout(&output).starts_with(&format!("EFA-GEN VERDICT: {sentence}")), "{sentence}: {said}");
        assert_eq!(output.status.code(), Some(if sentence.starts_with("PASS") { 0 } else { 7 }), "{said}");
        if sentence.starts_with("PASS") {
            assert_eq!(
                stage.calls().iter().filter(|call| call.starts_with("|-b|8|-e|1073741824|")).count(),
                2,
                "{said}"
            );
        }
        for pid in stage.read("pids").split_whitespace() {
            let alive = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
            assert!(!alive, "mpirun ends its ranks when it is told to: {said}");
        }
    }
}
