//! Owns what becomes of a finished image: copies, tags, flags, sharing, the parameter that names it, and that all of it is
//! read back. Everything can be asked for again: what is there is found. Knows nothing of how the image was made.

mod check;
mod manifest;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub use check::{check, check_regions, is_region};
pub use manifest::manifest;

use super::make::thing;
use super::run::Folder;
use super::{sweep, tags};
use crate::cli::cloud::PublishArgs;
use crate::ec2::Aws;
use crate::ec2::model::{Image, Kind, Tags};
use crate::ec2::refusal::ApiError;
use crate::events::{Event, Talk};

/// For an image or a copy to be available: snapshots of large disks take long, across oceans longer.
const PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// How long an image that EC2 has named may be unknown to it, or not the same everywhere.
const SETTLES: Duration = Duration::from_secs(60);

/// How long EC2 and Parameter Store may take to show what they were just told.
const SHOWS: Duration = Duration::from_secs(30);

/// Reads in a row that must agree: answers may come from replicas of different age.
const READS: u32 = 3;
const BETWEEN_READS: Duration = Duration::from_secs(1);

/// Regions that are worked on at the same time.
const AT_ONCE: usize = 4;

/// An image as it is in one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    pub region: String,
    pub image: String,
    pub snapshots: Vec<String>,
}

/// What is done alike in every region, and the voice to say it with.
#[derive(Debug, Clone)]
struct Order {
    args: PublishArgs,
    run: String,
    ledger: Option<Folder>,
    source: Image,
    talk: Talk,
}

/// Copies, marks, shares and names an available image as asked. Returns where it is, its own region first. Asked again for
/// the same run it goes on, or finds everything done.
///
/// The tag `efa-gen:state` becomes `published` when all but the SSM parameter is done, the image itself first: what a crash
/// leaves besides are unfinished copies, which a sweep takes, and another build of the same plan makes again. A parameter
/// never names what a sweep would take.
///
/// The `ledger` is that of a run which is still at work.
///
/// Errors: each names region and image; where several regions fail, all of them are told.
pub async fn publish(
    aws: &Aws,
    image: &Image,
    args: &PublishArgs,
    (run, ledger): (&str, Option<&Folder>),
    talk: &Talk,
) -> Result<Vec<Copy>> {
    // The one given may be older than its tags and flags.
    let now = aws.image(&image.id).await.map_err(|error| error.about(&subject(aws, &image.id)))?;
    let mut source = now.unwrap_or_else(|| image.clone());
    // Tags of AWS's own can't be given.
    source.tags.retain(|key, _| !key.starts_with("aws:"));
    let (run, ledger) = (run.to_owned(), ledger.cloned());
    let order = Arc::new(Order { args: args.clone(), run, ledger, source, talk: talk.clone() });
    let mut places = vec![(aws.clone(), order.source.clone())];
    if !args.copy_to.is_empty() {
        talk.step(format!("Copy {} to {}", image.id, args.copy_to.join(", ")));
    }
    let copies = args.copy_to.iter().map(|region| {
        let (from, to, order) = (aws.clone(), aws.in_region(region), Arc::clone(&order));
        async move { Ok((to.clone(), order.copy(&from, &to).await?)) }
    });
    places.extend(in_parallel(copies.collect()).await?);
    talk.step(format!("Publish {} in {}", image.id, regions(&places)));
    note_keys(&places, args, talk);
    let prepared = places.iter().map(|(aws, image)| {
        let (aws, image, order) = (aws.clone(), image.clone(), Arc::clone(&order));
        async move { order.prepare(&aws, &image).await }
    });
    in_parallel(prepared.collect()).await?;
    for (aws, image) in &places {
        order.mark(aws, image).await?;
    }
    if let Some(name) = &args.ssm_parameter {
        for (aws, image) in &places {
            order.name(aws, &image.id, name).await?;
        }
    }
    let copy = |(aws, image): (Aws, Image)| Copy { region: aws.region, image: image.id, snapshots: image.snapshots };
    Ok(places.into_iter().map(copy).collect())
}

