//! Owns a cluster that a launch has brought up against a stub of AWS: its nodes are folders, and a stand-in for ssh runs in
//! them what is asked for. It keeps how it was called, and what ssh itself makes of that with a configuration that is hostile.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::Ran;
use super::aws::{Answer, Params, done, is_dry, refuse};
use super::builds::{BASE, EFA, Stage, assert_ran, odd_machines, type_with};

/// The real one, which reads configurations.
const SSH: &str = "/usr/bin/ssh";

/// What stands for ssh: `$here` is the folder of the test.
const STAND_IN: &str = r#"#!/bin/bash
here=@HERE@
ssh=@SSH@
call=$(mktemp -d "$here/calls/XXXXXX")
env >"$call/environment"
printf '%s\n' "$@" >"$call/words"
# Of two files the last counts, as with the user's own.
if [ "$1" = -G ]; then exec "$ssh" -F "$here/ssh_config" "$@"; fi
"$ssh" -G -F "$here/ssh_config" "$@" >"$call/options" 2>&1
node=$(printf '%s\n' "$@" | sed -n 's/^-oHostKeyAlias=//p')
# From node to node.
if [ -z "$node" ]; then exit 0; fi
if [ -e "$here/nodes/$node/deaf" ]; then echo "Connection refused" >&2; exit 255; fi
line=${*: -1}
line=${line//\/opt\/amazon\/efa\/bin\/fi_info/fi_info}
cd "$here/nodes/$node" || exit 255
HOME=$PWD PATH=$here/bin:$PATH exec bash -c "${line//ulimit -l/echo unlimited}"
"#;

const FI_INFO: &str = "#!/bin/sh
printf 'provider: efa\\n    fabric: efa\\n    domain: rdmap0s1-rdm\\n    version: 120.0\\n    type: FI_EP_RDM\\n    protocol: FI_PROTO_EFA\\n'
";

/// Nothing of it is done: it would be this machine's root.
const SUDO: &str = "#!/bin/sh\nprintf '%s\\n' \"$@\" >>sudo\n";

/// A rule for a CIDR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub cidr: String,
    pub ports: (u16, u16),
    pub description: String,
}

/// What the account has of the cluster.
#[derive(Debug, Default)]
pub struct Held {
    pub rules: Vec<Rule>,
    /// Tags of each node.
    pub nodes: Vec<BTreeMap<String, String>>,
    /// As it was sent, in base64.
    user_data: String,
}

/// The cluster `web`.
pub struct LaunchedCluster {
    pub stage: Stage,
    pub held: Arc<Mutex<Held>>,
}

/// One call of ssh.
pub struct Call {
    pub words: Vec<String>,
    pub environment: Vec<String>,
    /// What `ssh -G` makes of the words; nothing where the call itself is such a question.
    pub options: String,
}

impl LaunchedCluster {
    /// Launches two nodes; `config` is the configuration of the user who does it.
    pub fn of(config: &str) -> Self {
        LaunchedCluster::with(config, &[])
    }

    /// The same, with flags besides.
    pub fn with(config: &str, more: &[&str]) -> Self {
        let held = Arc::new(Mutex::new(Held::default()));
        let shared = Arc::clone(&held);
        let unasked = || unreachable!("it is launched once");
        let stage = odd_machines(unasked, move |action, params| {
            answer(&mut shared.lock().expect("what is held"), action, params)
        });
        let here = stage.folder.path();
        for folder in ["bin", "calls", "nodes/i-1/.ssh", "nodes/i-2/.ssh"] {
            fs::create_dir_all(here.join(folder)).expect("a folder");
        }
        fs::write(here.join("ssh_config"), config).expect("a file");
        let ssh = STAND_IN.replace("@HERE@", &here.display().to_string()).replace("@SSH@", SSH);
        for (name, text) in [("ssh", ssh.as_str()), ("fi_info", FI_INFO), ("sudo", SUDO)] {
            let path = here.join("bin").join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");
        }
        let cluster = LaunchedCluster { stage, held };
        fs::write(cluster.node(1).join(".ssh/authorized_keys"), "ssh-ed25519 AAAAmine me@home\n").expect("a file");
        let from = ["--ami", BASE, "--distro", "debian12", "--ssh-cidr", "203.0.113.7/32", "--no-placement-group"];
        let launch = ["launch", "--name", "web", "--nodes", "2", "--type", "c5n.18xlarge"];
        assert_ran(&cluster.run(&[&launch[..], &from, more].concat()), 0, &["cluster web: 2 nodes"]);
        cluster
    }

