//! The library's signature check over bytes that nobody meant: it refuses, and never panics.

use std::io::{self, Read};
use std::time::SystemTime;

use crate::support::pgp::{bytes, fingerprint};
use efa_gen::error::{Class, Error};
use efa_gen::verify::{Pin, Refusal, Verified, VerifyRequest, detached};
use proptest::prelude::*;

fn verify(data: impl Read + Send, signature: &[u8], certificate: &[u8]) -> Result<Verified, Refusal> {
    let fingerprint: Pin = fingerprint("good").parse().expect("a fingerprint");
    let request =
        VerifyRequest { signature, certificate, fingerprint: &fingerprint, sha256: None, at: SystemTime::now() };
    detached(data, &request)
}

/// Bytes that begin or look like a fixture: cut, flipped, doubled.
fn damaged(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let original = bytes(name);
    let length = original.len();
    let edits = prop::collection::vec((0..length, any::<u8>()), 0..4);
    (edits, 0..=length, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        move |(edits, cut, twice, tail)| {
            let mut bytes = original.clone();
            for (place, value) in edits {
                bytes[place] = value;
            }
            bytes.truncate(if cut < length / 2 { length } else { cut });
            let again = if twice { bytes.clone() } else { tail };
            bytes.extend(again);
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_signatures_never_pass(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(verify(&b"data"[..], &noise, &bytes("good.asc")).is_err());
    }

    #[test]
    fn random_keys_never_pass(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(verify(&b"data"[..], &bytes("good.sig"), &noise).is_err());
    }

    #[test]
    fn damaged_signatures_never_pass_for_other_data(signature in damaged("good.sig")) {
        prop_assert!(verify(&b"data"[..], &signature, &bytes("good.asc")).is_err());
    }

    #[test]
    fn damaged_armor_never_passes_for_other_data(signature in damaged("good.sig.asc")) {
        prop_assert!(verify(&b"data"[..], &signature, &bytes("good.asc")).is_err());
    }

    #[test]
    fn damaged_keys_never_pass_for_other_data(key in damaged("good.gpg")) {
        prop_assert!(verify(&b"data"[..], &bytes("good.sig"), &key).is_err());
    }

    #[test]
    fn damaged_armored_keys_never_pass_for_other_data(key in damaged("keyring.asc")) {
        prop_assert!(verify(&b"data"[..], &bytes("good.sig"), &key).is_err());
    }
}

/// Hands out the data in pieces of every size, with interruptions, and may fail at the end.
struct Drip<'a> {
    data: &'a [u8],
    turn: usize,
    fails: bool,
}

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(7) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.data.is_empty() && self.fails {
            return Err(io::Error::other("the disk is gone"));
        }
        let piece = buffer.len().min(1 + self.turn * 37 % 5000).min(self.data.len());
        buffer[..piece].copy_from_slice(&self.data[..piece]);
        self.data = &self.data[piece..];
        Ok(piece)
    }
}

#[test]
fn how_the_data_arrives_makes_no_difference() {
    let data = bytes("efa.tar.gz");
    for signature in ["good.sig", "good-SHA512.sig", "good-SHA224.sig"] {
        let whole = verify(&data[..], &bytes(signature), &bytes("good.asc")).expect("good");
        let drip = Drip { data: &data, turn: 0, fails: false };
        let pieces = verify(drip, &bytes(signature), &bytes("good.asc")).expect("good");
        assert_eq!(whole.sha256, pieces.sha256);
        assert_eq!(whole.length, data.len() as u64);
    }
}

#[test]
fn a_reader_that_fails_is_no_verdict() {
    let data = bytes("efa.tar.gz");
    let drip = Drip { data: &data, turn: 0, fails: true };
    let refusal = verify(drip, &bytes("good.sig"), &bytes("good.asc")).expect_err("the reader failed");
    assert!(matches!(refusal, Refusal::Read(_)), "{refusal:?}");
    let error = Error::from(refusal);
    assert_eq!(error.class(), Class::Io);
    assert_eq!(std::error::Error::source(&error).map(ToString::to_string).as_deref(), Some("the disk is gone"));
}

/// Data that nobody has a reason to read.
struct Unread;

impl Read for Unread {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("there was nothing to read for");
    }
}

#[test]
fn too_many_signatures_are_refused_before_the_data_is_read() {
    let different = ["good.sig", "good-SHA384.sig", "good-SHA512.sig", "good-SHA224.sig", "other.sig"];
    // The first byte of the issuer's unhashed copy makes each signature another one.
    let many: Vec<u8> = (0..20_u8)
        .flat_map(|turn| {
            let mut signature = bytes(different[usize::from(turn) % different.len()]);
            let last = signature.len() - 1;
            signature[last] ^= turn;
            signature
        })
        .collect();
    let refusal = verify(Unread, &many, &bytes("good.asc")).expect_err("too many");
    assert!(matches!(refusal, Refusal::TooManySignatures), "{refusal:?}");
}

/// A packet in the format of RFC 9580, section 4.2.1, with a length of five bytes.
fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a packet is small").to_be_bytes();
    [&[0xc0 | tag, 0xff], &length[..], body].concat()
}

