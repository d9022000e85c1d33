//! The cloud-init user-data: what cloud-init writes is the script, byte for byte, and what EC2 is given has room.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use efa_gen::catalog::Catalog;
use efa_gen::guest::user_data;
use efa_gen::plan::{self, Plan, Request, When};
use efa_gen::render::{self, File, Format};
use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::support::{catalog, default_plan, request};

/// What EC2 takes, bytes.
const LIMIT: usize = 16384;

/// What every combination of the catalog leaves of it, for what users add. 3,072 were aimed at: those with yum keep them, those with
/// apt have less with `--test`, whose judge of the log is as strict as efa-gen validate.
const ROOM: usize = 1250;

#[derive(Deserialize)]
struct CloudConfig {
    write_files: Vec<WrittenFile>,
}

#[derive(Deserialize)]
struct WrittenFile {
    encoding: Option<String>,
    content: String,
}

fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).expect("it is gzip of text");
    text
}

/// The user-data as text, and as EC2 is given it.
fn both(plan: &Plan) -> (String, Vec<u8>) {
    let files = render::render(plan, &[Format::CloudInit]).expect("it can be rendered");
    let [File { name: "user-data.yaml", text, .. }, compressed @ File { name: "user-data.yaml.gz", .. }] = &files[..]
    else {
        panic!("{files:?}")
    };
    assert_eq!((files[0].bytes(), compressed.executable), (text.as_bytes(), false));
    (text.clone(), compressed.bytes().to_vec())
}

/// The script that cloud-init writes, and whether people can read it in the user-data.
fn carried(user_data: &str) -> (String, bool) {
    let config: CloudConfig = serde_saphyr::from_str(user_data).expect("it is YAML");
    let file = &config.write_files[0];
    match file.encoding.as_deref() {
        None => (file.content.clone(), true),
        Some("gz+b64") => (unpacked(&BASE64_STANDARD.decode(file.content.trim_end()).expect("it is base64")), false),
        Some(other) => panic!("{other}"),
    }
}

fn with_extra_script(text: &str) -> Request {
    Request { extra_script: Some(text.to_owned()), ..request("ubuntu18", "guide") }
}

#[test]
fn it_has_the_script_without_comments_and_seal() {
    for distribution in &catalog().distributions {
        let plan = default_plan(&distribution.id);
        let whole = render::render(&plan, &[Format::Script]).expect("it can be rendered").remove(0).text;
        let (text, _) = both(&plan);
        let (carried, readable) = carried(&text);
        let code: Vec<_> = whole.lines().map(str::trim_start).collect();
        // Half as far to the right, and a function's head without its arguments.
        let strange = |line: &&str| {
            let bare = line.trim_start();
            !code.iter().any(|whole| whole.starts_with(bare))
                && !bare.starts_with("readonly ")
                && !bare.starts_with("usage()")
        };
        assert!(!carried.lines().skip(1).any(|line| line.trim_start().starts_with("# ")), "{}", distribution.id);
        assert_eq!(carried.lines().filter(strange).collect::<Vec<_>>(), Vec::<&str>::new(), "{}", distribution.id);
        assert!(!carried.contains("seal_") && whole.contains("seal_"), "{}", distribution.id);
        for step in plan.stages.iter().filter(|stage| stage.run != When::Image).flat_map(|stage| &stage.steps) {
            let (title, quoted) = (&step.title, step.title.replace('\'', "\\'"));
            assert!(carried.contains(title) || carried.contains(&quoted), "{title}");
        }
        assert!(carried.starts_with("#!/bin/bash\n") && carried.ends_with("\nmain \"$@\"\n"), "{}", distribution.id);
        assert!(readable && text.contains("\n   set -Eeuo pipefail\n"), "{}", distribution.id);
        for way in ["--user-data fileb://user-data.yaml.gz", "filebase64(\"user-data.yaml.gz\")", "`base64 -w 0 "] {
            assert!(text.contains(way), "the head does not say {way}");
        }
    }
}

