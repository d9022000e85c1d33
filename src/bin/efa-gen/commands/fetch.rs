//! Owns `efa-gen fetch`: which files, from where, and that nothing gets its name before it is checked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use efa_gen::catalog::stack::EfaInstaller;
use efa_gen::catalog::{Catalog, efa_release};
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Component};
use efa_gen::verify::{self, PendingCheck, Pin, Refusal, Sha256, Verified, VerifyRequest};
use efa_gen::version::is_dotted;

use super::recipe;
use super::verify::{
    Checked, KEY_LIMIT, SIGNATURE_LIMIT, efa_digest, expected_sha256, pin, print_verified, with_version,
};
use crate::cli::{FetchArgs, RecipeArgs, TrustArgs};
use crate::io::http::{self, Downloader};
use crate::io::partial_file::PartialFile;
use crate::io::streamed_check::StreamedCheck;
use crate::io::{files, terminal};

/// Upper limit of a tarball; the largest so far has 800 MB.
const TARBALL_LIMIT: u64 = 8 << 30;

pub fn run(args: &FetchArgs) -> Result<()> {
    let (path, checked) = fetch_verified(args)?;
    print_verified(&path, &checked, Some(&efa_digest(&checked)), args.output)
}

/// The flags with which the installer that a plan names is looked at.
pub fn for_plan(efa: &Component, recipe: &RecipeArgs, folder: PathBuf) -> FetchArgs {
    // The digest that the guest checks.
    let sha256 = efa.digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:")).map(str::to_owned);
    FetchArgs {
        efa: Some(efa.version.clone()),
        out: folder,
        base_url: None,
        mirror: recipe.mirror.clone(),
        stack_file: recipe.stack_file.clone(),
        trust: TrustArgs { key: None, fingerprint: None, sha256 },
        output: crate::cli::OutputArg::Human,
    }
}

/// Downloads a tarball, or finds it, and checks it; returns where it is.
pub fn fetch_verified(args: &FetchArgs) -> Result<(PathBuf, Checked)> {
    let catalog = recipe::catalog(args.stack_file.as_deref())?;
    let guide = &catalog.stack("guide")?.stack.efa;
    let version = version(args.efa.as_deref().unwrap_or(guide))?;
    let source = source(args, &catalog, version)?;
    files::make_folder(&args.out)?;
    let fetch = Fetch { args, downloader: Downloader::new(), source };
    let key = fetch.key()?;
    let checked = if fetch.source.path.exists() { fetch.check_existing(&key)? } else { fetch.download(&key)? };
    Ok((fetch.source.path, checked))
}

/// Where the files come from and what the tarball must satisfy: as the user's stack file has it, or as AWS publishes it.
fn source(args: &FetchArgs, catalog: &Catalog, version: &str) -> Result<FetchSource> {
    let own = catalog.pins.efa.iter().find(|efa| efa.version == version);
    let mut trust = args.trust.clone();
    let (url, key) = match own {
        Some(own) => {
            let key = own_trust(&mut trust, own)?;
            (own.download.url.clone(), key)
        }
        None => {
            let base = args.base_url.as_deref().unwrap_or(efa_release::BASE_URL).trim_end_matches('/');
            http::check_base_url(base)?;
            (format!("{base}/{}", efa_release::tarball_name(version)), format!("{base}/{}", efa_release::KEY_NAME))
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
        http::check_base_url(mirror)?;
    }
    Ok(FetchSource { url: from(url)?, key: from(key)?, version: version.to_owned(), path, fingerprint, sha256 })
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
    if is_dotted(version) {
        return Ok(version);
    }
    // `latest` exists on the server, but names another file each month.
    let newest = efa_release::releases().last().map_or("1.9.5", |release| release.version);
    Err(Error::new(Class::Usage, format!("{version:?} is not a version of the EFA installer"))
        .hint(format!("a version is written like {newest}; `latest` is not a version that anybody can check again")))
}

/// One tarball: where it and its signer's key are, what it is to be named, what it must satisfy.
struct FetchSource {
    url: String,
    key: String,
    version: String,
    path: PathBuf,
    fingerprint: Pin,
    sha256: Option<Sha256>,
}

/// What a download fails by.
enum FetchFailure {
    /// It did not arrive; what did is kept.
    Download(Error),
    /// It arrived, and this is what came of its check.
    Verdict(Error),
}

/// One tarball being fetched.
struct Fetch<'a> {
    args: &'a FetchArgs,
    downloader: Downloader,
    source: FetchSource,
}

