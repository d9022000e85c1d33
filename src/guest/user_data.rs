//! Owns the user-data of a machine that efa-gen drives itself, a builder or a node of a cluster.

use super::console::mark;
use crate::error::Result;
use crate::template::Template;
use serde::Serialize;
use std::io::Write;
use std::sync::LazyLock;

static TEMPLATE: LazyLock<Template> =
    LazyLock::new(|| Template::new("guest/user-data.sh", include_str!("../../templates/guest/user-data.sh"), escape));

/// The longest pause before the host keys are printed once more, seconds; each is twice the one before.
const LAST_PAUSE: u32 = 320;

#[derive(Serialize)]
struct UserDataView {
    description: Vec<String>,
    deadline: i64,
    longest: i64,
    keys_begin: String,
    keys_end: String,
    last_pause: u32,
}

/// Whose user-data it is.
#[derive(Debug, Clone, Copy)]
pub enum UserDataTarget<'a> {
    /// An image is made of it, or tested on it.
    Builder,
    /// A node of the cluster with this name.
    Node(&'a str),
}

/// A cloud-boothook that ends the machine at `deadline` (seconds since 1970), at most `longest` seconds after a boot, and
/// prints its public host keys to the console. `run` is the run's id.
pub fn user_data(machine: UserDataTarget, run: &str, deadline: i64, longest: i64) -> Result<String> {
    let description = match machine {
        UserDataTarget::Builder => vec![
            format!(
                "The builder of run {run}, at each of its boots. Nothing of this is in the image: cloud-init keeps it below"
            ),
            "/var/lib/cloud/instance, which the seal removes.".to_owned(),
        ],
        UserDataTarget::Node(name) => vec![format!("A node of cluster {name}, run {run}, at each of its boots.")],
    };
    TEMPLATE.fill(&UserDataView {
        description,
        deadline,
        longest,
        keys_begin: mark("BEGIN HOST KEYS", run),
        keys_end: mark("END HOST KEYS", run),
        last_pause: LAST_PAUSE,
    })
}

/// A host key that cloud-init installs. Whoever may read the user-data can then play the machine.
#[derive(Debug, Clone, Copy)]
pub struct GivenHostKey<'a> {
    /// As cloud-init names it: `ed25519`.
    pub kind: &'a str,
    /// OpenSSH's private file.
    pub private: &'a str,
    /// One line of OpenSSH.
    pub public: &'a str,
}

/// The user-data of a builder: the boothook, with a host key and the public line of a login key that EC2 does not give, if
/// there are any.
pub fn of_builder(boothook: &str, host_key: Option<&GivenHostKey>, login_key: Option<&str>) -> String {
    let keys = host_key.map(|GivenHostKey { kind, private, public }| {
        serde_json::json!({"ssh_keys": {format!("{kind}_private"): private, format!("{kind}_public"): public}})
    });
    let config: Vec<_> = keys.into_iter().chain(login_key.map(lets_in)).collect();
    if config.is_empty() {
        return boothook.to_owned();
    }
    let mut parts = vec![serde_json::json!({"type": "text/cloud-boothook", "content": boothook})];
    parts.extend(config.iter().map(cloud_config));
    archive(&parts)
}

fn lets_in(login_key: &str) -> serde_json::Value {
    serde_json::json!({"ssh_authorized_keys": [login_key]})
}

fn cloud_config(config: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({"type": "text/cloud-config", "content": format!("#cloud-config\n{config}\n")})
}

/// The user-data of a cluster's node: the boothook, the public line of a login key that EC2 does not give, and whatever
/// installs the machine at its first boot (`#cloud-config`), if anything does. The cluster's key comes later, by a login: only
/// then are the addresses known that it may come from.
pub fn of_node(boothook: &str, login_key: Option<&str>, install: Option<&str>) -> String {
    let mut parts = vec![serde_json::json!({"type": "text/cloud-boothook", "content": boothook})];
    parts.extend(login_key.map(|key| cloud_config(&lets_in(key))));
    parts.extend(install.map(|text| serde_json::json!({"type": "text/cloud-config", "content": text})));
    archive(&parts)
}

/// JSON is YAML, and cloud-init from 0.6 on knows the archive.
fn archive(parts: &[serde_json::Value]) -> String {
    format!("#cloud-config-archive\n{}\n", serde_json::Value::from(parts))
}

/// Nothing is escaped: a run's id, a cluster's name and numbers need none.
fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    output.write_all(text.as_bytes())
}
