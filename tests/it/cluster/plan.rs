//! What a cluster is planned by, without an account: interfaces by type, the files of trust, and what is wrong with nodes.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::catalog;
use efa_gen::cluster::check::{Expect, Facts, findings, question, read};
use efa_gen::cluster::nic::{Kind, Nic, layout};
use efa_gen::cluster::test::hosts;
use efa_gen::cluster::trust::{Node, hostfile, known_hosts, ssh_config};
use efa_gen::render::builder::{Trust, trust};

/// Every rule of EC2 that a launch is refused by.
fn keeps_ec2s_rules(kind: &str, nics: &[Nic], interfaces_per_card: &[u32]) {
    let first = nics.first().expect("a primary interface");
    assert_eq!((first.card, first.device), (0, 0), "{kind}: the primary one is first");
    assert_ne!(first.kind, Kind::EfaOnly, "{kind}: the primary one has an address");
    let places: BTreeSet<(u32, u32)> = nics.iter().map(|nic| (nic.card, nic.device)).collect();
    assert_eq!(places.len(), nics.len(), "{kind}: two in one place");
    for (card, most) in interfaces_per_card.iter().enumerate() {
        let here = nics.iter().filter(|nic| nic.card as usize == card).count();
        assert!(here <= *most as usize, "{kind}: {here} on card {card}, which takes {most}");
    }
    for card in nics.iter().map(|nic| nic.card).collect::<BTreeSet<_>>() {
        let devices = nics.iter().filter(|nic| nic.card == card && nic.kind != Kind::Interface).count();
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
        let devices = nics.iter().filter(|nic| nic.kind != Kind::Interface).count();
        assert_eq!(devices, kind.efa as usize, "{}", kind.name);
        keeps_ec2s_rules(&kind.name, &nics, &kind.interfaces_per_card);
    }
    assert!(known > 100, "{known}");
}

#[test]
fn layouts_are_those_that_aws_names() {
    let short = |kind: &str, efa, cards| -> Vec<(u32, u32, &'static str)> {
        let nics = layout(kind, efa, cards).expect("a layout");
        nics.iter().map(|nic| (nic.card, nic.device, nic.kind.name())).collect()
    };
    assert_eq!(short("p3dn.24xlarge", 1, 1), [(0, 0, "efa")]);
    assert_eq!(short("p4d.24xlarge", 4, 4), [(0, 0, "efa"), (1, 1, "efa"), (2, 1, "efa"), (3, 1, "efa")]);
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

fn nodes(count: usize) -> Vec<Node> {
    let node = |index: usize| Node {
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
    // OpenSSH 7.2, which is among the nodes', refuses a whole configuration for one name of 7.4.
    let kex = config.lines().find_map(|line| line.trim().strip_prefix("KexAlgorithms ")).expect("it is pinned");
    assert!(kex.split(',').all(|name| name.contains('@')), "{kex}");
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
fn take(home: &std::path::Path, name: &str, count: usize) {
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

const GOOD: &str = "=== clock\n1000100\n=== hostname\nip-10-0-0-1\n=== kernel\n6.1.0\n=== memlock\nunlimited\n=== efa\n\
provider: efa\n    fabric: efa\n    domain: rdmap0s1-rdm\n    version: 120.0\n    type: FI_EP_RDM\n    protocol: FI_PROTO_EFA\n\
=== gpus\n580.1, NVIDIA H100\n580.1, NVIDIA H100\n=== release\n[\n{\"name\":\"nccl\",\"version\":\"2.30\",\"origin\":\"x\",\"digest\":null}\n]\n\
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
    let expect = Expect { efa: 1, gpus: 2 };
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
