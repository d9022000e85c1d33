//! The command line, and what people read.

mod command_line;
mod login;
mod outside;
mod panics;
mod permissions;
mod secrets;
mod text;
