//! Owns the reading of a manifest file, and what makes it one.

use std::path::Path;

use efa_gen::error::{Class, Error, Result};
use efa_gen::text::clip;
use serde_json::{Value, json};

use crate::io::files;

/// What the manifest file has; one that is not there has no builds.
///
/// Errors: the file is there and is no manifest.
pub fn read(path: &Path) -> Result<Value> {
    let Some(bytes) = files::read_if_there(path, "manifest")? else { return Ok(json!({ "builds": [] })) };
    serde_json::from_slice(&bytes).map_err(|error| no_manifest(path).with_source(clip(&error.to_string(), 300)))
}

/// The builds of a manifest, each with the run that made it.
///
/// Errors: it is no manifest.
pub fn builds<'a>(path: &Path, manifest: &'a Value) -> Result<&'a Vec<Value>> {
    let builds = manifest["builds"].as_array().ok_or_else(|| no_manifest(path))?;
    let named = builds.iter().all(|build| build["packer_run_uuid"].is_string());
    if named { Ok(builds) } else { Err(no_manifest(path)) }
}

/// Whether the manifest file has this image, built of this plan.
///
/// Errors: the file is there and is no manifest.
pub fn holds(path: &Path, image: &str, plan: &str) -> Result<bool> {
    let manifest = read(path)?;
    let names = |build: &Value| {
        build["efa-gen"]["images"].as_array().is_some_and(|copies| copies.iter().any(|copy| copy["image"] == image))
    };
    Ok(builds(path, &manifest)?.iter().any(|build| build["efa-gen"]["plan"] == plan && names(build)))
}

fn no_manifest(path: &Path) -> Error {
    Error::new(Class::Usage, format!("{} is there and is no manifest of Packer's form", path.display()))
        .hint("name another file with --manifest, or remove this one; the image itself is finished: `efa-gen images` lists it")
}
