//! Owns reading the flags that `render` and `plan` share into a request, the user's own script and stacks included.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use efa_gen::catalog::{Catalog, efa_release};
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::{self, Request};
use efa_gen::verify::{self, Pin, Refusal};

use super::verify::KEY_LIMIT;
use crate::cli::{PartArg, RecipeArgs};
use crate::io::files;

/// An extra script larger than this is not a script.
const EXTRA_SCRIPT_LIMIT: u64 = 1 << 20;

/// A stack file larger than this is not one.
const STACK_FILE_LIMIT: u64 = 1 << 20;

/// The facts, with the user's own stacks if there is a file of them.
pub fn catalog(stack_file: Option<&Path>) -> Result<Catalog> {
    let catalog = Catalog::embedded()?;
    let Some(path) = stack_file else { return Ok(catalog) };
    catalog.with_stacks(&path.display().to_string(), &text(path, "stack file", STACK_FILE_LIMIT)?)
}

fn text(path: &Path, what: &str, limit: u64) -> Result<String> {
    String::from_utf8(files::read(path, what, limit)?).map_err(|error| {
        Error::new(Class::Usage, format!("{what} {} is not UTF-8 text", path.display())).with_source(error.utf8_error())
    })
}

/// The certificates in this file that sign an EFA installer: the publisher's and those of the stack file's signers.
fn package_keys(path: &Path, catalog: &Catalog) -> Result<BTreeMap<String, String>> {
    let bytes = files::read(path, "key", KEY_LIMIT)?;
    let own = catalog.pins.efa.iter().filter_map(|efa| efa.signer.as_ref()).map(|signer| signer.fingerprint.as_str());
    let (mut keys, mut refused) = (BTreeMap::new(), None);
    for fingerprint in std::iter::once(efa_release::PUBLISHER_FINGERPRINT).chain(own) {
        let pin: Pin = fingerprint.parse()?;
        match verify::exported(&bytes, &pin, SystemTime::now()) {
            Ok(armored) => {
                keys.insert(pin.to_string(), armored);
            }
            // Another signer's, perhaps.
            Err(refusal @ Refusal::WrongKey { .. }) => {
                refused.get_or_insert(refusal);
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
    match refused {
        Some(refusal) if keys.is_empty() => {
            Err(Error::from(refusal).hint("give --check-signatures the key file of whoever signs this installer"))
        }
        _ => Ok(keys),
    }
}

/// The request without its distribution.
pub fn request(args: &RecipeArgs) -> Result<Request> {
    let mut sha256 = BTreeMap::new();
    for text in &args.sha256 {
        let (name, hex) = plan::parse_sha256(text)?;
        if sha256.insert(name.clone(), hex).is_some() {
            return Err(Error::new(Class::Usage, format!("--sha256 names `{name}` twice")));
        }
    }
    let extra_script =
        args.extra_script.as_ref().map(|path| text(path, "extra script", EXTRA_SCRIPT_LIMIT)).transpose()?;
    Ok(Request {
        distribution: String::new(),
        stack: args.stack.clone(),
        instance_type: args.instance_type.clone(),
        efa: args.efa.clone(),
        allow: args.allow.clone(),
        no_gpu: args.no_gpu,
        gdrcopy: args.with.contains(&PartArg::Gdrcopy),
        sha256,
        efa_digest: args.efa_digest.as_deref().map(str::parse).transpose()?,
        package_keys: args
            .check_signatures
            .as_deref()
            .map(|path| package_keys(path, &catalog(args.stack_file.as_deref())?))
            .transpose()?
            .unwrap_or_default(),
        mirror: args.mirror.as_deref().map(plan::parse_mirror).transpose()?,
        yum_repository: args.yum_repository.as_deref().map(plan::parse_yum_repository).transpose()?,
        extra_script,
        test: args.test,
    })
}
