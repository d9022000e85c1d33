//! Owns the closed vocabulary of a plan: what a step can do, and what it can check. Knows nothing of
//! shells; `render::shell` lowers each of these, and nobody else writes shell.

use serde::Serialize;

use super::word::Word;

/// Something a step does. Every action can be done again without harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Runs a command; its exit status must be 0.
    Run(Run),
    /// Waits until nobody holds any of these lock files.
    WaitForLocks {
        /// Lock files.
        files: Vec<String>,
    },
    /// Waits until cloud-init has finished this boot, if the machine has it.
    WaitForCloudInit {
        /// Command that waits.
        argv: Vec<String>,
    },
    /// The same for a cloud-init too old to have such a command.
    WaitForBootFinished,
    /// Writes a file whole.
    WriteFile {
        /// Absolute path.
        path: String,
        /// Unix mode, octal digits.
        mode: &'static str,
        /// Every byte of it.
        content: String,
    },
    /// Adds a line to a file unless it is there.
    EnsureLine {
        /// Absolute path.
        path: String,
        /// The line.
        line: String,
    },
    /// Appends text to every matching line that does not have it.
    AppendToLines {
        /// Absolute path.
        path: String,
        /// Extended regular expression.
        lines: String,
        /// What to append.
        text: String,
    },
    /// Substitutes in every file that the glob names.
    Replace {
        /// Glob of absolute paths.
        files: String,
        /// Extended regular expression.
        pattern: String,
        /// sed's replacement.
        with: String,
    },
    /// Downloads a file; the digest is checked before the file has its name.
    Fetch {
        /// Where from.
        url: String,
        /// Lower-case hex.
        sha256: String,
        /// Absolute path.
        path: String,
    },
    /// Unpacks a tar archive into a fresh folder.
    Unpack {
        /// Absolute path of the archive.
        archive: String,
        /// Absolute path of the folder, which is emptied first.
        dir: String,
    },
    /// Clones a repository and checks out one commit, compared afterwards.
    Checkout {
        /// Where from.
        url: String,
        /// 40 hex digits.
        commit: String,
        /// Absolute path of the folder, which is emptied first.
        dir: String,
    },
    /// Removes files and folders that these globs name.
    Remove {
        /// Globs of absolute paths.
        paths: Vec<String>,
    },
    /// Empties files and keeps them.
    Empty {
        /// Globs of absolute paths; a folder stands for every file below it.
        paths: Vec<String>,
    },
    /// Runs all_reduce_perf on every GPU of this machine and judges its log, not its exit status.
    NcclTest {
        /// The command, with `{gpus}` where the count belongs.
        argv: Vec<Word>,
        /// Host file that the command names, written whole.
        hostfile: String,
        /// Seconds after which it has hung.
        timeout_s: u32,
    },
    /// Checks something and fails the step if it does not hold.
    Assert(Check),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<Word>,
    /// Working directory, absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Environment added to the script's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<(String, String)>,
    /// Whether it is a package command, which waits for the locks and is tried three times.
    pub packages: bool,
}

impl Run {
    /// A command tried once, in no particular folder. Words are templates (`{kernel}`, `{jobs}`).
    pub fn new<S: AsRef<str>>(argv: impl IntoIterator<Item = S>) -> Self {
        Run {
            argv: argv.into_iter().map(|word| Word::template(word.as_ref())).collect(),
            dir: None,
            environment: Vec::new(),
            packages: false,
        }
    }

    /// Runs it in this folder.
    pub fn in_dir(mut self, dir: &str) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Adds environment variables.
    pub fn environment<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.environment.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// Makes it a package command.
    pub fn packages(mut self) -> Self {
        self.packages = true;
        self
    }
}

impl From<Run> for Action {
    fn from(run: Run) -> Self {
        Action::Run(run)
    }
}

/// Something that must hold on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "check", rename_all = "kebab-case")]
pub enum Check {
    /// `/etc/os-release` and `uname -m` say this.
    System {
        /// `ID`.
        id: String,
        /// `VERSION_ID`.
        version: String,
        /// `uname -m`.
        machine: String,
    },
    /// The root file system has this much free space.
    FreeSpace {
        /// MiB.
        mib: u64,
    },
    /// The running kernel is the newest that is installed.
    NewestKernel,
    /// Each package is installed.
    Installed {
        /// Query to which one package is appended.
        query: Vec<String>,
        /// Packages.
        packages: Vec<Word>,
    },
    /// A file or folder exists.
    Exists {
        /// Absolute path.
        path: Word,
    },
    /// None of what these globs name exists, or what exists is empty.
    Gone {
        /// Globs of absolute paths.
        paths: Vec<String>,
    },
    /// A file contains this text.
    Contains {
        /// Absolute path.
        path: String,
        /// The text.
        text: String,
    },
    /// A command succeeds and prints this text.
    Prints {
        /// The command.
        argv: Vec<Word>,
        /// The text.
        text: String,
    },
    /// A kernel module is not loaded.
    ModuleAbsent {
        /// Its name.
        module: String,
    },
    /// Every library that this one is linked with is found.
    LibrariesFound {
        /// Absolute path.
        library: String,
    },
    /// If the machine has NVIDIA GPUs: nvidia-smi lists them all with this driver.
    Gpus {
        /// Driver version.
        driver: String,
    },
    /// If the machine has EFA devices: fi_info finds provider efa on them.
    EfaDevices {
        /// Absolute path of fi_info.
        fi_info: String,
    },
    /// A new session of this user may lock enough memory.
    Memlock {
        /// Login user.
        user: String,
    },
    /// Each kernel in /boot has a non-empty initramfs.
    Initramfs {
        /// Its path, with `{kernel}` for the kernel's release.
        path: String,
    },
    /// Each DKMS module is installed for the running kernel.
    DkmsInstalled,
}
