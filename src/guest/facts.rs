//! Owns what is asked of every node before anything runs on the cluster, and what is wrong with the answers: what a
//! type must have, and what must be the same everywhere.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::release::versions;
use crate::catalog::instance_type::Fabric;
use crate::nccl::fi_info;
use crate::plan::{CUDA_CONTEXTS, RELEASE_FILE};
use crate::text::{clean, ending};

/// What a program that registers memory with EFA needs of the memlock limit, KiB (16 GiB: aws/aws-ofi-nccl#141).
const MEMLOCK_KIB: u64 = 16 << 20;

/// Clocks further apart than this make logs of several nodes useless, milliseconds.
const CLOCK_MS: i64 = 2_000;

/// What one node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// What it calls itself: so does NCCL in its logs.
    pub hostname: String,
    /// `uname -r`.
    pub kernel: String,
    /// Memlock limit of a session without a login, KiB; `None` is unlimited.
    pub memlock_kib: Option<u64>,
    /// EFA devices that libfabric can use.
    pub efa: u64,
    /// Models of the GPUs.
    pub gpus: Vec<String>,
    /// Version of the NVIDIA driver, where there is one.
    pub driver: Option<String>,
    /// Flavour of the loaded nvidia module, `open` or `proprietary`; absent where none is loaded.
    pub module: Option<String>,
    /// GPUs on which a CUDA context could be made; absent where the image has no program that makes them.
    pub cuda_contexts: Option<u64>,
    /// What CUDA said when it failed.
    pub cuda_error: Option<String>,
    /// GPUs in persistence mode; absent where nvidia-smi does not tell.
    pub persistent: Option<u64>,
    /// What systemd says of the fabric manager's unit; absent where it says nothing.
    pub fabric_manager: Option<String>,
    /// Of each GPU that tells, the state and the status of its registration with the fabric.
    pub fabric: Vec<(String, String)>,
    /// Of each EFA device that tells, what gives it GPU memory; empty for none.
    pub peer_to_peer: Vec<String>,
    /// Versions of the components by name, as efa-gen's release file has them.
    pub versions: BTreeMap<String, String>,
    /// Its clock against ours, milliseconds; the way of the answer is in it.
    pub clock_ms: i64,
    /// Fellows that it can't log in to, by address.
    pub unreachable: Vec<String>,
}

/// What every node must have.
#[derive(Debug, Clone, Copy)]
pub struct NodeRequirements {
    /// EFA devices.
    pub efa: u64,
    /// GPUs.
    pub gpus: u64,
    /// What connects the GPUs.
    pub fabric: Fabric,
    /// Whether the GPUs do not register with it.
    pub unregistered: bool,
    /// Whether GPUs and EFA exchange data without the CPU.
    pub gpudirect: bool,
}

/// Waits, a minute and a half at most, until the boot is over and the fabric has taken the GPUs: a login is often there before
/// the persistence daemon and the fabric manager are.
const SETTLE: &str = "end=$(($(date +%s) + 90)); while [ $(date +%s) -lt $end ]; do \
    { systemctl is-system-running 2>/dev/null | grep -q -x -e starting -e initializing; } || \
    { timeout 20 nvidia-smi -q 2>/dev/null | grep -A 1 '^ *Fabric *$' | grep -q 'In Progress'; } || break; sleep 2; done";

/// The command line that a node answers; `peers` are the addresses that it must be able to log in to, so many `at_once`.
pub fn question(peers: &[&str], at_once: usize) -> String {
    // What ssh says is not needed: who answers is what counts.
    let reach = format!(
        "printf '%s\\n' {} | xargs -r -P {at_once} -I @ sh -c 'ssh -o BatchMode=yes -o ConnectTimeout=10 @ true </dev/null >/dev/null 2>&1 || echo @'",
        peers.join(" ")
    );
    let sections = [
        ("clock", "date +%s%3N"),
        ("settled", SETTLE),
        ("hostname", "hostname"),
        ("kernel", "uname -r"),
        ("memlock", "ulimit -l"),
        ("efa", "/opt/amazon/efa/bin/fi_info -p efa -t FI_EP_RDM 2>&1"),
        ("gpus", "nvidia-smi --query-gpu=driver_version,name --format=csv,noheader 2>&1"),
        ("module", "head -n 1 /proc/driver/nvidia/version 2>/dev/null"),
        ("persistence", "nvidia-smi --query-gpu=persistence_mode --format=csv,noheader 2>&1"),
        ("fabric-manager", "systemctl is-active nvidia-fabricmanager 2>/dev/null"),
        ("fabric", "nvidia-smi -q 2>/dev/null | grep -A 2 '^ *Fabric *$'"),
        (
            "cuda-contexts",
            &format!("[ ! -x {CUDA_CONTEXTS} ] || timeout 100 {CUDA_CONTEXTS} 2>&1 || echo \"failed: $?\""),
        ),
        (
            "peer-to-peer",
            "for f in /sys/class/infiniband/*/device/p2p; do [ ! -r \"$f\" ] || echo \"p2p: $(cat \"$f\")\"; done",
        ),
        ("release", &format!("cat {RELEASE_FILE} 2>/dev/null")),
        ("unreachable", if peers.is_empty() { ":" } else { &reach }),
        ("end", ":"),
    ];
    let lines: Vec<String> = sections.iter().map(|(name, line)| format!("echo '=== {name}'; {line}")).collect();
    lines.join("; ")
}

