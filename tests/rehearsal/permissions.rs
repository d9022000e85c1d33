//! The policies of `efa-gen permissions`: whole runs under exactly these, and what fails when an action is missing. The cloud
//! judges every call by a program that shares no line and no table with efa-gen (iam/judge.mjs).

use std::collections::BTreeSet;
use std::fmt;
use std::process::Command;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::account::Account;
use crate::machine::{Ran, assert_same, ran, steer, text, wait_for};
use crate::published::WAYS;
use crate::sample::share;

/// Two network cards, so two EFA devices: the leader has an elastic address.
const KIND: &str = "c6in.32xlarge";

/// What `efa-gen permissions --tagged` prints for these uses.
fn policy(uses: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efa-gen"));
    command.args(["permissions", "--tagged"]).args(uses.iter().flat_map(|of| ["--for", of]));
    serde_json::from_slice(&command.output().expect("it starts").stdout).expect("a policy on stdout")
}

/// The policy without an action.
fn without(policy: &Value, action: &str) -> Value {
    let mut less = policy.clone();
    let statements = less["Statement"].as_array_mut().expect("statements");
    for statement in statements.iter_mut() {
        statement["Action"].as_array_mut().expect("actions").retain(|one| one != action);
    }
    statements.retain(|statement| statement["Action"] != json!([]));
    less
}

/// The requests of a run's calls, one of each kind. Every one was allowed.
#[track_caller]
fn requests(account: &Account) -> Vec<Value> {
    let judged = account.judged();
    let denied: Vec<&Value> = judged.iter().filter(|one| one["allowed"] != true).collect();
    assert_eq!(denied, Vec::<&Value>::new(), "what a run asks for is allowed");
    let mut seen = BTreeSet::new();
    let requests = judged.into_iter().map(|one| one["request"].clone());
    requests.filter(|request| seen.insert(kind(request))).collect()
}

/// What a policy by tags sees of a request: the action, the type of the resource, and which keys there are, whatever the ids and
/// the tags' values.
fn kind(request: &Value) -> String {
    let resource = text(&request["resource"]);
    let of = resource.split('/').next().and_then(|arn| arn.rsplit(':').next());
    let context = request["context"].as_object().expect("an object");
    let keys: Vec<&String> = context.keys().collect();
    format!("{} {of:?} {keys:?} {}", request["action"], request["context"]["ec2:CreateAction"])
}

/// The actions of requests.
fn actions(requests: &[Value]) -> BTreeSet<String> {
    requests.iter().map(|request| text(&request["action"])).collect()
}

/// By the policy without an action exactly its requests are denied, whichever action it is.
#[track_caller]
fn each_is_needed(policy: &Value, requests: &[Value]) {
    for missing in actions(requests) {
        let less = without(policy, &missing);
        let said = steer("judge", &[&format!("policy={less}"), &format!("requests={}", json!(requests))]);
        let allowed: Vec<bool> = serde_json::from_str(&said).expect("JSON");
        let expected: Vec<bool> = requests.iter().map(|request| request["action"] != missing.as_str()).collect();
        assert_eq!(allowed, expected, "without {missing}");
    }
}

/// What a policy allows and these requests did not need is known, and why.
#[track_caller]
fn are_spare(policy: &Value, requests: &[Value], known: &[&str]) {
    let statements = policy["Statement"].as_array().expect("statements");
    let allowed = statements.iter().flat_map(|one| one["Action"].as_array().expect("actions")).map(text);
    let spare: BTreeSet<String> = allowed.filter(|action| !actions(requests).contains(action)).collect();
    // AWS asks nobody's leave for GetCallerIdentity (STS API Reference), and the cloud makes no call of KMS.
    let of_aws = |action: &&String| !action.starts_with("kms:") && *action != "sts:GetCallerIdentity";
    assert_eq!(spare.iter().filter(of_aws).collect::<Vec<_>>(), known);
}

/// `RunInstances` of `ec2:RunInstances`.
fn call_of(action: &str) -> &str {
    action.split_once(':').expect("service:Action").1
}

/// It failed for want of this action, and says so.
#[track_caller]
fn lacks(said: &Ran, action: &str) {
    // A quota is only looked at to warn of it.
    assert_eq!(said.code == 0, action == "servicequotas:GetServiceQuota", "{action}: {}", said.text);
    for words in [call_of(action), &format!("is not authorized to perform: {action} on resource: ")] {
        assert!(said.text.contains(words), "{action}: it does not say {words:?}:\n{}", said.text);
    }
    let hints = ["the role lacks this permission: `efa-gen permissions --for ", "the notes say why", "was not checked"];
    assert!(hints.iter().any(|words| said.text.contains(words)), "{action}: no hint:\n{}", said.text);
}

