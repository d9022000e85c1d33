//! Owns the signals that ask this process to end.

use efa_gen::error::{Class, Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Counts the signals that ask the process to end.
pub fn on_signals() -> Result<watch::Receiver<u32>> {
    let (send, receive) = watch::channel(0);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals =
            signal(kind).map_err(|error| Error::new(Class::Io, "signals can't be watched").with_source(error))?;
        let send = send.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                send.send_modify(|count| *count += 1);
            }
        });
    }
    Ok(receive)
}

/// How a command ends that was asked to.
pub fn interrupted() -> Error {
    Error::new(Class::Interrupted, "interrupted by a signal")
}
