//! Owns the output of `nvidia-smi -q`: the driver and its GPUs. Knows nothing of hosts.
//!
//! The key's column is 36, 42 or 55 wide by the driver's age: lines are split at the first `:`. A GPU's heading has colons
//! and no value.

use super::text::{clean, number};

/// What `nvidia-smi -q` says of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NvidiaSmi {
    /// Driver.
    pub driver: Option<String>,
    /// Newest CUDA that the driver knows; it says nothing of what is installed. Drivers before 410 do not print it.
    pub cuda: Option<String>,
    /// GPUs.
    pub gpus: u64,
    /// Their models, as far as they are shown.
    pub models: Vec<String>,
}

/// Reads the output.
pub fn parse(output: &[u8]) -> NvidiaSmi {
    let mut found = NvidiaSmi::default();
    for line in output.split(|b| *b == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let value = line[colon + 1..].trim_ascii();
        match line[..colon].trim_ascii() {
            b"Driver Version" => found.driver = Some(clean(value)),
            b"CUDA Version" => found.cuda = Some(clean(value)),
            b"Attached GPUs" => found.gpus = number(value).unwrap_or(0),
            b"Product Name" => found.models.push(clean(value)),
            _ => {}
        }
    }
    found
}
