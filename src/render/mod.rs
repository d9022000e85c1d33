//! Owns the formats: one plan in, text out. Each format is one module and one template folder of the same
//! name; templates loop and fill, nothing more. Knows plans, not how they came about.

pub mod builder;
mod cloud_init;
mod helpers;
mod packer;
pub mod report;
mod script;
pub mod shell;
pub mod slurm;
mod template;

use crate::error::Result;
use crate::plan::Plan;

/// Grammar of the Packer template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackerGrammar {
    /// What 1.6.6 and every Packer since take.
    Common,
    /// What Packer 1.7 and newer know besides.
    Newest,
}

/// What a plan is rendered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Self-contained bash script.
    Script,
    /// cloud-init user-data that carries the script.
    CloudInit,
    /// Packer HCL2, used beside the script.
    Packer(PackerGrammar),
}

/// A rendered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its usual name.
    pub name: &'static str,
    /// Its text.
    pub text: String,
    /// Whether it is a program.
    pub executable: bool,
}

impl Format {
    /// Every format, in the order in which files are written.
    pub fn all(grammar: PackerGrammar) -> [Format; 3] {
        [Format::Script, Format::CloudInit, Format::Packer(grammar)]
    }
}

/// Renders the plan to these formats, one file each; Packer's newest grammar has a second one, right after the
/// first. Fails if a result would not fit where it must, or with [`crate::error::Class::Bug`] if a template is wrong.
pub fn render(plan: &Plan, formats: &[Format]) -> Result<Vec<File>> {
    let file = |name, text, executable| File { name, text, executable };
    // Once for all: it is the hash of the whole plan.
    let digest = plan.digest();
    let script = script::render(plan, &digest)?;
    let mut files = Vec::new();
    for format in formats {
        match format {
            Format::Script => files.push(file("install.sh", script.clone(), true)),
            Format::CloudInit => {
                files.push(file(
                    "user-data.yaml",
                    cloud_init::render(plan, &digest, &script::render_bare(plan, &digest)?)?,
                    false,
                ));
            }
            Format::Packer(grammar) => {
                files.push(file("image.pkr.hcl", packer::render(plan, &digest, &script, *grammar)?, false));
                if *grammar == PackerGrammar::Newest {
                    files.push(file("plugins.pkr.hcl", packer::plugins(), false));
                }
            }
        }
    }
    Ok(files)
}
