//! Owns the certificate: whether it vouched for a signature's key when the signature was made. The policy itself is stated
//! in the parent module.

use std::time::SystemTime;

use sequoia_openpgp::Cert;
use sequoia_openpgp::KeyHandle;
use sequoia_openpgp::cert::amalgamation::key::{ErasedKeyAmalgamation, ValidErasedKeyAmalgamation};
use sequoia_openpgp::cert::amalgamation::{ValidAmalgamation, ValidateAmalgamation};
use sequoia_openpgp::crypto::mpi::PublicKey;
use sequoia_openpgp::packet::key::{PublicParts, UnspecifiedRole};
use sequoia_openpgp::packet::{Key, Signature};
use sequoia_openpgp::policy::{AsymmetricAlgorithm, HashAlgoSecurity, Policy, StandardPolicy};
use sequoia_openpgp::types::{Curve, HashAlgorithm, PublicKeyAlgorithm, RevocationStatus, SignatureType};

use super::refusal::Refusal;
use super::request::CLOCK_TOLERANCE;
use super::text::time;
use crate::text::printable;

/// The smallest RSA key that counts.
const LEAST_RSA_BITS: usize = 2048;

/// The largest RSA key, and the largest exponent of one, that the `rsa` crate takes.
const MOST_RSA_BITS: usize = 4096;
const MOST_EXPONENT_BITS: usize = 33;

type Public<'a> = ErasedKeyAmalgamation<'a, PublicParts>;
type Valid<'a> = ValidErasedKeyAmalgamation<'a, PublicParts>;

/// The key that a signature names, after everything but the mathematics was found in order.
pub(crate) struct Signer {
    pub(crate) key: Key<PublicParts, UnspecifiedRole>,
    pub(crate) signed_at: SystemTime,
    pub(crate) warnings: Vec<String>,
}

/// Finds the key in the pinned certificate that made this signature, and judges both.
pub(crate) fn signer(
    certificate: &Cert,
    signature: &Signature,
    policy: &dyn Policy,
    at: SystemTime,
) -> Result<Signer, Refusal> {
    if !matches!(signature.version(), 4 | 6) {
        return Err(Refusal::OldSignature(signature.version()));
    }
    if signature.typ() != SignatureType::Binary {
        return Err(Refusal::NotBinary(signature.typ().to_string()));
    }
    let signed_at = signature.signature_creation_time().ok_or(Refusal::Undated)?;
    let key = named_key(certificate, signature)?;
    check_digest(signature)?;
    policy
        .signature(signature, HashAlgoSecurity::CollisionResistance)
        .map_err(|error| Refusal::Policy(printable(format!("{error:#}").as_bytes())))?;
    check_revocation(certificate, &key, policy)?;
    for key in [certificate.primary_key().key().role_as_unspecified(), key.key()] {
        check_strength(key)?;
        check_dates(signature, signed_at, key.creation_time(), at)?;
    }

    let valid = valid_key(&key, policy, signed_at, at)?;
    if !valid.for_signing() {
        return Err(Refusal::NotForSigning(name(key.key())));
    }
    if let Some(expired) = expiry(&valid).filter(|expired| *expired <= signed_at) {
        return Err(Refusal::SignedAfterExpiry { signed: signed_at, expired });
    }
    let now = key.clone().with_policy(policy, at).unwrap_or(valid.clone());
    let expired = expiry(&now).filter(|expired| *expired <= at);
    // The owner's last word counts, also where it takes back what the certificate said when the signature was made.
    if let Some(expired) = expired.filter(|expired| *expired <= signed_at) {
        return Err(Refusal::SignedAfterExpiry { signed: signed_at, expired });
    }
    let warning = |expired| {
        format!(
            "key {} expired on {}, after this signature was made; download the key file again, it may have been extended",
            name(key.key()),
            time(expired)
        )
    };
    Ok(Signer { key: key.key().clone(), signed_at, warnings: expired.map(warning).into_iter().collect() })
}

