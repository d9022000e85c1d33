//! What a cluster is planned by, without an account: interfaces by type, the files of trust, and what is wrong with nodes.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::catalog;
use efa_gen::catalog::instance_type::Fabric;
use efa_gen::catalog::nic_layout::{Nic, NicKind, layout};
use efa_gen::guest::facts::{Facts, NodeRequirements, findings, not_read, question, read};
use efa_gen::guest::ssh_trust::{Trust, TrustedNode, hostfile, known_hosts, ssh_config, trust};
use efa_gen::nccl::command::hosts;

/// Every rule of EC2 that a launch is refused by.
fn keeps_ec2s_rules(kind: &str, nics: &[Nic], interfaces_per_card: &[u32]) {
    let first = nics.first().expect("a primary interface");
    assert_eq!((first.card, first.device), (0, 0), "{kind}: the primary one is first");
    assert_ne!(first.kind, NicKind::EfaOnly, "{kind}: the primary one has an address");
    let places: BTreeSet<(u32, u32)> = nics.iter().map(|nic| (nic.card, nic.device)).collect();
    assert_eq!(places.len(), nics.len(), "{kind}: two in one place");
    for (card, most) in interfaces_per_card.iter().enumerate() {
        let here = nics.iter().filter(|nic| nic.card as usize == card).count();
        assert!(here <= *most as usize, "{kind}: {here} on card {card}, which takes {most}");
    }
    for card in nics.iter().map(|nic| nic.card).collect::<BTreeSet<_>>() {
        let devices = nics.iter().filter(|nic| nic.card == card && nic.kind != NicKind::Interface).count();
        assert!(devices <= 1, "{kind}: {devices} EFA devices on card {card}");
    }
}

#[test]
fn every_type_whose_cards_are_known_has_a_layout() {
    let mut known = 0;
    for kind in &catalog().instance_types {
        let cards = u32::try_from(kind.interfaces_per_card.len()).expect("a few");
        if cards == 0 {
            continue;
        }
        known += 1;
        let nics = layout(&kind.name, kind.efa, cards).unwrap_or_else(|error| panic!("{}: {error}", kind.name));
        let devices = nics.iter().filter(|nic| nic.kind != NicKind::Interface).count();
        assert_eq!(devices, kind.efa as usize, "{}", kind.name);
        keeps_ec2s_rules(&kind.name, &nics, &kind.interfaces_per_card);
        let addressed = nics.iter().filter(|nic| nic.kind != NicKind::EfaOnly).count();
        assert_eq!(addressed, 1, "{}: a preflight counts one address a machine", kind.name);
    }
    assert!(known > 100, "{known}");
}

#[test]
fn layouts_are_those_that_aws_names() {
    const P4D: [(u32, u32, &str); 4] = [(0, 0, "efa"), (1, 1, "efa-only"), (2, 1, "efa-only"), (3, 1, "efa-only")];
    let short = |kind: &str, efa, cards| -> Vec<(u32, u32, &'static str)> {
        let nics = layout(kind, efa, cards).expect("a layout");
        nics.iter().map(|nic| (nic.card, nic.device, nic.kind.name())).collect()
    };
    assert_eq!(short("p3dn.24xlarge", 1, 1), [(0, 0, "efa")]);
    assert_eq!(short("p4d.24xlarge", 4, 4), P4D);
    let p5 = short("p5.48xlarge", 32, 32);
    assert_eq!(p5.len(), 33);
    assert_eq!(p5[..3], [(0, 0, "interface"), (0, 1, "efa-only"), (1, 0, "efa-only")]);
    // Seventeen cards, sixteen devices: card 0 is for the ordinary network alone.
    let b300 = short("p6-b300.48xlarge", 16, 17);
    assert_eq!(b300[..2], [(0, 0, "interface"), (1, 0, "efa-only")]);
    assert_eq!(b300.last(), Some(&(16, 0, "efa-only")));
    // What EC2 says wins; where the layout does not fit it, nothing is guessed.
    for (kind, efa, cards) in
        [("t3.micro", 0, 1), ("p4d.24xlarge", 3, 4), ("p6-b300.48xlarge", 17, 17), ("new.type", 3, 2)]
    {
        assert!(layout(kind, efa, cards).is_err(), "{kind}");
    }
}

