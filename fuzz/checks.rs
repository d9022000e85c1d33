//! Owns what each fuzz target demands of any bytes; tests/it/fuzz.rs asks the same of every seed.

use std::time::{Duration, SystemTime};

use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::nccl::output::chart::NamedReport;
use efa_gen::nccl::output::html::html;
use efa_gen::nccl::output::junit::junit;
use efa_gen::nccl::{Expect, Reader, judge};
use efa_gen::plan::{self, Request};
use efa_gen::render::{self, Format, PackerGrammar};
use efa_gen::verify::{Pin, Refusal, VerifyRequest, detached, merged};

/// A key of the tests: its primary key packet, its fingerprint, and a signature by it or its subkey.
struct Signer {
    primary: &'static [u8],
    fingerprint: &'static str,
    signature: &'static [u8],
}

macro_rules! signer {
    ($name:literal) => {
        Signer {
            primary: include_bytes!(concat!("primary/", $name, ".gpg")),
            fingerprint: include_str!(concat!("../tests/fixtures/pgp/", $name, ".fpr")),
            signature: include_bytes!(concat!("../tests/fixtures/pgp/", $name, ".sig")),
        }
    };
}

/// In the order of seeds.py.
const SIGNERS: [Signer; 9] = [
    signer!("good"),
    signer!("sub"),
    signer!("revsub"),
    signer!("hard"),
    signer!("soft"),
    signer!("late"),
    signer!("expired"),
    signer!("expextended"),
    signer!("sha1self"),
];

const CERTIFICATE: &[u8] = include_bytes!("../tests/fixtures/pgp/good.asc");

/// In 2033: after every date in the fixtures but those that lie far ahead.
const AT: Duration = Duration::from_secs(2_000_000_000);

/// The verdict on data that none of these signatures is over: one that passes would be a forgery.
fn refused(signature: &[u8], certificate: &[u8], fingerprint: &Pin) -> Refusal {
    let at = SystemTime::UNIX_EPOCH + AT;
    let request = VerifyRequest { signature, certificate, fingerprint, sha256: None, at };
    detached(&b"data"[..], &request).expect_err("the signature is over other data")
}

/// The first byte chooses a primary key, the others follow it in a key file: so the pin always fits, and what is behind it is
/// judged. Together with the bare key that file loses no revocation.
pub fn key(input: &[u8]) -> Refusal {
    let (place, rest) = input.split_first().unwrap_or((&0, &[]));
    let signer = &SIGNERS[usize::from(*place) % SIGNERS.len()];
    let fingerprint = signer.fingerprint.trim().parse().expect("the fixture holds a fingerprint");
    let certificate = [signer.primary, rest].concat();
    let refusal = refused(signer.signature, &certificate, &fingerprint);
    if matches!(refusal, Refusal::Revoked { .. }) {
        for (there, fresh) in [(&certificate[..], signer.primary), (signer.primary, &certificate)] {
            let Ok(both) = merged(there, fresh, &fingerprint) else { continue };
            let of_both = refused(signer.signature, &both, &fingerprint);
            assert!(matches!(of_both, Refusal::Revoked { .. }), "a revocation was lost: {of_both:?}");
        }
    }
    refusal
}

/// Any bytes as a signature file, beside a real certificate.
pub fn signature(signature: &[u8]) -> Refusal {
    refused(signature, CERTIFICATE, &SIGNERS[0].fingerprint.trim().parse().expect("the fixture holds a fingerprint"))
}

/// Any text as a distribution file: refused, or a plan and three formats.
pub fn distribution(text: &str) {
    let Ok(distribution) = Distribution::parse("fuzzed", text) else { return };
    let pins = Catalog::embedded().expect("the embedded facts are sound").pins;
    let Ok(catalog) = Catalog::new(vec![distribution], pins) else { return };
    let request = Request { distribution: "fuzzed".into(), ..Request::default() };
    let Ok(plan) = plan::plan(&catalog, &request) else { return };
    for format in Format::all(PackerGrammar::Newest) {
        let _ = render::render(&plan, &[format]);
    }
}

/// Any bytes as an NCCL log, in two pieces: read, judged, shown, and where they are cut makes no difference.
pub fn nccl_log(bytes: &[u8]) {
    let mut whole = Reader::new();
    whole.feed(bytes);
    let whole = whole.finish(Some(0));
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut pieces = Reader::new();
    pieces.feed(first);
    pieces.feed(second);
    let pieces = pieces.finish(Some(0));
    let verdict = judge(&whole, &Expect::default());
    assert_eq!(verdict, judge(&pieces, &Expect::default()));
    let run = NamedReport { name: "fuzzed", report: &whole };
    html(&[run], &verdict, None, None).expect("a page can always be made");
    junit(&[("fuzzed", &verdict)]).expect("so can JUnit's XML");
}
