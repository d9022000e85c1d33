//! Owns nothing of its own: one module a command, each with `run`; short commands share one.

mod account;
pub mod build;
pub mod cluster;
pub mod docs;
pub mod fetch;
pub mod images;
mod installer;
pub mod launch;
pub mod list;
pub mod permissions;
pub mod plan;
mod recipe;
pub mod render;
pub mod sweep;
pub mod validate;
pub mod verify;
