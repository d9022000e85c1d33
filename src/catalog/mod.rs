//! Owns the facts: distributions, software stacks, the EFA installer's releases and instance types, all
//! read from data files. Knows nothing of plans or formats.

pub mod efa;
