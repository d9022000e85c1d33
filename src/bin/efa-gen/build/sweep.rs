//! Owns how what a run left is found and removed, and that it is looked at again afterwards. The clean-up of a build and
//! `efa-gen sweep` are the same code. Knows nothing of ages: who calls decides which run is dead.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::tags;
use crate::ec2::Aws;
use crate::ec2::model::{Image, Kind, Tags, Thing};
use crate::ec2::refusal::ApiError;
use crate::events::{Event, Talk};

/// From TerminateInstances to `terminated`; machines with GPUs take minutes.
const TERMINATES: Duration = Duration::from_secs(15 * 60);

/// How long a security group may still be in use by interfaces that are going away.
const LETS_GO: Duration = Duration::from_secs(120);

/// Before an empty listing after a failure is believed: what was asked for last may not be listed yet.
const SETTLES: Duration = Duration::from_secs(4);

/// Pause between two tries at something that is still in use.
const BETWEEN_TRIES: Duration = Duration::from_secs(3);

/// Pauses before each further look, in seconds: listings lag behind what was done, and a snapshot may appear after its
/// image went.
const LOOKS_AGAIN: [u64; 3] = [2, 4, 8];

/// What a look at one region found.
#[derive(Debug, Default)]
pub struct Found {
    /// What is to go, in the order in which it is undone.
    pub left: Vec<Thing>,
    /// Ids of images that are published, or kept to look into. They stay with their snapshots.
    pub kept: Vec<String>,
    /// Ids of images among `left` that are protected from deregistration.
    protected: BTreeSet<String>,
}

/// What one run, or any run, has left in a region. A finished image and its snapshots are no leftovers.
///
/// Errors: AWS refuses a listing.
pub async fn look(aws: &Aws, run: Option<&str>) -> Result<Found> {
    let tag = format!("tag:{}", tags::RUN);
    let filter = match run {
        Some(run) => (tag.as_str(), run),
        None => ("tag-key", tags::RUN),
    };
    let listed = async || Ok::<_, ApiError>((aws.things(&[filter]).await?, aws.images(&["self"], &[filter]).await?));
    let (things, images) = listed().await.map_err(|error| error.about(&aws.region))?;
    Ok(sort_out(things, &images, &aws.region))
}

/// Tells leftovers from finished images.
fn sort_out(things: Vec<Thing>, images: &[Image], region: &str) -> Found {
    let (kept, going): (Vec<&Image>, Vec<&Image>) = images.iter().partition(|image| stays(&image.tags));
    let snapshots: BTreeSet<&String> = kept.iter().flat_map(|image| &image.snapshots).collect();
    let mut found = Found::default();
    for thing in things.into_iter().filter(|thing| !is_ending(thing)) {
        match thing.kind {
            Kind::Image if stays(&thing.tags) => found.kept.push(thing.id),
            // A snapshot keeps its own tag when an image of the user's own is made of it.
            Kind::Snapshot if stays(&thing.tags) || snapshots.contains(&thing.id) => {}
            _ => found.left.push(thing),
        }
    }
    for image in going {
        if image.protection.starts_with("enabled") {
            found.protected.insert(image.id.clone());
        }
        // A copy that was cut off may have snapshots without tags.
        for id in image.snapshots.iter().filter(|id| !snapshots.contains(id)) {
            if !found.left.iter().any(|thing| thing.id == *id) {
                found.left.push(snapshot_of(image, id, region));
            }
        }
    }
    found.left.sort_by_key(|thing| thing.kind);
    found
}

/// Whether an image with these tags is finished, well or badly.
fn stays(tags: &Tags) -> bool {
    tags.get(tags::STATE).is_some_and(|state| [tags::PUBLISHED, tags::REFUSED].contains(&state.as_str()))
}

/// Whether it is on its way out already and needs no help.
fn is_ending(thing: &Thing) -> bool {
    thing.kind != Kind::Instance && ["deleting", "deleted", "deregistered"].contains(&thing.state.as_str())
}

/// An image as a thing of its region.
pub fn image_of(image: &Image, region: &str) -> Thing {
    let name = image.name.clone();
    Thing { kind: Kind::Image, name, ..snapshot_of(image, &image.id, region) }
}

/// A snapshot as its image has it.
pub fn snapshot_of(image: &Image, id: &str, region: &str) -> Thing {
    Thing {
        region: region.to_owned(),
        kind: Kind::Snapshot,
        id: id.to_owned(),
        name: String::new(),
        state: String::new(),
        created: image.created.clone(),
        tags: image.tags.clone(),
    }
}

