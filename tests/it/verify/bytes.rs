//! The library's signature check over bytes that nobody meant: it refuses, and never panics.

use std::io::{self, Read};
use std::time::SystemTime;

use crate::support::pgp::{bytes, fingerprint};
use efa_gen::error::{Class, Error};
use efa_gen::verify::{Pin, Refusal, Request, Verified, detached};
use proptest::prelude::*;

fn verify(data: impl Read + Send, signature: &[u8], certificate: &[u8]) -> Result<Verified, Refusal> {
    let fingerprint: Pin = fingerprint("good").parse().expect("a fingerprint");
    let request = Request { signature, certificate, fingerprint: &fingerprint, sha256: None, at: SystemTime::now() };
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

#[test]
fn too_many_signatures_are_refused_before_the_data_is_read() {
    struct Unread;
    impl Read for Unread {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("there was nothing to read for");
        }
    }
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
