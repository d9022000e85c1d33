//! Owns the OpenPGP check: bytes + signature + certificate + time -> who signed, or why not.
//!
//! # The policy
//!
//! GnuPG (2.2.40, by its exit code) and Sequoia's `sqv` (1.1.0) disagree on many inputs. What counts here:
//!
//! | case | gpg | sqv | here |
//! |---|---|---|---|
//! | key file | whole keyring | whole keyring | the one certificate whose *primary* fingerprint is pinned |
//! | more than 500 keys, names and signatures of it, or 256 KiB | looked at | looked at | refused |
//! | key expired, signature made before | good | good | good, with a warning |
//! | signature made after the key expired | **good** | refused | refused |
//! | key extended later, only the new self-signature left in the file | **good** | refused | good: see below |
//! | key or signing subkey given an expiry before the signature, by a self-signature that is younger | refused | refused | refused |
//! | key or signing subkey revoked, for any reason, at any date | **good** | refused if hard, or before signing | refused |
//! | key or signing subkey revoked by a key that the certificate appointed | **good** without that key | **good** without that key | refused |
//! | signature of version 3 | **good** | refused | refused |
//! | SHA-1, MD5 or RIPEMD-160 over the data | **good** (SHA-1) | refused | refused |
//! | SHA-1 in the certificate's self-signature | good | refused | good: the pinned fingerprint vouches for the key |
//! | RSA below 2048 bits, DSA | **good** | refused (DSA 2048: good) | refused |
//! | RSA above 4096 bits, brainpool, secp256k1 | good | depends on its backend | refused, as what can't be checked |
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
mod detached;
mod digest;
mod installer;
mod key_file;
mod refusal;
mod request;
mod signature;
mod text;

pub use self::detached::{PendingCheck, Verified, detached, judge};
pub use self::installer::check_version;
pub use self::key_file::{exported, merged};
pub use self::refusal::Refusal;
pub use self::request::{CLOCK_TOLERANCE, KEY_FILE_LIMIT, Pin, Sha256, VerifyRequest};
