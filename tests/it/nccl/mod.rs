//! The NCCL test: logs, verdicts, and how it is run.

mod bad_host;
mod bars;
mod command;
mod counters;
mod endings;
mod envelopes;
mod hang;
mod hostile;
mod hosts;
mod interfaces;
mod logs;
mod model;
mod pairs;
mod ras;
mod runs;
mod slurm;
mod test_command;
