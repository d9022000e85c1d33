//! Images, against a stub of AWS.

mod account;
mod builder;
mod packer_driver;
mod preflight;
mod publish;
mod resume;
