//! Owns the version that an EFA installer's tarball names itself: a signature tells who made a file, not which version it is.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

use super::refusal::Refusal;
use crate::version;

/// The folder in a tarball. Its `env.sh` says `EFA_INSTALLER_VERSION=1.24.1`, which `efa_installer.sh` reads.
const FOLDER: &str = "aws-efa-installer";
const SCRIPTS: [&str; 2] = ["env.sh", "efa_installer.sh"];
const VARIABLE: &str = "EFA_INSTALLER_VERSION=";

/// So much of a tarball is unpacked, into nothing: a real one has less than 1 GB.
const MOST_UNPACKED: u64 = 2 << 30;

/// So much of a script is read.
const MOST_TEXT: u64 = 256 << 10;

const BLOCK: usize = 512;

/// The version that a tarball names, where it names any; refused where that is not the one that was asked for. It is the
/// word of whoever signed the tarball, so it is worth something after the signature was found good, and not before.
pub fn check_version(tarball: impl Read, asked: Option<&str>) -> Result<Option<String>, Refusal> {
    let named = named_version(tarball);
    match (&named, asked) {
        (Some(named), Some(asked)) if version::compare(named, asked).is_ne() => {
            Err(Refusal::OtherVersion { named: named.clone(), asked: asked.to_owned() })
        }
        _ => Ok(named),
    }
}

/// Reads a gzipped tar archive up to the first member that names a version. What is no such archive names none.
fn named_version(tarball: impl Read) -> Option<String> {
    let mut archive = MultiGzDecoder::new(tarball).take(MOST_UNPACKED);
    let mut header = [0; BLOCK];
    loop {
        archive.read_exact(&mut header).ok()?;
        // The archive ends with blocks of zeros.
        if header[0] == 0 {
            return None;
        }
        let size = number(&header[124..136])?;
        let path = path(&header);
        let mut parts = path.trim_start_matches("./").split('/');
        let folder = parts.next().unwrap_or_default();
        let by_folder = folder.strip_prefix(FOLDER).and_then(|rest| rest.strip_prefix('-'));
        if let Some(version) = by_folder.filter(|version| version::is_dotted(version)) {
            return Some(version.to_owned());
        }
        let is_file = matches!(header[156], b'0' | 0);
        let name = parts.next().unwrap_or_default();
        let is_script = folder == FOLDER && SCRIPTS.contains(&name) && parts.next().is_none();
        let mut text = Vec::new();
        if is_file && is_script {
            (&mut archive).take(size.min(MOST_TEXT)).read_to_end(&mut text).ok()?;
            let text = String::from_utf8_lossy(&text);
            // As in a shell, the last assignment counts.
            if let Some(version) = text.lines().filter_map(assigned).next_back() {
                return Some(version.to_owned());
            }
        }
        let rest = size.checked_next_multiple_of(BLOCK as u64)? - text.len() as u64;
        let skipped = io::copy(&mut (&mut archive).take(rest), &mut io::sink()).ok()?;
        if skipped < rest {
            return None;
        }
    }
}

/// A member's path (POSIX.1-2001, pax, "ustar Interchange Format"): its name, behind a prefix where there is one.
fn path(header: &[u8; BLOCK]) -> String {
    let text = |field: &[u8]| {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    let is_ustar = &header[257..263] == b"ustar\0";
    if is_ustar && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

/// A number in octal digits, or in binary behind a set bit (GNU tar).
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
        let fits = first & 0x7f == 0 && high.iter().all(|byte| *byte == 0);
        return fits.then(|| low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// What a line of a shell script assigns to the installer's version, if that is a version.
fn assigned(line: &str) -> Option<&str> {
    let line = line.trim();
    let line = ["export ", "readonly "].iter().find_map(|word| line.strip_prefix(word)).unwrap_or(line);
    let value = line.trim_start().strip_prefix(VARIABLE)?;
    let value = value.split([' ', '\t', ';', '#']).next().unwrap_or_default().trim_matches(['"', '\'']);
    version::is_dotted(value).then_some(value)
}
