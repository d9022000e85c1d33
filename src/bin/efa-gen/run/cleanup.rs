//! Owns how what a run left is found and removed, and that it is looked at again afterwards. The clean-up of a build
//! and `efa-gen sweep` are the same code.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::ownership::{Ownership, is_of};
use super::tags;
use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::model::{Image, Resource, ResourceKind, Tags};
use crate::aws::resources::snapshot_resource;
use crate::io::events::{Event, EventSink};
use crate::timeouts;

/// What a look at one region found.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// What is to go, in the order in which it is undone.
    pub left: Vec<Resource>,
    /// Why each of them counts as its run's, by id.
    pub evidence: BTreeMap<String, String>,
    /// Ids of images that are published, or kept to look into. They stay with their snapshots.
    pub kept: Vec<String>,
    /// What carries the tag of a run and is not the run's, with the reason. It is left alone.
    pub others: Vec<(Resource, String)>,
    /// Ids of images among `left` that are protected from deregistration.
    protected: BTreeSet<String>,
}

/// Whose resources are listed.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// Every run's.
    All,
    /// One run's.
    Run(&'a str),
    /// One run's, which is the cluster's of this name. A cluster makes no images.
    Cluster(&'a str, &'a str),
}

/// What one run, or any run, has left in a region. A finished image and its snapshots are no leftovers, nor is what only carries the
/// tag. `proven` are ids that a ledger has, or an earlier look has found to be the run's.
///
/// Errors: AWS refuses a listing.
pub async fn list(aws: &Aws, whose: Whose<'_>, proven: &BTreeSet<String>) -> Result<Leftovers> {
    let tag = format!("tag:{}", tags::RUN);
    let filter = match whose {
        Whose::Run(run) | Whose::Cluster(run, _) => (tag.as_str(), run),
        Whose::All => ("tag-key", tags::RUN),
    };
    let listed = async || Ok::<_, ApiError>((aws.resources(&[filter]).await?, aws.images(&["self"], &[filter]).await?));
    let (resources, images) = listed().await.map_err(|error| error.context(&aws.region))?;
    let unfinished = images.iter().filter(|image| !is_finished(&image.tags)).flat_map(|image| &image.snapshots);
    let untagged = unfinished.filter(|id| !resources.iter().any(|resource| resource.id == **id)).cloned();
    let untagged = aws.snapshots(&untagged.collect::<Vec<_>>()).await.map_err(|error| error.context(&aws.region))?;
    Ok(sort_out(resources, &images, &untagged, whose, proven))
}

/// Tells leftovers from finished images, and both from what others have made.
fn sort_out(
    resources: Vec<Resource>,
    images: &[Image],
    untagged: &[Resource],
    whose: Whose,
    proven: &BTreeSet<String>,
) -> Leftovers {
    let mut ownership = Ownership::new(proven.iter().cloned());
    let finished = images.iter().filter(|image| is_finished(&image.tags));
    let stay: BTreeSet<&String> = finished.flat_map(|image| &image.snapshots).collect();
    let mut found = Leftovers::default();
    let mut going = Vec::new();
    for resource in resources.into_iter().filter(|resource| !is_ending(resource)) {
        let proof = match of_cluster(&resource, whose) {
            Ok(()) => ownership.of(&resource, images),
            Err(why) => Err(why),
        };
        match (proof, resource.kind) {
            // A snapshot keeps its own tag when an image of the user's own is made of it.
            (_, ResourceKind::Snapshot) if is_finished(&resource.tags) || stay.contains(&resource.id) => {}
            (Err(why), _) => found.others.push((resource, why)),
            (Ok(_), ResourceKind::Image) if is_finished(&resource.tags) => found.kept.push(resource.id),
            (Ok(why), kind) => {
                if kind == ResourceKind::Image {
                    going.extend(images.iter().filter(|image| image.id == resource.id));
                }
                found.evidence.insert(resource.id.clone(), why);
                found.left.push(resource);
            }
        }
    }
    for image in going {
        if image.protection.starts_with("enabled") {
            found.protected.insert(image.id.clone());
        }
        // A copy that was cut off may have snapshots without tags.
        for snapshot in untagged.iter().filter(|one| image.snapshots.contains(&one.id) && !stay.contains(&one.id)) {
            if is_of(snapshot, &image.id) {
                found.evidence.insert(snapshot.id.clone(), format!("of image {}", image.id));
                found.left.push(snapshot_resource(image, &snapshot.id, &snapshot.region));
            } else {
                found.others.push((snapshot.clone(), format!("EC2 did not make it for image {}", image.id)));
            }
        }
    }
    found.left.sort_by_key(|resource| resource.kind);
    found
}

