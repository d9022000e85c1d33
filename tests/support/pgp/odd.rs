//! Owns the fixtures that GnuPG refuses to make.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sequoia_openpgp::cert::amalgamation::ValidateAmalgamation;
use sequoia_openpgp::cert::{CertBuilder, CipherSuite, SubkeyRevocationBuilder};
use sequoia_openpgp::crypto::Signer;
use sequoia_openpgp::crypto::mpi::{self, MPI};
use sequoia_openpgp::packet::key::{Key4, PrimaryRole, PublicParts, SecretParts, SubordinateRole, UnspecifiedRole};
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::packet::{Key, Packet, Signature, UserID};
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::serialize::{Marshal, SerializeInto};
use sequoia_openpgp::types::{Curve, HashAlgorithm, KeyFlags, PublicKeyAlgorithm, SignatureType};
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
    version_three(out, &data).expect("a version 3 signature");
    revoked_by_another(out, &data).expect("a subkey that an appointed key revoked");
    shortened(out, &data).expect("keys with an expiry that came later");
    unchecked_kinds(out, &data).expect("keys of kinds that can't be checked");
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

/// A good key's signature in the format of 1991 (RFC 9580, section 5.2.2): nothing but its type and date is signed.
fn version_three(out: &Path, data: &[u8]) -> Result<()> {
    let (certificate, _) = builder("three").add_signing_subkey().generate()?;
    let key = certificate.keys().subkeys().next().expect("a subkey").key().clone().parts_into_secret()?;
    let date = u32::try_from((SystemTime::now() - YEAR / 2).duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?;
    let signed = [&[u8::from(SignatureType::Binary)], &date.to_be_bytes()[..]].concat();
    let mut context = HashAlgorithm::SHA512.context()?.for_signature(3);
    context.update(data);
    context.update(&signed);
    let digest = context.into_digest()?;
    let made = key.clone().role_into_unspecified().into_keypair()?.sign(HashAlgorithm::SHA512, &digest)?;
    let mut body = [&[3, 5], &signed[..], key.keyid().as_bytes()].concat();
    body.extend([u8::from(key.pk_algo()), u8::from(HashAlgorithm::SHA512), digest[0], digest[1]]);
    made.serialize(&mut body)?;
    let bytes = [&[0x88, u8::try_from(body.len())?], &body[..]].concat();
    fs::write(out.join("three.sig"), bytes)?;
    fs::write(out.join("three.asc"), certificate.clone().strip_secret_key_material().armored().to_vec()?)?;
    fs::write(out.join("three.fpr"), certificate.fingerprint().to_hex())?;
    Ok(())
}

/// The certificate appoints a key that may revoke it, which revokes the signing subkey. That key is not in the file.
fn revoked_by_another(out: &Path, data: &[u8]) -> Result<()> {
    let (revoker, _) = builder("revoker").generate()?;
    let (mine, _) =
        builder("appointing").set_revocation_keys(vec![(&revoker).into()]).add_signing_subkey().generate()?;
    let subkey = mine.keys().subkeys().next().expect("a subkey").key().clone();
    let signature = sign(&subkey.clone().parts_into_secret()?.role_into_unspecified(), binary(), data)?;
    let mut signer = revoker.primary_key().key().clone().parts_into_secret()?.into_keypair()?;
    let revocation = SubkeyRevocationBuilder::new().build(&mut signer, &mine, &subkey, None)?;
    let (mine, _) = mine.insert_packets([Packet::from(revocation)])?;
    write(out, "appointing", &mine, signature)
}

/// Signed half a year ago; since then the owner has let the key end before that: the primary key, or the subkey alone.
fn shortened(out: &Path, data: &[u8]) -> Result<()> {
    let policy = StandardPolicy::new();
    let end = SystemTime::now() - YEAR * 3 / 4;
    for of_subkey in [false, true] {
        let name = if of_subkey { "shortened-subkey" } else { "shortened" };
        let (mine, _) = builder(name).add_signing_subkey().generate()?;
        let subkey = mine.keys().subkeys().next().expect("a subkey");
        let secret = subkey.key().clone().parts_into_secret()?.role_into_unspecified();
        let signature = sign(&secret, binary().set_signature_creation_time(SystemTime::now() - YEAR / 2)?, data)?;
        let mut primary = mine.primary_key().key().clone().parts_into_secret()?.into_keypair()?;
        let later = if of_subkey {
            let mut own = secret.into_keypair()?;
            subkey.with_policy(&policy, None)?.set_expiration_time(&mut primary, Some(&mut own), Some(end))?
        } else {
            mine.primary_key().with_policy(&policy, None)?.set_expiration_time(&mut primary, Some(end))?
        };
        let (mine, _) = mine.insert_packets(later.into_iter().map(Packet::from))?;
        write(out, name, &mine, signature)?;
    }
    Ok(())
}

/// Signs with the right form and nothing in it: for keys that nothing here can sign with either.
struct Pretender {
    key: Key<PublicParts, UnspecifiedRole>,
}

impl Signer for Pretender {
    fn public(&self) -> &Key<PublicParts, UnspecifiedRole> {
        &self.key
    }

    fn sign(&mut self, _: HashAlgorithm, _: &[u8]) -> Result<mpi::Signature> {
        let noise = || MPI::new(&[0x55; 32]);
        Ok(match self.key.pk_algo() {
            PublicKeyAlgorithm::RSAEncryptSign => mpi::Signature::RSA { s: noise() },
            PublicKeyAlgorithm::EdDSA => mpi::Signature::EdDSA { r: noise(), s: noise() },
            _ => mpi::Signature::ECDSA { r: noise(), s: noise() },
        })
    }
}

/// Primary keys that no key of this test machine can stand in for, and a subkey of that kind below a good primary key.
fn unchecked_kinds(out: &Path, data: &[u8]) -> Result<()> {
    let created = SystemTime::now() - YEAR;
    let ec = |curve: Curve| mpi::PublicKey::ECDSA { curve, q: MPI::new(&[&[4][..], &[0x11; 64]].concat()) };
    let rsa = |bytes: usize, e: &[u8]| mpi::PublicKey::RSA { e: MPI::new(e), n: MPI::new(&vec![0xc1; bytes]) };
    let on = |oid: &[u8]| Curve::Unknown(oid.to_vec().into_boxed_slice());
    // The OIDs of SEC 2 (secp256k1) and of RFC 8410 (Ed448).
    let secp256k1 = on(&[0x2b, 0x81, 0x04, 0x00, 0x0a]);
    let kinds = [
        ("rsa8192", PublicKeyAlgorithm::RSAEncryptSign, rsa(1024, &[1, 0, 1])),
        ("rsa4104", PublicKeyAlgorithm::RSAEncryptSign, rsa(513, &[1, 0, 1])),
        ("exponent", PublicKeyAlgorithm::RSAEncryptSign, rsa(256, &[0x77; 40])),
        ("brainpool256", PublicKeyAlgorithm::ECDSA, ec(Curve::BrainpoolP256)),
        ("brainpool512", PublicKeyAlgorithm::ECDSA, ec(Curve::BrainpoolP512)),
        ("secp256k1", PublicKeyAlgorithm::ECDSA, ec(secp256k1)),
        (
            "eddsa448",
            PublicKeyAlgorithm::EdDSA,
            mpi::PublicKey::EdDSA { curve: on(&[0x2b, 0x65, 0x71]), q: MPI::new(&[0x40; 33]) },
        ),
    ];
    for (name, algorithm, mpis) in kinds {
        let key = Key4::<PublicParts, PrimaryRole>::new(created, algorithm, mpis)?;
        let mut signer = Pretender { key: Key::from(key.clone()).role_into_unspecified() };
        let bare = Cert::try_from(vec![Packet::from(Key::from(key))])?;
        let id = UserID::from(name);
        let builder = SignatureBuilder::new(SignatureType::PositiveCertification);
        let builder = builder.set_key_flags(KeyFlags::signing())?.set_signature_creation_time(created)?;
        let binding = id.bind(&mut signer, &bare, builder)?;
        let (certificate, _) = bare.insert_packets([Packet::from(id), binding.into()])?;
        let signature = binary().set_hash_algo(HashAlgorithm::SHA512).sign_message(&mut signer, data)?;
        write(out, name, &certificate, signature)?;
    }
    let (mine, _) = builder("brainpoolsub").generate()?;
    let key = Key4::<PublicParts, SubordinateRole>::new(created, PublicKeyAlgorithm::ECDSA, ec(Curve::BrainpoolP384))?;
    let subkey: Key<PublicParts, SubordinateRole> = key.into();
    let mut signer = Pretender { key: subkey.clone().role_into_unspecified() };
    let mut primary = mine.primary_key().key().clone().parts_into_secret()?.into_keypair()?;
    let back = SignatureBuilder::new(SignatureType::PrimaryKeyBinding)
        .set_signature_creation_time(created)?
        .sign_primary_key_binding(&mut signer, mine.primary_key().key(), &subkey)?;
    let binding = SignatureBuilder::new(SignatureType::SubkeyBinding)
        .set_signature_creation_time(created)?
        .set_key_flags(KeyFlags::signing())?
        .set_embedded_signature(back)?
        .sign_subkey_binding(&mut primary, None, &subkey)?;
    let (mine, _) = mine.insert_packets([Packet::from(subkey), Packet::from(binding)])?;
    let signature = binary().set_hash_algo(HashAlgorithm::SHA512).sign_message(&mut signer, data)?;
    write(out, "brainpoolsub", &mine, signature)
}
