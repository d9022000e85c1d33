//! Owns what becomes of a finished image: copies, tags, flags, sharing, the parameter that names it, and that all of it
//! is read back. Everything can be asked for again: what is there is found.

pub mod check;

use std::future::Future;

use efa_gen::error::{Class, Error, Result};
use serde::Serialize;
use tokio::time::{Instant, sleep};

pub use self::check::{check, check_regions};

use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::model::{Image, Resource, ResourceKind, Tags};
use crate::aws::resources::image_resource;
use crate::cli::cloud::PublishArgs;
use crate::cli::time::instant;
use crate::io::concurrency::map_concurrent;
use crate::io::events::{Event, EventSink};
use crate::io::wait;
use crate::run::id::began;
use crate::run::ledger::known_here;
use crate::run::resources::resource;
use crate::run::state::RunState;
use crate::run::{ownership, tags};
use crate::timeouts;

/// Reads in a row that must agree: answers may come from replicas of different age.
const READS: u32 = 3;

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
#[derive(Debug)]
struct PublishJob<'a> {
    args: &'a PublishArgs,
    run: &'a str,
    /// Of a run that is still at work.
    ledger: Option<&'a RunState>,
    source: Image,
    events: &'a EventSink,
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
    run: &str,
    ledger: Option<&RunState>,
    events: &EventSink,
) -> Result<Vec<Copy>> {
    // The one given may be older than its tags and flags.
    let now = aws.image(&image.id).await.map_err(|error| error.context(&subject(aws, &image.id)))?;
    let mut source = now.unwrap_or_else(|| image.clone());
    // Tags of AWS's own can't be given.
    source.tags.retain(|key, _| !key.starts_with("aws:") && key != tags::UNTIL);
    let job = PublishJob { args, run, ledger, source, events };
    let mut places = vec![(aws.clone(), job.source.clone())];
    if !args.copy_to.is_empty() {
        events.step(format!("Copy {} to {}", image.id, args.copy_to.join(", ")));
    }
    let copies = args.copy_to.iter().map(async |region| {
        let to = aws.in_region(region);
        let copy = job.copy(aws, &to).await?;
        Ok((to, copy))
    });
    places.extend(in_parallel(copies.collect()).await?);
    events.step(format!("Publish {} in {}", image.id, regions(&places)));
    note_keys(&places, args, events);
    in_parallel(places.iter().map(|(aws, image)| job.prepare(aws, image)).collect()).await?;
    for (aws, image) in &places {
        job.mark(aws, image).await?;
        if let Some(ledger) = ledger {
            let tags = job.published_tags();
            ledger.record_published(&Resource { tags, ..image_resource(image, &aws.region) })?;
        }
    }
    if let Some(name) = &args.ssm_parameter {
        for (aws, image) in &places {
            job.name(aws, &image.id, name).await?;
        }
    }
    let copy = |(aws, image): (Aws, Image)| Copy { region: aws.region, image: image.id, snapshots: image.snapshots };
    Ok(places.into_iter().map(copy).collect())
}

