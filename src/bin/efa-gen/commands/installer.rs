//! Owns the look at the EFA installer that a plan's machines will download, before anything is made for them.

use std::path::PathBuf;

use efa_gen::error::{Class, Error, Result};
use efa_gen::plan::Plan;
use tokio::sync::Mutex;

use super::fetch;
use crate::cli::RecipeArgs;
use crate::io::events::EventSink;
use crate::io::files;

/// Downloads the installer and checks it: signed by the publisher, and the very bytes whose digest the machines check.
pub async fn verify(plan: &Plan, recipe: &RecipeArgs, events: &EventSink) -> Result<()> {
    let Some(efa) = plan.components.iter().find(|component| component.name == "efa") else { return Ok(()) };
    events.step(format!("Download and verify EFA installer {}", efa.version));
    // Builds side by side want the same file: the second finds it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _alone = ONE_AT_A_TIME.lock().await;
    let wanted = fetch::for_plan(efa, recipe, cache_folder()?);
    let fetched = tokio::task::spawn_blocking(move || fetch::fetch_verified(&wanted)).await;
    let (_, checked) =
        fetched.map_err(|error| Error::new(Class::Bug, "a download ended badly").with_source(error))??;
    events.note(format!(
        "EFA installer {}: signature of {} and digest are good (source of the digest: {})",
        efa.version, checked.verified.signer, efa.published
    ));
    Ok(())
}

/// `$XDG_CACHE_HOME/efa-gen`, by the XDG base directory specification below ~/.cache.
fn cache_folder() -> Result<PathBuf> {
    let none = || Error::new(Class::Io, "there is no folder for downloads").hint("set HOME or XDG_CACHE_HOME");
    Ok(files::user_folder("XDG_CACHE_HOME", ".cache").ok_or_else(none)?.join("efa-gen"))
}
