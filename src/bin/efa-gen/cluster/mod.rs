//! Owns clusters: the launch, the nodes, what they trust each other by, and the check of each.

pub mod access;
pub mod check;
pub mod fleet;
pub mod launch;
pub mod nodes;
pub mod preflight;
pub mod record;
pub mod rekey;
pub mod ssh_rules;
pub mod trust;
