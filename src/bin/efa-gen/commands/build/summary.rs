//! Owns how the outcome of builds is told: what a build would do and cost, what it made, for people and for programs.

use efa_gen::catalog::Catalog;
use efa_gen::error::Error;
use efa_gen::plan::{Plan, When};
use serde::Serialize;
use serde_json::{Value, json};

use super::job::BuildOutcome;
use crate::cli::cloud::{BuildArgs, BuildDriver, HostKey};
use crate::image::cost;
use crate::image::preflight::{GATE_NODES, ResolvedBuild, takes_address};

/// One build in the summary.
#[derive(Debug, Serialize)]
pub struct SummaryRow {
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
    lines: Vec<String>,
}

/// What a build that went well came to.
pub fn row(args: &BuildArgs, catalog: &Catalog, plan: &Plan, outcome: &BuildOutcome) -> SummaryRow {
    let image = |region: &str, id: &str| json!({"region": region, "image": id});
    let mut row = SummaryRow {
        distribution: plan.distribution.clone(),
        plan: plan.digest(),
        outcome: "planned",
        run: None,
        images: Vec::new(),
        error: None,
        preflight: None,
        lines: Vec::new(),
    };
    match outcome {
        BuildOutcome::Planned(resolved) => {
            let calls = calls(args, plan, resolved);
            let estimate = cost::estimate(
                plan,
                catalog,
                &resolved.builder.instance_type,
                resolved.builder.info.vcpus,
                resolved.root_gib,
                args.publish.gate.as_deref(),
            );
            row.lines = planned(args, plan, resolved, &calls, &estimate);
            let calls: Vec<Value> = calls.iter().map(|(call, what)| json!({"call": call, "for": what})).collect();
            row.preflight = Some(json!({"account": resolved, "calls": calls, "estimate": estimate}));
            row.images.extend(resolved.existing.as_ref().map(|there| image(&resolved.region, &there.id)));
        }
        BuildOutcome::Found(_, _, found) => {
            row.outcome = "found";
            row.images.extend(found.copies.iter().map(|copy| image(&copy.region, &copy.image)));
            row.lines.push(format!(
                "{}: {} is there already ({}); --force builds it again",
                plan.distribution, found.image.id, found.image.name
            ));
        }
        BuildOutcome::Built(_, run, built) => {
            row.outcome = "built";
            row.run = Some(run.clone());
            row.images.extend(built.copies.iter().map(|copy| image(&copy.region, &copy.image)));
            row.lines.extend(built.copies.iter().map(|copy| {
                format!("{}: {} in {} ({})", plan.distribution, copy.image, copy.region, built.image.name)
            }));
        }
    }
    row
}

/// What a build that failed came to.
pub fn failed_row(plan: &Plan, error: &Error) -> SummaryRow {
    SummaryRow {
        distribution: plan.distribution.clone(),
        plan: plan.digest(),
        outcome: "failed",
        run: None,
        images: Vec::new(),
        error: Some(error.to_string()),
        preflight: None,
        lines: vec![format!("{}: FAILED: {error}", plan.distribution)],
    }
}

/// What became of several, a line each: distribution, outcome, run, images.
pub fn table(rows: &[SummaryRow]) -> impl Iterator<Item = [String; 4]> {
    rows.iter().map(|row| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let images = row.images.iter().map(|image| format!("{} ({})", text(&image["image"]), text(&image["region"])));
        let images: Vec<String> = images.collect();
        [row.distribution.clone(), row.outcome.to_owned(), row.run.clone().unwrap_or_default(), images.join(", ")]
    })
}

/// All of them for people.
pub fn human(rows: &[SummaryRow]) -> Vec<&str> {
    // One that fails alone is told as an error.
    if let [row] = rows
        && row.error.is_some()
    {
        return Vec::new();
    }
    rows.iter().flat_map(|row| &row.lines).map(String::as_str).collect()
}