/// Launch permission is all that others need of an image with plain snapshots. Of an encrypted one they need its key, and
/// that is not ours to give.
fn note_keys(places: &[(Aws, Image)], args: &PublishArgs, events: &EventSink) {
    let encrypted: Vec<&(Aws, Image)> = places.iter().filter(|(_, image)| image.encrypted).collect();
    if args.share.is_empty() || encrypted.is_empty() {
        return;
    }
    let names: Vec<String> = encrypted.iter().map(|(aws, image)| format!("{} ({})", image.id, aws.region)).collect();
    events.note(format!(
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
pub async fn wait_until_consistent(aws: &Aws, id: &str, events: &EventSink) -> Result<Image> {
    let in_context = |error: ApiError| error.context(&subject(aws, id));
    events.step(format!("Wait for {id} in {} to be available", aws.region));
    let began = Instant::now();
    loop {
        let left = timeouts::IMAGE_AVAILABLE.saturating_sub(began.elapsed());
        match aws.wait_for_image(id, left).await {
            Ok(()) => break,
            // The waiter gives up on an image that EC2 does not know yet, or not everywhere.
            Err(error) if error.code == "TimedOut" && began.elapsed() < timeouts::IMAGE_CONSISTENT => {
                sleep(timeouts::READ_EVERY).await;
            }
            Err(error) => return Err(in_context(error)),
        }
    }
    let (mut reads, mut last) = (0, None::<Image>);
    let believed = wait::until(timeouts::IMAGE_CONSISTENT, timeouts::READ_EVERY, async || {
        let image = aws.image(id).await.map_err(in_context)?.filter(|image| image.state == "available");
        let same = matches!((&last, &image), (Some(one), Some(other)) if one.snapshots == other.snapshots);
        reads = match (&image, same) {
            (None, _) => 0,
            (Some(_), true) => reads + 1,
            (Some(_), false) => 1,
        };
        last = image;
        Result::Ok(last.clone().filter(|_| reads == READS))
    });
    if let Some(image) = believed.await? {
        return Ok(image);
    }
    let text = format!("image {id} in {} was available, and then not always", aws.region);
    Err(Error::new(Class::Cloud, text)
        .hint("something else may work on it: build again when it is settled; a run kept by --on-error keep goes on"))
}

impl PublishJob<'_> {
    /// The image in another region: found, or copied.
    async fn copy(&self, from: &Aws, to: &Aws) -> Result<Image> {
        let in_context = |error: ApiError| error.context(&format!("copy of image {} to {}", self.source.id, to.region));
        let id = match self.existing(from, to).await? {
            Some(image) if image.state != "failed" => image.id,
            failed => {
                if let Some(failed) = &failed {
                    self.events
                        .note(format!("an earlier copy to {} has failed and is made again: {}", to.region, failed.id));
                    to.remove(&image_resource(failed, &to.region)).await.map_err(in_context)?;
                }
                let mut keys = self.args.copy_kms_key.iter().filter_map(|pair| pair.split_once('='));
                let key = keys.find(|(region, _)| *region == to.region).map(|(_, key)| key);
                let token = self.token(to, failed.as_ref());
                // Whatever happens to this run next, a sweep must not take the copy for a finished one.
                let mut unfinished = self.source.clone();
                unfinished.tags.insert(tags::STATE.into(), tags::BUILDING.into());
                unfinished.tags.insert(tags::UNTIL.into(), self.until());
                let id = to.copy_image(from, &unfinished, &token, key).await.map_err(in_context)?;
                if let Some(ledger) = self.ledger {
                    ledger.record(&resource(to, ResourceKind::Image, &id, self.run))?;
                }
                self.events.emit(&Event::Made { kind: "image", id: id.clone() });
                id
            }
        };
        let mut image = wait_until_consistent(to, &id, self.events).await?;
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

    /// When a copy must be finished. Asked twice with the same token, EC2 wants the same tags: it goes by the run's begin, which is
    /// as far back as a builder may live.
    fn until(&self) -> String {
        let again = self.source.tags.get(tags::STATE).is_some_and(|state| state == tags::PUBLISHED);
        match began(self.run).filter(|_| !again) {
            Some(began) => tags::until(began, timeouts::RUN_FINISHED),
            None => tags::until(jiff::Timestamp::now(), timeouts::IMAGE_FINISHED),
        }
    }

    /// What a published image and its copies are tagged with.
    fn published_tags(&self) -> Tags {
        let mut all = self.source.tags.clone();
        all.insert(tags::STATE.into(), tags::PUBLISHED.into());
        all
    }

    /// What an earlier attempt of this run has copied, as EC2 says or the ledger; one that failed only if there is no other.
    async fn existing(&self, from: &Aws, to: &Aws) -> Result<Option<Image>> {
        let tag = format!("tag:{}", tags::RUN);
        let mut found = to.images(&["self"], &[(&tag, self.run), ("name", &self.source.name)]).await?;
        let plan = self.source.tags.get(tags::PLAN);
        let source = Some((from.region.clone(), self.source.id.clone()));
        let known = known_here(self.run)?;
        found.retain(|image| {
            let of_source = image.origin.image == source || known.iter().any(|one| one.id == image.id);
            of_source && ownership::image(image).is_ok() && image.tags.get(tags::PLAN) == plan
        });
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
            if let Some(time) = self.args.deprecate_at.as_deref().and_then(|text| instant(text).ok()) {
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
        done().await.map_err(|error: ApiError| error.context(&subject(aws, id)))?;
        until_shown(aws, id, async || self.lacks(aws, id).await.map_err(|error| error.context(&subject(aws, id)))).await
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
        let all = self.published_tags();
        let there = all.iter().all(|(key, value)| image.tags.get(key) == Some(value));
        if there { Ok(()) } else { tag_and_see(aws, image, &all).await }
    }

    /// Lets the SSM parameter point at the image, and reads it back.
    async fn name(&self, aws: &Aws, image: &str, name: &str) -> Result<()> {
        let what = format!("SSM parameter {name} for image {image} in {}", aws.region);
        let in_context = |error: ApiError| error.context(&what);
        if aws.parameter(name).await.map_err(in_context)?.as_deref() == Some(image) {
            return Ok(());
        }
        aws.put_image_parameter(name, image).await.map_err(in_context)?;
        // Parameter Store looks whether the image is there before it shows the value, which may take a moment.
        let mut shown = None;
        let named = wait::until(timeouts::CHANGE_SHOWN, timeouts::READ_EVERY, async || {
            shown = aws.parameter(name).await.map_err(in_context)?;
            Result::Ok((shown.as_deref() == Some(image)).then_some(()))
        });
        if named.await?.is_some() {
            self.events.note(format!("SSM parameter {name} in {} is {image}", aws.region));
            return Ok(());
        }
        let shown = shown.as_deref().unwrap_or("nothing");
        Err(Error::new(Class::Cloud, format!("{what}: it was written, but shows {shown}"))
            .hint("Parameter Store refuses an image that it can't see; does something else write this parameter?"))
    }
}

/// Tags an image and its snapshots in one call.
async fn put_tags(aws: &Aws, image: &Image, tags: &Tags) -> Result<()> {
    let mut ids = vec![image.id.clone()];
    ids.extend(image.snapshots.iter().cloned());
    aws.tag(&ids, tags).await.map_err(|error| error.context(&subject(aws, &image.id)))
}

/// Tags an image and its snapshots, and waits until the image shows it: a clean-up goes by that.
pub async fn tag_and_see(aws: &Aws, image: &Image, tags: &Tags) -> Result<()> {
    put_tags(aws, image, tags).await?;
    until_shown(aws, &image.id, async || {
        let shown = aws.image(&image.id).await.map_err(|error| error.context(&subject(aws, &image.id)))?;
        let shown = shown.map(|image| image.tags).unwrap_or_default();
        let missing = tags.iter().filter(|(key, value)| shown.get(*key) != Some(*value));
        Ok(missing.map(|(key, _)| format!("tag {key}")).collect())
    })
    .await
}

/// Waits until AWS shows everything of an image that it was told; `lacking` says what it does not show yet.
async fn until_shown(aws: &Aws, id: &str, mut lacking: impl AsyncFnMut() -> Result<Vec<String>>) -> Result<()> {
    let mut last = Vec::new();
    let shown = wait::until(timeouts::CHANGE_SHOWN, timeouts::READ_EVERY, async || {
        last = lacking().await?;
        Result::Ok(last.is_empty().then_some(()))
    });
    if shown.await?.is_some() {
        return Ok(());
    }
    let text = format!("{} still lacks: {}", subject(aws, id), last.join(", "));
    Err(Error::new(Class::Cloud, text).hint("AWS took it, but does not show it: does something else change the image?"))
}

/// Which image an error is about.
fn subject(aws: &Aws, id: &str) -> String {
    format!("image {id} in {}", aws.region)
}

/// Runs all, some at once; the results come in the order of the work. All of them end before an error is told.
async fn in_parallel<T>(work: Vec<impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for ended in map_concurrent(work, AT_ONCE, async |one| one.await).await {
        match ended {
            Ok(value) => done.push(value),
            Err(error) => failed.push(error),
        }
    }
    let mut failed = failed.into_iter();
    let Some(first) = failed.next() else { return Ok(done) };
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
