//! The Packer template in real Packers: Debian's 1.6.6 and one of today, whole builds against the cloud's API and guests.
//! The rendered files are used as they are: AWS's names are the cloud's here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use efa_gen::catalog::Catalog;
use efa_gen::plan::{self, Request};
use efa_gen::render::{self, Format, PackerGrammar};
use efa_gen::version::at_least;
use serde_json::{Value, json};

use crate::machine::{Guest, Ran, cloud, ec2, exclusive, on_network, ran, rendered, text};

/// A Packer and the grammar that it is rendered for.
pub struct Packer {
    /// Where it is.
    pub program: PathBuf,
    grammar: &'static str,
}

/// Debian's own.
pub fn debians() -> Packer {
    Packer { program: "/usr/bin/packer".into(), grammar: "1.6" }
}

/// Built by tests/tools/build, with the Amazon plugin installed below its own home.
pub fn todays() -> Packer {
    let folder =
        std::env::var_os("EFA_GEN_REHEARSAL_TOOLS").expect("EFA_GEN_REHEARSAL_TOOLS: tests/rehearsal/run sets it");
    Packer { program: PathBuf::from(folder).join("packer"), grammar: "1.7" }
}

impl Packer {
    /// Where it finds its plugins; `other` if it has them built in.
    pub fn home(&self, other: &Path) -> PathBuf {
        if self.grammar == "1.6" { other.to_owned() } else { self.program.with_file_name("home") }
    }

    fn at(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut line = vec![self.program.display().to_string()];
        line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut command = on_network(&line);
        command
            .current_dir(folder)
            .env("HOME", self.home(folder))
            .env("CHECKPOINT_DISABLE", "1")
            .env("PACKER_NO_COLOR", "1");
        command
    }

    /// The guests' files for it. The program refuses Packer 1.6 for them, which signs with SHA-1; Debian's is built with a newer
    /// library that does not. So there the plan says an older OpenSSH.
    fn rendered(&self, name: &str) -> PathBuf {
        let folder = rendered(name, &[]);
        if self.grammar == "1.6" {
            let stacks = fs::read_to_string(cloud().join("stack.toml")).expect("the stacks");
            let catalog =
                Catalog::embedded().and_then(|catalog| catalog.with_stacks("stack.toml", &stacks)).expect("facts");
            let request = Request {
                distribution: "debian12".into(),
                stack: Some("rehearsal".into()),
                mirror: Some("http://mirror.rehearsal.test".into()),
                ..Request::default()
            };
            let mut plan = plan::plan(&catalog, &request).expect("a plan");
            plan.base.openssh = "8.7".into();
            for name in ["image.pkr.hcl", "plugins.pkr.hcl"] {
                fs::remove_file(folder.join(name)).expect("it can be removed");
            }
            for file in render::render(&plan, &[Format::Script, Format::Packer(PackerGrammar::Common)]).expect("files")
            {
                fs::write(folder.join(file.name), file.text).expect("it can be written");
            }
        }
        folder
    }

    fn build(&self, name: &str, arguments: &[&str]) -> (PathBuf, Ran) {
        let folder = self.rendered(&format!("packer-{name}"));
        let mut line = vec!["build"];
        line.extend(arguments);
        line.push(".");
        let ran = ran(&mut self.at(&folder, &line));
        (folder, ran)
    }
}

/// What one build leaves: an AMI with the plan's tags on it and on its snapshot, a manifest that names it, and nothing else.
fn whole_build(packer: &Packer, name: &str) {
    // One build at a time, so that what is left is of that build.
    let _alone = exclusive("packer");
    let (folder, ran) = packer.build(name, &["-var", "ssh_cidrs=[\"10.78.0.1/32\"]"]);
    let said = ran.good();
    // What the script says of them may be lost with the connection; what the builder's console had is kept.
    let builder = said.split_once("Instance ID: ").and_then(|(_, rest)| rest.lines().next()).expect("the builder's id");
    let console = fs::read(cloud().join("guests").join(builder).join("console")).expect("its console");
    let boots = String::from_utf8_lossy(&console).matches(" finished at ").count();
    assert_eq!(boots, 4, "three reboots:\n{said}");
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).expect("a manifest")).expect("JSON");
    let artifact = text(&manifest["builds"][0]["artifact_id"]);
    let image = artifact.strip_prefix("us-east-1:").expect("an AMI of the region").to_owned();
    let plan = text(&manifest["builds"][0]["custom_data"]["efa-gen:plan"]);

    let found = ec2("describe_images", &json!({"ImageIds": [image]}));
    let found = &found["Images"][0];
    assert_eq!(found["State"], "available");
    assert_eq!(tag(found, "efa-gen:plan"), plan);
    assert_eq!(tag(found, "efa-gen:distribution"), "debian12");
    let snapshot = text(&found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]);
    let snapshots = ec2("describe_snapshots", &json!({"SnapshotIds": [snapshot]}));
    assert_eq!(tag(&snapshots["Snapshots"][0], "efa-gen:plan"), plan);
    assert_eq!(leftovers(), Vec::<String>::new());

    let guest = Guest::launch(&image, "");
    let said = guest.root("bash /var/lib/efa-gen/install.sh").good();
    assert!(said.contains("every stage is done already"), "{said}");
    assert_eq!(guest.root("ls /home/admin/.ssh/authorized_keys /tmp/script_* 2>/dev/null | wc -l").good(), "1\n");
    assert_eq!(guest.root("wc -l </home/admin/.ssh/authorized_keys").good(), "1\n", "the launch's key, not Packer's");
}