/// What anybody can add to a key file without a key of any kind: names, subkeys, and signatures that say they are the key's.
fn junk(kind: &str, number: u32, owner: &str, made: &[u8]) -> Vec<u8> {
    let number = number.to_be_bytes();
    let key = [&[4], made, &[22_u8, 9, 0x2b, 6, 1, 4, 1, 0xda, 0x47, 15, 1, 1, 7, 0x40], &number, &[9; 28]].concat();
    let signature = |kind: u8| {
        // As old as the key, and by the key of this fingerprint (sections 5.2.3.11 and 5.2.3.35).
        let hex = |place: usize| u8::from_str_radix(&owner[place..place + 2], 16).expect("it is hex");
        let issuer: Vec<u8> = (0..40).step_by(2).map(hex).collect();
        let hashed = [&[5, 2], made, &[22, 33, 4], &issuer[..]].concat();
        let length = u8::try_from(hashed.len()).expect("it is short");
        let value = [0, 32, 0x80 | number[0], number[1], number[2], number[3]];
        [&[4, kind, 1, 8, 0, length], &hashed[..], &[0, 0, number[2], number[3]], &value].concat()
    };
    match kind {
        "name" => packet(13, format!("Mallory {number:?} <mallory@example.org>").as_bytes()),
        "subkey" => packet(14, &key),
        "certificate" => packet(6, &key),
        "self-signature" => packet(2, &signature(0x13)),
        "revocation" => packet(2, &signature(0x20)),
        "direct key signature" => packet(2, &signature(0x1f)),
        "photo" => packet(17, &[&[21, 1, 16, 0, 1, 1], &[0; 12][..], &number[2..]].concat()),
        "trust" => packet(12, &number),
        _ => panic!("nobody adds a {kind}"),
    }
}

/// The good key with so many things added.
fn flooded(kind: &str, count: u32) -> Vec<u8> {
    let (mut key, owner) = (bytes("good.gpg"), fingerprint("good"));
    // Its time of creation (section 5.5.2).
    let made = key[4..8].to_vec();
    (0..count).for_each(|number| key.extend(junk(kind, number, &owner, &made)));
    key
}

/// Packets of the good key itself: the key, its name, the signature of both.
const OWN: u32 = 3;
const MOST: u32 = 500;

#[test]
fn a_key_that_was_flooded_is_refused_before_anything_of_it_is_judged() {
    let refused = |key: &[u8], what: &str| {
        let refusal = verify(Unread, &bytes("good.sig"), key).expect_err(what);
        assert!(matches!(refusal, Refusal::OverfullKey { .. }), "{what}: {refusal:?}");
        let said = refusal.to_string();
        assert!(said.contains(&fingerprint("good")) && said.contains("more than 500 keys"), "{what}: {said}");
        assert!(refusal.hint().contains("export-minimal"), "{what}: {}", refusal.hint());
    };
    for (kind, count) in [
        ("name", 20_000),
        ("name", MOST - OWN + 1),
        ("subkey", 60_000),
        ("self-signature", 36_000),
        ("revocation", 36_000),
        ("direct key signature", MOST),
        ("photo", 60_000),
        ("trust", 300_000),
    ] {
        let key = flooded(kind, count);
        assert!(key.len() < 4 << 20, "{kind}: {} bytes would be refused for their number", key.len());
        refused(&key, kind);
    }
    // In the middle of others, in several copies, and armored.
    let others = [flooded("certificate", 9), flooded("name", 1_000), flooded("certificate", 9)].concat();
    refused(&others, "a keyring");
    refused(&bytes("good.gpg").repeat(200), "200 copies");
    let armored: Vec<u8> = bytes("good.asc").repeat(200);
    refused(&armored, "200 armored copies");
    // Few parts, of which one is large.
    let mut large = bytes("good.gpg");
    large.extend(packet(13, &vec![b'x'; 300 << 10]));
    refused(&large, "a long name");
}

#[test]
fn what_others_added_to_a_key_within_reason_changes_nothing() {
    let data = bytes("efa.tar.gz");
    let good = verify(&data[..], &bytes("good.sig"), &bytes("good.gpg")).expect("it is good");
    assert_eq!(good.user_id.as_deref(), Some("good <good@example.org>"));
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for kind in ["name", "subkey", "self-signature", "revocation", "direct key signature", "photo", "trust"] {
        cases.push((kind.to_owned(), flooded(kind, MOST - OWN)));
    }
    // These are other keys, of which only the fingerprint is looked at.
    cases.push(("certificate".to_owned(), flooded("certificate", 60_000)));
    cases.push(("copies".to_owned(), bytes("good.gpg").repeat(100)));
    for (kind, key) in cases {
        let verified =
            verify(&data[..], &bytes("good.sig"), &key).unwrap_or_else(|refusal| panic!("{kind}: {refusal}"));
        assert_eq!(verified.user_id, good.user_id, "{kind}");
        assert_eq!(verified.signing_key, good.signing_key, "{kind}");
    }
}

#[test]
fn a_key_file_larger_than_any_keyring_is_not_read() {
    let mut key = bytes("good.gpg");
    key.resize((4 << 20) + 1, 0);
    let refusal = verify(Unread, &bytes("good.sig"), &key).expect_err("too large");
    assert!(matches!(refusal, Refusal::LargeKeyFile), "{refusal:?}");
}