fn nodes(count: usize) -> Vec<TrustedNode> {
    let node = |index: usize| TrustedNode {
        address: format!("10.0.{}.{}", index / 250, index % 250),
        host_keys: vec![format!("ssh-ed25519 AAAA{index}")],
    };
    (1..=count).map(node).collect()
}

#[test]
fn trust_is_of_the_clusters_addresses_alone() {
    let nodes = nodes(256);
    assert_eq!(hostfile(&nodes[..2], 8), "10.0.0.1 slots=8\n10.0.0.2 slots=8\n");
    let known = known_hosts(&nodes);
    assert_eq!(known.lines().count(), 256);
    let config = ssh_config("big", &nodes);
    // OpenSSH 7.2, which is among the nodes', refuses a whole configuration for one name of 7.4: it knows curve25519 by the
    // name with `@` alone. A machine in FIPS mode takes NIST's curve.
    let kex: BTreeSet<&str> = config.lines().filter_map(|line| line.trim().strip_prefix("KexAlgorithms ")).collect();
    assert_eq!(Vec::from_iter(kex), ["curve25519-sha256@libssh.org,ecdh-sha2-nistp256"]);
    for line in config.lines() {
        assert!(line.len() < 1000, "ssh before 7.8 refuses it: {} characters", line.len());
    }
    // As OpenSSH itself reads it: every address has the key, a stranger has none of it.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    std::fs::write(&path, &config).expect("a file");
    let asked = |host: &str| {
        let output = Command::new("ssh").arg("-G").arg("-F").arg(&path).arg(host).output().expect("ssh is there");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for node in [&nodes[0], &nodes[49], &nodes[50], &nodes[255]] {
        let said = asked(&node.address);
        for words in ["identityfile ~/.ssh/efa-gen-cluster", "stricthostkeychecking true", "forwardagent no"] {
            assert!(said.contains(words), "{}: {words}", node.address);
        }
    }
    let stranger = asked("192.0.2.1");
    assert!(!stranger.contains("efa-gen") && stranger.contains("stricthostkeychecking ask"), "{stranger}");
}

/// Runs the script of trust in a home of its own.
fn take(home: &Path, name: &str, count: usize) {
    take_with(home, name, count, None);
}

/// The same, with programs of this folder before the others.
fn take_with(home: &Path, name: &str, count: usize, programs: Option<&Path>) {
    let nodes = nodes(count);
    let text = trust(&Trust {
        name,
        private: "-----BEGIN A KEY-----\nwith $dollars and `ticks`\n-----END A KEY-----\n",
        known_hosts: &known_hosts(&nodes),
        ssh_config: &ssh_config(name, &nodes),
        hostfile: &hostfile(&nodes, 8),
    })
    .expect("it can be rendered");
    let mut shell = Command::new("bash");
    shell.arg("-s").env("HOME", home).stdin(Stdio::piped());
    if let Some(programs) = programs {
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", programs.display()));
    }
    let mut shell = shell.spawn().expect("bash is there");
    shell.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(shell.wait().expect("it ends").success());
}

#[test]
fn a_node_takes_trust_and_keeps_its_users_own_configuration() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join(".ssh")).expect("a folder");
    let config = home.path().join(".ssh/config");
    let own = "Host mine\n  User me\n";
    std::fs::write(&config, own).expect("a file");
    take(home.path(), "one", 2);
    let once = std::fs::read_to_string(&config).expect("a file");
    assert!(once.ends_with(own) && once.contains("Host 10.0.0.1 10.0.0.2\n"), "{once}");
    take(home.path(), "one", 2);
    assert_eq!(std::fs::read_to_string(&config).expect("a file"), once, "the same again changes nothing");
    take(home.path(), "one", 3);
    let grown = std::fs::read_to_string(&config).expect("a file");
    assert!(grown.contains("10.0.0.3") && grown.matches("begin of the cluster").count() == 1, "{grown}");
    let key = home.path().join(".ssh/efa-gen-cluster");
    assert_eq!(std::fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&key).expect("a key").contains("with $dollars and `ticks`\n"));
}

