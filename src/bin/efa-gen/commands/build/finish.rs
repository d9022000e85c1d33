//! Owns a build's end: what it has made is removed, or kept where that is asked for, and what is left is told.

use std::io::{BufRead, IsTerminal};

use efa_gen::error::{Class, Error, Result};
use tokio::sync::watch;

use crate::aws::model::Resource;
use crate::cli::cloud::{BuildArgs, OnError};
use crate::image::build::Built;
use crate::io::events::EventSink;
use crate::io::terminal;
use crate::run::cleanup;
use crate::run::cleanup::{Cleanup, clean_up};
use crate::run::context::RunContext;
use crate::run::state::{RunState, UNTESTED};

/// Removes what the run has made, unless it is to be kept; a second signal leaves it and says what is left.
pub async fn finish(
    run: &RunContext<'_>,
    args: &BuildArgs,
    mut stop: watch::Receiver<u32>,
    built: Result<Built>,
) -> Result<Built> {
    let RunContext { aws, state, events, launch_in_flight } = run;
    let class = built.as_ref().err().map(Error::class);
    // An image that nothing is known against, and its snapshots.
    let untested: Vec<String> = match class {
        None | Some(Class::Interrupted) => Vec::new(),
        Some(_) => state.read(UNTESTED)?.unwrap_or_default(),
    };
    if let Some(class) = class
        && keeps_everything(args, state, events, &mut stop, class, &untested).await?
    {
        return built;
    }
    events.step("Remove what the run has made");
    let rest = format!("efa-gen sweep --run {} --yes removes", state.run);
    if !cleanup::wait_for_launch(launch_in_flight, &mut stop, events, &rest).await {
        return built;
    }
    let known = match (state.known(), &built) {
        (Ok(known), _) => known,
        (Err(error), Ok(_)) => return Err(error),
        (Err(error), Err(_)) => {
            events.note(format!("{error}: {rest} what it can prove"));
            return built;
        }
    };
    // Copies that were begun lie in other regions.
    let also: &[String] = if built.is_err() { &args.publish.copy_to } else { &[] };
    let places = built.iter().flat_map(|built| &built.copies);
    let done =
        places.flat_map(|place| place.snapshots.iter().chain([&place.image])).chain(&untested).cloned().collect();
    let of_run = Cleanup { aws, run: &state.run, cluster: None, events, regions: also, known: &known, keep: done };
    let left = clean_up(of_run, Some(&mut stop)).await;
    let left: Vec<Resource> = match (left, &built) {
        (Ok(left), _) => left,
        (Err(error), Ok(_)) => return Err(error.hint(format!("{rest} the rest"))),
        (Err(error), Err(_)) => {
            events.note(format!("{error}: {rest} the rest"));
            return built;
        }
    };
    if let Some(resource) = left.first() {
        let message = format!("{} {} and {} more are still there", resource.kind.name(), resource.id, left.len() - 1);
        let error = Error::new(Class::Cloud, message).hint(format!("{rest} them"));
        return if built.is_ok() {
            Err(error)
        } else {
            events.note(error.to_string());
            built
        };
    }
    // What is kept is gone on with by what the folder holds.
    if untested.is_empty() {
        state.forget_secrets()?;
    }
    built
}

/// Whether everything that a failure has left stays, to be looked at. Says how to go on with it, and with the image that stays
/// in any case.
async fn keeps_everything(
    args: &BuildArgs,
    state: &RunState,
    events: &EventSink,
    stop: &mut watch::Receiver<u32>,
    class: Class,
    untested: &[String],
) -> Result<bool> {
    let how = format!("go on with --resume {0}, remove it with efa-gen sweep --run {0} --yes", state.run);
    if let Some(image) = untested.first() {
        events.note(format!("image {image} is kept, untested: {how}"));
    }
    let stays = match args.on_error.unwrap_or(OnError::Cleanup) {
        OnError::Ask if class == Class::Interrupted => false,
        // Its builder has gone: there is nothing to look at.
        OnError::Ask if !untested.is_empty() => false,
        on_error => tokio::select! {
            keep = keeps(on_error, events) => keep,
            _ = stop.changed() => false,
        },
    };
    if stays {
        events.note(format!("everything is kept: {how}"));
        if let Some(login) = state.login()? {
            events.note(format!("log in with: {login}"));
        }
    }
    Ok(stays)
}

/// Only a person at a terminal can be asked.
async fn keeps(on_error: OnError, events: &EventSink) -> bool {
    match on_error {
        OnError::Keep => true,
        OnError::Cleanup => false,
        OnError::Ask if !std::io::stdin().is_terminal() => {
            events.note("nobody can be asked here, so everything is removed");
            false
        }
        OnError::Ask => {
            terminal::message("The build failed. Keep the builder to look at it? [y/N]");
            let answer = tokio::task::spawn_blocking(|| {
                let mut answer = String::new();
                std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
            });
            // No answer is a no.
            matches!(answer.await, Ok(Ok(answer)) if answer.trim().eq_ignore_ascii_case("y"))
        }
    }
}
