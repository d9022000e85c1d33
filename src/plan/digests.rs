//! Owns the digest of each artifact of a plan: the published one, or the one that its user gives, and what the plan says of it.

use super::request::EfaDigest;
use crate::catalog::stack::Download;
use crate::catalog::{Catalog, efa_release};
use crate::error::{Class, Error, Result};
use std::collections::BTreeMap;

/// The EFA installer of this version with a digest: published, or of a tarball that the user has verified.
pub(crate) fn digest_of_efa(
    catalog: &Catalog,
    version: &str,
    verified: Option<&EfaDigest>,
    given: &mut BTreeMap<String, String>,
) -> Result<Download> {
    let release = efa_release::release(version);
    let own = catalog.pins.efa.iter().find(|efa| efa.version == version).map(|efa| efa.download.clone());
    let (file, pin) = if own.is_some() { (" --stack-file FILE", " --fingerprint HEX") } else { ("", "") };
    let download = own.unwrap_or_else(|| Download {
        url: format!("{}/{}", efa_release::BASE_URL, efa_release::tarball_name(version)),
        sha256: release.and_then(|release| release.sha256).map(str::to_owned),
        sha512: release.and_then(|release| release.sha512).map(str::to_owned),
        published: release.map_or("nobody", |release| release.source).to_owned(),
    });
    let Some(verified) = verified else {
        let name = download.url.rsplit('/').next().unwrap_or_default();
        let hint = format!(
            "`efa-gen fetch --efa {version}{file}` downloads it and checks its signature, `efa-gen verify {name}{pin}` \
             checks one that you have: each prints the --efa-digest to give here"
        );
        return with_digest("efa", &download, given, &hint);
    };
    if given.contains_key("efa") {
        return Err(Error::new(
            Class::Usage,
            "both --efa-digest and --sha256 efa=HEX say which file the EFA installer is",
        )
        .hint("leave --sha256 efa=HEX out"));
    }
    check_signer(catalog, version, verified)?;
    let words = format!("verified by you on {}, signer's key {}", verified.date, in_fours(&verified.fingerprint));
    let published = match &download.sha256 {
        Some(published) if *published != verified.sha256 => {
            return Err(Error::new(
                Class::Refused,
                format!("--efa-digest differs from the published digest {published}"),
            )
            .hint(format!("the published one is from {}: it is another file that you checked", download.published)));
        }
        Some(_) => format!("{}; {words}", download.published),
        None => words,
    };
    Ok(Download { sha256: Some(verified.sha256.clone()), published, ..download })
}

/// Whose key signs this EFA installer: the publisher's, or the one that a stack file names.
pub(crate) fn signer_of_efa<'a>(catalog: &'a Catalog, version: &str) -> Result<&'a str> {
    let Some(own) = catalog.pins.efa.iter().find(|efa| efa.version == version) else {
        return Ok(efa_release::PUBLISHER_FINGERPRINT);
    };
    let unsigned = || {
        Error::new(Class::Refused, format!("the stack file does not say who signs EFA {version}"))
            .hint("add `signer = { fingerprint = ..., key = ... }` to its [[efa]]")
    };
    own.signer.as_ref().map(|signer| signer.fingerprint.as_str()).ok_or_else(unsigned)
}

/// A check by another key than the signer's proves nothing.
fn check_signer(catalog: &Catalog, version: &str, verified: &EfaDigest) -> Result<()> {
    let signer = signer_of_efa(catalog, version)?;
    if signer.eq_ignore_ascii_case(&verified.fingerprint) {
        return Ok(());
    }
    let (found, wanted) = (in_fours(&verified.fingerprint), in_fours(&signer.to_ascii_uppercase()));
    let message = format!("--efa-digest is of a check by key {found}, and EFA {version} is signed by {wanted}");
    let own = catalog.pins.efa.iter().any(|efa| efa.version == version);
    let how = if own {
        format!("with --fingerprint {}", signer.to_ascii_uppercase())
    } else {
        "without --fingerprint".into()
    };
    Err(Error::new(Class::Refused, message).hint(format!("check the tarball {how}, and pass on what that prints")))
}

/// A fingerprint as GnuPG prints it, for people who compare.
pub(crate) fn in_fours(fingerprint: &str) -> String {
    let digits: Vec<char> = fingerprint.chars().collect();
    digits.chunks(4).map(String::from_iter).collect::<Vec<_>>().join(" ")
}

/// What a plan says of a digest that the user vouches for.
const GIVEN: &str = "digest given by you, not verified";

/// The download with a digest: the published one, or the one that the user gave where none is.
pub(crate) fn with_digest(
    name: &str,
    download: &Download,
    given: &mut BTreeMap<String, String>,
    hint: &str,
) -> Result<Download> {
    let (sha256, source) = match (&download.sha256, given.remove(name)) {
        (Some(published), None) => (published.clone(), download.published.as_str()),
        (Some(published), Some(own)) if own == *published => (own, download.published.as_str()),
        (Some(published), Some(_)) => {
            return Err(Error::new(
                Class::Refused,
                format!("--sha256 {name}=... differs from the published digest {published}"),
            )
            .hint(format!("the published one is from {}; leave --sha256 {name} out", download.published)));
        }
        (None, Some(own)) => (own, GIVEN),
        (None, None) => {
            return Err(Error::new(
                Class::Plan,
                format!("artifact `{name}` ({}) has no published SHA-256", download.url),
            )
            .hint(hint));
        }
    };
    Ok(Download { sha256: Some(sha256), published: source.to_owned(), ..download.clone() })
}

/// What to do about an artifact that nobody publishes a digest of.
pub(crate) const NO_DIGEST: &str = "pass its digest, from a source you trust, as --sha256 NAME=HEX";
