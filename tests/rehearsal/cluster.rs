//! `efa-gen launch` and `efa-gen cluster` as their user knows them: nodes that reach each other without a prompt, commands on
//! all of them, growth, removal that leaves the account as it was, and what is refused before anything is made.

use serde_json::{Value, json};

use crate::account::{Account, changes};
use crate::machine::{assert_same, base_image, cloud, ran, steer, text};

/// A type with one EFA device and no GPU, which every region offers.
pub const KIND: &str = "c5n.18xlarge";

impl Account {
    /// A launch of nodes from the base image, whose check finds no EFA.
    pub fn launch(&self, options: &[&str], more: &[&str]) -> std::process::Command {
        let image = if more.contains(&"--ami") { String::new() } else { self.bare_image() };
        let mut line = vec!["launch", "--distro", "debian12", "--region", self.region];
        line.extend(["--ssh-cidr", "10.78.0.1/32"]);
        if !image.is_empty() {
            line.extend(["--ami", image.as_str()]);
        }
        if !more.contains(&"--type") {
            line.extend(["--type", KIND]);
        }
        line.extend(more);
        self.through(options, &line)
    }

    /// An image of this region that efa-gen has not made.
    pub fn bare_image(&self) -> String {
        self.copied("rehearsal-bare", &base_image())
    }

    /// `efa-gen cluster` in this region.
    pub fn cluster(&self, words: &[&str]) -> std::process::Command {
        let (verb, rest) = words.split_first().expect("a verb");
        let mut line = vec!["cluster", verb];
        let (before, after) = rest.split_at(rest.iter().position(|word| *word == "--").unwrap_or(rest.len()));
        line.extend(before);
        line.extend(["--region", self.region]);
        line.extend(after);
        self.through(&[], &line)
    }

    /// Removes a cluster, and then the account is as it was `before`.
    #[track_caller]
    pub fn removed(&self, cluster: &str, before: &[String]) {
        ran(&mut self.cluster(&["rm", cluster, "--yes"])).good();
        assert_same(before, &self.things());
    }

    /// The security group of a cluster's own.
    pub fn group_of(&self, cluster: &str) -> Value {
        let of_cluster = json!({"Filters": [{"Name": "tag:efa-gen:cluster", "Values": [cluster]}]});
        self.call("describe_security_groups", &of_cluster)["SecurityGroups"][0].clone()
    }

