//! Owns what is written to the manifest: what was built, in the form of Packer's `manifest` post-processor and with what that has no place
//! for.

use std::path::Path;

use efa_gen::error::Result;
use efa_gen::plan::Plan;
use serde_json::{Value, json};

use super::build::Built;
use super::manifest_file;
use super::preflight::ResolvedBuild;

/// The text of the manifest file with this build added; builds of other runs that it holds are kept, as Packer does.
///
/// Errors: the file is there and is no manifest.
pub fn manifest(path: &Path, plan: &Plan, resolved: &ResolvedBuild, run: &str, built: &Built) -> Result<String> {
    let mut all = manifest_file::read(path)?;
    let mut builds = manifest_file::builds(path, &all)?.clone();
    builds.retain(|build| build["packer_run_uuid"] != run);
    builds.push(entry(plan, resolved, run, built));
    all["builds"] = builds.into();
    all["last_run_uuid"] = run.into();
    Ok(format!("{all:#}\n"))
}

/// Packer's keys, and `efa-gen` with ours. Ours are the build's, not the file's: a file may hold several.
fn entry(plan: &Plan, resolved: &ResolvedBuild, run: &str, built: &Built) -> Value {
    let places: Vec<String> = built.copies.iter().map(|copy| format!("{}:{}", copy.region, copy.image)).collect();
    json!({
        "name": plan.distribution,
        "builder_type": "efa-gen",
        "build_time": built.image.created.parse().unwrap_or_else(|_| jiff::Timestamp::now()).as_second(),
        "files": null,
        "artifact_id": places.join(","),
        "packer_run_uuid": run,
        "custom_data": resolved.tags,
        "efa-gen": {
            "version": env!("CARGO_PKG_VERSION"),
            "plan": plan.digest(),
            "base": resolved.base.id,
            "images": built.copies,
            "components": plan.components,
        },
    })
}
