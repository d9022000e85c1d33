//! Owns `efa-gen images` and `efa-gen image rm`: which images efa-gen made, and how one of them goes with its snapshots.

use efa_gen::error::{Class, Error, Result};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::account::{block_on, regions};
use super::list;
use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::model::{Image, Resource, ResourceKind, Tags};
use crate::aws::resources::{image_resource, snapshot_resource};
use crate::cli::OutputArg;
use crate::cli::cloud::{ImageRmArgs, ImagesArgs};
use crate::io::events::{Event, EventSink, Form, Reporter};
use crate::io::{terminal, wait};
use crate::run::{cleanup, ownership, tags};
use crate::timeouts;

#[derive(Debug, Serialize)]
struct ImageRow {
    region: String,
    #[serde(flatten)]
    image: Image,
    /// Accounts and ARNs that may launch it.
    shared_with: Vec<String>,
    /// Why it counts as efa-gen's; none of what only carries the tags.
    evidence: Option<String>,
}

pub fn run(args: &ImagesArgs) -> Result<()> {
    block_on(images(args))
}

async fn images(args: &ImagesArgs) -> Result<()> {
    let mut rows = Vec::new();
    for aws in regions(&args.region, args.profile.as_deref()).await? {
        let in_context = |error: ApiError| error.context(&aws.region);
        let mut found = aws.images(&["self"], &[("tag-key", tags::PLAN)]).await.map_err(in_context)?;
        found.sort_by(|one, other| other.created.cmp(&one.created));
        for image in found {
            let shared_with = aws.shared_with(&image.id).await.map_err(in_context)?;
            let evidence = match ownership::image(&image) {
                Ok(why) => Some(why),
                Err(why) => {
                    let other = cleanup::left_alone(&image_resource(&image, &aws.region), &why);
                    terminal::message(&format!("note: {other}"));
                    None
                }
            };
            rows.push(ImageRow { region: aws.region.clone(), image, shared_with, evidence });
        }
    }
    if args.output.output == OutputArg::Json {
        return list::json(&rows);
    }
    if rows.is_empty() {
        terminal::message("note: no image with the tag efa-gen:plan; images of other regions need --region");
        return Ok(());
    }
    let header = [
        "region",
        "id",
        "name",
        "created",
        "distribution",
        "stack",
        "state",
        "verdict",
        "shared with",
        "deprecated",
        "protected",
    ];
    list::table(header, rows.iter().filter(|row| row.evidence.is_some()).map(cells))
}

fn cells(row: &ImageRow) -> [String; 11] {
    let image = &row.image;
    let tag = |name: &str| image.tags.get(name).cloned().unwrap_or_default();
    let date = |time: &str| time.get(..10).unwrap_or(time).to_owned();
    // What efa-gen says of it, unless EC2 says that it can't be used.
    let state = if image.state == "available" { tag(tags::STATE) } else { image.state.clone() };
    [
        row.region.clone(),
        image.id.clone(),
        image.name.clone(),
        date(&image.created),
        tag(tags::DISTRIBUTION),
        tag(tags::STACK),
        state,
        tag(tags::VERDICT),
        match &row.shared_with[..] {
            [one] => one.clone(),
            [] => String::new(),
            several => several.len().to_string(),
        },
        date(&image.deprecated_at),
        if is_protected(image) { "yes".to_owned() } else { String::new() },
    ]
}

fn is_protected(image: &Image) -> bool {
    image.protection.starts_with("enabled")
}

pub fn rm(args: &ImageRmArgs) -> Result<()> {
    let hex = args.image.strip_prefix("ami-").filter(|hex| [8, 17].contains(&hex.len()));
    if !hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(Error::new(Class::Usage, format!("{:?} is not the id of an AMI", args.image))
            .hint("an id is written like ami-0123456789abcdef0; `efa-gen images` lists them"));
    }
    block_on(remove(args))
}

async fn remove(args: &ImageRmArgs) -> Result<()> {
    let asked: Vec<String> = args.account.region.iter().cloned().collect();
    let mut regions = regions(&asked, args.account.profile.as_deref()).await?;
    let aws = regions.remove(0);
    let image = find(&aws, &args.image).await?;
    if is_protected(&image) && !args.unprotect {
        return Err(Error::new(
            Class::Plan,
            format!("image {} in {} is protected from deregistration", image.id, aws.region),
        )
        .hint("--unprotect removes the protection first"));
    }
    show(&aws, &image)?;
    if !args.yes {
        terminal::message("note: nothing was removed: --yes removes what is listed");
        return Ok(());
    }
    let events = Reporter::new(Form::Lines, false).events("image");
    let done = remove_image(&aws, &image, &events).await;
    events.done();
    done
}