/// Whether a cluster can have made it, where it is one's clean-up.
fn of_cluster(resource: &Resource, whose: Whose) -> std::result::Result<(), String> {
    let Whose::Cluster(_, name) = whose else { return Ok(()) };
    if [ResourceKind::Image, ResourceKind::Snapshot].contains(&resource.kind) {
        return Err("a cluster makes none".to_owned());
    }
    match resource.tags.get(tags::CLUSTER) {
        Some(cluster) if cluster == name => Ok(()),
        _ => Err(format!("it is not cluster {name}'s by its tag {}", tags::CLUSTER)),
    }
}

/// Whether an image with these tags is finished, well or badly.
fn is_finished(tags: &Tags) -> bool {
    tags.get(tags::STATE).is_some_and(|state| [tags::PUBLISHED, tags::REFUSED].contains(&state.as_str()))
}

/// What is said of a resource that only carries the tag.
pub fn left_alone(resource: &Resource, why: &str) -> String {
    let name = resource.tags.get("Name").map_or(String::new(), |name| format!(" ({name})"));
    let kind = resource.kind.name();
    format!("{kind} {}{name} in {} only carries the tag, and is left alone: {why}", resource.id, resource.region)
}

/// Whether it is on its way out already and needs no help.
fn is_ending(resource: &Resource) -> bool {
    resource.kind != ResourceKind::Instance
        && ["deleting", "deleted", "deregistered"].contains(&resource.state.as_str())
}

/// What of a run is to be removed.
pub struct Cleanup<'a> {
    /// One of the regions to look in; the run's own.
    pub aws: &'a Aws,
    pub run: &'a str,
    /// Name of the cluster, where the run is a cluster's.
    pub cluster: Option<&'a str>,
    pub events: &'a EventSink,
    /// Further regions.
    pub regions: &'a [String],
    /// The run's ledger: a listing may not show yet what was just made.
    pub known: &'a [Resource],
    /// Ids of images and snapshots that stay for certain, whatever a listing that lags behind says of their state. Without
    /// any the run has failed, and an empty listing is asked for once more.
    pub keep: BTreeSet<String>,
}

/// Removes what a run made, instances first, and looks again. A finished image stays. Returns what is still there; why was
/// said. It finds resources by the run's tag in every region, and wherever the ledger has something.
///
/// A second signal to the process ends it, if the signals are given.
///
/// Errors: AWS refuses a listing; the second signal, with what of the ledger nobody has seen go. What can't be removed is no
/// error here.
pub async fn clean_up(of: Cleanup<'_>, signals: Option<&mut watch::Receiver<u32>>) -> Result<Vec<Resource>> {
    let Cleanup { aws, run, cluster, events, regions, known, keep } = of;
    let whose = cluster.map_or(Whose::Run(run), |name| Whose::Cluster(run, name));
    let mut all = BTreeSet::from([aws.region.as_str()]);
    all.extend(regions.iter().map(String::as_str));
    all.extend(known.iter().map(|resource| resource.region.as_str()));
    let known_ids: BTreeSet<String> = known.iter().map(|resource| resource.id.clone()).collect();
    let gone = RefCell::default();
    let every_region = async {
        let mut left = Vec::new();
        for region in all {
            let goes = |resource: &&Resource| resource.region == region && !keep.contains(&resource.id);
            let known = known.iter().filter(goes).cloned().collect();
            let aws = &aws.in_region(region);
            let proven = known_ids.clone();
            let cleanup =
                RegionCleanup { aws, whose, events, keep: &keep, proven, refusals: BTreeMap::new(), gone: &gone };
            left.extend(cleanup.run(known).await?);
        }
        Ok(left)
    };
    let Some(signals) = signals else { return every_region.await };
    tokio::select! {
        left = every_region => left,
        () = second_signal(signals, events) => Err(unfinished(known, &keep, &gone.borrow())),
    }
}

/// Ends when a second signal asks to leave the rest. A first one that comes only now asks for what is being done.
pub async fn second_signal(signals: &mut watch::Receiver<u32>, events: &EventSink) {
    let mut count = *signals.borrow_and_update();
    while count < 2 {
        if signals.changed().await.is_err() {
            return std::future::pending().await;
        }
        count = *signals.borrow_and_update();
        if count == 1 {
            events.note("interrupted: the clean-up goes on; once more leaves the rest");
        }
    }
}

/// Waits until nothing is being launched: then what EC2 launched is in the ledger. False if a second signal came first.
pub async fn wait_for_launch(
    launch_in_flight: &Mutex<()>,
    signals: &mut watch::Receiver<u32>,
    events: &EventSink,
    rest: &str,
) -> bool {
    tokio::select! {
        _ = launch_in_flight.lock() => true,
        () = second_signal(signals, events) => {
            events.note(format!("interrupted again while EC2 launches: {rest} it"));
            false
        }
    }
}

