//! What is rendered, and what it does when it is executed.

mod kernel;
mod machine_checks;
mod packer;
mod quoting;
mod script;
mod seal;
mod signatures;
mod snapshots;
mod user_data;
mod verdict;
