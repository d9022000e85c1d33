//! What `fi_info` of any age says of a host. Our own samples are fixtures; other people's are read where they
//! are, by tests that are ignored unless they are asked for.

use std::fs;

use crate::support::nccl::{fixture, shared};
use efa_gen::nccl::fi_info;

/// Blocks, EFA's, NICs, failed.
fn blocks(text: &[u8]) -> (u64, u64, usize, bool) {
    let info = fi_info::parse(text);
    (info.blocks, info.efa_blocks, info.nics.len(), info.failed)
}

#[test]
fn fi_info_without_efa() {
    assert_eq!(blocks(fixture("fi_info-efa-absent.txt").0.as_bytes()), (0, 0, 0, true));
    assert_eq!(blocks(fixture("fi_info-tcp.txt").0.as_bytes()), (10, 0, 0, false));
}

#[test]
#[ignore = "reads other people's samples, in the folder that EFA_GEN_SHARED names"]
fn fi_info_of_any_age() {
    let folder = shared("fi-info");
    for (name, wanted) in [
        ("2020-p3dn-v2.0-three-blocks.txt", (3, 1, 1, false)),
        ("p4d-v111.0-aws-docs-indentation-lost.txt", (4, 4, 4, false)),
        ("p4d-v111.20-four-nics.txt", (4, 4, 4, false)),
        ("g4dn-v116.10-mpi-tagged.txt", (2, 2, 1, false)),
        ("p5-v120.10-mpi-tagged.excerpt.txt", (2, 2, 2, false)),
        ("v201.0-efa-direct-three-blocks.txt", (3, 2, 1, false)),
        ("failure-no-device-libfabric-lt-1.19.stderr.txt", (0, 0, 0, true)),
        ("failure-no-device-libfabric-ge-1.19.stderr.txt", (0, 0, 0, true)),
    ] {
        assert_eq!(blocks(&fs::read(folder.join(name)).expect("it is there")), wanted, "{name}");
    }
}