/// The clean-up of one run in one region.
struct RegionCleanup<'a> {
    aws: &'a Aws,
    whose: Whose<'a>,
    events: &'a EventSink,
    /// Ids of images and snapshots that stay.
    keep: &'a BTreeSet<String>,
    /// Ids of the ledger, and of what was once seen to be the run's: an image that is gone proves its snapshots no more.
    proven: BTreeSet<String>,
    /// What AWS said last of a thing that it did not remove.
    refusals: BTreeMap<String, ApiError>,
    /// Ids of what was seen to end, or to stay; a listing that lags behind is no reason to say it twice.
    gone: &'a RefCell<BTreeSet<String>>,
}

impl RegionCleanup<'_> {
    async fn run(mut self, known: Vec<Resource>) -> Result<Vec<Resource>> {
        let mut found = self.list().await?;
        if found.left.is_empty() && self.keep.is_empty() {
            sleep(timeouts::LISTED).await;
            found = self.list().await?;
        }
        let mut unlisted = self.unlisted(known, &mut found).await?;
        for pause in timeouts::LOOKS_AGAIN.map(Some).into_iter().chain([None]) {
            if found.left.is_empty() && unlisted.is_empty() {
                self.note_others(&found.others);
                return Ok(Vec::new());
            }
            self.remove(&found).await;
            self.remove_unlisted(&mut unlisted).await;
            found = self.list().await?;
            let waiting = found.left.iter().chain(&unlisted).any(|resource| !self.is_denied(resource));
            match pause {
                Some(pause) if waiting => sleep(pause).await,
                _ => break,
            }
        }
        self.note_others(&found.others);
        // What no listing shows and no call finds after this long is gone.
        found.left.extend(unlisted.into_iter().filter(|resource| self.refusals.contains_key(&resource.id)));
        for resource in &found.left {
            let why = self.refusals.get(&resource.id).map_or("it is still listed".to_owned(), ToString::to_string);
            self.events.note(format!(
                "{} {} in {} is still there: {why}",
                resource.kind.name(),
                resource.id,
                resource.region
            ));
        }
        Ok(found.left)
    }

    async fn list(&mut self) -> Result<Leftovers> {
        let mut found = list(self.aws, self.whose, &self.proven).await?;
        found.left.retain(|resource| !self.keep.contains(&resource.id));
        self.proven.extend(found.left.iter().map(|resource| resource.id.clone()));
        Ok(found)
    }

    /// Says what carries the run's tag and stays because the run has not made it.
    fn note_others(&self, others: &[(Resource, String)]) {
        for (resource, why) in others.iter().filter(|(resource, _)| !self.keep.contains(&resource.id)) {
            self.events.note(left_alone(resource, why));
        }
    }

    /// The known things that the listing does not show, less those that are known to be over or to stay.
    async fn unlisted(&self, known: Vec<Resource>, found: &mut Leftovers) -> Result<Vec<Resource>> {
        let mut unlisted: Vec<Resource> = Vec::new();
        for resource in known {
            let again = found.left.iter().chain(&unlisted).any(|seen| seen.id == resource.id);
            if again {
                continue;
            }
            if found.kept.contains(&resource.id) || self.has_ended(&resource).await? {
                self.gone.borrow_mut().insert(resource.id);
                continue;
            }
            unlisted.push(resource);
        }
        Ok(unlisted)
    }

    /// Whether a known thing has ended, or stays.
    async fn has_ended(&self, resource: &Resource) -> Result<bool> {
        let asked = async || match resource.kind {
            ResourceKind::Instance => {
                Ok(self.aws.instance(&resource.id).await?.is_some_and(|found| found.state == "terminated"))
            }
            ResourceKind::Image => {
                Ok(self.aws.image(&resource.id).await?.is_some_and(|image| is_finished(&image.tags)))
            }
            _ => Ok(false),
        };
        asked().await.map_err(|error: ApiError| error.context(&resource.id))
    }

    /// One round over everything; what is refused is kept for the end.
    async fn remove(&mut self, found: &Leftovers) {
        let (instances, rest): (Vec<&Resource>, Vec<&Resource>) =
            found.left.iter().partition(|resource| resource.kind == ResourceKind::Instance);
        self.terminate(&instances).await;
        // An instance that may not be ended lets go of nothing, however long one waits.
        let held = instances.iter().any(|resource| self.is_denied(resource));
        let patience = Instant::now() + if held { Duration::ZERO } else { timeouts::RELEASED };
        // A volume goes with its instance, which a listing shows late; only one that stays behind is removed by a call, which not
        // every policy allows.
        let detached = |resource: &&Resource| resource.kind != ResourceKind::Volume || resource.state != "in-use";
        for resource in rest.into_iter().filter(detached) {
            if found.protected.contains(&resource.id)
                && let Err(error) = self.aws.unprotect_image(&resource.id).await
            {
                self.refusals.insert(resource.id.clone(), error);
                continue;
            }
            let done = remove_patiently(self.aws, resource, patience).await;
            self.note(resource, done.map(|_| true));
        }
    }

    /// Terminates all at once and waits once. Where one of them spoils the call, each alone.
    async fn terminate(&mut self, instances: &[&Resource]) {
        if instances.is_empty() {
            return;
        }
        self.events.step("Terminate what still runs, and wait for it");
        let ids: Vec<String> = instances.iter().map(|resource| resource.id.clone()).collect();
        let done = self.aws.terminate(&ids, timeouts::TERMINATION).await.map(|()| true);
        if done.as_ref().map_or_else(|error| error.code == "TimedOut", |_| true) {
            for resource in instances {
                self.note(resource, done.clone());
            }
            return;
        }
        for resource in instances {
            let done = self.aws.terminate(std::slice::from_ref(&resource.id), timeouts::TERMINATION).await;
            self.note(resource, done.map(|()| true));
        }
    }

    /// Tries what no listing shows. What AWS does not know stays in the list: it may be too new.
    async fn remove_unlisted(&mut self, unlisted: &mut Vec<Resource>) {
        let patience = Instant::now() + timeouts::RELEASED;
        let mut still = Vec::new();
        for resource in unlisted.drain(..) {
            let done = match resource.kind {
                ResourceKind::Instance => {
                    match self.aws.terminate(std::slice::from_ref(&resource.id), timeouts::TERMINATION).await {
                        Err(error) if error.is_not_found() => Ok(false),
                        other => other.map(|()| true),
                    }
                }
                _ => remove_patiently(self.aws, &resource, patience).await,
            };
            if !matches!(done, Ok(true)) {
                still.push(resource.clone());
            }
            self.note(&resource, done);
        }
        *unlisted = still;
    }

    /// Whether AWS would say the same again, however long one waits.
    fn is_denied(&self, resource: &Resource) -> bool {
        self.refusals.get(&resource.id).is_some_and(ApiError::is_denied)
    }

    /// Keeps what came of one removal, and says it once.
    fn note(&mut self, resource: &Resource, done: std::result::Result<bool, ApiError>) {
        match done {
            Ok(true) => {
                self.refusals.remove(&resource.id);
                if self.gone.borrow_mut().insert(resource.id.clone()) {
                    self.events.emit(&Event::Removed { kind: resource.kind.name(), id: resource.id.clone() });
                }
            }
            Ok(false) => {
                self.refusals.remove(&resource.id);
            }
            Err(error) => {
                self.refusals.insert(resource.id.clone(), error);
            }
        }
    }
}

