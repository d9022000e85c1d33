//! Owns the user-data of a builder that efa-gen drives itself, and the marks by which it speaks on the serial console.
//! Knows nothing of plans: the same for every distribution.

use std::io::Write;
use std::sync::LazyLock;

use serde::Serialize;

use super::template::Template;
use crate::error::Result;

static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    Template::new("builder/user-data.sh", include_str!("../../templates/builder/user-data.sh"), escape)
});

#[derive(Serialize)]
struct View<'a> {
    run: &'a str,
    deadline: i64,
    longest: i64,
    keys_begin: String,
    keys_end: String,
}

/// A cloud-boothook that ends the builder at `deadline` (seconds since 1970), at most `longest` seconds after a boot, and
/// prints its public host keys to the console. `run` is the run's id.
pub fn user_data(run: &str, deadline: i64, longest: i64) -> Result<String> {
    TEMPLATE.fill(&View {
        run,
        deadline,
        longest,
        keys_begin: mark("BEGIN HOST KEYS", run),
        keys_end: mark("END HOST KEYS", run),
    })
}

/// The same, and a host key that cloud-init installs. Whoever may read the user-data can then play the builder.
pub fn with_host_key(boothook: &str, private: &str, public: &str) -> Result<String> {
    let config = serde_json::json!({"ssh_keys": {"ed25519_private": private, "ed25519_public": public}});
    let archive = serde_json::json!([
        {"type": "text/cloud-boothook", "content": boothook},
        {"type": "text/cloud-config", "content": format!("#cloud-config\n{config}\n")},
    ]);
    // JSON is YAML, and cloud-init from 0.6 on knows the archive.
    Ok(format!("#cloud-config-archive\n{archive}\n"))
}

/// The public keys, one line of OpenSSH each, that the console shows whole between the run's marks: the last time that it
/// did, without the kernel's lines that may have come between.
pub fn host_keys(console: &str, run: &str) -> Option<Vec<String>> {
    let begin = console.rfind(&mark("BEGIN HOST KEYS", run))?;
    let shown = &console[begin..];
    let shown = &shown[..shown.find(&mark("END HOST KEYS", run))?];
    let key = |line: &str| {
        let mut words = line.split_whitespace();
        let (kind, key) = (words.next()?, words.next()?);
        let known = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"].contains(&kind);
        (known && key.starts_with("AAAA")).then(|| format!("{kind} {key}"))
    };
    let keys: Vec<String> = shown.lines().filter_map(key).collect();
    (!keys.is_empty()).then_some(keys)
}

/// What a sealed builder prints to its console last.
pub fn sealed_mark(run: &str) -> String {
    mark("SEALED", run)
}

fn mark(what: &str, run: &str) -> String {
    format!("-----EFA-GEN {what} {run}-----")
}

/// Nothing is escaped: a run's id and numbers need none.
fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    output.write_all(text.as_bytes())
}