impl Account {
    /// A launch of two light hosts.
    fn pair(&self) -> Ran {
        let image = self.light_image();
        let line =
            ["launch", "--ami", &image, "--type", KIND, "--region", self.region, "--name", "pair", "--nodes", "2"];
        ran(&mut self.through(&[], &[&line[..], &["--ssh-cidr", "10.78.0.1/32"]].concat()))
    }

    /// Removes it.
    fn rm(&self) -> Ran {
        ran(&mut self.cluster(&["rm", "pair", "--yes"]))
    }
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_build_its_gate_and_its_publishing_are_allowed_by_their_policies() {
    let [mut account, there] = Account::for_clusters();
    let base = account.ready_image();
    let before = [account.things(), there.things()];
    let policy = policy(&["build", "gate", "publish"]);
    account.limit(&policy);
    let more = ["--source-ami", &base, "--gate", "g4dn.8xlarge", "--copy-to", there.region];
    ran(&mut account.build(&[], &[&WAYS[..], &more].concat())).good();
    let run = account.runs().pop().expect("a run");
    for place in [&account, &there] {
        for image in place.images_of(&run) {
            // The user of the build, wherever the image is.
            let line = ["image", "rm", &text(&image["ImageId"]), "--region", place.region, "--yes", "--unprotect"];
            ran(&mut account.through(&[], &line)).good();
        }
    }
    assert_same(&before[0], &account.things());
    assert_same(&before[1], &there.things());
    let asked = requests(&account);
    each_is_needed(&policy, &asked);
    // A gate of machines with several network cards, and the account's first spot instance.
    let others = ["ec2:AllocateAddress", "ec2:AssociateAddress", "ec2:ReleaseAddress", "iam:CreateServiceLinkedRole"];
    are_spare(&policy, &asked, &others);
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_launch_what_is_done_with_it_and_a_sweep_are_allowed_by_their_policies() {
    let mut account = Account::new();
    account.light_image();
    let before = account.things();
    let launch = policy(&["launch"]);
    account.limit(&launch);
    account.pair().good();
    admits_only(&account);
    has_a_new_key(&account);
    account.rm().good();
    assert_same(&before, &account.things());
    account.pair().good();
    let asked = requests(&account);
    each_is_needed(&launch, &asked);
    are_spare(&launch, &asked, &["ec2:DescribeCapacityReservations", "ssm:GetParameter"]);

    let sweep = policy(&["sweep"]);
    account.limit(&sweep);
    account.sweep(&account.runs().pop().expect("a run")).good();
    assert_same(&before, &account.things());
    let asked = requests(&account);
    each_is_needed(&sweep, &asked);
    // A build leaves images, and a builder's volume that did not go with it.
    let of_builds = [
        "ec2:CreateTags",
        "ec2:DeleteSnapshot",
        "ec2:DeleteVolume",
        "ec2:DeregisterImage",
        "ec2:DescribeImageAttribute",
        "ec2:DisableImageDeregistrationProtection",
    ];
    are_spare(&sweep, &asked, &of_builds);
}

/// `admit --only` closes what efa-gen has opened, and leaves a rule of somebody else's.
fn admits_only(account: &Account) {
    let admit = |more: &[&str]| ran(&mut account.cluster(&[&["admit", "pair"], more].concat()));
    let sources = || {
        let group = account.group_of("pair");
        let rules = group["IpPermissions"].as_array().cloned().unwrap_or_default();
        let ranges = rules.iter().flat_map(|rule| rule["IpRanges"].as_array().cloned().unwrap_or_default());
        ranges.map(|range| text(&range["CidrIp"])).collect::<BTreeSet<String>>()
    };
    let are = |expected: &[&str]| assert_eq!(sources(), expected.iter().map(|&one| one.to_owned()).collect());
    admit(&["--ssh-cidr", "198.51.100.0/24"]).good();
    let theirs = json!([{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22,
                         "IpRanges": [{"CidrIp": "203.0.113.0/24", "Description": "theirs"}]}]);
    let group = account.group_of("pair")["GroupId"].clone();
    account.call("authorize_security_group_ingress", &json!({"GroupId": group, "IpPermissions": theirs}));
    are(&["10.78.0.1/32", "198.51.100.0/24", "203.0.113.0/24"]);
    admit(&["--only", "--ssh-cidr", "0.0.0.0/0"]).failed(2, &["the whole Internet"]);
    are(&["10.78.0.1/32", "198.51.100.0/24", "203.0.113.0/24"]);
    let said = admit(&["--only", "--ssh-cidr", "10.78.0.1/32"]).good();
    assert!(said.contains("198.51.100.0/24") && said.contains("203.0.113.0/24"), "{said}");
    are(&["10.78.0.1/32", "203.0.113.0/24"]);
}

/// `rekey` gives every node a key that none had, takes the old one, and the nodes reach each other by it.
fn has_a_new_key(account: &Account) {
    let keys = || {
        let line = "grep -h ' efa-gen cluster pair$' ~/.ssh/authorized_keys | grep -o 'AAAA[^ ]*'";
        let said = ran(&mut account.cluster(&["run", "pair", "--", line])).good();
        said.lines().filter_map(|line| line.split_once(": AAAA")).map(|(_, key)| key.to_owned()).collect::<Vec<_>>()
    };
    let old = keys();
    let said = ran(&mut account.cluster(&["rekey", "pair"])).good();
    assert!(said.contains("2 nodes have the new key"), "{said}");
    let new = keys();
    assert_eq!((old.len(), new.len()), (2, 2), "{old:?} {new:?}");
    assert!(old[0] == old[1] && new[0] == new[1] && new[0] != old[0], "{old:?} {new:?}");
    let all = "while read -r node slots; do ssh -o BatchMode=yes $node hostname </dev/null || exit 9; done <~/hostfile";
    let said = ran(&mut account.cluster(&["run", "pair", "--", all])).good();
    assert_eq!(said.matches(": ip-").count(), 4, "{said}");
}

/// The holders of a policy by tags can do nothing to what others have, nor make what could not be told from it.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn what_is_not_of_a_run_is_out_of_reach() {
    let mut account = Account::new();
    let image = account.bare_image();
    let launch = json!({"ImageId": account.light_image(), "InstanceType": "c5.4xlarge", "MinCount": 1, "MaxCount": 1});
    let instance = text(&account.call("run_instances", &launch)["Instances"][0]["InstanceId"]);
    let group = json!({"GroupName": "theirs", "Description": "theirs"});
    let group = text(&account.call("create_security_group", &group)["GroupId"]);
    account.call("create_placement_group", &json!({"GroupName": "theirs", "Strategy": "cluster"}));
    let address = text(&account.call("allocate_address", &json!({}))["AllocationId"]);
    wait_for("it runs", 60, || {
        let found = account.call("describe_instances", &json!({"InstanceIds": [instance]}));
        (found["Reservations"][0]["Instances"][0]["State"]["Name"] == "running").then_some(())
    });
    let before = account.things();
    let tags = json!([{"Key": "efa-gen:run", "Value": "20260101-000000-0000"}]);
    let specifications = json!([{"ResourceType": "instance", "Tags": tags}]);
    let open = json!([{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]);
    let mut tagged = launch.clone();
    tagged["TagSpecifications"] = specifications;
    let share = json!({"ImageId": image, "LaunchPermission": {"Add": [{"UserId": "111122223333"}]}});
    let calls = [
        ("terminate_instances", json!({"InstanceIds": [instance]})),
        ("stop_instances", json!({"InstanceIds": [instance]})),
        ("get_console_output", json!({"InstanceId": instance})),
        ("create_image", json!({"InstanceId": instance, "Name": "stolen"})),
        ("create_tags", json!({"Resources": [instance], "Tags": tags})),
        ("create_tags", json!({"Resources": [image], "Tags": tags})),
        ("create_tags", json!({"Resources": [group], "Tags": tags})),
        ("modify_image_attribute", share),
        ("deregister_image", json!({"ImageId": image})),
        ("disable_image_deregistration_protection", json!({"ImageId": image})),
        ("authorize_security_group_ingress", json!({"GroupId": group, "IpPermissions": open})),
        ("revoke_security_group_ingress", json!({"GroupId": group, "IpPermissions": open})),
        ("delete_security_group", json!({"GroupId": group})),
        ("delete_placement_group", json!({"GroupName": "theirs"})),
        ("delete_key_pair", json!({"KeyName": "rehearsal"})),
        ("release_address", json!({"AllocationId": address})),
        ("associate_address", json!({"AllocationId": address, "InstanceId": instance})),
        // What would have no tag, or a volume and an interface without one.
        ("run_instances", launch),
        ("run_instances", tagged),
        ("create_security_group", json!({"GroupName": "more", "Description": "more"})),
        ("create_placement_group", json!({"GroupName": "more", "Strategy": "cluster"})),
        ("allocate_address", json!({})),
        ("copy_image", json!({"Name": "copy", "SourceImageId": image, "SourceRegion": account.region})),
        // What no policy is for.
        ("delete_tags", json!({"Resources": [instance]})),
        ("create_vpc", json!({"CidrBlock": "10.99.0.0/16"})),
    ];
    for uses in [&["build", "publish", "gate"][..], &["launch"], &["sweep"]] {
        account.limit(&policy(uses));
        for (call, arguments) in &calls {
            let refused = account.try_as_user(call, arguments).expect_err(&format!("{uses:?} {call}"));
            assert!(refused.starts_with("UnauthorizedOperation: "), "{uses:?} {call} {arguments}: {refused}");
        }
        account.try_as_user("describe_instances", &json!({})).expect("anything may be looked at");
    }
    assert_same(&before, &account.things());
    account.call("terminate_instances", &json!({"InstanceIds": [instance]}));
    account.call("delete_placement_group", &json!({"GroupName": "theirs"}));
    account.call("release_address", &json!({"AllocationId": address}));
    account.call("delete_security_group", &json!({"GroupId": group}));
}

/// A command without one action of its policy.
struct Lack {
    of: &'static str,
    action: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.of, call_of(&self.action))
    }
}

