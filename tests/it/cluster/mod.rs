//! Clusters, without an account or against a stub of AWS.

mod launch;
mod plan;
mod ssh;
