//! Owns the IAM policies for what efa-gen does: made from the table of AWS's actions, by the tags that a run gives.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::tags;
use crate::aws::action::{ACTIONS, ApiAction, Limit, PACKER, Use};

/// Longest document that IAM takes as a managed policy, in characters without white space (IAM User Guide, "IAM and STS
/// character limits").
pub const LONGEST: usize = 6144;

/// A policy document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

/// What it allows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: String,
    effect: &'static str,
    action: BTreeSet<String>,
    resource: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    condition: BTreeMap<&'static str, BTreeMap<String, Vec<String>>>,
}

impl Statement {
    fn new(
        sid: impl Into<String>,
        action: impl IntoIterator<Item = impl Into<String>>,
        resource: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Statement {
            sid: sid.into(),
            effect: "Allow",
            action: action.into_iter().map(Into::into).collect(),
            resource: resource.into_iter().map(Into::into).collect(),
            condition: BTreeMap::new(),
        }
    }

    fn on_condition(mut self, test: &'static str, key: &str, values: impl IntoIterator<Item = String>) -> Self {
        self.condition.entry(test).or_default().insert(key.to_owned(), values.into_iter().collect());
        self
    }

    /// Only if a tag of this kind (`aws:RequestTag`, `aws:ResourceTag`) names a run.
    fn of_run(self, kind: &str) -> Self {
        self.on_condition("Null", &format!("{kind}/{}", tags::RUN), ["false".to_owned()])
    }
}

/// The policy for all of these uses. If `tagged`, it allows making only what gets a run's tag, and changing only what has it.
pub fn policy(uses: &[Use], tagged: bool) -> Policy {
    let needed = |action: &&ApiAction| action.uses.iter().any(|of| uses.contains(of));
    let actions: Vec<&ApiAction> = ACTIONS.iter().chain(&PACKER).filter(needed).collect();
    let mut statement = match tagged {
        true => by_tag(&actions),
        false => vec![Statement::new("Use", names(&actions, |limit| !is_apart(limit)), ["*"])],
    };
    statement.extend(tagging(&actions, uses));
    statement.push(Statement::new(
        "Parameters",
        names(&actions, |limit| *limit == Limit::Parameter),
        ["arn:aws:ssm:*:*:parameter/*"],
    ));
    if uses.iter().any(|of| [Use::Build, Use::Publish, Use::Gate, Use::Launch, Use::Packer].contains(of)) {
        statement.extend(kms());
    }
    if uses.iter().any(|of| [Use::Build, Use::Packer].contains(of)) {
        statement.push(spot());
    }
    if uses.contains(&Use::SessionManager) {
        statement.extend(session_manager(uses.contains(&Use::Packer), tagged));
    }
    statement.retain(|one| !one.action.is_empty());
    Policy { version: "2012-10-17", statement }
}

/// Whether its statement is the same with and without tags.
fn is_apart(limit: &Limit) -> bool {
    matches!(limit, Limit::Tags(_) | Limit::Parameter)
}

fn names(actions: &[&ApiAction], which: impl Fn(&Limit) -> bool) -> BTreeSet<String> {
    actions.iter().filter(|action| which(&action.limit)).map(|action| action.name()).collect()
}

fn arns(kinds: impl IntoIterator<Item = &'static str>) -> BTreeSet<String> {
    kinds.into_iter().map(|kind| format!("arn:aws:ec2:*:*:{kind}/*")).collect()
}

/// What the actions read, make, use and change, each limited as far as it can be.
fn by_tag(actions: &[&ApiAction]) -> Vec<Statement> {
    let made = |limit: &Limit| match limit {
        Limit::Makes(made) | Limit::MakesOf { made, .. } => *made,
        _ => &[],
    };
    let kinds: Vec<&str> = actions.iter().flat_map(|action| made(&action.limit)).copied().collect();
    let changes = |limit: &Limit| matches!(limit, Limit::Changes | Limit::MakesOf { of_run: true, .. });
    let mut statements = vec![
        Statement::new("Read", names(actions, |limit| *limit == Limit::Reads), ["*"]),
        Statement::new("Make", names(actions, |limit| !made(limit).is_empty()), arns(kinds)).of_run("aws:RequestTag"),
        Statement::new("Change", names(actions, changes), ["*"]).of_run("aws:ResourceTag"),
    ];
    // What has no tag yet, or is anybody's: a statement each, or one could use what another needs.
    statements.extend(actions.iter().filter_map(|action| {
        let (sid, kinds) = match action.limit {
            Limit::MakesOf { uses, .. } if !uses.is_empty() => (format!("{}With", action.call), uses),
            Limit::Untagged(kinds) => (action.call.to_owned(), kinds),
            _ => return None,
        };
        let resource = if kinds.is_empty() { BTreeSet::from(["*".to_owned()]) } else { arns(kinds.iter().copied()) };
        Some(Statement::new(sid, [action.name()], resource))
    }));
    statements
}

