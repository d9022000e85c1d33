//! Owns what a distribution file may say and that it is checked on reading.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Class, Error, Result};
use crate::text::{excerpt, toml_error};
use crate::version::{is_dotted, is_series};

/// One distribution, as its file in `distros/` states it. Facts only: no conditions, no inheritance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Short id, equal to the file's name without `.toml`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Other spellings that `--distro` takes.
    pub aliases: Vec<String>,
    /// What its users should know of its support state, one sentence.
    pub note: Option<String>,
    /// First and last EFA installer version that supports it.
    pub efa: EfaRange,
    /// Stack that is taken when none is named: `newest` where the guide's own software is too old.
    pub default: String,
    /// Stacks that `newest` stands for, best first; the first one that can build for the GPU is taken.
    pub newest: Vec<String>,
    /// What `/etc/os-release` says on it.
    pub os_release: OsRelease,
    /// Base AMI and how to log in to it.
    pub ami: Ami,
    /// What its cloud-init can and can't do.
    pub cloud_init: CloudInit,
    /// What its own compiler and C library are.
    pub toolchain: Toolchain,
    /// `lib` or `lib64`: where the EFA packages put libraries under `/opt/amazon`.
    pub lib_dir: String,
    /// A key of `init_systems.toml`.
    pub init: String,
    /// The package manager as argv prefixes, and package names by purpose.
    pub packages: Packages,
    /// Kernel, initramfs and boot loader.
    pub kernel: Kernel,
    /// What machines with NVLink 5 need of it; absent where it is not known to have that.
    pub fabric: Option<FabricPackages>,
    /// Repairs of the package sources, done in this order before anything is installed.
    #[serde(default)]
    pub repositories: Vec<Repair>,
    /// What becomes of files that are one machine's own.
    #[serde(default)]
    pub seal: Seal,
}

/// What the NVLink subnet manager needs of a distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FabricPackages {
    /// Command that installs the modules `mlx5_ib` and `ib_umad` of the running kernel (`{kernel}`) where the distribution has them in
    /// a package apart from the kernel's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// Packages with `ibstat` and libibumad.
    pub packages: Vec<String>,
}

/// How an image's instances come by files that are one machine's own, where cloud-init does not make them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Files that the distribution fills anew at boot when they say this.
    #[serde(default)]
    pub renew: Vec<FileContent>,
    /// Files that see to it, where the distribution does not.
    #[serde(default)]
    pub write: Vec<FileContent>,
}

/// First and last EFA installer version that supports a distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfaRange {
    /// First one.
    pub first: String,
    /// Last one; absent while the distribution is still supported.
    pub last: Option<String>,
}

/// The distribution's own compiler and C library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// Version of gcc.
    pub gcc: String,
    /// Version of glibc.
    pub glibc: String,
}

/// `ID` and `VERSION_ID` of `/etc/os-release`, and what `uname` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OsRelease {
    /// `ID`.
    pub id: String,
    /// `VERSION_ID`.
    pub version: String,
    /// `uname -m`, also the AMI's architecture.
    pub machine: String,
    /// What `uname -r` begins with, where images of one release differ in their kernel alone.
    pub kernel: Option<String>,
}

/// The base AMI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ami {
    /// Account ids of the publisher, the commercial partition first.
    pub owners: Vec<String>,
    /// Name filter, strict enough that the owner's other images don't match.
    pub name: String,
    /// SSM public parameter that holds the newest id, where the publisher keeps one.
    pub ssm_parameter: Option<String>,
    /// Login user.
    pub user: String,
    /// Name of the root device in the image.
    pub root_device: String,
    /// Version of its OpenSSH, two numbers.
    pub openssh: String,
    /// Whether sudo asks for a terminal.
    #[serde(default)]
    pub sudo_needs_tty: bool,
    /// Whether the publisher's image has the SSM agent (AWS Systems Manager User Guide, "Find AMIs with the SSM Agent
    /// preinstalled").
    #[serde(default)]
    pub ssm_agent: bool,
}

/// What the distribution's cloud-init can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    /// Version in the base AMI.
    pub version: String,
    /// Whether it can use IMDSv2 tokens (upstream from 19.4).
    pub imdsv2: bool,
    /// Command that waits for it; before 17 there is none, and `boot-finished` is watched instead.
    #[serde(default)]
    pub wait: Vec<String>,
}

