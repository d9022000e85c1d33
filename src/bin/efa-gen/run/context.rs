//! Owns what everything that is done for a run needs: the account, the run's state on this machine, and the voice to say it with.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::state::RunState;
use crate::aws::Aws;
use crate::io::events::EventSink;

/// A run at work.
#[derive(Debug, Clone)]
pub struct RunContext<'a> {
    pub aws: &'a Aws,
    pub state: &'a RunState,
    pub events: &'a EventSink,
    /// Held while RunInstances is under way: whoever cleans up waits for it, and then finds in the ledger what was launched.
    pub launch_in_flight: Arc<Mutex<()>>,
}

impl<'a> RunContext<'a> {
    /// Nothing is being launched yet.
    pub fn new(aws: &'a Aws, state: &'a RunState, events: &'a EventSink) -> Self {
        RunContext { aws, state, events, launch_in_flight: Arc::default() }
    }
}
