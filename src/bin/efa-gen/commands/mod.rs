//! One module a command, each with `run`.

pub mod fetch;
mod recipe;
pub mod render;
pub mod verify;