/// The lines of a configuration that stands in a home, after the script has run there.
fn config_after(config: &str, count: usize) -> Vec<String> {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join(".ssh/config");
    std::fs::create_dir(home.path().join(".ssh")).expect("a folder");
    std::fs::write(&path, config).expect("a file");
    take(home.path(), "one", count);
    let once = std::fs::read_to_string(&path).expect("a file");
    take(home.path(), "one", count);
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), once, "the same again changes nothing: {config}");
    once.lines().map(str::to_owned).collect()
}

#[test]
fn a_users_own_configuration_survives_whatever_became_of_the_marks() {
    let block = ssh_config("one", &nodes(60));
    let former = block.replace("curve25519-sha256@libssh.org,ecdh-sha2-nistp256", "curve25519-sha256@libssh.org");
    assert_ne!(former, block);
    let (begin, end) = ("# efa-gen: begin of the cluster\n", "# efa-gen: end of the cluster\n");
    let (first, last) = (
        "Host prod\n  User me\n  # prod's\n\n",
        "Host *.example\n  IdentityFile ~/.ssh/mine\nHost *\n  Compression yes\n",
    );
    let own: Vec<&str> = first.lines().chain(last.lines()).collect();
    for block in [block, former] {
        let in_the_middle = block.replacen("Host *\n", "Host theirs\n  User them\nHost *\n", 1);
        let cases = [
            format!("{first}{block}{last}"),
            format!("{block}{first}{last}"),
            format!("{first}{last}{block}"),
            // No end, no begin, neither; each alone; twice; the wrong way round.
            format!("{first}{}{last}", block.replace(end, "")),
            format!("{}{first}{last}", block.replace(end, "")),
            format!("{first}{}{last}", block.replace(begin, "")),
            format!("{first}{}{last}", block.replace(begin, "").replace(end, "")),
            format!("{begin}{first}{last}"),
            format!("{first}{begin}{last}"),
            format!("{first}{end}{last}"),
            format!("{end}{first}{last}{begin}"),
            format!("{begin}{first}{last}{end}"),
            format!("{first}{block}{block}{last}"),
            format!("{begin}{first}{block}{last}"),
            format!("{first}{block}{last}{end}"),
            // Cut off in a section.
            format!("{first}{}\n{last}", &block[..block.len() / 2]),
            // What the user has put into it, and changed in it.
            format!("{begin}{first}{last}{}", block.replace(begin, "")),
            format!("{first}{in_the_middle}{last}"),
            format!("{first}{}{last}", block.replace("ForwardAgent no", "ForwardAgent yes")),
        ];
        for config in cases {
            let after = config_after(&config, 3);
            let mut rest = after.iter();
            for line in &own {
                assert!(
                    rest.any(|one| one == line),
                    "{line:?} is lost of\n{config}\nwhich became\n{}",
                    after.join("\n")
                );
            }
            assert_eq!(after[0], begin.trim_end(), "ours is first: {after:?}");
            for mark in [begin, end] {
                assert_eq!(after.iter().filter(|line| **line == mark.trim_end()).count(), 1, "{after:?}");
            }
        }
        let after = config_after(&format!("{first}{in_the_middle}{last}"), 3);
        assert!(after.windows(2).any(|two| two == ["Host theirs", "  User them"]), "{after:?}");
        // What is whole goes whole: nodes that left are known no more.
        let after = config_after(&format!("{first}{block}{last}"), 3).join("\n");
        assert!(!after.contains("10.0.0.4") && after.matches("  ForwardAgent no").count() == 1, "{after}");
    }
}

#[test]
fn a_node_in_fips_mode_gets_a_configuration_that_its_ssh_takes() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("a folder");
    // Stands for an ssh that refuses a whole list for one name.
    let ssh = home.path().join("ssh");
    let refuses = "#!/bin/sh\nfor file; do case $file in */efa-gen-block) ! grep -q curve25519 $file; exit ;; esac; done\nexit 9\n";
    std::fs::write(&ssh, refuses).expect("a file");
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
    let config = || std::fs::read_to_string(home.path().join(".ssh/config")).expect("a file");
    take_with(home.path(), "one", 60, Some(home.path()));
    let first = config();
    let exchanges: BTreeSet<&str> = first.lines().filter(|line| line.contains("KexAlgorithms")).collect();
    assert_eq!(Vec::from_iter(exchanges), ["  KexAlgorithms ecdh-sha2-nistp256"]);
    take_with(home.path(), "one", 60, Some(home.path()));
    assert_eq!(config(), first, "the same again changes nothing");
}

