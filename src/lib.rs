//! The pure core of efa-gen: facts, plans, renderers and the signature check. It does no I/O, reads no
//! clock and no environment; the binary in `src/bin/efa-gen` owns all of that.

#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::too_many_lines)]

pub mod catalog;
pub mod error;
pub mod plan;
pub mod render;
pub mod verify;
