//! Owns the cloud-init user-data: the script as text in it, the whole compressed for EC2, and EC2's size limit.

use std::io::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use serde::Serialize;

use crate::error::{Class, Error, Result};
use crate::plan::{Plan, STATE_DIR};
use crate::template::Template;

/// EC2's limit on user-data, bytes before its own base64 (AWS EC2 User Guide, "Run commands at launch").
const LIMIT: usize = 16384;

static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    Template::new("cloud_init/user-data.yaml", include_str!("../../templates/cloud_init/user-data.yaml"), escape)
});

#[derive(Serialize)]
struct CloudInitView<'a> {
    title: String,
    version: &'static str,
    digest: &'a str,
    limit: usize,
    state_dir: &'static str,
    packed: bool,
    content: String,
}

/// The user-data as people read it, and the same as EC2 takes it.
pub(crate) fn render(plan: &Plan, digest: &str, script: &str) -> Result<(String, Vec<u8>)> {
    let packed = !is_plain(script);
    let view = CloudInitView {
        title: format!("EFA + NCCL on {}, stack {}, installed at first boot", plan.distribution_name, plan.stack),
        version: env!("CARGO_PKG_VERSION"),
        digest,
        limit: LIMIT,
        state_dir: STATE_DIR,
        packed,
        content: indented(&if packed { STANDARD.encode(gzip(script)?) } else { script.to_owned() }),
    };
    let text = TEMPLATE.fill(&view)?;
    let compressed = compressed_user_data(&text).map_err(|error| {
        error.hint(
            "shorten --extra-script, leave out --test or --check-signatures, or take --format script or packer, which have no limit",
        )
    })?;
    Ok((text, compressed))
}

/// User-data as EC2 is given it: cloud-init of every version takes gzip. Fails if it is longer than EC2 allows.
pub fn compressed_user_data(text: &str) -> Result<Vec<u8>> {
    let bytes = gzip(text)?;
    let length = bytes.len();
    if length <= LIMIT {
        return Ok(bytes);
    }
    let excess = length - LIMIT;
    let message = format!("the user-data takes {length} bytes compressed, {excess} more than EC2 allows ({LIMIT})");
    Err(Error::new(Class::Plan, message))
}

/// Without name and time, so that the same text always gives the same bytes.
fn gzip(text: &str) -> Result<Vec<u8>> {
    let failed = |error| Error::new(Class::Bug, "the user-data can't be compressed").with_source(error);
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(text.as_bytes()).map_err(failed)?;
    gzip.finish().map_err(failed)
}

/// Whether every cloud-init writes exactly this text when it stands in a block scalar. YAML reads CR and U+0085 as line feeds;
/// PyYAML before 5.1 refuses characters beyond U+FFFF, cloud-init 0.7.6 those beyond ASCII; blanks at the beginning would
/// count as indentation, and of several line breaks at the end one stays.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\t' | '\n' | ' '..='~'))
        && text.starts_with(|c: char| c.is_ascii_graphic())
        && text.ends_with('\n')
        && !text.ends_with("\n\n")
}

/// As the lines of a block scalar below `content:`; those that are empty stay so.
fn indented(text: &str) -> String {
    let line = |line: &str| if line.is_empty() { String::new() } else { format!("   {line}") };
    text.trim_end_matches('\n').split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Values stand in comments and plain scalars: whatever could end either is refused.
fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    if text.chars().any(char::is_control) {
        return Err(std::io::Error::other("a value of the user-data holds a control character"));
    }
    output.write_all(text.as_bytes())
}
