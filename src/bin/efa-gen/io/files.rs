//! Owns reading what the user hands over and writing what the user asked for. Every read has a size limit, every write
//! is whole or absent.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use efa_gen::error::{Class, Error, Result};
use rustix::fs::OFlags;

/// Reads a file of at most `limit` bytes. `what` names its role in messages ("signature", "key").
/// A folder, a device or a pipe is refused rather than read.
pub fn read(path: &Path, what: &str, limit: u64) -> Result<Vec<u8>> {
    let mut file = open(path, what)?;
    let mut bytes = Vec::new();
    (&mut file).take(limit + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(path, what).with_source(error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Class::Usage, format!("{what} {} is larger than {limit} bytes", path.display()))
            .hint(format!("this is not the kind of file that belongs here; is it really a {what}?")));
    }
    Ok(bytes)
}

/// Reads a file that may be missing.
pub fn read_if_there(path: &Path, what: &str) -> Result<Option<Vec<u8>>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => read(path, what, 16 << 20).map(Some),
    }
}

/// Opens a regular file for reading; anything else is refused by name.
pub fn open(path: &Path, what: &str) -> Result<File> {
    // Looked at before it is opened: opening a named pipe without a writer would wait for ever.
    let kind = fs::metadata(path).map_err(|error| cannot_read(path, what).with_source(error))?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() { "a folder" } else { "not a regular file" };
        return Err(Error::new(Class::Usage, format!("{what} {} is {found}", path.display())));
    }
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = file.map_err(|error| cannot_read(path, what).with_source(error))?;
    // What was looked at may have been replaced since.
    match file.metadata() {
        Ok(opened) if opened.is_file() => Ok(file),
        Ok(_) => Err(Error::new(Class::Usage, format!("{what} {} is not a regular file", path.display()))),
        Err(error) => Err(cannot_read(path, what).with_source(error)),
    }
}

fn cannot_read(path: &Path, what: &str) -> Error {
    Error::new(Class::Io, format!("could not read {what} {}", path.display()))
}

/// Writes a file whole: to a new file of a temporary name in the same folder, then renamed over whatever has the name. `mode`
/// is the Unix mode. It is not forced to the disk: what is written here can be rendered or downloaded again.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, bytes, mode, false)
}

/// The same, and forced to the disk with its name: for what can't be had again after a power cut.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, bytes, mode, true)?;
    sync_folder(parent_of(path))
}

fn replace(path: &Path, bytes: &[u8], mode: u32, durably: bool) -> Result<()> {
    let failed = |error: io::Error| cannot_write(path).with_source(error);
    let mut temporary = tempfile::NamedTempFile::new_in(parent_of(path)).map_err(failed)?;
    temporary.write_all(bytes).map_err(failed)?;
    temporary.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    if durably {
        // Before it has its name: a file that is renamed first may be empty after a power cut.
        temporary.as_file().sync_all().map_err(failed)?;
    }
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn cannot_write(path: &Path) -> Error {
    Error::new(Class::Io, format!("could not write {}", path.display()))
}

/// The folder in which a path is.
pub fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Forces the names in a folder to the disk.
pub fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems have no such call; their server keeps the names.
        Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            let message = format!("could not force folder {} to the disk", folder.display());
            Err(Error::new(Class::Io, message).with_source(error))
        }
        _ => Ok(()),
    }
}

/// Flags with which a file is opened only if it is there itself: a link is not followed, a named pipe not waited for.
pub const NO_LINK: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

/// Whether a file that lies there can be gone on with.
#[derive(Debug, PartialEq, Eq)]
pub enum FileOwnership {
    /// The caller's own, and nobody else can change it.
    Own,
    /// The caller's own name for a file that others can change, or that has another name somewhere: why.
    Shared(String),
    /// It is not the caller's: why.
    Foreign(String),
}

/// Whose a file is, by what was seen of it without following a link.
pub fn ownership(file: &Metadata) -> FileOwnership {
    let mode = file.mode() & 0o7777;
    if !file.is_file() {
        FileOwnership::Foreign("not a regular file".to_owned())
    } else if file.uid() != rustix::process::geteuid().as_raw() {
        FileOwnership::Foreign(format!("it belongs to another user (uid {})", file.uid()))
    } else if mode & 0o022 != 0 {
        FileOwnership::Shared(format!("others may write to it (mode {mode:04o})"))
    } else if file.nlink() != 1 {
        FileOwnership::Shared("it has another name elsewhere".to_owned())
    } else {
        FileOwnership::Own
    }
}

/// Whether the path still names this open file, and is no link to it.
pub fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Why somebody other than the caller and root can change an open file, if anybody can.
pub fn changeable_by_others(file: &File) -> Option<String> {
    let seen = file.metadata().ok()?;
    match ownership(&seen) {
        FileOwnership::Own => None,
        FileOwnership::Foreign(_) if seen.uid() == 0 && seen.mode() & 0o022 == 0 => None,
        FileOwnership::Shared(_) if seen.mode() & 0o022 == 0 => None,
        FileOwnership::Shared(why) | FileOwnership::Foreign(why) => Some(why),
    }
}

/// Makes a folder and its parents.
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .map_err(|error| Error::new(Class::Io, format!("could not make folder {}", path.display())).with_source(error))
}

/// Makes a folder and its parents, for their owner alone, and forces their names to the disk.
pub fn make_folder_durably(path: &Path) -> Result<()> {
    let new: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Error::new(Class::Io, format!("could not make {}", path.display())).with_source(error))?;
    new.into_iter().try_for_each(|folder| sync_folder(parent_of(folder)))
}

/// A folder of the user's own by the XDG base directory specification: `variable`, or `below_home`.
pub fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}