/// Whether another program may be told to believe this certificate: none of its keys is revoked, its primary key strong.
/// Such a program takes signatures by a revoked key for good ones.
pub(crate) fn check_all_keys(certificate: &Cert, policy: &dyn Policy) -> Result<(), Refusal> {
    certificate.keys().try_for_each(|key| check_revocation(certificate, &key, policy))?;
    check_strength(certificate.primary_key().key().role_as_unspecified())
}

/// The first user id that the certificate itself vouches for: anybody can add another to a key file. Each is looked at by
/// itself: as a valid part of the certificate it would cost a look at all of them.
pub(crate) fn vouched_user_id(certificate: &Cert, policy: &dyn Policy, at: SystemTime) -> Option<String> {
    let id = certificate.userids().find(|id| {
        id.binding_signature(policy, at).is_ok()
            && !matches!(id.revocation_status(policy, at), RevocationStatus::Revoked(_))
    })?;
    Some(printable(id.userid().value()))
}

/// The key of this certificate that the signature names. A full fingerprint in the signature is binding;
/// only a signature without one is looked up by key id, and then still within the pinned certificate.
fn named_key<'a>(certificate: &'a Cert, signature: &Signature) -> Result<Public<'a>, Refusal> {
    let mut issuers = signature.get_issuers();
    if issuers.iter().any(|issuer| matches!(issuer, KeyHandle::Fingerprint(_))) {
        issuers.retain(|issuer| matches!(issuer, KeyHandle::Fingerprint(_)));
    }
    let ours = |key: &Public| issuers.iter().all(|issuer| key.key().key_handle().aliases(issuer));
    let key = certificate.keys().find(|key| !issuers.is_empty() && ours(key));
    key.ok_or_else(|| {
        let names: Vec<_> = issuers.iter().map(|issuer| format!("key {issuer:X}")).collect();
        let signer = if names.is_empty() { "nobody it names".to_owned() } else { names.join(" and ") };
        Refusal::UnknownSigner { signer, pinned: certificate.fingerprint().to_hex() }
    })
}

/// An allowlist, so that it does not depend on the time of checking.
fn check_digest(signature: &Signature) -> Result<(), Refusal> {
    use HashAlgorithm::*;
    match signature.hash_algo() {
        SHA224 | SHA256 | SHA384 | SHA512 | SHA3_256 | SHA3_512 => Ok(()),
        weak @ (MD5 | SHA1 | RipeMD) => Err(Refusal::WeakDigest(weak.to_string())),
        other => Err(Refusal::Unsupported(format!("the digest {other}"))),
    }
}

/// Sequoia's standard policy as of `at`, less the SHA-1 rule for self-signatures, and without
/// concessions to the past: an early `at` must not bring back what is broken today.
pub(crate) fn policy(at: SystemTime) -> StandardPolicy<'static> {
    let mut policy = StandardPolicy::at(at);
    policy.reject_hash(HashAlgorithm::MD5);
    policy.reject_hash_property_at(HashAlgorithm::SHA1, HashAlgoSecurity::CollisionResistance, SystemTime::UNIX_EPOCH);
    policy.accept_hash_property(HashAlgorithm::SHA1, HashAlgoSecurity::SecondPreImageResistance);
    for algorithm in [AsymmetricAlgorithm::RSA1024, AsymmetricAlgorithm::DSA1024, AsymmetricAlgorithm::DSA2048] {
        policy.reject_asymmetric_algo(algorithm);
    }
    policy
}

/// Any revocation that its own key signed counts, with any digest, date and reason.
fn check_revocation(certificate: &Cert, key: &Public, policy: &dyn Policy) -> Result<(), Refusal> {
    let primary = certificate.primary_key();
    let own = primary.self_revocations().next().map(|revocation| (name(primary.key()), revocation));
    let subkey = || key.self_revocations().next().map(|revocation| (name(key.key()), revocation));
    // A revocation by a key that this certificate appointed can't be checked without that key.
    let appointed = || {
        let of_subkey = || key.self_signatures().flat_map(|binding| binding.revocation_keys());
        certificate.revocation_keys(policy).next().or_else(|| of_subkey().next())?;
        let of_primary = primary.other_revocations().map(|revocation| (name(primary.key()), revocation));
        of_primary.chain(key.other_revocations().map(|revocation| (name(key.key()), revocation))).next()
    };
    let Some((key, revocation)) = own.or_else(subkey).or_else(appointed) else { return Ok(()) };
    let reason = revocation.reason_for_revocation().map_or("no reason given".to_owned(), |(code, text)| {
        let text = printable(text);
        if text.is_empty() { code.to_string() } else { format!("{code}: {text}") }
    });
    Err(Refusal::Revoked { key, at: revocation.signature_creation_time(), reason })
}

