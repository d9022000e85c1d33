//! The share of an expensive dimension that one run of the rehearsal tries.

use std::collections::BTreeSet;

use crate::support::sample::choose;

fn items(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("before stage-{number}.step")).collect()
}

#[test]
fn eight_shares_have_every_item_once() {
    for count in [8, 9, 64, 83] {
        let all: Vec<String> = (0..8).flat_map(|share| choose(items(count), share, 8, "")).collect();
        assert_eq!(all.len(), count);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), items(count).into_iter().collect());
    }
}

#[test]
fn no_share_is_empty() {
    for count in 1..8 {
        let shares: Vec<Vec<String>> = (0..8).map(|share| choose(items(count), share, 8, "")).collect();
        assert!(shares.iter().all(|share| share.len() == 1), "{count}: {shares:?}");
        assert_eq!(shares.concat().into_iter().collect::<BTreeSet<_>>().len(), count);
    }
    assert_eq!(choose(Vec::<String>::new(), 3, 8, "anything"), Vec::<String>::new());
}

#[test]
fn what_the_newest_commits_name_is_in_every_share() {
    let items = ["before efa.install", "after nccl-tests.build", "CreateImage", "StopInstances", "7"];
    let chosen = |touched: &str| choose(items.to_vec(), 4, 1000, touched);
    assert_eq!(chosen(""), ["7"]);
    assert_eq!(chosen("@@ -1 +1 @@ efa_install() {"), ["before efa.install", "7"]);
    assert_eq!(chosen("+  efa_installer=1"), ["7"], "whole words alone");
    assert_eq!(chosen("nccl_tests_build"), ["after nccl-tests.build", "7"]);
    assert_eq!(chosen("+        self.client.create_image()"), ["CreateImage", "7"]);
    assert_eq!(chosen("-\"CreateImage\" => before 7 install"), ["CreateImage", "7"]);
}
