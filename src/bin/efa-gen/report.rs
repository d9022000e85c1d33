//! Owns everything that is printed: data to stdout, talk to stderr, errors in one form. Knows nothing
//! of what is reported.

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use efa_gen::error::{Class, Error, Result};

/// Writes data to stdout as it is. A reader that went away (`efa-gen ... | head`) is not an error.
pub fn data(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Class::Io, "could not write to standard output").because(error))
        }
        _ => Ok(()),
    }
}

/// Says one line on stderr. If stderr itself is gone there is nobody left to tell.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints the error, its causes once each, and the hint; returns the exit code of its class.
pub fn fail(error: &Error) -> ExitCode {
    say(&format!("error: {error}"));
    let mut source = error.source();
    while let Some(cause) = source {
        say(&format!("  caused by: {cause}"));
        source = cause.source();
    }
    if error.class() == Class::Bug {
        say("  this is a bug in efa-gen, not in what you asked for");
    }
    if let Some(hint) = error.hint_text() {
        say(&format!("\nhint: {hint}"));
    }
    ExitCode::from(error.class() as u8)
}
