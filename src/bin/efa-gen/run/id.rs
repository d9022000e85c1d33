//! Owns the names of runs, and the folder that belongs to each.

use std::path::PathBuf;

use efa_gen::error::{Class, Error, Result};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::rand_core::{OsRng, RngCore};

use crate::io::files;

/// A new run's name: the time in UTC, and something that no other run of this second has.
pub fn new_id() -> String {
    let now = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    format!("{now}-{:04x}", OsRng.next_u32() & 0xffff)
}

/// The name of one more launch of a run: what EC2 launches under it is told from whatever the run launched before.
pub fn new_call(run: &str) -> String {
    format!("{run}-{:08x}", OsRng.next_u32())
}

/// Whether a text has the form of a run's name: a time in UTC, and four digits of a hexadecimal number.
pub fn is_run(text: &str) -> bool {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let good = |rest: &str| rest.len() == 4 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    form.starts_with("00000000-000000-") && text.get(16..).is_some_and(good) && began(text).is_some()
}

/// When a run began, by its name: groups and addresses have no time of their own.
pub fn began(run: &str) -> Option<Timestamp> {
    let date = DateTime::strptime("%Y%m%d-%H%M%S", run.get(..15)?).ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Where a run's files are. Refuses what is not a run's name.
pub fn folder_of(run: &str) -> Result<PathBuf> {
    if !is_run(run) {
        return Err(Error::new(Class::Usage, format!("{run:?} is not the name of a run"))
            .hint("a run is named like 20261122-171500-ab12; `efa-gen sweep` lists those that left something"));
    }
    Ok(runs_folder()?.join(run))
}

/// `$XDG_STATE_HOME/efa-gen/runs`, which the XDG base directory specification puts below ~/.local/state.
fn runs_folder() -> Result<PathBuf> {
    let none = || Error::new(Class::Io, "there is no folder for the run's files").hint("set HOME or XDG_STATE_HOME");
    Ok(files::user_folder("XDG_STATE_HOME", ".local/state").ok_or_else(none)?.join("efa-gen/runs"))
}
