//! Owns `efa-gen plan`: the plan for people and for programs.

use efa_gen::error::Result;
use efa_gen::plan::{self, Plan, Request, Then, When};

use super::{list, recipe};
use crate::cli::{OutputArg, PlanArgs};
use crate::io::terminal;

pub fn run(args: &PlanArgs) -> Result<()> {
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let request = Request { distribution: args.distro.clone(), ..recipe::request(&args.recipe)? };
    let plan = plan::plan(&catalog, &request)?;
    match args.output.output {
        OutputArg::Human => terminal::lines(describe(&plan)),
        OutputArg::Json => list::json(&plan),
    }
}

fn describe(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!("{}, stack {}", plan.distribution_name, plan.stack)];
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    lines.push(format!("plan {}", plan.digest()));
    lines.push(String::new());
    for component in &plan.components {
        let digest = component.digest.as_deref().unwrap_or("no digest of its own");
        lines.push(format!("  {:<22} {:<12} {}", component.title, component.version, digest));
    }
    lines.push(String::new());
    let count = plan.stages.len();
    for (index, stage) in plan.stages.iter().enumerate() {
        let when = match stage.run {
            When::Install => "",
            When::Target => "  (needs GPUs and EFA devices)",
            When::Image => "  (only with --stage seal, when the machine becomes an image)",
        };
        lines.push(format!("[{}/{count}] {}: {}{when}", index + 1, stage.id, stage.title));
        lines.extend(stage.steps.iter().map(|step| format!("      {:<14} {}", step.id, step.title)));
        if stage.then == Then::Reboot {
            lines.push("   -- reboot --".to_owned());
        }
    }
    lines
}
