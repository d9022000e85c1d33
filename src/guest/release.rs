//! Owns the reading of [`crate::plan::RELEASE_FILE`], in which an image says what is on it.

use std::collections::BTreeMap;

use crate::catalog::nccl_env::Software;

/// Versions by component, of a release file. A machine that efa-gen did not install has none.
pub fn versions(release: &str) -> BTreeMap<String, String> {
    let parsed: Vec<BTreeMap<String, Option<String>>> = serde_json::from_str(release).unwrap_or_default();
    let one = |mut component: BTreeMap<String, Option<String>>| {
        Some((component.remove("name")??, component.remove("version")??))
    };
    parsed.into_iter().filter_map(one).collect()
}

/// What an image of efa-gen says that is on it ([`crate::plan::RELEASE_FILE`]); `None` where it says something else.
pub fn software(release: &str) -> Option<Software> {
    let mut versions = Some(versions(release)).filter(|versions| !versions.is_empty())?;
    let mut of = |name: &str| versions.remove(name);
    Some(Software { efa: of("efa"), nccl: of("nccl"), plugin: of("plugin"), gpudirect: false })
}