/// Reads the answer; `None` if it breaks off. `received` is our own clock when its first line came, milliseconds since 1970.
pub fn read(answer: &str, received: i64) -> Option<Facts> {
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = "";
    for line in answer.lines() {
        match line.strip_prefix("=== ") {
            Some(name) => {
                current = name.trim();
                sections.entry(current).or_default();
            }
            None => sections.entry(current).or_default().push(line.trim()),
        }
    }
    sections.get("end")?;
    let of = |name: &str| sections.get(name).cloned().unwrap_or_default();
    // Findings repeat what a node says.
    let value = |text: &str| clean(text.as_bytes());
    let first = |name: &str| of(name).first().map(|line| value(line)).unwrap_or_default();
    // `FIELD, NAME`; without a driver nvidia-smi says something else, or the shell does.
    let gpus: Vec<(&str, &str)> = of("gpus").iter().filter_map(|line| line.split_once(", ")).collect();
    // No longer than a finding may be.
    let quoted = |text: &str| value(&ending(text));
    let fabric = of("fabric");
    let told = |name: &str| fabric.iter().filter_map(move |line| key(line, name)).map(quoted).collect::<Vec<_>>();
    let persistence: Vec<&str> = of("persistence").into_iter().filter(|mode| MODES.contains(mode)).collect();
    let contexts = of("cuda-contexts");
    let versioned = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    Some(Facts {
        hostname: first("hostname"),
        kernel: first("kernel"),
        memlock_kib: match first("memlock").as_str() {
            "unlimited" => None,
            limit => Some(limit.parse().unwrap_or(0)),
        },
        efa: fi_info::parse(of("efa").join("\n").as_bytes()).nics.len() as u64,
        driver: gpus.first().filter(|(driver, _)| versioned(driver)).map(|(driver, _)| value(driver)),
        gpus: gpus.iter().filter(|(driver, _)| versioned(driver)).map(|(_, name)| value(name)).collect(),
        module: of("module")
            .first()
            .filter(|line| line.contains("NVIDIA"))
            .map(|line| if line.contains("Open Kernel Module") { "open" } else { "proprietary" }.to_owned()),
        cuda_contexts: (!contexts.is_empty()).then(|| contexts.iter().filter(|line| is_context(line)).count() as u64),
        // The program's own exit status comes after what it said.
        cuda_error: contexts.iter().find(|line| line.contains("failed")).map(|line| quoted(line)),
        persistent: (!persistence.is_empty())
            .then(|| persistence.iter().filter(|mode| **mode == MODES[0]).count() as u64),
        fabric_manager: of("fabric-manager").first().map(|word| quoted(word)),
        fabric: told("State").into_iter().zip(told("Status")).collect(),
        peer_to_peer: of("peer-to-peer").iter().filter_map(|line| key(line, "p2p")).map(quoted).collect(),
        versions: versions(&of("release").join("\n")).iter().map(|(name, is)| (value(name), value(is))).collect(),
        clock_ms: first("clock").parse::<i64>().ok()?.saturating_sub(received),
        unreachable: of("unreachable").into_iter().filter(|line| !line.is_empty()).map(value).collect(),
    })
}

/// What nvidia-smi says of a GPU's persistence mode: that it is on, or off.
const MODES: [&str; 2] = ["Enabled", "Disabled"];

/// A GPU's registration that is complete.
const REGISTERED: (&str, &str) = ("Completed", "Success");

/// That of a GPU whose generation does not register: the fabric manager alone sets its NVSwitches up.
const NOT_REGISTERING: (&str, &str) = ("N/A", "N/A");

/// A line of the program that makes a CUDA context on every GPU.
fn is_context(line: &str) -> bool {
    line.starts_with("GPU ") && line.contains(": context on ")
}

/// The value of a line `KEY : VALUE`, however far apart.
fn key<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim)
}

/// What is wrong with a node's GPUs: each a sentence's end.
fn gpu_findings(facts: &Facts, expect: &NodeRequirements) -> Vec<String> {
    let mut found = Vec::new();
    if expect.gpus == 0 {
        return found;
    }
    let gpus = expect.gpus;
    if let Some(count) = facts.cuda_contexts.filter(|count| *count != gpus) {
        let error = facts.cuda_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        found.push(format!("CUDA makes a context on {count} of its {gpus} GPUs{error}"));
    }
    // An image that has no program for that has no persistence daemon of efa-gen's either.
    if let Some(count) = facts.persistent.filter(|count| *count != gpus && facts.cuda_contexts.is_some()) {
        found
            .push(format!("{count} of its {gpus} GPUs are in persistence mode (systemctl status nvidia-persistenced)"));
    }
    if expect.fabric.is_managed_here() {
        if let Some(state) = facts.fabric_manager.as_ref().filter(|state| *state != "active") {
            found.push(format!("its GPUs are connected by NVSwitches, and the fabric manager is {state}"));
        }
        let is = |state: &(String, String), wanted: (&str, &str)| (state.0.as_str(), state.1.as_str()) == wanted;
        let good =
            |state: &&(String, String)| is(state, REGISTERED) || expect.unregistered && is(state, NOT_REGISTERING);
        if let Some((state, status)) = facts.fabric.iter().find(|state| !good(state)) {
            found.push(format!("a GPU's registration with the fabric is \"{state}\", status \"{status}\""));
        }
    }
    if let Some(name) = facts.peer_to_peer.iter().find(|name| expect.gpudirect && !name.starts_with("NVIDIA")) {
        let name = if name.is_empty() { "nothing" } else { name };
        found.push(format!("{name} gives EFA its GPUs' memory, not NVIDIA's driver (dmesg on efa_nv_peermem)"));
    }
    found
}

