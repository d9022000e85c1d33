//! Any bytes as an NCCL log: never a panic.

#![no_main]

#[allow(dead_code, reason = "each target uses its own check")]
#[path = "../checks.rs"]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    checks::nccl_log(bytes);
});
