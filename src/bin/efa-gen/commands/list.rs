//! Owns the lists: `efa-gen distros`, `instance-types`, `stacks`, and how a table is printed.

use comfy_table::{Table, presets};
use efa_gen::catalog::Catalog;
use efa_gen::catalog::efa_release;
use efa_gen::error::Result;
use efa_gen::text::printable;
use serde::Serialize;

use crate::cli::{ListArgs, OutputArg};
use crate::io::terminal;
pub use crate::io::terminal::json;

pub fn distros(args: &ListArgs) -> Result<()> {
    let catalog = Catalog::embedded()?;
    if args.output == OutputArg::Json {
        return json(&catalog.distributions);
    }
    let rows = catalog.distributions.iter().map(|d| {
        let last = d.efa.last.as_deref().unwrap_or("current");
        [
            d.id.clone(),
            d.name.clone(),
            format!("{} to {last}", d.efa.first),
            d.default.clone(),
            d.newest.join(" "),
            d.ami.user.clone(),
            d.aliases.join(" "),
        ]
    });
    table(["id", "name", "EFA installer", "default", "newest stands for", "user", "aliases"], rows)
}

pub fn instance_types(args: &ListArgs) -> Result<()> {
    let catalog = Catalog::embedded()?;
    if args.output == OutputArg::Json {
        return json(&catalog.instance_types);
    }
    let rows = catalog.instance_types.iter().map(|t| {
        let gpu = t.gpu.as_ref().map_or(String::new(), |gpu| format!("{} {} {}", t.gpus, gpu.name, gpu.architecture));
        let note = t.note.clone().unwrap_or_default();
        let gbps = if t.bandwidth_mbps == 0 { String::new() } else { (t.bandwidth_mbps / 1000).to_string() };
        let cards = if t.cards == 0 { String::new() } else { t.cards.to_string() };
        [t.name.clone(), t.architecture.clone(), t.efa.to_string(), cards, gbps, gpu, note]
    });
    table(["type", "machine", "EFA", "cards", "Gb/s", "GPUs", "note"], rows)
}

#[derive(Serialize)]
struct StackRow {
    stack: String,
    title: String,
    name: &'static str,
    version: String,
    origin: String,
    digest: Option<String>,
    published: String,
}

pub fn stacks(args: &ListArgs) -> Result<()> {
    let catalog = Catalog::embedded()?;
    let mut rows = Vec::new();
    for stack in &catalog.pins.stack {
        let resolved = catalog.stack(&stack.id)?;
        let mut row = |name, version: &str, origin: &str, digest: Option<String>, published: &str| {
            rows.push(StackRow {
                stack: stack.id.clone(),
                title: stack.title.clone(),
                name,
                version: version.to_owned(),
                origin: origin.to_owned(),
                digest,
                published: published.to_owned(),
            });
        };
        let sha256 = |hex: &Option<String>| hex.as_ref().map(|hex| format!("sha256:{hex}"));
        let commit = |hex: &str| Some(format!("commit:{hex}"));
        let release = efa_release::release(&stack.efa);
        let url = format!("{}/{}", efa_release::BASE_URL, efa_release::tarball_name(&stack.efa));
        let efa_digest = release.and_then(|release| release.sha256).map(|hex| format!("sha256:{hex}"));
        row("efa", &stack.efa, &url, efa_digest, release.map_or("nobody", |release| release.source));
        let driver = &resolved.driver.download;
        row("driver", &resolved.driver.version, &driver.url, sha256(&driver.sha256), &driver.published);
        let cuda = &resolved.cuda.download;
        row("cuda", &resolved.cuda.version, &cuda.url, sha256(&cuda.sha256), &cuda.published);
        let nccl = resolved.nccl;
        row("nccl", &nccl.version, &nccl.url, commit(&nccl.commit), &nccl.published);
        let plugin = resolved.plugin;
        match &plugin.source {
            Some(source) => row("plugin", &plugin.version, &source.url, commit(&source.commit), &source.published),
            None => row("plugin", &plugin.version, "bundled with the EFA installer", None, "EFA release notes"),
        }
        let tests = resolved.nccl_tests;
        row("nccl-tests", &tests.version, &tests.url, commit(&tests.commit), &tests.published);
        if let Some(gdrcopy) = resolved.gdrcopy {
            row("gdrcopy", &gdrcopy.version, &gdrcopy.url, commit(&gdrcopy.commit), &gdrcopy.published);
        }
    }
    if args.output == OutputArg::Json {
        return json(&rows);
    }
    let rows = rows
        .into_iter()
        .map(|row| [row.stack, row.name.to_owned(), row.version, row.digest.unwrap_or_default(), row.published]);
    table(["stack", "artifact", "version", "must be", "published by"], rows)
}

/// A plain table: no borders, no colour, as wide as it needs to be.
pub fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(printable));
    }
    terminal::lines(table.lines().map(|line| line.trim_end().to_owned()))
}
