//! The command line: what goes where, names, refusals, exit codes, and files that users may hand over.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use crate::support::{catalog, command, efa_gen, stderr, stdout};
use efa_gen::version::at_least;

const ALL_FILES: [&str; 5] = ["install.sh", "user-data.yaml", "user-data.yaml.gz", "image.pkr.hcl", "plugins.pkr.hcl"];

#[test]
fn one_format_goes_to_stdout_and_talk_to_stderr() {
    let script = efa_gen(&["render", "--distro", "ubuntu18"]);
    assert!(script.status.success());
    assert!(stdout(&script).starts_with("#!/bin/bash\n# EFA + NCCL on Ubuntu 18.04, stack guide\n"));
    assert_eq!(stderr(&script), "");
    let user_data = efa_gen(&["render", "--distro", "ubuntu18", "--format", "cloud-init"]);
    assert!(stdout(&user_data).starts_with("#cloud-config\n"));
    assert!(stderr(&user_data).contains("EC2 is given user-data.yaml.gz"), "{}", stderr(&user_data));
    let packer = efa_gen(&["render", "--distro", "ubuntu18", "--format", "packer"]);
    assert!(stdout(&packer).contains("source \"amazon-ebs\" \"image\""));
    assert!(stderr(&packer).contains("install.sh beside it"));
}

#[test]
fn out_writes_every_file_and_check_tells_what_is_stale() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let out = folder.path().join("a/b").display().to_string();
    let render = ["render", "--distro", "amazon-linux-2", "--out", &out];
    assert!(efa_gen(&render).status.success());
    for name in ALL_FILES {
        assert!(fs::metadata(folder.path().join("a/b").join(name)).is_ok_and(|file| file.len() > 100), "{name}");
    }
    let script = folder.path().join("a/b/install.sh");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&script), 0o755);

    let check = [&render[..], &["--check"]].concat();
    let fresh = efa_gen(&check);
    assert_eq!((fresh.status.code(), stdout(&fresh)), (Some(0), String::new()));

    let changed = fs::read_to_string(&script).expect("it is text").replace("umask 022", "umask 000");
    fs::write(&script, changed).expect("it can be written");
    fs::remove_file(folder.path().join("a/b/plugins.pkr.hcl")).expect("it can be removed");
    let stale = efa_gen(&check);
    assert_eq!(stale.status.code(), Some(1));
    assert!(stdout(&stale).contains("-umask 000\n+umask 022\n"), "{}", stdout(&stale));
    assert!(stdout(&stale).contains("+packer {"), "{}", stdout(&stale));
    assert!(stderr(&stale).contains("2 files are stale"), "{}", stderr(&stale));
    assert_eq!(fs::read_dir(folder.path().join("a/b")).expect("it can be read").count(), 4, "--check writes nothing");
}

#[test]
fn check_tells_of_compressed_user_data_that_is_stale() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let out = folder.path().display().to_string();
    let render = ["render", "--distro", "al2", "--format", "cloud-init", "--out", &out];
    assert!(efa_gen(&render).status.success());
    let packed = folder.path().join("user-data.yaml.gz");
    let good = fs::read(&packed).expect("it is there");
    let last = good.len() - 1;
    let name = packed.display();
    // A byte of its end, its operating system, another file, nothing, and no file at all.
    let cases: [(Option<Vec<u8>>, String); 5] = [
        (Some([&good[..last], &[!good[last]]].concat()), format!("differs: {} bytes", good.len())),
        (Some([&good[..9], &[3], &good[10..]].concat()), format!("differs: {} bytes", good.len())),
        (Some(b"\x1f\x8b\xff\x00\x1b[31m".to_vec()), "differs: 9 bytes".into()),
        (Some(Vec::new()), "differs: 0 bytes".into()),
        (None, "is missing".into()),
    ];
    for (there, words) in cases {
        match &there {
            Some(bytes) => fs::write(&packed, bytes).expect("it can be written"),
            None => fs::remove_file(&packed).expect("it can be removed"),
        }
        let stale = efa_gen(&[&render[..], &["--check"]].concat());
        assert_eq!(stale.status.code(), Some(1), "{words}");
        assert_eq!(stdout(&stale), format!("{name} {words}, {} bytes as rendered now\n", good.len()));
        assert!(stderr(&stale).contains("1 file is stale"), "{}", stderr(&stale));
    }
    // Rendered again, both are as they must be; what the readable one lacks is told of it alone.
    assert!(efa_gen(&render).status.success());
    assert_eq!(fs::read(&packed).expect("it is there"), good);
    fs::write(folder.path().join("user-data.yaml"), "").expect("it can be written");
    let stale = efa_gen(&[&render[..], &["--check"]].concat());
    assert!(stdout(&stale).contains("+#cloud-config\n") && !stdout(&stale).contains("differs"), "{}", stdout(&stale));
}

