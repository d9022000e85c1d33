//! Owns every call to AWS, in efa-gen's own types. No other folder names the SDK.

pub mod action;
pub mod client;
pub mod error;
pub mod images;
pub mod instances;
mod login;
pub mod model;
pub mod network;
pub mod resources;

pub use self::client::{Aws, is_region};
