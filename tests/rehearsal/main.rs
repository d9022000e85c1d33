//! The rehearsal: what efa-gen renders is executed in a cloud on one machine (control.py and the folders beside it).
//!
//! Run by `tests/rehearsal/run`, which starts the cloud; a plain `cargo test` leaves it out and says so. With
//! `EFA_GEN_REHEARSAL_FULL` set, every cut is also made on a guest of its own; else a sample.

#![allow(clippy::print_stderr, reason = "a test's output is shown when it fails")]

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
mod published;
mod script;
mod slurm;
mod stand_ins;
mod user_data;
