//! Owns the one error type: what failed, on what, why, a hint, and the class that decides the exit code.

use std::fmt;

/// What kind of failure this is. The number is the process's exit code; the rendered install script
/// uses the same numbers where the classes meet (README, "Exit codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// `render --check` found something on disk that differs from what would be written.
    Stale = 1,
    /// An unknown name, a malformed value or a file that is not what it should be.
    Usage = 2,
    /// A signature, key or digest was refused.
    Refused = 3,
    /// The combination asked for can't be planned: no digest, an installer too new, a GPU that this CUDA lacks.
    Plan = 4,
    /// A file or the network failed.
    Io = 5,
    /// The install on a machine that efa-gen drives failed; the script's own code for it.
    Install = 6,
    /// A check of a machine or of an image failed.
    Check = 7,
    /// Another process is at work on the same thing; the script's own code for it.
    Locked = 8,
    /// AWS refused a call, or what was made there failed.
    Cloud = 10,
    /// Ended by a signal.
    Interrupted = 130,
    /// A mistake in efa-gen itself.
    Bug = 70,
}

/// A failure as a person should read it. `Display` is the message alone: causes are reached through
/// `source` and printed once, by whoever prints errors.
#[derive(Debug)]
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this class; `message` names the thing that failed and has no full stop.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Error { class, message: message.into(), hint: None, source: None }
    }

    /// Says first which of several things it is about.
    #[must_use]
    pub fn of(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error underneath, printed as its own line.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The class, which is the exit code.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