fn planned(
    args: &BuildArgs,
    plan: &Plan,
    resolved: &ResolvedBuild,
    calls: &[(String, String)],
    estimate: &cost::Estimate,
) -> Vec<String> {
    let title = format!("{}, stack {}, plan {}", plan.distribution_name, plan.stack, plan.digest());
    let mut lines = vec![title, String::new()];
    let mut line = |name: &str, value: &str| lines.push(format!("  {name:<14} {value}"));
    line("account", &format!("{} ({})", resolved.identity.account, resolved.identity.arn));
    line("region", &resolved.region);
    line("base AMI", &format!("{} {} of {}", resolved.base.id, resolved.base.name, resolved.base.created));
    let zones: Vec<&str> = resolved.builder.subnets.iter().map(|subnet| subnet.zone.as_str()).collect();
    let market = if args.builder.spot { ", spot" } else { "" };
    line(
        "builder",
        &format!(
            "{}, {} vCPUs{market}, tried in {}",
            resolved.builder.instance_type,
            resolved.builder.info.vcpus,
            zones.join(", ")
        ),
    );
    let encrypted = match (&args.builder.kms_key, args.builder.no_encrypt) {
        (_, true) => "not encrypted".to_owned(),
        (Some(key), _) => format!("encrypted with {key}"),
        (None, _) => "encrypted with the account's EBS key".to_owned(),
    };
    line("root volume", &format!("{} GiB gp3, {encrypted}", resolved.root_gib));
    line(
        "SSH from",
        &if resolved.ssh_cidrs.is_empty() { "nowhere: Session Manager".into() } else { resolved.ssh_cidrs.join(", ") },
    );
    line("image", &resolved.name);
    if let Some(existing) = &resolved.existing {
        line("", &format!("{} is there already: nothing would be built without --force", existing.id));
    }
    let dollars = estimate.dollars.map_or("no price known".to_owned(), |dollars| format!("up to ${dollars:.2}"));
    line("time and cost", &format!("{} to {} min, {dollars}", estimate.minutes.0, estimate.minutes.1));
    line("", &estimate.basis);
    let calls_to_come = "Calls to come, after those of this preflight, which made nothing:";
    lines.extend(["", calls_to_come, ""].map(str::to_owned));
    lines.extend(calls.iter().map(|(call, what)| format!("  {call:<36} {what}")));
    lines
}

/// Every call that changes something, in order.
fn calls(args: &BuildArgs, plan: &Plan, resolved: &ResolvedBuild) -> Vec<(String, String)> {
    let mut calls = match args.driver {
        BuildDriver::Native => calls_of_the_builder(args, plan, resolved),
        BuildDriver::Packer => vec![("packer build".to_owned(), "its own calls: builder, stages, image".to_owned())],
    };
    calls.extend(calls_of_the_publication(args, plan, resolved));
    if args.driver == BuildDriver::Native {
        calls.push(("ec2:TerminateInstances".to_owned(), "the builder".to_owned()));
        calls.push(("ec2:DeleteKeyPair, DeleteSecurityGroup".to_owned(), "of this run".to_owned()));
    }
    calls
}

fn calls_of_the_builder(args: &BuildArgs, plan: &Plan, resolved: &ResolvedBuild) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut add = |call: &str, what: String| calls.push((call.to_owned(), what));
    add("ec2:ImportKeyPair", "login key of this run".into());
    add("ec2:CreateSecurityGroup", "group of this run".into());
    if !resolved.ssh_cidrs.is_empty() {
        add("ec2:AuthorizeSecurityGroupIngress", format!("port 22 from {}", resolved.ssh_cidrs.join(", ")));
    }
    if resolved.builder.info.efa > 0 {
        add("ec2:AuthorizeSecurityGroupIngress", "all traffic among its members, for EFA".into());
        add("ec2:AuthorizeSecurityGroupEgress", "all traffic among its members, for EFA".into());
    }
    add("ec2:RunInstances", format!("one {}", resolved.builder.instance_type));
    if args.builder.host_key == HostKey::Console {
        add("ec2:GetConsoleOutput", "its host keys, every 5 s until they are there".into());
    }
    for stage in plan.stages.iter().filter(|stage| stage.run != When::Target || resolved.builder.info.gpus > 0) {
        add(&format!("ssh: stage {}", stage.id), stage.title.clone());
    }
    add("ec2:CreateTags", "the builder is sealed".into());
    if !args.builder.spot {
        add("ec2:StopInstances", "the builder".into());
    }
    add("ec2:CreateImage", resolved.name.clone());
    calls
}

fn calls_of_the_publication(args: &BuildArgs, plan: &Plan, resolved: &ResolvedBuild) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut add = |call: &str, what: String| calls.push((call.to_owned(), what));
    if plan.base.imdsv2 {
        add("ec2:ModifyImageAttribute", "IMDSv2 alone, for every instance of the image".into());
    }
    if let Some(gate) = &resolved.gate {
        add("ec2:AuthorizeSecurityGroupIngress", "all traffic among its members, for EFA".into());
        add("ec2:AuthorizeSecurityGroupEgress", "all traffic among its members, for EFA".into());
        if gate.info.clusters {
            add("ec2:CreatePlacementGroup", "for the machines of the test".into());
        }
        add("ec2:RunInstances", format!("{GATE_NODES} x {} from the image, for its test", gate.instance_type));
        if takes_address(gate, resolved, args) {
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
