//! Owns a build's end: what it has made is removed, or kept where that is asked for, and what is left is told. Knows nothing
//! of how it went.

use std::io::{BufRead, IsTerminal};

use efa_gen::error::{Class, Error, Result};
use tokio::sync::{Mutex, watch};

use crate::build::run::{Folder, UNTESTED};
use crate::build::{Built, sweep};
use crate::cli::cloud::{BuildArgs, OnError};
use crate::ec2::Aws;
use crate::ec2::model::Thing;
use crate::events::Talk;
use crate::report;

/// Removes what the run has made, unless it is to be kept; a second signal leaves it and says what is left.
pub async fn finish(
    aws: &Aws,
    args: &BuildArgs,
    folder: &Folder,
    talk: &Talk,
    mut stop: watch::Receiver<u32>,
    (built, asking): (Result<Built>, &Mutex<()>),
) -> Result<Built> {
    let class = built.as_ref().err().map(Error::class);
    // An image that nothing is known against, and its snapshots.
    let untested: Vec<String> = match class {
        None | Some(Class::Interrupted) => Vec::new(),
        Some(_) => folder.read(UNTESTED)?.unwrap_or_default(),
    };
    if let Some(class) = class
        && stays(args, folder, talk, &mut stop, class, &untested).await?
    {
        return built;
    }
    talk.step("Remove what the run has made");
    let rest = format!("efa-gen sweep --run {} --yes removes", folder.run);
    if !sweep::answered(asking, &mut stop, talk, &rest).await {
        return built;
    }
    let known = folder.known()?;
    // Copies that were begun lie in other regions.
    let also: &[String] = if built.is_err() { &args.publish.copy_to } else { &[] };
    let places = built.iter().flat_map(|built| &built.copies);
    let done =
        places.flat_map(|place| place.snapshots.iter().chain([&place.image])).chain(&untested).cloned().collect();
    let left = sweep::undo(aws, &folder.run, also, &known, done, talk, Some(&mut stop)).await;
    let left: Vec<Thing> = match (left, &built) {
        (Ok(left), _) => left,
        (Err(error), Ok(_)) => return Err(error.hint(format!("{rest} the rest"))),
        (Err(error), Err(_)) => {
            talk.note(format!("{error}: {rest} the rest"));
            return built;
        }
    };
    if let Some(thing) = left.first() {
        let message = format!("{} {} and {} more are still there", thing.kind.name(), thing.id, left.len() - 1);
        let error = Error::new(Class::Cloud, message).hint(format!("{rest} them"));
        return if built.is_ok() {
            Err(error)
        } else {
            talk.note(error.to_string());
            built
        };
    }
    // What is kept is gone on with by what the folder holds.
    if untested.is_empty() {
        folder.forget_secrets()?;
    }
    built
}

/// Whether everything that a failure has left stays, to be looked at. Says how to go on with it, and with the image that stays
/// in any case.
async fn stays(
    args: &BuildArgs,
    folder: &Folder,
    talk: &Talk,
    stop: &mut watch::Receiver<u32>,
    class: Class,
    untested: &[String],
) -> Result<bool> {
    let how = format!("go on with --resume {0}, remove it with efa-gen sweep --run {0} --yes", folder.run);
    if let Some(image) = untested.first() {
        talk.note(format!("image {image} is kept, untested: {how}"));
    }
    let stays = match args.on_error.unwrap_or(OnError::Cleanup) {
        OnError::Ask if class == Class::Interrupted => false,
        // Its builder has gone: there is nothing to look at.
        OnError::Ask if !untested.is_empty() => false,
        on_error => tokio::select! {
            keep = keeps(on_error, talk) => keep,
            _ = stop.changed() => false,
        },
    };
    if stays {
        talk.note(format!("everything is kept: {how}"));
        if let Some(login) = folder.login()? {
            talk.note(format!("log in with: {login}"));
        }
    }
    Ok(stays)
}

/// Only a person at a terminal can be asked.
async fn keeps(on_error: OnError, talk: &Talk) -> bool {
    match on_error {
        OnError::Keep => true,
        OnError::Cleanup => false,
        OnError::Ask if !std::io::stdin().is_terminal() => {
            talk.note("nobody can be asked here, so everything is removed");
            false
        }
        OnError::Ask => {
            report::say("The build failed. Keep the builder to look at it? [y/N]");
            let answer = tokio::task::spawn_blocking(|| {
                let mut answer = String::new();
                std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
            });
            // No answer is a no.
            matches!(answer.await, Ok(Ok(answer)) if answer.trim().eq_ignore_ascii_case("y"))
        }
    }
}