    /// efa-gen, with the stand-in for ssh before it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.stage.command(arguments);
        let before = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}/bin:{before}", self.stage.folder.path().display()));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        super::builds::ran(&mut self.command(arguments))
    }

    /// The home of a node's login user; nodes count from 1.
    pub fn node(&self, number: usize) -> PathBuf {
        self.stage.folder.path().join(format!("nodes/i-{number}"))
    }

    /// The first node's user-data, as cloud-init reads it.
    pub fn user_data(&self) -> String {
        let packed = BASE64_STANDARD.decode(&self.held.lock().expect("what is held").user_data).expect("base64");
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("gzip");
        text
    }

    pub fn authorized_keys(&self, number: usize) -> String {
        fs::read_to_string(self.node(number).join(".ssh/authorized_keys")).expect("a file")
    }

    /// The calls of ssh so far; they are told once.
    pub fn calls(&self) -> Vec<Call> {
        let folder = self.stage.folder.path().join("calls");
        let all: Vec<PathBuf> = fs::read_dir(&folder).expect("a folder").map(|one| one.expect("one").path()).collect();
        let calls = all.iter().map(|call| {
            let lines = |name: &str| {
                let text = fs::read(call.join(name)).unwrap_or_default();
                String::from_utf8_lossy(&text).lines().map(str::to_owned).collect::<Vec<_>>()
            };
            let options = fs::read_to_string(call.join("options")).unwrap_or_default();
            Call { words: lines("words"), environment: lines("environment"), options }
        });
        let calls = calls.collect();
        all.iter().for_each(|call| fs::remove_dir_all(call).expect("it goes"));
        calls
    }

    /// What ssh makes of these words with no configuration at all.
    pub fn plain_options(&self, words: &[String]) -> String {
        let asked = Command::new(SSH).args(["-G", "-F", "/dev/null"]).args(words).output().expect("ssh is there");
        String::from_utf8_lossy(&asked.stdout).into_owned()
    }

    pub fn set_config(&self, config: &str) {
        fs::write(self.stage.folder.path().join("ssh_config"), config).expect("a file");
    }

    pub fn path(&self) -> &Path {
        self.stage.folder.path()
    }
}

