//! The rendered files before the real programs that read them, one binary. A plain `cargo test` leaves these tests out and
//! says so: they need programs that a fresh machine lacks. `.ci/run` installs the programs and runs them all.

#[path = "../support/mod.rs"]
mod support;

mod counterparts;
mod packages;
