//! One module a command, each with `run`; the short ones share one.

pub mod docs;
pub mod fetch;
pub mod list;
pub mod plan;
mod recipe;
pub mod render;
pub mod verify;
