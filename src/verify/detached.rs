//! Owns the check itself: the order in which signature, certificate and data are judged.

use std::io::Read;
use std::time::SystemTime;

use sequoia_openpgp::Cert;
use sequoia_openpgp::packet::Signature;
use sequoia_openpgp::policy::Policy;

use super::certificate::{self, Signer};
use super::digest::{self, DigestPlan};
use super::refusal::Refusal;
use super::request::{Sha256, VerifyRequest};
use super::{key_file, signature, text};

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

/// Signatures and certificate that are in order: what is left is to read the data.
pub struct PendingCheck {
    certificate: Cert,
    user_id: Option<String>,
    plan: DigestPlan,
    candidates: Vec<Candidate>,
    sha256: Option<Sha256>,
}

/// Decides everything that the signature and the certificate decide alone: whether a download is worth its while.
pub fn judge(request: &VerifyRequest) -> Result<PendingCheck, Refusal> {
    judge_by(request, &certificate::policy(request.at))
}

fn judge_by(request: &VerifyRequest, policy: &dyn Policy) -> Result<PendingCheck, Refusal> {
    let certificate = key_file::pinned(request.certificate, request.fingerprint)?;
    let mut plan = DigestPlan::new()?;
    let mut candidates = Vec::new();
    for signature in signature::read(request.signature)? {
        let signer = certificate::signer(&certificate, &signature, policy, request.at)?;
        let digest = plan.add(&signature)?;
        candidates.push(Candidate { signature, signer, digest });
    }
    let user_id = certificate::vouched_user_id(&certificate, policy, request.at);
    Ok(PendingCheck { certificate, user_id, plan, candidates, sha256: request.sha256 })
}

/// Checks detached signatures over `data`: reads it once, to its end, in constant memory.
///
/// Everything that can be decided from the signature and the certificate is decided before the first
/// byte of `data` is read.
pub fn detached(data: impl Read + Send, request: &VerifyRequest) -> Result<Verified, Refusal> {
    judge(request)?.check(data)
}

impl PendingCheck {
    /// Reads `data` once, to its end, in constant memory, and does the mathematics.
    pub fn check(self, data: impl Read + Send) -> Result<Verified, Refusal> {
        let PendingCheck { certificate, user_id, plan, candidates, sha256 } = self;
        let hashed = digest::run(data, plan)?;
        if hashed.length == 0 {
            return Err(Refusal::EmptyData);
        }
        for candidate in &candidates {
            let Candidate { signature, signer, digest } = candidate;
            if signature.verify_hash(&signer.key, hashed.context(*digest)).is_err() {
                return Err(Refusal::BadSignature {
                    found: hashed.sha256,
                    expected: sha256,
                    markup: text::is_markup(&hashed.head),
                });
            }
        }
        if let Some(expected) = sha256.filter(|expected| *expected != hashed.sha256) {
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
            user_id,
            hash_algorithm: signature.hash_algo().to_string(),
            warnings: signer.warnings,
        })
    }
}

/// A signature whose signer and date are acceptable, if the mathematics agree.
struct Candidate {
    signature: Signature,
    signer: Signer,
    digest: usize,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use sequoia_openpgp::cert::amalgamation::key::ValidErasedKeyAmalgamation;
    use sequoia_openpgp::packet::key::PublicParts;
    use sequoia_openpgp::policy::{HashAlgoSecurity, StandardPolicy};

    use super::*;

    const SIGNATURE: &[u8] = include_bytes!("../../tests/fixtures/pgp/good.sig");
    const KEY: &[u8] = include_bytes!("../../tests/fixtures/pgp/good.gpg");
    const FINGERPRINT: &str = include_str!("../../tests/fixtures/pgp/good.fpr");

    /// The lengths of the key's packets but the last, its self-signature.
    const PRIMARY: usize = 272;
    const NAME: usize = 25;

    /// The policy, and how often it is asked about a self-signature or a key that one vouches for.
    #[derive(Debug)]
    struct Counting {
        policy: StandardPolicy<'static>,
        checks: AtomicUsize,
    }

    impl Policy for Counting {
        fn signature(&self, signature: &Signature, security: HashAlgoSecurity) -> sequoia_openpgp::Result<()> {
            self.checks.fetch_add(1, Ordering::Relaxed);
            self.policy.signature(signature, security)
        }

        fn key(&self, key: &ValidErasedKeyAmalgamation<PublicParts>) -> sequoia_openpgp::Result<()> {
            self.checks.fetch_add(1, Ordering::Relaxed);
            self.policy.key(key)
        }
    }

    /// How many self-signatures are looked at for this key file.
    fn checks(certificate: &[u8]) -> usize {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let fingerprint = FINGERPRINT.trim().parse().expect("the fixture holds a fingerprint");
        let request = VerifyRequest { signature: SIGNATURE, certificate, fingerprint: &fingerprint, sha256: None, at };
        let counting = Counting { policy: certificate::policy(at), checks: AtomicUsize::new(0) };
        judge_by(&request, &counting).expect("the key is good, whatever was added to it");
        counting.checks.into_inner()
    }

    /// So many names that the key's owner never signed.
    fn names(count: usize) -> Vec<u8> {
        let name = |number: usize| {
            let name = format!("Mallory {number}");
            [&[0xb4, u8::try_from(name.len()).expect("it is short")], name.as_bytes()].concat()
        };
        (0..count).flat_map(name).collect()
    }

    #[test]
    fn what_others_add_to_a_key_costs_no_look_at_a_self_signature() {
        let bare = checks(KEY);
        assert!((1..20).contains(&bare), "{bare}");
        let self_signature = &KEY[PRIMARY + NAME..];
        for count in [10, 400] {
            let behind = [KEY, &names(count)].concat();
            let before = [&KEY[..PRIMARY], &names(count), &KEY[PRIMARY..]].concat();
            let copies = KEY.repeat(count / 4);
            let doubled = [KEY, &self_signature.repeat(count)].concat();
            let cases = [("names behind", behind), ("names before", before), ("copies", copies), ("doubled", doubled)];
            for (what, key) in cases {
                assert_eq!(checks(&key), bare, "{count} {what}");
            }
        }
    }
}
