//! Every pin can be looked up: `tests/data/published.tsv` says where each digest and commit stands.

use std::collections::BTreeSet;

use crate::support::catalog;
use efa_gen::catalog::efa_release;
use efa_gen::catalog::stack::Download;

type Row = [String; 4];

fn row(artifact: &str, version: &str, digest: &str, published: &str) -> Row {
    [artifact, version, digest, published].map(str::to_owned)
}

fn download(artifact: &str, version: &str, download: &Download) -> Vec<Row> {
    let digests = download.sha256.iter().chain(&download.sha512);
    digests.map(|digest| row(artifact, version, digest, &download.published)).collect()
}

/// Every pin of the catalog.
fn pinned() -> BTreeSet<Row> {
    let pins = catalog().pins;
    let mut rows: Vec<Row> =
        pins.cuda.iter().flat_map(|cuda| download("CUDA", &cuda.version, &cuda.download)).collect();
    for driver in &pins.driver {
        rows.extend(download("driver", &driver.version, &driver.download));
        rows.extend(driver.fabric_manager.iter().flat_map(|one| download("fabric manager", &driver.version, one)));
        rows.extend(driver.nvlsm.iter().flat_map(|one| download("nvlsm", &one.version, &one.download)));
    }
    rows.extend(pins.nccl.iter().map(|one| row("NCCL", &one.version, &one.commit, &one.published)));
    rows.extend(pins.nccl_tests.iter().map(|one| row("nccl-tests", &one.version, &one.commit, &one.published)));
    rows.extend(pins.gdrcopy.iter().map(|one| row("GDRCopy", &one.version, &one.commit, &one.published)));
    for plugin in &pins.plugin {
        let source = plugin.source.iter();
        rows.extend(source.map(|one| row("aws-ofi-nccl", &plugin.version, &one.commit, &one.published)));
    }
    for release in efa_release::releases() {
        let digests = release.sha256.into_iter().chain(release.sha512);
        rows.extend(digests.map(|digest| row("EFA installer", release.version, digest, release.source)));
    }
    rows.into_iter().collect()
}

#[test]
fn the_pins_are_those_that_were_looked_up() {
    let text = include_str!("../../data/published.tsv");
    let looked_up = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [artifact, version, digest, published] = columns[..] else { panic!("`{line}` has not four columns") };
        row(artifact, version, digest, published)
    });
    let looked_up: BTreeSet<Row> = looked_up.collect();
    let pinned = pinned();
    let missing: Vec<_> = pinned.difference(&looked_up).collect();
    let gone: Vec<_> = looked_up.difference(&pinned).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not looked up: {missing:?}; not pinned: {gone:?}");
}

/// Of this one no commit is known: a search of the repository finds the name, and the digest below it.
const SEARCHED: &str = "ai-dynamo/dynamo, test_release13_sglang_efa_stack_is_pinned";

/// `REPOSITORY@COMMIT, PATH`, or the one document that has most of EFA's digests.
#[test]
fn a_publisher_is_a_place_that_can_be_opened() {
    for [artifact, version, _, published] in pinned() {
        if published == "AWS EC2 User Guide, \"Verify the EFA installer\"" {
            continue;
        }
        for place in published.split("; ").filter(|place| *place != SEARCHED) {
            let place = place.strip_prefix("SHA-512: ").unwrap_or(place);
            let parts = place.split_once(", ").and_then(|(tree, path)| Some((tree.split_once('@')?, path)));
            let Some(((repository, commit), path)) = parts else { panic!("{artifact} {version}: {place}") };
            let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(repository.split('/').count() == 2, "{artifact} {version}: {place}");
            assert!(commit.len() >= 12 && hex(commit), "{artifact} {version}: {place}");
            assert!(!path.is_empty(), "{artifact} {version}: {place}");
        }
    }
}
