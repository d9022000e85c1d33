//! The layout that ARCHITECTURE.md draws, read from the `use` lines: no circle, no arrow upwards, one name for one type.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::in_repository;
use crate::tidy::files_below;

/// Folders and files of the core, the lowest first; what is in one line does not know the others of the line.
const CORE: [&[&str]; 6] = [
    &["error"],
    &["shell", "template", "text", "url", "version"],
    &["catalog"],
    &["plan"],
    &["nccl", "render", "verify"],
    &["guest"],
];

/// The same for the program.
const PROGRAM: [&[&str]; 8] = [
    &["timeouts"],
    &["aws", "io"],
    &["cli"],
    &["preflight", "run"],
    &["cluster"],
    &["nccl_test"],
    &["image"],
    &["commands"],
];

/// What a command line asks for reaches these as clap's own structs, until the engine has options of its own.
const TAKES_FLAGS: [&str; 14] = [
    "cluster::launch",
    "cluster::nodes",
    "cluster::preflight",
    "cluster::record",
    "image::build",
    "image::builder",
    "image::gate",
    "image::packer",
    "image::preflight",
    "image::publish",
    "image::publish::check",
    "image::record",
    "nccl_test::prepare",
    "preflight::access",
];

/// Comparisons with EC2's words for states, outside of `aws`, until states are types.
const KNOWN_STATES: [(&str, usize); 12] = [
    ("cluster::fleet", 1),
    ("cluster::nodes", 2),
    ("cluster::preflight", 2),
    ("commands::images", 3),
    ("image::builder", 7),
    ("image::create", 3),
    ("image::install", 2),
    ("image::native", 2),
    ("image::preflight", 1),
    ("image::publish", 6),
    ("preflight::base_ami", 1),
    ("run::cleanup", 5),
];

/// EC2's words for the states of instances, images, snapshots and reservations (AWS EC2 API Reference).
const STATES: [&str; 12] = [
    "active",
    "available",
    "deleted",
    "deleting",
    "deregistered",
    "enabled",
    "pending",
    "running",
    "shutting-down",
    "stopped",
    "stopping",
    "terminated",
];

/// A module: its path, the code of its file without comments and without its own tests.
struct Module {
    path: String,
    code: String,
}

/// The modules below a folder; those below `without` are another crate's.
fn modules(root: &str, without: Option<&str>) -> Vec<Module> {
    let root = in_repository(root);
    let mut found = Vec::new();
    for file in files_below(&root, "rs") {
        if without.is_some_and(|other| file.starts_with(in_repository(other))) {
            continue;
        }
        let relative = file.strip_prefix(&root).expect("it is below").with_extension("");
        let mut parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            parts.pop();
        }
        let text = fs::read_to_string(&file).expect("a source is text");
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .fold(String::new(), |code, line| code + line.split(" // ").next().unwrap_or_default() + "\n");
        found.push(Module { path: parts.join("::"), code });
    }
    found
}

fn core() -> Vec<Module> {
    modules("src", Some("src/bin"))
}

fn program() -> Vec<Module> {
    modules("src/bin/efa-gen", None)
}

