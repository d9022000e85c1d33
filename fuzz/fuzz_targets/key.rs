//! Any bytes as a key file: refused, never a panic.

#![no_main]

use std::time::{Duration, SystemTime};

use efa_gen::catalog::efa::PUBLISHER_FINGERPRINT;
use efa_gen::verify::{Request, detached};
use libfuzzer_sys::fuzz_target;

/// A version 4 signature packet without subpackets: enough to get past the signature file.
const SIGNATURE: &[u8] = &[0x88, 0x0d, 4, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 1, 1];

fuzz_target!(|certificate: &[u8]| {
    let Ok(fingerprint) = PUBLISHER_FINGERPRINT.parse() else { return };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let request = Request { signature: SIGNATURE, certificate, fingerprint: &fingerprint, sha256: None, at };
    assert!(detached(&b"data"[..], &request).is_err());
});
