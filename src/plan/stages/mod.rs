//! Owns what each stage of a plan does, one module for those that belong together.

pub(crate) mod check;
pub(crate) mod driver;
pub(crate) mod efa;
pub(crate) mod environment;
pub(crate) mod extra;
pub(crate) mod kernel;
pub(crate) mod nccl;
pub(crate) mod parts;
pub(crate) mod prepare;
pub(crate) mod seal;
