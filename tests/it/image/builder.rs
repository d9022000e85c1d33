//! What a build asks EC2 for when it makes its builder, and what it says when it is stopped. Against a stub of AWS whose machines
//! never tell their host keys.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::aws::{Params, done, is_dry, refuse};
use crate::support::builds::{BASE, EFA, Stage, assert_ran, interrupted_twice, machines, odd_machines, type_with};
use crate::support::{default_plan, stderr};
use serde_json::Value;

/// What the last such call was given that was no dry run.
fn asked(stage: &Stage, action: &str) -> Params {
    let calls = stage.stub.calls(action);
    let mut real = calls.into_iter().filter(|call| !is_dry(call));
    real.next_back().unwrap_or_else(|| panic!("no {action}"))
}

/// A build that goes as far as its builder.
fn builder(stage: &Stage, more: &[&str]) -> Params {
    stage.account.0.lock().expect("the account").clear();
    let output =
        stage.build_command("debian12", &[more, &["--on-error", "keep"]].concat()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(10), "{}", stderr(&output));
    asked(stage, "RunInstances")
}

/// Kinds that are tagged, each with the same tags.
fn tagged(call: &Params) -> (Vec<&str>, Params) {
    let tags = |n: u32| -> Params {
        let tag = |m: u32, end: &str| call.get(&format!("TagSpecification.{n}.Tag.{m}.{end}")).cloned();
        (1..).map_while(|m| Some((tag(m, "Key")?, tag(m, "Value")?))).collect()
    };
    let kind = |n: u32| call.get(&format!("TagSpecification.{n}.ResourceType"));
    let kinds: Vec<&str> = (1..).map_while(kind).map(String::as_str).collect();
    for n in 2..=u32::try_from(kinds.len()).expect("a few") {
        assert_eq!(tags(n), tags(1), "{kinds:?}");
    }
    (kinds, tags(1))
}

/// Every parameter whose name begins so, the rest of its name and its value.
fn below<'a>(call: &'a Params, prefix: &str) -> Vec<(&'a str, &'a str)> {
    let below = |(name, value): (&'a String, &'a String)| Some((name.strip_prefix(prefix)?, value.as_str()));
    call.iter().filter_map(below).collect()
}

