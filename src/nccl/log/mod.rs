//! Owns the reading of NCCL logs: from bytes to evidence, in one pass and in bounded memory.

pub(crate) mod bytes;
pub(crate) mod envelope;
pub(crate) mod evidence;
pub(crate) mod failure;
pub(crate) mod json;
pub(crate) mod line;
pub(crate) mod message;
pub(crate) mod reader;
pub(crate) mod report;
pub(crate) mod row;
