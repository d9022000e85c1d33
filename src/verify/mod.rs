//! Owns the OpenPGP check: bytes + signature + certificate + time -> who signed, or why not. Knows
//! nothing of files, downloads or terminals, and asks no clock: the time is an argument.
//!
//! # The policy
//!
//! GnuPG (2.2.40, by its exit code) and Sequoia's `sqv` (1.1.0) disagree on many inputs. What counts here:
//!
//! | case | gpg | sqv | here |
//! |---|---|---|---|
//! | key file | whole keyring | whole keyring | the one certificate whose *primary* fingerprint is pinned |
//! | key expired, signature made before | good | good | good, with a warning |
//! | signature made after the key expired | **good** | refused | refused |
//! | key extended later, only the new self-signature left in the file | **good** | refused | good: see below |
//! | key or signing subkey revoked, for any reason, at any date | **good** | refused if hard, or before signing | refused |
//! | SHA-1, MD5 or RIPEMD-160 over the data | **good** (SHA-1) | refused | refused |
//! | SHA-1 in the certificate's self-signature | good | refused | good: the pinned fingerprint vouches for the key |
//! | RSA below 2048 bits, DSA | **good** | refused (DSA 2048: good) | refused |
//! | dated in the future | **good** | refused | refused beyond [`CLOCK_TOLERANCE`] |
//! | signature expired | refused | refused | refused |
//! | type other than "binary document" (text mode) | **good** | refused | refused |
//! | two signatures, one by a stranger | refused | **good** | refused |
//! | two signatures, one bad | refused | **good** | refused |
//! | junk after the signature | refused | refused | refused |
//! | text before an armored signature, CRLF, the same signature twice | good | good | good |
//!
//! A signature is judged at its own creation time: the certificate must have been valid then. When a
//! publisher extends a key, GnuPG replaces the old self-signature, so a fresh download may hold none that
//! is as old as the signature; then the self-signature in force at the time of checking decides, and the
//! signature must still lie between the key's creation and its expiry.
//!
//! Revocation is always final, even a soft one ("superseded") that is younger than the signature: the
//! publisher has then said to use another key, and the caller can pin that one.
//!
//! Every signature in the file must be good. One by another key proves nothing and does no harm in
//! itself, but a file that AWS did not make as it stands is a file to look at, not to trust.

mod certificate;
mod digest;
mod refusal;
mod request;
mod signature;
mod text;

use std::io::Read;
use std::time::{Duration, SystemTime};

use sequoia_openpgp::Cert;
use sequoia_openpgp::packet::Signature;

pub use refusal::Refusal;
pub use request::{Pin, Request, Sha256};

use certificate::Signer;
use digest::Plan;

/// How far a signature may be dated after the time of checking: two honest clocks differ.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// What a good signature proves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Verified {
    /// SHA-256 of the data.
    pub sha256: Sha256,
    /// Length of the data.
    pub length: u64,
    /// Fingerprint of the signer's primary key, upper-case hex: the pinned one.
    pub signer: String,
    /// Fingerprint of the key that signed: the primary key or one of its subkeys.
    pub signing_key: String,
    /// When the newest signature was made, by its own account.
    pub signed_at: SystemTime,
    /// The certificate's user id, with control characters escaped.
    pub user_id: Option<String>,
    /// Digest algorithm of that signature, e.g. `SHA256`.
    pub hash_algorithm: String,
    /// What is no reason to refuse but worth knowing, as sentences.
    pub warnings: Vec<String>,
}

/// Decides what the signature and the certificate decide alone, as [`detached`] does before it reads
/// any data: whether a download is worth its while.
pub fn preflight(request: &Request) -> Result<(), Refusal> {
    prepare(request).map(|_| ())
}

/// Checks detached signatures over `data`: reads it once, to its end, in constant memory.
///
/// Everything that can be decided from the signature and the certificate is decided before the first
/// byte of `data` is read.
pub fn detached(data: impl Read + Send, request: &Request) -> Result<Verified, Refusal> {
    let (certificate, plan, candidates) = prepare(request)?;
    let hashed = digest::run(data, plan)?;
    if hashed.length == 0 {
        return Err(Refusal::EmptyData);
    }
    for candidate in &candidates {
        let Candidate { signature, signer, digest } = candidate;
        if signature.verify_hash(&signer.key, hashed.context(*digest)).is_err() {
            return Err(Refusal::BadSignature {
                found: hashed.sha256,
                expected: request.sha256,
                markup: text::is_markup(&hashed.head),
            });
        }
    }
    if let Some(expected) = request.sha256.filter(|expected| *expected != hashed.sha256) {
        return Err(Refusal::DigestDiffers { expected, found: hashed.sha256 });
    }

    // `signature::read` returns at least one; the newest speaks for the file.
    let newest = candidates.into_iter().max_by_key(|candidate| candidate.signer.signed_at);
    let Candidate { signature, signer, .. } = newest.ok_or(Refusal::EmptySignature)?;
    Ok(Verified {
        sha256: hashed.sha256,
        length: hashed.length,
        signer: certificate.fingerprint().to_hex(),
        signing_key: signer.key.fingerprint().to_hex(),
        signed_at: signer.signed_at,
        user_id: signer.user_id,
        hash_algorithm: signature.hash_algo().to_string(),
        warnings: signer.warnings,
    })
}

fn prepare(request: &Request) -> Result<(Cert, Plan, Vec<Candidate>), Refusal> {
    let certificate = certificate::pinned(request.certificate, request.fingerprint)?;
    let mut plan = Plan::new()?;
    let mut candidates = Vec::new();
    for signature in signature::read(request.signature)? {
        let signer = certificate::signer(&certificate, &signature, request.at)?;
        let digest = plan.add(&signature)?;
        candidates.push(Candidate { signature, signer, digest });
    }
    Ok((certificate, plan, candidates))
}

/// A signature whose signer and date are acceptable, if the mathematics agree.
struct Candidate {
    signature: Signature,
    signer: Signer,
    digest: usize,
}
