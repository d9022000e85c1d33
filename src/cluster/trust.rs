//! Owns the files by which the nodes of a cluster reach each other without a prompt and without believing a stranger: the
//! hostfile, the known host keys, the block of ssh's configuration. Knows nothing of how they get there.

use std::fmt::Write as _;

/// Between these lines of ssh's configuration everything is efa-gen's; what is around them is the user's own.
pub const BEGIN: &str = "# efa-gen: begin of the cluster";
/// The last of them.
pub const END: &str = "# efa-gen: end of the cluster";

const SETTINGS: [&str; 7] = [
    "IdentityFile ~/.ssh/efa-gen-cluster",
    "IdentitiesOnly yes",
    "UserKnownHostsFile ~/.ssh/efa-gen-known-hosts",
    "StrictHostKeyChecking yes",
    "PasswordAuthentication no",
    "ForwardAgent no",
    // A tenth of the default's CPU time, which counts when one node starts ranks on hundreds. OpenSSH before 7.4 refuses a
    // configuration with the name that has no `@`, and some distribution of ours has 7.2.
    "KexAlgorithms curve25519-sha256@libssh.org",
];

/// What a node's fellows know of it.
#[derive(Debug, Clone)]
pub struct Node {
    /// Private IPv4 address.
    pub address: String,
    /// Public host keys, `type base64`.
    pub host_keys: Vec<String>,
}

/// Open MPI's hostfile: the addresses in the cluster's order, each with so many slots.
pub fn hostfile(nodes: &[Node], slots: u32) -> String {
    nodes.iter().map(|node| format!("{} slots={slots}\n", node.address)).collect()
}

/// The known host keys of every node, for ssh by address.
pub fn known_hosts(nodes: &[Node]) -> String {
    let lines = nodes.iter().flat_map(|node| node.host_keys.iter().map(|key| format!("{} {key}\n", node.address)));
    lines.collect()
}

/// Addresses on one `Host` line: ssh before OpenSSH 7.8 takes no line of 1,024 characters.
const ON_A_LINE: usize = 50;

/// The block of `~/.ssh/config` for the cluster's addresses, and for nothing else. `name` is the cluster's.
pub fn ssh_config(name: &str, nodes: &[Node]) -> String {
    let mut text = format!("{BEGIN}\n# {name}: its own key and its nodes' own host keys, for these addresses alone.\n");
    for nodes in nodes.chunks(ON_A_LINE) {
        let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
        let _ = writeln!(text, "Host {}", addresses.join(" "));
        for line in SETTINGS {
            let _ = writeln!(text, "  {line}");
        }
    }
    // What comes after the block is for every host again.
    text + "Host *\n" + END + "\n"
}
