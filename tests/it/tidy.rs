//! The promises of the design that no lint can see.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{catalog, efa_gen, in_repository, request, stdout};
use efa_gen::catalog::Catalog;
use efa_gen::catalog::distribution::Distribution;
use efa_gen::plan;
use efa_gen::render::{self, Format, PackerGrammar};

pub fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).expect("a source is text"));
    let sources: Vec<_> = files_below(&in_repository("src"), "rs").into_iter().map(read).collect();
    assert!(sources.len() > 100, "only {} files below src/", sources.len());
    sources
}

#[test]
fn every_module_begins_with_what_it_owns() {
    let bare: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(bare.is_empty(), "{bare:?}");
}

#[test]
fn no_rust_file_names_a_distribution() {
    let catalog = catalog();
    let names: Vec<&String> =
        catalog.distributions.iter().flat_map(|d| std::iter::once(&d.id).chain(&d.aliases)).collect();
    for (path, text) in sources() {
        let words: Vec<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).collect();
        let leaked: Vec<_> = names.iter().filter(|name| words.contains(&name.as_str())).collect();
        assert!(leaked.is_empty(), "{} names {leaked:?}", path.display());
    }
}

#[test]
fn templates_do_not_decide() {
    let kinds = ["sh", "hcl", "yaml", "html", "xml"];
    let files: Vec<PathBuf> = kinds.iter().flat_map(|kind| files_below(&in_repository("templates"), kind)).collect();
    assert!(files.len() > 10, "{files:?}");
    // An `if` asks whether something is there, never what it is.
    let presence = |tag: &str| {
        let name = tag.strip_prefix("if ").map(str::trim);
        name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || "_.".contains(c)))
    };
    for path in files {
        let text = fs::read_to_string(&path).expect("a template is text");
        for tag in text.split("<%").skip(1) {
            let tag = tag.split("%>").next().unwrap_or("").trim_matches(['-', ' ']);
            let loops = tag.starts_with("for ") || ["endfor", "endif", "else"].contains(&tag);
            assert!(loops || presence(tag), "{}: <% {tag} %>", path.display());
        }
    }
}

#[test]
fn template_folders_have_the_names_of_those_who_fill_them() {
    let modules: Vec<String> = sources()
        .iter()
        .flat_map(|(path, _)| [path.file_stem(), path.parent().and_then(Path::file_name)])
        .flatten()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    for folder in fs::read_dir(in_repository("templates")).expect("templates/ is there") {
        let name = folder.expect("templates/ can be read").file_name().to_string_lossy().into_owned();
        assert!(modules.contains(&name), "templates/{name} has no module");
    }
}

#[test]
fn a_new_distribution_is_one_file() {
    let text = fs::read_to_string(in_repository("distros/ubuntu18.toml")).expect("the file is there");
    let text = text
        .replace("id = \"ubuntu18\"", "id = \"hat9\"")
        .replace("name = \"Ubuntu 18.04\"", "name = \"Hat Linux 9\"")
        .lines()
        .map(|line| if line.starts_with("aliases") { "aliases = [\"hat-9\"]" } else { line })
        .collect::<Vec<_>>()
        .join("\n");
    let distribution = Distribution::parse("hat9", &text).expect("a file of its own is enough");
    let catalog = Catalog::new(vec![distribution], catalog().pins).expect("the catalog takes it");
    let plan = plan::plan(&catalog, &request("hat-9", "guide")).expect("it can be planned");
    for format in Format::all(PackerGrammar::Newest) {
        let files = render::render(&plan, &[format]).expect("it can be rendered");
        assert!(files[0].text.contains("Hat Linux 9"), "{format:?}");
    }
}

#[test]
fn the_readme_shows_the_help_and_the_exit_codes() {
    let readme = fs::read_to_string(in_repository("README.md")).expect("README.md is there");
    let help = stdout(&efa_gen(&["--help"]));
    assert!(readme.contains(help.trim()), "README.md does not hold the output of --help:\n{help}");
    let script = fs::read_to_string(in_repository("templates/script/install.sh")).expect("the template is there");
    let codes = script.lines().find(|line| line.starts_with("readonly USAGE=")).expect("the script names its codes");
    for pair in codes.trim_start_matches("readonly ").split(' ') {
        let code = pair.split('=').nth(1).expect("NAME=CODE");
        assert!(readme.contains(&format!("\n| {code} |")), "README.md has no row for exit code {code}");
    }
}

#[test]
fn the_readme_can_be_read_at_one_sitting() {
    let lines = fs::read_to_string(in_repository("README.md")).expect("README.md is there").lines().count();
    assert!((100..=240).contains(&lines), "{lines} lines");
}
