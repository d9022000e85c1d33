//! Owns what a build and a launch look up before anything is made: the base AMI, the placement, and the problems found.

pub mod access;
pub mod base_ami;
pub mod context;
pub mod placement;
pub mod problem;
pub mod quota;
