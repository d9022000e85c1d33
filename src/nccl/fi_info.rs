//! Owns the output of `fi_info`: whether a host has EFA, and how many NICs.
//!
//! Blocks of `provider, fabric, domain, version, type, protocol` (ofiwg/libfabric `util/info.c`); indentation may be lost,
//! and mpirun may tag lines. Failure goes to standard error: `fi_getinfo: -61`, from 1.19 on `(No data available)` after
//! it. From 2.1.0 on the fabric `efa-direct` doubles the blocks, so NICs are domains, not blocks.

use std::collections::BTreeSet;

use super::log::bytes::holds;
use super::log::line::bare;
use crate::text::clean;

/// What `fi_info` says of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FiInfo {
    /// All blocks.
    pub blocks: u64,
    /// Blocks that prove EFA: provider exactly `efa`, type `FI_EP_RDM`, protocol `FI_PROTO_EFA`.
    pub efa_blocks: u64,
    /// Domains of those: one a NIC.
    pub nics: BTreeSet<String>,
    /// It failed: no provider has a device.
    pub failed: bool,
}

#[derive(Default)]
struct Block {
    provider: String,
    domain: String,
    kind: String,
    protocol: String,
}

/// Reads the output, standard error included.
pub fn parse(output: &[u8]) -> FiInfo {
    let mut info = FiInfo::default();
    let mut block = Block::default();
    for line in output.split(|b| *b == b'\n') {
        let line = bare(line).trim_ascii();
        info.failed |= holds(line, "fi_getinfo: -");
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let value = clean(&line[colon + 1..]);
        match &line[..colon] {
            b"provider" => {
                end(&mut info, std::mem::replace(&mut block, Block { provider: value, ..Block::default() }));
            }
            b"domain" => block.domain = value,
            b"type" => block.kind = value,
            b"protocol" => block.protocol = value,
            _ => {}
        }
    }
    end(&mut info, block);
    info
}

fn end(info: &mut FiInfo, block: Block) {
    info.blocks += u64::from(!block.provider.is_empty());
    if block.provider == "efa" && block.kind == "FI_EP_RDM" && block.protocol == "FI_PROTO_EFA" {
        info.efa_blocks += 1;
        info.nics.insert(block.domain);
    }
}
