//! `--efa-digest`: what `fetch` and `verify` print goes into a plan, and nothing else does.

use std::path::Path;

use crate::support::http::{Reply, Server};
use crate::support::pgp::{bytes, fingerprint};
use crate::support::{Ran, run_in, scratch};

const PUBLISHER: &str = "4E9091BCBB97A96B26B15E59A05480B1DD2D3CCC";

/// AWS's digest of EFA 1.47.0.
const PUBLISHED: &str = "2df4201e046833c7dc8160907bee7f52b76ff80ed147376a2d0ed8a0dd66b2db";

fn mirror() -> Server {
    Server::start(|asked| match asked.path.rsplit('/').next() {
        Some("our-efa.tar.gz") => Reply::file(asked, &bytes("efa.tar.gz"), "\"one\""),
        Some("our-efa.tar.gz.sig") => Reply::new(200, &bytes("good.sig")),
        Some("team.asc") => Reply::new(200, &bytes("good.asc")),
        _ => Reply::new(404, b"?"),
    })
}

/// A stack on an installer of its own, whose digest the file does not have.
fn stack_file(folder: &Path, signer: &str) {
    let text = format!(
        r#"
[[efa]]
version = "1.51.0"
download = {{ url = "https://downloads.example/our-efa.tar.gz", published = "us" }}
{signer}
[[stack]]
id = "ours"
title = "Ours"
efa = "1.51.0"
cuda = "13.0.2"
driver = "580.159.04"
nccl = "2.30.4-1"
plugin = "1.22.0"
nccl_tests = "2.18.3"
"#
    );
    std::fs::write(folder.join("stack.toml"), text).expect("a file can be written");
}

fn signed_by(fingerprint: &str) -> String {
    format!("signer = {{ fingerprint = \"{fingerprint}\", key = \"https://keys.example/team.asc\" }}")
}

fn fetch(folder: &Path, server: &Server, more: &[&str]) -> Ran {
    let fixed = ["fetch", "--efa", "1.51.0", "--stack-file", "stack.toml", "--mirror", &server.url];
    run_in(folder, &[&fixed[..], more].concat())
}

fn plan(folder: &Path, more: &[&str]) -> Ran {
    let fixed = ["plan", "--distro", "ubuntu24", "--output", "json"];
    run_in(folder, &[&fixed[..], more].concat())
}

#[track_caller]
fn efa_of(plan: &Ran) -> serde_json::Value {
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("JSON");
    plan["components"][0].clone()
}

fn sha256() -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes("efa.tar.gz")).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_fetch_and_verify_print_goes_into_the_plan() {
    let (folder, server, good) = (scratch(), mirror(), fingerprint("good"));
    stack_file(folder.path(), &signed_by(&good));
    let fetched = fetch(folder.path(), &server, &["--output", "json"]);
    assert_eq!(fetched.code, 0, "{}", fetched.stderr);
    let json: serde_json::Value = serde_json::from_str(&fetched.stdout).expect("JSON");
    let argument = json["efa_digest"].as_str().expect("it is there");
    let (digest, rest) = argument.split_once(',').expect("two commas");
    let (date, signer) = rest.split_once(',').expect("two commas");
    assert_eq!((digest, signer), (format!("sha256:{}", sha256()).as_str(), good.as_str()));

    let verify = ["verify", "our-efa.tar.gz", "--key", "team.asc", "--fingerprint", &good];
    let verified = run_in(folder.path(), &verify);
    let line = verified.stdout.lines().last().expect("it says something");
    assert_eq!(line, format!("for a plan      --efa-digest {argument}"));

    let ours = ["--stack", "ours", "--stack-file", "stack.toml", "--efa-digest", argument];
    let efa = efa_of(&plan(folder.path(), &ours));
    let words = format!("verified by you on {date}, signer's key {}", &good[..4]);
    assert!(efa["published"].as_str().is_some_and(|published| published.starts_with(&words)), "{words}: {efa}");
    assert_eq!(efa["digest"], digest);
    let script = run_in(folder.path(), &[&["render", "--distro", "ubuntu24"], &ours[..]].concat());
    assert_eq!(script.code, 0, "{}", script.stderr);
    let head = format!("\n#     {digest}\n#     source of the digest: {words} ");
    assert!(script.stdout.contains(&head), "{head}");
}

#[test]
fn without_it_there_is_no_plan_and_the_hint_names_both_commands() {
    let folder = scratch();
    stack_file(folder.path(), &signed_by(PUBLISHER));
    for (more, fetch, verify) in [
        (&["--efa", "1.51.0", "--no-gpu"][..], "fetch --efa 1.51.0", "verify aws-efa-installer-1.51.0.tar.gz"),
        (&["--efa", "1.48.0", "--no-gpu"], "fetch --efa 1.48.0", "verify aws-efa-installer-1.48.0.tar.gz"),
        (
            &["--stack", "ours", "--stack-file", "stack.toml"],
            "fetch --efa 1.51.0 --stack-file FILE",
            "verify our-efa.tar.gz --fingerprint HEX",
        ),
    ] {
        let ran = plan(folder.path(), more);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        let commands = [fetch, verify].map(|command| format!("`efa-gen {command}`"));
        for words in ["has no published SHA-256", &commands[0], &commands[1], "--efa-digest"] {
            assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        }
    }
}

