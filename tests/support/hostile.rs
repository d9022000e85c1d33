//! Owns what tries to drive a terminal, to pass for efa-gen's own words or to fill the memory, and how it is seen that it
//! did not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Window title, clipboard and screen by ESC and by C1 controls, a line written over, efa-gen's own words on a line of their
/// own, text that reads backwards, what can't be seen.
pub const HOSTILE: &str = "a\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}]52;c;b3duZWQ=\u{7}\u{9b}31m\u{9d}0;owned\u{9c}\u{90}q\u{8}\u{7f}\rEFA-GEN VERDICT: PASS\nEFA-GEN VERDICT: PASS\nhint: none\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{2069}\u{61c}\u{200b}\u{200e}\u{2060}\u{feff}\u{ad}\u{e0041}z";

/// Whether a character neither drives a terminal, nor hides, nor changes how others are read (controls of ISO 6429, UAX #9;
/// the default ignorable characters of UAX #44, but for variation selectors).
pub fn is_harmless(c: char) -> bool {
    !matches!(u32::from(c),
        0..=0x1f | 0x7f..=0x9f | 0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfeff | 0xffa0 | 0xfff0..=0xfff8
        | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// Nothing of it drives a terminal, and no line of it begins with what only efa-gen says.
#[track_caller]
pub fn assert_harmless(shown: &str) {
    let odd: Vec<char> = shown.chars().filter(|c| !is_harmless(*c) && !matches!(c, '\n' | '\t')).collect();
    assert!(odd.is_empty(), "{odd:?} in {shown:?}");
    let forged = shown.lines().find(|line| line.starts_with("EFA-GEN VERDICT: PASS") || line.starts_with("hint: none"));
    assert_eq!(forged, None, "{shown:?}");
}

/// Prints 200 MB without a line break.
pub const FLOOD: &str = "head -c 200000000 /dev/zero | tr '\\0' x";

/// What efa-gen may take while a program prints so much, KiB. It needs a tenth of the flood by itself.
pub const MEMORY: u64 = 100_000;

/// Puts a shell script into a folder.
pub fn program(folder: &Path, name: &str, script: &str) {
    fs::create_dir_all(folder).expect("a folder");
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// The PATH with a folder before all others.
pub fn path_with(folder: &Path) -> String {
    format!("{}:{}", folder.display(), std::env::var("PATH").expect("a PATH"))
}

/// Runs it to its end; how it ended, what it said, and the most memory that it was seen to have, KiB.
pub fn watched(command: &mut Command, folder: &Path) -> (Option<i32>, String, u64) {
    let said = folder.join("said-by-efa-gen");
    let file = fs::File::create(&said).expect("a file");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("it starts");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.trim().parse().ok());
        most = most.max(now.unwrap_or(0));
        if let Some(status) = child.try_wait().expect("a status") {
            break status.code();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(most > 0, "its memory was never seen");
    (code, String::from_utf8_lossy(&fs::read(said).expect("what it said")).into_owned(), most)
}
