//! Owns what is written about a test for others to read: the HTML page, JUnit, and the batch job for Slurm.

pub mod chart;
pub mod facts;
pub mod html;
pub mod junit;
pub(crate) mod pairs;
pub mod slurm;