    /// What the account lists of clusters.
    fn clusters(&self) -> Value {
        let output = self.cluster(&["ls", "--output", "json"]).output().expect("it starts");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn nodes_reach_each_other_and_leave_nothing() {
    let account = Account::new();
    account.bare_image();
    let before = account.things();
    // The base image has no EFA: the check says so of each node, and the cluster stays.
    let said = ran(&mut account.launch(&[], &["--name", "pair", "--nodes", "2"])).failed(7, &["libfabric finds 0 EFA"]);
    assert!(said.contains("efa-gen cluster ssh pair"), "{said}");
    let clusters = account.clusters();
    assert_eq!((text(&clusters[0]["cluster"]), &clusters[0]["nodes"]), ("pair".into(), &json!({"running": 2})));

    // Both ways between all, by names that nobody could guess, without a prompt.
    let all = "while read -r node slots; do ssh -o BatchMode=yes $node hostname </dev/null || exit 9; done <~/hostfile";
    let said = ran(&mut account.cluster(&["run", "pair", "--", all])).good();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(": ip-")).collect();
    assert_eq!(lines.len(), 4, "{said}");
    let lone = ran(&mut account.cluster(&["ssh", "pair", "--node", "1", "--", "hostname"])).good();
    assert!(lone.starts_with("ip-"), "{lone}");
    ran(&mut account.cluster(&["ssh", "pair", "--node", "9", "--", "hostname"])).failed(2, &["no running node 9"]);
    ran(&mut account.cluster(&["run", "pair", "--", "exit 3"])).failed(6, &["2 of 2 nodes", "exit status 3"]);

    // Its user has another address than at the launch: as if the rule were for that one alone.
    let group = || account.group_of("pair");
    let ssh = json!([{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "10.78.0.1/32"}]}]);
    let admitted = || group()["IpPermissions"].to_string().contains("10.78.0.1/32");
    let revoke = || {
        account.call("revoke_security_group_ingress", &json!({"GroupId": group()["GroupId"], "IpPermissions": ssh}));
        assert!(!admitted());
    };
    revoke();
    let admit = |more: &[&str]| ran(&mut account.cluster(&[&["admit", "pair"], more].concat()));
    admit(&["--ssh-cidr", "0.0.0.0/0"]).failed(2, &["the whole Internet", "1 problem found before anything was made"]);
    admit(&["--ssh-cidr", "me"]).failed(2, &["--ssh-cidr me"]);
    assert!(!admitted());
    // Without a word it is the caller's own; that it is open already is no error.
    for more in [&[][..], &["--ssh-cidr", "10.78.0.1/32"]] {
        let said = admit(more).good();
        assert!(said.contains("port 22 of cluster pair is open to 10.78.0.1/32 as well") && admitted(), "{said}");
    }
    revoke();
    ran(&mut account.cluster(&["grow", "pair", "--nodes", "1"])).failed(7, &["libfabric finds 0 EFA"]);
    assert!(admitted(), "{}", group());
    let said = ran(&mut account.cluster(&["run", "pair", "--", all])).good();
    assert_eq!(said.lines().filter(|line| line.contains(": ip-")).count(), 9, "{said}");
    // The name is taken.
    ran(&mut account.launch(&[], &["--name", "pair", "--nodes", "1"])).failed(4, &["there is a cluster pair already"]);

    let shown = ran(&mut account.cluster(&["rm", "pair"])).good();
    assert!(shown.contains("nothing was removed"), "{shown}");
    account.removed("pair", &before);
    assert_eq!(account.runs(), Vec::<String>::new());
    ran(&mut account.cluster(&["rm", "pair", "--yes"])).failed(2, &["nothing of a cluster pair"]);
}

