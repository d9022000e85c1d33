//! Owns the formats: one plan in, text out. Each format is one module and one template folder of the same name;
//! templates fill, and decide nothing.

pub mod actions;
mod cloud_init;
mod library;
pub mod packer;
mod script;

pub use cloud_init::compressed_user_data;

use crate::error::Result;
use crate::plan::Plan;

/// Grammar of the Packer template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackerGrammar {
    /// What 1.6.6 and every Packer since take; not for every distribution, see [`packer::check_login`].
    Common,
    /// What Packer 1.7 and newer know besides.
    Newest,
}

/// What a plan is rendered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Self-contained bash script.
    Script,
    /// cloud-init user-data that carries the script, as text and compressed for EC2.
    CloudInit,
    /// Packer HCL2, used beside the script.
    Packer(PackerGrammar),
}

/// A rendered file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its usual name.
    pub name: &'static str,
    /// Its text, uncompressed.
    pub text: String,
    /// The text compressed, where that is what the file holds.
    pub compressed: Option<Vec<u8>>,
    /// Whether it is a program.
    pub executable: bool,
}

impl File {
    /// What the file holds.
    pub fn bytes(&self) -> &[u8] {
        self.compressed.as_deref().unwrap_or(self.text.as_bytes())
    }
}

impl Format {
    /// Every format, in the order in which files are written.
    pub fn all(grammar: PackerGrammar) -> [Format; 3] {
        [Format::Script, Format::CloudInit, Format::Packer(grammar)]
    }
}

/// Renders the plan to these formats, one file each; user-data and Packer's newest grammar have a second one, right after
/// the first. Fails if a result would not fit where it must, if Packer of that grammar can't log in to the machine, or with
/// [`crate::error::Class::Bug`] if a template is wrong.
pub fn render(plan: &Plan, formats: &[Format]) -> Result<Vec<File>> {
    let file = |name, text, executable| File { name, text, compressed: None, executable };
    // Once for all: it is the hash of the whole plan.
    let digest = plan.digest();
    let script = script::render(plan, &digest)?;
    let mut files = Vec::new();
    for format in formats {
        match format {
            Format::Script => files.push(file("install.sh", script.clone(), true)),
            Format::CloudInit => {
                let (text, bytes) = cloud_init::render(plan, &digest, &script::render_bare(plan, &digest)?)?;
                let compressed = Some(bytes);
                files.push(file("user-data.yaml", text.clone(), false));
                files.push(File { name: "user-data.yaml.gz", text, compressed, executable: false });
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