/// What EC2 is asked for, but for key, group, user-data and token, is asked for by dry run first.
#[test]
fn a_builder_is_planned_with_tokens_where_its_cloud_init_knows_them() {
    let stage = Stage::good();
    for (distribution, tokens) in [("debian12", "required"), ("rhel7.6", "optional")] {
        let output = stage.build_command(distribution, &["--plan"]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let call = stage.stub.calls("RunInstances").pop().expect("a dry run");
        assert_eq!(call["DryRun"], "true", "{distribution}");
        let metadata = [("HttpPutResponseHopLimit", "1"), ("HttpTokens", tokens)];
        assert_eq!(below(&call, "MetadataOptions."), metadata, "{distribution}");
        assert_eq!(below(&call, "BlockDeviceMapping."), disk(distribution), "{distribution}");
        assert_eq!(call["InstanceInitiatedShutdownBehavior"], "terminate", "{distribution}");
        assert_eq!(tagged(&call).0, ["instance", "volume", "network-interface"], "{distribution}");
    }
}

/// An encrypted root volume of the planned size, which goes with its machine.
fn disk(distribution: &str) -> [(&'static str, &'static str); 5] {
    let size = default_plan(distribution).base.root_gib.to_string();
    [
        ("1.DeviceName", "/dev/xvda"),
        ("1.Ebs.DeleteOnTermination", "true"),
        ("1.Ebs.Encrypted", "true"),
        ("1.Ebs.VolumeSize", size.leak()),
        ("1.Ebs.VolumeType", "gp3"),
    ]
}

#[test]
fn a_builder_is_asked_for_as_the_plan_and_the_flags_have_it() {
    let stage = machines(|| unreachable!("it is launched once"));
    let call = builder(&stage, &["--tag", "team=hpc"]);
    let (kinds, tags) = tagged(&call);
    let run = &tags["efa-gen:run"];
    assert_eq!(below(&call, "MetadataOptions."), [("HttpPutResponseHopLimit", "1"), ("HttpTokens", "required")]);
    assert_eq!(below(&call, "BlockDeviceMapping."), disk("debian12"));
    let interface = [
        ("1.AssociatePublicIpAddress", "true"),
        ("1.DeleteOnTermination", "true"),
        ("1.DeviceIndex", "0"),
        ("1.InterfaceType", "interface"),
        ("1.NetworkCardIndex", "0"),
        ("1.SecurityGroupId.1", "sg-1"),
        ("1.SubnetId", "subnet-0"),
    ];
    assert_eq!(below(&call, "NetworkInterface."), interface);
    assert!(below(&call, "InstanceMarketOptions").is_empty(), "{call:?}");
    let name = format!("efa-gen-{run}");
    assert!(call["ClientToken"].starts_with(&format!("{run}-subnet-0-")), "{call:?}");
    assert!(
        call["ClientToken"].len() + "subnet-0123456789abcdef0".len() - "subnet-0".len() <= 64,
        "EC2's limit: {call:?}"
    );
    for (parameter, value) in [
        ("ImageId", BASE),
        ("InstanceInitiatedShutdownBehavior", "terminate"),
        ("InstanceType", "c5.4xlarge"),
        ("KeyName", &name),
        ("MaxCount", "1"),
        ("MinCount", "1"),
    ] {
        assert_eq!(call[parameter], value, "{parameter}");
    }
    assert_eq!(kinds, ["instance", "volume", "network-interface"]);
    let own = [("team", "hpc"), ("efa-gen:role", "builder"), ("efa-gen:distribution", "debian12"), ("Name", &name)];
    for (tag, value) in own {
        assert_eq!(tags[tag], value, "{tag}");
    }
    assert!(tags.contains_key("efa-gen:until"), "{tags:?}");
    let rule = asked(&stage, "AuthorizeSecurityGroupIngress");
    assert_eq!((rule["IpPermissions.1.FromPort"].as_str(), rule["IpPermissions.1.ToPort"].as_str()), ("22", "22"));
    assert_eq!(stage.stub.calls("AuthorizeSecurityGroupEgress").len(), 0);
}

#[test]
fn the_flags_of_a_builders_disk_are_used() {
    let stage = Stage::good();
    let planned = |flags: &[&str]| {
        assert_ran(&stage.build(&[flags, &["--plan"]].concat()), 0, &[]);
        stage.stub.calls("RunInstances").pop().expect("a dry run")
    };
    let call = planned(&["--no-encrypt", "--root-gib", "200"]);
    assert_eq!(call["BlockDeviceMapping.1.Ebs.Encrypted"], "false");
    assert_eq!(call["BlockDeviceMapping.1.Ebs.VolumeSize"], "200");
    let call = planned(&["--kms-key", "alias/images"]);
    assert_eq!(call["BlockDeviceMapping.1.Ebs.Encrypted"], "true");
    assert_eq!(call["BlockDeviceMapping.1.Ebs.KmsKeyId"], "alias/images");
    assert_ran(&stage.build(&["--plan", "--root-gib", "1"]), 4, &["--root-gib 1 is too small"]);
}

/// The one type is one with something besides.
fn other_type(more: &'static str) -> Stage {
    odd_machines(
        || unreachable!("it is launched once"),
        move |action, _| (action == "DescribeInstanceTypes").then(|| done(action, &type_with(more))),
    )
}

#[test]
fn as_many_tags_as_are_taken_have_room_beside_efa_gens_own() {
    let stage = machines(|| unreachable!("it is launched once"));
    let tags = |count: u32| -> Vec<String> { (0..count).flat_map(|n| ["--tag".into(), format!("t{n}=x")]).collect() };
    let most = tags(33);
    let (_, all) = tagged(&builder(&stage, &most.iter().map(String::as_str).collect::<Vec<_>>()));
    assert!(all.len() > 33 && all.len() <= 50, "{all:?}");
    let more = tags(34);
    let ran = stage.build(&more.iter().map(String::as_str).chain(["--plan"]).collect::<Vec<_>>());
    assert_ran(&ran, 2, &["34 tags are too many", "hint: 33 at most"]);
}

#[test]
fn a_spot_builder_is_asked_of_the_spot_market_and_its_request_is_tagged() {
    let stage = other_type("<supportedUsageClasses><item>spot</item></supportedUsageClasses>");
    let call = builder(&stage, &["--spot"]);
    assert_eq!(below(&call, "InstanceMarketOptions."), [("MarketType", "spot")]);
    let (kinds, tags) = tagged(&call);
    assert_eq!(kinds, ["instance", "volume", "network-interface", "spot-instances-request"]);
    assert!(tags.contains_key("efa-gen:run"), "{tags:?}");
    let stage = machines(|| unreachable!("nothing is launched"));
    let ran = stage.build(&["--spot"]);
    assert_ran(&ran, 4, &["c5.4xlarge can't be had as spot", "hint: leave out --spot"]);
}

#[test]
fn a_builder_with_efa_has_an_efa_interface_and_a_group_that_lets_its_members_talk() {
    let stage = other_type(EFA);
    let call = builder(&stage, &[]);
    assert_eq!(call["NetworkInterface.1.InterfaceType"], "efa");
    assert!(below(&call, "NetworkInterface.2.").is_empty(), "{call:?}");
    for action in ["AuthorizeSecurityGroupIngress", "AuthorizeSecurityGroupEgress"] {
        let rule = asked(&stage, action);
        assert_eq!(rule["GroupId"], "sg-1", "{action}");
        let rules = [("Groups.1.GroupId", "sg-1"), ("IpProtocol", "-1")];
        assert_eq!(below(&rule, "IpPermissions.1."), rules, "{action}");
        assert!(below(&rule, "IpPermissions.2.").is_empty(), "{rule:?}");
    }
}

#[test]
fn where_nobody_can_be_asked_everything_is_removed_and_it_is_said() {
    let stage = machines(|| unreachable!("it is launched once"));
    stage.account.0.lock().expect("the account").clear();
    let ran = stage.build(&["--on-error", "ask", "--output", "json"]);
    assert_eq!(ran.code, 10, "{}", ran.stderr);
    let events: Vec<Value> = ran.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let at = |name: &str, field: &str, text: &str| {
        let found = events.iter().position(|event| event["event"] == name && event[field] == text);
        found.unwrap_or_else(|| panic!("no {name} {text}: {}", ran.stderr))
    };
    let asked = at("note", "text", "nobody can be asked here, so everything is removed");
    assert!(asked < at("removed", "id", "i-1"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("[y/N]") && !ran.stderr.contains("is kept"), "{}", ran.stderr);
    assert!(stage.account.ids().is_empty(), "{:?}", stage.account.ids());
}

/// What a failed build says to somebody at a terminal, who answers.
fn answered(stage: &Stage, answer: &str) -> String {
    stage.account.0.lock().expect("the account").clear();
    let command = stage.build_command("debian12", &["--on-error", "ask"]);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let line = shlex::try_join(words.map(|word| word.to_str().expect("text"))).expect("no NUL");
    // It gives the command a terminal of its own.
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(stage.folder.path());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let mut started =
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("script starts");
    started.stdin.as_mut().expect("a pipe").write_all(answer.as_bytes()).expect("it reads");
    let output = started.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!(said.contains("Keep the builder to look at it? [y/N]"), "{said}");
    said
}

#[test]
fn at_a_terminal_the_builder_is_kept_or_not_as_the_answer_says() {
    let stage = machines(|| unreachable!("it is launched once"));
    let said = answered(&stage, "y\n");
    assert!(said.contains("everything is kept: go on with --resume"), "{said}");
    assert!(stage.account.ids().contains(&"i-1".to_owned()), "{:?}", stage.account.ids());
    for answer in ["n\n", "later\n"] {
        let stage = machines(|| unreachable!("it is launched once"));
        let said = answered(&stage, answer);
        assert!(!said.contains("is kept") && stage.account.ids().is_empty(), "{said}: {:?}", stage.account.ids());
    }
}

/// What a build says of its clean-up that is interrupted when it has said `then`.
fn interrupted(stage: &Stage, then: &str) -> String {
    stage.account.0.lock().expect("the account").clear();
    let (code, line) =
        interrupted_twice(stage, &mut stage.build_command("debian12", &[]), "to tell its host keys", then);
    assert_eq!(code, 130, "{line}");
    line
}

#[test]
fn interrupted_twice_it_says_what_is_left() {
    // A machine that takes its time to end.
    let stage = odd_machines(
        || unreachable!("it is launched once"),
        |action, _| match action {
            "TerminateInstances" | "GetConsoleOutput" => Some(done(action, "")),
            _ => None,
        },
    );
    let line = interrupted(&stage, "Terminate what still runs");
    assert!(line.contains("not seen to go: instance i-1 (us-east-1), security group sg-1 (us-east-1): "), "{line}");
    let run = stage.account.tags("i-1")["efa-gen:run"].clone();
    assert!(line.ends_with(&format!("efa-gen sweep --run {run} --yes removes the rest")), "{line}");
}

/// The clean-up of a failure goes on at the first signal: that asks for what is being done.
#[test]
fn interrupted_once_while_it_cleans_up_it_goes_on() {
    let stage = odd_machines(
        || unreachable!("it is launched once"),
        |action, _| (action == "TerminateInstances").then(|| done(action, "")),
    );
    stage.account.0.lock().expect("the account").clear();
    let mut command = stage.build_command("debian12", &[]);
    let (code, line) =
        interrupted_twice(&stage, &mut command, "Terminate what still runs", "once more leaves the rest");
    assert_eq!(code, 10, "the failure's own: {line}");
    assert!(line.contains("not seen to go: instance i-1 (us-east-1), security group sg-1 (us-east-1): "), "{line}");
}

#[test]
fn what_has_gone_is_not_said_to_be_left() {
    // The machine ends; its interface keeps the group in use.
    let stage = odd_machines(
        || unreachable!("it is launched once"),
        |action, _| match action {
            "DeleteSecurityGroup" => Some(refuse("DependencyViolation", "resource sg-1 has a dependent object")),
            "GetConsoleOutput" => Some(done(action, "")),
            _ => None,
        },
    );
    let line = interrupted(&stage, "removed instance i-1");
    assert!(line.contains("not seen to go: security group sg-1 (us-east-1): ") && !line.contains("i-1"), "{line}");
}

/// The bytes of the installer are looked at before anything is made: whose signature, and the digest that the guest checks.
#[test]
fn nothing_is_made_with_an_installer_that_is_not_the_publishers() {
    for (key, words) in [
        ("fingerprint = \"", ["wrong key", "not the pinned"]),
        ("sha256 = \"", ["sum differs, signature good", "it is not the expected one"]),
    ] {
        let stage = Stage::good();
        stage.account.0.lock().expect("the account").clear();
        stage.forge(key);
        assert_ran(&stage.build(&[]), 3, &words);
        for action in ["ImportKeyPair", "CreateSecurityGroup", "RunInstances"] {
            assert!(stage.stub.calls(action).iter().all(is_dry), "{key}: {action}");
        }
    }
}
