//! Owns `efa-gen plan`: the plan for people and for programs.

use std::fmt::Write;

use efa_gen::error::Result;
use efa_gen::plan::{self, Plan, Request, Then, When};

use super::{list, recipe};
use crate::cli::{OutputArg, PlanArgs};
use crate::report;

pub fn run(args: &PlanArgs) -> Result<()> {
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let request = Request { distribution: args.distro.clone(), ..recipe::request(&args.recipe)? };
    let plan = plan::plan(&catalog, &request)?;
    match args.output.output {
        OutputArg::Human => report::data(describe(&plan).as_bytes()),
        OutputArg::Json => list::json(&plan),
    }
}

fn describe(plan: &Plan) -> String {
    let mut text = format!("{}, stack {}\n", plan.distribution_name, plan.stack);
    for note in &plan.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let _ = writeln!(text, "plan {}\n", plan.digest());
    for component in &plan.components {
        let digest = component.digest.as_deref().unwrap_or("no digest of its own");
        let _ = writeln!(text, "  {:<22} {:<12} {}", component.title, component.version, digest);
    }
    text.push('\n');
    let count = plan.stages.len();
    for (index, stage) in plan.stages.iter().enumerate() {
        let when = match stage.run {
            When::Install => "",
            When::Target => "  (needs GPUs and EFA devices)",
            When::Image => "  (only with --stage seal, when the machine becomes an image)",
        };
        let _ = writeln!(text, "[{}/{count}] {}: {}{when}", index + 1, stage.id, stage.title);
        for step in &stage.steps {
            let _ = writeln!(text, "      {:<14} {}", step.id, step.title);
        }
        if stage.then == Then::Reboot {
            text.push_str("   -- reboot --\n");
        }
    }
    text
}