/// Refused with this exit code and these words, and nothing made.
#[track_caller]
fn refused(account: &Account, options: &[&str], more: &[&str], code: i32, words: &[&str]) {
    ran(&mut account.launch(options, more)).failed(code, words);
    let changing: Vec<Value> = account.calls().into_iter().filter(changes).collect();
    assert_eq!(changing, Vec::<Value>::new(), "{more:?}");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn bad_launches_are_refused_before_anything_is_made() {
    let account = Account::new();
    account.bare_image();
    let before = account.things();
    for (more, code, words) in [
        (vec!["--nodes", "2", "--name", "Big_One"], 2, vec!["Big_One", "hint:"]),
        (vec!["--nodes", "2", "--at-least", "3"], 2, vec!["--at-least 3"]),
        (vec!["--nodes", "2", "--ttl", "1s"], 2, vec!["--ttl 1s"]),
        (vec!["--nodes", "2", "--ttl", "soon"], 2, vec!["--ttl", "soon"]),
        (vec!["--nodes", "0"], 2, vec!["'0' for '--nodes <N>'"]),
        (vec!["--nodes", "2", "--type", "p99.huge"], 4, vec!["p99.huge"]),
        (vec!["--nodes", "2", "--type", "t3.micro"], 4, vec!["t3.micro has no EFA device"]),
        (vec!["--nodes", "2", "--type", "c7g.16xlarge"], 4, vec!["arm64"]),
        (vec!["--nodes", "2", "--subnet", "subnet-0123456789abcdef0"], 4, vec!["no subnet subnet-0123456789abcdef0"]),
        (vec!["--nodes", "2", "--security-group", "sg-0123456789abcdef0"], 4, vec!["no security group"]),
        (vec!["--nodes", "2", "--capacity-reservation", "cr-0123456789abcdef0"], 4, vec!["cr-0123456789abcdef0"]),
        (vec!["--nodes", "2", "--root-gib", "1"], 4, vec!["--root-gib 1 is too small"]),
        (vec!["--nodes", "2", "--tag", "frob"], 2, vec!["frob"]),
        (vec!["--nodes", "1000"], 4, vec!["the account's quota L-"]),
    ] {
        refused(&account, &[], &more, code, &words);
    }
    // The default security group of a VPC lets everything out, which is not the rule that EFA needs.
    let group = json!({"Filters": [{"Name": "group-name", "Values": ["default"]}]});
    let group = text(&account.call("describe_security_groups", &group)["SecurityGroups"][0]["GroupId"]);
    refused(&account, &[], &["--nodes", "2", "--security-group", &group], 4, &["names the group itself"]);
    for (refusal, words) in [
        ("RunInstances?dry=VcpuLimitExceeded", "quota"),
        ("CreatePlacementGroup?dry=UnauthorizedOperation", "UnauthorizedOperation"),
    ] {
        refused(&account, &["--refuse", refusal], &["--nodes", "2"], 10, &[words]);
    }
    ran(&mut account.launch(&[], &["--nodes", "2", "--plan"])).good();
    assert!(account.calls().iter().all(|call| !changes(call)), "a plan makes nothing");
    assert_same(&before, &account.things());
    assert_eq!(account.runs(), Vec::<String>::new(), "no run began");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn fewer_nodes_than_asked_for_are_none_unless_they_are_enough() {
    let account = Account::new();
    let image = account.light_image();
    let before = account.things();
    let (place, kind) = (format!("place={}", account.region), format!("type={KIND}"));
    let launch = |more: &[&str]| ran(&mut account.launch(&[], &[&["--ami", &image, "--name", "few"], more].concat()));
    steer("room", &[&place, &kind, "count=17"]);
    launch(&["--nodes", "20"]).failed(10, &["has no room", "--at-least"]);
    assert_same(&before, &account.things());
    assert_eq!(account.runs(), Vec::<String>::new());
    let said = launch(&["--nodes", "20", "--at-least", "17"]).good();
    assert!(said.contains("gave 17 of 20 nodes") && said.contains("cluster few: 17 nodes"), "{said}");
    // A sweep leaves a cluster alone until its time is over, however old it may be.
    let sweep = ["sweep", "--region", account.region, "--older-than", "0s", "--yes"];
    let said = ran(&mut account.through(&[], &sweep)).good();
    assert!(said.contains("not at its machine's deadline yet") && said.contains("nothing to remove"), "{said}");
    assert_eq!(account.clusters()[0]["nodes"], json!({"running": 17}));
    ran(&mut account.cluster(&["rm", "few", "--yes"])).good();
    steer("room", &[&place, &kind, "count=any"]);
    // The most of which each logs in to each, all at the same time.
    launch(&["--nodes", "16"]).good();
    account.removed("few", &before);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn nodes_go_into_what_is_reserved() {
    let account = Account::new();
    let image = account.light_image();
    let subnets =
        account.call("describe_subnets", &json!({"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}));
    let zone = text(&subnets["Subnets"][1]["AvailabilityZone"]);
    let before = account.things();
    for (id, market, count) in [("cr-0aaaaaaaaaaaaaaaa", "default", 2), ("cr-0bbbbbbbbbbbbbbbb", "capacity-block", 2)] {
        let (zone, kind) = (format!("zone={zone}"), format!("type={KIND}"));
        let (count, market) = (format!("count={count}"), format!("market={market}"));
        steer("reservation", &[&format!("reservation={id}"), &zone, &kind, &count, &market, "state=active"]);
        let launch = |more: &[&str]| {
            let line = ["--ami", &image, "--name", "reserved", "--capacity-reservation", id];
            ran(&mut account.launch(&[], &[&line[..], more].concat()))
        };
        launch(&["--nodes", "3"]).failed(4, &["2 instances free, 3 are asked for"]);
        launch(&["--nodes", "2", "--type", "c6in.32xlarge"]).failed(4, &["is for c5n.18xlarge"]);
        launch(&["--nodes", "2"]).good();
        let groups = account.call("describe_placement_groups", &json!({}));
        assert_eq!(groups["PlacementGroups"], json!([]), "{market}: a reservation has its own placement");
        let there = json!({"Filters": [
            {"Name": "availability-zone", "Values": [zone.trim_start_matches("zone=")]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]});
        let there = account.call("describe_instances", &there);
        assert_eq!(there["Reservations"][0]["Instances"].as_array().map(Vec::len), Some(2), "{market}: {there}");
        account.removed("reserved", &before);
    }
}

/// No image of our own: the publisher's, and everything at the first boot.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn nodes_install_themselves() {
    let account = Account::new();
    let before = account.things();
    let stack = cloud().join("stack.toml").display().to_string();
    let line = ["launch", "--distro", "debian12", "--install", "--stack", "rehearsal", "--stack-file", &stack];
    let place = ["--mirror", "http://mirror.rehearsal.test", "--region", account.region, "--ssh-cidr", "10.78.0.1/32"];
    // The stack of the rehearsal is for other GPUs than this type's, which no stand-in minds.
    let rest = ["--nodes", "2", "--type", "g4dn.8xlarge", "--instance-type", "p3dn.24xlarge", "--name", "fresh"];
    let said = ran(&mut account.through(&[], &[&line[..], &place, &rest].concat())).good();
    assert!(said.contains("Wait for the install on 2 nodes") && said.contains("cluster fresh: 2 nodes"), "{said}");
    let said =
        ran(&mut account.cluster(&["run", "fresh", "--", "test -e /var/lib/efa-gen/complete && echo whole"])).good();
    assert_eq!(said.matches(": whole").count(), 2, "{said}");
    account.removed("fresh", &before);
}

/// The cloud checks a launch's interfaces by AWS's own data of the type, in a dry run as well.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn every_types_interfaces_are_accepted() {
    let account = Account::shared("us-east-1");
    let mut missing = Vec::new();
    for kind in [
        "p3dn.24xlarge",
        "p4d.24xlarge",
        "p4de.24xlarge",
        "p5.4xlarge",
        "p5.48xlarge",
        "p5e.48xlarge",
        "p5en.48xlarge",
        "p6-b200.48xlarge",
        "p6-b300.48xlarge",
        "g4dn.8xlarge",
        "g5.48xlarge",
        "g6e.48xlarge",
        "c5n.18xlarge",
        "c6in.32xlarge",
        "trn1.32xlarge",
    ] {
        let said = ran(&mut account.launch(&[], &["--nodes", "2", "--type", kind, "--plan"]));
        if said.text.contains("does not offer") || said.text.contains("no zone of us-east-1") {
            missing.push(kind);
            continue;
        }
        assert!(said.good().contains("card  0 device 0"), "{kind}");
    }
    assert_eq!(missing, ["p5e.48xlarge"], "what the cloud's region has not");
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn an_image_of_the_accounts_own_is_found_by_its_distribution() {
    // No other test leaves an image of its own there.
    let account = Account::alone_in("ap-northeast-3");
    let words =
        |region| ["launch", "--distro", "debian12", "--nodes", "2", "--type", KIND, "--region", region, "--plan"];
    let plan = |more: &[&str]| {
        let mut line = words(account.region).to_vec();
        line.extend(["--ssh-cidr", "10.78.0.1/32"]);
        line.extend(more);
        ran(&mut account.through(&[], &line))
    };
    plan(&[]).failed(4, &["no image of debian12", "efa-gen build --distro debian12", "--install"]);
    let image = account.light_image();
    assert!(plan(&[]).good().contains(image.trim()));
    // An image that failed its gate is nobody's.
    let failed = json!({"Resources": [image.trim()], "Tags": [{"Key": "efa-gen:verdict", "Value": "failed"}]});
    account.call("create_tags", &failed);
    plan(&["--ami", image.trim()]).failed(4, &["did not pass its gate"]);
}
