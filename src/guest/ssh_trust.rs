//! Owns the files by which the nodes of a cluster reach each other without a prompt and without believing a stranger:
//! the hostfile, the known host keys, the block of ssh's configuration, the authorized key.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::LazyLock;

use serde::Serialize;

use crate::error::{Class, Error, Result};
use crate::template::Template;

/// Between these lines of ssh's configuration everything is efa-gen's; what is around them is the user's own.
pub const BEGIN: &str = "# efa-gen: begin of the cluster";
/// The last of them.
pub const END: &str = "# efa-gen: end of the cluster";

/// How the two sides of a connection agree on its key, by names that every ssh and sshd since 6.5 knows: OpenSSH before 7.4
/// refuses a whole list for the name of curve25519 that has no `@`, and some distribution of ours has 7.2. The first takes a
/// tenth of the CPU time of the default, which counts when one node starts ranks on hundreds; who may use NIST's curves
/// alone, as FIPS 140 has it, takes the second.
pub const KEY_EXCHANGES: &str = "curve25519-sha256@libssh.org,ecdh-sha2-nistp256";
/// The same for a machine in FIPS mode, whose ssh may refuse a list with another name in it.
pub const KEY_EXCHANGES_OF_FIPS: &str = "ecdh-sha2-nistp256";

const SETTINGS: [&str; 6] = [
    "IdentityFile ~/.ssh/efa-gen-cluster",
    "IdentitiesOnly yes",
    "UserKnownHostsFile ~/.ssh/efa-gen-known-hosts",
    "StrictHostKeyChecking yes",
    "PasswordAuthentication no",
    "ForwardAgent no",
];

const EXCHANGE: &str = "KexAlgorithms";

/// What an efa-gen before this one wrote there.
const FORMER_EXCHANGES: &str = "curve25519-sha256@libssh.org";

/// What a node's peers know of it.
#[derive(Debug, Clone)]
pub struct TrustedNode {
    /// Private IPv4 address.
    pub address: String,
    /// Public host keys, `type base64`.
    pub host_keys: Vec<String>,
}

/// Open MPI's hostfile: the addresses in the cluster's order, each with so many slots.
pub fn hostfile(nodes: &[TrustedNode], slots: u32) -> String {
    nodes.iter().map(|node| format!("{} slots={slots}\n", node.address)).collect()
}

/// The known host keys of every node, for ssh by address.
pub fn known_hosts(nodes: &[TrustedNode]) -> String {
    let lines = nodes.iter().flat_map(|node| node.host_keys.iter().map(|key| format!("{} {key}\n", node.address)));
    lines.collect()
}

/// Addresses on one `Host` line: ssh before OpenSSH 7.8 takes no line of 1,024 characters.
const ON_A_LINE: usize = 50;

/// The block of `~/.ssh/config` for the cluster's addresses, and for nothing else. `name` is the cluster's.
pub fn ssh_config(name: &str, nodes: &[TrustedNode]) -> String {
    let mut text = format!("{BEGIN}\n# {name}: its own key and its nodes' own host keys, for these addresses alone.\n");
    for nodes in nodes.chunks(ON_A_LINE) {
        let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
        let _ = writeln!(text, "Host {}", addresses.join(" "));
        for line in SETTINGS {
            let _ = writeln!(text, "  {line}");
        }
        let _ = writeln!(text, "  {EXCHANGE} {KEY_EXCHANGES}");
    }
    // What comes after the block is for every host again.
    text + "Host *\n" + END + "\n"
}

static TRUST: LazyLock<Template> =
    LazyLock::new(|| Template::new("guest/trust.sh", include_str!("../../templates/guest/trust.sh"), escape));

/// What a node gets so that its peers trust it, and it them.
#[derive(Serialize)]
pub struct Trust<'a> {
    /// The cluster's.
    pub name: &'a str,
    /// The cluster's private key, as OpenSSH keeps it.
    pub private: &'a str,
    /// Known host keys of every node.
    pub known_hosts: &'a str,
    /// The block of ssh's configuration.
    pub ssh_config: &'a str,
    /// Open MPI's.
    pub hostfile: &'a str,
}

