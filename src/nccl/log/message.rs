//! Owns what NCCL's and the plugin's messages say.
//!
//! NCCL 2.4 to 2.30 (`src/transport/net.cc`, `src/net.cc`, `src/plugin/net.cc`), aws-ofi-nccl 0.9 to 1.21. What proves
//! nothing is not looked at: `NET/Socket : Using [0]eth0` (the bootstrap), `nNodes 2` (one host prints it with P2P and
//! SHM off), `ring PXN 0 GDR 1`, `Loaded net plugin`, `Initializing aws-ofi-nccl` (printed when it then fails).

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::bytes::{after, behind, digits, holds, version};
use super::evidence::Evidence;
use super::failure::{self, PluginFault};
use super::line::{Level, NcclMessage};

/// The names under which aws-ofi-nccl is NCCL's network: up to 1.12.1, from 1.13.0 on, and by `NCCL_NET=OFI`.
pub(crate) const PLUGIN_NAMES: [&str; 3] = ["AWS Libfabric", "Libfabric", "OFI"];

/// The only provider that counts.
pub(crate) const PROVIDER: &str = "efa";

static VIA: LazyLock<Finder> = LazyLock::new(|| Finder::new(" via "));
static GDR: LazyLock<Finder> = LazyLock::new(|| Finder::new("/GDRDMA"));

const DATAGRAMS: &[u8] = b"efa;ofi_rxd";

pub(crate) fn take(evidence: &mut Evidence, message: NcclMessage) {
    evidence.nccl_lines += 1;
    let NcclMessage { process, level, text } = message;
    // Who takes part, whatever it says.
    evidence.process(process);
    if let Some((ranks, _)) = behind(text, " nranks ").and_then(digits) {
        evidence.nranks = evidence.nranks.max(ranks);
    }
    if level == Level::Warn {
        warn(evidence, process, text);
        return;
    }
    match text.first() {
        Some(b'C') if after(text, "Channel ").is_some() => channel(evidence, process, text),
        Some(b'R') if after(text, "Ring ").is_some() => channel(evidence, process, text),
        Some(b'U') => network(evidence, process, text),
        Some(b'N') => named(evidence, process, text),
        Some(b'F') => provider_error(evidence, process, text),
        Some(b'S') => {
            if let Some(path) = after(text, "Successfully loaded external network plugin ") {
                evidence.plugin_path.add(path.trim_ascii());
            }
        }
        Some(b'c') => {
            if let Some((version, _)) = after(text, "cudaDriverVersion ").and_then(digits) {
                evidence.driver_cuda.add(format!("{}.{}", version / 1000, version % 1000 / 10).as_bytes());
            }
        }
        _ => {}
    }
}

fn warn(evidence: &mut Evidence, process: &[u8], text: &[u8]) {
    evidence.add_warning(Some(process), text);
    let (run, provider) = failure::told(text);
    if let Some(at) = run {
        evidence.add_failure(at, &[process, b": ", text].concat());
    }
    let Some(ofi) = after(text, "NET/OFI ") else { return };
    plugin(evidence, process, ofi);
    // What was told as a missing provider is not told again.
    if provider.is_none()
        && let Some(fault) = failure::plugin(ofi)
    {
        let line = evidence.lines;
        if let Some(process) = evidence.process(process) {
            process.add_plugin_fault(fault, text, line);
        }
    }
}

/// `Channel 00/0 : 1[1] -> 0[0] [receive] via NET/Libfabric/0/GDRDMA/Shared`, and the older forms. Most lines of a large
/// log are of this kind.
fn channel(evidence: &mut Evidence, process: &[u8], text: &[u8]) {
    let Some(at) = VIA.find(text) else { return };
    let transport = text[at + VIA.needle().len()..].trim_ascii_end();
    // No transport has one: another process wrote over the line.
    if transport.contains(&b':') {
        evidence.garbled += 1;
        return;
    }
    let Some(net) = transport.strip_prefix(b"NET/") else {
        evidence.add_channel(transport, false);
        return;
    };
    let name = net.iter().position(|b| *b == b'/').unwrap_or(net.len());
    let gdr = GDR.find(&net[name..]).is_some();
    evidence.add_channel(&transport[..name + 4], gdr);
    if let Some(process) = evidence.process(process) {
        process.net_channels += 1;
        process.gdr_channels += u64::from(gdr);
    }
}

/// `Using network AWS Libfabric`; from 2.21 on also `Using internal network plugin.`
fn network(evidence: &mut Evidence, process: &[u8], text: &[u8]) {
    if let Some(name) = after(text, "Using network ") {
        let name = of_a_name(name);
        if name.is_empty() || holds(name, " NCCL ") {
            evidence.garbled += 1;
            return;
        }
        let bit = evidence.networks.add(name);
        if let Some(process) = evidence.process(process) {
            process.networks |= bit;
        }
    } else if after(text, "Using internal network plugin").is_some() {
        missing(evidence, process);
    }
}

