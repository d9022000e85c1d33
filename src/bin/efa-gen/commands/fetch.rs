//! Owns `efa-gen fetch`: which files, from where, and that nothing gets its name before it is checked.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use efa_gen::catalog::stack::EfaInstaller;
use efa_gen::catalog::{Catalog, efa};
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan;
use efa_gen::verify::{self, Pin, Request, Sha256, Verified};

use super::recipe;
use super::verify::{KEY_LIMIT, SIGNATURE_LIMIT, expected_sha256, pin, tell};
use crate::cli::{FetchArgs, TrustArgs};
use crate::download::{self, Downloader};
use crate::part::Part;
use crate::{files, report};

/// Upper limit of a tarball; the largest so far has 800 MB.
const TARBALL_LIMIT: u64 = 8 << 30;

pub fn run(args: &FetchArgs) -> Result<()> {
    let (path, verified) = fetched(args)?;
    tell(&path, &verified, args.output)
}

/// The flags with which a build looks at the installer that its plan names.
pub fn for_build(version: &str, mirror: Option<&str>, stack_file: Option<&Path>, folder: PathBuf) -> FetchArgs {
    FetchArgs {
        efa: Some(version.to_owned()),
        out: folder,
        base_url: None,
        mirror: mirror.map(str::to_owned),
        stack_file: stack_file.map(Path::to_owned),
        trust: TrustArgs { key: None, fingerprint: None, sha256: None },
        output: crate::cli::OutputArg::Human,
    }
}

/// Downloads a tarball, or finds it, and checks it; returns where it is.
pub fn fetched(args: &FetchArgs) -> Result<(PathBuf, Verified)> {
    let catalog = recipe::catalog(args.stack_file.as_deref())?;
    let guide = &catalog.stack("guide")?.stack.efa;
    let version = version(args.efa.as_deref().unwrap_or(guide))?;
    let source = source(args, &catalog, version)?;
    files::make_folder(&args.out)?;
    let fetch = Fetch { args, downloader: Downloader::new(), source };
    let key = fetch.key()?;
    let verified = if fetch.source.path.exists() { fetch.check_existing(&key)? } else { fetch.download(&key)? };
    Ok((fetch.source.path, verified))
}

/// Where the files come from and what the tarball must satisfy: as the user's stack file has it, or as AWS publishes it.
fn source(args: &FetchArgs, catalog: &Catalog, version: &str) -> Result<Source> {
    let own = catalog.pins.efa.iter().find(|efa| efa.version == version);
    let mut trust = args.trust.clone();
    let (url, key) = match own {
        Some(own) => {
            let key = own_trust(&mut trust, own)?;
            (own.download.url.clone(), key)
        }
        None => {
            let base = args.base_url.as_deref().unwrap_or(efa::BASE_URL).trim_end_matches('/');
            download::check_base_url(base)?;
            (format!("{base}/{}", efa::tarball_name(version)), format!("{base}/{}", efa::KEY_NAME))
        }
    };
    let from = |url: String| -> Result<String> {
        let Some(mirror) = &args.mirror else { return Ok(url) };
        Ok(plan::mirrored(&url, &plan::parse_mirror(mirror)?))
    };
    let name = url.rsplit('/').next().unwrap_or_default().to_owned();
    let path = args.out.join(&name);
    // AWS's digests are by the tarball's name, which is no reason to hold one of the user's own to them.
    let by_name = own.is_none() || trust.sha256.is_some();
    let sha256 = if by_name { expected_sha256(&trust, &path)? } else { None };
    let fingerprint = pin(&trust)?;
    if let Some(mirror) = &args.mirror {
        download::check_base_url(mirror)?;
    }
    Ok(Source { url: from(url)?, key: from(key)?, path, fingerprint, sha256 })
}

/// A tarball of the user's own is never judged by AWS's key or digests. Returns where its signer's key lies.
fn own_trust(trust: &mut TrustArgs, own: &EfaInstaller) -> Result<String> {
    trust.sha256 = trust.sha256.take().or_else(|| own.download.sha256.clone());
    match (&own.signer, &trust.fingerprint, &trust.key) {
        (Some(signer), given, _) => {
            trust.fingerprint = Some(given.as_ref().unwrap_or(&signer.fingerprint).clone());
            Ok(signer.key.clone())
        }
        (None, Some(_), Some(_)) => Ok(String::new()),
        (None, ..) => {
            let message = format!("the stack file does not say who signs EFA {}", own.version);
            Err(Error::new(Class::Usage, message).hint(
                "add `signer = { fingerprint = ..., key = ... }` to its [[efa]], or give --fingerprint and --key",
            ))
        }
    }
}

