//! Owns words: text for a command line that may hold facts only the guest knows. Knows nothing of quoting.

use serde::{Serialize, Serializer};

/// A fact that is looked up on the machine when the script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Release of the running kernel, `uname -r`.
    Kernel,
    /// Compile jobs that cores and memory allow.
    Jobs,
    /// Number of NVIDIA GPUs.
    Gpus,
}

impl Fact {
    const ALL: [Fact; 3] = [Fact::Kernel, Fact::Jobs, Fact::Gpus];

    /// Its name between braces in data files and in the plan's JSON.
    pub fn name(self) -> &'static str {
        match self {
            Fact::Kernel => "kernel",
            Fact::Jobs => "jobs",
            Fact::Gpus => "gpus",
        }
    }
}

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text, taken literally whatever it holds.
    Text(String),
    /// A fact of the guest.
    Guest(Fact),
}

/// One argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(Vec<Part>);

impl Word {
    /// A word that is exactly this text, braces included.
    pub fn literal(text: impl Into<String>) -> Self {
        Word(vec![Part::Text(text.into())])
    }

    /// A word in which `{kernel}`, `{jobs}` and `{gpus}` stand for facts; all else is literal.
    pub fn template(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        let next = |rest: &str| {
            let found = Fact::ALL.iter().filter_map(|fact| {
                let marker = format!("{{{}}}", fact.name());
                rest.find(&marker).map(|at| (at, marker.len(), *fact))
            });
            found.min_by_key(|(at, _, _)| *at)
        };
        while let Some((at, length, fact)) = next(rest) {
            if at > 0 {
                parts.push(Part::Text(rest[..at].to_owned()));
            }
            parts.push(Part::Guest(fact));
            rest = &rest[at + length..];
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Word(parts)
    }

    /// Its pieces in order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Guest(fact) => write!(f, "{{{}}}", fact.name()),
        })
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
