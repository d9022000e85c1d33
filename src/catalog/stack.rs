//! Owns the software stacks and their pinned artifacts, as `pins.toml` or a file of that form states them.

use serde::{Deserialize, Serialize};

use super::distribution::EfaRange;
use crate::error::{Class, Error, Result};
use crate::text::{excerpt, toml_error};
use crate::url::secret_part;
use crate::version::is_series;

/// Every pinned artifact, and the stacks that combine them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pins {
    /// EFA installers besides those that AWS released.
    pub efa: Vec<EfaInstaller>,
    /// CUDA runfiles.
    pub cuda: Vec<Cuda>,
    /// NVIDIA driver runfiles.
    pub driver: Vec<Driver>,
    /// NCCL releases.
    pub nccl: Vec<Source>,
    /// aws-ofi-nccl releases.
    pub plugin: Vec<Plugin>,
    /// nccl-tests releases.
    pub nccl_tests: Vec<Source>,
    /// GDRCopy releases.
    pub gdrcopy: Vec<Source>,
    /// The combinations.
    pub stack: Vec<Stack>,
}

/// An EFA installer's tarball that is not the one of this version that AWS released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfaInstaller {
    /// Version that it records on the machine.
    pub version: String,
    /// The tarball; its detached signature lies beside it, with `.sig` added to its name.
    pub download: Download,
    /// Who signs it; without one, its digest is all there is to check.
    pub signer: Option<PinnedSigner>,
}

/// Whose signature a tarball bears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedSigner {
    /// Fingerprint of the primary key, 40 or 64 hex digits.
    pub fingerprint: String,
    /// https URL of the key. Where it comes from does not matter: the fingerprint is checked.
    pub key: String,
}

/// A file that is downloaded: where from, what it must be, who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// https URL.
    pub url: String,
    /// Lower-case hex; absent if nobody published one.
    pub sha256: Option<String>,
    /// The same of the longer digest, which is checked besides, where somebody published it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<String>,
    /// Where the digest is published.
    pub published: String,
}

/// A CUDA runfile, of which the toolkit is used. Its driver is not: it can't be told to build on a machine
/// without a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cuda {
    /// Full version, `10.1.243`.
    pub version: String,
    /// GPU architectures (`sm_70`) of EFA instance types that its compiler can build for.
    pub architectures: Vec<String>,
    /// Oldest driver that programs built with it run on.
    pub driver_min: Option<String>,
    /// First gcc that its compiler refuses.
    pub gcc_below: Option<String>,
    /// Oldest glibc that its programs run on.
    pub glibc_min: Option<String>,
    /// Free space that unpacking and installing it take, MiB.
    pub space_mib: u64,
    /// The runfile.
    pub download: Download,
}

/// A driver runfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Driver {
    /// Version, `535.129.03`.
    pub version: String,
    /// What a user whose build fails should know, one clause.
    pub note: Option<String>,
    /// Oldest EFA installer whose kernel module gets GPU memory from it.
    pub efa_min: Option<String>,
    /// Newest kernel series that it builds for, `6.17`; absent where nobody says.
    pub kernel_max: Option<String>,
    /// The runfile.
    pub download: Download,
    /// Fabric manager of exactly this version, for machines with an NVSwitch.
    pub fabric_manager: Option<Download>,
    /// NVLink subnet manager that goes with this fabric manager, for machines with NVLink 5.
    pub nvlsm: Option<Nvlsm>,
}

/// NVIDIA's NVLink subnet manager, which has versions of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nvlsm {
    /// Version, `2025.06.5`.
    pub version: String,
    /// Its archive.
    pub download: Download,
}

/// A git tree at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Version or short commit.
    pub version: String,
    /// https URL of the repository.
    pub url: String,
    /// 40 hex digits; compared with `git rev-parse HEAD` after the checkout.
    pub commit: String,
    /// Where version and commit are said to belong together.
    pub published: String,
    /// Oldest gcc that compiles it.
    pub gcc_min: Option<String>,
    /// First gcc that does not.
    pub gcc_below: Option<String>,
    /// Arguments that this version's make needs besides the usual ones.
    #[serde(default)]
    pub make: Vec<String>,
}

