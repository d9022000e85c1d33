//! Owns the ledger: a line for each resource with an id of EC2's that a run has made, written before it is used.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use efa_gen::error::{Class, Error, Result};
use efa_gen::text::clip;

use super::id::folder_of;
use super::state::{QUOTED, RunState};
use super::tags;
use crate::aws::model::{Resource, ResourceKind};
use crate::io::files;

/// The file.
const LEDGER: &str = "made.jsonl";

/// A ledger is read whole; one of a thousand nodes has some hundred kilobytes.
const LIMIT: u64 = 64 << 20;

impl RunState {
    /// Writes down that something is made, or about to be: a listing may not show it yet.
    pub fn record(&self, resource: &Resource) -> Result<()> {
        let mut line = serde_json::to_vec(resource)
            .map_err(|error| Error::new(Class::Bug, "a line of the ledger can't be written").with_source(error))?;
        line.push(b'\n');
        let failed = |error| Error::new(Class::Io, "the run's ledger can't be written").with_source(error);
        let mut file = self.append(LEDGER)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut last = *b"\n";
        if length > 0 {
            file.read_exact_at(&mut last, length - 1).map_err(failed)?;
        }
        if let (true, Some(ledger)) = (last != *b"\n", self.ledger()?) {
            // Behind half a line this one would be lost with it.
            file.set_len(ledger.whole.len() as u64).map_err(failed)?;
            if ledger.lacks_end {
                line.insert(0, b'\n');
            }
        }
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(failed)?;
        if length == 0 { files::sync_folder(&self.path) } else { Ok(()) }
    }

    /// Everything that the ledger has. A last line that a crash cut off is left out; [`RunState::cut_line`] tells of it.
    ///
    /// Errors: another line is damaged, so that nobody knows what it was.
    pub fn known(&self) -> Result<Vec<Resource>> {
        let Some(ledger) = self.ledger()? else { return Ok(Vec::new()) };
        let lines = ledger.whole.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        lines
            .map(|(at, line)| {
                serde_json::from_slice(line).map_err(|error| {
                    let path = self.path.join(LEDGER);
                    Error::new(Class::Usage, format!("{}: line {} is damaged", path.display(), at + 1))
                        .with_source(clip(&error.to_string(), QUOTED))
                        .hint(
                            "the disk, or another program, has changed it: put back what was in it, or remove the line; \
                             the tag efa-gen:run in the account tells of what it named",
                        )
                })
            })
            .collect()
    }

    /// What a person should be told where a crash cut the ledger's last line off.
    pub fn cut_line(&self) -> Result<Option<String>> {
        let cut = self.ledger()?.filter(|ledger| ledger.is_cut);
        self.known()?;
        Ok(cut.map(|_| {
            format!(
                "the last line of {} is cut off, as by a power cut, and left out: the run's tag tells of what it named",
                self.path.join(LEDGER).display()
            )
        }))
    }

    fn ledger(&self) -> Result<Option<Ledger>> {
        let path = self.path.join(LEDGER);
        if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let mut bytes = files::read(&path, "ledger", LIMIT)?;
        let last = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let tail = &bytes[last..];
        // Every line ends with a line break. One that is whole but for that was written.
        let is_whole = serde_json::from_slice::<Resource>(tail).is_ok();
        let (lacks_end, is_cut) = (is_whole, !tail.is_empty() && !is_whole);
        if is_cut {
            bytes.truncate(last);
        }
        Ok(Some(Ledger { whole: bytes, lacks_end, is_cut }))
    }

    /// Writes down that an image is published, with the plan that it is of: a later build may take it for its own.
    pub fn record_published(&self, image: &Resource) -> Result<()> {
        let kept = [tags::RUN, tags::PLAN, tags::STATE];
        let tags = image.tags.iter().filter(|(key, _)| kept.contains(&key.as_str()));
        self.record(&Resource {
            tags: tags.map(|(key, value)| (key.clone(), value.clone())).collect(),
            ..image.clone()
        })
    }

    /// Whether the run has published an image.
    pub fn has_published(&self) -> Result<bool> {
        Ok(self.known()?.iter().any(|one| one.tags.get(tags::STATE).is_some_and(|state| state == tags::PUBLISHED)))
    }

    /// Ids of one kind that the ledger has.
    pub fn known_ids(&self, kind: ResourceKind) -> Result<Vec<String>> {
        Ok(self.known()?.into_iter().filter(|resource| resource.kind == kind).map(|resource| resource.id).collect())
    }
}

/// What the ledger of a run has on this machine; nothing where it is another machine's run.
pub fn known_here(run: &str) -> Result<Vec<Resource>> {
    RunState { path: folder_of(run)?, run: run.to_owned() }.known()
}

/// Whether this machine has published this image, as one of this plan.
pub fn published_here(run: &str, image: &str, plan: &str) -> Result<bool> {
    let has = |resource: &Resource, tag: &str, value: &str| resource.tags.get(tag).is_some_and(|is| is == value);
    Ok(known_here(run)?.iter().any(|resource| {
        resource.id == image && has(resource, tags::PLAN, plan) && has(resource, tags::STATE, tags::PUBLISHED)
    }))
}

/// The ledger as it lies on the disk.
struct Ledger {
    /// Without a last line that is cut off.
    whole: Vec<u8>,
    /// The last line is whole, but for its line break.
    lacks_end: bool,
    /// The last line was cut off.
    is_cut: bool,
}
