//! The planner, without a machine.

mod decisions;
mod kernel;
mod matrix;
mod prices;
mod published;
