//! Owns reading what the user hands over and writing what the user asked for. Every read has a size
//! limit and every write is whole or absent. Knows nothing of what the bytes mean.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use efa_gen::error::{Class, Error, Result};

/// Reads a file of at most `limit` bytes. `what` names its role in messages ("signature", "key").
/// A folder, a device or a pipe is refused rather than read.
pub fn read(path: &Path, what: &str, limit: u64) -> Result<Vec<u8>> {
    let mut file = open(path, what)?;
    let mut bytes = Vec::new();
    (&mut file).take(limit + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(path, what).because(error))?;
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
    let kind = fs::metadata(path).map_err(|error| cannot_read(path, what).because(error))?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() { "a folder" } else { "not a regular file" };
        return Err(Error::new(Class::Usage, format!("{what} {} is {found}", path.display())));
    }
    File::open(path).map_err(|error| cannot_read(path, what).because(error))
}

fn cannot_read(path: &Path, what: &str) -> Error {
    Error::new(Class::Io, format!("could not read {what} {}", path.display()))
}

/// Writes a file whole: to a temporary name in the same folder, then renamed. `mode` is the Unix mode. It is not
/// forced to the disk: what is written here can be rendered or downloaded again.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::new(Class::Io, format!("could not write {}", path.display())).because(error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    temporary.write_all(bytes).map_err(failed)?;
    temporary.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Makes a folder and its parents.
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .map_err(|error| Error::new(Class::Io, format!("could not make folder {}", path.display())).because(error))
}
