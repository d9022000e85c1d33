//! Owns the judgement of an NCCL test: the grammar of its log -> [`Report`]; report and [`Expect`] -> [`Verdict`]. Knows
//! nothing of files, clusters or terminals; it is fed with bytes and keeps a bounded part of what they say.
//!
//! The exit status of mpirun proves nothing: without EFA, NCCL falls back to TCP sockets, reports no wrong value and ends
//! with 0. So a run passes on evidence alone, and missing evidence is [`Outcome::Inconclusive`], never a pass.
//!
//! The grammar was read in the history of NVIDIA/nccl-tests, in NVIDIA/nccl from 2.4 to 2.30 and in aws/aws-ofi-nccl, and
//! tried on real logs of these ages; each module names the forms that it takes.

mod bandwidth;
mod check;
mod document;
mod evidence;
mod failure;
pub mod fi_info;
mod line;
mod message;
mod naming;
pub mod nvidia_smi;
mod reader;
mod report;
mod row;
mod text;
mod verdict;

pub use naming::size;
pub use reader::Reader;
pub use report::{Channels, Counted, End, Failure, Named, Rank, Report, Versions};
pub use row::{Preamble, Row, Timing};
pub use verdict::{Check, Expect, Finding, Outcome, Verdict, Weight, judge};
