//! Owns the certificate: finding the pinned one in a key file, and judging whether it vouched for a
//! signature's key when the signature was made. The policy itself is stated in the parent module.

use std::time::SystemTime;

use sequoia_openpgp::Cert;
use sequoia_openpgp::KeyHandle;
use sequoia_openpgp::cert::CertParser;
use sequoia_openpgp::cert::amalgamation::key::{ErasedKeyAmalgamation, ValidErasedKeyAmalgamation};
use sequoia_openpgp::cert::amalgamation::{ValidAmalgamation, ValidUserIDAmalgamation, ValidateAmalgamation};
use sequoia_openpgp::packet::key::{PublicParts, UnspecifiedRole};
use sequoia_openpgp::packet::{Key, Signature, Tag};
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::policy::{AsymmetricAlgorithm, HashAlgoSecurity, Policy, StandardPolicy};
use sequoia_openpgp::types::{HashAlgorithm, PublicKeyAlgorithm, RevocationStatus, SignatureType};

use super::CLOCK_TOLERANCE;
use super::refusal::Refusal;
use super::request::Pin;
use super::text::{is_markup, printable, time};

/// The smallest RSA key that counts.
const LEAST_RSA_BITS: usize = 2048;

type Public<'a> = ErasedKeyAmalgamation<'a, PublicParts>;
type Valid<'a> = ValidErasedKeyAmalgamation<'a, PublicParts>;

/// The certificate in a key file whose primary fingerprint is pinned. A file may hold several
/// certificates, and one of them in several states: those are merged, so that a revocation in any counts.
pub(super) fn pinned(bytes: &[u8], pin: &Pin) -> Result<Cert, Refusal> {
    if bytes.trim_ascii().is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if is_markup(bytes) {
        return Err(Refusal::MarkupKey);
    }
    let label = b"PGP PRIVATE KEY BLOCK";
    let mut private = bytes.windows(label.len()).any(|window| window == label);
    let (mut found, mut damage, mut pinned) = (Vec::new(), None, None::<Cert>);
    for parsed in CertParser::from_bytes(bytes).map_err(|_| Refusal::NotAKey)? {
        match parsed {
            Ok(certificate) => {
                private |= certificate.is_tsk();
                let fingerprint = certificate.fingerprint().to_hex();
                if fingerprint == pin.as_str() {
                    let known = pinned.take();
                    let merged = known.map_or(Ok(certificate.clone()), |known| known.merge_public(certificate));
                    pinned =
                        Some(merged.map_err(|error| Refusal::DamagedKey(printable(error.to_string().as_bytes())))?);
                }
                found.push(fingerprint);
            }
            Err(error) => damage = Some(printable(format!("{error:#}").as_bytes())),
        }
    }
    match (private, pinned, damage) {
        (true, ..) => Err(Refusal::PrivateKey),
        (_, Some(certificate), _) => Ok(certificate),
        (_, None, Some(_)) if found.is_empty() && !bytes_may_hold_key(bytes) => Err(Refusal::NotAKey),
        (_, None, Some(damage)) if found.is_empty() => Err(Refusal::DamagedKey(damage)),
        (_, None, _) if found.is_empty() => Err(Refusal::NotAKey),
        _ => Err(Refusal::WrongKey { pinned: pin.to_string(), found }),
    }
}

/// Whether a file that did not parse was meant as a key: armored as one, or begun by a key packet.
fn bytes_may_hold_key(bytes: &[u8]) -> bool {
    let label = b"PGP PUBLIC KEY BLOCK";
    let packet = bytes.first().is_some_and(|first| match first >> 6 {
        0b10 => first >> 2 & 0xf == u8::from(Tag::PublicKey),
        0b11 => first & 0x3f == u8::from(Tag::PublicKey),
        _ => false,
    });
    packet || bytes.windows(label.len()).any(|window| window == label)
}

