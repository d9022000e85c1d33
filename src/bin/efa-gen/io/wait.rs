//! Owns waiting: a question asked again until it is answered or the time is over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Asks until there is an answer, with a pause of `every` between; `None` when `limit` is over. It is asked once at least.
///
/// Errors: the question's own.
pub async fn until<T, E>(
    limit: Duration,
    every: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(Some(answer));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        sleep(every).await;
    }
}