/// Launch permission is all that others need of an image with plain snapshots. Of an encrypted one they need its key, and
/// that is not ours to give.
fn note_keys(places: &[(Aws, Image)], args: &PublishArgs, talk: &Talk) {
    let encrypted: Vec<&(Aws, Image)> = places.iter().filter(|(_, image)| image.encrypted).collect();
    if args.share.is_empty() || encrypted.is_empty() {
        return;
    }
    let names: Vec<String> = encrypted.iter().map(|(aws, image)| format!("{} ({})", image.id, aws.region)).collect();
    talk.note(format!(
        "encrypted: {}; whoever it is shared with can launch it only if the KMS key's policy lets them use the key \
         (kms:DescribeKey, kms:ReEncrypt*, kms:CreateGrant, kms:Decrypt)",
        names.join(" ")
    ));
}

fn regions(places: &[(Aws, Image)]) -> String {
    places.iter().map(|(aws, _)| aws.region.as_str()).collect::<Vec<_>>().join(", ")
}

/// Waits until an image is available, and until that is said three times in a row with the same snapshots.
///
/// Errors: it failed, is not available after two hours, or AWS does not agree with itself for minutes.
pub async fn wait_until_believed(aws: &Aws, id: &str, talk: &Talk) -> Result<Image> {
    let said = |error: ApiError| error.about(&subject(aws, id));
    talk.step(format!("Wait for {id} in {} to be available", aws.region));
    let began = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(began.elapsed());
        match aws.wait_for_image(id, left).await {
            Ok(()) => break,
            // The waiter gives up on an image that EC2 does not know yet, or not everywhere.
            Err(error) if error.code == "TimedOut" && began.elapsed() < SETTLES => sleep(BETWEEN_READS).await,
            Err(error) => return Err(said(error)),
        }
    }
    let end = Instant::now() + SETTLES;
    let (mut reads, mut last) = (0, None::<Image>);
    while Instant::now() < end {
        let image = aws.image(id).await.map_err(said)?.filter(|image| image.state == "available");
        let same = matches!((&last, &image), (Some(one), Some(other)) if one.snapshots == other.snapshots);
        reads = match (&image, same) {
            (None, _) => 0,
            (Some(_), true) => reads + 1,
            (Some(_), false) => 1,
        };
        match image {
            Some(image) if reads == READS => return Ok(image),
            image => last = image,
        }
        sleep(BETWEEN_READS).await;
    }
    let text = format!("image {id} in {} was available, and then not always", aws.region);
    Err(Error::new(Class::Cloud, text)
        .hint("something else may work on it: build again when it is settled; a run kept by --on-error keep goes on"))
}

impl Order {
    /// The image in another region: found, or copied.
    async fn copy(&self, from: &Aws, to: &Aws) -> Result<Image> {
        let said = |error: ApiError| error.about(&format!("copy of image {} to {}", self.source.id, to.region));
        let id = match self.existing(to).await.map_err(said)? {
            Some(image) if image.state != "failed" => image.id,
            failed => {
                if let Some(failed) = &failed {
                    self.talk
                        .note(format!("an earlier copy to {} has failed and is made again: {}", to.region, failed.id));
                    to.remove(&sweep::image_of(failed, &to.region)).await.map_err(said)?;
                }
                let mut keys = self.args.copy_kms_key.iter().filter_map(|pair| pair.split_once('='));
                let key = keys.find(|(region, _)| *region == to.region).map(|(_, key)| key);
                let token = self.token(to, failed.as_ref());
                // Whatever happens to this run next, a sweep must not take the copy for a finished one.
                let mut unfinished = self.source.clone();
                unfinished.tags.insert(tags::STATE.into(), tags::BUILDING.into());
                let id = to.copy_image(from, &unfinished, &token, key).await.map_err(said)?;
                if let Some(folder) = &self.ledger {
                    folder.made(&thing(to, Kind::Image, &id, &self.run))?;
                }
                self.talk.emit(&Event::Made { kind: "image", id: id.clone() });
                id
            }
        };
        let mut image = wait_until_believed(to, &id, &self.talk).await?;
        // Early, so that whatever happens next the copy can be found.
        image.tags = self.tag(to, &image).await?;
        Ok(image)
    }

