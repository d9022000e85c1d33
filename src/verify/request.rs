//! Owns what a caller asks for: the bytes to judge by, and the pins that were parsed from text.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::error::{Class, Error};
use crate::text::hex;

/// How far a signature may be dated after the time of checking: two honest clocks differ.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Upper limit of a key file in bytes; a whole keyring fits.
pub const KEY_FILE_LIMIT: usize = 4 << 20;

/// What to check data against.
#[derive(Debug, Clone, Copy)]
pub struct VerifyRequest<'a> {
    /// The signature file: binary or armored.
    pub signature: &'a [u8],
    /// The key file: one or more certificates, binary or armored.
    pub certificate: &'a [u8],
    /// Whose signature counts.
    pub fingerprint: &'a Pin,
    /// The digest that the data must have as well.
    pub sha256: Option<Sha256>,
    /// The time to judge at.
    pub at: SystemTime,
}

/// The fingerprint of a primary key: 40 hex digits, or 64 for an OpenPGP version 6 key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin(String);

impl Pin {
    /// Upper-case hex without blanks.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pin {
    type Err = Error;

    /// Takes a fingerprint as GnuPG prints it: blanks and lower case are fine.
    fn from_str(text: &str) -> Result<Self, Error> {
        let hex = compact(text).to_uppercase();
        let problem = match hex.len() {
            _ if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => "holds something else than hex digits".to_owned(),
            40 | 64 => return Ok(Pin(hex)),
            // Key ids are chosen freely by whoever makes a key, so they can't be pinned.
            8 | 16 => "is a key id, which anybody can forge; the whole fingerprint is needed".to_owned(),
            length => format!("has {length} hex digits instead of 40 (or 64)"),
        };
        Err(Error::new(Class::Usage, format!("fingerprint {text:?} {problem}"))
            .hint("`gpg --show-keys --fingerprint FILE` prints the fingerprints of a key file"))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 digest, printed as lower-case hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl FromStr for Sha256 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let hex = compact(text);
        let refuse = |problem: String| {
            Error::new(Class::Usage, format!("SHA-256 {text:?} {problem}"))
                .hint("give the 64 hex digits that `sha256sum` prints, without the file name")
        };
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refuse("holds something else than hex digits".to_owned()));
        }
        let mut digest = [0; 32];
        if hex.len() != 2 * digest.len() {
            return Err(refuse(format!("has {} hex digits instead of 64", hex.len())));
        }
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Sha256(digest))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

fn compact(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}
