//! Owns the manifest: what was built, in the form of Packer's `manifest` post-processor and with what that has no place
//! for. Knows nothing of AWS.

use std::path::Path;

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::Plan;
use serde_json::{Value, json};

use crate::build::Built;
use crate::build::preflight::Ready;
use crate::files;

/// The text of the manifest file with this build added; builds of other runs that it holds are kept, as Packer does.
///
/// Errors: the file is there and is no manifest.
pub fn manifest(path: &Path, plan: &Plan, ready: &Ready, run: &str, built: &Built) -> Result<String> {
    let mut all = match files::read_if_there(path, "manifest")? {
        Some(bytes) => serde_json::from_slice::<Value>(&bytes).map_err(|error| no_manifest(path).because(error))?,
        None => json!({ "builds": [] }),
    };
    let Some(builds) = all.get_mut("builds").and_then(Value::as_array_mut) else { return Err(no_manifest(path)) };
    if !builds.iter().all(|build| build["packer_run_uuid"].is_string()) {
        return Err(no_manifest(path));
    }
    builds.retain(|build| build["packer_run_uuid"] != run);
    builds.push(entry(plan, ready, run, built));
    all["last_run_uuid"] = run.into();
    Ok(format!("{all:#}\n"))
}

/// Packer's keys, and `efa-gen` with ours. Ours are the build's, not the file's: a file may hold several.
fn entry(plan: &Plan, ready: &Ready, run: &str, built: &Built) -> Value {
    let places: Vec<String> = built.copies.iter().map(|copy| format!("{}:{}", copy.region, copy.image)).collect();
    json!({
        "name": plan.distribution,
        "builder_type": "efa-gen",
        "build_time": built.image.created.parse().unwrap_or_else(|_| jiff::Timestamp::now()).as_second(),
        "files": null,
        "artifact_id": places.join(","),
        "packer_run_uuid": run,
        "custom_data": ready.tags,
        "efa-gen": {
            "version": env!("CARGO_PKG_VERSION"),
            "plan": plan.digest(),
            "base": ready.base.id,
            "images": built.copies,
            "components": plan.components,
        },
    })
}

fn no_manifest(path: &Path) -> Error {
    Error::new(Class::Usage, format!("{} is there and is no manifest of Packer's form", path.display()))
        .hint("name another file with --manifest, or remove this one; the image itself is finished: `efa-gen images` lists it")
}
