//! Owns how the nodes of a cluster are reached.

use serde::{Deserialize, Serialize};

/// How the nodes are reached from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessPath {
    /// Each by its public address.
    Public,
    /// The leader by its elastic address, the others through it: a node with several interfaces gets no public address.
    ThroughLeader,
    /// Each by its private address.
    Private,
    /// Each through Session Manager.
    SessionManager,
}