/// What a launch and its removal, and a sweep, ask for.
fn asked_for(account: &mut Account) -> Vec<Lack> {
    account.limit(&policy(&["launch"]));
    account.pair().good();
    account.rm().good();
    let launch = actions(&requests(account)).into_iter().map(|action| Lack { of: "launch", action });
    account.pair().good();
    account.limit(&policy(&["sweep"]));
    account.sweep(&account.runs().pop().expect("a run")).good();
    let sweep = actions(&requests(account)).into_iter().map(|action| Lack { of: "sweep", action });
    launch.chain(sweep).collect()
}

/// Nothing is left by the command that lacks it, or it is said how that is removed, and so it is.
fn says_what_it_lacks(account: &mut Account, Lack { of, action }: &Lack, before: &[String]) {
    account.unlimit();
    if *of == "sweep" {
        account.pair().good();
    }
    account.limit(&without(&policy(&[of]), action));
    let mut said = match *of {
        "sweep" => account.sweep(&account.runs().pop().expect("a run")),
        _ => account.pair(),
    };
    if *of == "launch" && said.code == 0 {
        // Only the removal needs it; or it is asked for advice alone, and there is a note.
        let removed = account.rm();
        said = Ran { code: removed.code, text: said.text + &removed.text };
    }
    lacks(&said, action);
    account.unlimit();
    if let Some(run) = account.runs().first() {
        let hints = ["efa-gen sweep", "still there", "lacks this permission"];
        assert!(hints.iter().any(|words| said.text.contains(words)), "{run} is left:\n{}", said.text);
        account.sweep(run).good();
    }
    assert_same(before, &account.things());
}

#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn what_lacks_an_action_says_which_and_what_is_left() {
    let mut accounts = Account::for_clusters::<3>();
    for account in &accounts {
        account.light_image();
    }
    let lacks = Mutex::new(share(asked_for(&mut accounts[0])).into_iter());
    let next = || lacks.lock().ok()?.next();
    std::thread::scope(|scope| {
        for account in &mut accounts {
            scope.spawn(|| {
                let before = account.things();
                while let Some(lack) = next() {
                    says_what_it_lacks(account, &lack, &before);
                }
            });
        }
    });
}

/// The dearest of them: all but the image is made.
#[test]
#[ignore = "needs root and the rehearsal cloud: tests/rehearsal/run"]
fn a_build_that_may_not_make_its_image_says_so_and_leaves_nothing() {
    let [mut account] = Account::for_builds();
    account.ready_image();
    let before = account.things();
    account.limit(&without(&policy(&["build", "publish"]), "ec2:CreateImage"));
    let said = ran(&mut account.short_build(&[], &[]));
    lacks(&said, "ec2:CreateImage");
    assert_same(&before, &account.things());
}