#[test]
fn user_data_that_is_too_long_is_refused_and_nothing_written() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let noise: String = (0..4000u32).map(|n| format!("{:x}\n", n.wrapping_mul(2_654_435_761))).collect();
    let (extra, out) = (folder.path().join("extra"), folder.path().join("out"));
    fs::write(&extra, format!("#!/bin/sh\n{noise}")).expect("it can be written");
    let (extra, out_text) = (extra.display().to_string(), out.display().to_string());
    let refused = efa_gen(&["render", "--distro", "al2", "--extra-script", &extra, "--out", &out_text]);
    assert_eq!((refused.status.code(), stdout(&refused)), (Some(4), String::new()));
    assert!(stderr(&refused).contains(" more than EC2 allows (16384)"), "{}", stderr(&refused));
    assert!(!out.exists());
}

#[test]
fn several_distributions_get_a_folder_each() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let out = folder.path().display().to_string();
    assert!(efa_gen(&["render", "--distro", "all", "--distro", "bionic", "--out", &out]).status.success());
    for distribution in &catalog().distributions {
        for name in ALL_FILES {
            assert!(folder.path().join(&distribution.id).join(name).is_file(), "{} {name}", distribution.id);
        }
    }
    let refused = efa_gen(&["render", "--distro", "all"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("add --out DIR"));
}

#[test]
fn the_common_grammar_has_nothing_that_packer_1_6_refuses() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let out = folder.path().display().to_string();
    assert!(efa_gen(&["render", "--distro", "centos7", "--packer", "1.6", "--out", &out]).status.success());
    assert!(!folder.path().join("plugins.pkr.hcl").exists());
    let text = fs::read_to_string(folder.path().join("image.pkr.hcl")).expect("it is there");
    for word in [
        "required_plugins",
        "metadata_options",
        "imds_support",
        "deprecate_at",
        "include_deprecated",
        "error-cleanup",
        "source_public_ip",
        "key_pair_type",
        "capacity_reservation",
        "_arns",
        "deregistration_protection",
    ] {
        // The file's head says what it does without.
        let body = text.split_once("packer {").expect("a body").1;
        assert!(!body.contains(word), "{word}");
    }
}

#[test]
fn every_packer_template_is_hcl() {
    for distribution in &catalog().distributions {
        let old = !at_least(&distribution.ami.openssh, "8.8");
        for version in ["1.6", "1.7"].into_iter().filter(|version| *version == "1.7" || old) {
            let output = efa_gen(&["render", "--distro", &distribution.id, "--format", "packer", "--packer", version]);
            let body: Result<hcl_edit::structure::Body, _> = stdout(&output).parse();
            assert!(body.is_ok_and(|body| body.has_blocks("source")), "{} {version}", distribution.id);
        }
    }
}

