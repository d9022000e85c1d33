//! Owns the tags by which an image says what it is made of. Those of a run are the program's.

use super::model::Plan;

/// Version of efa-gen.
pub const VERSION: &str = "efa-gen:version";
/// Digest of the plan.
pub const PLAN: &str = "efa-gen:plan";
/// Id of the distribution.
pub const DISTRIBUTION: &str = "efa-gen:distribution";
/// Id of the stack.
pub const STACK: &str = "efa-gen:stack";

/// Compatibility rules that the user allowed, if there are any.
pub const ALLOWED: &str = "efa-gen:allowed";

/// Tag of a component's version.
pub fn of_component(name: &str) -> String {
    format!("efa-gen:{name}")
}

/// The tags that say which plan an image is made of, without its components. `digest` is the plan's.
pub fn of_plan(plan: &Plan, digest: &str) -> Vec<(&'static str, String)> {
    let mut tags = vec![
        (VERSION, env!("CARGO_PKG_VERSION").to_owned()),
        (PLAN, digest.to_owned()),
        (DISTRIBUTION, plan.distribution.clone()),
        (STACK, plan.stack.clone()),
    ];
    if !plan.allowed.is_empty() {
        tags.push((ALLOWED, plan.allowed.join(" ")));
    }
    tags
}
