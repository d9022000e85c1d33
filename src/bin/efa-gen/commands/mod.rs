//! One module a command, each with `run`; the short ones share one.

#[cfg(feature = "ec2")]
mod account;
#[cfg(feature = "ec2")]
pub mod build;
#[cfg(feature = "ec2")]
pub mod cluster;
pub mod docs;
pub mod fetch;
#[cfg(feature = "ec2")]
pub mod images;
#[cfg(feature = "ec2")]
pub mod launch;
pub mod list;
pub mod plan;
mod recipe;
pub mod render;
#[cfg(feature = "ec2")]
pub mod sweep;
pub mod validate;
pub mod verify;
