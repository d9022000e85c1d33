//! The Packer template: that it is as rich as `efa-gen build`, and which distributions the old grammar can't serve. The real
//! Packers read it in tests/real_tools and in the rehearsal.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{catalog, default_plan, efa_gen, stderr, stdout};
use efa_gen::error::Class;
use efa_gen::render::{self, Format, PackerGrammar};
use efa_gen::version::at_least;

/// What stands for a flag of `efa-gen build`.
enum Counterpart {
    /// These variables, in both grammars.
    Variables(&'static [&'static str]),
    /// These variables, which Packer 1.6's builder does not know.
    Newest(&'static [&'static str]),
    /// The template's own words say what does it, or that Packer can't.
    Words(&'static str),
    /// It is of efa-gen's command, not of the image.
    Command,
}

use Counterpart::{Command, Newest, Variables, Words};

/// Every flag of `build` that `render` has not: what both have is in the rendered files.
const FLAGS: &[(&str, Counterpart)] = &[
    ("region", Variables(&["region"])),
    ("profile", Words("the account is that of AWS_PROFILE")),
    ("builder-type", Variables(&["builder_type"])),
    ("spot", Variables(&["spot_price"])),
    ("source-ami", Variables(&["source_ami"])),
    ("subnet", Variables(&["subnet_id"])),
    ("root-gib", Variables(&["root_gib"])),
    ("kms-key", Variables(&["kms_key_id"])),
    ("no-encrypt", Variables(&["encrypt"])),
    ("deadline", Variables(&["user_data_file"])),
    ("tag", Variables(&["more_tags"])),
    ("host-key", Words("it checks the builder's host key (--host-key)")),
    ("ssh-cidr", Variables(&["ssh_cidrs"])),
    ("private", Variables(&["ssh_interface", "associate_public_ip_address"])),
    ("session-manager", Variables(&["ssh_interface"])),
    ("instance-profile", Variables(&["iam_instance_profile"])),
    ("key-type", Newest(&["key_pair_type"])),
    ("name", Variables(&["ami_name"])),
    ("gate", Words("(--gate)")),
    ("copy-to", Variables(&["copy_regions"])),
    ("copy-kms-key", Variables(&["region_kms_keys"])),
    ("share", Variables(&["share_accounts"])),
    ("share", Newest(&["share_organisations", "share_units"])),
    ("deprecate-at", Newest(&["deprecate_at"])),
    ("protect", Newest(&["protect"])),
    ("ssm-parameter", Words("(--ssm-parameter)")),
    ("manifest", Words("output     = \"manifest.json\"")),
    ("plan", Command),
    ("force", Command),
    ("reuse", Command),
    ("resume", Command),
    ("on-error", Command),
    ("driver", Command),
    ("output", Command),
];

/// What the template has besides.
const MORE: [&str; 10] = [
    "remote_folder",
    "root_iops",
    "root_throughput",
    "run",
    "security_group_ids",
    "ssh_bastion_agent_auth",
    "ssh_bastion_host",
    "ssh_bastion_port",
    "ssh_bastion_private_key_file",
    "ssh_bastion_username",
];
const MORE_OF_NEWEST: [&str; 3] = ["capacity_reservation_group_arn", "capacity_reservation_id", "hop_limit"];

/// The long flags that a command's help lists.
fn flags(command: &str) -> BTreeSet<String> {
    let help = stdout(&efa_gen(&[command, "--help"]));
    // What is said of a flag stands further to the right.
    let flag = |line: &str| {
        let long = line.strip_prefix("      --").or_else(|| line.strip_prefix("  -")?.get(1..)?.strip_prefix(", --"));
        long.map(|rest| rest.split([' ', '=']).next().unwrap_or_default().to_owned())
    };
    let found: BTreeSet<String> = help.lines().filter_map(flag).collect();
    assert!(found.len() > 10 && found.contains("help"), "{help}");
    found
}

