//! Owns the library of the script: shell functions that are the same in every script, as files that are read on their own.
//! What no action of a plan needs is left out, so that there is less to read, and to send.

use std::collections::BTreeSet;

use serde::Serialize;

use super::actions;
use crate::plan::Action;

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("../../templates/script/lib/", $name, ".sh"))
    };
}

/// The text of each file, as one script has it.
#[derive(Serialize)]
pub(crate) struct Library {
    report: String,
    state: String,
    actions: String,
    checks: String,
    machine: String,
    walk: String,
}

/// A line that begins with it names the function whose definition follows, with whatever that needs.
const MARK: &str = "#: ";

/// The mark of what every script has.
const ALWAYS: &str = "always";

/// What these actions need, and the functions named besides; `shape` is applied to the text of each file.
pub(crate) fn library<'a>(
    needed_by: impl Iterator<Item = &'a Action>,
    besides: &'static str,
    shape: impl Fn(&str) -> String,
) -> Library {
    let needed: BTreeSet<&str> = needed_by.flat_map(actions::functions).chain([ALWAYS, besides]).collect();
    let file = |text: &str| shape(&pieces(text, &needed)).trim_end().to_owned();
    Library {
        report: file(file!("report")),
        state: file(file!("state")),
        actions: file(file!("actions")),
        checks: file(file!("checks")),
        machine: file(file!("machine")),
        walk: file(file!("walk")),
    }
}

/// The text below the comment that begins the file, without marks and what they leave out.
fn pieces(text: &str, needed: &BTreeSet<&str>) -> String {
    let (_, body) = text.split_once("\n\n").unwrap_or(("", text));
    let mut wanted = true;
    let mut kept = String::new();
    for line in body.lines() {
        match line.strip_prefix(MARK) {
            Some(name) => wanted = needed.contains(name),
            None if wanted => kept.extend([line, "\n"]),
            None => {}
        }
    }
    kept
}