#[test]
fn every_user_data_is_yaml_with_two_files() {
    #[derive(serde::Deserialize)]
    struct CloudConfig {
        write_files: Vec<File>,
    }
    #[derive(serde::Deserialize)]
    struct File {
        path: String,
        permissions: String,
        content: String,
    }
    for distribution in &catalog().distributions {
        let output = efa_gen(&["render", "--distro", &distribution.id, "--format", "cloud-init"]);
        let config: CloudConfig = serde_saphyr::from_str(&stdout(&output)).expect("it is YAML");
        let files: Vec<_> =
            config.write_files.iter().map(|file| (file.path.as_str(), file.permissions.as_str())).collect();
        let expected =
            [("/var/lib/efa-gen/install.sh", "0600"), ("/var/lib/cloud/scripts/per-boot/efa-gen.sh", "0755")];
        assert_eq!(files, expected);
        assert_eq!(config.write_files[1].content, "#!/bin/sh\nexec /bin/bash /var/lib/efa-gen/install.sh --start\n");
    }
}

#[test]
fn refusals_name_the_thing_and_give_a_hint() {
    let hex = "0".repeat(64);
    let own = format!("efa={hex}");
    let stray = format!("gdrcopy={hex}");
    let cases: &[(&[&str], i32, &str, &str)] = &[
        (&["--distro", "ubuntu8"], 2, "unknown distribution `ubuntu8`, did you mean `ubuntu18`?", "efa-gen distros"),
        (&["--distro", "$(reboot)\n"], 2, "unknown distribution `$(reboot)\\n`", "efa-gen distros"),
        (&["--distro", ""], 2, "unknown distribution ``", "efa-gen distros"),
        (
            &["--distro", "al1", "--stack", "newst"],
            2,
            "unknown stack `newst`, did you mean `newest`?",
            "efa-gen stacks",
        ),
        (&["--distro", "al1", "--instance-type", "p3dn.24xlrge"], 2, "did you mean `p3dn.24xlarge`?", "instance-types"),
        (
            &["--distro", "al1", "--instance-type", "t3.micro"],
            2,
            "unknown instance type with EFA `t3.micro`",
            "instance-types",
        ),
        (
            &["--distro", "al1", "--efa", "1.12.0"],
            4,
            "EFA installer 1.12.0 does not support Amazon Linux 1 any more: the last one that does is 1.11.2",
            "this works: --distro al1 --stack cuda-11.0",
        ),
        (
            &["--distro", "centos7", "--efa", "1.3.0"],
            4,
            "does not support CentOS 7 yet: the first one that does is 1.4.0 [rule efa-distribution]",
            "this works: --distro centos7 ",
        ),
        (&["--distro", "al2", "--efa", "latest"], 2, "`latest` is not an EFA installer version", "never rendered"),
        (&["--distro", "al2", "--efa", "1.9"], 2, "`1.9` is not an EFA installer version", "1.9.5"),
        (
            &["--distro", "al2", "--stack", "newest", "--efa", "1.30.0"],
            4,
            "EFA installer 1.30.0 does not go with plugin 1.20.0 yet: the first one that does is 1.49.0 [rule efa-plugin]",
            "this works: --distro al2 --stack cuda-12.2-efa-1.49",
        ),
        (
            &["--distro", "al2", "--efa", "1.48.0"],
            4,
            "artifact `efa` (https://efa-installer.amazonaws.com/aws-efa-installer-1.48.0.tar.gz) has no published SHA-256",
            "efa-gen fetch --efa 1.48.0",
        ),
        (
            &["--distro", "al2", "--sha256", &own],
            3,
            "differs from the published digest a4343308d7ea",
            "leave --sha256 efa out",
        ),
        (
            &["--distro", "al2", "--sha256", &stray],
            2,
            "--sha256 names `gdrcopy`, which this plan does not download",
            "efa-gen plan",
        ),
        (&["--distro", "al2", "--sha256", &own, "--sha256", &own], 2, "--sha256 names `efa` twice", ""),
        (&["--distro", "al2", "--sha256", "efa=12"], 2, "`efa=12` is not NAME=HEX", "for example"),
        (
            &["--distro", "al2", "--instance-type", "p4d.24xlarge"],
            4,
            "CUDA 10.1.243 can't build for A100 (sm_80): it builds for sm_70, sm_75 [rule cuda-gpu]",
            "this works: --distro al2 --stack cuda-12.2-efa-1.49 --instance-type p4d.24xlarge",
        ),
        (
            &["--distro", "ubuntu18", "--stack", "newest", "--instance-type", "p5.48xlarge"],
            4,
            "does not drive p5.48xlarge, which needs 1.29.0",
            "this works: --distro ",
        ),
        (
            &["--distro", "al1", "--stack", "newest", "--instance-type", "p4d.24xlarge"],
            4,
            "no fabric manager 450.248.02 is pinned",
            "this works: --distro ",
        ),
        (&["--distro", "al2", "--instance-type", "c5n.18xlarge"], 4, "c5n.18xlarge has no NVIDIA GPU", "--no-gpu"),
        (&["--distro", "al2", "--mirror", "ftp://x"], 2, "`ftp://x` is not the address of a mirror", "http://mirror"),
        (
            &["--distro", "al2", "--mirror", "http://a b"],
            2,
            "`http://a b` is not the address of a mirror",
            "http://mirror",
        ),
        (&["--distro", "al2", "--mirror", "https://"], 2, "`https://` is not the address of a mirror", "http://mirror"),
        (
            &["--distro", "al2", "--yum-repository", "ftp://x"],
            2,
            "`ftp://x` is not the address of a yum repository",
            "the folder that holds repodata/",
        ),
        (
            &["--distro", "debian12", "--yum-repository", "https://x.example"],
            2,
            "--yum-repository is not for Debian 12, whose packages yum does not install",
            "leave it out",
        ),
        (&["--distro", "al2", "--stack-file", "/no/such"], 5, "could not read stack file /no/such", ""),
        (&["--distro", "al2", "--stack-file", "/"], 2, "stack file / is a folder", ""),
        (&["--distro", "al2", "--no-gpu", "--test"], 2, "needs a GPU stack", "--no-gpu"),
        (&["--distro", "al2", "--extra-script", "/no/such"], 5, "could not read extra script /no/such", ""),
    ];
    for (arguments, code, message, hint) in cases {
        let output = efa_gen(&[&["render"], *arguments].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(message), "{arguments:?}: {said}");
        assert!(
            hint.is_empty() || said.split("hint: ").nth(1).is_some_and(|said| said.contains(hint)),
            "{arguments:?}: {said}"
        );
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[test]
fn a_digest_of_one_s_own_stands_in_for_a_missing_one() {
    let own = format!("efa={}", "AB".repeat(32));
    let output = efa_gen(&["render", "--distro", "al2", "--efa", "1.48.0", "--sha256", &own]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains(&"ab".repeat(32)));
}

#[test]
fn files_handed_over_may_be_anything() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let at = |name: &str| folder.path().join(name);
    let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().expect("mkfifo starts");
    assert!(fifo.success());
    fs::write(at("empty"), "").expect("it can be written");
    fs::write(at("plain"), "echo no shebang\n").expect("it can be written");
    fs::write(at("binary"), b"#!/bin/sh\n\xff\xfe\x00").expect("it can be written");
    fs::write(at("nul"), "#!/bin/sh\n\0").expect("it can be written");
    fs::write(at("huge"), "#".repeat(2 << 20)).expect("it can be written");
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"o'dd \"na$(me)\n\xff"));
    fs::write(&odd, "#!/bin/sh\ntrue\n").expect("it can be written");
    let cases = [
        (folder.path().to_path_buf(), Some((2, "is a folder"))),
        (at("fifo"), Some((2, "is not a regular file"))),
        (at("missing"), Some((5, "could not read extra script"))),
        (at("empty"), Some((2, "does not begin with `#!`"))),
        (at("plain"), Some((2, "does not begin with `#!`"))),
        (at("binary"), Some((2, "is not UTF-8 text"))),
        (at("nul"), Some((2, "holds a NUL byte"))),
        (at("huge"), Some((2, "is larger than 1048576 bytes"))),
        (odd, None),
    ];
    for (path, refusal) in cases {
        let output = command(&["render", "--distro", "al2", "--extra-script"]).arg(&path).output().expect("it starts");
        match refusal {
            None => assert!(output.status.success(), "{}", stderr(&output)),
            Some((code, words)) => {
                assert_eq!(output.status.code(), Some(code), "{}: {}", path.display(), stderr(&output));
                assert!(stderr(&output).contains(words), "{}: {}", path.display(), stderr(&output));
            }
        }
    }
}

