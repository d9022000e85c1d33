//! Owns `NAME.part` and `NAME.part.etag`: what has arrived of a download, and of which file. Knows
//! nothing of HTTP. One process at a time holds a part; the lock goes with the process.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use efa_gen::error::{Class, Error, Result};

/// An entity tag is a line of text; more is not ours.
const ETAG_LIMIT: usize = 1024;

/// An unfinished download, locked.
pub struct Part {
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

impl Part {
    /// Opens or makes `TARGET.part`, and locks it.
    pub fn open(target: &Path) -> Result<Self> {
        let path = with_suffix(target, ".part");
        let etag_path = with_suffix(target, ".part.etag");
        loop {
            if fs::symlink_metadata(&path).is_ok_and(|there| !there.is_file()) {
                let message = format!("{} is in the way: not a regular file", path.display());
                return Err(Error::new(Class::Io, message).hint("remove it, or choose another folder with --out"));
            }
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(|error| failed("open", &path, error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another efa-gen is downloading {}", target.display());
                    return Err(Error::new(Class::Io, message).hint("wait for it, or choose another folder with --out"));
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path, error)),
            }
            // Between opening and locking, another process may have finished and renamed this very file.
            if same_file(&file, &path) {
                return Ok(Part { file, path, etag_path, target: target.to_owned() });
            }
        }
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
        let etag = fs::read_to_string(&self.etag_path).unwrap_or_default();
        let usable =
            offset > 0 && etag.starts_with('"') && etag.len() <= ETAG_LIMIT && !etag.contains(char::is_control);
        Ok(usable.then_some(ResumePoint { offset, etag }))
    }

    /// Forgets what arrived; what comes next is the file of this entity tag.
    pub fn restart(&mut self, etag: Option<&str>) -> Result<()> {
        self.file.set_len(0).map_err(|error| failed("empty", &self.path, error))?;
        match etag {
            Some(etag) => fs::write(&self.etag_path, etag).map_err(|error| failed("write", &self.etag_path, error)),
            None => remove(&self.etag_path),
        }
    }

    /// Gives the file its final name.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(|error| failed("write", &self.path, error))?;
        fs::rename(&self.path, &self.target).map_err(|error| failed("rename", &self.path, error))?;
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

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
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
    Error::new(Class::Io, format!("could not {what} {}", path.display())).because(error)
}
