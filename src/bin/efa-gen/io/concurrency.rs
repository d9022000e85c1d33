//! Owns doing the same to many at a time.

use futures_util::stream::{self, StreamExt as _};

/// Does the same for each, so many at a time; the results are in the order of the items.
pub async fn map_concurrent<I, T>(
    items: impl IntoIterator<Item = I>,
    at_once: usize,
    act: impl AsyncFn(I) -> T,
) -> Vec<T> {
    let numbered = stream::iter(items.into_iter().enumerate());
    // Unordered: a slow one in front holds nobody up.
    let act = &act;
    let acts = numbered.map(|(index, item)| async move { (index, act(item).await) });
    let mut done: Vec<(usize, T)> = acts.buffer_unordered(at_once).collect().await;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
