//! Owns the Packer template: HCL text, its escaping, and which grammar knows what. Knows nothing of what
//! the stages do: the script beside it does the work, stage by stage.

use std::io::Write;
use std::sync::LazyLock;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::PackerGrammar;
use super::template::Template;
use crate::error::Result;
use crate::plan::{Base, LOG_DIR, Plan, STATE_DIR, Then, When};

/// A fragment of the template folder, by name.
macro_rules! fragment {
    ($name:literal) => {
        include_str!(concat!("../../templates/packer/", $name))
    };
}

static TEMPLATE: LazyLock<Template> =
    LazyLock::new(|| Template::new("packer/image.pkr.hcl", fragment!("image.pkr.hcl"), escape));

#[derive(Serialize)]
struct View<'a> {
    title: String,
    version: &'static str,
    digest: &'a str,
    how_to: Vec<&'static str>,
    required_version: &'static str,
    ssh_cidrs: SshCidrs,
    more_variables: &'static str,
    more_source: String,
    more_filter: &'static str,
    source_ami_note: &'static str,
    on_error: &'static str,
    ami_name: String,
    description: String,
    tags: Vec<Tag>,
    base: &'a Base,
    owners: String,
    root_gib: u64,
    state_dir: &'static str,
    script_sha256: String,
    stage_count: usize,
    stages: Vec<StageView>,
}

/// The variable for the addresses that may reach the builder.
#[derive(Serialize)]
struct SshCidrs {
    description: &'static str,
    /// At most one value.
    default: &'static [&'static str],
    /// A first condition with its `&&`, or nothing.
    needed: &'static str,
}

#[derive(Serialize)]
struct Tag {
    key: String,
    value: String,
}

#[derive(Serialize)]
struct StageView {
    number: usize,
    title: String,
    command: String,
    reboots: bool,
    exit_codes: &'static str,
    barrier: Vec<&'static str>,
}

pub(super) fn render(plan: &Plan, digest: &str, script: &str, grammar: PackerGrammar) -> Result<String> {
    let newest = grammar == PackerGrammar::Newest;
    let title = format!("EFA + NCCL image of {}, stack {}", plan.distribution_name, plan.stack);
    let view = View {
        version: env!("CARGO_PKG_VERSION"),
        digest,
        how_to: how_to(newest),
        required_version: if newest { ">= 1.7.0" } else { ">= 1.6.0" },
        ssh_cidrs: ssh_cidrs(newest),
        more_variables: if newest { fragment!("variables-1.7.hcl") } else { "" },
        more_source: more_source(plan, newest),
        more_filter: if newest { "\n    include_deprecated = true\n" } else { "" },
        source_ami_note: if newest {
            ""
        } else {
            " Packer before 1.8 finds no deprecated AMIs: then it must be given."
        },
        on_error: if newest { fragment!("on-error-1.7.hcl") } else { "" },
        ami_name: format!("efa-gen-{}-{}-{}", plan.distribution, plan.stack, &digest[..12]),
        description: format!("{title}, made by efa-gen"),
        title,
        tags: tags(plan, digest),
        base: &plan.base,
        owners: plan.base.owners.iter().map(|owner| string(owner)).collect::<Vec<_>>().join(", "),
        root_gib: plan.base.root_gib,
        state_dir: STATE_DIR,
        script_sha256: hex(&Sha256::digest(script)),
        stage_count: plan.stages.len(),
        stages: stages(plan, newest),
    };
    TEMPLATE.fill(&view)
}

/// The file that Packer 1.10 and newer need besides, and 1.6 refuses.
pub(super) fn plugins() -> String {
    fragment!("plugins.pkr.hcl").to_owned()
}

fn how_to(newest: bool) -> Vec<&'static str> {
    if newest {
        return vec!["packer init .     once", "packer build .    (options: packer inspect .)"];
    }
    vec!["packer build -var 'ssh_cidrs=[\"YOUR.ADDRESS/32\"]' image.pkr.hcl    (options: packer inspect image.pkr.hcl)"]
}

/// From 1.7 on an empty list is the caller's own address; before, it is the whole Internet.
fn ssh_cidrs(newest: bool) -> SshCidrs {
    if newest {
        return SshCidrs {
            description: "Addresses that may reach the builder by SSH, for example 203.0.113.7/32; empty for the address \
                          you call from, which must be a public one: give the private range for ssh_interface = private_ip.",
            default: &["[]"],
            needed: "",
        };
    }
    SshCidrs {
        description: "Addresses that may reach the builder by SSH, for example 203.0.113.7/32. Required: Packer's default \
                      is the whole Internet.",
        default: &[],
        needed: "length(var.ssh_cidrs) > 0 && ",
    }
}

fn more_source(plan: &Plan, newest: bool) -> String {
    if !newest {
        return String::new();
    }
    let imds = if plan.base.imdsv2 { fragment!("imds-1.7.hcl") } else { fragment!("imds-optional-1.7.hcl") };
    format!("{}{imds}", fragment!("source-1.7.hcl"))
}

/// Names, versions and digests as tags, keys padded as `packer fmt` wants them.
fn tags(plan: &Plan, digest: &str) -> Vec<Tag> {
    let mut pairs = vec![
        ("efa-gen:version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("efa-gen:plan".to_owned(), digest.to_owned()),
        ("efa-gen:distribution".to_owned(), plan.distribution.clone()),
        ("efa-gen:stack".to_owned(), plan.stack.clone()),
    ];
    for component in &plan.components {
        pairs.push((format!("efa-gen:{}", component.name), component.version.clone()));
    }
    let width = pairs.iter().map(|(key, _)| string(key).len()).max().unwrap_or(0);
    pairs.iter().map(|(key, value)| Tag { key: format!("{:width$}", string(key)), value: string(value) }).collect()
}

fn stages(plan: &Plan, newest: bool) -> Vec<StageView> {
    let view = |(index, stage): (usize, &crate::plan::Stage)| {
        let run = format!("sudo /bin/bash {STATE_DIR}/install.sh --stage {}", stage.id);
        let reboots = stage.then == Then::Reboot;
        // Before 1.7 nothing can fetch a file after a failure, so the log goes into Packer's own output.
        let command =
            if newest { run } else { format!("{run} || {{ code=$?; sudo cat {LOG_DIR}/install.log; exit $code; }}") };
        let barrier = "Passes on the new boot only; on the old one it is cut off with the connection and tried again.";
        StageView {
            number: index + 1,
            title: stage.title.clone(),
            command,
            reboots,
            // A shutdown may end the shell by SIGTERM before the connection goes.
            exit_codes: if reboots { "[0, 143]" } else { "[0]" },
            barrier: if reboots { vec![barrier] } else { Vec::new() },
        }
    };
    // What needs GPUs and EFA devices can't be run here: Packer can give its builder no EFA.
    plan.stages.iter().enumerate().filter(|(_, stage)| stage.run != When::Target).map(view).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
