//! Owns what is asked of every node before anything runs on the cluster, and what is wrong with the answers: what a type
//! must have, and what must be the same everywhere. Knows nothing of connections.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::nccl::fi_info;
use crate::plan::RELEASE_FILE;

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
    /// Versions of the components by name, as efa-gen's release file has them.
    pub versions: BTreeMap<String, String>,
    /// Its clock against ours, milliseconds; the way of the answer is in it.
    pub clock_ms: i64,
    /// Fellows that it can't log in to, by address.
    pub unreachable: Vec<String>,
}

/// What every node must have.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// EFA devices.
    pub efa: u64,
    /// GPUs.
    pub gpus: u64,
}

/// The command line that a node answers; `fellows` are the addresses that it must be able to log in to, so many `at_once`.
pub fn question(fellows: &[&str], at_once: usize) -> String {
    // What ssh says is not needed: who answers is what counts.
    let reach = format!(
        "printf '%s\\n' {} | xargs -r -P {at_once} -I @ sh -c 'ssh -o BatchMode=yes -o ConnectTimeout=10 @ true </dev/null >/dev/null 2>&1 || echo @'",
        fellows.join(" ")
    );
    let sections = [
        ("clock", "date +%s%3N"),
        ("hostname", "hostname"),
        ("kernel", "uname -r"),
        ("memlock", "ulimit -l"),
        ("efa", "/opt/amazon/efa/bin/fi_info -p efa -t FI_EP_RDM 2>&1"),
        ("gpus", "nvidia-smi --query-gpu=driver_version,name --format=csv,noheader 2>&1"),
        ("release", &format!("cat {RELEASE_FILE} 2>/dev/null")),
        ("unreachable", if fellows.is_empty() { ":" } else { &reach }),
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
    let first = |name: &str| of(name).first().copied().unwrap_or_default().to_owned();
    // `FIELD, NAME`; without a driver nvidia-smi says something else, or the shell does.
    let gpus: Vec<(&str, &str)> = of("gpus").iter().filter_map(|line| line.split_once(", ")).collect();
    let versioned = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    Some(Facts {
        hostname: first("hostname"),
        kernel: first("kernel"),
        memlock_kib: match first("memlock").as_str() {
            "unlimited" => None,
            limit => Some(limit.parse().unwrap_or(0)),
        },
        efa: fi_info::parse(of("efa").join("\n").as_bytes()).nics.len() as u64,
        driver: gpus.first().filter(|(driver, _)| versioned(driver)).map(|(driver, _)| (*driver).to_owned()),
        gpus: gpus.iter().filter(|(driver, _)| versioned(driver)).map(|(_, name)| (*name).to_owned()).collect(),
        versions: versions(&of("release").join("\n")),
        clock_ms: first("clock").parse::<i64>().ok()? - received,
        unreachable: of("unreachable").into_iter().filter(|line| !line.is_empty()).map(str::to_owned).collect(),
    })
}

/// Versions by component, of a release file. A machine that efa-gen did not install has none.
pub fn versions(release: &str) -> BTreeMap<String, String> {
    let parsed: Vec<BTreeMap<String, Option<String>>> = serde_json::from_str(release).unwrap_or_default();
    let one = |mut component: BTreeMap<String, Option<String>>| {
        Some((component.remove("name")??, component.remove("version")??))
    };
    parsed.into_iter().filter_map(one).collect()
}

/// What is wrong: which node, and what. A node that differs from most of its fellows is the one that is named.
pub fn findings(nodes: &[(String, Facts)], expect: &Expect) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut clocks: Vec<i64> = nodes.iter().map(|(_, facts)| facts.clock_ms).collect();
    clocks.sort_unstable();
    // Our own clock is nobody's concern. Where most do not agree, it is not known which one is wrong.
    let median = clocks.get(clocks.len() / 2).copied().unwrap_or(0);
    let most_agree = 2 * clocks.iter().filter(|clock| (**clock - median).abs() <= CLOCK_MS).count() > clocks.len();
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
        let off = facts.clock_ms - usual;
        if off.abs() > CLOCK_MS {
            let late = if off < 0 { "slow" } else { "fast" };
            add(node, format!("its clock is {} ms {late} against {whose}", off.abs()));
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
    same("driver", &|facts| facts.driver.clone().unwrap_or_else(|| "none".into()));
    same("GPUs", &|facts| facts.gpus.join(", "));
    let components: BTreeSet<&String> = nodes.iter().flat_map(|(_, facts)| facts.versions.keys()).collect();
    for name in components {
        same(name, &|facts| facts.versions.get(name).cloned().unwrap_or_else(|| "none".into()));
    }
    found
}