/// Removes what a run made, instances first, and looks again. A finished image stays. Returns what is still there; why was
/// said.
///
/// It finds things by their tag, in the region of `aws`, in those that it `also` is to look in, and wherever `known` has
/// something: the run's own ledger, because a listing may not show yet what was just made.
///
/// `done` are the images, and their snapshots, that stay for certain, whatever a listing that lags behind says of their
/// state; without any, the run has failed, and an empty listing is asked for once more.
///
/// A second signal to the process ends it, if the signals are given.
///
/// Errors: AWS refuses a listing; the second signal, with what of `known` nobody has seen go. What can't be removed is no
/// error here.
pub async fn undo(
    aws: &Aws,
    run: &str,
    also: &[String],
    known: &[Thing],
    done: BTreeSet<String>,
    talk: &Talk,
    signals: Option<&mut watch::Receiver<u32>>,
) -> Result<Vec<Thing>> {
    let mut regions = BTreeSet::from([aws.region.as_str()]);
    regions.extend(also.iter().map(String::as_str));
    regions.extend(known.iter().map(|thing| thing.region.as_str()));
    let gone = RefCell::default();
    let every_region = async {
        let mut left = Vec::new();
        for region in regions {
            let goes = |thing: &&Thing| thing.region == region && !done.contains(&thing.id);
            let known = known.iter().filter(goes).cloned().collect();
            let aws = &aws.in_region(region);
            let undo = Undo { aws, run, talk, done: &done, refusals: BTreeMap::new(), gone: &gone };
            left.extend(undo.run(known).await?);
        }
        Ok(left)
    };
    let Some(signals) = signals else { return every_region.await };
    tokio::select! {
        left = every_region => left,
        () = asked_to_leave(signals, talk) => Err(unfinished(known, &done, &gone.borrow())),
    }
}

/// Ends when a second signal asks to leave the rest. A first one that comes only now asks for what is being done.
pub async fn asked_to_leave(signals: &mut watch::Receiver<u32>, talk: &Talk) {
    let mut count = *signals.borrow_and_update();
    while count < 2 {
        if signals.changed().await.is_err() {
            return std::future::pending().await;
        }
        count = *signals.borrow_and_update();
        if count == 1 {
            talk.note("interrupted: the clean-up goes on; once more leaves the rest");
        }
    }
}

/// Waits until nothing is being launched: then what EC2 launched is in the ledger. False if a second signal came first.
pub async fn answered(asking: &Mutex<()>, signals: &mut watch::Receiver<u32>, talk: &Talk, rest: &str) -> bool {
    tokio::select! {
        _ = asking.lock() => true,
        () = asked_to_leave(signals, talk) => {
            talk.note(format!("interrupted again while EC2 launches: {rest} it"));
            false
        }
    }
}

/// The clean-up of one run in one region.
struct Undo<'a> {
    aws: &'a Aws,
    run: &'a str,
    talk: &'a Talk,
    /// Ids of images and snapshots that stay.
    done: &'a BTreeSet<String>,
    /// What AWS said last of a thing that it did not remove.
    refusals: BTreeMap<String, ApiError>,
    /// Ids of what was seen to end, or to stay; a listing that lags behind is no reason to say it twice.
    gone: &'a RefCell<BTreeSet<String>>,
}

