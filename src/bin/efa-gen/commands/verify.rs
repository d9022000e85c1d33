//! Owns `efa-gen verify`, and how a verdict is asked for and told; `fetch` uses both.

use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use efa_gen::catalog::efa_release;
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::EfaDigest;
use efa_gen::verify::{self, Pin, Refusal, Sha256, Verified, VerifyRequest};
use efa_gen::version;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::time::instant;
use crate::cli::{OutputArg, TrustArgs, VerifyArgs};
use crate::io::{files, terminal};

/// Upper limit of a signature file; real ones have half a kilobyte.
pub const SIGNATURE_LIMIT: u64 = 1 << 20;

/// Upper limit of a key file.
pub const KEY_LIMIT: u64 = verify::KEY_FILE_LIMIT as u64;

/// A tarball with a good signature.
pub struct Checked {
    pub verified: Verified,
    /// A digest says which file it must be, and it is that file.
    by_digest: bool,
    /// The version that it names itself, which is looked at where no digest says more.
    named: Option<String>,
}

pub fn run(args: &VerifyArgs) -> Result<()> {
    let fingerprint = pin(&args.trust)?;
    let at = args.at.as_deref().map_or_else(|| Ok(SystemTime::now()), parse_time)?;
    let tarball = files::open(&args.tarball, "tarball")?;
    let sha256 = expected_sha256(&args.trust, &args.tarball)?;
    let signature = files::read(&signature_path(args), "signature", SIGNATURE_LIMIT)?;
    let certificate = files::read(&key_path(args)?, "key", KEY_LIMIT)?;
    let request =
        VerifyRequest { signature: &signature, certificate: &certificate, fingerprint: &fingerprint, sha256, at };
    let verified = verify::detached(&tarball, &request)?;
    let mut checked = with_version(verified, &tarball, sha256, asked_version(&args.tarball))?;
    // Under another name it is still the release that it says it is, and that one's digest may be known.
    if let Some(expected) = checked.named.as_deref().map_or(Ok(None), release_sha256)? {
        if expected != checked.verified.sha256 {
            return Err(Refusal::DigestDiffers { expected, found: checked.verified.sha256 }.into());
        }
        checked.by_digest = true;
    }
    // A verdict as of another day is none of today.
    let pass_on = args.at.is_none().then(|| efa_digest(&checked));
    print_verified(&args.tarball, &checked, pass_on.as_ref(), args.output)
}

/// What a plan takes for this check, made today.
pub fn efa_digest(checked: &Checked) -> EfaDigest {
    let Verified { sha256, signer, .. } = &checked.verified;
    let date = Timestamp::now().to_zoned(TimeZone::UTC).date().to_string();
    EfaDigest { sha256: sha256.to_string(), date, fingerprint: signer.clone() }
}

/// The version that a tarball's name asks for.
fn asked_version(tarball: &Path) -> Option<&str> {
    let pattern = efa_release::tarball_name("/");
    let (before, after) = pattern.split_once('/')?;
    let version = tarball.file_name()?.to_str()?.strip_prefix(before)?.strip_suffix(after)?;
    version::is_dotted(version).then_some(version)
}

/// What else is known of a tarball whose signature is good: without a digest, the version that it names must be the one
/// that was asked for. An old release has a good signature too.
pub fn with_version(
    verified: Verified,
    mut tarball: &File,
    sha256: Option<Sha256>,
    asked: Option<&str>,
) -> Result<Checked> {
    if sha256.is_some() {
        return Ok(Checked { verified, by_digest: true, named: None });
    }
    if let Some(asked) = asked {
        terminal::message(&format!(
            "note: no digest is known for EFA {asked}: the signature tells who, not which version"
        ));
    }
    let unread = |error| Error::new(Class::Io, "could not read the tarball again").with_source(error);
    tarball.rewind().map_err(unread)?;
    let named = verify::check_version(tarball, asked)?;
    Ok(Checked { verified, by_digest: false, named })
}

/// The pinned fingerprint: the user's, or the publisher's.
pub fn pin(trust: &TrustArgs) -> Result<Pin> {
    trust.fingerprint.as_deref().unwrap_or(efa_release::PUBLISHER_FINGERPRINT).parse()
}

