//! Owns the names of efa-gen's tags, and what its users may add. The tags in the account are what tells a run's things from everybody else's.

use std::collections::BTreeSet;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
pub use efa_gen::plan::tags::{DISTRIBUTION, PLAN, STACK};
use efa_gen::plan::{Plan, tags};
use jiff::Timestamp;

use crate::aws::model::Tags;

/// Which run made it.
pub const RUN: &str = "efa-gen:run";
/// What a run's instance is for: [`BUILDER`] or [`NODE`].
pub const ROLE: &str = "efa-gen:role";
/// Value of [`ROLE`] of the machine that an image is made of.
pub const BUILDER: &str = "builder";
/// Value of [`ROLE`] of a cluster's machines and of their elastic address; a gate is a cluster.
pub const NODE: &str = "node";
/// Name of the cluster that a node belongs to.
pub const CLUSTER: &str = "efa-gen:cluster";
/// When an instance ends itself, or an image in the making must be finished, ISO 8601: no sweep takes its run for dead before.
pub const UNTIL: &str = "efa-gen:until";
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
/// What [`STATE`] of an image may be.
pub const IMAGE_STATES: [&str; 4] = [BUILDING, PUBLISHED, REFUSED, REMOVING];

/// What an image is made of: efa-gen's version, the plan, the distribution, the stack, each component's version and digest.
pub fn of_plan(plan: &Plan) -> Tags {
    let digest = plan.digest();
    let of_plan = tags::of_plan(plan, &digest).into_iter().map(|(key, value)| (key.to_owned(), value));
    let mut tags: Tags = of_plan.collect();
    for component in &plan.components {
        let digest = component.digest.as_ref().map_or(String::new(), |digest| format!(" {digest}"));
        tags.insert(tags::of_component(component.name), format!("{}{digest}", component.version));
    }
    tags
}

/// A value of [`UNTIL`]: this long from a time on.
pub fn until(from: Timestamp, longest: Duration) -> String {
    let until = from.as_second().saturating_add_unsigned(longest.as_secs());
    Timestamp::from_second(until).unwrap_or(from).to_string()
}

/// The same for a time that is known, seconds since 1970.
pub fn until_second(deadline: i64) -> String {
    Timestamp::from_second(deadline).map(|time| time.to_string()).unwrap_or_default()
}

/// `KEY=VALUE` flags as tags, by EC2's limits (AWS EC2 User Guide, "Tag your Amazon EC2 resources").
pub fn own(flags: &[String]) -> Result<Tags> {
    let wrong = |flag: &str, why: &str| {
        Error::new(Class::Usage, format!("--tag {flag}: {why}")).hint("a tag is written like team=hpc")
    };
    let mut seen = BTreeSet::new();
    let mut tags = Tags::new();
    for flag in flags {
        let (key, value) = flag.split_once('=').ok_or_else(|| wrong(flag, "there is no `=`"))?;
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(wrong(flag, "a key has 1 to 128 characters, a value at most 256"));
        }
        // In either case of the letters (AWS EC2 User Guide, "Tag restrictions").
        if key.to_ascii_lowercase().starts_with("aws:") || key.starts_with("efa-gen:") {
            return Err(wrong(flag, "keys that begin with `aws:` or `efa-gen:` are not yours to give"));
        }
        if key == "Name" {
            return Err(wrong(flag, "the name is efa-gen's to give"));
        }
        if !seen.insert(key) {
            return Err(wrong(flag, "this key is given twice"));
        }
        tags.insert(key.to_owned(), value.to_owned());
    }
    // EC2 allows 50; efa-gen's own are 17 or fewer.
    if tags.len() > 33 {
        return Err(Error::new(Class::Usage, format!("{} tags are too many", tags.len()))
            .hint("33 at most: EC2 allows 50, efa-gen needs the rest"));
    }
    Ok(tags)
}
