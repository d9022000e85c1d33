//! Which version a tarball is: a good signature over an old one is good under any name.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use sequoia_openpgp::cert::CertBuilder;
use sequoia_openpgp::packet::Packet;
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::serialize::{Marshal, SerializeInto};
use sequoia_openpgp::types::SignatureType;

use crate::support::http::{Reply, Server};
use crate::support::{Ran, names, run_in, scratch};
use efa_gen::verify::check_version;

/// A member of a ustar archive: a path, a type, and what is in it.
fn member(path: &str, kind: u8, text: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[124..136].copy_from_slice(format!("{:011o}\0", text.len()).as_bytes());
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    let mut member = [&header[..], text].concat();
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&members.concat()).expect("memory takes it");
    gzip.write_all(&[0; 1024]).expect("memory takes it");
    gzip.finish().expect("memory takes it")
}

/// The publisher's layout, as far as anything here looks at it.
fn installer(version: &str) -> Vec<u8> {
    archive(&[
        member("aws-efa-installer/", b'5', b""),
        member("aws-efa-installer/RPMS/efa.rpm", b'0', &[7; 3000]),
        member("aws-efa-installer/efa_installer.sh", b'0', b"#!/bin/bash\nsource ./env.sh\n"),
        member("aws-efa-installer/env.sh", b'0', format!("EFA_INSTALLER_VERSION={version}\nOTHER=9.9.9\n").as_bytes()),
    ])
}

/// What a publisher gives out: key, fingerprint, and a signature over a tarball.
struct Publication {
    key: Vec<u8>,
    fingerprint: String,
    signature: Vec<u8>,
    tarball: Vec<u8>,
}

fn publish(tarball: Vec<u8>) -> Publication {
    let publish = || -> sequoia_openpgp::Result<_> {
        let (certificate, _) = CertBuilder::general_purpose(Some("publisher")).generate()?;
        let signing = certificate.keys().subkeys().next().expect("a subkey").key().clone().parts_into_secret()?;
        let mut signer = signing.into_keypair()?;
        let builder = SignatureBuilder::new(SignatureType::Binary);
        let mut signature = Vec::new();
        Packet::from(builder.sign_message(&mut signer, &tarball)?).serialize(&mut signature)?;
        let key = certificate.clone().strip_secret_key_material().armored().to_vec()?;
        Ok((key, certificate.fingerprint().to_hex(), signature))
    };
    let (key, fingerprint, signature) = publish().expect("a key can be made");
    Publication { key, fingerprint, signature, tarball }
}

impl Publication {
    /// `efa-gen verify` of the tarball under this name.
    fn verify(&self, name: &str, more: &[&str]) -> Ran {
        let folder = scratch();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
        write(name, &self.tarball);
        write("signature", &self.signature);
        write("key", &self.key);
        let fixed = ["verify", name, "--signature", "signature", "--key", "key", "--fingerprint", &self.fingerprint];
        run_in(folder.path(), &[&fixed[..], more].concat())
    }

    fn fetch(&self, folder: &Path, version: &str) -> Ran {
        let (key, signature, tarball) = (self.key.clone(), self.signature.clone(), self.tarball.clone());
        let server = Server::start(move |asked| match asked.path.rsplit('.').next() {
            Some("key") => Reply::new(200, &key),
            Some("sig") => Reply::new(200, &signature),
            _ => Reply::file(asked, &tarball, "\"one\""),
        });
        let fixed = ["fetch", "--efa", version, "--base-url", &server.url, "--fingerprint", &self.fingerprint];
        run_in(folder, &fixed)
    }
}