/// The script that makes a node one of the cluster. It holds a secret: it goes to a node's standard input and nowhere else.
pub fn trust(of: &Trust) -> Result<String> {
    #[derive(Serialize)]
    struct TrustView<'a> {
        #[serde(flatten)]
        of: &'a Trust<'a>,
        end: &'a str,
        begin_block: &'a str,
        end_block: &'a str,
        /// Of a section of ours, `|` between them.
        settings: String,
        exchange: &'a str,
        /// What this efa-gen and those before it wrote last in a section.
        exchanges: [&'a str; 3],
        of_fips: &'a str,
    }
    TRUST.fill(&TrustView {
        of,
        end: HEREDOC,
        begin_block: BEGIN,
        end_block: END,
        settings: SETTINGS.join("|"),
        exchange: EXCHANGE,
        exchanges: [KEY_EXCHANGES, KEY_EXCHANGES_OF_FIPS, FORMER_EXCHANGES],
        of_fips: KEY_EXCHANGES_OF_FIPS,
    })
}

const HEREDOC: &str = "EFA-GEN-END";

static ADMISSION: LazyLock<Template> =
    LazyLock::new(|| Template::new("guest/admission.sh", include_str!("../../templates/guest/admission.sh"), escape));

/// Whom the nodes of a cluster let in.
#[derive(Debug, Clone)]
pub struct Admission<'a> {
    /// The cluster's.
    pub name: &'a str,
    /// The public half of the cluster's key, one line of OpenSSH whose comment is [`key_comment`].
    pub public: &'a str,
    /// Every private address of every node: a login may come from any interface.
    pub sources: &'a [String],
    /// Whether keys that the cluster had before are let in still.
    pub former: bool,
}

/// The comment by which a cluster's key is known among others.
pub fn key_comment(name: &str) -> String {
    format!("efa-gen cluster {name}")
}

/// Lines of `authorized_keys` that let the key in from these addresses alone, and forward nothing for it. A terminal it
/// gets: people log in from node to node.
fn authorized_keys(public: &str, sources: &[String]) -> String {
    // sshd before OpenSSH 7.9 takes no line of 8,192 characters; it tries each line of the same key.
    let lines = sources.chunks(ON_A_LINE).map(|sources| {
        format!("from=\"{}\",no-agent-forwarding,no-port-forwarding,no-X11-forwarding {public}\n", sources.join(","))
    });
    lines.collect()
}

/// The script by which a node lets the cluster's key in. What else its user lets in stays.
pub fn admission(of: &Admission) -> Result<String> {
    #[derive(Serialize)]
    struct AdmissionView<'a> {
        name: &'a str,
        lines: String,
        gone: &'a str,
        end: &'a str,
    }
    let public = of.public.trim();
    let comment = format!(" {}$", key_comment(of.name));
    // Without its key there is nothing to let in, and no line may match everything.
    let blob = public.split(' ').nth(1).filter(|blob| blob.len() > 32);
    let blob = blob.ok_or_else(|| Error::new(Class::Bug, "the cluster's public key is not a line of OpenSSH"))?;
    ADMISSION.fill(&AdmissionView {
        name: of.name,
        lines: authorized_keys(public, of.sources),
        gone: if of.former { blob } else { &comment },
        end: HEREDOC,
    })
}

/// The command line that takes a cluster's keys from root, for whom cloud-init lets in whoever the login user does.
pub fn forget_roots_keys(name: &str) -> String {
    let file = "/root/.ssh/authorized_keys";
    format!("sudo sh -c '[ ! -f {file} ] || sed -i \"/ {}\\$/d\" {file}'", key_comment(name))
}

/// Nothing is escaped: a cluster's name, keys and addresses need none.
fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    output.write_all(text.as_bytes())
}