/// The digest that the tarball must have: the user's, or the one published for a release of this name.
pub fn expected_sha256(trust: &TrustArgs, tarball: &Path) -> Result<Option<Sha256>> {
    if let Some(hex) = &trust.sha256 {
        return hex.parse().map(Some);
    }
    asked_version(tarball).map_or(Ok(None), release_sha256)
}

/// The digest that is known of a release, which is said.
fn release_sha256(version: &str) -> Result<Option<Sha256>> {
    let Some(release) = efa_release::releases().find(|release| release.version == version) else { return Ok(None) };
    let Some(hex) = release.sha256 else { return Ok(None) };
    let (version, source) = (release.version, release.source);
    terminal::message(&format!(
        "note: the tarball must also have the SHA-256 of EFA {version} that is published in {source}"
    ));
    hex.parse().map(Some)
}

/// Prints the verdict to stdout, and what is worth knowing besides to stderr.
pub fn print_verified(path: &Path, checked: &Checked, pass_on: Option<&EfaDigest>, output: OutputArg) -> Result<()> {
    for warning in &checked.verified.warnings {
        terminal::message(&format!("warning: {warning}"));
    }
    match output {
        OutputArg::Human => terminal::lines(human(path, checked, pass_on)),
        OutputArg::Json => terminal::json(&json(path, checked, pass_on)),
    }
}

fn human(path: &Path, checked: &Checked, pass_on: Option<&EfaDigest>) -> Vec<String> {
    let Checked { verified, by_digest, named } = checked;
    let user_id = verified.user_id.as_ref().map_or(String::new(), |id| format!(" {id}"));
    let mut lines = vec![format!("good signature  {}", path.display())];
    lines.push(format!("signer          {}{user_id}", verified.signer));
    if verified.signing_key != verified.signer {
        lines.push(format!("signing key     {}", verified.signing_key));
    }
    lines.push(format!("signed at       {} ({})", when(verified.signed_at), verified.hash_algorithm));
    lines.push(format!("sha256          {}", verified.sha256));
    if !by_digest {
        let named = named.as_ref().map_or("not named".to_owned(), |version| format!("{version} by its own account"));
        lines.push(format!("version         {named} (the signature tells who, not which version)"));
    }
    lines.extend(pass_on.map(|digest| format!("for a plan      --efa-digest {digest}")));
    lines
}

fn json(path: &Path, checked: &Checked, pass_on: Option<&EfaDigest>) -> serde_json::Value {
    let Checked { verified, named, .. } = checked;
    serde_json::json!({
        "path": path.to_string_lossy(),
        "length": verified.length,
        "sha256": verified.sha256.to_string(),
        "efa_digest": pass_on.map(ToString::to_string),
        "named_version": named,
        "signer": verified.signer,
        "signing_key": verified.signing_key,
        "user_id": verified.user_id,
        "signed_at": when(verified.signed_at),
        "hash_algorithm": verified.hash_algorithm,
        "warnings": verified.warnings,
    })
}

fn when(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "beyond the year 9999".to_owned(), |time| time.to_string())
}

/// `TARBALL.sig`, by adding to the name as it is: it need not be UTF-8.
fn signature_path(args: &VerifyArgs) -> PathBuf {
    args.signature.clone().unwrap_or_else(|| {
        let mut path = args.tarball.clone().into_os_string();
        path.push(".sig");
        path.into()
    })
}

fn key_path(args: &VerifyArgs) -> Result<PathBuf> {
    if let Some(path) = &args.trust.key {
        return Ok(path.clone());
    }
    let beside = args.tarball.with_file_name(efa_release::KEY_NAME);
    if beside.exists() {
        return Ok(beside);
    }
    Err(Error::new(Class::Usage, format!("no key given, and there is no {} beside the tarball", efa_release::KEY_NAME))
        .hint(
            "give the signer's key with --key FILE; `efa-gen fetch` downloads it with the tarball (the fingerprint is \
         checked, so any source will do)",
        ))
}

/// An instant (`2020-10-01T00:00:00Z`, any offset) or a date, which is its first second in UTC.
fn parse_time(text: &str) -> Result<SystemTime> {
    match instant(text) {
        Ok(time) => Ok(time.into()),
        Err(error) => Err(Error::new(Class::Usage, format!("--at {text:?} is not a time"))
            .with_source(error)
            .hint("write it like 2020-10-01T00:00:00Z, or 2020-10-01")),
    }
}