fn answer(held: &mut Held, action: &str, params: &Params) -> Option<Answer> {
    let get = |name: &str| params.get(name).cloned().unwrap_or_default();
    if is_dry(params) {
        return None;
    }
    let body = match action {
        "DescribeInstanceTypes" => type_with(EFA),
        "RunInstances" => {
            let tags = (1_u32..).map_while(|n| {
                let tag = |end: &str| params.get(&format!("TagSpecification.1.Tag.{n}.{end}")).cloned();
                Some((tag("Key")?, tag("Value")?))
            });
            held.nodes = vec![tags.collect(); 2];
            held.user_data = get("UserData");
            format!("<instancesSet>{}</instancesSet>", nodes(held, "pending"))
        }
        "DescribeInstances" if !held.nodes.is_empty() => {
            let set = format!("<instancesSet>{}</instancesSet>", nodes(held, "running"));
            format!("<reservationSet><item>{set}</item></reservationSet>")
        }
        "GetConsoleOutput" => {
            let run = &held.nodes[0]["efa-gen:run"];
            let blob = [&[0, 0, 0, 11][..], b"ssh-ed25519", &[0, 0, 0, 32], &[7; 32]].concat();
            let key = format!("ssh-ed25519 {}", BASE64_STANDARD.encode(blob));
            let text =
                format!("-----EFA-GEN BEGIN HOST KEYS {run}-----\n{key}\n-----EFA-GEN END HOST KEYS {run}-----\n");
            format!("<output>{}</output>", BASE64_STANDARD.encode(text))
        }
        "AuthorizeSecurityGroupIngress" if params.contains_key("IpPermissions.1.IpRanges.1.CidrIp") => {
            let rule = rule(params);
            if held.rules.iter().any(|other| (&other.cidr, other.ports) == (&rule.cidr, rule.ports)) {
                return Some(refuse("InvalidPermission.Duplicate", "the specified rule already exists"));
            }
            held.rules.push(rule);
            "<return>true</return>".to_owned()
        }
        "RevokeSecurityGroupIngress" => {
            let rule = rule(params);
            let before = held.rules.len();
            held.rules.retain(|other| (&other.cidr, other.ports) != (&rule.cidr, rule.ports));
            if held.rules.len() == before {
                return Some(refuse("InvalidPermission.NotFound", "the specified rule does not exist"));
            }
            "<return>true</return>".to_owned()
        }
        "DescribeSecurityGroups" if params.contains_key("GroupId.1") => {
            let rules = held.rules.iter().map(|Rule { cidr, ports, description }| {
                let range = format!("<cidrIp>{cidr}</cidrIp><description>{description}</description>");
                format!(
                    "<item><ipProtocol>tcp</ipProtocol><fromPort>{}</fromPort><toPort>{}</toPort><ipRanges><item>{range}</item></ipRanges></item>",
                    ports.0, ports.1
                )
            });
            let own = "<item><ipProtocol>-1</ipProtocol><groups><item><groupId>sg-1</groupId></item></groups></item>";
            let list = "<item><ipProtocol>-1</ipProtocol><prefixListIds><item><prefixListId>pl-1</prefixListId></item></prefixListIds></item>";
            let all: String = rules.collect();
            format!(
                "<securityGroupInfo><item><groupId>sg-1</groupId><ipPermissions>{all}{own}{list}</ipPermissions></item></securityGroupInfo>"
            )
        }
        _ => return None,
    };
    Some(done(action, &body))
}

fn rule(params: &Params) -> Rule {
    let get = |name: &str| params.get(&format!("IpPermissions.1.{name}")).cloned().unwrap_or_default();
    let port = |name: &str| get(name).parse().expect("a port");
    Rule {
        cidr: get("IpRanges.1.CidrIp"),
        ports: (port("FromPort"), port("ToPort")),
        description: get("IpRanges.1.Description"),
    }
}

/// The nodes; the second has two interfaces. What comes after it is not of the launch, but of a call that copied its token.
fn nodes(held: &Held, state: &str) -> String {
    let items = held.nodes.iter().enumerate().map(|(index, tags)| {
        let number = index + 1;
        let (launched, token) = match number {
            1 | 2 => ("2025-01-01T00:00:00.000Z", String::new()),
            _ => (tags["efa-gen:until"].as_str(), format!("{}-copied", tags["efa-gen:run"])),
        };
        let tags: String =
            tags.iter().map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>")).collect();
        let interface = |device: usize, address: &str| {
            format!(
                "<item><networkInterfaceId>eni-{number}{device}</networkInterfaceId><attachment><deviceIndex>{device}</deviceIndex><networkCardIndex>0</networkCardIndex></attachment>\
                 <privateIpAddressesSet><item><privateIpAddress>{address}</privateIpAddress></item></privateIpAddressesSet></item>"
            )
        };
        let mut interfaces = interface(0, &format!("10.0.0.{number}"));
        if number == 2 {
            interfaces += &interface(1, "10.0.1.2");
        }
        format!(
            "<item><instanceId>i-{number}</instanceId><instanceType>c5n.18xlarge</instanceType><amiLaunchIndex>{index}</amiLaunchIndex>\
             <instanceState><name>{state}</name></instanceState><launchTime>{launched}</launchTime><clientToken>{token}</clientToken>\
             <privateIpAddress>10.0.0.{number}</privateIpAddress><ipAddress>192.0.2.{number}</ipAddress>\
             <networkInterfaceSet>{interfaces}</networkInterfaceSet><tagSet>{tags}</tagSet></item>"
        )
    });
    items.collect()
}