fn version(version: &str) -> Result<&str> {
    let dotted = version.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    if dotted {
        return Ok(version);
    }
    // `latest` exists on the server, but names another file each month.
    let newest = efa::releases().last().map_or("1.9.5", |release| release.version);
    Err(Error::new(Class::Usage, format!("{version:?} is not a version of the EFA installer"))
        .hint(format!("a version is written like {newest}; `latest` is not a version that anybody can check again")))
}

/// One tarball: where it and its signer's key are, what it is to be named, what it must satisfy.
struct Source {
    url: String,
    key: String,
    path: PathBuf,
    fingerprint: Pin,
    sha256: Option<Sha256>,
}

/// One tarball being fetched.
struct Fetch<'a> {
    args: &'a FetchArgs,
    downloader: Downloader,
    source: Source,
}

impl Fetch<'_> {
    /// The signer's certificate: the user's file, or a fresh download (publishers extend their keys).
    fn key(&self) -> Result<Vec<u8>> {
        match &self.args.trust.key {
            Some(path) => files::read(path, "key", KEY_LIMIT),
            None => self.downloader.small(&self.source.key, KEY_LIMIT),
        }
    }

    fn signature(&self) -> Result<Vec<u8>> {
        self.downloader.small(&format!("{}.sig", self.source.url), SIGNATURE_LIMIT)
    }

    /// Checks what lies there from an earlier run; never overwrites it.
    fn check_existing(&self, key: &[u8]) -> Result<Verified> {
        report::say(&format!("note: {} is there already; checking it", self.source.path.display()));
        let beside = self.signature_path();
        let signature =
            if beside.exists() { files::read(&beside, "signature", SIGNATURE_LIMIT)? } else { self.signature()? };
        let tarball = files::open(&self.source.path, "tarball")?;
        let verified = self.verify(tarball, &signature, key).map_err(|error| {
            let hint = format!(
                "{}, or remove {} to download it again",
                error.hint_text().unwrap_or("check the files"),
                self.source.path.display()
            );
            error.hint(hint)
        })?;
        self.keep(&signature, key)?;
        Ok(verified)
    }

    /// Downloads to `NAME.part`, checks that, and only then gives it its name.
    fn download(&self, key: &[u8]) -> Result<Verified> {
        let signature = self.signature()?;
        // A bad key or signature need not cost the download of the tarball.
        verify::preflight(&self.request(&signature, key))?;
        let mut part = Part::open(&self.source.path)?;
        if self.source.path.exists() {
            // Another process finished it while this one downloaded the signature.
            part.discard()?;
            return self.check_existing(key);
        }
        if let Err(error) = self.downloader.large(&self.source.url, &mut part, TARBALL_LIMIT) {
            return Err(part.leave(error)?);
        }
        match self.verify_part(&mut part, &signature, key) {
            Ok(verified) => {
                self.keep(&signature, key)?;
                part.finish()?;
                Ok(verified)
            }
            Err(error) if error.class() == Class::Refused => {
                report::say(&format!("note: removed {}", part.path().display()));
                part.discard()?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn verify_part(&self, part: &mut Part, signature: &[u8], key: &[u8]) -> Result<Verified> {
        let file = part.file();
        let rewound = file.seek(SeekFrom::Start(0)).and_then(|_| file.try_clone());
        let file = rewound.map_err(|error| Error::new(Class::Io, "could not read the download").because(error))?;
        self.verify(file, signature, key)
    }

    fn verify(&self, tarball: File, signature: &[u8], key: &[u8]) -> Result<Verified> {
        Ok(verify::detached(tarball, &self.request(signature, key))?)
    }

    fn request<'a>(&'a self, signature: &'a [u8], certificate: &'a [u8]) -> Request<'a> {
        let Source { fingerprint, sha256, .. } = &self.source;
        Request { signature, certificate, fingerprint, sha256: *sha256, at: SystemTime::now() }
    }

    /// Writes signature and key beside the tarball, now that they have proved good.
    fn keep(&self, signature: &[u8], key: &[u8]) -> Result<()> {
        write_if_new(&self.signature_path(), signature)?;
        match self.args.trust.key {
            Some(_) => Ok(()),
            None => write_if_new(&self.args.out.join(self.source.key.rsplit('/').next().unwrap_or_default()), key),
        }
    }

    fn signature_path(&self) -> PathBuf {
        self.args.out.join(format!("{}.sig", self.source.path.file_name().unwrap_or_default().to_string_lossy()))
    }
}

fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    match std::fs::read(path) {
        Ok(there) if there == bytes => Ok(()),
        _ => files::write(path, bytes, 0o644),
    }
}