/// Removes a thing, again while something that is going away still uses it. Says whether it was there.
async fn remove_patiently(aws: &Aws, resource: &Resource, end: Instant) -> std::result::Result<bool, ApiError> {
    loop {
        match aws.remove(resource).await {
            Err(error) if error.is_in_use() && Instant::now() < end => sleep(timeouts::RELEASED_EVERY).await,
            other => return other,
        }
    }
}

/// The error of a clean-up that was interrupted.
fn unfinished(known: &[Resource], done: &BTreeSet<String>, gone: &BTreeSet<String>) -> Error {
    let left = known.iter().filter(|resource| !done.contains(&resource.id) && !gone.contains(&resource.id));
    let names: BTreeSet<String> =
        left.map(|resource| format!("{} {} ({})", resource.kind.name(), resource.id, resource.region)).collect();
    let left = match (names.is_empty(), known.is_empty()) {
        (_, true) => "what was made is not known here".to_owned(),
        (true, false) => "of what is known, all is gone".to_owned(),
        (false, false) => format!("not seen to go: {}", names.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Error::new(Class::Interrupted, format!("interrupted again: the clean-up is not finished; {left}"))
}

/// The error of a clean-up that left something.
pub fn still_there(left: &[Resource]) -> Error {
    let names: Vec<String> = left.iter().map(|resource| format!("{} ({})", resource.id, resource.region)).collect();
    let count = if left.len() == 1 { "1 thing is".to_owned() } else { format!("{} things are", left.len()) };
    Error::new(Class::Cloud, format!("{count} still there: {}", names.join(", ")))
        .hint("the notes say why; `efa-gen sweep` tries again, and what something else uses goes only after that")
}
