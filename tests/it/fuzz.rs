//! The fuzz targets' seeds, replayed: no fuzzer is needed for what one has found once.

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use efa_gen::verify::Refusal;
use proptest::prelude::*;

use crate::support::in_repository;

/// The files of a folder; none is no proof.
fn seeds(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(in_repository(folder)).expect("the folder can be read");
    let paths = entries.map(|entry| entry.expect("it can be read").path()).filter(|path| path.is_file());
    let mut seeds: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).expect("a seed can be read"))).collect();
    seeds.sort();
    assert!(seeds.len() > 5, "{folder} has {} seeds", seeds.len());
    seeds
}

/// The kinds of refusal that the seeds of a target come to.
fn reached(target: &str, check: fn(&[u8]) -> Refusal) -> BTreeSet<String> {
    let kind = |refusal: &Refusal| {
        let text = format!("{refusal:?}");
        text.split([' ', '(']).next().unwrap_or_default().to_owned()
    };
    seeds(&format!("fuzz/seeds/{target}")).iter().map(|(_, seed)| kind(&check(seed))).collect()
}

#[track_caller]
fn assert_reached(reached: &BTreeSet<String>, kinds: &[&str]) {
    let missing: Vec<_> = kinds.iter().filter(|kind| !reached.contains(**kind)).collect();
    assert!(missing.is_empty(), "no seed comes to {missing:?}, only to {reached:?}");
}

/// The key's pin fits always, so what is behind it is judged: to the mathematics, and to each thing that is refused before.
#[test]
fn the_key_seeds_reach_the_policy() {
    let kinds = ["BadSignature", "Revoked", "SignedAfterExpiry", "Unbound", "UnknownSigner"];
    assert_reached(&reached("key", checks::key), &kinds);
}

#[test]
fn the_signature_seeds_reach_the_policy() {
    let kinds = [
        "BadSignature",
        "FromTheFuture",
        "NotBinary",
        "Policy",
        "TrailingData",
        "TruncatedSignature",
        "UnknownSigner",
        "WeakDigest",
    ];
    assert_reached(&reached("signature", checks::signature), &kinds);
}

#[test]
fn the_distribution_and_log_seeds_are_taken() {
    for (path, seed) in seeds("distros") {
        checks::distribution(&String::from_utf8(seed).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
    for (_, seed) in seeds("tests/fixtures/nccl") {
        checks::nccl_log(&seed[..seed.len().min(6_000)]);
        checks::nccl_log(&seed[seed.len().saturating_sub(6_000)..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// A little of what the fuzzer does, in every run of the tests.
    #[test]
    fn damaged_seeds_are_refused(
        place in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        for (target, check) in [("key", checks::key as fn(&[u8]) -> Refusal), ("signature", checks::signature)] {
            let mut seeds = seeds(&format!("fuzz/seeds/{target}"));
            let place = place.index(seeds.len());
            let (_, seed) = &mut seeds[place];
            for (at, value) in &edits {
                if let Some(byte) = seed.len().checked_sub(1).map(|last| &mut seed[at.index(last + 1)]) {
                    *byte = *value;
                }
            }
            check(seed);
        }
    }
}