#[track_caller]
fn assert_ran(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    for says in says {
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(says), "{says}: {}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(ran.stdout.is_empty(), code != 0, "stdout is for good files:\n{}", ran.stdout);
}

#[test]
fn an_old_release_under_a_new_name_is_refused_by_name() {
    let old = publish(installer("1.20.0"));
    let words = "the tarball is EFA installer 1.20.0 by its own account, older than 1.99.0";
    assert_ran(&old.verify("aws-efa-installer-1.99.0.tar.gz", &[]), 3, &[words, "hint: ", "--sha256"]);
    let folder = scratch();
    let ran = old.fetch(folder.path(), "1.99.0");
    assert_ran(&ran, 3, &[words, "note: no digest is known for EFA 1.99.0"]);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    // What lies there already is looked at, too, and stays where it is.
    let name = "aws-efa-installer-1.99.0.tar.gz";
    fs::write(folder.path().join(name), &old.tarball).expect("written");
    assert_ran(&old.fetch(folder.path(), "1.99.0"), 3, &[words, &format!("or remove ./{name}")]);
    assert_eq!(names(folder.path()), [name]);
}

#[test]
fn the_release_that_was_asked_for_passes_and_a_newer_one_does_not() {
    for (is, asked, code, says) in [
        (
            "1.99.0",
            "1.99.0",
            0,
            "version         1.99.0 by its own account (the signature tells who, not which version)",
        ),
        ("1.100.0", "1.99.0", 3, "the tarball is EFA installer 1.100.0 by its own account, not 1.99.0"),
        ("1.9.9", "1.99.0", 3, "by its own account, older than 1.99.0"),
        ("1.99.0", "1.99.0.1", 3, "by its own account, older than 1.99.0.1"),
    ] {
        let folder = scratch();
        assert_ran(&publish(installer(is)).fetch(folder.path(), asked), code, &[says]);
        assert_eq!(names(folder.path()).is_empty(), code != 0, "{is} for {asked}");
    }
}

#[test]
fn every_place_where_a_tarball_names_its_version_is_read() {
    let script = |path: &str, text: &str| vec![member(path, b'0', text.as_bytes())];
    let env = |text: &str| script("aws-efa-installer/env.sh", text);
    let cases = [
        env("export EFA_INSTALLER_VERSION=\"1.20.0\""),
        env("# EFA_INSTALLER_VERSION=1.99.0\n  readonly EFA_INSTALLER_VERSION='1.20.0' # of 2022\n"),
        env("EFA_INSTALLER_VERSION=1.99.0\r\nEFA_INSTALLER_VERSION=1.20.0\n"),
        env("EFA_INSTALLER_VERSION=1.20.0;NEXT=1.99.0"),
        script("./aws-efa-installer/env.sh", "EFA_INSTALLER_VERSION=1.20.0"),
        script("aws-efa-installer/efa_installer.sh", "EFA_INSTALLER_VERSION=1.20.0"),
        vec![member("aws-efa-installer-1.20.0/", b'5', b"")],
        script("aws-efa-installer-1.20.0/efa_installer.sh", ""),
        [vec![member("pax_global_header", b'g', b"52 comment=1234\n")], env("EFA_INSTALLER_VERSION=1.20.0")].concat(),
        [script("aws-efa-installer/DEBS/env.sh", "EFA_INSTALLER_VERSION=1.99.0"), env("EFA_INSTALLER_VERSION=1.20.0")]
            .concat(),
        [vec![member("aws-efa-installer/env.sh", b'2', b"")], env("EFA_INSTALLER_VERSION=1.20.0")].concat(),
    ];
    for (place, members) in cases.iter().enumerate() {
        let refused = check_version(&archive(members)[..], Some("1.99.0")).map_err(|refusal| refusal.to_string());
        assert!(refused.as_ref().is_err_and(|text| text.contains("EFA installer 1.20.0")), "case {place}: {refused:?}");
        let named = check_version(&archive(members)[..], None).expect("nothing was asked for");
        assert_eq!(named.as_deref(), Some("1.20.0"), "case {place}");
    }
}

#[test]
fn a_tarball_that_names_no_version_is_said_to_name_none() {
    for (place, tarball) in [
        b"no archive at all".to_vec(),
        archive(&[member("aws-efa-installer/env.sh", b'0', b"EFA_INSTALLER_VERSION=$OTHER")]),
        archive(&[member("elsewhere/env.sh", b'0', b"EFA_INSTALLER_VERSION=1.20.0")]),
        archive(&[member("aws-efa-installer/env.sh", b'0', b"MY_EFA_INSTALLER_VERSION=1.20.0")]),
        archive(&[member("aws-efa-installer-latest/env.sh", b'0', b"EFA_INSTALLER_VERSION=1.20.0")]),
    ]
    .into_iter()
    .enumerate()
    {
        let ran = publish(tarball).verify("aws-efa-installer-1.99.0.tar.gz", &[]);
        assert_ran(
            &ran,
            0,
            &[
                "version         not named (the signature tells who, not which version)",
                "note: no digest is known for EFA 1.99.0",
            ],
        );
        assert!(ran.code == 0, "case {place}");
    }
}

#[test]
fn under_a_name_of_its_own_a_release_is_still_held_to_its_digest() {
    // A digest is known of 1.47.0, and this is another file.
    let ran = publish(installer("1.47.0")).verify("installer.tar.gz", &[]);
    let digest = "expected 2df4201e046833c7dc8160907bee7f52b76ff80ed147376a2d0ed8a0dd66b2db";
    assert_ran(
        &ran,
        3,
        &["sum differs, signature good", digest, "the SHA-256 of EFA 1.47.0 that is published in AWS EC2 User Guide"],
    );
    // None is known of this one.
    let ran = publish(installer("1.99.0")).verify("installer.tar.gz", &["--output", "json"]);
    assert_ran(&ran, 0, &["\"named_version\": \"1.99.0\""]);
}

#[test]
fn whoever_gives_a_digest_has_said_which_file() {
    use sha2::Digest;
    let old = publish(installer("1.20.0"));
    let sha256: String = sha2::Sha256::digest(&old.tarball).iter().map(|byte| format!("{byte:02x}")).collect();
    let ran = old.verify("aws-efa-installer-1.99.0.tar.gz", &["--sha256", &sha256]);
    assert_ran(&ran, 0, &["good signature"]);
    assert!(!ran.stdout.contains("version "), "{}", ran.stdout);
}

#[test]
fn who_publishes_a_digest_is_said() {
    let ran = publish(installer("1.50.0")).verify("aws-efa-installer-1.50.0.tar.gz", &[]);
    assert_ran(&ran, 3, &["the SHA-256 of EFA 1.50.0 that is published in awslabs/awsome-distributed-ai@ce75f2f1a7cb"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Lengths, types and names that no archive has.
    #[test]
    fn no_archive_is_too_odd(edits in prop::collection::vec((0..4_096_usize, any::<u8>()), 0..30), cut in 0..5_000_usize) {
        let mut bytes = [
            member("aws-efa-installer/", b'5', b""),
            member("aws-efa-installer/a", b'0', &[7; 900]),
            member("aws-efa-installer/env.sh", b'0', b"EFA_INSTALLER_VERSION=1.20.0"),
        ]
        .concat();
        let length = bytes.len();
        edits.iter().for_each(|(place, value)| bytes[place % length] = *value);
        bytes.truncate(cut);
        let _ = check_version(&archive(&[bytes.clone()])[..], Some("1.99.0"));
        let mut cut_gzip = archive(&[bytes]);
        cut_gzip.truncate(cut / 2);
        let _ = check_version(&cut_gzip[..], Some("1.99.0"));
    }
}
