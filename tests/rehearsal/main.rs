//! The rehearsal: what efa-gen renders is executed in a cloud on one machine (control.py and the folders beside it).
//!
//! Run by `tests/rehearsal/run`, which starts the cloud and runs each test as a process of its own, as many side by side as
//! the machine bears; a plain `cargo test` leaves them out and says so. Of cuts, kills and full disks a run tries its share.

#![allow(clippy::print_stderr, reason = "a test's output is shown when it fails")]

#[path = "../support/canaries.rs"]
mod canaries;
#[path = "../support/sample.rs"]
mod sample;

mod account;
mod build;
mod build_cuts;
mod build_faults;
mod build_plans;
mod build_ways;
mod cloud_clusters;
mod cloud_itself;
mod cloud_runs;
mod cluster;
mod cluster_cuts;
mod cluster_grows;
mod cluster_runs;
mod cluster_ways;
mod cuts;
mod faults;
mod image;
mod machine;
mod packer;
mod permissions;
mod published;
mod script;
mod slurm;
mod stand_ins;
mod user_data;
