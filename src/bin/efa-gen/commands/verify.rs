//! Owns `efa-gen verify`, and how a verdict is asked for and told; `fetch` uses both.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use efa_gen::catalog::efa;
use efa_gen::error::{Class, Error, Result};
use efa_gen::verify::{self, Pin, Request, Sha256, Verified};
use jiff::Timestamp;

use crate::cli::{OutputArg, TrustArgs, VerifyArgs};
use crate::{files, report};

/// Upper limit of a signature file; real ones have half a kilobyte.
pub const SIGNATURE_LIMIT: u64 = 1 << 20;

/// Upper limit of a key file; a whole keyring fits.
pub const KEY_LIMIT: u64 = 4 << 20;

pub fn run(args: &VerifyArgs) -> Result<()> {
    let fingerprint = pin(&args.trust)?;
    let at = args.at.as_deref().map_or_else(|| Ok(SystemTime::now()), parse_time)?;
    let tarball = files::open(&args.tarball, "tarball")?;
    let sha256 = expected_sha256(&args.trust, &args.tarball)?;
    let signature = files::read(&signature_path(args), "signature", SIGNATURE_LIMIT)?;
    let certificate = files::read(&key_path(args)?, "key", KEY_LIMIT)?;
    let request = Request { signature: &signature, certificate: &certificate, fingerprint: &fingerprint, sha256, at };
    let verified = verify::detached(tarball, &request)?;
    tell(&args.tarball, &verified, args.output)
}

/// The pinned fingerprint: the user's, or the publisher's.
pub fn pin(trust: &TrustArgs) -> Result<Pin> {
    trust.fingerprint.as_deref().unwrap_or(efa::PUBLISHER_FINGERPRINT).parse()
}

/// The digest that the tarball must have: the user's, or the one published for a release of this name.
pub fn expected_sha256(trust: &TrustArgs, tarball: &Path) -> Result<Option<Sha256>> {
    if let Some(hex) = &trust.sha256 {
        return hex.parse().map(Some);
    }
    let name = tarball.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = |release: &efa::Release| efa::tarball_name(release.version) == name;
    let Some(release) = efa::releases().find(named) else { return Ok(None) };
    let Some(hex) = release.sha256 else { return Ok(None) };
    report::say(&format!("note: the tarball must also have the SHA-256 published for EFA {}", release.version));
    hex.parse().map(Some)
}

/// Prints the verdict to stdout, and what is worth knowing besides to stderr.
pub fn tell(path: &Path, verified: &Verified, output: OutputArg) -> Result<()> {
    for warning in &verified.warnings {
        report::say(&format!("warning: {warning}"));
    }
    match output {
        OutputArg::Human => report::data(human(path, verified).as_bytes()),
        OutputArg::Json => report::data(format!("{:#}\n", json(path, verified)).as_bytes()),
    }
}

fn human(path: &Path, verified: &Verified) -> String {
    let user_id = verified.user_id.as_ref().map_or(String::new(), |id| format!(" {id}"));
    let mut text = format!("good signature  {}\n", path.display());
    text += &format!("signer          {}{user_id}\n", verified.signer);
    if verified.signing_key != verified.signer {
        text += &format!("signing key     {}\n", verified.signing_key);
    }
    text += &format!("signed at       {} ({})\n", when(verified.signed_at), verified.hash_algorithm);
    text += &format!("sha256          {}\n", verified.sha256);
    text
}

fn json(path: &Path, verified: &Verified) -> serde_json::Value {
    serde_json::json!({
        "path": path.to_string_lossy(),
        "length": verified.length,
        "sha256": verified.sha256.to_string(),
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
    let beside = args.tarball.with_file_name(efa::KEY_NAME);
    if beside.exists() {
        return Ok(beside);
    }
    Err(Error::new(Class::Usage, format!("no key given, and there is no {} beside the tarball", efa::KEY_NAME)).hint(
        "give the signer's key with --key FILE; `efa-gen fetch` downloads it with the tarball (the fingerprint is \
         checked, so any source will do)",
    ))
}

/// An instant (`2020-10-01T00:00:00Z`, any offset) or a date, which is its first second in UTC.
fn parse_time(text: &str) -> Result<SystemTime> {
    let date = || text.parse::<jiff::civil::Date>()?.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp());
    match text.parse::<Timestamp>().or_else(|_| date()) {
        Ok(time) => Ok(time.into()),
        Err(error) => Err(Error::new(Class::Usage, format!("--at {text:?} is not a time"))
            .because(error)
            .hint("write it like 2020-10-01T00:00:00Z, or 2020-10-01")),
    }
}