/// An aws-ofi-nccl release, built from source or bundled with the EFA installer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Version.
    pub version: String,
    /// The source tree; absent for a plugin that the EFA installer brings.
    pub source: Option<PluginSource>,
    /// EFA installers whose libfabric it works with.
    pub efa: EfaRange,
    /// Oldest NCCL that can load it.
    pub nccl_min: Option<String>,
    /// Where it lies: libraries are in `lib` below (for a bundled one: in the distribution's library folder).
    pub prefix: String,
    /// Its library's file name.
    pub library: String,
}

/// How a plugin is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSource {
    /// https URL of the repository.
    pub url: String,
    /// 40 hex digits.
    pub commit: String,
    /// Where version and commit are said to belong together.
    pub published: String,
    /// Arguments of `configure` besides prefix, libfabric, NCCL and CUDA.
    #[serde(default)]
    pub configure: Vec<String>,
}

/// A combination that goes together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// Name for `--stack`.
    pub id: String,
    /// What it is, for people.
    pub title: String,
    /// EFA installer version.
    pub efa: String,
    /// CUDA version.
    pub cuda: String,
    /// Driver version.
    pub driver: String,
    /// NCCL version.
    pub nccl: String,
    /// Plugin version.
    pub plugin: String,
    /// nccl-tests version.
    pub nccl_tests: String,
    /// GDRCopy version, for images that have it; absent where none is known to go with the rest.
    pub gdrcopy: Option<String>,
    /// Environment that all_reduce_perf is run with, in this order, instead of the one for this software.
    pub run_environment: Option<Vec<(String, String)>>,
}

impl Pins {
    /// Reads a file of the form of `pins.toml` and checks that its digests are sound and its stacks complete.
    /// `name` is how messages call the file; `known` is what its stacks may name besides.
    pub fn parse(name: &str, text: &str, known: &Pins) -> Result<Self> {
        let wrong = |message: String| Error::new(Class::Usage, format!("stack file {name}: {message}"));
        let own: Pins = toml::from_str(text).map_err(|error| wrong(toml_error(&error, text)))?;
        if let Some(taken) = own.stack.iter().find(|stack| known.stack.iter().any(|other| other.id == stack.id)) {
            return Err(wrong(format!("there is a stack `{}` already", excerpt(&taken.id))));
        }
        let pins = own.in_front_of(known);
        pins.check().map_err(wrong)?;
        Ok(pins)
    }

