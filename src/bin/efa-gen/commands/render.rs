//! Owns `efa-gen render`: which files, to stdout or to a folder, or compared with what is there.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use efa_gen::catalog::Catalog;
use efa_gen::error::{Class, Error, Result};
use efa_gen::plan;
use efa_gen::render::{self, File, Format, PackerGrammar};
use similar::TextDiff;

use super::recipe;
use crate::cli::{FormatArg, PackerArg, RenderArgs};
use crate::io::{files, terminal};

pub fn run(args: &RenderArgs) -> Result<()> {
    let catalog = recipe::catalog(args.recipe.stack_file.as_deref())?;
    let ids = distributions(&catalog, &args.distro)?;
    let format = args.format.unwrap_or(if args.out.is_some() { FormatArg::All } else { FormatArg::Script });
    let formats = formats(format, args.packer);
    let recipe = recipe::request(&args.recipe)?;
    let mut rendered = Vec::new();
    for (id, (files, note)) in ids.iter().zip(render_each(&catalog, &ids, &recipe, &formats)?) {
        if let Some(note) = note {
            terminal::message(&format!("note: {id} for Packer 1.6, without {note}"));
        }
        rendered.extend(files.into_iter().map(|file| (id.as_str(), file)));
    }
    match &args.out {
        None => to_stdout(&rendered, format),
        Some(out) => {
            let several = ids.len() > 1;
            let path_of =
                |id: &str, file: &File| if several { out.join(id).join(file.name) } else { out.join(file.name) };
            let targets: Vec<(PathBuf, &File)> = rendered.iter().map(|(id, file)| (path_of(id, file), file)).collect();
            if args.check { check(&targets) } else { write(&targets) }
        }
    }
}

/// One distribution's files, and what is to be said of them.
type Rendered = (Vec<File>, Option<&'static str>);

/// Renders every distribution on a thread of its own; the results come in the order of the ids.
fn render_each(catalog: &Catalog, ids: &[String], recipe: &plan::Request, formats: &[Format]) -> Result<Vec<Rendered>> {
    let one = |id: &str| {
        let plan = plan::plan(catalog, &plan::Request { distribution: id.to_owned(), ..recipe.clone() })?;
        let note = formats.iter().find_map(|format| match format {
            Format::Packer(grammar) => render::packer::imds_note(&plan, *grammar),
            _ => None,
        });
        Ok((render::render(&plan, formats)?, note))
    };
    let results: Vec<_> = thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = ids.iter().map(|id| scope.spawn(move || one(id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let several = ids.len() > 1;
    let named = |(result, id): (Result<Rendered>, &String)| {
        result.map_err(|error: Error| if several { error.of(id) } else { error })
    };
    results.into_iter().zip(ids).map(named).collect()
}

/// The ids that the names stand for, each once, in the catalog's order for `all`.
pub fn distributions(catalog: &Catalog, names: &[String]) -> Result<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for name in names {
        let found =
            if name == "all" { catalog.distributions.iter().collect() } else { vec![catalog.distribution(name)?] };
        ids.extend(found.into_iter().filter(|d| seen.insert(d.id.clone())).map(|d| d.id.clone()));
    }
    Ok(ids)
}

fn formats(format: FormatArg, packer: PackerArg) -> Vec<Format> {
    let grammar = match packer {
        PackerArg::Common => PackerGrammar::Common,
        PackerArg::Newest => PackerGrammar::Newest,
    };
    match format {
        FormatArg::Script => vec![Format::Script],
        FormatArg::CloudInit => vec![Format::CloudInit],
        FormatArg::Packer => vec![Format::Packer(grammar)],
        FormatArg::All => Format::all(grammar).to_vec(),
    }
}

/// Only one text can go to stdout; which files are needed beside it is said on stderr.
fn to_stdout(rendered: &[(&str, File)], format: FormatArg) -> Result<()> {
    let distributions: BTreeSet<&str> = rendered.iter().map(|(id, _)| *id).collect();
    if format == FormatArg::All || distributions.len() > 1 {
        return Err(Error::new(Class::Usage, "several files can't go to standard output").hint("add --out DIR"));
    }
    let Some((_, first)) = rendered.first() else { return Ok(()) };
    if format == FormatArg::Packer {
        terminal::message(
            "note: image.pkr.hcl is used with install.sh beside it; --out DIR writes everything that it needs",
        );
    }
    if format == FormatArg::CloudInit {
        terminal::message("note: EC2 is given user-data.yaml.gz, the same compressed; --out DIR writes both");
    }
    terminal::data(first.text.as_bytes())
}

fn write(targets: &[(PathBuf, &File)]) -> Result<()> {
    for (path, file) in targets {
        files::make_folder(path.parent().unwrap_or(Path::new(".")))?;
        files::write(path, file.bytes(), if file.executable { 0o755 } else { 0o644 })?;
        terminal::message(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Shows how each file that is missing or differs does: text as a unified diff, bytes by their number.
fn check(targets: &[(PathBuf, &File)]) -> Result<()> {
    let mut stale = 0;
    for (path, file) in targets {
        let found = files::read_if_there(path, "rendered file")?;
        if found.as_deref() == Some(file.bytes()) {
            continue;
        }
        stale += 1;
        let name = path.display().to_string();
        if file.compressed.is_some() {
            let there = found.map_or("is missing".to_owned(), |found| format!("differs: {} bytes", found.len()));
            terminal::lines([format!("{name} {there}, {} bytes as rendered now", file.bytes().len())])?;
            continue;
        }
        let found = String::from_utf8_lossy(found.as_deref().unwrap_or_default()).into_owned();
        let diff = TextDiff::from_lines(found.as_str(), file.text.as_str());
        let diff = diff.unified_diff().header(&name, &format!("{name} (as rendered now)")).to_string();
        terminal::lines(diff.trim_end_matches('\n').split('\n'))?;
    }
    match stale {
        0 => Ok(()),
        1 => Err(Error::new(Class::Stale, "1 file is stale").hint("run the same command without --check")),
        n => Err(Error::new(Class::Stale, format!("{n} files are stale")).hint("run the same command without --check")),
    }
}
