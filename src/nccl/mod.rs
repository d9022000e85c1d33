//! Owns the judgement of an NCCL test: the grammar of its log -> [`Report`]; report and [`Expect`] -> [`Verdict`].
//!
//! The exit status of mpirun proves nothing: without EFA, NCCL falls back to TCP sockets, reports no wrong value and ends
//! with 0. So a run passes on evidence alone, and missing evidence is [`Outcome::Inconclusive`], never a pass.
//!
//! The grammar was read in the history of NVIDIA/nccl-tests, in NVIDIA/nccl from 2.4 to 2.30 and in aws/aws-ofi-nccl, and
//! tried on real logs of these ages; each module names the forms that it takes.

pub mod command;
pub mod counters;
pub mod fi_info;
pub mod interfaces;
mod judge;
mod log;
pub mod output;
pub mod pairs;
pub mod processes;
pub mod ras;

pub use self::judge::judge;
pub use self::judge::verdict::{Check, Expect, Finding, Outcome, Severity, Verdict};
pub use self::log::failure::PluginFault;
pub use self::log::reader::Reader;
pub use self::log::report::{Channels, Counted, End, Failure, PluginWarning, Rank, Report, SizeBandwidth, Versions};
pub use self::log::row::{Preamble, Row, Timing};
