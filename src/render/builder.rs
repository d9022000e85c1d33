//! Owns the user-data of a machine that efa-gen drives itself, a builder or a node of a cluster, and the marks by which it
//! speaks on the serial console. Knows nothing of plans: the same for every distribution.

use std::io::Write;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::template::Template;
use crate::cluster::trust::{BEGIN, END};
use crate::error::Result;

static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    Template::new("builder/user-data.sh", include_str!("../../templates/builder/user-data.sh"), escape)
});

static TRUST: LazyLock<Template> =
    LazyLock::new(|| Template::new("builder/trust.sh", include_str!("../../templates/builder/trust.sh"), escape));

/// The longest pause before the host keys are printed once more, seconds; each is twice the one before.
const LAST_PAUSE: u32 = 320;

/// What a node gets so that its fellows trust it, and it them.
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
    struct View<'a> {
        #[serde(flatten)]
        of: &'a Trust<'a>,
        end: &'a str,
        begin_block: &'a str,
        end_block: &'a str,
    }
    TRUST.fill(&View { of, end: "EFA-GEN-END", begin_block: BEGIN, end_block: END })
}

#[derive(Serialize)]
struct View {
    about: Vec<String>,
    deadline: i64,
    longest: i64,
    keys_begin: String,
    keys_end: String,
    last_pause: u32,
}

/// Whose user-data it is.
#[derive(Debug, Clone, Copy)]
pub enum Machine<'a> {
    /// An image is made of it, or tested on it.
    Builder,
    /// A node of the cluster with this name.
    Node(&'a str),
}

/// A cloud-boothook that ends the machine at `deadline` (seconds since 1970), at most `longest` seconds after a boot, and
/// prints its public host keys to the console. `run` is the run's id.
pub fn user_data(machine: Machine, run: &str, deadline: i64, longest: i64) -> Result<String> {
    let about = match machine {
        Machine::Builder => vec![
            format!(
                "The builder of run {run}, at each of its boots. Nothing of this is in the image: cloud-init keeps it below"
            ),
            "/var/lib/cloud/instance, which the seal removes.".to_owned(),
        ],
        Machine::Node(name) => vec![format!("A node of cluster {name}, run {run}, at each of its boots.")],
    };
    TEMPLATE.fill(&View {
        about,
        deadline,
        longest,
        keys_begin: mark("BEGIN HOST KEYS", run),
        keys_end: mark("END HOST KEYS", run),
        last_pause: LAST_PAUSE,
    })
}

/// The user-data of a cluster's node: the boothook, the cluster's public key for the login user, and whatever installs the
/// machine at its first boot (`#cloud-config`), if anything does.
pub fn of_node(boothook: &str, public: &str, install: Option<&str>) -> String {
    let trust = serde_json::json!({"ssh_authorized_keys": [public]});
    let mut parts = vec![
        serde_json::json!({"type": "text/cloud-boothook", "content": boothook}),
        serde_json::json!({"type": "text/cloud-config", "content": format!("#cloud-config\n{trust}\n")}),
    ];
    parts.extend(install.map(|text| serde_json::json!({"type": "text/cloud-config", "content": text})));
    archive(&parts)
}

/// The same, and a host key that cloud-init installs. Whoever may read the user-data can then play the builder.
pub fn with_host_key(boothook: &str, private: &str, public: &str) -> String {
    let config = serde_json::json!({"ssh_keys": {"ed25519_private": private, "ed25519_public": public}});
    archive(&[
        serde_json::json!({"type": "text/cloud-boothook", "content": boothook}),
        serde_json::json!({"type": "text/cloud-config", "content": format!("#cloud-config\n{config}\n")}),
    ])
}

/// JSON is YAML, and cloud-init from 0.6 on knows the archive.
fn archive(parts: &[serde_json::Value]) -> String {
    format!("#cloud-config-archive\n{}\n", serde_json::Value::from(parts))
}

/// The public keys, one line of OpenSSH each, that the console shows whole between the run's marks: the last time that it
/// did, without the kernel's lines that may have come between.
pub fn host_keys(console: &str, run: &str) -> Option<Vec<String>> {
    let (begin, end) = (mark("BEGIN HOST KEYS", run), mark("END HOST KEYS", run));
    let mut rest = console;
    loop {
        rest = &rest[..rest.rfind(&end)?];
        let from = rest.rfind(&begin)?;
        let keys: Vec<String> = rest[from..].lines().filter_map(whole_key).collect();
        if !keys.is_empty() {
            return Some(keys);
        }
        rest = &rest[..from];
    }
}

/// Type and key of a line, if the terminal has lost nothing of it: a key is strings with their lengths, the first of them
/// its type (RFC 4253, section 6.6; RFC 5656, section 3.1; RFC 8709, section 4).
fn whole_key(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let strings = match kind {
        "ssh-ed25519" => 2,
        "ssh-rsa" | "ecdsa-sha2-nistp256" => 3,
        _ => return None,
    };
    let bytes = BASE64_STANDARD.decode(key).ok()?;
    let mut rest = bytes.as_slice();
    for index in 0..strings {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (string, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        if index == 0 && string != kind.as_bytes() {
            return None;
        }
        rest = tail;
    }
    rest.is_empty().then(|| format!("{kind} {key}"))
}

/// What a sealed builder prints to its console last.
pub fn sealed_mark(run: &str) -> String {
    mark("SEALED", run)
}

fn mark(what: &str, run: &str) -> String {
    format!("-----EFA-GEN {what} {run}-----")
}

/// Nothing is escaped: a run's id, a cluster's name and numbers need none.
fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    output.write_all(text.as_bytes())
}
