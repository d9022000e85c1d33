//! `efa-gen launch`, then `efa-gen validate --cluster`, on booted machines of our own image: real Open MPI starts the ranks over
//! the SSH that the launch has set up; what they print is the log of a run in which something is wrong on one node, or
//! nothing. The verdict and the exit code of each.

use crate::account::Account;
use crate::machine::{Ran, assert_same, ran};

/// One EFA device, eight GPUs, and a bar of its own. The cloud has it in few regions.
const P3DN: &str = "p3dn.24xlarge";

/// One EFA device, one GPU: eight nodes of it have as many ranks as this machine can bear.
const G4DN: &str = "g4dn.8xlarge";

/// A cluster of machines of our own image.
struct Cluster<'a> {
    account: &'a Account,
    name: &'a str,
    kind: &'a str,
    nodes: usize,
}

impl Cluster<'_> {
    /// Launched, and every node is as it must be.
    fn launch(&self) -> String {
        let (count, region) = (self.nodes.to_string(), self.account.region);
        let line = ["launch", "--distro", "debian12", "--nodes", &count, "--type", self.kind, "--name", self.name];
        let place = ["--region", region, "--ssh-cidr", "10.78.0.1/32"];
        ran(&mut self.account.through(&[], &[&line[..], &place].concat())).good()
    }

    fn cluster(&self, verb: &str, more: &[&str]) -> Ran {
        let line = ["cluster", verb, self.name, "--region", self.account.region];
        ran(&mut self.account.through(&[], &[&line[..], more].concat()))
    }

    /// What is to go wrong with a node; nothing, if it is empty.
    fn scenario(&self, node: usize, words: &str) {
        let (node, line) = (node.to_string(), format!("echo {words} | sudo tee /etc/efa-gen-scenario"));
        self.cluster("ssh", &["--node", &node, "--", &line]).good();
    }

    fn validate(&self, more: &[&str]) -> Ran {
        let line = ["validate", "--cluster", self.name, "--region", self.account.region];
        ran(&mut self.account.through(&[], &[&line[..], more].concat()))
    }

    /// The verdict's first line has these words, the exit code is this.
    #[track_caller]
    fn judged(&self, more: &[&str], code: i32, words: &[&str]) -> String {
        let said = self.validate(more);
        assert_eq!(said.code, code, "{}", said.text);
        for word in words {
            assert!(said.text.contains(word), "does not say {word:?}:\n{}", said.text);
        }
        said.text
    }
}

/// Every node logs in to every node, itself as well, without a prompt.
fn reach_each_other(cluster: &Cluster) {
    let all = "while read -r node slots; do ssh -o BatchMode=yes $node hostname </dev/null || exit 9; done <~/hostfile";
    let said = cluster.cluster("run", &["--", all]).good();
    assert_eq!(said.lines().filter(|line| line.contains(": ip-")).count(), cluster.nodes * cluster.nodes, "{said}");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn two_nodes_of_our_own_image_are_validated() {
    let account = Account::alone_in("us-west-2");
    account.cluster_image();
    let before = account.things();
    let cluster = Cluster { account: &account, name: "two", kind: P3DN, nodes: 2 };
    cluster.launch();
    reach_each_other(&cluster);
    cluster.judged(&[], 0, &["EFA-GEN VERDICT: PASS", "16 ranks on 2 hosts"]);
    // The same by the cluster's name.
    let said = cluster.cluster("validate", &[]).good();
    assert!(said.contains("EFA-GEN VERDICT: PASS"), "{said}");
    cluster.scenario(1, "slow");
    // The bar of two hosts of this type.
    cluster.judged(&[], 7, &["EFA-GEN VERDICT: FAIL", "GB/s"]);
    cluster.scenario(1, "socket");
    cluster.judged(&[], 7, &["EFA-GEN VERDICT: FAIL"]);
    cluster.cluster("validate", &[]).failed(7, &["EFA-GEN VERDICT: FAIL"]);
    cluster.cluster("rm", &["--yes"]).good();
    assert_same(&before, &account.things());
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn eight_nodes_of_our_own_image_are_validated() {
    let account = Account::alone_in("eu-west-3");
    account.cluster_image();
    let before = account.things();
    let cluster = Cluster { account: &account, name: "eight", kind: G4DN, nodes: 8 };
    let said = cluster.launch();
    assert_eq!(said.matches("unlimited").count(), 8, "{said}");
    reach_each_other(&cluster);
    cluster.judged(&[], 0, &["EFA-GEN VERDICT: PASS", "8 ranks on 8 hosts"]);
    let fail = "EFA-GEN VERDICT: FAIL";
    for (scenario, more, words) in [
        ("socket", &[][..], &[fail, "run failed"][..]),
        ("socket-old", &[], &[fail, "socket fallback"]),
        ("tcp", &[], &[fail, "wrong provider", "tcp"]),
        ("wrong", &[], &[fail, "wrong"]),
        ("hang", &["--timeout", "20s"], &[fail, "did not end in time"]),
        ("crash", &[], &[fail, "run failed", "signal 11"]),
    ] {
        eprintln!("scenario {scenario}");
        cluster.scenario(5, scenario);
        cluster.judged(more, 7, words);
    }
    // Slow runs are of one node's making: pairs of nodes tell which one's.
    cluster.scenario(5, "slow");
    let slow = cluster.cluster("ssh", &["--node", "5", "--", "hostname"]).good();
    let slow = slow.lines().find(|line| line.starts_with("ip-")).expect("a name").to_owned();
    let address = slow.trim_start_matches("ip-").replace('-', ".");
    let said = cluster.judged(&["--min-busbw", "2"], 7, &[fail]);
    assert!(said.contains(&format!("one host stands out: {address}")), "{slow} is not named:\n{said}");
    cluster.scenario(5, "");
    // ssh is refused, as by a node that is going down.
    cluster.cluster("ssh", &["--node", "7", "--", "sudo systemctl stop ssh"]).good();
    cluster.judged(&[], 7, &[fail, "run failed", "Connection refused"]);
    cluster.cluster("rm", &["--yes"]).good();
    assert_same(&before, &account.things());
    account.keeps_no_secret();
}

/// One host name, several interfaces: no node has the leader's elastic address on an interface of its own, where Open MPI
/// would meet it.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn types_with_several_interfaces_are_validated() {
    let account = Account::alone_in("us-east-2");
    account.light_image();
    let before = account.things();
    for (kind, nodes, ranks) in [("p4d.24xlarge", 3, "24 ranks on 3 hosts"), ("p5.48xlarge", 2, "16 ranks on 2 hosts")]
    {
        let cluster = Cluster { account: &account, name: "wide", kind, nodes };
        cluster.launch();
        reach_each_other(&cluster);
        cluster.judged(&[], 0, &["EFA-GEN VERDICT: PASS", ranks]);
        cluster.cluster("rm", &["--yes"]).good();
        assert_same(&before, &account.things());
    }
}