impl Fetch<'_> {
    /// The signer's certificate: the user's file, or a fresh download (publishers extend their keys) together with what
    /// lies there from an earlier one, which may hold a revocation that the server does not have.
    fn key(&self) -> Result<Vec<u8>> {
        if let Some(path) = &self.args.trust.key {
            return files::read(path, "key", KEY_LIMIT);
        }
        let fresh = self.downloader.small(&self.source.key, KEY_LIMIT)?;
        let path = self.key_path();
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(fresh);
        }
        let there = files::read(&path, "key", KEY_LIMIT)?;
        let merged = verify::merged(&there, &fresh, &self.source.fingerprint).map_err(|refusal| {
            Error::new(Class::Refused, format!("key {} is there already: {refusal}", path.display()))
                .hint("it may hold a revocation, so nothing replaces it: look at it, then move it away")
        })?;
        if merged != fresh {
            terminal::message(&format!("note: what {} holds already counts, too", path.display()));
        }
        Ok(merged)
    }

    fn key_path(&self) -> PathBuf {
        self.args.out.join(self.source.key.rsplit('/').next().unwrap_or_default())
    }

    fn signature(&self) -> Result<Vec<u8>> {
        self.downloader.small(&format!("{}.sig", self.source.url), SIGNATURE_LIMIT)
    }

    /// Checks what lies there from an earlier run; never overwrites it.
    fn check_existing(&self, key: &[u8]) -> Result<Checked> {
        terminal::message(&format!("note: {} is there already; checking it", self.source.path.display()));
        let beside = self.signature_path();
        let signature =
            if beside.exists() { files::read(&beside, "signature", SIGNATURE_LIMIT)? } else { self.signature()? };
        let tarball = files::open(&self.source.path, "tarball")?;
        let changeable = files::changeable_by_others(&tarball);
        let judged = self.judge(&signature, key);
        let mut checked = judged.and_then(|judged| self.check(&tarball, judged)).map_err(|error| {
            let hint = format!(
                "{}, or remove {} to download it again",
                error.hint_text().unwrap_or("check the files"),
                self.source.path.display()
            );
            error.hint(hint)
        })?;
        if let Some(why) = changeable {
            let path = self.source.path.display();
            checked.verified.warnings.push(format!("{path} may be changed after this check: {why}"));
        }
        self.keep(&signature, key)?;
        Ok(checked)
    }

    /// Downloads to `NAME.part`, checks that, and only then gives it its name.
    fn download(&self, key: &[u8]) -> Result<Checked> {
        let signature = self.signature()?;
        // A bad key or signature need not cost the download of the tarball.
        self.judge(&signature, key)?;
        let mut part = PartialFile::open(&self.source.path)?;
        if self.source.path.exists() {
            // Another process finished it while this one downloaded the signature.
            part.discard()?;
            return self.check_existing(key);
        }
        match self.download_checked(&mut part, &signature, key) {
            Ok(checked) => {
                self.keep(&signature, key)?;
                part.finish()?;
                Ok(checked)
            }
            Err(FetchFailure::Download(error)) => Err(part.leave(error)?),
            Err(FetchFailure::Verdict(error)) if error.class() == Class::Refused => {
                terminal::message(&format!("note: removed {}", part.path().display()));
                part.discard()?;
                Err(error)
            }
            Err(FetchFailure::Verdict(error)) => Err(error),
        }
    }

    /// Checks while it downloads, so that the verdict is there with the last byte.
    fn download_checked(
        &self,
        part: &mut PartialFile,
        signature: &[u8],
        key: &[u8],
    ) -> std::result::Result<Checked, FetchFailure> {
        let request = self.request(signature, key);
        let cannot_read = |error| Error::new(Class::Io, "could not read the download").with_source(error);
        let file = part.file().try_clone().map_err(|error| FetchFailure::Download(cannot_read(error)))?;
        let verified = thread::scope(|scope| {
            let mut check = StreamedCheck::new(scope, request, &file);
            let mut arrived = |at: u64, bytes: &[u8]| check.take(at, bytes);
            self.downloader
                .large(&self.source.url, part, TARBALL_LIMIT, &mut arrived)
                .map_err(FetchFailure::Download)?;
            check.finish().map_err(FetchFailure::Verdict)
        })?;
        self.with_version(verified, &file).map_err(FetchFailure::Verdict)
    }

    /// A revocation is kept at once, where there is a key file that would pass without it.
    fn judge(&self, signature: &[u8], key: &[u8]) -> Result<PendingCheck> {
        let judged = verify::judge(&self.request(signature, key));
        if matches!(judged, Err(Refusal::Revoked { .. })) && self.args.trust.key.is_none() && self.key_path().exists() {
            write_if_new(&self.key_path(), key)?;
        }
        Ok(judged?)
    }

    fn check(&self, tarball: &File, judged: PendingCheck) -> Result<Checked> {
        self.with_version(judged.check(tarball)?, tarball)
    }

    fn with_version(&self, verified: Verified, tarball: &File) -> Result<Checked> {
        with_version(verified, tarball, self.source.sha256, Some(&self.source.version))
    }

    fn request<'a>(&'a self, signature: &'a [u8], certificate: &'a [u8]) -> VerifyRequest<'a> {
        let FetchSource { fingerprint, sha256, .. } = &self.source;
        VerifyRequest { signature, certificate, fingerprint, sha256: *sha256, at: SystemTime::now() }
    }

    /// Writes signature and key beside the tarball, now that they have proved good.
    fn keep(&self, signature: &[u8], key: &[u8]) -> Result<()> {
        write_if_new(&self.signature_path(), signature)?;
        match self.args.trust.key {
            Some(_) => Ok(()),
            None => write_if_new(&self.key_path(), key),
        }
    }

    fn signature_path(&self) -> PathBuf {
        self.args.out.join(format!("{}.sig", self.source.path.file_name().unwrap_or_default().to_string_lossy()))
    }
}

fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    // What is no file, or is larger, is another one.
    match files::read(path, "file", bytes.len() as u64) {
        Ok(there) if there == bytes => Ok(()),
        _ => files::write(path, bytes, 0o644),
    }
}