const GOOD: &str = "=== clock\n1000100\n=== hostname\nip-10-0-0-1\n=== kernel\n6.1.0\n=== memlock\nunlimited\n=== efa\n\
provider: efa\n    fabric: efa\n    domain: rdmap0s1-rdm\n    version: 120.0\n    type: FI_EP_RDM\n    protocol: FI_PROTO_EFA\n\
=== gpus\n580.1, NVIDIA H100\n580.1, NVIDIA H100\n=== module\n\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1  Release Build\n=== persistence\nEnabled\nEnabled\n\
=== fabric-manager\nactive\n=== fabric\n    Fabric\n        State     : Completed\n        Status    : Success\n--\n\
    Fabric\n        State     : Completed\n        Status    : Success\n=== cuda-contexts\n\
GPU 0 0000:01:00.0: context on NVIDIA H100\nGPU 1 0000:02:00.0: context on NVIDIA H100\n\
=== peer-to-peer\np2p: NVIDIA peermem\n=== release\n[\n{\"name\":\"nccl\",\"version\":\"2.30\",\"origin\":\"x\",\"digest\":null}\n]\n\
=== unreachable\n=== end\n";

fn facts(answer: &str) -> Facts {
    read(answer, 1_000_100).expect("a whole answer")
}

#[test]
fn a_hostfile_is_read_as_open_mpi_reads_it() {
    let two = hosts("# ours\na slots=8\n\nb slots = 8 max_slots=9 # the second\n", None).expect("two hosts");
    assert_eq!(two.iter().map(|host| (host.address.as_str(), host.slots)).collect::<Vec<_>>(), [("a", 8), ("b", 8)]);
    assert_eq!(hosts("a\n", Some(4)).expect("a host")[0].slots, 4);
}