#[test]
fn what_ec2_is_given_is_the_same_compressed_and_always_the_same_bytes() {
    for distribution in &catalog().distributions {
        let plan = default_plan(&distribution.id);
        let (text, compressed) = both(&plan);
        assert_eq!(unpacked(&compressed), text, "{}", distribution.id);
        // Deflate, with neither a name nor a time.
        assert_eq!(compressed[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "{}", distribution.id);
        assert_eq!(both(&plan).1, compressed, "{}", distribution.id);
    }
}

/// The extra script's bytes go through shell, YAML and, where YAML or an old cloud-init would change them, gzip and base64.
#[test]
fn an_extra_script_arrives_whole() {
    let readable = [
        "true\n",
        "no line break at the end",
        "several at the end\n\n\n",
        "\ttabs\t\n\t\n\t\tand\ttabs",
        "   blanks at both ends   \n   \n \n",
        "{{ v1.region }} {% if x %} {# y #} <~ title ~> <% if packed %> <# z #>\n",
        "---\n...\n# comment\n- a: b\n%YAML 1.1\n&anchor *alias !!tag |\n",
        "it's \"quoted\" $HOME `reboot` \\n \\\n",
        "TEXT\nEOF\nmime-version: 1.0\n",
    ];
    let packed = [
        "echo é\n",
        "\u{1F980}",
        "\r\n",
        "a\rb\n",
        "\u{85}\n",
        "\u{2028}\u{2029}\n",
        "\u{feff}\u{fffe}\u{ffff}\n",
        "\u{1b}[31m\u{7f}\u{1}\n",
    ];
    for (text, expected) in readable.iter().map(|text| (text, true)).chain(packed.iter().map(|text| (text, false))) {
        let script = format!("#!/bin/sh\n{text}");
        let plan = plan::plan(&catalog(), &with_extra_script(&script)).expect("it can be planned");
        let (user_data, compressed) = both(&plan);
        assert_eq!(unpacked(&compressed), user_data, "{text:?}");
        let (carried, readable) = carried(&user_data);
        assert_eq!(readable, expected, "{text:?}");
        let function =
            carried.split("\nextra_run() {\n").nth(1).and_then(|rest| rest.split("\nstage_extra() {").next());
        let body = function.expect("the script has the step").rsplit_once("\n  run ").expect("the step runs it").0;
        let output = Command::new("bash").args(["-c", &format!("write_file() {{ cat; }}\n{body}\n")]).output();
        assert_eq!(output.expect("bash starts").stdout, script.as_bytes(), "{text:?}");
    }
}

#[test]
fn what_is_too_long_for_ec2_is_refused_with_the_sizes() {
    let noise =
        |lines: u32| -> String { (0..lines).map(|n| format!("{:x}\n", n.wrapping_mul(2_654_435_761))).collect() };
    let plan = |lines| {
        let request = with_extra_script(&format!("#!/bin/sh\n{}", noise(lines)));
        plan::plan(&catalog(), &request).expect("a long script is no problem for the plan")
    };
    let error = render::render(&plan(4000), &[Format::CloudInit]).expect_err("it can't fit");
    let numbers: Vec<usize> = error.to_string().split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
    let [length, excess, 2, LIMIT] = numbers[..] else { panic!("{error}") };
    assert_eq!(length, LIMIT + excess, "{error}");
    assert!(excess > 1000 && error.to_string().contains("bytes compressed, "), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--extra-script")), "{error:?}");
    assert!(render::render(&plan(4000), &[Format::Script]).is_ok());
    // The compressed bytes count: what people read is longer than EC2 allows either way.
    let (text, compressed) = both(&plan(200));
    assert!(text.len() > 2 * LIMIT && compressed.len() <= LIMIT, "{} {}", text.len(), compressed.len());
    // The limit itself is taken, and not one byte more.
    let words: String = (0..20_000u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    let longest = (1..words.len()).rfind(|&n| n % 97 == 0 && render::compressed_user_data(&words[..n]).is_ok());
    let longest = render::compressed_user_data(&words[..longest.expect("some fit")]).expect("it fits");
    assert!((LIMIT - 97..=LIMIT).contains(&longest.len()), "{}", longest.len());
}

/// What the catalog can plan for a distribution: by every stack, for no type, for the largest type of each family with a GPU,
/// and without a GPU; with the test where there is one, which makes it longer.
fn combinations(catalog: &Catalog, distribution: &str) -> Vec<(String, Plan)> {
    let families: BTreeMap<&str, &str> = catalog
        .instance_types
        .iter()
        .filter(|one| one.gpu.is_some())
        .filter_map(|one| Some((one.name.split_once('.')?.0, one.name.as_str())))
        .collect();
    let types: Vec<Option<&str>> = families.into_values().map(Some).chain([None]).collect();
    let mut found = Vec::new();
    for stack in catalog.pins.stack.iter().map(|stack| stack.id.as_str()).chain(["newest"]) {
        for kind in &types {
            let instance_type = kind.map(str::to_owned);
            let request = Request { instance_type, test: true, ..request(distribution, stack) };
            // Not every stack fits every distribution and type.
            found.extend(
                plan::plan(catalog, &request)
                    .ok()
                    .map(|plan| (format!("{stack} --test {}", kind.unwrap_or("for every type")), plan)),
            );
        }
        let request = Request { no_gpu: true, ..request(distribution, stack) };
        found.extend(plan::plan(catalog, &request).ok().map(|plan| (format!("{stack} --no-gpu"), plan)));
    }
    found
}

/// Where the user-data of a distribution has the least room.
fn tightest(catalog: &Catalog, distribution: &str) -> (usize, String, String) {
    let plans = combinations(catalog, distribution);
    assert!(plans.len() > 2, "{distribution}");
    let rooms = plans.iter().map(|(name, plan)| {
        let (text, compressed) = both(plan);
        (LIMIT - compressed.len(), name.clone(), text)
    });
    rooms.min_by_key(|(room, ..)| *room).expect("there are some")
}

/// What each has is printed: `cargo test --test it -- --nocapture every_combination_leaves_room`.
#[test]
#[allow(clippy::print_stderr, reason = "how much room there is, is for people as well")]
fn every_combination_leaves_room() {
    let catalog = catalog();
    let found: Vec<_> = thread::scope(|scope| {
        let each =
            catalog.distributions.iter().map(|one| (one.id.as_str(), scope.spawn(|| tightest(&catalog, &one.id))));
        let started: Vec<_> = each.collect();
        started.into_iter().map(|(id, thread)| (id, thread.join().expect("it can be rendered"))).collect()
    });
    let run = "20261122-171500-ab12";
    let boothook = user_data::user_data(user_data::UserDataTarget::Node("blue"), run, 1_795_000_000, 86_400);
    let boothook = boothook.expect("it can be rendered");
    let key = format!("ssh-ed25519 {} efa-gen {run}", "A".repeat(68));
    for (id, (room, combination, text)) in &found {
        let node = user_data::of_node(&boothook, Some(&key), Some(text));
        let node = LIMIT - render::compressed_user_data(&node).expect("a node of a launch has room as well").len();
        eprintln!("{id}: at least {room} bytes of room ({combination}), {node} on a node of a launch --install");
    }
    let tight: Vec<_> =
        found.iter().filter(|(_, (room, ..))| *room < ROOM).map(|(id, (room, ..))| (id, room)).collect();
    assert!(tight.is_empty(), "less than {ROOM} bytes of room: {tight:?}");
}