impl Undo<'_> {
    async fn run(mut self, known: Vec<Thing>) -> Result<Vec<Thing>> {
        let mut found = self.look().await?;
        if found.left.is_empty() && self.done.is_empty() {
            sleep(SETTLES).await;
            found = self.look().await?;
        }
        let mut unseen = self.unseen(known, &mut found).await?;
        for pause in LOOKS_AGAIN.map(Duration::from_secs).map(Some).into_iter().chain([None]) {
            if found.left.is_empty() && unseen.is_empty() {
                return Ok(Vec::new());
            }
            self.remove(&found).await;
            self.remove_unseen(&mut unseen).await;
            found = self.look().await?;
            let waiting = found.left.iter().chain(&unseen).any(|thing| !self.is_denied(thing));
            match pause {
                Some(pause) if waiting => sleep(pause).await,
                _ => break,
            }
        }
        // What no listing shows and no call finds after this long is gone.
        found.left.extend(unseen.into_iter().filter(|thing| self.refusals.contains_key(&thing.id)));
        for thing in &found.left {
            let why = self.refusals.get(&thing.id).map_or("it is still listed".to_owned(), ToString::to_string);
            self.talk.note(format!("{} {} in {} is still there: {why}", thing.kind.name(), thing.id, thing.region));
        }
        Ok(found.left)
    }

    async fn look(&self) -> Result<Found> {
        let mut found = look(self.aws, Some(self.run)).await?;
        found.left.retain(|thing| !self.done.contains(&thing.id));
        Ok(found)
    }

    /// The known things that the listing does not show, less those that are known to be over or to stay.
    async fn unseen(&self, known: Vec<Thing>, found: &mut Found) -> Result<Vec<Thing>> {
        let mut unseen: Vec<Thing> = Vec::new();
        for thing in known {
            let again = found.left.iter().chain(&unseen).any(|seen| seen.id == thing.id);
            if again {
                continue;
            }
            if found.kept.contains(&thing.id) || self.is_over(&thing).await? {
                self.gone.borrow_mut().insert(thing.id);
                continue;
            }
            unseen.push(thing);
        }
        Ok(unseen)
    }

    /// Whether a known thing has ended, or stays.
    async fn is_over(&self, thing: &Thing) -> Result<bool> {
        let asked = async || match thing.kind {
            Kind::Instance => Ok(self.aws.instance(&thing.id).await?.is_some_and(|found| found.state == "terminated")),
            Kind::Image => Ok(self.aws.image(&thing.id).await?.is_some_and(|image| stays(&image.tags))),
            _ => Ok(false),
        };
        asked().await.map_err(|error: ApiError| error.about(&thing.id))
    }

    /// One round over everything; what is refused is kept for the end.
    async fn remove(&mut self, found: &Found) {
        let (instances, rest): (Vec<&Thing>, Vec<&Thing>) =
            found.left.iter().partition(|thing| thing.kind == Kind::Instance);
        self.terminate(&instances).await;
        let patience = Instant::now() + LETS_GO;
        for thing in rest {
            if found.protected.contains(&thing.id)
                && let Err(error) = self.aws.unprotect_image(&thing.id).await
            {
                self.refusals.insert(thing.id.clone(), error);
                continue;
            }
            let done = remove_patiently(self.aws, thing, patience).await;
            self.note(thing, done.map(|_| true));
        }
    }

    /// Terminates all at once and waits once. Where one of them spoils the call, each alone.
    async fn terminate(&mut self, instances: &[&Thing]) {
        if instances.is_empty() {
            return;
        }
        self.talk.step("Terminate what still runs, and wait for it");
        let ids: Vec<String> = instances.iter().map(|thing| thing.id.clone()).collect();
        let done = self.aws.terminate(&ids, TERMINATES).await.map(|()| true);
        if done.as_ref().map_or_else(|error| error.code == "TimedOut", |_| true) {
            for thing in instances {
                self.note(thing, done.clone());
            }
            return;
        }
        for thing in instances {
            let done = self.aws.terminate(std::slice::from_ref(&thing.id), TERMINATES).await;
            self.note(thing, done.map(|()| true));
        }
    }

    /// Tries what no listing shows. What AWS does not know stays in the list: it may be too new.
    async fn remove_unseen(&mut self, unseen: &mut Vec<Thing>) {
        let patience = Instant::now() + LETS_GO;
        let mut still = Vec::new();
        for thing in unseen.drain(..) {
            let done = match thing.kind {
                Kind::Instance => match self.aws.terminate(std::slice::from_ref(&thing.id), TERMINATES).await {
                    Err(error) if error.is_not_found() => Ok(false),
                    other => other.map(|()| true),
                },
                _ => remove_patiently(self.aws, &thing, patience).await,
            };
            if !matches!(done, Ok(true)) {
                still.push(thing.clone());
            }
            self.note(&thing, done);
        }
        *unseen = still;
    }

    /// Whether AWS would say the same again, however long one waits.
    fn is_denied(&self, thing: &Thing) -> bool {
        self.refusals.get(&thing.id).is_some_and(ApiError::is_denied)
    }

    /// Keeps what came of one removal, and says it once.
    fn note(&mut self, thing: &Thing, done: std::result::Result<bool, ApiError>) {
        match done {
            Ok(true) => {
                self.refusals.remove(&thing.id);
                if self.gone.borrow_mut().insert(thing.id.clone()) {
                    self.talk.emit(&Event::Removed { kind: thing.kind.name(), id: thing.id.clone() });
                }
            }
            Ok(false) => {
                self.refusals.remove(&thing.id);
            }
            Err(error) => {
                self.refusals.insert(thing.id.clone(), error);
            }
        }
    }
}

/// Removes a thing, again while something that is going away still uses it. Says whether it was there.
async fn remove_patiently(aws: &Aws, thing: &Thing, end: Instant) -> std::result::Result<bool, ApiError> {
    loop {
        match aws.remove(thing).await {
            Err(error) if error.is_in_use() && Instant::now() < end => sleep(BETWEEN_TRIES).await,
            other => return other,
        }
    }
}

/// The error of a clean-up that was interrupted.
fn unfinished(known: &[Thing], done: &BTreeSet<String>, gone: &BTreeSet<String>) -> Error {
    let left = known.iter().filter(|thing| !done.contains(&thing.id) && !gone.contains(&thing.id));
    let names: BTreeSet<String> =
        left.map(|thing| format!("{} {} ({})", thing.kind.name(), thing.id, thing.region)).collect();
    let left = match (names.is_empty(), known.is_empty()) {
        (_, true) => "what was made is not known here".to_owned(),
        (true, false) => "of what is known, all is gone".to_owned(),
        (false, false) => format!("not seen to go: {}", names.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Error::new(Class::Interrupted, format!("interrupted again: the clean-up is not finished; {left}"))
}

/// The error of a clean-up that left something.
pub fn still_there(left: &[Thing]) -> Error {
    let names: Vec<String> = left.iter().map(|thing| format!("{} ({})", thing.id, thing.region)).collect();
    let count = if left.len() == 1 { "1 thing is".to_owned() } else { format!("{} things are", left.len()) };
    Error::new(Class::Cloud, format!("{count} still there: {}", names.join(", ")))
        .hint("the notes say why; `efa-gen sweep` tries again, and what something else uses goes only after that")
}
