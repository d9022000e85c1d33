//! Owns the closed vocabulary of a plan: what a step can do, and what it can check.

use serde::Serialize;

use super::argument::Argument;

/// Something a step does. Every action can be done again without harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Runs a command; its exit status must be 0.
    Run(GuestCommand),
    /// Waits until nobody holds any of these lock files.
    WaitForLocks {
        /// Lock files.
        files: Vec<String>,
    },
    /// Masks and stops units of the init system, and remembers those that it masked.
    MaskUnits {
        /// Units; one that is not there, or is masked already, is left alone.
        units: Vec<String>,
    },
    /// Unmasks what [`Action::MaskUnits`] masked.
    UnmaskUnits,
    /// Stops what uses an NVIDIA driver that is there already.
    FreeDriver {
        /// The command.
        stop: Vec<String>,
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
        /// Lower-case hex, checked besides.
        #[serde(skip_serializing_if = "Option::is_none")]
        sha512: Option<String>,
        /// Absolute path.
        path: String,
    },
    /// Unpacks a tar archive into a fresh folder.
    Unpack {
        /// Absolute path of the archive.
        archive: String,
        /// Absolute path of the folder, which is emptied first.
        dir: String,
        /// Whether the one folder that the archive holds is left out: what is in it goes to the folder itself.
        strip: bool,
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
    /// Takes a key out of rpm's database, where there is one, and sees that it is gone.
    ForgetKey {
        /// Fingerprint of the primary key, upper-case hex.
        fingerprint: String,
    },
    /// Empties files, keeps them, and sees that nothing is in them.
    Empty {
        /// Globs of absolute paths; a folder stands for every file below it.
        paths: Vec<String>,
    },
    /// Removes what these globs name below every home on this machine's disk, and of its `.ssh` see [`Action::StripSsh`].
    RemoveFromHomes {
        /// Glob of homes besides those that passwd names.
        homes: String,
        /// Globs relative to a home.
        paths: Vec<String>,
    },
    /// Empties every `.ssh` but for its configuration, and takes a cluster's block out of that.
    StripSsh {
        /// Glob of homes besides those that passwd names.
        homes: String,
    },
    /// Removes swap files; what fstab names is made anew instead.
    RemoveSwap {
        /// Absolute path of fstab.
        fstab: String,
        /// Globs of absolute paths.
        files: Vec<String>,
    },
    /// Writes into a file, if it is there, what makes the next boot fill it anew.
    Renew {
        /// Absolute path.
        path: String,
        /// What it holds then.
        content: String,
    },
    /// Runs a command that keeps something from writing, if the machine has booted; a chroot has no services.
    Quiesce {
        /// Succeeds where the machine's init system runs.
        booted: Vec<String>,
        /// The command.
        argv: Vec<String>,
    },
    /// Finds the compiler of the running kernel, installs it where it is not the default one, and links it.
    KernelCompiler {
        /// What names the kernel's compiler, `/proc/version`.
        version: String,
        /// Absolute path of the link.
        link: String,
        /// Package and program of another gcc, with `{major}`.
        other: Option<(String, String)>,
        /// Command to which the package is appended.
        install: Vec<String>,
    },
    /// Replaces the script on the machine by its digest and the plan's.
    LeaveDigest,
    /// Runs all_reduce_perf on every GPU of this machine and judges its log, not its exit status.
    NcclTest {
        /// The command, with `{gpus}` where the count belongs.
        argv: Vec<Argument>,
        /// Host file that the command names, written whole.
        hostfile: String,
        /// Seconds after which it has hung.
        timeout_s: u32,
    },
    /// Checks something and fails the step if it does not hold.
    Assert(Assertion),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestCommand {
    /// Program and arguments.
    pub argv: Vec<Argument>,
    /// Working directory, absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Environment added to the script's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<(String, String)>,
    /// Whether it is a package command, which waits for the locks and is tried three times.
    pub packages: bool,
}

impl GuestCommand {
    /// A command tried once, in no particular folder. Words are templates (`{kernel}`, `{jobs}`).
    pub fn new<S: AsRef<str>>(argv: impl IntoIterator<Item = S>) -> Self {
        GuestCommand {
            argv: argv.into_iter().map(|word| Argument::template(word.as_ref())).collect(),
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

impl From<GuestCommand> for Action {
    fn from(run: GuestCommand) -> Self {
        Action::Run(run)
    }
}

/// Something that must hold on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "check", rename_all = "kebab-case")]
pub enum Assertion {
    /// `/etc/os-release` and `uname` say this.
    System {
        /// `ID`.
        id: String,
        /// `VERSION_ID`.
        version: String,
        /// `uname -m`.
        machine: String,
        /// What `uname -r` begins with, if that matters.
        #[serde(skip_serializing_if = "Option::is_none")]
        kernel: Option<String>,
    },
    /// The root file system has this much free space.
    FreeSpace {
        /// MiB.
        mib: u64,
    },
    /// The running kernel is the newest that is installed.
    NewestKernel,
    /// The newest kernel that is installed is one that the driver builds for.
    DriverKernel {
        /// Driver version.
        driver: String,
        /// Newest series that it builds for.
        max: String,
    },
    /// Each package is installed.
    Installed {
        /// Query to which one package is appended.
        query: Vec<String>,
        /// Packages.
        packages: Vec<Argument>,
    },
    /// A file or folder exists.
    Exists {
        /// Absolute path.
        path: Argument,
    },
    /// None of what these globs name exists, or what exists is empty: a folder, when no file below it holds anything.
    Gone {
        /// Globs of absolute paths.
        paths: Vec<String>,
    },
    /// The same below every home.
    GoneFromHomes {
        /// Glob of homes besides those that passwd names.
        homes: String,
        /// Globs relative to a home.
        paths: Vec<String>,
    },
    /// Every `.ssh` holds its configuration alone, without a cluster's block.
    SshStripped {
        /// Glob of homes besides those that passwd names.
        homes: String,
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
        argv: Vec<Argument>,
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
    /// The nvidia module of the running kernel, and the loaded one if there is one, are of this flavour.
    ModuleFlavour {
        /// `open` or `proprietary`.
        flavour: String,
        /// What `modinfo` says of such a module's license.
        license: String,
    },
    /// A query lists no package.
    NoPackages {
        /// Command that prints one package a line.
        query: Vec<String>,
    },
    /// If the machine has NVIDIA GPUs: their persistence daemon runs, and each is in persistence mode.
    Persistence {
        /// Succeeds while the daemon runs.
        active: Vec<String>,
    },
    /// If NVSwitches connect the machine's GPUs: the fabric manager runs, and each GPU is registered with the fabric.
    Fabric {
        /// PCI device ids of GPUs with NVLink 5, whose NVSwitches are no devices of their own.
        nvlink5: Vec<String>,
    },
    /// If the machine has NVIDIA GPUs: a CUDA context can be made on each.
    CudaContexts {
        /// Absolute path of the program that makes them.
        program: String,
    },
    /// If the machine has NVIDIA GPUs: GDRCopy's own tests pass on the first.
    Gdrcopy {
        /// Absolute path of its program `gdrcopy_sanity`.
        program: String,
    },
    /// If the machine has NVIDIA GPUs and EFA devices: EFA's module has found the GPU driver that gives it their memory.
    PeerToPeer,
    /// If the machine has EFA devices: as many huge pages are reserved as EFA's buffers take.
    HugePages {
        /// Absolute path of what reserves them at boot; without it, what is there is told and nothing is asked.
        reserve: String,
    },
    /// A process may read the memory of others of its user.
    PtraceScope,
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