    /// Asked twice with it, EC2 answers with the copy that is there; after one that failed, or that was removed since the
    /// image was published, it must be another.
    fn token(&self, to: &Aws, failed: Option<&Image>) -> String {
        let token = format!("efa-gen-{}-{}", self.run, to.region);
        let again = self.source.tags.get(tags::STATE).is_some_and(|state| state == tags::PUBLISHED);
        match failed {
            Some(failed) => format!("{token}-{}", failed.id.trim_start_matches("ami-")),
            None if again => format!("{token}-{:x}", jiff::Timestamp::now().as_second()),
            None => token,
        }
    }

    /// What an earlier attempt of this run has copied; one that failed only if there is no other.
    async fn existing(&self, to: &Aws) -> std::result::Result<Option<Image>, ApiError> {
        let tag = format!("tag:{}", tags::RUN);
        let mut found = to.images(&["self"], &[(&tag, &self.run), ("name", &self.source.name)]).await?;
        found.retain(|image| ["pending", "available", "failed"].contains(&image.state.as_str()));
        found.sort_by_key(|image| image.state == "failed");
        Ok(found.into_iter().next())
    }

    /// Gives a copy the tags that it lacks, and its snapshots the same. Returns all its tags.
    async fn tag(&self, aws: &Aws, image: &Image) -> Result<Tags> {
        let mut all = image.tags.clone();
        // Its own state stays: it becomes `published` after everything else.
        let lacks = |(key, value): &(&String, &String)| *key != tags::STATE && image.tags.get(*key) != Some(*value);
        let mut missing: Tags =
            self.source.tags.iter().filter(lacks).map(|(key, value)| (key.clone(), value.clone())).collect();
        if !image.tags.contains_key(tags::STATE) {
            missing.insert(tags::STATE.into(), tags::BUILDING.into());
        }
        if !missing.is_empty() {
            put_tags(aws, image, &missing).await?;
            all.extend(missing);
        }
        Ok(all)
    }

    /// Everything in one region that comes before `published`, and a look whether it took.
    async fn prepare(&self, aws: &Aws, image: &Image) -> Result<()> {
        let id = image.id.as_str();
        let done = async || {
            if self.source.imds_v2 && !image.imds_v2 {
                aws.require_imds_v2(id).await?;
            }
            if let Some(time) = self.args.deprecate_at.as_deref().and_then(check::time) {
                aws.deprecate_image(id, &time.to_string()).await?;
            }
            if self.args.protect && !image.protection.starts_with("enabled") {
                aws.protect_image(id).await?;
            }
            if !self.args.share.is_empty() {
                aws.share_image(id, &self.args.share).await?;
            }
            Ok(())
        };
        done().await.map_err(|error: ApiError| error.about(&subject(aws, id)))?;
        let end = Instant::now() + SHOWS;
        loop {
            let lacking = self.lacks(aws, id).await.map_err(|error| error.about(&subject(aws, id)))?;
            if lacking.is_empty() {
                return Ok(());
            }
            pause(aws, id, &lacking, end).await?;
        }
    }

    /// What an image does not show yet of what it was given.
    async fn lacks(&self, aws: &Aws, id: &str) -> std::result::Result<Vec<String>, ApiError> {
        let Some(image) = aws.image(id).await? else { return Ok(vec!["the image itself".into()]) };
        let mut lacks = Vec::new();
        let mut want = |there: bool, what: &str| {
            if !there {
                lacks.push(what.to_owned());
            }
        };
        want(image.state == "available", "state available");
        want(image.ena == self.source.ena, "ENA support");
        want(image.imds_v2 || !self.source.imds_v2, "IMDSv2");
        want(image.boot_mode == self.source.boot_mode, "boot mode");
        want(self.args.deprecate_at.is_none() || !image.deprecated_at.is_empty(), "deprecation time");
        want(!self.args.protect || image.protection.starts_with("enabled"), "deregistration protection");
        if !self.args.share.is_empty() {
            let shared = aws.shared_with(id).await?;
            for who in &self.args.share {
                want(shared.contains(who), &format!("launch permission of {who}"));
            }
        }
        Ok(lacks)
    }

    /// Tags image and snapshots, this time all of them, and with the state that a sweep leaves alone.
    async fn mark(&self, aws: &Aws, image: &Image) -> Result<()> {
        let mut all = self.source.tags.clone();
        all.insert(tags::STATE.into(), tags::PUBLISHED.into());
        let there = all.iter().all(|(key, value)| image.tags.get(key) == Some(value));
        if there { Ok(()) } else { tag_and_see(aws, image, &all).await }
    }

