//! Any text as a distribution file: never a panic.

#![no_main]

#[allow(dead_code, reason = "each target uses its own check")]
#[path = "../checks.rs"]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    checks::distribution(text);
});