#[test]
fn an_answer_is_read_and_a_node_that_differs_is_named() {
    let good = facts(GOOD);
    assert_eq!((good.efa, good.gpus.len(), good.memlock_kib, good.clock_ms), (1, 2, None, 0));
    assert_eq!(good.versions["nccl"], "2.30");
    let expect = NodeRequirements { efa: 1, gpus: 2, fabric: Fabric::NvSwitch, unregistered: true, gpudirect: true };
    let three = |third: Facts| {
        let all = [("a", good.clone()), ("b", good.clone()), ("c", third)];
        findings(&all.map(|(name, facts)| (name.to_owned(), facts)), &expect)
    };
    assert_eq!(three(good.clone()), []);
    // That this machine's own clock is wrong is no node's fault.
    let late = read(GOOD, 9_000_100).expect("a whole answer");
    let all = ["a", "b", "c"].map(|name| (name.to_owned(), late.clone()));
    assert_eq!((late.clock_ms, findings(&all, &expect)), (-8_000_000, Vec::new()));
    for (from, to, words) in [
        ("unlimited", "8192", "may lock 8192 KiB"),
        ("unlimited", "nonsense", "may lock 0 KiB"),
        ("provider: efa", "provider: tcp", "finds 0 EFA devices"),
        ("provider: efa", "fi_getinfo: -61\nprovider: efa;ofi_rxd", "finds 0 EFA devices"),
        ("580.1, NVIDIA H100\n580.1, NVIDIA H100", "580.1, NVIDIA H100", "finds 1 GPUs"),
        ("580.1, NVIDIA H100\n580.1, NVIDIA H100", "bash: nvidia-smi: command not found", "finds 0 GPUs"),
        ("580.1, NVIDIA H100\n580.1", "570.9, NVIDIA H100\n570.9", "driver: 570.9, the others have 580.1"),
        ("NVIDIA UNIX Open Kernel Module", "NVIDIA UNIX", "nvidia module: proprietary, the others have open"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1  Release Build\n", "", "nvidia module: none"),
        ("Enabled\nEnabled", "Enabled\nDisabled", "1 of its 2 GPUs are in persistence mode"),
        ("=== fabric-manager\nactive", "=== fabric-manager\nfailed", "the fabric manager is failed"),
        ("State     : Completed", "State     : In Progress", "with the fabric is \"In Progress\", status \"Success\""),
        ("Status    : Success", "Status    : Insufficient Resources", "status \"Insufficient Resources\""),
        ("GPU 1 0000:02:00.0: context on NVIDIA H100\n", "", "CUDA makes a context on 1 of its 2 GPUs"),
        (
            "GPU 0 0000:01:00.0: context on NVIDIA H100\nGPU 1 0000:02:00.0: context on NVIDIA H100\n",
            "cudaGetDeviceCount failed: cudaErrorSystemNotReady (error 802): system not yet initialized\nfailed: 1\n",
            "on 0 of its 2 GPUs: cudaGetDeviceCount failed: cudaErrorSystemNotReady (error 802)",
        ),
        ("GPU 1 0000:02:00.0: context on NVIDIA H100\n", "failed: 124\n", "on 1 of its 2 GPUs: failed: 124"),
        ("p2p: NVIDIA peermem", "p2p: ", "nothing gives EFA its GPUs' memory"),
        ("p2p: NVIDIA peermem", "p2p: NEURON", "NEURON gives EFA its GPUs' memory"),
        ("6.1.0", "6.2.0", "kernel: 6.2.0"),
        ("\"2.30\"", "\"2.29\"", "nccl: 2.29, the others have 2.30"),
        ("1000100", "1009100", "9000 ms fast"),
        ("1000100", "991100", "9000 ms slow"),
        ("=== unreachable\n", "=== unreachable\n10.0.0.9\n", "can't log in to 10.0.0.9"),
    ] {
        let bad = GOOD.replace(from, to);
        assert_ne!(bad, GOOD, "{from}");
        let found = three(facts(&bad));
        assert!(found.iter().any(|(node, what)| node == "c" && what.contains(words)), "{words}: {found:?}");
        assert!(found.iter().all(|(node, _)| node == "c"), "{words}: {found:?}");
    }
    // Of two clocks that differ, nobody knows which is wrong; nor of two and two.
    let late = facts(&GOOD.replace("1000100", "1009100"));
    for all in [vec![good.clone(), late.clone()], vec![good.clone(), good.clone(), late.clone(), late]] {
        let all: Vec<_> = all.into_iter().enumerate().map(|(n, facts)| (format!("n{n}"), facts)).collect();
        let found = findings(&all, &expect);
        assert_eq!(found.len(), all.len() / 2, "{found:?}");
        let words = "9000 ms fast against n0's; which of them is wrong is not known";
        assert!(found.iter().all(|(_, what)| what.contains(words)), "{found:?}");
    }
    // One that breaks off tells nothing.
    for end in ["=== end\n", "=== clock\n1000100\n"] {
        assert_eq!(read(&GOOD.replace(end, ""), 0), None, "{end}");
    }
    assert_eq!(read("", 0), None);
}

/// An older image has no program for CUDA contexts: that is said, and nothing is held against the node.
#[test]
fn what_a_node_did_not_tell_is_said_to_be_not_read() {
    let requirements = |gpus: u64, fabric: Fabric, gpudirect: bool| NodeRequirements {
        efa: 1,
        gpus,
        fabric,
        unregistered: false,
        gpudirect,
    };
    let cut = |sections: &[&str]| {
        let mut answer = String::new();
        for section in GOOD.split_inclusive("=== ").flat_map(|part| part.strip_suffix("=== ").or(Some(part))).skip(1) {
            let (name, content) = section.split_once('\n').expect("a name");
            answer += &format!("=== {name}\n{}", if sections.contains(&name) { "" } else { content });
        }
        facts(&answer)
    };
    let all = requirements(2, Fabric::NvLink5, true);
    assert_eq!(not_read(&[("a".to_owned(), cut(&[]))], &all), []);
    let old = cut(&["cuda-contexts", "persistence", "fabric-manager", "fabric", "peer-to-peer"]);
    assert_eq!(findings(&[("a".to_owned(), old.clone())], &all), []);
    let nodes = [("a".to_owned(), cut(&[])), ("b".to_owned(), old)];
    let said = not_read(&nodes, &all);
    let whole = "not read: CUDA contexts (its image has no /opt/efa-gen/bin/cuda-contexts), persistence mode, \
                 the fabric manager's state, the fabric's state, what gives EFA GPU memory";
    assert_eq!(said, [("b".to_owned(), whole.to_owned())]);
    let plain = not_read(&nodes, &requirements(2, Fabric::None, false));
    assert!(plain.len() == 1 && plain[0].1.ends_with("cuda-contexts), persistence mode"), "{plain:?}");
    assert_eq!(not_read(&nodes, &requirements(0, Fabric::None, false)), [], "no GPU, nothing to tell of it");
    // Persistence mode that is off is only held against an image that should have seen to it.
    let off = |sections: &[&str]| Facts { persistent: Some(0), ..cut(sections) };
    assert_eq!(findings(&[("a".to_owned(), off(&["cuda-contexts"]))], &all), []);
    assert_eq!(findings(&[("a".to_owned(), off(&[]))], &all).len(), 1);
    // An A100 does not register; an H100 and a B200 must.
    let silent = Facts { fabric: vec![("N/A".into(), "N/A".into()); 2], ..cut(&[]) };
    let found = |fabric: Fabric, unregistered: bool| {
        let wanted = NodeRequirements { unregistered, ..requirements(2, fabric, true) };
        findings(&[("a".to_owned(), silent.clone())], &wanted).len()
    };
    assert_eq!((found(Fabric::NvSwitch, true), found(Fabric::NvSwitch, false)), (0, 1));
    assert_eq!((found(Fabric::NvLink5, false), found(Fabric::None, false)), (1, 0));
    let types = catalog();
    for (kind, unregistered) in [
        ("p4d.24xlarge", true),
        ("p4de.24xlarge", true),
        ("p5.48xlarge", false),
        ("p5en.48xlarge", false),
        ("p6-b200.48xlarge", false),
    ] {
        let gpu = types.instance_type(kind).expect("it is known").gpu.as_ref().expect("it has one");
        assert_eq!(gpu.unregistered, unregistered, "{kind}");
    }
}

/// The question is answered by a real shell, on a machine without EFA and without GPUs.
#[test]
fn the_question_is_a_line_that_a_shell_understands() {
    let line = question(&["192.0.2.1"], 8);
    let output = Command::new("bash").arg("-c").arg(&line).output().expect("bash is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let facts = read(&text, 0).unwrap_or_else(|| panic!("{text}"));
    assert!(!facts.hostname.is_empty() && !facts.kernel.is_empty() && facts.clock_ms > 1_600_000_000_000, "{facts:?}");
    assert_eq!(facts.unreachable, ["192.0.2.1"], "nobody is there");
}

/// A login is there before the boot is over and before the fabric has taken the GPUs: the answer tells of the time after.
#[test]
fn a_node_is_asked_when_its_boot_and_its_fabric_are_done() {
    use crate::support::sandbox::Sandbox;
    let sandbox = Sandbox::new();
    let count = sandbox.text("count");
    sandbox.write("count", "0");
    // One more, and two seconds later, with each wait.
    sandbox.program("sleep", &format!("echo $(($(cat {count}) + 1)) >{count}"));
    let date = format!("case $1 in +%s) echo $((1795000000 + 2 * $(cat {count}))) ;; *) exec /bin/date \"$@\" ;; esac");
    sandbox.program("date", &date);
    let after = |waits: u32, before: &str, then: &str| {
        format!("if [ $(cat {count}) -lt {waits} ]; then echo '{before}'; else echo '{then}'; fi")
    };
    let running = after(2, "starting", "running");
    sandbox.program("systemctl", &format!("case $1 in is-system-running) {running} ;; *) echo active ;; esac"));
    let smi = after(5, "        State : In Progress", "        State : Completed");
    sandbox.program("nvidia-smi", &format!("echo '    Fabric'; {smi}; echo '        Status : Success'"));
    let mut command = Command::new("bash");
    command.arg("-c").arg(question(&[], 8)).env("PATH", format!("{}:/usr/bin:/bin", sandbox.text("bin")));
    let output = command.output().expect("bash is there");
    let facts = read(&String::from_utf8_lossy(&output.stdout), 0).expect("a whole answer");
    assert_eq!(sandbox.read("count").trim(), "5");
    assert_eq!(facts.fabric, [("Completed".to_owned(), "Success".to_owned())]);
    assert_eq!(facts.fabric_manager.as_deref(), Some("active"));
    // Nor does it wait for ever.
    sandbox.write("count", "0");
    sandbox.program("systemctl", "echo starting");
    command.output().expect("bash is there");
    assert_eq!(sandbox.read("count").trim(), "45");
}