    /// Lets the SSM parameter point at the image, and reads it back.
    async fn name(&self, aws: &Aws, image: &str, name: &str) -> Result<()> {
        let what = format!("SSM parameter {name} for image {image} in {}", aws.region);
        let said = |error: ApiError| error.about(&what);
        if aws.parameter(name).await.map_err(said)?.as_deref() == Some(image) {
            return Ok(());
        }
        aws.put_image_parameter(name, image).await.map_err(said)?;
        // Parameter Store looks whether the image is there before it shows the value, which may take a moment.
        let end = Instant::now() + SHOWS;
        loop {
            let value = aws.parameter(name).await.map_err(said)?;
            if value.as_deref() == Some(image) {
                self.talk.note(format!("SSM parameter {name} in {} is {image}", aws.region));
                return Ok(());
            }
            if Instant::now() > end {
                let shown = value.as_deref().unwrap_or("nothing");
                return Err(Error::new(Class::Cloud, format!("{what}: it was written, but shows {shown}")).hint(
                    "Parameter Store refuses an image that it can't see; does something else write this parameter?",
                ));
            }
            sleep(BETWEEN_READS).await;
        }
    }
}

/// Tags an image and its snapshots in one call.
async fn put_tags(aws: &Aws, image: &Image, tags: &Tags) -> Result<()> {
    let mut ids = vec![image.id.clone()];
    ids.extend(image.snapshots.iter().cloned());
    aws.tag(&ids, tags).await.map_err(|error| error.about(&subject(aws, &image.id)))
}

/// Tags an image and its snapshots, and waits until the image shows it: a clean-up goes by that.
pub async fn tag_and_see(aws: &Aws, image: &Image, tags: &Tags) -> Result<()> {
    put_tags(aws, image, tags).await?;
    let end = Instant::now() + SHOWS;
    loop {
        let shown = aws.image(&image.id).await.map_err(|error| error.about(&subject(aws, &image.id)))?;
        let shown = shown.map(|image| image.tags).unwrap_or_default();
        let missing = tags.iter().filter(|(key, value)| shown.get(*key) != Some(*value));
        let missing: Vec<String> = missing.map(|(key, _)| format!("tag {key}")).collect();
        if missing.is_empty() {
            return Ok(());
        }
        pause(aws, &image.id, &missing, end).await?;
    }
}

/// Waits before the next look at what AWS does not show yet; at the end of patience it is an error.
async fn pause(aws: &Aws, id: &str, lacking: &[String], end: Instant) -> Result<()> {
    if Instant::now() < end {
        sleep(BETWEEN_READS).await;
        return Ok(());
    }
    let text = format!("{} still lacks: {}", subject(aws, id), lacking.join(", "));
    Err(Error::new(Class::Cloud, text).hint("AWS took it, but does not show it: does something else change the image?"))
}

/// Which image an error is about.
fn subject(aws: &Aws, id: &str) -> String {
    format!("image {id} in {}", aws.region)
}

/// Runs all, some at once; the results come in the order of the work. All of them end before an error is told.
async fn in_parallel<T: Send + 'static>(work: Vec<impl Future<Output = Result<T>> + Send + 'static>) -> Result<Vec<T>> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (index, future) in work.into_iter().enumerate() {
        let room = Arc::clone(&room);
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = room.acquire_owned().await.ok();
            (index, future.await)
        });
    }
    let (mut done, mut failed) = (BTreeMap::new(), BTreeMap::new());
    while let Some(ended) = tasks.join_next().await {
        let (index, result) =
            ended.map_err(|error| Error::new(Class::Bug, "a task of ours ended early").because(error))?;
        match result {
            Ok(value) => drop(done.insert(index, value)),
            Err(error) => drop(failed.insert(index, error)),
        }
    }
    let mut failed = failed.into_values();
    let Some(first) = failed.next() else { return Ok(done.into_values().collect()) };
    let rest: Vec<String> = failed.map(|error| error.to_string()).collect();
    if rest.is_empty() {
        return Err(first);
    }
    let all = Error::new(first.class(), format!("{first}; {}", rest.join("; ")));
    Err(match first.hint_text() {
        Some(hint) => all.hint(hint),
        None => all,
    })
}
