//! Owns `NAME.part` and `NAME.part.etag`: what has arrived of a download, and of which file. One process at a time
//! holds a part; the lock goes with the process.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use efa_gen::error::{Class, Error, Result};

use super::files::{self, FileOwnership};
use super::terminal;

/// An entity tag is a line of text; more is not ours.
const ETAG_LIMIT: usize = 1024;

/// How often the file is looked at anew, where it was replaced meanwhile.
const LOOKS: usize = 16;

/// An unfinished download, locked.
pub struct PartialFile {
    file: File,
    path: PathBuf,
    etag_path: PathBuf,
    target: PathBuf,
}

/// Where to go on, and the entity tag that must still be the server's.
pub struct ResumePoint {
    pub offset: u64,
    pub etag: String,
}

impl PartialFile {
    /// Opens or makes `TARGET.part`, and locks it. One that others can change is begun anew, and somebody else's is refused:
    /// what has been checked must not be anybody else's to change.
    pub fn open(target: &Path) -> Result<Self> {
        let path = with_suffix(target, ".part");
        let etag_path = with_suffix(target, ".part.etag");
        for _ in 0..LOOKS {
            let mut is_new = false;
            match fs::symlink_metadata(&path).map(|there| files::ownership(&there)) {
                Ok(FileOwnership::Foreign(why)) => {
                    let message = format!("{} is in the way: {why}", path.display());
                    return Err(Error::new(Class::Io, message).hint("remove it, or choose another folder with --out"));
                }
                Ok(FileOwnership::Shared(why)) => {
                    terminal::message(&format!("note: removed {}, to begin anew: {why}", path.display()));
                    remove(&path)?;
                    remove(&etag_path)?;
                }
                Ok(FileOwnership::Own) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => is_new = true,
                Err(error) => return Err(failed("open", &path, error)),
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(files::NO_LINK);
            let file = options.open(&path).map_err(|error| failed("open", &path, error))?;
            let opened = file.metadata().map_err(|error| failed("read", &path, error))?;
            if files::ownership(&opened) != FileOwnership::Own {
                if is_new {
                    let message = format!("{} can't be kept for its owner alone", path.display());
                    return Err(Error::new(Class::Io, message).hint(
                        "its file system has no owners or no modes, or somebody else made the file: choose another folder with --out",
                    ));
                }
                continue;
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another efa-gen is downloading {}", target.display());
                    return Err(Error::new(Class::Io, message).hint("wait for it, or choose another folder with --out"));
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path, error)),
            }
            // Between opening and locking, another process may have finished and renamed this very file.
            if files::is_named(&file, &path) {
                return Ok(PartialFile { file, path, etag_path, target: target.to_owned() });
            }
        }
        let message = format!("somebody else replaces {} again and again", path.display());
        Err(Error::new(Class::Io, message).hint("choose another folder with --out"))
    }

    /// The name of the unfinished file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The unfinished file itself.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where to go on. Without an entity tag two halves of different files could meet, so then from the start.
    pub fn resume_point(&self) -> Result<Option<ResumePoint>> {
        let offset = self.file.metadata().map_err(|error| failed("read", &self.path, error))?.len();
        let etag = read_own(&self.etag_path).unwrap_or_default();
        let usable =
            offset > 0 && etag.starts_with('"') && etag.len() <= ETAG_LIMIT && !etag.contains(char::is_control);
        Ok(usable.then_some(ResumePoint { offset, etag }))
    }

    /// Forgets what arrived; what comes next is the file of this entity tag.
    pub fn restart(&mut self, etag: Option<&str>) -> Result<()> {
        self.file.set_len(0).map_err(|error| failed("empty", &self.path, error))?;
        match etag {
            Some(etag) => files::write(&self.etag_path, etag.as_bytes(), 0o600),
            None => remove(&self.etag_path),
        }
    }

    /// Gives the file its final name, and forces both to the disk.
    ///
    /// Errors: somebody else put another file in its place, so that the name is not that of what was checked.
    pub fn finish(self) -> Result<()> {
        self.file
            .set_permissions(Permissions::from_mode(0o644))
            .and_then(|()| self.file.sync_all())
            .map_err(|error| failed("write", &self.path, error))?;
        if !files::is_named(&self.file, &self.path) {
            return Err(replaced(&self.path));
        }
        fs::rename(&self.path, &self.target).map_err(|error| failed("rename", &self.path, error))?;
        if !files::is_named(&self.file, &self.target) {
            return Err(replaced(&self.target));
        }
        files::sync_folder(files::parent_of(&self.target))?;
        remove(&self.etag_path)
    }

    /// Keeps what arrived for a later run, or removes the file if nothing did; hands the error on.
    pub fn leave(self, error: Error) -> Result<Error> {
        match self.resume_point()? {
            Some(_) if error.hint_text().is_some() => Ok(error),
            Some(point) => {
                let next = format!("{} keeps the {} bytes that arrived", self.path.display(), point.offset);
                Ok(error.hint(format!("{next}: the same command goes on from there")))
            }
            None => self.discard().map(|()| error),
        }
    }

    /// Removes every trace.
    pub fn discard(self) -> Result<()> {
        remove(&self.path)?;
        remove(&self.etag_path)
    }
}

/// The text of a small file, if it is the caller's own.
fn read_own(path: &Path) -> Option<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(files::NO_LINK).open(path).ok()?;
    if files::ownership(&file.metadata().ok()?) != FileOwnership::Own {
        return None;
    }
    let mut text = String::new();
    (&mut file).take(ETAG_LIMIT as u64 + 1).read_to_string(&mut text).ok()?;
    Some(text)
}

fn replaced(path: &Path) -> Error {
    let message = format!("somebody else put another file in the place of {}", path.display());
    Error::new(Class::Refused, message).hint("choose a folder with --out that nobody else can write to")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(Class::Io, format!("could not {what} {}", path.display())).with_source(error)
}
