//! The pure core of efa-gen: facts, plans, renderers, the signature check, clusters, and the judge of NCCL logs. It does no
//! I/O, reads no clock and no environment; the binary in `src/bin/efa-gen` owns all of that.

#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::too_many_lines)]

pub mod catalog;
pub mod error;
pub mod guest;
pub mod nccl;
pub mod plan;
pub mod render;
pub mod shell;
mod template;
pub mod text;
pub mod url;
pub mod verify;
pub mod version;
