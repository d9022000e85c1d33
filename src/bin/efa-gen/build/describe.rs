//! Owns how the outcome of builds is told: what a build would do and cost, what it made, for people and for programs.

use std::fmt::Write;

use efa_gen::catalog::Catalog;
use efa_gen::error::Error;
use efa_gen::plan::{Plan, When};
use serde::Serialize;
use serde_json::{Value, json};

use super::cost;
use super::gate::NODES;
use super::preflight::{Ready, takes_address};
use crate::cli::cloud::{BuildArgs, Driver, HostKey};
use crate::commands::build::Outcome;

/// One build in the summary.
#[derive(Debug, Serialize)]
pub struct Row {
    pub distribution: String,
    pub plan: String,
    /// `planned`, `found`, `built` or `failed`.
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// By region, the first one's own first.
    pub images: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Value>,
    #[serde(skip)]
    text: String,
}

/// What a build that went well came to.
pub fn row(args: &BuildArgs, catalog: &Catalog, plan: &Plan, outcome: &Outcome) -> Row {
    let image = |region: &str, id: &str| json!({"region": region, "image": id});
    let mut row = Row {
        distribution: plan.distribution.clone(),
        plan: plan.digest(),
        outcome: "planned",
        run: None,
        images: Vec::new(),
        error: None,
        preflight: None,
        text: String::new(),
    };
    match outcome {
        Outcome::Planned(ready) => {
            let calls = calls(args, plan, ready);
            let estimate = cost::estimate(
                plan,
                catalog,
                &ready.builder.kind,
                ready.builder.info.vcpus,
                ready.root_gib,
                args.publish.gate.as_deref(),
            );
            row.text = planned(args, plan, ready, &calls, &estimate);
            let calls: Vec<Value> = calls.iter().map(|(call, what)| json!({"call": call, "for": what})).collect();
            row.preflight = Some(json!({"account": ready, "calls": calls, "estimate": estimate}));
            row.images.extend(ready.existing.as_ref().map(|there| image(&ready.region, &there.id)));
        }
        Outcome::Found(_, _, found) => {
            row.outcome = "found";
            row.images.extend(found.copies.iter().map(|copy| image(&copy.region, &copy.image)));
            row.text = format!(
                "{}: {} is there already ({}); --force builds it again\n",
                plan.distribution, found.image.id, found.image.name
            );
        }
        Outcome::Built(_, run, built) => {
            row.outcome = "built";
            row.run = Some(run.clone());
            row.images.extend(built.copies.iter().map(|copy| image(&copy.region, &copy.image)));
            for copy in &built.copies {
                let _ = writeln!(
                    row.text,
                    "{}: {} in {} ({})",
                    plan.distribution, copy.image, copy.region, built.image.name
                );
            }
        }
    }
    row
}

/// What a build that failed came to.
pub fn failed_row(plan: &Plan, error: &Error) -> Row {
    Row {
        distribution: plan.distribution.clone(),
        plan: plan.digest(),
        outcome: "failed",
        run: None,
        images: Vec::new(),
        error: Some(error.to_string()),
        preflight: None,
        text: format!("{}: FAILED: {error}\n", plan.distribution),
    }
}

/// What became of several, a line each: distribution, outcome, run, images.
pub fn table(rows: &[Row]) -> impl Iterator<Item = [String; 4]> {
    rows.iter().map(|row| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let images = row.images.iter().map(|image| format!("{} ({})", text(&image["image"]), text(&image["region"])));
        let images: Vec<String> = images.collect();
        [row.distribution.clone(), row.outcome.to_owned(), row.run.clone().unwrap_or_default(), images.join(", ")]
    })
}

/// All of them for people.
pub fn human(rows: &[Row]) -> String {
    // One that fails alone is told as an error.
    if let [row] = rows
        && row.error.is_some()
    {
        return String::new();
    }
    rows.iter().map(|row| row.text.as_str()).collect()
}

fn planned(
    args: &BuildArgs,
    plan: &Plan,
    ready: &Ready,
    calls: &[(String, String)],
    estimate: &cost::Estimate,
) -> String {
    let mut text = format!("{}, stack {}, plan {}\n\n", plan.distribution_name, plan.stack, plan.digest());
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<14} {value}");
    };
    line("account", &format!("{} ({})", ready.identity.account, ready.identity.arn));
    line("region", &ready.region);
    line("base AMI", &format!("{} {} of {}", ready.base.id, ready.base.name, ready.base.created));
    let zones: Vec<&str> = ready.builder.subnets.iter().map(|subnet| subnet.zone.as_str()).collect();
    let market = if args.builder.spot { ", spot" } else { "" };
    line(
        "builder",
        &format!("{}, {} vCPUs{market}, tried in {}", ready.builder.kind, ready.builder.info.vcpus, zones.join(", ")),
    );
    let encrypted = match (&args.builder.kms_key, args.builder.no_encrypt) {
        (_, true) => "not encrypted".to_owned(),
        (Some(key), _) => format!("encrypted with {key}"),
        (None, _) => "encrypted with the account's EBS key".to_owned(),
    };
    line("root volume", &format!("{} GiB gp3, {encrypted}", ready.root_gib));
    line(
        "SSH from",
        &if ready.ssh_cidrs.is_empty() { "nowhere: Session Manager".into() } else { ready.ssh_cidrs.join(", ") },
    );
    line("image", &ready.name);
    if let Some(existing) = &ready.existing {
        line("", &format!("{} is there already: nothing would be built without --force", existing.id));
    }
    let dollars = estimate.dollars.map_or("no price known".to_owned(), |dollars| format!("up to ${dollars:.2}"));
    line("time and cost", &format!("{} to {} min, {dollars}", estimate.minutes.0, estimate.minutes.1));
    line("", &estimate.basis);
    text.push_str("\nCalls to come, after those of this preflight, which made nothing:\n\n");
    for (call, what) in calls {
        let _ = writeln!(text, "  {call:<36} {what}");
    }
    text
}

