//! Owns what is kept of a run on this machine: its folder with the flags, the login key, the known host keys, the log
//! and the ledger of what was made. A cache: the tags in the account are the truth.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use efa_gen::text::clip;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::id::folder_of;
use crate::io::files;

/// The record of a build.
pub const BUILD: &str = "run.json";
/// The record of a cluster.
pub const CLUSTER: &str = "cluster.json";

/// Holds the id of an image whose gate ended without a verdict.
pub const UNTESTED: &str = "untested.json";

/// The file that a process holds while it is at work on the run.
const LOCK: &str = "lock";

/// Characters of what a parser says: it quotes what it did not expect.
pub(super) const QUOTED: usize = 300;

/// How often a lock is tried for, and the wait in between: a second is far more than a look at it takes, and a process at
/// work holds it for minutes.
const LOCK_TRIES: u32 = 20;
const LOCK_EVERY: Duration = Duration::from_millis(50);

/// Account and region of a run.
#[derive(Debug, Clone, Deserialize)]
pub struct RunLocation {
    pub account: String,
    pub region: String,
}

/// The folder of one run.
#[derive(Debug, Clone)]
pub struct RunState {
    pub path: PathBuf,
    pub run: String,
}

/// Whether a process of this machine is at work on a run.
pub fn is_active(run: &str) -> bool {
    let lock = folder_of(run).ok().and_then(|folder| File::open(folder.join(LOCK)).ok());
    // Shared: two that look at the same time do not take each other for somebody at work.
    lock.is_some_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

impl RunState {
    /// Keeps other processes from the run as long as the file is open; a process that is killed lets go of it.
    ///
    /// Errors: another process has it, and not only for the moment in which [`is_active`] looks.
    pub fn lock(&self) -> Result<File> {
        let failed = |error| Error::new(Class::Io, format!("run {} could not be locked", self.run)).with_source(error);
        let path = self.path.join(LOCK);
        for _ in 0..LOCK_TRIES {
            let lock = self.append(LOCK)?;
            match lock.try_lock() {
                // Whoever ended the run meanwhile has removed the file: the lock on it keeps nobody out.
                Ok(()) if files::is_named(&lock, &path) => return Ok(lock),
                Ok(()) | Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_EVERY),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Err(Error::new(Class::Locked, format!("another process is at work on run {}", self.run))
            .hint("wait for it, or end it: a run is never driven by two"))
    }

    /// The folder of a new run, for its owner alone.
    pub fn create(run: &str) -> Result<Self> {
        let path = folder_of(run)?;
        files::make_folder_durably(&path)?;
        Ok(RunState { path, run: run.to_owned() })
    }

    /// Keeps what a run needs to be found again, as JSON in a file of this name.
    pub fn write(&self, name: &str, record: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::new(Class::Bug, "a run's record can't be written").with_source(error))?;
        files::write_durably(&self.path.join(name), &text, 0o600)
    }

    /// What [`RunState::write`] kept, if anything.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        let Some(bytes) = files::read_if_there(&path, "run")? else { return Ok(None) };
        // Nothing, or nothing but NUL: what file systems keep of a file that was not on the disk yet.
        if bytes.iter().all(|byte| *byte == 0 || byte.is_ascii_whitespace()) {
            let message = format!("{} is empty: the machine probably lost power while it was written", path.display());
            let hint = format!(
                "nothing can go on from it: `efa-gen sweep --run {} --yes` removes what it left in the account, then remove \
                 {}",
                self.run,
                self.path.display()
            );
            return Err(Error::new(Class::Usage, message).hint(hint));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::new(Class::Usage, format!("{} can't be read", path.display()))
                .with_source(clip(&error.to_string(), QUOTED))
                .hint("another version of efa-gen wrote it: go on with that one, or sweep the run")
        })
    }

    /// Removes a file; that it is not there is no error.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(Class::Io, format!("could not remove {}", path.display())).with_source(error))
            }
            _ => Ok(()),
        }
    }

    /// Where the run's things are, a build's or a cluster's.
    pub fn location(&self) -> Result<Option<RunLocation>> {
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
        files::write_durably(&self.path.join("login"), format!("{line}\n").as_bytes(), 0o600)
    }

    /// That command line, once there is one.
    pub fn login(&self) -> Result<Option<String>> {
        let bytes = files::read_if_there(&self.path.join("login"), "login")?;
        let line = bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned());
        Ok(line.filter(|line| !line.is_empty()))
    }

    pub(super) fn append(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        let opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(files::NO_LINK)
            .open(&path);
        opened.map_err(|error| Error::new(Class::Io, format!("could not write {}", path.display())).with_source(error))
    }

    /// A run that ended well leaves its log, and its ledger, which knows the image again; the key and whatever else is secret goes.
    /// The lock goes last: whoever has read the record finds it locked.
    pub fn forget_secrets(&self) -> Result<()> {
        for name in ["key", "host_key", "known_hosts", "login", BUILD, CLUSTER, "install.sh", UNTESTED, LOCK] {
            self.remove(name)?;
        }
        Ok(())
    }

    /// Removes the run's folder with all that is in it, the lock last.
    pub fn forget(&self) -> Result<()> {
        let failed =
            |error| Error::new(Class::Io, format!("could not remove {}", self.path.display())).with_source(error);
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == LOCK {
                continue;
            }
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            let removed = if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
            removed.map_err(failed)?;
        }
        fs::remove_dir_all(&self.path).map_err(failed)
    }
}
