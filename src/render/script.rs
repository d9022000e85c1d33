//! Owns the view of a plan that `templates/script` fills.

use std::io::Write;
use std::sync::LazyLock;

use serde::Serialize;

use super::actions;
use super::library::{Library, library};
use crate::error::Result;
use crate::plan::{Component, LOG_DIR, Plan, STATE_DIR, Stage, Step, Then, When};
use crate::shell::quote;
use crate::template::Template;

#[derive(Serialize)]
struct ScriptView<'a> {
    title: String,
    version: &'static str,
    digest: &'a str,
    library: Library,
    components: Vec<String>,
    notes: Vec<String>,
    state_dir: &'static str,
    log_dir: &'static str,
    reboot_after: String,
    image_only: String,
    target_only: String,
    stage_count: usize,
    stages: Vec<StageView<'a>>,
    environment: Vec<String>,
    package_locks: String,
    recover_packages: String,
    refresh_packages: String,
    after_reboot: String,
    hook_install: String,
    hook_start: String,
    hook_remove: String,
}

#[derive(Serialize)]
struct StageView<'a> {
    number: usize,
    id: &'a str,
    function: String,
    title: &'a str,
    heading: String,
    steps: Vec<StepView<'a>>,
}

#[derive(Serialize)]
struct StepView<'a> {
    id: String,
    title: &'a str,
    function: String,
    hint: Option<&'a str>,
    comment: String,
    body: String,
}

const TEXT: &str = include_str!("../../templates/script/install.sh");
static FULL: LazyLock<Template> = LazyLock::new(|| Template::new(NAME, TEXT, escape));
static BARE: LazyLock<Template> =
    LazyLock::new(|| Template::new(NAME, &format!("#!/bin/bash\n{}", code(TEXT)), escape));
const NAME: &str = "script/install.sh";

/// The script as people read it.
pub(crate) fn render(plan: &Plan, digest: &str) -> Result<String> {
    fill(plan, digest, &FULL, true)
}

/// The same script for where bytes count: without our comments and blank lines, and without the stages that are
/// for images only. It has the same plan, so the whole script can take over on the machine.
pub(crate) fn render_bare(plan: &Plan, digest: &str) -> Result<String> {
    fill(plan, digest, &BARE, false)
}

/// The lines that are neither comments nor blank, with half of their indentation, and without the arguments that are told behind
/// the head of a function.
fn code(text: &str) -> String {
    let code = |line: &&str| !line.trim_start().starts_with('#') && !line.is_empty();
    let short = |line: &str| {
        let line = if line.contains("() {") { line.split(" # ").next().unwrap_or(line) } else { line };
        let bare = line.trim_start();
        format!("{}{bare}\n", &line[..(line.len() - bare.len()) / 2])
    };
    text.lines().filter(code).map(short).collect()
}

fn fill(plan: &Plan, digest: &str, template: &Template, whole: bool) -> Result<String> {
    let stages: Vec<&Stage> = plan.stages.iter().filter(|stage| whole || stage.run != When::Image).collect();
    let ids = |wanted: &dyn Fn(&Stage) -> bool| {
        stages.iter().filter(|stage| wanted(stage)).map(|stage| stage.id).collect::<Vec<_>>().join(" ")
    };
    let steps = stages.iter().flat_map(|stage| &stage.steps).flat_map(|step| &step.actions);
    let hook = [&plan.boot_hook.install, &plan.boot_hook.start, &plan.boot_hook.remove];
    let others = hook.into_iter().chain([&plan.package_locks, &plan.after_reboot]).flatten();
    let shape = |text: &str| if whole { text.to_owned() } else { code(text) };
    let refresh = (!plan.refresh_packages.is_empty()).then(|| plan.refresh_packages.clone());
    let view = ScriptView {
        title: format!("EFA + NCCL on {}, stack {}", comment(&plan.distribution_name), comment(&plan.stack)),
        version: env!("CARGO_PKG_VERSION"),
        digest,
        library: library(steps.chain(others), if whole { "whole" } else { "bare" }, shape),
        components: plan.components.iter().flat_map(describe).collect(),
        notes: plan.notes.iter().map(|note| comment(note)).collect(),
        state_dir: STATE_DIR,
        log_dir: LOG_DIR,
        reboot_after: ids(&|stage| stage.then == Then::Reboot),
        image_only: ids(&|stage| stage.run == When::Image),
        target_only: ids(&|stage| stage.run == When::Target),
        stage_count: stages.len(),
        stages: stages
            .iter()
            .enumerate()
            .map(|(index, stage)| stage_view(index + 1, stage, whole))
            .collect::<Result<_>>()?,
        environment: plan.environment.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        package_locks: actions::body(&plan.package_locks)?,
        recover_packages: actions::first_that_succeeds(&plan.recover_packages)?,
        refresh_packages: actions::first_that_succeeds(refresh.as_slice())?,
        after_reboot: actions::body(&plan.after_reboot)?,
        hook_install: actions::body(&plan.boot_hook.install)?,
        hook_start: actions::body(&plan.boot_hook.start)?,
        hook_remove: actions::body(&plan.boot_hook.remove)?,
    };
    template.fill(&view)
}

fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    let quoted = quote(text).map_err(std::io::Error::other)?;
    output.write_all(quoted.as_bytes())
}

fn stage_view(number: usize, stage: &Stage, whole: bool) -> Result<StageView<'_>> {
    Ok(StageView {
        number,
        id: stage.id,
        function: identifier(stage.id),
        title: &stage.title,
        heading: comment(&stage.title),
        steps: stage.steps.iter().map(|step| step_view(stage, step, whole)).collect::<Result<_>>()?,
    })
}

fn step_view<'a>(stage: &Stage, step: &'a Step, whole: bool) -> Result<StepView<'a>> {
    let mut lines = Vec::new();
    if whole {
        lines.push(format!("# {}.", comment(&step.title)));
        lines.extend(step.why.iter().map(|why| format!("# Why: {}.", comment(why))));
    }
    Ok(StepView {
        id: format!("{}.{}", stage.id, step.id),
        title: &step.title,
        function: identifier(&format!("{}_{}", stage.id, step.id)),
        hint: step.hint.as_deref(),
        comment: lines.join("\n"),
        body: actions::body(&step.actions)?,
    })
}

fn describe(component: &Component) -> Vec<String> {
    let mut lines = vec![comment(&format!("{} {}, {}", component.title, component.version, component.origin))];
    lines.extend(component.digest.as_ref().map(|digest| comment(&format!("  {digest}"))));
    lines.push(comment(&format!("  source of the digest: {}", component.published)));
    lines
}

/// Text that stays on its comment line.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A shell function's name.
fn identifier(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