/// The package manager. Every argv may hold `{kernel}` where a package list is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// Environment of every package command.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Lock files to wait for; empty where the package manager waits by itself.
    #[serde(default)]
    pub locks: Vec<String>,
    /// Units that run package commands by themselves; they are masked until the script is done.
    #[serde(default)]
    pub timers: Vec<String>,
    /// Commands that end what a cut left half-done, each for when the one before fails; empty where the package manager
    /// goes on by itself.
    #[serde(default)]
    pub recover: Vec<Vec<String>>,
    /// Refreshes the package lists.
    pub refresh: Vec<String>,
    /// Upgrades everything, new kernels included.
    pub upgrade: Vec<String>,
    /// Installs the packages appended to it.
    pub install: Vec<String>,
    /// The same from repositories that are off by default; absent where all packages are in those that are on.
    pub install_optional: Option<Vec<String>>,
    /// Succeeds if the one package appended to it is installed.
    pub installed: Vec<String>,
    /// Lists, one a line, the installed packages that bring an NVIDIA driver of their own; succeeds without any.
    pub drivers: Vec<String>,
    /// Removes the packages appended to it; one that is not installed is no error.
    pub remove: Vec<String>,
    /// Removes downloaded packages.
    pub clean: Vec<String>,
    /// How a repository of the user's own is taken instead of the distribution's; absent where that is not known.
    pub own_repository: Option<OwnRepository>,
    /// Names by purpose.
    pub names: PackageNames,
}

/// A repository of the user's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRepository {
    /// The file that describes it, `{url}` in its content standing for the address.
    pub file: FileContent,
    /// The line by which the package manager reads that file and no other.
    pub alone: FileLine,
}

/// Package names by purpose. `{kernel}` stands for the running kernel's release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageNames {
    /// What the script itself and the EFA installer call.
    pub base: Vec<String>,
    /// Compilers and make.
    pub compilers: Vec<String>,
    /// Headers of the running kernel.
    pub headers: Vec<String>,
    /// What NVIDIA's installers need.
    pub driver: Vec<String>,
    /// What building NCCL, the plugin and nccl-tests needs.
    pub build: Vec<String>,
    /// What building plugins from 1.7.0 on needs besides. It may bring the distribution's rdma-core, so it comes after EFA.
    pub hwloc: Vec<String>,
    /// What the EFA installer checks its packages' signatures with, besides the package manager.
    #[serde(default)]
    pub signatures: Vec<String>,
}

/// Kernel, initramfs and boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Oldest EFA installer that gets GPU memory from the open modules on this kernel, where it is newer than those that know
    /// GPUDirect at all.
    pub gpudirect_efa: Option<String>,
    /// Series that the base AMI has after an upgrade; absent where nobody looked.
    pub series: Option<KernelSeries>,
    /// Boot loader, for people.
    pub boot_loader: String,
    /// Path of a kernel's initramfs, with `{kernel}`.
    pub initramfs: String,
    /// Rebuilds the initramfs of the running kernel (or of all).
    pub rebuild_initramfs: Vec<String>,
    /// How nouveau's name is *added* to the kernel's arguments.
    pub nouveau_off: NouveauOff,
    /// How later upgrades are kept from replacing the kernel that the modules were built for.
    pub hold: Hold,
    /// Lets processes of one user read each other's memory, where the distribution forbids it.
    pub ptrace: Option<FileContent>,
    /// Where a gcc of another major version than the default one comes from; absent where there is none.
    pub compiler: Option<Compiler>,
}

/// A further gcc beside the distribution's default one, with `{major}` for its major version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compiler {
    /// The package.
    pub package: String,
    /// Its program.
    pub program: String,
}

/// Which kernel a distribution has on EC2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelSeries {
    /// Its first two numbers, `6.1`.
    pub version: String,
    /// Month in which it was seen, `2026-10`.
    pub seen: String,
    /// Whether no upgrade brings another series.
    #[serde(default)]
    pub stays: bool,
}

/// Ways to add kernel arguments without touching those that are there. Each part is optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NouveauOff {
    /// A boot loader drop-in of our own, written whole.
    pub write: Option<FileContent>,
    /// Text appended, once, to every line that matches.
    pub append: Option<Append>,
    /// Command that puts it into effect.
    #[serde(default)]
    pub apply: Vec<String>,
}

/// A file written whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileContent {
    /// Absolute path.
    pub path: String,
    /// Whole content.
    pub content: String,
}

/// Text appended once to every line of a file that matches an extended regular expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// Absolute path.
    pub path: String,
    /// Which lines.
    pub lines: String,
    /// What to append.
    pub text: String,
}

