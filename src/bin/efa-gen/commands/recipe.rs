//! Owns reading the flags that `render` and `plan` share into a request, the user's own script included.

use std::collections::BTreeMap;

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Request};

use crate::cli::RecipeArgs;
use crate::files;

/// An extra script larger than this is not a script.
const EXTRA_SCRIPT_LIMIT: u64 = 1 << 20;

/// The request without its distribution.
pub fn request(args: &RecipeArgs) -> Result<Request> {
    let mut sha256 = BTreeMap::new();
    for text in &args.sha256 {
        let (name, hex) = plan::parse_sha256(text)?;
        if sha256.insert(name.clone(), hex).is_some() {
            return Err(Error::new(Class::Usage, format!("--sha256 names `{name}` twice")));
        }
    }
    let extra_script = match &args.extra_script {
        None => None,
        Some(path) => {
            let bytes = files::read(path, "extra script", EXTRA_SCRIPT_LIMIT)?;
            let text = String::from_utf8(bytes).map_err(|error| {
                Error::new(Class::Usage, format!("extra script {} is not UTF-8 text", path.display()))
                    .hint("let a script of yours download or unpack what is binary")
                    .because(error.utf8_error())
            })?;
            Some(text)
        }
    };
    Ok(Request {
        distribution: String::new(),
        stack: args.stack.clone(),
        instance_type: args.instance_type.clone(),
        efa: args.efa.clone(),
        no_gpu: args.no_gpu,
        sha256,
        extra_script,
        test: args.test,
    })
}