    /// Everything of both; where both have a version of something, the own one is found first.
    fn in_front_of(self, known: &Pins) -> Pins {
        Pins {
            efa: joined(self.efa, &known.efa),
            cuda: joined(self.cuda, &known.cuda),
            driver: joined(self.driver, &known.driver),
            nccl: joined(self.nccl, &known.nccl),
            plugin: joined(self.plugin, &known.plugin),
            nccl_tests: joined(self.nccl_tests, &known.nccl_tests),
            gdrcopy: joined(self.gdrcopy, &known.gdrcopy),
            stack: joined(self.stack, &known.stack),
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let fabric_managers = self.driver.iter().filter_map(|driver| driver.fabric_manager.as_ref());
        let nvlsm = self.driver.iter().filter_map(|driver| driver.nvlsm.as_ref()).map(|nvlsm| &nvlsm.download);
        let downloads = self.cuda.iter().map(|cuda| &cuda.download).chain(self.driver.iter().map(|d| &d.download));
        let of_fabric = fabric_managers.chain(nvlsm);
        for download in downloads.chain(of_fabric).chain(self.efa.iter().map(|efa| &efa.download)) {
            check_https(&download.url)?;
            if let Some(bad) = download.sha256.as_ref().filter(|hex| !is_hex(hex, 64)) {
                return Err(format!("`{}` is not a SHA-256 (64 lower-case hex digits)", excerpt(bad)));
            }
            if let Some(bad) = download.sha512.as_ref().filter(|hex| !is_hex(hex, 128)) {
                return Err(format!("`{}` is not a SHA-512 (128 lower-case hex digits)", excerpt(bad)));
            }
        }
        for driver in &self.driver {
            if let Some(bad) = driver.kernel_max.as_ref().filter(|series| !is_series(series)) {
                let message = format!("kernel_max `{}` of driver {}", excerpt(bad), excerpt(&driver.version));
                return Err(format!("{message} is not a kernel series such as 6.17"));
            }
        }
        for signer in self.efa.iter().filter_map(|efa| efa.signer.as_ref()) {
            check_https(&signer.key)?;
            let hex = signer.fingerprint.to_ascii_lowercase();
            if !is_hex(&hex, 40) && !is_hex(&hex, 64) {
                return Err(format!("`{}` is not a fingerprint (40 or 64 hex digits)", excerpt(&signer.fingerprint)));
            }
        }
        let plugins = self.plugin.iter().filter_map(|plugin| plugin.source.as_ref());
        let trees = self.nccl.iter().chain(&self.nccl_tests).chain(&self.gdrcopy).map(|tree| (&tree.url, &tree.commit));
        for (url, commit) in trees.chain(plugins.map(|source| (&source.url, &source.commit))) {
            check_https(url)?;
            if !is_hex(commit, 40) {
                return Err(format!("`{}` is not a commit (40 lower-case hex digits)", excerpt(commit)));
            }
        }
        for stack in &self.stack {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if stack.id.is_empty() || !stack.id.chars().all(plain) || stack.id == "newest" {
                return Err(format!("stack id `{}` must be letters, digits, `.`, `_`, `-`", excerpt(&stack.id)));
            }
            self.resolve(stack).map_err(|missing| {
                format!("stack `{}` names {missing}, which is not in the file", excerpt(&stack.id))
            })?;
        }
        Ok(())
    }

    /// The artifacts that a stack names, or which one is missing.
    pub(crate) fn resolve<'a>(&'a self, stack: &'a Stack) -> std::result::Result<ResolvedStack<'a>, String> {
        Ok(ResolvedStack {
            stack,
            cuda: find(&self.cuda, "CUDA", &stack.cuda, |cuda| &cuda.version)?,
            driver: find(&self.driver, "driver", &stack.driver, |driver| &driver.version)?,
            nccl: find(&self.nccl, "NCCL", &stack.nccl, |nccl| &nccl.version)?,
            plugin: find(&self.plugin, "plugin", &stack.plugin, |plugin| &plugin.version)?,
            nccl_tests: find(&self.nccl_tests, "nccl-tests", &stack.nccl_tests, |tests| &tests.version)?,
            gdrcopy: match &stack.gdrcopy {
                Some(version) => Some(find(&self.gdrcopy, "GDRCopy", version, |gdrcopy| &gdrcopy.version)?),
                None => None,
            },
        })
    }
}

fn joined<T: Clone>(mut own: Vec<T>, known: &[T]) -> Vec<T> {
    own.extend_from_slice(known);
    own
}

fn find<'a, T>(
    known: &'a [T],
    kind: &str,
    version: &str,
    version_of: impl Fn(&T) -> &String,
) -> std::result::Result<&'a T, String> {
    known.iter().find(|item| version_of(item) == version).ok_or_else(|| format!("{kind} {}", excerpt(version)))
}

/// A stack with its artifacts looked up.
#[derive(Debug, Clone, Copy)]
pub struct ResolvedStack<'a> {
    /// The stack itself.
    pub stack: &'a Stack,
    /// CUDA.
    pub cuda: &'a Cuda,
    /// Driver.
    pub driver: &'a Driver,
    /// NCCL.
    pub nccl: &'a Source,
    /// The plugin.
    pub plugin: &'a Plugin,
    /// nccl-tests.
    pub nccl_tests: &'a Source,
    /// GDRCopy, for images that have it.
    pub gdrcopy: Option<&'a Source>,
}

fn check_https(url: &str) -> std::result::Result<(), String> {
    if url.starts_with("https://") && !url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return match secret_part(url) {
            None => Ok(()),
            Some(part) => Err(format!("a URL has {part}, which every script and image would show: {}", shown(url))),
        };
    }
    Err(format!("`{}` is not an https URL", excerpt(url)))
}

/// Which URL it is, without what may be secret of it: nothing, where that can't be told.
fn shown(url: &str) -> String {
    let (query, user) = (url.find(['?', '#']).unwrap_or(url.len()), url.rfind('@'));
    match user {
        Some(user) if user > query => "(it is not shown)".to_owned(),
        _ => excerpt(&url[user.map_or(0, |at| at.saturating_add(1))..query]),
    }
}

/// Whether this is `digits` lower-case hex digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
