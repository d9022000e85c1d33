//! Owns the plan: every choice made, nothing left to decide at run time.

mod action;
mod argument;
pub mod compatibility;
mod digests;
mod model;
mod planner;
mod request;
mod resolve;
mod stages;
pub mod tags;

pub use self::action::{Action, Assertion, GuestCommand};
pub use self::argument::{Argument, GuestVariable, Segment};
pub use self::model::{
    BaseImage, BootHook, CUDA_CONTEXTS, Component, LOG_DIR, Plan, RELEASE_FILE, STATE_DIR, Stage, Step, Then, When,
};
pub use self::planner::plan;
pub use self::request::{EfaDigest, Request, mirrored, parse_mirror, parse_sha256, parse_yum_repository};
pub use self::stages::parts::{EFA_PREFIX, MPI_OPTIONS, MPI_PREFIX, NCCL_PREFIX, TESTS_PREFIX};