/// Refuses keys that are too weak, and says of those that can't be checked what they are.
fn check_strength(key: &Key<PublicParts, UnspecifiedRole>) -> Result<(), Refusal> {
    let algorithm = key.pk_algo();
    let bits = key.mpis().bits();
    let weak = || {
        let bits = bits.map_or(String::new(), |bits| format!(" with {bits} bits"));
        Refusal::WeakKey { key: name(key), kind: format!("{algorithm}{bits}") }
    };
    let unsupported = |kind: String| Err(Refusal::Unsupported(format!("signatures by {kind}: key {}", name(key))));
    #[allow(deprecated)]
    match (algorithm, key.mpis()) {
        (PublicKeyAlgorithm::DSA | PublicKeyAlgorithm::ElGamalEncrypt | PublicKeyAlgorithm::ElGamalEncryptSign, _) => {
            Err(weak())
        }
        (_, PublicKey::RSA { e, n }) => match n.bits() {
            bits if bits < LEAST_RSA_BITS => Err(weak()),
            bits if bits > MOST_RSA_BITS => unsupported(format!("RSA keys with {bits} bits (at most {MOST_RSA_BITS})")),
            _ if e.bits() > MOST_EXPONENT_BITS => unsupported("RSA keys with so large an exponent".to_owned()),
            _ => Ok(()),
        },
        (_, PublicKey::ECDSA { curve, .. } | PublicKey::EdDSA { curve, .. }) if !curve.is_supported() => {
            unsupported(format!("{algorithm} keys on the curve {}", curve_name(curve)))
        }
        (other, _) if !other.is_supported() => unsupported(format!("{other} keys")),
        _ => Ok(()),
    }
}

/// A curve by the name that GnuPG shows.
fn curve_name(curve: &Curve) -> String {
    match curve.oid() {
        // 1.3.132.0.10 (SEC 2, section A.2.1).
        [0x2b, 0x81, 0x04, 0x00, 0x0a] => "secp256k1".to_owned(),
        _ => curve.to_string(),
    }
}

fn check_dates(signature: &Signature, signed: SystemTime, created: SystemTime, at: SystemTime) -> Result<(), Refusal> {
    if at.checked_add(CLOCK_TOLERANCE).is_some_and(|latest| signed > latest) {
        return Err(Refusal::FromTheFuture { signed, at });
    }
    if signed < created {
        return Err(Refusal::SignedBeforeKey { signed, created });
    }
    match signature.signature_expiration_time() {
        Some(expired) if expired <= at => Err(Refusal::SignatureExpired { signed, expired }),
        _ => Ok(()),
    }
}

/// The key as its certificate vouched for it when the signature was made; failing that, as it does now
/// (a renewed self-signature replaces the old one, so the file may hold none of that age).
fn valid_key<'a>(
    key: &Public<'a>,
    policy: &'a dyn Policy,
    signed_at: SystemTime,
    at: SystemTime,
) -> Result<Valid<'a>, Refusal> {
    let then = key.clone().with_policy(policy, signed_at);
    then.or_else(|_| key.clone().with_policy(policy, at))
        .map_err(|error| Refusal::Unbound { key: name(key.key()), detail: printable(format!("{error:#}").as_bytes()) })
}

/// When the key stops to be valid: by its own expiry or its primary key's, whichever is first.
fn expiry(key: &Valid) -> Option<SystemTime> {
    let primary = key.valid_cert().primary_key().key_expiration_time();
    [primary, key.key_expiration_time()].into_iter().flatten().min()
}

fn name<R: sequoia_openpgp::packet::key::KeyRole>(key: &Key<PublicParts, R>) -> String {
    key.fingerprint().to_hex()
}