#[test]
fn another_file_another_key_or_no_signer_is_refused() {
    let folder = scratch();
    let good = fingerprint("good");
    let of = |sha256: &str, fingerprint: &str| format!("sha256:{sha256},2026-12-01,{fingerprint}");
    let other = "0".repeat(64);
    let aws = |version: &'static str| vec!["--efa", version, "--no-gpu"];
    let ours = || vec!["--stack", "ours", "--stack-file", "stack.toml"];
    let cases = [
        (
            aws("1.47.0"),
            of(&other, PUBLISHER),
            String::new(),
            "--efa-digest differs from the published digest 2df4201e",
        ),
        (aws("1.50.0"), of(PUBLISHED, PUBLISHER), String::new(), "differs from the published digest fa6dff85"),
        (aws("1.51.0"), of(&other, &good), String::new(), "EFA 1.51.0 is signed by 4E90 91BC BB97 A96B"),
        (ours(), of(&other, PUBLISHER), signed_by(&good), "--efa-digest is of a check by key 4E90 91BC BB97 A96B"),
        (ours(), of(&other, PUBLISHER), String::new(), "the stack file does not say who signs EFA 1.51.0"),
    ];
    for (mut more, digest, signer, words) in cases {
        stack_file(folder.path(), &signer);
        more.extend(["--efa-digest", &digest]);
        let ran = plan(folder.path(), &more);
        assert_eq!(ran.code, 3, "{more:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
}

#[test]
fn what_is_not_whole_is_no_digest() {
    let folder = scratch();
    let (hex, day) = ("0".repeat(64), "2026-12-01");
    let cases = [
        (hex.clone(), "two commas"),
        (format!("sha256:{hex}"), "two commas"),
        (format!("sha256:{hex},{day}"), "two commas"),
        (format!("sha256:{hex},{day},{PUBLISHER},"), "two commas"),
        (format!("{hex},{day},{PUBLISHER}"), "the digest is not"),
        (format!("sha512:{hex},{day},{PUBLISHER}"), "the digest is not"),
        (format!("sha256:{},{day},{PUBLISHER}", &hex[1..]), "the digest is not"),
        (format!("sha256:{hex},2026-02-30,{PUBLISHER}"), "the date is not a day"),
        (format!("sha256:{hex},2026-12-1,{PUBLISHER}"), "the date is not a day"),
        (format!("sha256:{hex},20261201,{PUBLISHER}"), "the date is not a day"),
        (format!("sha256:{hex},2026-12-01T00:00:00Z,{PUBLISHER}"), "the date is not a day"),
        (format!("sha256:{hex},yesterday,{PUBLISHER}"), "the date is not a day"),
        (format!("sha256:{hex},,{PUBLISHER}"), "the date is not a day"),
        (format!("sha256:{hex},{day},DD2D3CCC"), "the fingerprint is not"),
        (format!("sha256:{hex},{day},{}Z", &PUBLISHER[1..]), "the fingerprint is not"),
        (format!("sha256:{hex},{day},{PUBLISHER}\n# reboot"), "the fingerprint is not"),
        (format!("sha256:{hex},{day},"), "the fingerprint is not"),
        (String::new(), "two commas"),
    ];
    for (digest, words) in cases {
        let ran = plan(folder.path(), &["--efa", "1.51.0", "--no-gpu", "--efa-digest", &digest]);
        assert_eq!(ran.code, 2, "{digest}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.contains("`efa-gen fetch`"), "{digest}: {}", ran.stderr);
    }
    let digest = format!("sha256:{hex},{day},{PUBLISHER}");
    let own = format!("efa={hex}");
    let ran = plan(folder.path(), &["--efa", "1.51.0", "--no-gpu", "--efa-digest", &digest, "--sha256", &own]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("both --efa-digest and --sha256 efa=HEX"), "{}", ran.stderr);
}

#[test]
fn a_plan_says_who_vouches_for_the_digest() {
    let folder = scratch();
    // Lower case and upper case are the same digits.
    let digest = format!("sha256:{},2026-12-01,{}", PUBLISHED.to_uppercase(), PUBLISHER.to_lowercase());
    let both = efa_of(&plan(folder.path(), &["--efa", "1.47.0", "--no-gpu", "--efa-digest", &digest]));
    let words = "AWS EC2 User Guide, \"Verify the EFA installer\"; verified by you on 2026-12-01, signer's key \
                 4E90 91BC BB97 A96B 26B1 5E59 A054 80B1 DD2D 3CCC";
    assert_eq!(both["published"], words);
    let given = format!("efa={}", "0".repeat(64));
    let given = efa_of(&plan(folder.path(), &["--efa", "1.51.0", "--no-gpu", "--sha256", &given]));
    assert_eq!(given["published"], "digest given by you, not verified");
}

/// A verdict as of another day says nothing of today.
#[test]
fn a_check_as_of_another_day_gives_nothing_to_pass_on() {
    let folder = scratch();
    for name in ["efa.tar.gz", "good.sig", "good.asc"] {
        std::fs::write(folder.path().join(name), bytes(name)).expect("a file can be written");
    }
    let good = fingerprint("good");
    let fixed = ["verify", "efa.tar.gz", "--signature", "good.sig", "--key", "good.asc", "--fingerprint", &good];
    assert!(run_in(folder.path(), &fixed).stdout.contains("--efa-digest"));
    let at = ["--at", "2030-01-01"];
    let ran = run_in(folder.path(), &[&fixed[..], &at].concat());
    assert!(ran.code == 0 && !ran.stdout.contains("--efa-digest"), "{}{}", ran.stdout, ran.stderr);
    let ran = run_in(folder.path(), &[&fixed[..], &at, &["--output", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert!(json["efa_digest"].is_null(), "{json}");
}
