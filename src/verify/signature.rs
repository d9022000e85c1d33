//! Owns reading a signature file: binary or armored, one signature or several, and nothing else.

use std::io::{ErrorKind, Read};

use sequoia_openpgp::Packet;
use sequoia_openpgp::armor::{Kind, Reader, ReaderMode};
use sequoia_openpgp::packet::{Signature, Tag, Unknown};
use sequoia_openpgp::parse::{Dearmor, PacketParserBuilder, PacketParserResult, Parse};

use super::refusal::Refusal;
use super::text::is_markup;
use crate::text::printable;

/// Signatures in a file; real ones hold one.
const MOST_SIGNATURES: usize = 16;

const BEGIN: &[u8] = b"-----BEGIN PGP ";
const END: &[u8] = b"-----END PGP SIGNATURE-----";

/// The signatures in a file, each once; at least one.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Signature>, Refusal> {
    let mut signatures = Vec::new();
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Err(Refusal::EmptySignature),
        // Every OpenPGP packet begins with the high bit set; no text does.
        Some(_) if bytes[0] & 0x80 != 0 && !bytes.starts_with(b"\xef\xbb\xbf") => packets(bytes, &mut signatures)?,
        Some(_) if is_markup(bytes) => return Err(Refusal::MarkupSignature),
        Some(_) => armored(bytes, &mut signatures)?,
    }
    if signatures.is_empty() {
        return Err(Refusal::NotASignature);
    }
    Ok(signatures)
}

/// Reads every armored block. Text may stand before the first, as GnuPG allows; nothing may follow.
fn armored(bytes: &[u8], signatures: &mut Vec<Signature>) -> Result<(), Refusal> {
    let mut rest = &bytes[position(bytes, BEGIN).ok_or(Refusal::NotASignature)?..];
    while !rest.is_empty() {
        if !rest.starts_with(BEGIN) {
            return Err(Refusal::TrailingData);
        }
        let label = &rest[BEGIN.len()..];
        if !label.starts_with(b"SIGNATURE-----") {
            return Err(mislabelled(label));
        }
        let end = position(rest, END).ok_or(Refusal::TruncatedSignature)? + END.len();
        let mut binary = Vec::new();
        Reader::from_bytes(&rest[..end], ReaderMode::Tolerant(Some(Kind::Signature)))
            .read_to_end(&mut binary)
            .map_err(|error| Refusal::DamagedSignature(printable(error.to_string().as_bytes())))?;
        packets(&binary, signatures)?;
        rest = rest[end..].trim_ascii_start();
    }
    Ok(())
}

fn mislabelled(label: &[u8]) -> Refusal {
    if label.starts_with(b"PUBLIC KEY") {
        Refusal::KeyAsSignature { private: false }
    } else if label.starts_with(b"PRIVATE KEY") {
        Refusal::KeyAsSignature { private: true }
    } else if label.starts_with(b"SIGNED MESSAGE") || label.starts_with(b"MESSAGE") {
        Refusal::SignedMessage
    } else {
        Refusal::NotASignature
    }
}

fn packets(bytes: &[u8], signatures: &mut Vec<Signature>) -> Result<(), Refusal> {
    let broken = |first: bool, error: &sequoia_openpgp::anyhow::Error| damage(first, error);
    let mut parsed = PacketParserBuilder::from_bytes(bytes)
        .and_then(|builder| builder.dearmor(Dearmor::Disabled).build())
        .map_err(|error| broken(signatures.is_empty(), &error))?;
    while let PacketParserResult::Some(parser) = parsed {
        // Judged before the body of anything but a signature is read: it may be a whole message.
        refuse_others(&parser.packet, !signatures.is_empty())?;
        let (packet, next) = parser.next().map_err(|error| broken(signatures.is_empty(), &error))?;
        match packet {
            Packet::Signature(signature) if !signatures.contains(&signature) => signatures.push(signature),
            Packet::Signature(_) => {}
            other => refuse_others(&other, !signatures.is_empty())?,
        }
        if signatures.len() > MOST_SIGNATURES {
            return Err(Refusal::TooManySignatures);
        }
        parsed = next;
    }
    Ok(())
}

/// Refuses every packet that is not a signature, by what it is.
fn refuse_others(packet: &Packet, after_signature: bool) -> Result<(), Refusal> {
    Err(match packet {
        Packet::Signature(_) => return Ok(()),
        Packet::Unknown(unknown) if unknown.tag() == Tag::Signature => unreadable(unknown),
        _ if after_signature => Refusal::TrailingData,
        Packet::PublicKey(_) | Packet::PublicSubkey(_) => Refusal::KeyAsSignature { private: false },
        Packet::SecretKey(_) | Packet::SecretSubkey(_) => Refusal::KeyAsSignature { private: true },
        Packet::OnePassSig(_) | Packet::Literal(_) | Packet::CompressedData(_) => Refusal::SignedMessage,
        _ => Refusal::NotASignature,
    })
}

fn unreadable(unknown: &Unknown) -> Refusal {
    damage(true, unknown.error())
}

fn damage(first: bool, error: &sequoia_openpgp::anyhow::Error) -> Refusal {
    let cut = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == ErrorKind::UnexpectedEof);
    match (cut, first) {
        (true, _) => Refusal::TruncatedSignature,
        (false, true) => Refusal::DamagedSignature(printable(format!("{error:#}").as_bytes())),
        (false, false) => Refusal::TrailingData,
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