/// The template of a distribution that both grammars serve.
fn template(grammar: &str) -> String {
    let output = efa_gen(&["render", "--distro", "al2", "--format", "packer", "--packer", grammar]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

fn variables(template: &str) -> BTreeSet<&str> {
    template.lines().filter_map(|line| line.strip_prefix("variable \"")?.strip_suffix("\" {")).collect()
}

#[test]
fn every_flag_of_build_has_a_variable_or_a_word() {
    let of_build: BTreeSet<String> = flags("build").difference(&flags("render")).cloned().collect();
    let known: BTreeSet<String> = FLAGS.iter().map(|(flag, _)| (*flag).to_owned()).collect();
    assert_eq!(of_build, known, "a flag of `build` needs a variable in the template, or a word there on why not");

    for (grammar, newest) in [("1.6", false), ("1.7", true)] {
        let text = template(grammar);
        let mut wanted: BTreeSet<&str> =
            MORE.into_iter().chain(MORE_OF_NEWEST.into_iter().filter(|_| newest)).collect();
        for (flag, counterpart) in FLAGS {
            match counterpart {
                Variables(names) => wanted.extend(*names),
                Newest(names) if newest => wanted.extend(*names),
                Words(words) => assert!(text.contains(words), "{grammar}: --{flag}"),
                Newest(_) | Command => {}
            }
        }
        assert_eq!(variables(&text), wanted, "{grammar}");
        for name in wanted {
            // Not only in its own block.
            let uses = text.split("\n}\n").filter(|block| !block.contains(&format!("variable \"{name}\"")));
            assert!(
                uses.into_iter().any(|block| block.contains(&format!("var.{name}"))),
                "{grammar}: {name} does nothing"
            );
        }
    }
}

#[test]
fn the_old_grammar_says_what_it_does_without() {
    let (old, new) = (template("1.6"), template("1.7"));
    assert!(old.contains("required_version = \">= 1.6.6\"") && new.contains("required_version = \">= 1.7.0\""));
    let head = old.split("packer {").next().expect("a head");
    // Everything that only the other grammar's text sets.
    let arguments = |text: &str| -> BTreeMap<String, usize> {
        let names = text.lines().filter_map(|line| {
            let line = line.trim_start();
            let name = line.split([' ', '=']).next().unwrap_or_default();
            let set = line.contains(" = ") || line.ends_with('{');
            (set && !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b"_-".contains(&b)))
                .then(|| name.to_owned())
        });
        names.fold(BTreeMap::new(), |mut all, name| {
            *all.entry(name).or_default() += 1;
            all
        })
    };
    let mut seen = 0;
    let had = arguments(&old);
    for name in
        arguments(new.split("\nsource ").nth(1).expect("a source")).keys().filter(|name| !had.contains_key(*name))
    {
        // What is within metadata_options goes with it.
        let inner = name.starts_with("http_") || name == "enabled";
        assert!(inner || head.contains(name), "{name} is left out without a word");
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
    assert!(!new.contains("leaves out"), "the other grammar leaves out nothing");

    let said = |distro: &str, grammar: &str| {
        stderr(&efa_gen(&["render", "--distro", distro, "--format", "packer", "--packer", grammar]))
    };
    assert!(said("al2", "1.6").contains("note: al2 for Packer 1.6, without imds_support, metadata_options"));
    assert!(!said("al2", "1.7").contains("metadata_options"));
    // Here IMDSv2 is required by neither.
    assert!(
        !said("rhel7.6", "1.6").contains("metadata_options") && said("rhel7.6", "1.6").contains("install.sh beside it")
    );
}

#[test]
fn the_old_grammar_is_refused_where_sshd_takes_no_sha_1() {
    let render =
        |distro: &str, more: &[&str]| efa_gen(&[&["render", "--distro", distro, "--packer", "1.6"], more].concat());
    for (distro, openssh) in [("debian12", "9.2"), ("ubuntu24", "9.6")] {
        let refused = render(distro, &["--format", "packer"]);
        let said = stderr(&refused);
        assert_eq!((refused.status.code(), stdout(&refused).as_str()), (Some(4), ""), "{said}");
        assert!(said.contains("it signs with SHA-1, which OpenSSH 8.8 and newer refuse"), "{said}");
        assert!(said.contains(&format!("this one is {openssh}")) && said.contains("hint: use Packer 1.7"), "{said}");
        // The other formats have nothing to do with it.
        assert!(render(distro, &["--format", "script"]).status.success());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out").display().to_string();
    let all = efa_gen(&["render", "--distro", "all", "--packer", "1.6", "--out", &out]);
    assert_eq!(all.status.code(), Some(4), "{}", stderr(&all));
    assert!(!folder.path().join("out").exists(), "nothing is written");

    for distribution in &catalog().distributions {
        let refused = !render(&distribution.id, &["--format", "packer"]).status.success();
        assert_eq!(refused, at_least(&distribution.ami.openssh, "8.8"), "{}", distribution.id);
    }
    let mut plan = default_plan("debian12");
    for (openssh, fits) in [("7.2", true), ("8.7", true), ("8.8", false), ("8.10", false), ("10.0", false)] {
        openssh.clone_into(&mut plan.base.openssh);
        let rendered = render::render(&plan, &[Format::Packer(PackerGrammar::Common)]);
        assert_eq!(rendered.as_ref().map_err(|error| error.class()).err(), (!fits).then_some(Class::Plan), "{openssh}");
        assert!(render::render(&plan, &[Format::Packer(PackerGrammar::Newest)]).is_ok());
    }
}
