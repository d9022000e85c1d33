//! The command line.

mod command_line;
