//! The policies that `efa-gen permissions` prints: what users get, how much it allows, and that it is enough for the calls
//! that are made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::support::aws::{Params, done, is_dry, refuse};
use crate::support::builds::{BASE, LARGE, Stage, assert_ran, machines, odd_machines, type_with};
use crate::support::{efa_gen, in_repository, stderr, stdout};
use crate::tidy::files_below;

const USES: [&str; 7] = ["build", "publish", "gate", "launch", "sweep", "packer", "session-manager"];

/// IAM's limit on a managed policy, without white space (IAM User Guide, "IAM and STS character limits").
const LONGEST: usize = 6144;

/// What is printed for these uses, and that nothing else is.
fn printed(arguments: &[&str]) -> (Value, String) {
    let output = efa_gen(&[&["permissions"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    let policy = serde_json::from_slice(&output.stdout).expect("stdout has the document and nothing else");
    (policy, stderr(&output))
}

fn statements(policy: &Value) -> &Vec<Value> {
    policy["Statement"].as_array().expect("a list")
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().expect("a list").iter().map(|one| one.as_str().expect("a string").to_owned()).collect()
}

fn actions(policy: &Value) -> BTreeSet<String> {
    statements(policy).iter().flat_map(|one| texts(&one["Action"])).collect()
}

/// Every policy, by the arguments that print it.
fn every() -> Vec<(Vec<&'static str>, Value)> {
    let plain = USES.map(|of| vec!["--for", of]);
    let tagged = USES.map(|of| vec!["--for", of, "--tagged"]);
    plain.into_iter().chain(tagged).map(|arguments| (arguments.clone(), printed(&arguments).0)).collect()
}

#[test]
fn every_policy_is_as_it_was_reviewed() {
    for (arguments, policy) in every() {
        let name = arguments[1..].join("").replace("--", "-");
        insta::with_settings!({
            snapshot_path => in_repository("snapshots/policies"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!(format!("{name}.json"), serde_json::to_string_pretty(&policy).expect("JSON")); });
    }
    let terraform = efa_gen(&["permissions", "--for", "publish,session-manager", "--tagged", "--format", "hcl"]);
    insta::with_settings!({
        snapshot_path => in_repository("snapshots/policies"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, { insta::assert_snapshot!("publish-session-manager.tf", stdout(&terraform)); });
}

#[test]
fn every_policy_is_one_that_iam_takes() {
    for (arguments, policy) in every() {
        let length = policy.to_string().len();
        assert!(length <= LONGEST, "{arguments:?}: {length}");
        assert_eq!(policy["Version"], "2012-10-17");
        let sids: BTreeSet<&str> = statements(&policy).iter().map(|one| one["Sid"].as_str().expect("a name")).collect();
        assert_eq!(sids.len(), statements(&policy).len(), "{arguments:?}: a name twice");
        for statement in statements(&policy) {
            let sid = statement["Sid"].as_str().expect("a name");
            assert!(sid.chars().all(|c| c.is_ascii_alphanumeric()), "{sid}");
            assert_eq!(statement["Effect"], "Allow");
            assert!(
                !texts(&statement["Action"]).is_empty() && !texts(&statement["Resource"]).is_empty(),
                "{statement}"
            );
        }
    }
    // All at once are too long for one policy, which is said, and printed all the same.
    let (all, said) = printed(&["--for", &USES.join(","), "--tagged"]);
    assert_eq!(all.to_string().len() > LONGEST, said.contains("IAM takes 6144"), "{said}");
}

#[test]
fn no_policy_allows_to_tag_what_is_anybodys() {
    for (arguments, policy) in every() {
        for statement in statements(&policy).iter().filter(|one| texts(&one["Action"]).contains("ec2:CreateTags")) {
            let condition = &statement["Condition"];
            assert_eq!(texts(&statement["Action"]).len(), 1, "{arguments:?}: {statement}");
            let in_a_call = !condition["StringEquals"]["ec2:CreateAction"].is_null();
            let on_a_runs = condition["Null"]["aws:ResourceTag/efa-gen:run"] == serde_json::json!(["false"]);
            // Packer tags its copies after it has made them.
            let images = ["arn:aws:ec2:*:*:image/*", "arn:aws:ec2:*:*:snapshot/*"].map(str::to_owned);
            let of_packer = arguments[1] == "packer" && texts(&statement["Resource"]) == images.into_iter().collect();
            assert!(in_a_call || on_a_runs || of_packer, "{arguments:?}: {statement}");
        }
    }
}

/// The actions that change something, with those of their statements that nothing limits.
fn unlimited(policy: &Value) -> BTreeSet<String> {
    let any = |one: &&Value| one["Condition"].is_null() && texts(&one["Resource"]).contains("*");
    let reads = |name: &String| {
        ["ec2:Describe", "sts:Get", "servicequotas:Get", "iam:Get"].iter().any(|of| name.starts_with(of))
    };
    let all = statements(policy).iter().filter(any).flat_map(|one| texts(&one["Action"]));
    all.filter(|name| !reads(name)).collect()
}

#[test]
fn with_tags_nothing_is_changed_that_is_not_a_runs() {
    for of in USES {
        let allowed = unlimited(&printed(&["--for", of, "--tagged"]).0);
        let known: &[&str] = match of {
            "packer" => &["ec2:CreateFleet"],
            "session-manager" => &["ssmmessages:OpenDataChannel"],
            _ => &[],
        };
        assert_eq!(allowed, known.iter().map(|name| (*name).to_owned()).collect(), "{of}");
    }
}

#[test]
fn nothing_is_allowed_by_a_pattern_and_nothing_to_a_plain_build_that_it_does_not_need() {
    for (arguments, policy) in every() {
        let patterns: Vec<String> = actions(&policy).into_iter().filter(|name| name.contains('*')).collect();
        assert!(patterns.iter().all(|name| name == "kms:ReEncrypt*"), "{arguments:?}: {patterns:?}");
    }
    let build = actions(&printed(&["--for", "build"]).0);
    for name in [
        "AllocateAddress",
        "AssociateAddress",
        "CopyImage",
        "CreatePlacementGroup",
        "DeletePlacementGroup",
        "DeleteVolume",
        "DisableImageDeregistrationProtection",
        "EnableImageDeprecation",
        "EnableImageDeregistrationProtection",
        "ReleaseAddress",
        "RevokeSecurityGroupIngress",
    ] {
        assert!(!build.contains(&format!("ec2:{name}")), "{name}");
    }
    assert!(!build.contains("ssm:PutParameter") && !build.contains("iam:PassRole"), "{build:?}");
    let sweep = actions(&printed(&["--for", "sweep"]).0);
    let makes =
        |name: &&String| [":Run", ":Create", ":Import", ":Allocate", ":Authorize"].iter().any(|of| name.contains(of));
    assert_eq!(sweep.iter().filter(makes).collect::<Vec<_>>(), ["ec2:CreateTags"]);
    for of in USES {
        let (plain, tagged) = (printed(&["--for", of]).0, printed(&["--for", of, "--tagged"]).0);
        assert_eq!(actions(&plain), actions(&tagged), "{of}: tags limit an action, and don't take it away");
    }
}

#[test]
fn what_other_services_need_is_there_by_name() {
    let condition = |policy: &Value, action: &str| {
        let found = statements(policy).iter().find(|one| texts(&one["Action"]).contains(action)).cloned();
        found.unwrap_or_else(|| panic!("no {action}"))["Condition"].clone()
    };
    for of in ["build", "publish", "gate", "launch", "packer"] {
        let policy = printed(&["--for", of]).0;
        for name in ["Decrypt", "DescribeKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt*"] {
            assert!(
                !condition(&policy, &format!("kms:{name}"))["StringLike"]["kms:ViaService"].is_null(),
                "{of} {name}"
            );
        }
        let grant = condition(&policy, "kms:CreateGrant");
        assert_eq!(grant["Bool"]["kms:GrantIsForAWSResource"], serde_json::json!(["true"]), "{of}");
    }
    for of in ["build", "packer"] {
        let role = condition(&printed(&["--for", of]).0, "iam:CreateServiceLinkedRole");
        assert_eq!(role["StringEquals"]["iam:AWSServiceName"], serde_json::json!(["spot.amazonaws.com"]), "{of}");
    }
    let (session, said) = printed(&["--for", "session-manager"]);
    assert!(said.contains("AmazonSSMManagedInstanceCore"), "{said}");
    let resources: BTreeSet<String> = statements(&session)
        .iter()
        .filter(|one| texts(&one["Action"]).contains("ssm:StartSession"))
        .flat_map(|one| texts(&one["Resource"]))
        .collect();
    let wanted = ["arn:aws:ec2:*:*:instance/*", "arn:aws:ssm:*:*:document/AWS-StartSSHSession"];
    assert_eq!(resources, wanted.into_iter().map(str::to_owned).collect());
    let own = condition(&session, "ssm:TerminateSession");
    assert!(own["StringLike"]["ssm:resourceTag/aws:ssmmessages:session-id"].is_array(), "{own}");
    let role = condition(&session, "iam:PassRole");
    assert_eq!(role["StringEquals"]["iam:PassedToService"], serde_json::json!(["ec2.amazonaws.com"]));
    assert!(
        !actions(&printed(&["--for", "sweep"]).0)
            .iter()
            .any(|name| name.starts_with("kms:") || name.starts_with("iam:"))
    );
}

#[test]
fn several_uses_are_one_policy() {
    let (both, _) = printed(&["--for", "build", "--for", "publish"]);
    assert_eq!(both, printed(&["--for", "build,publish"]).0);
    assert_eq!(both, printed(&["--for", "publish,build,build"]).0);
    let each = ["build", "publish"].iter().flat_map(|of| actions(&printed(&["--for", of]).0));
    assert_eq!(actions(&both), each.collect());
    for wrong in [&["permissions"][..], &["permissions", "--for", "all"], &["permissions", "--for", "build;sweep"]] {
        let output = efa_gen(wrong);
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), String::new()), "{wrong:?}");
    }
}

#[test]
fn terraform_gets_the_same_and_fills_in_nothing() {
    for of in USES {
        let (policy, _) = printed(&["--for", of, "--tagged"]);
        let terraform = efa_gen(&["permissions", "--for", of, "--tagged", "--format", "hcl"]);
        let text = stdout(&terraform);
        let strings: BTreeSet<String> =
            text.split('"').skip(1).step_by(2).map(|one| one.replace("$${", "${")).collect();
        assert!(!text.replace("$${", "").contains("${"), "{text}");
        for statement in statements(&policy) {
            for name in texts(&statement["Action"]).into_iter().chain(texts(&statement["Resource"])) {
                assert!(strings.contains(&name), "{of}: {name}");
            }
        }
        assert_eq!(text.matches("  statement {\n").count(), statements(&policy).len(), "{of}");
    }
}

/// The calls that somebody with this policy could not make.
fn beyond(stage: &Stage, uses: &str) -> BTreeSet<String> {
    let allowed: BTreeSet<String> = actions(&printed(&["--for", uses]).0)
        .into_iter()
        .map(|name| name.split_once(':').expect("a service").1.to_owned())
        .collect();
    let made: BTreeSet<String> = stage.stub.actions().into_iter().collect();
    assert!(made.len() > 3, "{made:?}");
    made.difference(&allowed).cloned().collect()
}

#[test]
fn what_is_called_is_allowed() {
    let none = BTreeSet::new();
    // A build that fails, and what it cleans up.
    let stage = machines(|| unreachable!("it is launched once"));
    stage.account.0.lock().expect("the account").clear();
    assert_ran(&stage.build(&[]), 10, &["GetConsoleOutput"]);
    assert_eq!(beyond(&stage, "build"), none, "a build that fails");
    // One whose image is there, and is published.
    let stage = Stage::good();
    let publish = [
        "--no-encrypt",
        "--share",
        "444455556666",
        "--protect",
        "--deprecate-at",
        "2027-11-01T00:00:00Z",
        "--ssm-parameter",
        "/prod/efa/ami",
    ];
    assert_ran(&stage.build(&publish), 0, &[]);
    assert_eq!(beyond(&stage, "build,publish"), none, "a publication");
    assert!(!beyond(&stage, "build").is_empty(), "publishing needs more than a build");
    // One with a gate, as far as it is planned.
    let stage = odd_machines(
        || unreachable!("none is launched"),
        |action, _| (action == "DescribeInstanceTypes").then(|| done(action, &type_with(LARGE))),
    );
    assert_ran(&stage.build(&["--gate", "p4d.24xlarge", "--plan"]), 0, &[]);
    assert_eq!(beyond(&stage, "build,gate"), none, "a gate");
    assert!(!beyond(&stage, "build").is_empty(), "a gate needs more than a build");
    // A launch that EC2 refuses, and what it cleans up.
    let stage = odd_machines(
        || unreachable!("none"),
        |action, params| match action {
            "DescribeInstanceTypes" => Some(done(action, &type_with(LARGE))),
            "CreatePlacementGroup" if !is_dry(params) => Some(done(action, "")),
            "RunInstances" if !is_dry(params) => Some(refuse("VcpuLimitExceeded", "None is left.")),
            _ => None,
        },
    );
    let launch = ["launch", "--type", "p4d.24xlarge", "--nodes", "2", "--ami", BASE, "--distro", "debian12"];
    let ran = stage.run(&[&launch[..], &["--ssh-cidr", "203.0.113.7/32"]].concat());
    assert_ran(&ran, 10, &["VcpuLimitExceeded"]);
    assert_eq!(beyond(&stage, "launch"), none, "a launch");
    // What is left of everybody's.
    let stage = Stage::good();
    stage.sweep(&[]);
    stage.run(&["images"]);
    assert_eq!(beyond(&stage, "sweep"), none, "a sweep");
}

#[test]
fn a_permission_that_is_missing_is_told_with_the_command_that_prints_it() {
    let denied = |call: &'static str| {
        Stage::new(move |_, action, params: &Params| {
            (action == call && is_dry(params)).then(|| refuse("UnauthorizedOperation", "No."))
        })
    };
    for (call, uses) in [
        ("RunInstances", "build|gate|launch|packer"),
        ("ImportKeyPair", "build|gate|launch"),
        ("CreateSecurityGroup", "build|gate|launch|packer"),
    ] {
        let hint = format!("`efa-gen permissions --for {uses}`");
        assert_ran(&denied(call).build(&["--plan"]), 10, &[call, &hint]);
    }
}

/// The code of `src/bin/efa-gen/aws`, by file.
fn sources() -> BTreeMap<String, String> {
    let files = files_below(&in_repository("src/bin/efa-gen/aws"), "rs").into_iter();
    files.map(|file| (file.display().to_string(), fs::read_to_string(&file).expect("a source is text"))).collect()
}

#[test]
fn every_client_of_aws_goes_through_the_table() {
    let all: String = sources().into_values().collect();
    let clients = all.matches("Client::from_conf(").count();
    assert!(clients >= 4, "{clients}");
    assert_eq!(all.matches(".interceptor(InTable)").count(), clients, "each client asks the table first");
    assert_eq!(all.matches("Client::new(").count(), 0, "a client without the table");
}

#[test]
fn the_table_has_no_call_that_is_not_made() {
    let sources = sources();
    let calls: String =
        sources.iter().filter(|(name, _)| !name.ends_with("action.rs")).map(|(_, text)| text.as_str()).collect();
    let own = |of: &&str| !["packer", "session-manager"].contains(of);
    let named = USES.into_iter().filter(own).flat_map(|of| actions(&printed(&["--for", of]).0));
    let named: BTreeSet<String> = named.filter(|name| !name.starts_with("kms:") && !name.starts_with("iam:")).collect();
    for name in named {
        let call = name.split_once(':').expect("a service").1;
        let snake: String = call
            .chars()
            .flat_map(|c| {
                let gap = c.is_ascii_uppercase().then_some('_');
                gap.into_iter().chain([c.to_ascii_lowercase()])
            })
            .collect();
        let method = format!(".{}()", snake.trim_start_matches('_'));
        assert!(calls.contains(&method), "nothing calls {name}");
    }
}
