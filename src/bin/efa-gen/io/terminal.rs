//! Owns everything that is printed: data to stdout, lines for people to stdout, talk to stderr, errors in one form. What
//! people read goes through the core's `text`, so that nothing from outside drives their terminal.

use std::error::Error as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use efa_gen::error::{Class, Error, Result};
use efa_gen::text::{beginning, ending, printable_json, printable_line, printable_lines};
use serde::Serialize;

/// Writes data to stdout as it is: what is rendered, and what another program reads. A reader that went away
/// (`efa-gen ... | head`) is not an error.
pub fn data(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Class::Io, "could not write to standard output").with_source(error))
        }
        _ => Ok(()),
    }
}

/// Whether a person looks at stdout.
pub fn is_watched() -> bool {
    io::stdout().is_terminal()
}

/// Prints lines for people to stdout. A line break in one of them comes from outside and is escaped.
pub fn lines<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        text += &printable_line(line.as_ref());
        text.push('\n');
    }
    data(text.as_bytes())
}

/// Prints pretty JSON and a line break to stdout.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(Class::Bug, "the output can't be written as JSON").with_source(error))?;
    data(format!("{}\n", printable_json(&text)).as_bytes())
}

/// Says something on stderr. If stderr itself is gone there is nobody left to tell. Lines but the first are outside text's.
pub fn message(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_lines(text));
}

/// Says a line of JSON on stderr.
pub fn json_message(value: &serde_json::Value) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_json(&value.to_string()));
}

/// Prints the error, its causes once each, and the hint; returns the exit code of its class.
pub fn error(error: &Error) -> ExitCode {
    message(&format!("error: {}", beginning(&error.to_string())));
    let mut source = error.source();
    while let Some(cause) = source {
        message(&format!("  caused by: {}", ending(&cause.to_string())));
        source = cause.source();
    }
    if error.class() == Class::Bug {
        message("  this is a bug in efa-gen, not in what you asked for");
    }
    if let Some(hint) = error.hint_text() {
        message("");
        message(&format!("hint: {hint}"));
    }
    ExitCode::from(error.class() as u8)
}