fn named(evidence: &mut Evidence, process: &[u8], text: &[u8]) {
    if let Some(ofi) = after(text, "NET/OFI ") {
        plugin(evidence, process, ofi);
    } else if let Some(plugin) = after(text, "NET/Plugin") {
        // 2.5 to 2.18 `NET/Plugin : No plugin found (libnccl-net.so), using internal implementation`, 2.21 without the
        // blank, 2.23 and newer `NET/Plugin: Could not find: libnccl-net.so`. `Failed to find ncclCollNetPlugin_v5
        // symbol` is harmless.
        if holds(plugin, ": No plugin found") || holds(plugin, ": Could not find: ") {
            missing(evidence, process);
        }
    } else if let Some(version) = after(text, "NCCL version ") {
        nccl_version(evidence, version);
    } else if text.starts_with(b"NCCL_") {
        let at = memchr::memmem::find(text, b" set by environment to ");
        if let Some((name, value)) = at.map(|at| (&text[..at], &text[at + b" set by environment to ".len()..])) {
            let value = value.trim_ascii();
            evidence.add_variable(name, value.strip_suffix(b".").unwrap_or(value));
        }
    }
}

/// The text up to the first byte that no network's name has: an envelope may end behind it.
fn of_a_name(text: &[u8]) -> &[u8] {
    let length = text.iter().take_while(|b| b.is_ascii_alphanumeric() || b" ._+/()-".contains(b)).count();
    text[..length].trim_ascii()
}

/// `2.8.3+cuda11.2`: on a line of its own up to about 2.23, later with a prefix on each rank.
pub(crate) fn nccl_version(evidence: &mut Evidence, text: &[u8]) {
    let Some(whole) = version(text.trim_ascii()) else { return };
    let cut = memchr::memmem::find(whole, b"+cuda");
    evidence.nccl.add(&whole[..cut.unwrap_or(whole.len())]);
    if let Some(cut) = cut {
        evidence.cuda.add(&whole[cut + 5..]);
    }
}

fn missing(evidence: &mut Evidence, process: &[u8]) {
    if let Some(process) = evidence.process(process) {
        process.plugin_missing = true;
    }
}

/// What stands after `NET/OFI `.
fn plugin(evidence: &mut Evidence, process: &[u8], text: &[u8]) {
    if let Some(selected) = after(text, "Selected Provider is ").or_else(|| after(text, "Selected provider is ")) {
        provider(evidence, process, selected);
    } else if let Some(version) =
        after(text, "Initializing aws-ofi-nccl ").or_else(|| after(text, "Using aws-ofi-nccl "))
    {
        evidence.plugin.add(super::bytes::version(version.trim_ascii()).unwrap_or(b"unknown"));
    } else if let Some(version) = after(text, "Using Libfabric version ") {
        evidence.libfabric.add(super::bytes::version(version.trim_ascii()).unwrap_or(b"unknown"));
    } else if holds(text, failure::GDR_DISABLED) {
        if let Some(process) = evidence.process(process) {
            process.gdr_disabled = true;
        }
    } else {
        provider_error(evidence, process, text);
    }
}

/// `efa`; `efa;ofi_rxr` in 2019; `efa (found 1 nics)` from 1.6; `efa, fabric is efa-direct (found 8 nics)` from 1.14.
/// The name ends at the first `;`, `,` or blank, and must be `efa`: `tcp;ofi_rxm` has EFA's look otherwise.
fn provider(evidence: &mut Evidence, process: &[u8], selected: &[u8]) {
    let length = selected.iter().take_while(|b| b.is_ascii_alphanumeric() || b"_-+".contains(b)).count();
    // A layer over EFA's datagrams, not EFA's own protocol.
    let length = if selected.starts_with(DATAGRAMS) { DATAGRAMS.len() } else { length };
    let bit = evidence.providers.add(&selected[..length]);
    let nics =
        behind(selected, "(found ").and_then(digits).filter(|(_, rest)| rest.starts_with(b" nic")).map(|(n, _)| n);
    if let Some(process) = evidence.process(process) {
        process.providers |= bit;
        process.nics = nics.or(process.nics);
        // What failed before was a try.
        process.plugin_fault.take_if(|(fault, ..)| *fault == PluginFault::Start);
    }
}

fn provider_error(evidence: &mut Evidence, process: &[u8], text: &[u8]) {
    let Some(at) = failure::told(text).1 else { return };
    if let Some(process) = evidence.process(process) {
        process.provider_error = Some(process.provider_error.map_or(at, |known| known.min(at)));
    }
}