/// What a node did not tell, so that nothing is known of it: which node, and what.
pub fn not_read(nodes: &[(String, Facts)], expect: &NodeRequirements) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (node, facts) in nodes.iter().filter(|_| expect.gpus > 0) {
        let mut missing = Vec::new();
        if facts.cuda_contexts.is_none() {
            missing.push(format!("CUDA contexts (its image has no {CUDA_CONTEXTS})"));
        }
        if facts.persistent.is_none() {
            missing.push("persistence mode".into());
        }
        if expect.fabric.is_managed_here() {
            missing.extend(facts.fabric_manager.is_none().then(|| "the fabric manager's state".into()));
            missing.extend(facts.fabric.is_empty().then(|| "the fabric's state".into()));
        }
        missing.extend((expect.gpudirect && facts.peer_to_peer.is_empty()).then(|| "what gives EFA GPU memory".into()));
        if !missing.is_empty() {
            found.push((node.clone(), format!("not read: {}", missing.join(", "))));
        }
    }
    found
}

/// What is wrong: which node, and what. A node that differs from most of its peers is the one that is named.
pub fn findings(nodes: &[(String, Facts)], expect: &NodeRequirements) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut clocks: Vec<i64> = nodes.iter().map(|(_, facts)| facts.clock_ms).collect();
    clocks.sort_unstable();
    // Our own clock is nobody's concern. Where most do not agree, it is not known which one is wrong.
    let median = clocks.get(clocks.len() / 2).copied().unwrap_or(0);
    let most_agree =
        2 * clocks.iter().filter(|clock| clock.saturating_sub(median).saturating_abs() <= CLOCK_MS).count()
            > clocks.len();
    let (usual, whose) = match nodes.first() {
        Some((first, facts)) if !most_agree => {
            (facts.clock_ms, format!("{first}'s; which of them is wrong is not known"))
        }
        _ => (median, "most of the others'".to_owned()),
    };
    let mut add = |node: &str, what: String| found.push((node.to_owned(), what));
    for (node, facts) in nodes {
        if let Some(limit) = facts.memlock_kib.filter(|limit| *limit < MEMLOCK_KIB) {
            add(node, format!("may lock {limit} KiB of memory: EFA needs 16 GiB or unlimited (limits.d, sshd's PAM)"));
        }
        if facts.efa != expect.efa {
            add(node, format!("libfabric finds {} EFA devices, the launch gave it {}", facts.efa, expect.efa));
        }
        if facts.gpus.len() as u64 != expect.gpus {
            add(node, format!("the driver finds {} GPUs, its type has {}", facts.gpus.len(), expect.gpus));
        }
        gpu_findings(facts, expect).into_iter().for_each(|what| add(node, what));
        let off = facts.clock_ms.saturating_sub(usual);
        if off.saturating_abs() > CLOCK_MS {
            let late = if off < 0 { "slow" } else { "fast" };
            add(node, format!("its clock is {} ms {late} against {whose}", off.unsigned_abs()));
        }
        if !facts.unreachable.is_empty() {
            add(node, format!("can't log in to {}", facts.unreachable.join(" ")));
        }
    }
    let mut same = |what: &str, value: &dyn Fn(&Facts) -> String| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        nodes.iter().for_each(|(_, facts)| *counts.entry(value(facts)).or_default() += 1);
        let Some((usual, _)) = counts.iter().max_by_key(|(_, count)| **count) else { return };
        for (node, facts) in nodes.iter().filter(|(_, facts)| value(facts) != *usual) {
            found.push((node.clone(), format!("{what}: {}, the others have {usual}", value(facts))));
        }
    };
    same("kernel", &|facts| facts.kernel.clone());
    same("nvidia module", &|facts| facts.module.clone().unwrap_or_else(|| "none".into()));
    same("driver", &|facts| facts.driver.clone().unwrap_or_else(|| "none".into()));
    same("GPUs", &|facts| facts.gpus.join(", "));
    let components: BTreeSet<&String> = nodes.iter().flat_map(|(_, facts)| facts.versions.keys()).collect();
    for name in components {
        same(name, &|facts| facts.versions.get(name).cloned().unwrap_or_else(|| "none".into()));
    }
    found
}
