//! Images, against a stub of AWS.

mod account;
mod builder;
mod ownership;
mod packer_driver;
mod power_cut;
mod preflight;
mod publish;
mod resume;
