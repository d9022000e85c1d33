//! Owns the key file: which certificate in it is pinned, how much of it is looked at, and how two files become one.

use std::io::Write;
use std::time::SystemTime;

use memchr::memmem;
use sequoia_openpgp::armor::{Kind, Writer};
use sequoia_openpgp::cert::raw::RawCertParser;
use sequoia_openpgp::packet::Tag;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::serialize::{Serialize, SerializeInto};
use sequoia_openpgp::{Cert, Fingerprint};

use super::certificate;
use super::refusal::Refusal;
use super::request::{KEY_FILE_LIMIT, Pin};
use super::text::is_markup;
use crate::text::printable;

/// The keys, names and signatures of the pinned certificate that are looked at, in all its copies together. A publisher's
/// has a dozen; anybody can add more to a key file, and the work is theirs times the signatures.
const MOST_PARTS: usize = 500;

/// The bytes of these parts: a signature that stands in the wrong place is hashed with each of them.
const MOST_BYTES: usize = 256 << 10;

/// What a key file holds.
struct KeyFile {
    /// The pinned certificate, its copies merged: a revocation in any of them counts.
    pinned: Option<Cert>,
    /// Every other certificate, as it is.
    others: Vec<u8>,
    /// The primary fingerprint of every certificate.
    found: Vec<Fingerprint>,
    /// What could not be read.
    damage: Option<String>,
}

/// The certificate in a key file whose primary fingerprint is pinned.
pub(crate) fn pinned(bytes: &[u8], pin: &Pin) -> Result<Cert, Refusal> {
    let file = read(bytes, pin)?;
    match (file.pinned, file.damage) {
        (Some(certificate), _) => Ok(certificate),
        (None, Some(damage)) if file.found.is_empty() && may_hold_key(bytes) => Err(Refusal::DamagedKey(damage)),
        (None, _) if file.found.is_empty() => Err(Refusal::NotAKey),
        _ => {
            let found = file.found.iter().map(Fingerprint::to_hex).collect();
            Err(Refusal::WrongKey { pinned: pin.to_string(), found })
        }
    }
}

/// The pinned certificate alone, ASCII-armored, for a program that believes every certificate of the file that it is
/// given. Refused if a key of it is revoked or too weak.
pub fn exported(bytes: &[u8], pin: &Pin, at: SystemTime) -> Result<String, Refusal> {
    let certificate = pinned(bytes, pin)?;
    certificate::check_all_keys(&certificate, &certificate::policy(at))?;
    let armored = || -> sequoia_openpgp::Result<String> {
        let mut writer = Writer::new(Vec::new(), Kind::PublicKey)?;
        certificate.export(&mut writer)?;
        Ok(String::from_utf8(writer.finalize()?)?)
    };
    armored().map_err(|error| damaged(&error))
}

/// One key file out of two: all that lies there already, and the pinned certificate as both have it together, so that no
/// revocation is lost. Refused is what lies there and can't be read; a fresh file that can't be read is handed back as it
/// is, for whoever checks with it to refuse.
pub fn merged(there: &[u8], fresh: &[u8], pin: &Pin) -> Result<Vec<u8>, Refusal> {
    let Ok(new) = pinned(fresh, pin) else { return Ok(fresh.to_vec()) };
    if there == fresh || there.trim_ascii().is_empty() {
        return Ok(fresh.to_vec());
    }
    let file = read(there, pin)?;
    if let Some(damage) = file.damage {
        return Err(Refusal::DamagedKey(damage));
    }
    if file.found.is_empty() {
        return Err(Refusal::NotAKey);
    }
    let whole = match &file.pinned {
        Some(old) => old.clone().merge_public(new.clone()).map_err(|error| damaged(&error))?,
        None => new.clone(),
    };
    let packets = |certificate: &Cert| certificate.to_vec().map_err(|error| damaged(&error));
    let all = packets(&whole)?;
    if file.pinned.as_ref().map(packets).transpose()?.as_ref() == Some(&all) {
        return Ok(there.to_vec());
    }
    if file.others.is_empty() && packets(&new)? == all {
        return Ok(fresh.to_vec());
    }
    let armored = || -> sequoia_openpgp::Result<Vec<u8>> {
        let mut writer = Writer::new(Vec::new(), Kind::PublicKey)?;
        whole.serialize(&mut writer)?;
        writer.write_all(&file.others)?;
        Ok(writer.finalize()?)
    };
    let text = armored().map_err(|error| damaged(&error))?;
    // What is written must be taken the next time, too.
    pinned(&text, pin)?;
    Ok(text)
}

fn read(bytes: &[u8], pin: &Pin) -> Result<KeyFile, Refusal> {
    if bytes.trim_ascii().is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if bytes.len() > KEY_FILE_LIMIT {
        return Err(Refusal::LargeKeyFile);
    }
    if is_markup(bytes) {
        return Err(Refusal::MarkupKey);
    }
    let mut private = memmem::find(bytes, b"PGP PRIVATE KEY BLOCK").is_some();
    let (mut parts, mut size, mut copies) = (0, 0, Vec::new());
    let mut file = KeyFile { pinned: None, others: Vec::new(), found: Vec::new(), damage: None };
    // Only the packets' frames are looked at here: most of a keyring is nobody's business, and a flood is told by its size.
    for framed in RawCertParser::from_bytes(bytes).map_err(|_| Refusal::NotAKey)? {
        match framed {
            Ok(framed) => {
                private |= framed.packets().any(|packet| matches!(packet.tag(), Tag::SecretKey | Tag::SecretSubkey));
                let fingerprint = framed.fingerprint();
                if fingerprint.to_hex() == pin.as_str() {
                    (parts, size) = (parts + framed.count(), size + framed.as_bytes().len());
                    if parts <= MOST_PARTS && size <= MOST_BYTES {
                        copies.push(framed);
                    }
                } else {
                    file.others.extend_from_slice(framed.as_bytes());
                    file.found.push(fingerprint);
                }
            }
            Err(error) => file.damage = Some(printable(format!("{error:#}").as_bytes())),
        }
    }
    if private {
        return Err(Refusal::PrivateKey);
    }
    if parts > MOST_PARTS || size > MOST_BYTES {
        return Err(Refusal::OverfullKey { pinned: pin.to_string(), most: MOST_PARTS });
    }
    for copy in copies {
        let known = file.pinned.take();
        match Cert::try_from(copy) {
            Ok(copy) => {
                file.found.push(copy.fingerprint());
                let merged = known.map_or(Ok(copy.clone()), |known| known.merge_public(copy));
                file.pinned = Some(merged.map_err(|error| damaged(&error))?);
            }
            Err(error) => {
                file.pinned = known;
                file.damage = Some(printable(format!("{error:#}").as_bytes()));
            }
        }
    }
    Ok(file)
}

fn damaged(error: &sequoia_openpgp::anyhow::Error) -> Refusal {
    Refusal::DamagedKey(printable(format!("{error:#}").as_bytes()))
}

/// Whether a file that did not parse was meant as a key: armored as one, or begun by a key packet.
fn may_hold_key(bytes: &[u8]) -> bool {
    let packet = bytes.first().is_some_and(|first| match first >> 6 {
        0b10 => first >> 2 & 0xf == u8::from(Tag::PublicKey),
        0b11 => first & 0x3f == u8::from(Tag::PublicKey),
        _ => false,
    });
    packet || memmem::find(bytes, b"PGP PUBLIC KEY BLOCK").is_some()
}