/// The image, if it is one of ours.
async fn find(aws: &Aws, id: &str) -> Result<Image> {
    let in_context = |error: ApiError| error.context(&format!("image {id} in {}", aws.region));
    let refused =
        |why: &str, hint: &str| Err(Error::new(Class::Plan, format!("image {id} in {} {why}", aws.region)).hint(hint));
    match aws.images(&["self"], &[("image-id", id)]).await.map_err(in_context)?.into_iter().next() {
        Some(mut image) if image.tags.contains_key(tags::PLAN) => match ownership::image(&image) {
            Ok(_) => {
                let snapshots = aws.snapshots(&image.snapshots).await.map_err(in_context)?;
                let (own, others): (Vec<Resource>, Vec<Resource>) =
                    snapshots.into_iter().partition(|snapshot| ownership::is_of(snapshot, id));
                for other in &others {
                    let why = format!("EC2 did not make snapshot {} for it", other.id);
                    terminal::message(&format!("note: {why}: it is left alone"));
                }
                image.snapshots = own.into_iter().map(|snapshot| snapshot.id).collect();
                Ok(image)
            }
            Err(why) => refused(
                &format!("carries efa-gen's tags, but is not efa-gen's: {why}"),
                "aws ec2 deregister-image removes any image",
            ),
        },
        Some(_) => refused(
            "was not built by efa-gen: it has no tag efa-gen:plan",
            "aws ec2 deregister-image removes any image",
        ),
        None => match aws.image(id).await.map_err(in_context)? {
            Some(image) => refused(&format!("belongs to account {}", image.owner), "only its owner can remove it"),
            None => {
                refused("is not there", "AMI ids belong to one region: is it this one? `efa-gen images` lists them")
            }
        },
    }
}

fn show(aws: &Aws, image: &Image) -> Result<()> {
    let row =
        |kind: ResourceKind, id: &str, name: &str| [aws.region.as_str(), kind.name(), id, name].map(str::to_owned);
    let snapshots = image.snapshots.iter().map(|id| row(ResourceKind::Snapshot, id, ""));
    let rows: Vec<[String; 4]> =
        std::iter::once(row(ResourceKind::Image, &image.id, &image.name)).chain(snapshots).collect();
    list::table(["region", "kind", "id", "name"], rows.into_iter())
}

async fn remove_image(aws: &Aws, image: &Image, events: &EventSink) -> Result<()> {
    let subject = format!("image {} in {}", image.id, aws.region);
    let in_context = |error: ApiError| error.context(&subject);
    if is_protected(image) {
        aws.unprotect_image(&image.id).await.map_err(in_context)?;
    }
    // From here on it is a leftover: what this process does not get to, a sweep takes.
    let mut ids = image.snapshots.clone();
    ids.push(image.id.clone());
    let state = |value: &str| Tags::from([(tags::STATE.to_owned(), value.to_owned())]);
    aws.tag(&ids, &state(tags::REMOVING)).await.map_err(in_context)?;
    if let Err(error) = aws.remove(&image_resource(image, &aws.region)).await {
        let before = image.tags.get(tags::STATE).map_or("", String::as_str);
        if let Err(error) = aws.tag(&ids, &state(before)).await {
            events.note(format!("{subject} stays tagged {}={}: {error}", tags::STATE, tags::REMOVING));
        }
        return Err(in_context(error));
    }
    let gone = wait::until(timeouts::DEREGISTERED, timeouts::DEREGISTERED_EVERY, async || {
        let there = aws.image(&image.id).await.map_err(in_context)?.is_some_and(|image| image.state != "deregistered");
        Result::Ok((!there).then_some(()))
    });
    if gone.await?.is_none() {
        return Err(Error::new(Class::Cloud, format!("{subject} was deregistered, but is still there"))
            .hint("its snapshots were left; try again in a few minutes"));
    }
    events.emit(&Event::Removed { kind: ResourceKind::Image.name(), id: image.id.clone() });
    remove_snapshots(aws, image, events).await
}

/// Each snapshot is tried, whatever became of the others.
async fn remove_snapshots(aws: &Aws, image: &Image, events: &EventSink) -> Result<()> {
    let mut left = Vec::new();
    let end = Instant::now() + timeouts::DEREGISTERED;
    for id in &image.snapshots {
        let snapshot = snapshot_resource(image, id, &aws.region);
        let removed = loop {
            match aws.remove(&snapshot).await {
                // In use by the image that is gone: EC2 lags behind. By another one: that is for its user to remove.
                Err(error) if error.message.contains(&image.id) && Instant::now() < end => {
                    sleep(timeouts::DEREGISTERED_EVERY).await;
                }
                other => break other,
            }
        };
        match removed {
            Ok(_) => events.emit(&Event::Removed { kind: ResourceKind::Snapshot.name(), id: id.clone() }),
            Err(error) => {
                events.note(format!("snapshot {id} in {} is still there: {error}", aws.region));
                left.push(snapshot);
            }
        }
    }
    if left.is_empty() { Ok(()) } else { Err(cleanup::still_there(&left)) }
}
