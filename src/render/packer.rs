//! Owns the Packer template: HCL text, its escaping, and which grammar knows what.

use std::io::Write;
use std::sync::LazyLock;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::PackerGrammar;
use crate::error::{Class, Error, Result};
use crate::plan::{BaseImage, LOG_DIR, Plan, STATE_DIR, Stage, Then, When, tags};
use crate::template::Template;
use crate::text::hex;
use crate::version::at_least;

static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    Template::new("packer/image.pkr.hcl", include_str!("../../templates/packer/image.pkr.hcl"), escape)
});

#[derive(Serialize)]
struct PackerView<'a> {
    title: String,
    version: &'static str,
    digest: &'a str,
    /// Packer 1.7 and newer.
    newest: bool,
    /// What Packer 1.6 takes as well.
    common: bool,
    /// The oldest Packer that takes it.
    required: &'static str,
    /// What this grammar does without, a sentence each.
    left_out: Vec<&'static str>,
    /// Whether the guest's cloud-init knows IMDSv2, so that nothing else need be answered.
    imds_required: bool,
    ami_name: String,
    description: String,
    tags: Vec<Tag>,
    base: &'a BaseImage,
    owners: String,
    root_gib: u64,
    state_dir: &'static str,
    log_dir: &'static str,
    script_sha256: String,
    stage_count: usize,
    stages: Vec<PackerStageView<'a>>,
}

#[derive(Serialize)]
struct Tag {
    key: String,
    value: String,
}

#[derive(Serialize)]
struct PackerStageView<'a> {
    number: usize,
    id: &'a str,
    title: &'a str,
    reboots: bool,
}

pub(crate) fn render(plan: &Plan, digest: &str, script: &str, grammar: PackerGrammar) -> Result<String> {
    check_login(plan, grammar)?;
    let newest = grammar == PackerGrammar::Newest;
    let title = format!("EFA + NCCL image of {}, stack {}", plan.distribution_name, plan.stack);
    let view = PackerView {
        version: env!("CARGO_PKG_VERSION"),
        digest,
        newest,
        common: !newest,
        required: if newest { "1.7.0" } else { "1.6.6" },
        left_out: imds_note(plan, grammar).into_iter().chain(LEFT_OUT).collect(),
        imds_required: plan.base.imdsv2,
        ami_name: format!("efa-gen-{}-{}-{}", plan.distribution, plan.stack, &digest[..12]),
        description: format!("{title}, made by efa-gen"),
        title,
        tags: tag_lines(plan, digest),
        base: &plan.base,
        owners: plan.base.owners.iter().map(|owner| string(owner)).collect::<Vec<_>>().join(", "),
        root_gib: plan.base.root_gib,
        state_dir: STATE_DIR,
        log_dir: LOG_DIR,
        script_sha256: hex(&Sha256::digest(script)),
        stage_count: plan.stages.len(),
        stages: stages(plan),
    };
    TEMPLATE.fill(&view)
}

/// What Packer 1.6 does not know besides IMDSv2 (hashicorp/packer@v1.6.6, builder/amazon/common/*_config.go,
/// block_device.go; hcl2template/types.build.go), and what follows.
const LEFT_OUT: [&str; 7] = [
    "temporary_key_pair_type: the login key is RSA, and Packer before 1.8.1 signs with SHA-1",
    "associate_public_ip_address = false: the builder has a public address where its subnet gives one",
    "capacity_reservation_id, capacity_reservation_group_arn: the builder takes what reservation is open to it",
    "ami_org_arns, ami_ou_arns: the image is shared with accounts alone",
    "deprecate_at, deregistration_protection: the image is neither deprecated nor protected",
    "temporary_security_group_source_public_ip, include_deprecated: ssh_cidrs must be given, and source_ami at times",
    "error-cleanup-provisioner: each stage shows the log when it fails",
];

/// From this version on OpenSSH refuses RSA signatures made with SHA-1 (release notes of OpenSSH 8.8).
const REFUSES_SHA1: &str = "8.8";

/// Whether a Packer that this grammar is for can log in to the machine: Packer before 1.8.1 makes RSA keys and signs with SHA-1
/// (hashicorp/packer#11733), while newer grammar has it make ed25519 keys.
///
/// Errors: [`Class::Plan`] if the machine's OpenSSH refuses that.
pub fn check_login(plan: &Plan, grammar: PackerGrammar) -> Result<()> {
    let openssh = &plan.base.openssh;
    if grammar == PackerGrammar::Newest || !at_least(openssh, REFUSES_SHA1) {
        return Ok(());
    }
    let message = format!(
        "Packer 1.6 can't log in to {}: it signs with SHA-1, which OpenSSH {REFUSES_SHA1} and newer refuse, and this one is \
         {openssh}",
        plan.distribution_name
    );
    Err(Error::new(Class::Plan, message).hint(
        "use Packer 1.7 or newer, and its template (--packer 1.7, the default): there the login key is an ed25519 one",
    ))
}

/// What users should know of a grammar that can't require IMDSv2 where the distribution could do with it alone.
pub fn imds_note(plan: &Plan, grammar: PackerGrammar) -> Option<&'static str> {
    (grammar == PackerGrammar::Common && plan.base.imdsv2).then_some(
        "imds_support, metadata_options: IMDSv2 is not required, so the builder and the image's instances answer IMDSv1, too",
    )
}

/// The file that Packer 1.10 and newer need besides, and 1.6 refuses.
pub(crate) fn plugins() -> String {
    include_str!("../../templates/packer/plugins.pkr.hcl").to_owned()
}

/// Names, versions and digests as tags, keys padded as `packer fmt` wants them.
fn tag_lines(plan: &Plan, digest: &str) -> Vec<Tag> {
    let of_plan = tags::of_plan(plan, digest).into_iter().map(|(key, value)| (key.to_owned(), value));
    let components = plan.components.iter();
    let components = components.map(|component| (tags::of_component(component.name), component.version.clone()));
    let pairs: Vec<(String, String)> = of_plan.into_iter().chain(components).collect();
    let width = pairs.iter().map(|(key, _)| string(key).len()).max().unwrap_or(0);
    pairs.iter().map(|(key, value)| Tag { key: format!("{:width$}", string(key)), value: string(value) }).collect()
}

fn stages(plan: &Plan) -> Vec<PackerStageView<'_>> {
    // What needs GPUs and EFA devices can't be run here: Packer can give its builder no EFA.
    let stages = plan.stages.iter().enumerate().filter(|(_, stage)| stage.run != When::Target);
    stages.map(|(index, stage)| stage_view(index, stage)).collect()
}

fn stage_view(index: usize, stage: &Stage) -> PackerStageView<'_> {
    let reboots = stage.then == Then::Reboot;
    PackerStageView { number: index + 1, id: stage.id, title: &stage.title, reboots }
}

/// Text as an HCL string literal.
fn string(text: &str) -> String {
    format!("\"{}\"", inside_string(text))
}

/// Text between the quotes of an HCL string: quotes, backslashes, control characters and the starts of
/// interpolation lose their meaning.
fn inside_string(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '$' | '%' if chars.peek() == Some(&'{') => escaped.extend([c, c]),
            c if c.is_control() => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    output.write_all(inside_string(text).as_bytes())
}
