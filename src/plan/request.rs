//! Owns what the planner is asked for, in names, and the parsing of values that it takes.

use crate::catalog::stack::is_hex;
use crate::error::{Class, Error, Result};
use crate::text::excerpt;
use crate::url::secret_part;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What the user asked for, in names.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Distribution id or alias.
    pub distribution: String,
    /// Stack id, or `newest`; without one, the distribution's default.
    pub stack: Option<String>,
    /// Instance type to build for.
    pub instance_type: Option<String>,
    /// EFA installer version instead of the stack's.
    pub efa: Option<String>,
    /// Compatibility rules that the user takes upon himself, by id.
    pub allow: Vec<String>,
    /// Whether to leave out driver, CUDA and everything that needs them.
    pub no_gpu: bool,
    /// Whether to install GDRCopy.
    pub gdrcopy: bool,
    /// SHA-256 by component name, lower-case hex.
    pub sha256: BTreeMap<String, String>,
    /// What the user's own check of the EFA installer gave.
    pub efa_digest: Option<EfaDigest>,
    /// Keys by which the installer may check its packages, ASCII-armored, by the primary key's fingerprint in upper-case hex;
    /// none if it is not to check them.
    pub package_keys: BTreeMap<String, String>,
    /// Where every artifact is taken from instead of its own host: `MIRROR/HOST/PATH`.
    pub mirror: Option<String>,
    /// Repository that the distribution's packages are taken from, instead of the distribution's own.
    pub yum_repository: Option<String>,
    /// The user's own step: text of an executable file.
    pub extra_script: Option<String>,
    /// Whether to end with the all_reduce_perf run.
    pub test: bool,
}

/// What a check of an EFA installer's signature gave: which file, when, and by whose key. One argument holds all three, so
/// that the plan knows the day without reading a clock, and nobody gives one without the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EfaDigest {
    /// SHA-256 of the tarball, lower-case hex.
    pub sha256: String,
    /// Day of the check, `2026-12-01`.
    pub date: String,
    /// Fingerprint of the signer's primary key, upper-case hex.
    pub fingerprint: String,
}

impl fmt::Display for EfaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{},{},{}", self.sha256, self.date, self.fingerprint)
    }
}

impl FromStr for EfaDigest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = |what: &str| {
            Error::new(Class::Usage, format!("`{}` is not sha256:HEX,DATE,FINGERPRINT: {what}", excerpt(text)))
                .hint("pass on what `efa-gen fetch` or `efa-gen verify` printed, as it stands")
        };
        let parts: Vec<&str> = text.split(',').collect();
        let &[sha256, date, fingerprint] = &parts[..] else {
            return Err(malformed("there must be two commas"));
        };
        let sha256 = sha256.strip_prefix("sha256:").map(str::to_ascii_lowercase).filter(|hex| is_hex(hex, 64));
        let fingerprint = Some(fingerprint.to_ascii_lowercase()).filter(|hex| is_hex(hex, 40) || is_hex(hex, 64));
        Ok(EfaDigest {
            sha256: sha256.ok_or_else(|| malformed("the digest is not `sha256:` and 64 hex digits"))?,
            date: Some(date).filter(|date| is_date(date)).ok_or_else(|| malformed("the date is not a day"))?.to_owned(),
            fingerprint: fingerprint
                .ok_or_else(|| malformed("the fingerprint is not 40 or 64 hex digits"))?
                .to_ascii_uppercase(),
        })
    }
}

/// Whether this is a day such as `2026-12-01`, and in no other form.
fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok_and(|date| date.to_string() == text)
}

/// Parses `NAME=HEX` as given to `--sha256`; upper case is folded.
pub fn parse_sha256(text: &str) -> Result<(String, String)> {
    let malformed = || {
        Error::new(Class::Usage, format!("`{}` is not NAME=HEX with 64 hex digits", text.escape_debug()))
            .hint("for example --sha256 efa=2df4201e046833c7dc8160907bee7f52b76ff80ed147376a2d0ed8a0dd66b2db")
    };
    let (name, hex) = text.split_once('=').ok_or_else(malformed)?;
    let hex = hex.to_ascii_lowercase();
    if name.is_empty() || !is_hex(&hex, 64) {
        return Err(malformed());
    }
    Ok((name.to_owned(), hex))
}

/// Checks `--yum-repository`: http or https, for packages stay signed by the distribution's key; no blanks, no password.
/// `$releasever` and `$basearch` are yum's to fill in.
pub fn parse_yum_repository(text: &str) -> Result<String> {
    if let Some(part) = secret_part(text) {
        return Err(Error::new(Class::Usage, format!("the address of the repository has {part}"))
            .hint("it stands in scripts, user-data and images, where others read it: use a repository that lets the machines in by their address"));
    }
    if is_http(text) {
        return Ok(text.to_owned());
    }
    Err(Error::new(Class::Usage, format!("`{}` is not the address of a yum repository", text.escape_debug()))
        .hint("give the folder that holds repodata/, for example https://packages.example/el7/x86_64/"))
}

/// Whether this is an http or https URL without blanks.
fn is_http(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.chars().any(|c| c.is_whitespace() || c.is_control()))
}

/// Checks `--mirror`: http or https, for every artifact is checked by its digest or commit; no blanks, no password. A slash at
/// its end is dropped.
pub fn parse_mirror(text: &str) -> Result<String> {
    if let Some(part) = secret_part(text) {
        return Err(Error::new(Class::Usage, format!("the address of the mirror has {part}"))
            .hint("it stands in scripts, user-data and images, where others read it: use a mirror that lets the machines in by their address, or --stack-file"));
    }
    if is_http(text) {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err(Error::new(Class::Usage, format!("`{}` is not the address of a mirror", text.escape_debug()))
        .hint("for example http://mirror.example:8080/efa, below which lies github.com/NVIDIA/nccl.git, a `git clone --mirror`"))
}

/// Where a mirror has an artifact: in a folder named after its host.
pub fn mirrored(url: &str, mirror: &str) -> String {
    url.replacen("https:/", mirror, 1)
}
