//! Owns one thing that a preflight found wrong, and how several of them are told at once.

use efa_gen::error::{Class, Error};

use crate::aws::error::ApiError;
use crate::io::events::{Event, EventSink};

/// Something that would make a build fail.
#[derive(Debug, Clone)]
pub struct Problem {
    pub class: Class,
    pub what: String,
    pub hint: String,
}

impl Problem {
    /// What was asked for can't be had.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem { class: Class::Plan, what: what.into(), hint: hint.into() }
    }

    /// A malformed value.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem { class: Class::Usage, what: what.into(), hint: hint.into() }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let hint = error.hint_text().unwrap_or_default().to_owned();
        Problem { class: error.class(), what: error.to_string(), hint }
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Error::from(error).into()
    }
}

/// Tells all of them and makes the one error that ends the command; its class is the first one's.
pub fn refuse(events: &EventSink, problems: &[Problem]) -> Error {
    for Problem { what, hint, .. } in problems {
        events.emit(&Event::Problem { what: what.clone(), hint: hint.clone() });
    }
    let class = problems.first().map_or(Class::Bug, |problem| problem.class);
    let count = if problems.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", problems.len()) };
    Error::new(class, format!("{count} found before anything was made"))
}
