//! Owns what builds and clusters share about a run: its state on this machine, its tags, its resources, and their clean-up.

pub mod cleanup;
pub mod context;
pub mod id;
pub mod ledger;
pub mod ownership;
pub mod policy;
pub mod resources;
pub mod state;
pub mod tags;
