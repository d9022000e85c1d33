//! Owns the names of efa-gen's tags. The tags in the account are what tells a run's things from everybody else's.

use efa_gen::plan::Plan;

use crate::ec2::model::Tags;

/// Which run made it.
pub const RUN: &str = "efa-gen:run";
/// What a run's instance is for: `builder`, `gate` or `node`.
pub const ROLE: &str = "efa-gen:role";
/// Name of the cluster that a node belongs to.
pub const CLUSTER: &str = "efa-gen:cluster";
/// Which distribution an image is of.
pub const DISTRIBUTION: &str = "efa-gen:distribution";
/// When an instance ends itself, ISO 8601: no sweep takes its run for dead before.
pub const UNTIL: &str = "efa-gen:until";
/// Digest of the plan.
pub const PLAN: &str = "efa-gen:plan";
/// Id of the base AMI.
pub const BASE: &str = "efa-gen:base-ami";
/// Name of the base AMI.
pub const BASE_NAME: &str = "efa-gen:base-name";
/// How far an image is: `building`, `published`, or `refused` by its gate.
pub const STATE: &str = "efa-gen:state";
/// What the gate said of an image: `passed`, `failed`.
pub const VERDICT: &str = "efa-gen:verdict";
/// Value of [`STATE`] from CreateImage on.
pub const BUILDING: &str = "building";
/// Value of [`STATE`] on a builder whose disk is ready to become an image.
pub const SEALED: &str = "sealed";
/// Value of [`STATE`] when everything that was asked for is done.
pub const PUBLISHED: &str = "published";
/// Value of [`STATE`] when the gate failed: kept to look into, shared with nobody.
pub const REFUSED: &str = "refused";

/// Value of [`STATE`] when `efa-gen image rm` is at it: what that leaves, a sweep takes.
pub const REMOVING: &str = "removing";

/// What an image is made of: efa-gen's version, the plan, the distribution, the stack, each component's version and digest.
pub fn of_plan(plan: &Plan) -> Tags {
    let mut tags = Tags::from([
        ("efa-gen:version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (PLAN.to_owned(), plan.digest()),
        (DISTRIBUTION.to_owned(), plan.distribution.clone()),
        ("efa-gen:stack".to_owned(), plan.stack.clone()),
    ]);
    for component in &plan.components {
        let digest = component.digest.as_ref().map_or(String::new(), |digest| format!(" {digest}"));
        tags.insert(format!("efa-gen:{}", component.name), format!("{}{digest}", component.version));
    }
    tags
}
