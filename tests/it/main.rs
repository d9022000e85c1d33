//! The tests that need nothing but Rust and a C compiler, one binary: the program as its users run it, and the library's
//! public surface. Stubs stand in for AWS and for every program that a fresh machine lacks.

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod cluster;
mod fuzz;
mod image;
mod nccl;
mod plan;
mod render;
mod sample;
mod structure;
mod tidy;
mod verify;
