//! Owns the cloud-init user-data: the script packed into it, and EC2's size limit. Knows nothing of what
//! the script does.

use std::io::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use serde::Serialize;

use super::template::Template;
use crate::error::{Class, Error, Result};
use crate::plan::{LOG_DIR, Plan, STATE_DIR};

/// EC2's limit on user-data, bytes before its own base64 (AWS EC2 User Guide, "Run commands at launch").
const LIMIT: usize = 16384;

static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    Template::new("cloud_init/user-data.yaml", include_str!("../../templates/cloud_init/user-data.yaml"), escape)
});

#[derive(Serialize)]
struct View<'a> {
    title: String,
    version: &'static str,
    digest: &'a str,
    limit: usize,
    log_dir: &'static str,
    state_dir: &'static str,
    payload: &'a str,
}

pub(super) fn render(plan: &Plan, digest: &str, script: &str) -> Result<String> {
    let payload = pack(script)?;
    let view = View {
        title: format!("EFA + NCCL on {}, stack {}, installed at first boot", plan.distribution_name, plan.stack),
        version: env!("CARGO_PKG_VERSION"),
        digest,
        limit: LIMIT,
        log_dir: LOG_DIR,
        state_dir: STATE_DIR,
        payload: &payload,
    };
    let text = TEMPLATE.fill(&view)?;
    if text.len() > LIMIT {
        let message = format!("the user-data takes {} bytes, {} more than EC2 allows", text.len(), text.len() - LIMIT);
        return Err(Error::new(Class::Plan, message).hint(
            "shorten --extra-script, or let it download what it needs; the script and Packer formats have no limit",
        ));
    }
    Ok(text)
}

/// gzip without name and time, so that the same script always gives the same bytes.
fn pack(script: &str) -> Result<String> {
    let failed = |error| Error::new(Class::Bug, "the script can't be compressed").because(error);
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(script.as_bytes()).map_err(failed)?;
    Ok(STANDARD.encode(gzip.finish().map_err(failed)?))
}

/// Values stand in comments and plain scalars: whatever could end either is refused.
fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    if text.chars().any(char::is_control) {
        return Err(std::io::Error::other("a value of the user-data holds a control character"));
    }
    output.write_all(text.as_bytes())
}
