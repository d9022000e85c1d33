//! Owns a build's end: what it has made is removed, or kept where that is asked for, and what is left is told. Knows nothing
//! of how it went.

use std::io::{BufRead, IsTerminal};

use efa_gen::error::{Class, Error, Result};
use tokio::sync::watch;

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
    built: Result<Built>,
) -> Result<Built> {
    let on_error = args.on_error.unwrap_or(OnError::Cleanup);
    let asked = match &built {
        Err(error) if on_error != OnError::Ask || error.class() != Class::Interrupted => {
            tokio::select! {
                keep = keeps(on_error, talk) => keep,
                _ = stop.changed() => false,
            }
        }
        _ => false,
    };
    if let (Err(error), Some(image)) = (&built, folder.read::<String>(UNTESTED)?)
        && error.class() != Class::Interrupted
    {
        let run = &folder.run;
        talk.note(format!(
            "image {image} is kept, untested: go on with --resume {run}, remove it with efa-gen sweep --run {run} --yes"
        ));
        return built;
    }
    if asked {
        let run = &folder.run;
        talk.note(format!(
            "everything is kept: go on with --resume {run}, remove it with efa-gen sweep --run {run} --yes"
        ));
        if let Some(login) = folder.login()? {
            talk.note(format!("log in with: {login}"));
        }
        return built;
    }
    talk.step("Remove what the run has made");
    let known = folder.known()?;
    // Copies that were begun lie in other regions.
    let also: &[String] = if built.is_err() { &args.publish.copy_to } else { &[] };
    let places = built.iter().flat_map(|built| &built.copies);
    let done = places.flat_map(|place| place.snapshots.iter().chain([&place.image])).cloned().collect();
    let left = sweep::undo(aws, &folder.run, also, &known, done, talk, Some(&mut stop)).await;
    let rest = format!("efa-gen sweep --run {} --yes removes", folder.run);
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
    folder.forget_secrets()?;
    built
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
