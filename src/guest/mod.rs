//! Owns the texts that efa-gen exchanges with machines: user data, console marks, trust between nodes, questions and answers.

pub mod console;
pub mod facts;
pub mod release;
pub mod ssh_trust;
pub mod user_data;
