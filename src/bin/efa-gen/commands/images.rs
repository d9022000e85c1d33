//! Owns `efa-gen images` and `efa-gen image rm`: which images efa-gen made, and how one of them goes with its snapshots.

use std::time::Duration;

use efa_gen::error::{Class, Error, Result};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::account::{block_on, regions};
use super::list;
use crate::build::{sweep, tags};
use crate::cli::OutputArg;
use crate::cli::cloud::{ImageRmArgs, ImagesArgs};
use crate::ec2::Aws;
use crate::ec2::model::{Image, Kind, Tags};
use crate::ec2::refusal::ApiError;
use crate::events::{Event, Screen, Talk};
use crate::report;

/// How long a deregistered image may still be listed, and its snapshots count as used.
const GOES: Duration = Duration::from_secs(300);
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Row {
    region: String,
    #[serde(flatten)]
    image: Image,
    /// Accounts and ARNs that may launch it.
    shared_with: Vec<String>,
}

pub fn run(args: &ImagesArgs) -> Result<()> {
    block_on(images(args))
}

async fn images(args: &ImagesArgs) -> Result<()> {
    let mut rows = Vec::new();
    for aws in regions(&args.region, args.profile.as_deref()).await? {
        let said = |error: ApiError| error.about(&aws.region);
        let mut found = aws.images(&["self"], &[("tag-key", tags::PLAN)]).await.map_err(said)?;
        found.sort_by(|one, other| other.created.cmp(&one.created));
        for image in found {
            let shared_with = aws.shared_with(&image.id).await.map_err(said)?;
            rows.push(Row { region: aws.region.clone(), image, shared_with });
        }
    }
    if args.output.output == OutputArg::Json {
        return list::json(&rows);
    }
    if rows.is_empty() {
        report::say("note: no image with the tag efa-gen:plan; images of other regions need --region");
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
    list::table(header, rows.iter().map(cells))
}

fn cells(row: &Row) -> [String; 11] {
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
        tag("efa-gen:distribution"),
        tag("efa-gen:stack"),
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
        report::say("note: nothing was removed: --yes removes what is listed");
        return Ok(());
    }
    let talk = Screen::new(OutputArg::Human, false).talk("image");
    let done = remove_image(&aws, &image, &talk).await;
    talk.done();
    done
}

/// The image, if it is one of ours.
async fn find(aws: &Aws, id: &str) -> Result<Image> {
    let said = |error: ApiError| error.about(&format!("image {id} in {}", aws.region));
    let refused =
        |why: &str, hint: &str| Err(Error::new(Class::Plan, format!("image {id} in {} {why}", aws.region)).hint(hint));
    match aws.images(&["self"], &[("image-id", id)]).await.map_err(said)?.into_iter().next() {
        Some(image) if image.tags.contains_key(tags::PLAN) => Ok(image),
        Some(_) => refused(
            "was not built by efa-gen: it has no tag efa-gen:plan",
            "aws ec2 deregister-image removes any image",
        ),
        None => match aws.image(id).await.map_err(said)? {
            Some(image) => refused(&format!("belongs to account {}", image.owner), "only its owner can remove it"),
            None => {
                refused("is not there", "AMI ids belong to one region: is it this one? `efa-gen images` lists them")
            }
        },
    }
}

fn show(aws: &Aws, image: &Image) -> Result<()> {
    let row = |kind: Kind, id: &str, name: &str| [aws.region.as_str(), kind.name(), id, name].map(str::to_owned);
    let snapshots = image.snapshots.iter().map(|id| row(Kind::Snapshot, id, ""));
    let rows: Vec<[String; 4]> = std::iter::once(row(Kind::Image, &image.id, &image.name)).chain(snapshots).collect();
    list::table(["region", "kind", "id", "name"], rows.into_iter())
}

async fn remove_image(aws: &Aws, image: &Image, talk: &Talk) -> Result<()> {
    let subject = format!("image {} in {}", image.id, aws.region);
    let said = |error: ApiError| error.about(&subject);
    if is_protected(image) {
        aws.unprotect_image(&image.id).await.map_err(said)?;
    }
    // From here on it is a leftover: what this process does not get to, a sweep takes.
    let mut ids = image.snapshots.clone();
    ids.push(image.id.clone());
    let state = |value: &str| Tags::from([(tags::STATE.to_owned(), value.to_owned())]);
    aws.tag(&ids, &state(tags::REMOVING)).await.map_err(said)?;
    if let Err(error) = aws.remove(&sweep::image_of(image, &aws.region)).await {
        let before = image.tags.get(tags::STATE).map_or("", String::as_str);
        if let Err(error) = aws.tag(&ids, &state(before)).await {
            talk.note(format!("{subject} stays tagged {}={}: {error}", tags::STATE, tags::REMOVING));
        }
        return Err(said(error));
    }
    let end = Instant::now() + GOES;
    while aws.image(&image.id).await.map_err(said)?.is_some_and(|image| image.state != "deregistered") {
        if Instant::now() > end {
            return Err(Error::new(Class::Cloud, format!("{subject} was deregistered, but is still there"))
                .hint("its snapshots were left; try again in a few minutes"));
        }
        sleep(BETWEEN_LOOKS).await;
    }
    talk.emit(&Event::Removed { kind: Kind::Image.name(), id: image.id.clone() });
    remove_snapshots(aws, image, talk).await
}

/// Each snapshot is tried, whatever became of the others.
async fn remove_snapshots(aws: &Aws, image: &Image, talk: &Talk) -> Result<()> {
    let mut left = Vec::new();
    let end = Instant::now() + GOES;
    for id in &image.snapshots {
        let snapshot = sweep::snapshot_of(image, id, &aws.region);
        let removed = loop {
            match aws.remove(&snapshot).await {
                // In use by the image that is gone: EC2 lags behind. By another one: that is for its user to remove.
                Err(error) if error.message.contains(&image.id) && Instant::now() < end => sleep(BETWEEN_LOOKS).await,
                other => break other,
            }
        };
        match removed {
            Ok(_) => talk.emit(&Event::Removed { kind: Kind::Snapshot.name(), id: id.clone() }),
            Err(error) => {
                talk.note(format!("snapshot {id} in {} is still there: {error}", aws.region));
                left.push(snapshot);
            }
        }
    }
    if left.is_empty() { Ok(()) } else { Err(sweep::still_there(&left)) }
}