/// The key that a signature names, after everything but the mathematics was found in order.
pub(super) struct Signer {
    pub(super) key: Key<PublicParts, UnspecifiedRole>,
    pub(super) signed_at: SystemTime,
    pub(super) user_id: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// Finds the key in the pinned certificate that made this signature, and judges both.
pub(super) fn signer(certificate: &Cert, signature: &Signature, at: SystemTime) -> Result<Signer, Refusal> {
    if signature.typ() != SignatureType::Binary {
        return Err(Refusal::NotBinary(signature.typ().to_string()));
    }
    let signed_at = signature.signature_creation_time().ok_or(Refusal::Undated)?;
    let key = named_key(certificate, signature)?;
    check_digest(signature)?;
    let policy = policy(at);
    policy
        .signature(signature, HashAlgoSecurity::CollisionResistance)
        .map_err(|error| Refusal::Policy(printable(format!("{error:#}").as_bytes())))?;
    check_revocation(certificate, &key, &policy)?;
    for key in [certificate.primary_key().key().role_as_unspecified(), key.key()] {
        check_strength(key)?;
        check_dates(signature, signed_at, key.creation_time(), at)?;
    }

    let valid = valid_key(&key, &policy, signed_at, at)?;
    if !valid.for_signing() {
        return Err(Refusal::NotForSigning(name(key.key())));
    }
    if let Some(expired) = expiry(&valid).filter(|expired| *expired <= signed_at) {
        return Err(Refusal::SignedAfterExpiry { signed: signed_at, expired });
    }
    let now = key.clone().with_policy(&policy, at).unwrap_or(valid.clone());
    let expired = expiry(&now).filter(|expired| *expired <= at);
    let warning = |expired| {
        format!(
            "key {} expired on {}, after this signature was made; download the key file again, it may have been extended",
            name(key.key()),
            time(expired)
        )
    };
    Ok(Signer {
        key: key.key().clone(),
        signed_at,
        user_id: vouched_user_id(certificate, &policy, at),
        warnings: expired.map(warning).into_iter().collect(),
    })
}

/// The first user id that the certificate itself vouches for: anybody can add another to a key file.
fn vouched_user_id(certificate: &Cert, policy: &StandardPolicy, at: SystemTime) -> Option<String> {
    let valid = certificate.with_policy(policy, at).ok()?;
    let standing = |id: &ValidUserIDAmalgamation| !matches!(id.revocation_status(), RevocationStatus::Revoked(_));
    valid.userids().find(standing).map(|id| printable(id.userid().value()))
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
fn policy(at: SystemTime) -> StandardPolicy<'static> {
    let mut policy = StandardPolicy::at(at);
    policy.reject_hash(HashAlgorithm::MD5);
    policy.reject_hash_property_at(HashAlgorithm::SHA1, HashAlgoSecurity::CollisionResistance, SystemTime::UNIX_EPOCH);
    policy.accept_hash_property(HashAlgorithm::SHA1, HashAlgoSecurity::SecondPreImageResistance);
    policy.reject_packet_tag_version(Tag::Signature, 3);
    for algorithm in [AsymmetricAlgorithm::RSA1024, AsymmetricAlgorithm::DSA1024, AsymmetricAlgorithm::DSA2048] {
        policy.reject_asymmetric_algo(algorithm);
    }
    policy
}

/// Any revocation that its own key signed counts, with any digest, date and reason.
fn check_revocation(certificate: &Cert, key: &Public, policy: &StandardPolicy) -> Result<(), Refusal> {
    let primary = certificate.primary_key();
    let own = primary.self_revocations().next().map(|revocation| (name(primary.key()), revocation));
    let subkey = || key.self_revocations().next().map(|revocation| (name(key.key()), revocation));
    // A revocation by a key that this certificate appointed can't be checked without that key.
    let appointed = || {
        certificate.revocation_keys(policy).next()?;
        primary.other_revocations().next().map(|revocation| (name(primary.key()), revocation))
    };
    let Some((key, revocation)) = own.or_else(subkey).or_else(appointed) else { return Ok(()) };
    let reason = revocation.reason_for_revocation().map_or("no reason given".to_owned(), |(code, text)| {
        let text = printable(text);
        if text.is_empty() { code.to_string() } else { format!("{code}: {text}") }
    });
    Err(Refusal::Revoked { key, at: revocation.signature_creation_time(), reason })
}

fn check_strength(key: &Key<PublicParts, UnspecifiedRole>) -> Result<(), Refusal> {
    #[allow(deprecated)]
    let weak = match key.pk_algo() {
        PublicKeyAlgorithm::RSAEncryptSign | PublicKeyAlgorithm::RSASign | PublicKeyAlgorithm::RSAEncrypt => {
            key.mpis().bits().is_none_or(|bits| bits < LEAST_RSA_BITS)
        }
        PublicKeyAlgorithm::DSA | PublicKeyAlgorithm::ElGamalEncrypt | PublicKeyAlgorithm::ElGamalEncryptSign => true,
        other if !other.is_supported() => return Err(Refusal::Unsupported(format!("signatures by {other} keys"))),
        _ => false,
    };
    if weak {
        let bits = key.mpis().bits().map_or(String::new(), |bits| format!(" with {bits} bits"));
        return Err(Refusal::WeakKey { key: name(key), kind: format!("{}{bits}", key.pk_algo()) });
    }
    Ok(())
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
    policy: &'a StandardPolicy<'static>,
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
