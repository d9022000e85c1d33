//! Owns what is kept of a run on this machine: its folder with the flags, the login key, the known host keys, the log and
//! the ledger of what was made. A cache: the tags in the account are the truth. Knows nothing of AWS's calls.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use efa_gen::error::{Class, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ssh_key::rand_core::{OsRng, RngCore};

use crate::cli::cloud::BuildArgs;
use crate::ec2::model::{Kind, Thing};
use crate::files;

/// The record of a build.
const BUILD: &str = "run.json";
/// The record of a cluster.
pub const CLUSTER: &str = "cluster.json";

/// Holds the id of an image whose gate ended without a verdict.
pub const UNTESTED: &str = "untested.json";

/// The file that a process holds while it is at work on the run.
const LOCK: &str = "lock";

/// What a run needs to go on after a crash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub run: String,
    pub distribution: String,
    /// The flags as they were given; `--ssh-cidr` as it was given last.
    pub args: BuildArgs,
    pub account: String,
    pub region: String,
    /// The plan's digest: the same flags must still give it.
    pub plan: String,
    /// Id of the base AMI.
    pub base: String,
    /// Name of the image to be.
    pub name: String,
    /// How the builder was launched last.
    pub tried: Option<Tried>,
}

/// Account and region of a run.
#[derive(Debug, Clone, Deserialize)]
pub struct Place {
    pub account: String,
    pub region: String,
}

/// A launch: asked for again with the same values, EC2 answers with the same instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tried {
    pub subnet: String,
    /// Seconds since 1970 at which the machine ends itself.
    pub deadline: i64,
}

/// The folder of one run.
#[derive(Debug, Clone)]
pub struct Folder {
    pub path: PathBuf,
    pub run: String,
}

/// A new run's name: the time in UTC, and something that no other run of this second has.
pub fn new_id() -> String {
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    format!("{now}-{:04x}", OsRng.next_u32() & 0xffff)
}

/// Where a run's files are. Refuses what is not a run's name.
pub fn folder_of(run: &str) -> Result<PathBuf> {
    let form: String = run.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let good =
        run.len() == 20 && form.starts_with("00000000-000000-") && run[16..].chars().all(|c| c.is_ascii_hexdigit());
    if !good {
        return Err(Error::new(Class::Usage, format!("{run:?} is not the name of a run"))
            .hint("a run is named like 20261122-171500-ab12; `efa-gen sweep` lists those that left something"));
    }
    Ok(runs_folder()?.join(run))
}

/// `$XDG_STATE_HOME/efa-gen/runs`, which the XDG base directory specification puts below ~/.local/state.
fn runs_folder() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let none = || Error::new(Class::Io, "there is no folder for the run's files").hint("set HOME or XDG_STATE_HOME");
    Ok(state.ok_or_else(none)?.join("efa-gen/runs"))
}

/// Whether a process of this machine is at work on a run.
pub fn is_at_work(run: &str) -> bool {
    let lock = folder_of(run).ok().and_then(|folder| File::open(folder.join(LOCK)).ok());
    lock.is_some_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

impl Folder {
    /// Keeps other processes from the run as long as the file is open; a process that is killed lets go of it.
    ///
    /// Errors: another process has it.
    pub fn lock(&self) -> Result<File> {
        let lock = self.append(LOCK)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(Class::Locked, format!("another process is at work on run {}", self.run))
                    .hint("wait for it, or end it: a run is never driven by two"))
            }
            Err(TryLockError::Error(error)) => {
                Err(Error::new(Class::Io, format!("run {} could not be locked", self.run)).because(error))
            }
        }
    }

    /// The folder of a new run, for its owner alone.
    pub fn create(run: &str) -> Result<Self> {
        let path = folder_of(run)?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| Error::new(Class::Io, format!("could not make {}", path.display())).because(error))?;
        Ok(Folder { path, run: run.to_owned() })
    }

    /// The folder of a run that began earlier, and its record.
    pub fn open(run: &str) -> Result<(Self, Record)> {
        let folder = Folder { path: folder_of(run)?, run: run.to_owned() };
        let none = || {
            Error::new(Class::Usage, format!("nothing is known here of run {run}")).hint(
                "a run goes on where it began, with its files; elsewhere `efa-gen sweep --run` removes what it left",
            )
        };
        let record = folder.read(BUILD)?.ok_or_else(none)?;
        Ok((folder, record))
    }

    /// Keeps the record of a build; called before the first thing is made.
    pub fn keep(&self, record: &Record) -> Result<()> {
        self.write(BUILD, record)
    }

    /// Keeps what a run needs to be found again, as JSON in a file of this name.
    pub fn write(&self, name: &str, record: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::new(Class::Bug, "a run's record can't be written").because(error))?;
        files::write(&self.path.join(name), &text, 0o600)
    }

    /// What [`Folder::write`] kept, if anything.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        let Some(bytes) = files::read_if_there(&path, "run")? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(Class::Usage, format!("{} can't be read", path.display()))
                .because(error)
                .hint("another version of efa-gen wrote it: go on with that one, or sweep the run")
        })
    }

    /// Removes a file; that it is not there is no error.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(Class::Io, format!("could not remove {}", path.display())).because(error))
            }
            _ => Ok(()),
        }
    }

    /// Where the run's things are, a build's or a cluster's.
    pub fn place(&self) -> Result<Option<Place>> {
        match self.read(BUILD)? {
            None => self.read(CLUSTER),
            place => Ok(place),
        }
    }

    /// The run's log, to which is appended.
    pub fn log(&self) -> Result<File> {
        self.append("build.log")
    }

    /// Keeps the command line by which a person reaches the run's machine.
    pub fn note_login(&self, line: &str) -> Result<()> {
        files::write(&self.path.join("login"), format!("{line}\n").as_bytes(), 0o600)
    }

    /// That command line, once there is one.
    pub fn login(&self) -> Result<Option<String>> {
        let bytes = files::read_if_there(&self.path.join("login"), "login")?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()))
    }

    /// Writes down that something is made, or about to be: a listing may not show it yet.
    pub fn made(&self, thing: &Thing) -> Result<()> {
        let mut line = serde_json::to_vec(thing)
            .map_err(|error| Error::new(Class::Bug, "a line of the ledger can't be written").because(error))?;
        line.push(b'\n');
        let failed = |error| Error::new(Class::Io, "the run's ledger can't be written").because(error);
        let mut file = self.append("made.jsonl")?;
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(failed)
    }

    /// Everything that the ledger has. A last line that a crash cut off is left out.
    pub fn known(&self) -> Result<Vec<Thing>> {
        let bytes = files::read_if_there(&self.path.join("made.jsonl"), "ledger")?.unwrap_or_default();
        Ok(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Ids of one kind that the ledger has.
    pub fn known_ids(&self, kind: Kind) -> Result<Vec<String>> {
        Ok(self.known()?.into_iter().filter(|thing| thing.kind == kind).map(|thing| thing.id).collect())
    }

    fn append(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        opened.map_err(|error| Error::new(Class::Io, format!("could not write {}", path.display())).because(error))
    }

    /// A run that ended well leaves its log; the key and whatever else is secret goes.
    pub fn forget_secrets(&self) -> Result<()> {
        for name in ["key", "host_key", "known_hosts", "login", LOCK, "run.json", "made.jsonl", "install.sh", UNTESTED]
        {
            self.remove(name)?;
        }
        Ok(())
    }
}
