//! Owns the program: which Packer is on the PATH, how it is started, told to end, and how its end is read.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use efa_gen::error::{Class, Error, Result};
use efa_gen::text::{ANSWER, ending};
use tokio::sync::{mpsc, watch};

use crate::io::events::{Event, EventSink};
use crate::io::output::each_line;
use crate::io::signals::interrupted;

/// The oldest that the rendered template was tried with.
const OLDEST: Version = (1, 6, 6);

/// Lines of Packer's output that an error shows.
const LAST_LINES: usize = 8;

pub type Version = (u32, u32, u32);

/// Which Packer is on the PATH.
pub fn version() -> Result<Version> {
    let mut asked = Command::new("packer");
    asked
        .arg("version")
        .env("CHECKPOINT_DISABLE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let answer = beginning(&mut asked).map_err(|error| {
        let plain = match error.kind() {
            io::ErrorKind::NotFound => Error::new(Class::Io, "there is no `packer` on the PATH"),
            _ => Error::new(Class::Io, "`packer version` could not be run").with_source(error),
        };
        plain.hint("install Packer 1.6.6 or newer, or leave out --driver packer: efa-gen needs none")
    })?;
    let output = String::from_utf8_lossy(&answer);
    let Some(version) = output.lines().find_map(parse_version) else {
        let first = ending(output.lines().next().unwrap_or_default());
        return Err(Error::new(Class::Io, format!("`packer version` did not say which one it is, but {first:?}"))
            .hint("is it HashiCorp's? cracklib has a program of the same name; put the right one first in PATH"));
    };
    if version < OLDEST {
        return Err(Error::new(Class::Plan, format!("Packer {} is too old", text(version)))
            .hint("the rendered template needs Packer 1.6.6 or newer"));
    }
    Ok(version)
}

/// What a program prints, as far as anybody reads it.
fn beginning(command: &mut Command) -> io::Result<Vec<u8>> {
    let mut child = command.spawn()?;
    let mut bytes = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(ANSWER as u64).read_to_end(&mut bytes)?;
    }
    // It may go on for ever.
    if bytes.len() == ANSWER {
        child.kill()?;
    }
    child.wait()?;
    Ok(bytes)
}

/// `Packer v1.16.0-dev (...)` and the like.
fn parse_version(line: &str) -> Option<Version> {
    let numbers = line.trim().strip_prefix("Packer v")?.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?;
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    let (major, minor, patch) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some((major, minor, patch))
}

pub fn text((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

/// Packer in the folder of one run.
pub struct Packer<'a> {
    pub folder: PathBuf,
    pub profile: Option<String>,
    pub events: &'a EventSink,
}

impl Packer<'_> {
    /// Runs it to its end, and tells every line.
    pub async fn run(&self, arguments: &[&str], stop: &mut watch::Receiver<u32>) -> Result<PackerExit> {
        let started = self.command(arguments).spawn();
        let mut child = started.map_err(|error| Error::new(Class::Io, "could not start packer").with_source(error))?;
        let mut group = Group(child.id());
        let (send, mut lines) = mpsc::channel(64);
        if let Some(pipe) = child.stdout.take() {
            tokio::spawn(each_line(pipe, send.clone()));
        }
        if let Some(pipe) = child.stderr.take() {
            tokio::spawn(each_line(pipe, send.clone()));
        }
        drop(send);
        let mut ended = PackerExit::default();
        let mut signals = 0;
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) => ended.output(line, self.events),
                    None => break,
                },
                Ok(()) = stop.changed(), if signals < 2 => {
                    signals += 1;
                    if signals == 1 {
                        self.events.note("interrupted: Packer removes what it has made; a second signal ends it at once");
                        group.signal("INT");
                    } else {
                        group.signal("KILL");
                    }
                }
            }
        }
        let status = child.wait().await;
        group.0 = None;
        ended.success =
            status.map_err(|error| Error::new(Class::Io, "could not wait for packer").with_source(error))?.success();
        if signals > 0 { Err(interrupted()) } else { Ok(ended) }
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("packer");
        command.args(arguments).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: what is typed at the terminal reaches efa-gen, which tells Packer once.
        command.process_group(0);
        command.env("CHECKPOINT_DISABLE", "1").env("PACKER_NO_COLOR", "1");
        // The variables are what efa-gen's own flags say.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PKR_VAR_") {
                command.env_remove(name);
            }
        }
        // Credentials are Packer's to find, in the same places.
        if let Some(profile) = &self.profile {
            command.env("AWS_PROFILE", profile);
            // For Packer these would win over a profile that was named.
            for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
                command.env_remove(name);
            }
        }
        command
    }
}

/// The processes of one Packer. If nobody waits for it any more, it is told to clean up all the same.
struct Group(Option<u32>);

impl Group {
    /// To all of them, as a terminal does: the first process only watches over the one that builds.
    fn signal(&self, name: &str) {
        let Some(id) = self.0 else { return };
        let line = ["-c", "kill -s \"$1\" -- \"-$2\"", "sh", name, &id.to_string()];
        // It may have ended by itself.
        let _ = Command::new("sh").args(line).stdin(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal("INT");
    }
}

/// How Packer ended.
#[derive(Default)]
pub struct PackerExit {
    pub success: bool,
    /// Packer's own words on why.
    reason: Option<String>,
    last: VecDeque<String>,
}

impl PackerExit {
    fn output(&mut self, line: String, events: &EventSink) {
        events.emit(&Event::Output { line: line.clone() });
        if line.trim().is_empty() {
            return;
        }
        // Build 'amazon-ebs.image' errored after 3 minutes 2 seconds: REASON
        if let Some((_, rest)) = line.split_once(" errored after ") {
            self.reason = rest.split_once(": ").map(|(_, reason)| reason.to_owned());
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// A script that failed is the machine's doing, everything else the cloud's or Packer's.
    pub fn class(&self) -> Class {
        let script =
            self.reason.as_ref().is_some_and(|reason| reason.contains("Script exited with non-zero exit status"));
        if script { Class::Install } else { Class::Cloud }
    }

    pub fn error(&self, class: Class, what: &str) -> Error {
        let why = self.reason.as_ref().map_or(String::new(), |reason| format!(": {}", ending(reason)));
        let lines = self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        Error::new(class, format!("{what} failed{why}"))
            .with_source(format!("the last that it said:\n{}", ending(&lines)))
    }
}
