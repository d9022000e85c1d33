//! Any bytes as a signature file, beside a real certificate: refused, never a panic. The certificate is
//! read from the file that `EFA_GEN_FUZZ_KEY` names, its primary fingerprint from `EFA_GEN_FUZZ_PIN`.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use efa_gen::verify::{Pin, Request, detached};
use libfuzzer_sys::fuzz_target;

static CERTIFICATE: LazyLock<(Vec<u8>, Pin)> = LazyLock::new(|| {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("set {name}"));
    let certificate = std::fs::read(variable("EFA_GEN_FUZZ_KEY")).expect("a key file");
    (certificate, variable("EFA_GEN_FUZZ_PIN").parse().expect("a fingerprint"))
});

fuzz_target!(|signature: &[u8]| {
    let (certificate, fingerprint) = &*CERTIFICATE;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let request = Request { signature, certificate, fingerprint, sha256: None, at };
    // Not over this data: a signature that passes would be a forgery.
    assert!(detached(&b"data"[..], &request).is_err());
});
