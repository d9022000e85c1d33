//! Any bytes as a signature file, beside a real certificate: refused, never a panic.

#![no_main]

use std::time::{Duration, SystemTime};

use efa_gen::verify::{Request, detached};
use libfuzzer_sys::fuzz_target;

const CERTIFICATE: &[u8] = include_bytes!("../../tests/fixtures/pgp/good.asc");
const FINGERPRINT: &str = include_str!("../../tests/fixtures/pgp/good.fpr");

fuzz_target!(|signature: &[u8]| {
    let fingerprint = FINGERPRINT.trim().parse().expect("the fixture holds a fingerprint");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let request = Request { signature, certificate: CERTIFICATE, fingerprint: &fingerprint, sha256: None, at };
    // Not over this data: a signature that passes would be a forgery.
    assert!(detached(&b"data"[..], &request).is_err());
});