/// CreateTags: in the call that makes something, and on what has the run's tag. Alone it would undo every limit by tags:
/// whoever may tag anything may change anything.
fn tagging(actions: &[&ApiAction], uses: &[Use]) -> Vec<Statement> {
    let makes = |limit: &Limit| matches!(limit, Limit::Makes(_) | Limit::MakesOf { .. });
    let making = actions.iter().filter(|action| makes(&action.limit)).map(|action| action.call.to_owned());
    let making: BTreeSet<String> = making.collect();
    let later = actions.iter().any(|action| match action.limit {
        Limit::Tags(later) => later.iter().any(|of| uses.contains(of)),
        _ => false,
    });
    let tags = names(actions, |limit| matches!(limit, Limit::Tags(_)));
    let mut statements = Vec::new();
    if !making.is_empty() {
        let all = Statement::new("TagWhatIsMade", tags.clone(), ["*"]);
        statements.push(all.on_condition("StringEquals", "ec2:CreateAction", making));
    }
    if later {
        statements.push(Statement::new("TagWhatWasMade", tags.clone(), ["*"]).of_run("aws:ResourceTag"));
    }
    if uses.contains(&Use::Packer) {
        // Packer makes copies without tags, and tags them then.
        statements.push(Statement::new("TagCopies", tags, arns(["image", "snapshot"])).of_run("aws:RequestTag"));
    }
    statements
}

/// What EC2 does with a KMS key for who launches from, makes or copies what is encrypted with it (Amazon EBS User Guide,
/// "Permissions for IAM users"; Amazon EC2 User Guide, "Use encryption with EBS-backed AMIs").
fn kms() -> [Statement; 2] {
    let keys = ["arn:aws:kms:*:*:key/*"];
    let work = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*"];
    let through_ec2 = ["ec2.*.amazonaws.com".to_owned()];
    [
        Statement::new("Keys", work, keys).on_condition("StringLike", "kms:ViaService", through_ec2),
        Statement::new("Grants", ["kms:CreateGrant"], keys).on_condition(
            "Bool",
            "kms:GrantIsForAWSResource",
            ["true".to_owned()],
        ),
    ]
}

/// The role that an account's first spot instance makes.
fn spot() -> Statement {
    let role = "arn:aws:iam::*:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot";
    let statement = Statement::new("SpotRole", ["iam:CreateServiceLinkedRole"], [role]);
    statement.on_condition("StringEquals", "iam:AWSServiceName", ["spot.amazonaws.com".to_owned()])
}

/// SSH through Session Manager: no shell of its own, no session of anybody else. A session's tag has the caller's id, which its
/// name has not where the caller is a role (AWS Systems Manager User Guide, "Additional sample IAM policies").
fn session_manager(packer: bool, tagged: bool) -> Vec<Statement> {
    let documents = ["AWS-StartSSHSession"].into_iter().chain(packer.then_some("AWS-StartPortForwardingSession"));
    let documents = documents.map(|name| format!("arn:aws:ssm:*:*:document/{name}"));
    let named = ["true".to_owned()];
    let machines = Statement::new("Sessions", ["ssm:StartSession"], arns(["instance"])).on_condition(
        "BoolIfExists",
        "ssm:SessionDocumentAccessCheck",
        named,
    );
    let own = ["${aws:userid}".to_owned(), "${aws:userid}-*".to_owned()];
    let role = Statement::new("InstanceRole", ["iam:PassRole"], ["arn:aws:iam::*:role/*"]);
    vec![
        if tagged { machines.of_run("aws:ResourceTag") } else { machines },
        Statement::new("SessionDocuments", ["ssm:StartSession"], documents),
        Statement::new("OwnSessions", ["ssm:ResumeSession", "ssm:TerminateSession"], ["arn:aws:ssm:*:*:session/*"])
            .on_condition("StringLike", "ssm:resourceTag/aws:ssmmessages:session-id", own),
        Statement::new("SessionChannel", ["ssmmessages:OpenDataChannel"], ["*"]),
        role.on_condition("StringEquals", "iam:PassedToService", ["ec2.amazonaws.com".to_owned()]),
    ]
}

impl Policy {
    /// As Terraform's data source `aws_iam_policy_document`.
    pub fn hcl(&self) -> String {
        let mut text = "data \"aws_iam_policy_document\" \"efa_gen\" {\n".to_owned();
        for (n, statement) in self.statement.iter().enumerate() {
            let gap = if n == 0 { "" } else { "\n" };
            let (actions, resources) = (list(&statement.action), list(&statement.resource));
            text += &format!("{gap}  statement {{\n    sid = {}\n\n", quoted(statement.sid.as_str()));
            text += &format!("    actions = {actions}\n\n    resources = {resources}\n");
            for (test, keys) in &statement.condition {
                for (variable, values) in keys {
                    let (variable, values) = (quoted(variable), list(values));
                    text += &format!(
                        "\n    condition {{\n      test     = {}\n      variable = {variable}\n\n      values = {}\n    }}\n",
                        quoted(test),
                        values.replace('\n', "\n  "),
                    );
                }
            }
            text += "  }\n";
        }
        text + "}\n"
    }
}

/// A list of Terraform's: one line for one value.
fn list<'a>(values: impl IntoIterator<Item = &'a String>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| quoted(value)).collect();
    match values.as_slice() {
        [one] => format!("[{one}]"),
        all => format!("[\n{}    ]", all.iter().map(|value| format!("      {value},\n")).collect::<String>()),
    }
}

/// A string of Terraform's, which would fill in `${...}` itself.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "$${").replace("%{", "%%{"))
}