/// Every path that a `use` statement names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expanded(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut item, mut items) = (0, String::new(), Vec::new());
    for c in inner.chars() {
        match c {
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    items.push(item);
    let paths = items.iter().filter(|item| !item.trim().is_empty()).flat_map(|item| expanded(item));
    paths.map(|path| format!("{}{path}", before.trim())).collect()
}

/// The paths that a module's code names, as `crate::...`: in `use` statements and inside of other code.
fn named(module: &Module) -> Vec<String> {
    let mut paths = Vec::new();
    for part in module.code.split("\nuse ").skip(1).chain(module.code.split("\npub use ").skip(1)) {
        paths.extend(expanded(part.split(';').next().unwrap_or_default()));
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let inline = module.code.split(|c: char| !word(c));
    paths.extend(
        inline
            .filter(|text| !text.ends_with("::") && (text.starts_with("crate::") || text.starts_with("super::")))
            .map(str::to_owned),
    );
    let own: Vec<&str> = module.path.split("::").filter(|part| !part.is_empty()).collect();
    let absolute = |path: &String| {
        let mut parts: Vec<&str> = path.split("::").collect();
        let mut base = match parts.first() {
            Some(&"crate") => Vec::new(),
            Some(&"self" | &"super") => own.clone(),
            _ => return None,
        };
        while let Some(first) = parts.first().filter(|first| ["crate", "self", "super"].contains(first)) {
            if *first == "super" {
                base.pop();
            }
            parts.remove(0);
        }
        Some([base, parts].concat().join("::"))
    };
    paths.iter().filter_map(absolute).collect()
}

/// Which modules each one knows.
fn arrows(modules: &[Module]) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeSet<&str> = modules.iter().map(|module| module.path.as_str()).collect();
    let mut arrows = BTreeMap::new();
    for module in modules {
        let mut known = BTreeSet::new();
        for path in named(module) {
            let parts: Vec<&str> = path.split("::").collect();
            let longest = (1..=parts.len()).rev().map(|length| parts[..length].join("::"));
            known.extend(longest.into_iter().find(|name| names.contains(name.as_str())));
        }
        known.remove(&module.path);
        arrows.insert(module.path.clone(), known);
    }
    arrows
}

/// The names on a way from `from` back to itself, if there is one.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>, from: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for next in way.last().and_then(|last| arrows.get(last)).into_iter().flatten() {
            if next == from {
                return Some(way);
            }
            if seen.insert(next.clone()) {
                ways.push([way.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

/// The folder or file below the crate's root that a module is in.
fn top(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

#[test]
fn the_reader_of_use_lines_sees_every_form() {
    let code =
        "\nuse crate::a::{self, b::{C, d}, e as f};\npub use super::g;\nfn x() { crate::h::i(); }\nuse std::fs;\n";
    let module = Module { path: "m::n".into(), code: code.into() };
    let mut found = named(&module);
    found.sort();
    found.dedup();
    assert_eq!(found, ["a::b::C", "a::b::d", "a::e", "a::self", "h::i", "m::g"]);
    let arrows = BTreeMap::from([("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]);
    let arrows: BTreeMap<String, BTreeSet<String>> =
        arrows.into_iter().map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()]))).collect();
    assert!(circle(&arrows, "a").is_some() && circle(&arrows, "d").is_none());
}

#[test]
fn no_file_knows_itself_through_others() {
    for modules in [core(), program()] {
        let arrows = arrows(&modules);
        assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 100, "{arrows:?}");
        for name in arrows.keys().filter(|name| !name.is_empty()) {
            assert_eq!(circle(&arrows, name), None);
        }
    }
}

#[test]
fn arrows_lead_downwards() {
    for (modules, layers) in [(core(), &CORE[..]), (program(), &PROGRAM[..])] {
        let layer = |name: &str| layers.iter().position(|layer| layer.contains(&name));
        for (from, known) in arrows(&modules).iter().filter(|(from, _)| !from.is_empty()) {
            let of_from = layer(top(from)).unwrap_or_else(|| panic!("{from} has no place in tests/it/structure.rs"));
            for to in known.iter().filter(|to| top(to) != top(from)) {
                let of_to = layer(top(to)).unwrap_or_else(|| panic!("{to} has no place in tests/it/structure.rs"));
                assert!(of_to < of_from, "{from} knows {to}");
            }
        }
    }
}

#[test]
fn the_engine_knows_neither_flags_nor_tables_nor_the_terminal() {
    let engine = ["aws", "cluster", "image", "nccl_test", "preflight", "run"];
    let mut takes_flags = BTreeSet::new();
    for module in program().iter().filter(|module| engine.contains(&top(&module.path))) {
        for path in named(module) {
            assert!(!path.starts_with("io::terminal"), "{} prints", module.path);
            if path.starts_with("cli::") {
                takes_flags.insert(module.path.clone());
            }
        }
        assert!(!module.code.contains("clap::"), "{} parses", module.path);
    }
    assert_eq!(takes_flags.iter().map(String::as_str).collect::<Vec<_>>(), TAKES_FLAGS);
}

#[test]
fn one_folder_names_the_sdk() {
    for module in core().iter().chain(&program()).filter(|module| top(&module.path) != "aws") {
        assert!(!module.code.contains("aws_sdk_"), "{}", module.path);
    }
}

/// It lets nothing from outside drive a terminal.
#[test]
fn one_file_prints() {
    let prints = ["println!", "eprint", "print!(", "stdout()", "stderr()", "/dev/tty", "/dev/std"];
    let bars = ["set_message(", "with_message(", "set_prefix(", "with_prefix(", "finish_with_", "abandon_with_"];
    for module in core().iter().chain(&program()).filter(|module| module.path != "io::terminal") {
        let code = module.code.replace("ProgressDrawTarget::stderr()", "");
        let found = prints.iter().find(|word| code.contains(*word));
        assert_eq!(found, None, "{} prints", module.path);
        // A bar's words are made harmless where they are given to it.
        let words = bars.iter().flat_map(|word| code.match_indices(word)).map(|(at, word)| &code[at + word.len()..]);
        let raw: Vec<&str> = words.filter(|rest| !rest.starts_with("printable(")).collect();
        assert!(raw.is_empty(), "{} gives a bar {:?}", module.path, raw[0].lines().next());
    }
}

#[test]
fn one_file_quotes_for_a_shell() {
    for module in core().iter().chain(&program()).filter(|module| module.path != "shell") {
        for quoting in ["shlex", r"'\\''", "replace('\\'', "] {
            assert!(!module.code.contains(quoting), "{} has {quoting}", module.path);
        }
    }
}

#[test]
fn words_of_ec2_for_states_are_known() {
    let mut found = BTreeMap::new();
    for module in program().iter().filter(|module| !["aws", "cli"].contains(&top(&module.path))) {
        let count: usize = STATES.iter().map(|state| module.code.matches(&format!("\"{state}\"")).count()).sum();
        if count > 0 {
            found.insert(module.path.clone(), count);
        }
    }
    let known = KNOWN_STATES.iter().map(|(name, count)| ((*name).to_owned(), *count));
    assert_eq!(found, known.collect(), "a state is a word of EC2's: compare it in aws/, or as a type");
}

#[test]
fn a_type_s_name_is_the_name_of_one_type() {
    let mut modules_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for module in core().iter().chain(&program()) {
        for line in module.code.lines() {
            let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let mut words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let kind = words.next().unwrap_or_default();
            if let (true, Some(name)) = (["struct", "enum", "trait", "union"].contains(&kind), words.next()) {
                modules_of.entry(name.to_owned()).or_default().push(module.path.clone());
            }
        }
    }
    assert!(modules_of.len() > 150, "{modules_of:?}");
    let twice: Vec<_> = modules_of.iter().filter(|(_, modules)| modules.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
