//! The NCCL test: logs, verdicts, and how it is run.

mod bad_host;
mod bars;
mod command;
mod endings;
mod envelopes;
mod hostile;
mod hosts;
mod logs;
mod model;
mod pairs;
mod ras;
mod runs;
mod slurm;
mod test_command;