#[test]
fn what_can_not_be_written_is_an_error_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::write(folder.path().join("file"), "").expect("it can be written");
    let below = folder.path().join("file/below").display().to_string();
    let output = efa_gen(&["render", "--distro", "al2", "--out", &below]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    fs::create_dir(folder.path().join("out")).expect("a folder can be made");
    fs::create_dir(folder.path().join("out/install.sh")).expect("a folder can be made");
    let out = folder.path().join("out").display().to_string();
    let output = efa_gen(&["render", "--distro", "al2", "--format", "script", "--out", &out]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert_eq!(
        fs::read_dir(folder.path().join("out")).expect("it can be read").count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn lists_are_for_people_and_for_programs() {
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&stdout(&efa_gen(arguments))).expect("it is JSON")
    };
    let distros = json(&["distros", "--output", "json"]);
    assert_eq!(distros.as_array().map(Vec::len), Some(catalog().distributions.len()));
    let types = json(&["instance-types", "--output", "json"]);
    assert_eq!(types.as_array().map(Vec::len), Some(305));
    let p3dn =
        types.as_array().and_then(|types| types.iter().find(|t| t["name"] == "p3dn.24xlarge")).expect("p3dn is there");
    assert_eq!(
        (p3dn["efa"].as_u64(), p3dn["gpus"].as_u64(), p3dn["gpu"]["architecture"].as_str()),
        (Some(1), Some(8), Some("sm_70"))
    );
    let stacks = json(&["stacks", "--output", "json"]);
    let undigested: Vec<_> = stacks.as_array().expect("a list").iter().filter(|row| row["digest"].is_null()).collect();
    // AWS publishes no digest of the newest installer.
    let known =
        |row: &&serde_json::Value| row["origin"] == "bundled with the EFA installer" || row["version"] == "1.51.0";
    assert!(undigested.iter().all(known), "{undigested:?}");
    let plan = json(&["plan", "--distro", "centos-7", "--output", "json"]);
    assert_eq!(plan["distribution"], "centos7");
    assert!(stdout(&efa_gen(&["plan", "--distro", "al1"])).contains("-- reboot --"));
    assert!(stdout(&efa_gen(&["distros"])).contains("amazon-linux-2"));
}

#[test]
fn completions_and_manual_pages_come_from_the_same_definition() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&efa_gen(&["completions", shell])).contains("instance-types"), "{shell}");
    }
    assert!(stdout(&efa_gen(&["man"])).contains(".TH efa-gen 1"));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    assert!(efa_gen(&["man", "--out", &folder.path().display().to_string()]).status.success());
    assert!(folder.path().join("efa-gen-render.1").is_file());
}

#[test]
fn output_has_no_colour_without_a_terminal_and_a_closed_pipe_is_no_error() {
    for arguments in [&["--help"][..], &["render", "--distro", "x"], &["nonsense"]] {
        let output = efa_gen(arguments);
        assert!(!stdout(&output).contains('\u{1b}') && !stderr(&output).contains('\u{1b}'), "{arguments:?}");
    }
    let status = std::process::Command::new("bash")
        .args([
            "-c",
            "set -o pipefail; \"$0\" plan --distro al2 --output json | head -n 1",
            env!("CARGO_BIN_EXE_efa-gen"),
        ])
        .output()
        .expect("bash starts");
    assert!(status.status.success(), "{}", stderr(&status));
}