/// A substitution in every file that a glob names: extended regular expression, sed's replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// Glob of absolute paths.
    pub files: String,
    /// What to look for.
    pub pattern: String,
    /// What stands there afterwards.
    pub with: String,
}

/// How the kernel is held. Each part is optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Command that holds it.
    #[serde(default)]
    pub run: Vec<String>,
    /// A line that a configuration file must have.
    pub line: Option<FileLine>,
}

/// A line that a file must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileLine {
    /// Absolute path.
    pub path: String,
    /// The line.
    pub line: String,
}

/// One repair of the package sources: exactly what is given is done, in the order remove, write, replace, run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repair {
    /// Step id.
    pub id: String,
    /// Step title.
    pub title: String,
    /// Why it is needed, printed in the script.
    pub why: String,
    /// What to do when it fails.
    pub hint: Option<String>,
    /// Files that must not be there.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Files written whole.
    #[serde(default)]
    pub write: Vec<FileContent>,
    /// Substitutions.
    #[serde(default)]
    pub replace: Vec<Replace>,
    /// Package commands.
    #[serde(default)]
    pub run: Vec<Vec<String>>,
}

impl Distribution {
    /// Reads one distribution file. `stem` is the file's name without `.toml`.
    pub fn parse(stem: &str, text: &str) -> Result<Self> {
        let wrong = |message: String| Error::new(Class::Usage, format!("distribution file {stem}.toml: {message}"));
        let distribution: Distribution = toml::from_str(text).map_err(|error| wrong(toml_error(&error, text)))?;
        if distribution.id != stem {
            return Err(wrong(format!("its id is `{}`, which must be the file's name", distribution.id)));
        }
        distribution.check().map_err(wrong)?;
        Ok(distribution)
    }

    /// What serde can't see: words that would break the rendered text, paths that aren't absolute.
    fn check(&self) -> std::result::Result<(), String> {
        let plain =
            |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain(&self.id) {
            return Err("the id may hold letters, digits, `.`, `_` and `-` only".into());
        }
        if !["lib", "lib64"].contains(&self.lib_dir.as_str()) {
            return Err(format!("lib_dir is `{}`, must be lib or lib64", self.lib_dir));
        }
        let lines = [&self.name, &self.ami.name, &self.ami.user, &self.ami.root_device, &self.kernel.boot_loader];
        if let Some(bad) = lines.into_iter().find(|line| line.is_empty() || line.chars().any(char::is_control)) {
            return Err(format!("`{}` must be one line of text", excerpt(bad)));
        }
        if !is_dotted(&self.ami.openssh) || !self.ami.openssh.contains('.') {
            return Err(format!("ami.openssh is `{}`, must be two numbers such as 9.6", excerpt(&self.ami.openssh)));
        }
        if let Some(bad) = self.kernel.series.as_ref().filter(|series| !is_series(&series.version)) {
            return Err(format!("kernel.series `{}` is not a kernel series such as 6.1", excerpt(&bad.version)));
        }
        let packages = &self.packages;
        let argvs = [&packages.refresh, &packages.upgrade, &packages.install, &packages.installed, &packages.drivers];
        if argvs.into_iter().any(|argv| argv.is_empty()) {
            return Err("packages.refresh, upgrade, install, installed and drivers must not be empty".into());
        }
        if let Some(own) = self.packages.own_repository.as_ref().filter(|own| !own.file.content.contains("{url}")) {
            return Err(format!("{} must say {{url}}, where the repository's address belongs", own.file.path));
        }
        let mut compiler = self.kernel.compiler.iter().flat_map(|compiler| [&compiler.package, &compiler.program]);
        if let Some(bad) = compiler.find(|name| !name.contains("{major}")) {
            return Err(format!("`{}` must say {{major}}, the compiler's version", excerpt(bad)));
        }
        for repair in &self.repositories {
            if !plain(&repair.id) {
                return Err(format!("repair id `{}` must be letters, digits, `.`, `_` and `-`", repair.id));
            }
            // The substitution is lowered to sed's s command with `|` between its parts.
            let parts = repair.replace.iter().flat_map(|replace| [&replace.pattern, &replace.with]);
            if let Some(bad) = parts.into_iter().find(|part| part.contains('|') || part.contains('\n')) {
                return Err(format!("`{}` may not hold `|` or a line break", excerpt(bad)));
            }
        }
        Ok(())
    }
}
