//! The planner, without a machine.

mod decisions;
mod prices;
