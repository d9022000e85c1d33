//! Owns files, processes, the network and the terminal: effects that know nothing of builds and clusters.

pub mod concurrency;
pub mod events;
pub mod files;
pub mod http;
pub mod output;
pub mod panic_hook;
pub mod partial_file;
pub mod signals;
pub mod ssh;
pub mod ssh_route;
pub mod streamed_check;
pub mod terminal;
pub mod wait;
