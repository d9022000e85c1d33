//! Owns reading the flags that `render` and `plan` share into a request, the user's own script and stacks included.

use std::collections::BTreeMap;
use std::path::Path;

use efa_gen::catalog::Catalog;
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Request};

use crate::cli::RecipeArgs;
use crate::files;

/// An extra script larger than this is not a script.
const EXTRA_SCRIPT_LIMIT: u64 = 1 << 20;

/// A stack file larger than this is not one.
const STACK_FILE_LIMIT: u64 = 1 << 20;

/// The facts, with the user's own stacks if there is a file of them.
pub fn catalog(stack_file: Option<&Path>) -> Result<Catalog> {
    let catalog = Catalog::embedded()?;
    let Some(path) = stack_file else { return Ok(catalog) };
    catalog.with_stacks(&path.display().to_string(), &text(path, "stack file", STACK_FILE_LIMIT)?)
}

fn text(path: &Path, what: &str, limit: u64) -> Result<String> {
    String::from_utf8(files::read(path, what, limit)?).map_err(|error| {
        Error::new(Class::Usage, format!("{what} {} is not UTF-8 text", path.display())).because(error.utf8_error())
    })
}

/// The request without its distribution.
pub fn request(args: &RecipeArgs) -> Result<Request> {
    let mut sha256 = BTreeMap::new();
    for text in &args.sha256 {
        let (name, hex) = plan::parse_sha256(text)?;
        if sha256.insert(name.clone(), hex).is_some() {
            return Err(Error::new(Class::Usage, format!("--sha256 names `{name}` twice")));
        }
    }
    let extra_script =
        args.extra_script.as_ref().map(|path| text(path, "extra script", EXTRA_SCRIPT_LIMIT)).transpose()?;
    Ok(Request {
        distribution: String::new(),
        stack: args.stack.clone(),
        instance_type: args.instance_type.clone(),
        efa: args.efa.clone(),
        no_gpu: args.no_gpu,
        sha256,
        mirror: args.mirror.as_deref().map(plan::parse_mirror).transpose()?,
        extra_script,
        test: args.test,
    })
}
