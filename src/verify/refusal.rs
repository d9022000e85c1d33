//! Owns the reasons not to trust: one variant each, with its sentence and what to do about it.

use std::fmt;
use std::io;
use std::time::SystemTime;

use crate::error::{Class, Error};
use crate::version;

use super::request::{KEY_FILE_LIMIT, Sha256};
use super::text::time;

/// Why data was refused. `Display` is one line; [`Refusal::hint`] says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The data could not be read: no verdict on it.
    Read(io::Error),
    /// There is no data.
    EmptyData,

    /// The signature file is empty.
    EmptySignature,
    /// The signature file is an HTML or XML page.
    MarkupSignature,
    /// The signature file is something else.
    NotASignature,
    /// The signature file is a key; whether a private one.
    KeyAsSignature {
        /// It holds secret key material.
        private: bool,
    },
    /// The signature file is a message that carries its own text (clearsigned or inline-signed).
    SignedMessage,
    /// The signature file ends too early.
    TruncatedSignature,
    /// The signature file is damaged, and how.
    DamagedSignature(String),
    /// Something follows the signature.
    TrailingData,
    /// More signatures than any real file holds.
    TooManySignatures,

    /// The key file is empty.
    EmptyKey,
    /// The key file is an HTML or XML page.
    MarkupKey,
    /// The key file holds no certificate.
    NotAKey,
    /// The pinned certificate is in the file but damaged, or all of the file is.
    DamagedKey(String),
    /// The key file holds a private key.
    PrivateKey,
    /// The key file is larger than [`KEY_FILE_LIMIT`](super::KEY_FILE_LIMIT).
    LargeKeyFile,
    /// More was added to the pinned certificate than is looked at.
    OverfullKey {
        /// The pinned fingerprint.
        pinned: String,
        /// So many keys, names and signatures are looked at.
        most: usize,
    },
    /// No certificate in the key file has the pinned primary fingerprint.
    WrongKey {
        /// The pinned fingerprint.
        pinned: String,
        /// The primary fingerprints in the file.
        found: Vec<String>,
    },

    /// The signature is of a version of OpenPGP that is given up.
    OldSignature(u8),
    /// The signature is not one over a binary document.
    NotBinary(String),
    /// The signature carries no date.
    Undated,
    /// A key that is not part of the pinned certificate made the signature.
    UnknownSigner {
        /// What the signature says of its signer.
        signer: String,
        /// The pinned fingerprint.
        pinned: String,
    },
    /// The digest over the data can be forged.
    WeakDigest(String),
    /// An algorithm that is unknown here.
    Unsupported(String),
    /// The key, or the primary key that vouches for it, was revoked.
    Revoked {
        /// Which key.
        key: String,
        /// When it was revoked.
        at: Option<SystemTime>,
        /// The reason that its owner gave.
        reason: String,
    },
    /// The key is too short, or of a kind that is given up.
    WeakKey {
        /// Which key.
        key: String,
        /// Its algorithm and size.
        kind: String,
    },
    /// The signature is dated after the time of checking.
    FromTheFuture {
        /// The signature's date.
        signed: SystemTime,
        /// The time of checking.
        at: SystemTime,
    },
    /// The signature itself expired.
    SignatureExpired {
        /// The signature's date.
        signed: SystemTime,
        /// When it expired.
        expired: SystemTime,
    },
    /// The signature is dated before its key was made.
    SignedBeforeKey {
        /// The signature's date.
        signed: SystemTime,
        /// When the key was made.
        created: SystemTime,
    },
    /// The signature was made after its key had expired.
    SignedAfterExpiry {
        /// The signature's date.
        signed: SystemTime,
        /// When the key expired.
        expired: SystemTime,
    },
    /// The certificate does not vouch for the key: no valid self-signature, binding or back signature.
    Unbound {
        /// Which key.
        key: String,
        /// What the OpenPGP library says.
        detail: String,
    },
    /// The key may encrypt or certify, but not sign data.
    NotForSigning(String),
    /// The signature demands something that is not understood here.
    Policy(String),

    /// The mathematics say no: data and signature do not belong together.
    BadSignature {
        /// SHA-256 of the data.
        found: Sha256,
        /// The digest that was asked for, if any.
        expected: Option<Sha256>,
        /// The data looks like HTML or XML.
        markup: bool,
    },
    /// The signature is good, but the digest is not the expected one.
    DigestDiffers {
        /// The digest that was asked for.
        expected: Sha256,
        /// SHA-256 of the data.
        found: Sha256,
    },
    /// The signature is good, but the tarball says itself that it is another version than the one asked for.
    OtherVersion {
        /// The version that it names.
        named: String,
        /// The version that was asked for.
        asked: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Read(_) => f.write_str("could not read the data to its end"),
            Refusal::EmptyData => f.write_str("the tarball is empty"),
            Refusal::BadSignature { markup: true, .. } => {
                f.write_str("bad signature, and the tarball is an HTML or XML page")
            }
            Refusal::BadSignature { .. } => f.write_str(
                "bad signature: the tarball was changed or cut short, or the signature belongs to another file",
            ),
            Refusal::DigestDiffers { expected, found } => {
                write!(f, "sum differs, signature good: SHA-256 is {found}, expected {expected}")
            }
            Refusal::OtherVersion { named, asked } => {
                let older = if version::compare(named, asked).is_lt() { "older than" } else { "not" };
                write!(
                    f,
                    "the tarball is EFA installer {named} by its own account, {older} {asked}: a good signature tells who \
                     signed it, not which version it is"
                )
            }
            _ if self.is_about_key_file() => self.describe_key_file(f),
            _ if self.is_about_signature_file() => self.describe_signature_file(f),
            _ => self.describe_judgement(f),
        }
    }
}