/// Every call that changes something, in order.
fn calls(args: &BuildArgs, plan: &Plan, ready: &Ready) -> Vec<(String, String)> {
    let mut calls = match args.driver {
        Driver::Native => calls_of_the_builder(args, plan, ready),
        Driver::Packer => vec![("packer build".to_owned(), "its own calls: builder, stages, image".to_owned())],
    };
    calls.extend(calls_of_the_publication(args, plan, ready));
    if args.driver == Driver::Native {
        calls.push(("ec2:TerminateInstances".to_owned(), "the builder".to_owned()));
        calls.push(("ec2:DeleteKeyPair, DeleteSecurityGroup".to_owned(), "of this run".to_owned()));
    }
    calls
}

fn calls_of_the_builder(args: &BuildArgs, plan: &Plan, ready: &Ready) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut add = |call: &str, what: String| calls.push((call.to_owned(), what));
    add("ec2:ImportKeyPair", "login key of this run".into());
    add("ec2:CreateSecurityGroup", "group of this run".into());
    if !ready.ssh_cidrs.is_empty() {
        add("ec2:AuthorizeSecurityGroupIngress", format!("port 22 from {}", ready.ssh_cidrs.join(", ")));
    }
    if ready.builder.info.efa > 0 {
        add("ec2:AuthorizeSecurityGroupIngress", "all traffic among its members, for EFA".into());
        add("ec2:AuthorizeSecurityGroupEgress", "all traffic among its members, for EFA".into());
    }
    add("ec2:RunInstances", format!("one {}", ready.builder.kind));
    if args.builder.host_key == HostKey::Console {
        add("ec2:GetConsoleOutput", "its host keys, every 5 s until they are there".into());
    }
    for stage in plan.stages.iter().filter(|stage| stage.run != When::Target || ready.builder.info.gpus > 0) {
        add(&format!("ssh: stage {}", stage.id), stage.title.clone());
    }
    add("ec2:CreateTags", "the builder is sealed".into());
    if !args.builder.spot {
        add("ec2:StopInstances", "the builder".into());
    }
    add("ec2:CreateImage", ready.name.clone());
    calls
}

fn calls_of_the_publication(args: &BuildArgs, plan: &Plan, ready: &Ready) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut add = |call: &str, what: String| calls.push((call.to_owned(), what));
    if plan.base.imdsv2 {
        add("ec2:ModifyImageAttribute", "IMDSv2 alone, for every instance of the image".into());
    }
    if let Some(gate) = &ready.gate {
        add("ec2:AuthorizeSecurityGroupIngress", "all traffic among its members, for EFA".into());
        add("ec2:AuthorizeSecurityGroupEgress", "all traffic among its members, for EFA".into());
        if gate.info.clusters {
            add("ec2:CreatePlacementGroup", "for the machines of the test".into());
        }
        add("ec2:RunInstances", format!("{NODES} x {} from the image, for its test", gate.kind));
        if takes_address(gate, ready, args) {
            add("ec2:AllocateAddress, AssociateAddress", "for the first of them".into());
        }
        add("ec2:GetConsoleOutput", "their host keys".into());
        add("ec2:TerminateInstances", "the machines of the test".into());
        add("ec2:CreateTags", "its verdict".into());
    }
    let publish = &args.publish;
    for region in &publish.copy_to {
        add("ec2:CopyImage", format!("to {region}"));
    }
    if publish.deprecate_at.is_some() {
        add("ec2:EnableImageDeprecation", publish.deprecate_at.clone().unwrap_or_default());
    }
    if publish.protect {
        add("ec2:EnableImageDeregistrationProtection", "the image".into());
    }
    if !publish.share.is_empty() {
        add("ec2:ModifyImageAttribute", format!("share with {}", publish.share.join(", ")));
    }
    if let Some(name) = &publish.ssm_parameter {
        add("ssm:PutParameter", name.clone());
    }
    add("ec2:CreateTags", "the image is published".into());
    calls
}
