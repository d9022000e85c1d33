//! One module a command, each with `run`; the short ones share one.

mod account;
pub mod build;
pub mod cluster;
pub mod docs;
pub mod fetch;
pub mod images;
pub mod launch;
pub mod list;
pub mod plan;
mod recipe;
pub mod render;
pub mod sweep;
pub mod validate;
pub mod verify;
