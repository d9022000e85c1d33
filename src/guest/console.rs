//! Owns the marks by which a machine speaks on its serial console: its host keys, and that it is sealed.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// The public keys, one line of OpenSSH each, that the console shows whole between the run's marks: the last time that it
/// did, without the kernel's lines that may have come between.
pub fn host_keys(console: &str, run: &str) -> Option<Vec<String>> {
    let (begin, end) = (mark("BEGIN HOST KEYS", run), mark("END HOST KEYS", run));
    let mut rest = console;
    loop {
        rest = &rest[..rest.rfind(&end)?];
        let from = rest.rfind(&begin)?;
        let keys: Vec<String> = rest[from..].lines().filter_map(whole_key).collect();
        if !keys.is_empty() {
            return Some(keys);
        }
        rest = &rest[..from];
    }
}

/// Type and key of a line, if the terminal has lost nothing of it: a key is strings with their lengths, the first of them
/// its type (RFC 4253, section 6.6; RFC 5656, section 3.1; RFC 8709, section 4).
fn whole_key(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let strings = match kind {
        "ssh-ed25519" => 2,
        "ssh-rsa" | "ecdsa-sha2-nistp256" => 3,
        _ => return None,
    };
    let bytes = BASE64_STANDARD.decode(key).ok()?;
    let mut rest = bytes.as_slice();
    for index in 0..strings {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (string, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        if index == 0 && string != kind.as_bytes() {
            return None;
        }
        rest = tail;
    }
    rest.is_empty().then(|| format!("{kind} {key}"))
}

/// A shell's command that prints what a sealed builder says on its console last. The shell takes the backslash off: the mark
/// stands in the command's output alone, in no line that tells of the command (sudo's `COMMAND=` is on the console of some).
pub fn sealed_command(run: &str) -> String {
    format!("echo {}", mark(r"SEAL\ED", run))
}

/// Whether a console shows that the builder was sealed: a line ends with the mark. What shares the line may stand before it.
pub fn is_sealed(console: &str, run: &str) -> bool {
    let mark = mark("SEALED", run);
    console.lines().any(|line| line.trim_end().ends_with(&mark))
}

pub(crate) fn mark(what: &str, run: &str) -> String {
    format!("-----EFA-GEN {what} {run}-----")
}
