//! Owns the arguments of commands: text that may hold what only the guest knows.

use serde::{Serialize, Serializer};

/// A fact that is looked up on the machine when the script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestVariable {
    /// Release of the running kernel, `uname -r`.
    Kernel,
    /// Compile jobs that cores and memory allow.
    Jobs,
    /// Number of NVIDIA GPUs.
    Gpus,
}

impl GuestVariable {
    const ALL: [GuestVariable; 3] = [GuestVariable::Kernel, GuestVariable::Jobs, GuestVariable::Gpus];

    /// Its name between braces in data files and in the plan's JSON.
    pub fn name(self) -> &'static str {
        match self {
            GuestVariable::Kernel => "kernel",
            GuestVariable::Jobs => "jobs",
            GuestVariable::Gpus => "gpus",
        }
    }
}

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Text, taken literally whatever it holds.
    Text(String),
    /// A fact of the guest.
    Guest(GuestVariable),
}

/// One argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument(Vec<Segment>);

impl Argument {
    /// A word that is exactly this text, braces included.
    pub fn literal(text: impl Into<String>) -> Self {
        Argument(vec![Segment::Text(text.into())])
    }

    /// A word in which `{kernel}`, `{jobs}` and `{gpus}` stand for facts; all else is literal.
    pub fn template(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        let next = |rest: &str| {
            let found = GuestVariable::ALL.iter().filter_map(|fact| {
                let marker = format!("{{{}}}", fact.name());
                rest.find(&marker).map(|at| (at, marker.len(), *fact))
            });
            found.min_by_key(|(at, _, _)| *at)
        };
        while let Some((at, length, fact)) = next(rest) {
            if at > 0 {
                parts.push(Segment::Text(rest[..at].to_owned()));
            }
            parts.push(Segment::Guest(fact));
            rest = &rest[at + length..];
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Segment::Text(rest.to_owned()));
        }
        Argument(parts)
    }

    /// Its pieces in order.
    pub fn parts(&self) -> &[Segment] {
        &self.0
    }
}

impl std::fmt::Display for Argument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Segment::Text(text) => f.write_str(text),
            Segment::Guest(fact) => write!(f, "{{{}}}", fact.name()),
        })
    }
}

impl Serialize for Argument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