fn tag(resource: &Value, key: &str) -> String {
    let tags = resource["Tags"].as_array().expect("tags");
    text(&tags.iter().find(|tag| tag["Key"] == key).unwrap_or_else(|| panic!("no tag {key}: {tags:?}"))["Value"])
}

/// What Packer made for a build and did not remove: its key pairs, security groups and builders.
fn leftovers() -> Vec<String> {
    let list = |answer: &Value, of: &str| answer[of].as_array().cloned().expect("a list");
    let mut left: Vec<String> = list(&ec2("describe_key_pairs", &json!({})), "KeyPairs")
        .iter()
        .map(|key| text(&key["KeyName"]))
        .chain(
            list(&ec2("describe_security_groups", &json!({})), "SecurityGroups")
                .iter()
                .map(|group| text(&group["GroupName"])),
        )
        .filter(|name| name.starts_with("packer_"))
        .collect();
    let built = json!({"Filters": [{"Name": "tag-key", "Values": ["efa-gen:plan"]}]});
    for reservation in list(&ec2("describe_instances", &built), "Reservations") {
        for instance in list(&reservation, "Instances") {
            if instance["State"]["Name"] != "terminated" {
                left.push(format!("{} {}", text(&instance["InstanceId"]), text(&instance["State"]["Name"])));
            }
        }
    }
    left
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_whole_build_with_debians_packer() {
    whole_build(&debians(), "1.6");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_whole_build_with_todays_packer() {
    whole_build(&todays(), "today");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_script_that_is_not_the_rendered_one_ends_the_build() {
    let _alone = exclusive("packer");
    let packer = debians();
    let folder = packer.rendered("packer-other");
    let script = fs::read_to_string(folder.join("install.sh")).expect("the script");
    fs::write(folder.join("install.sh"), script + "# a line more\n").expect("a file can be written");
    let ran = ran(&mut packer.at(&folder, &["build", "-var", "ssh_cidrs=[\"10.78.0.1/32\"]", "."]));
    ran.failed(1, &["install.sh: FAILED", "Script exited with non-zero exit status"]);
    assert!(!folder.join("manifest.json").exists());
    assert_eq!(leftovers(), Vec::<String>::new());
    // The list would tell.
    ec2("create_key_pair", &json!({"KeyName": "packer_planted"}));
    assert_eq!(leftovers(), ["packer_planted"]);
    ec2("delete_key_pair", &json!({"KeyName": "packer_planted"}));
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn every_distributions_template_is_valid_for_both() {
    for packer in [debians(), todays()] {
        let out = cloud().join(format!("validate-{}", packer.grammar));
        let mut command = Command::new(env!("CARGO_BIN_EXE_efa-gen"));
        command.args(["render", "--format", "all", "--packer", packer.grammar, "--out"]).arg(&out);
        let catalog = Catalog::embedded().expect("facts");
        let all = catalog.distributions.iter();
        let served: Vec<&str> = all
            .filter(|one| packer.grammar == "1.7" || !at_least(&one.ami.openssh, "8.8"))
            .map(|one| one.id.as_str())
            .collect();
        command.args(served.iter().flat_map(|id| ["--distro", id]));
        ran(&mut command).good();
        let mut folders = 0;
        for folder in fs::read_dir(&out).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            ran(&mut packer.at(&folder, &["validate", "-var", "ssh_cidrs=[\"10.78.0.1/32\"]", "."])).good();
            // It is a check: what is not in the schema is refused.
            let template = folder.join("image.pkr.hcl");
            let text = fs::read_to_string(&template).expect("the template");
            fs::write(&template, text.replace("ssh_pty", "ssh_tty")).expect("a file can be written");
            ran(&mut packer.at(&folder, &["validate", "-var", "ssh_cidrs=[\"10.78.0.1/32\"]", "."]))
                .failed(1, &["ssh_tty"]);
            folders += 1;
        }
        assert!(folders == served.len() && folders >= 8, "every distribution was there");
    }
}
