//! Owns the fixtures that GnuPG refuses to make.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sequoia_openpgp::cert::{CertBuilder, CipherSuite};
use sequoia_openpgp::packet::key::{SecretParts, UnspecifiedRole};
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::packet::{Key, Packet, Signature, UserID};
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::serialize::{Marshal, SerializeInto};
use sequoia_openpgp::types::{HashAlgorithm, KeyFlags, SignatureType};
use sequoia_openpgp::{Cert, Profile, Result};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub fn make(out: &Path) {
    let data = fs::read(out.join("efa.tar.gz")).expect("made before");
    private_key(out).expect("a private key");
    unvouched_name(out).expect("a name that anybody added");
    unbound_subkey(out, &data).expect("a subkey without back signature");
    version_six(out, &data).expect("a version 6 key");
    forged_issuer(out, &data).expect("a forged issuer");
    before_key(out, &data).expect("a signature older than its key");
    encryption_subkey_only(out, &data).expect("a key that may not sign");
}

fn builder(name: &str) -> CertBuilder<'static> {
    CertBuilder::new()
        .add_userid(name)
        .set_cipher_suite(CipherSuite::Cv25519)
        .set_creation_time(SystemTime::now() - YEAR)
}

fn write(out: &Path, name: &str, certificate: &Cert, signature: Signature) -> Result<()> {
    fs::write(out.join(format!("{name}.asc")), certificate.clone().strip_secret_key_material().armored().to_vec()?)?;
    fs::write(out.join(format!("{name}.fpr")), certificate.fingerprint().to_hex())?;
    fs::write(out.join(format!("{name}.sig")), packet(signature)?)?;
    Ok(())
}

fn packet(signature: Signature) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Packet::from(signature).serialize(&mut bytes)?;
    Ok(bytes)
}

fn sign(key: &Key<SecretParts, UnspecifiedRole>, builder: SignatureBuilder, data: &[u8]) -> Result<Signature> {
    builder.set_hash_algo(HashAlgorithm::SHA512).sign_message(&mut key.clone().into_keypair()?, data)
}

fn binary() -> SignatureBuilder {
    SignatureBuilder::new(SignatureType::Binary)
}

/// The good key, with a user id in front that its owner never signed.
fn unvouched_name(out: &Path) -> Result<()> {
    let certificate = Cert::from_file(out.join("good.asc"))?;
    let mut packets: Vec<Packet> = certificate.into_packets().collect();
    packets.insert(1, UserID::from("Amazon EC2 EFA <ec2-efa-maintainers@amazon.com>").into());
    let mut bytes = Vec::new();
    packets.iter().try_for_each(|packet| packet.serialize(&mut bytes))?;
    fs::write(out.join("unvouched.gpg"), bytes)?;
    Ok(())
}

/// A key file that should never have left its owner.
fn private_key(out: &Path) -> Result<()> {
    let (certificate, _) = builder("owner").generate()?;
    fs::write(out.join("private.asc"), certificate.as_tsk().armored().to_vec()?)?;
    fs::write(out.join("private.gpg"), certificate.as_tsk().to_vec()?)?;
    fs::write(out.join("private.fpr"), certificate.fingerprint().to_hex())?;
    Ok(())
}

/// A signing subkey that the primary claims, without the subkey's own consent.
fn unbound_subkey(out: &Path, data: &[u8]) -> Result<()> {
    let (mine, _) = builder("thief").generate()?;
    let (victim, _) = builder("victim").add_signing_subkey().generate()?;
    let subkey = victim.keys().subkeys().next().expect("a subkey").key().clone().parts_into_secret()?;
    let mut primary = mine.primary_key().key().clone().parts_into_secret()?.into_keypair()?;
    let binding = SignatureBuilder::new(SignatureType::SubkeyBinding)
        .set_signature_creation_time(SystemTime::now() - YEAR / 2)?
        .set_key_flags(KeyFlags::signing())?
        .sign_subkey_binding(&mut primary, None, subkey.parts_as_public())?;
    let packets = [Packet::SecretSubkey(subkey.clone()), Packet::from(binding)];
    let (mine, _) = mine.insert_packets(packets)?;
    let signature = sign(&subkey.role_into_unspecified(), binary(), data)?;
    write(out, "unbound", &mine, signature)
}

fn version_six(out: &Path, data: &[u8]) -> Result<()> {
    let (certificate, _) = builder("six").set_profile(Profile::RFC9580)?.add_signing_subkey().generate()?;
    let key = certificate.keys().subkeys().next().expect("a subkey").key().clone().parts_into_secret()?;
    let signature = sign(&key.role_into_unspecified(), binary(), data)?;
    write(out, "six", &certificate, signature)
}

/// Signed by a stranger who writes the good key's fingerprint into the signature.
fn forged_issuer(out: &Path, data: &[u8]) -> Result<()> {
    let good = Cert::from_file(out.join("good.asc"))?;
    let (stranger, _) = builder("stranger").add_signing_subkey().generate()?;
    let key = stranger.keys().subkeys().next().expect("a subkey").key().clone().parts_into_secret()?;
    let builder = binary().set_issuer_fingerprint(good.fingerprint())?.set_issuer(good.keyid())?;
    fs::write(out.join("forged.sig"), packet(sign(&key.role_into_unspecified(), builder, data)?)?)?;
    Ok(())
}

fn before_key(out: &Path, data: &[u8]) -> Result<()> {
    let (certificate, _) = builder("before").add_signing_subkey().generate()?;
    let key = certificate.keys().subkeys().next().expect("a subkey").key().clone().parts_into_secret()?;
    let builder = binary().set_signature_creation_time(SystemTime::now() - 2 * YEAR)?;
    let signature = sign(&key.role_into_unspecified(), builder, data)?;
    write(out, "before", &certificate, signature)
}

/// The primary key may certify only, yet it signed the data.
fn encryption_subkey_only(out: &Path, data: &[u8]) -> Result<()> {
    let (certificate, _) = builder("certifier").generate()?;
    let key = certificate.primary_key().key().clone().parts_into_secret()?;
    let signature = sign(&key.role_into_unspecified(), binary(), data)?;
    write(out, "certifier", &certificate, signature)
}