impl Refusal {
    fn is_about_key_file(&self) -> bool {
        use Refusal::*;
        let size = matches!(self, LargeKeyFile | OverfullKey { .. });
        size || matches!(self, EmptyKey | MarkupKey | NotAKey | DamagedKey(_) | PrivateKey | WrongKey { .. })
    }

    fn is_about_signature_file(&self) -> bool {
        use Refusal::*;
        let shape = matches!(self, EmptySignature | MarkupSignature | NotASignature | KeyAsSignature { .. });
        shape
            || matches!(
                self,
                SignedMessage | TruncatedSignature | DamagedSignature(_) | TrailingData | TooManySignatures
            )
    }

    fn describe_key_file(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::EmptyKey => f.write_str("the key file is empty"),
            Refusal::MarkupKey => f.write_str("the key file is an HTML or XML page"),
            Refusal::DamagedKey(detail) => write!(f, "the key file is damaged: {detail}"),
            Refusal::PrivateKey => f.write_str("the key file holds a private key"),
            Refusal::LargeKeyFile => write!(f, "the key file is larger than {KEY_FILE_LIMIT} bytes"),
            Refusal::OverfullKey { pinned, most } => write!(
                f,
                "the key file holds too much of the pinned key {pinned}: more than {most} keys, names and signatures, or \
                 too many bytes of them"
            ),
            Refusal::WrongKey { pinned, found } => {
                let shown = found.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
                let more = if found.len() > 5 { format!(" and {} more", found.len() - 5) } else { String::new() };
                write!(f, "wrong key: the key file holds {shown}{more}, not the pinned {pinned}")
            }
            _ => f.write_str("the key file holds no OpenPGP key"),
        }
    }

    fn describe_signature_file(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::EmptySignature => "the signature file is empty",
            Refusal::MarkupSignature => "the signature file is an HTML or XML page",
            Refusal::KeyAsSignature { private: false } => "the signature file holds a key, not a signature",
            Refusal::KeyAsSignature { private: true } => "the signature file holds a private key, not a signature",
            Refusal::SignedMessage => "the signature file is a signed message, not a detached signature",
            Refusal::TruncatedSignature => "the signature file is truncated",
            Refusal::DamagedSignature(detail) => return write!(f, "the signature file is damaged: {detail}"),
            Refusal::TrailingData => "something else follows the signature in its file",
            Refusal::TooManySignatures => "the signature file holds too many signatures",
            _ => "the signature file holds no OpenPGP signature",
        })
    }

    fn describe_judgement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::OldSignature(version) => {
                write!(f, "the signature is of version {version}, which is obsolete")
            }
            Refusal::NotBinary(kind) => write!(f, "the signature is of type {kind:?}, not one over a binary file"),
            Refusal::Undated => f.write_str("the signature carries no date"),
            Refusal::UnknownSigner { signer, pinned } => {
                write!(f, "the signature is by {signer}, not by the pinned key {pinned} or one of its subkeys")
            }
            Refusal::WeakDigest(name) => write!(f, "the signature uses {name}, which can be forged"),
            Refusal::Unsupported(what) => write!(f, "efa-gen can't check {what}"),
            Refusal::Revoked { key, at, reason } => {
                let date = at.map_or("at an unknown date".to_owned(), |at| format!("on {}", time(at)));
                write!(f, "key {key} was revoked {date} ({reason})")
            }
            Refusal::WeakKey { key, kind } => write!(f, "key {key} is {kind}, which is too weak to count"),
            Refusal::FromTheFuture { signed, at } => {
                write!(f, "the signature is dated {}, after the time of checking, {}", time(*signed), time(*at))
            }
            Refusal::SignatureExpired { signed, expired } => {
                write!(f, "the signature of {} expired on {}", time(*signed), time(*expired))
            }
            Refusal::SignedBeforeKey { signed, created } => {
                write!(f, "the signature is dated {}, before its key was made, {}", time(*signed), time(*created))
            }
            Refusal::SignedAfterExpiry { signed, expired } => {
                write!(f, "the signature was made on {}, after its key expired on {}", time(*signed), time(*expired))
            }
            Refusal::Unbound { key, detail } => write!(f, "the certificate does not vouch for key {key}: {detail}"),
            Refusal::NotForSigning(key) => write!(f, "key {key} is not meant for signing"),
            Refusal::Policy(detail) => write!(f, "the signature is not acceptable: {detail}"),
            _ => f.write_str("refused"),
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> String {
        use Refusal::*;
        match self {
            Read(_) => "check the disk or the connection and try again".to_owned(),
            EmptyData => "download it again".to_owned(),
            SignatureExpired { .. } => "get a newer signature from the publisher".to_owned(),
            MarkupSignature | MarkupKey | BadSignature { markup: true, .. } => {
                "the server answered with something else than the file; check the URL and download it again".to_owned()
            }
            PrivateKey | KeyAsSignature { private: true } => {
                "keep that file to its owner: verification needs the public key only (gpg --export). \
                 If it went anywhere it should not have, revoke the key"
                    .to_owned()
            }
            LargeKeyFile | OverfullKey { .. } => {
                "a publisher's key has a dozen parts, and anybody can add more: get it from \
                 its publisher, or make it small with `gpg --export-options export-minimal --export`"
                    .to_owned()
            }
            EmptyKey | NotAKey | DamagedKey(_) => {
                format!("download {} again", crate::catalog::efa_release::KEY_NAME)
            }
            WrongKey { .. } => "trust the fingerprint, not the file: download the key from its publisher, and \
                 change --fingerprint only if the publisher announced a new key"
                .to_owned(),
            UnknownSigner { .. } => {
                "somebody else signed this; get tarball and signature from the publisher".to_owned()
            }
            BadSignature { found, expected, .. } => bad_signature_hint(found, expected.as_ref()),
            DigestDiffers { .. } => {
                "the publisher signed this file, but it is not the expected one: check the version, \
                 then pass the right --sha256"
                    .to_owned()
            }
            OtherVersion { .. } => {
                "somebody may serve another release under this name: get it from its publisher, or say with \
                 --sha256 which file you mean"
                    .to_owned()
            }
            Revoked { .. } => {
                "the publisher says not to trust this key any more; look for a newer key and signature".to_owned()
            }
            SignedAfterExpiry { .. } | Unbound { .. } => {
                "download the key file again: publishers extend a key under the same fingerprint".to_owned()
            }
            FromTheFuture { .. } | SignedBeforeKey { .. } => {
                "one of the clocks was wrong: this machine's (or --at), or the signer's".to_owned()
            }
            WeakDigest(_) | WeakKey { .. } | OldSignature(_) | NotBinary(_) | NotForSigning(_) => {
                "ask the publisher for a new signature; another tool may take this one, efa-gen does not".to_owned()
            }
            SignedMessage => "a detached signature is the file beside the tarball, usually TARBALL.sig".to_owned(),
            KeyAsSignature { .. } => "did --signature and --key change places?".to_owned(),
            TrailingData | TooManySignatures => {
                "a signature file holds the signature alone; download it again".to_owned()
            }
            Unsupported(_) | Policy(_) => "check it with a recent GnuPG, and read what it says".to_owned(),
            EmptySignature | NotASignature | TruncatedSignature | DamagedSignature(_) | Undated => {
                "download the signature (TARBALL.sig) again".to_owned()
            }
        }
    }
}

/// A published digest can tell which of the two files is the wrong one; the signature alone can't.
fn bad_signature_hint(found: &Sha256, expected: Option<&Sha256>) -> String {
    match expected {
        Some(expected) if expected == found => {
            format!(
                "SHA-256 {found} is the expected one, so look at the signature: it belongs to another file or was changed"
            )
        }
        Some(expected) => {
            format!(
                "SHA-256 {found} is not the expected {expected} either: download the tarball again, do not unpack this one"
            )
        }
        None => format!("SHA-256 is {found}; download tarball and signature again, do not unpack this one"),
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Refusal::Read(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let class = if matches!(refusal, Refusal::Read(_)) { Class::Io } else { Class::Refused };
        let error = Error::new(class, refusal.to_string()).hint(refusal.hint());
        match refusal {
            Refusal::Read(cause) => error.with_source(cause),
            _ => error,
        }
    }
}
