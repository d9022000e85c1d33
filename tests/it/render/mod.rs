//! What is rendered, and what it does when it is executed.

mod quoting;
mod script;
mod snapshots;
mod verdict;
