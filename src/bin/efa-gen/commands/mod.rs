//! One module a command, each with `run`.

pub mod fetch;
pub mod verify;
