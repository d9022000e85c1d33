//! A cluster grows: what it has stays as it is, whatever becomes of the new nodes. Its nodes have two interfaces each, so
//! that all but the leader are reached through it.

use serde_json::{Value, json};

use crate::account::Account;
use crate::machine::{Ran, ran, text, wait_for};

/// Two network cards, so two EFA devices.
const KIND: &str = "c6in.32xlarge";

impl Account {
    fn wide(&self, options: &[&str], words: &[&str]) -> Ran {
        let (before, after) = words.split_at(words.iter().position(|word| *word == "--").unwrap_or(words.len()));
        ran(&mut self.through(options, &[before, &["--region", self.region], after].concat()))
    }

    /// Every node with its state, by the time of its launch.
    fn states(&self) -> Vec<(String, String)> {
        let run = self.runs().pop().expect("a run");
        self.instances_of(&run).into_iter().filter(|(_, state)| state != "terminated").collect()
    }

    /// Elastic addresses, and what has them.
    fn elastic(&self) -> Vec<(Value, Value)> {
        let found = self.call("describe_addresses", &json!({}))["Addresses"].as_array().cloned().unwrap_or_default();
        found.into_iter().map(|one| (one["PublicIp"].clone(), one["InstanceId"].clone())).collect()
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn what_a_cluster_has_outlasts_every_growth() {
    let account = Account::new();
    let image = account.light_image();
    let before = account.things();
    let line =
        ["launch", "--ami", &image, "--type", KIND, "--nodes", "2", "--name", "wide", "--ssh-cidr", "10.78.0.1/32"];
    account.wide(&[], &line).good();
    let (first, elastic) = (account.states(), account.elastic());
    assert_eq!((first.len(), elastic.len()), (2, 1));

    let grow = ["cluster", "grow", "wide", "--nodes", "1"];
    account.wide(&[], &grow).good();
    assert_eq!(account.elastic(), elastic, "the leader keeps its address, and no other node gets one");
    let all = "while read -r node slots; do ssh -o BatchMode=yes $node hostname </dev/null || exit 9; done <~/hostfile";
    let said = account.wide(&[], &["cluster", "run", "wide", "--", all]).good();
    assert_eq!(said.matches(": ip-").count(), 9, "{said}");

    // The same growth once more, after its node has ended: EC2 has not forgotten the token of the first one.
    let third = account.states().into_iter().find(|node| !first.contains(node)).expect("a third node").0;
    account.call("terminate_instances", &json!({"InstanceIds": [third]}));
    wait_for("its end", 240, || (account.states().len() == 2).then_some(()));
    account.wide(&[], &grow).good();
    assert_eq!(account.states().len(), 3);

    // A node that is stopped is no node, and stays stopped when a growth fails.
    let other = first.iter().map(|(id, _)| id).find(|id| elastic.iter().all(|(_, leader)| text(leader) != **id));
    account.call("stop_instances", &json!({"InstanceIds": [other.expect("one that does not lead")]}));
    wait_for("it stops", 240, || account.states().iter().any(|(_, state)| state == "stopped").then_some(()));
    let states = account.states();
    for (refusal, code, words) in [
        ("RunInstances=InsufficientInstanceCapacity", 10, "no zone"),
        ("GetConsoleOutput=UnauthorizedOperation", 10, "GetConsoleOutput"),
    ] {
        account.wide(&["--refuse", refusal], &grow).failed(code, &[words]);
        wait_for("the new one's end", 240, || (account.states() == states).then_some(()));
        assert_eq!(account.elastic(), elastic);
    }
    account.removed("wide", &before);
}
