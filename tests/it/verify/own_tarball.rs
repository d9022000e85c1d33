//! `efa-gen fetch --stack-file`: a tarball of the user's own, by the user's own signer, from a mirror.

use std::path::Path;

use crate::support::http::{Reply, Server};
use crate::support::pgp::{bytes, fingerprint};
use crate::support::{Ran, names, run_in, scratch};

const NAME: &str = "our-efa-1.50.0.tar.gz";

/// A mirror in the layout of `--mirror`: everything below a folder named after its host.
fn mirror() -> Server {
    Server::start(|asked| match asked.path.as_str() {
        "/efa/downloads.example/our-efa-1.50.0.tar.gz" => Reply::file(asked, &bytes("efa.tar.gz"), "\"one\""),
        "/efa/downloads.example/our-efa-1.50.0.tar.gz.sig" => Reply::new(200, &bytes("good.sig")),
        "/efa/keys.example/team.asc" => Reply::new(200, &bytes("good.asc")),
        _ => Reply::new(404, b"?"),
    })
}

fn signer(fingerprint: &str) -> String {
    format!("signer = {{ fingerprint = \"{fingerprint}\", key = \"https://keys.example/team.asc\" }}\n")
}

/// A stack file that pins the fixture's tarball.
fn stack_file(folder: &Path, sha256: &str, signer: &str) {
    let download = format!("url = \"https://downloads.example/{NAME}\", sha256 = \"{sha256}\", published = \"us\"");
    let text = format!("[[efa]]\nversion = \"1.50.0\"\ndownload = {{ {download} }}\n{signer}");
    std::fs::write(folder.join("stack.toml"), text).expect("a file can be written");
}

fn sha256() -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes("efa.tar.gz")).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fetch(folder: &Path, server: &Server, more: &[&str]) -> Ran {
    let mirror = format!("{}/efa", server.url);
    let mut args = vec!["fetch", "--efa", "1.50.0", "--stack-file", "stack.toml", "--mirror", &mirror];
    args.extend(more);
    run_in(folder, &args)
}

#[test]
fn the_stack_files_signer_and_digest_are_what_is_checked() {
    let (folder, server) = (scratch(), mirror());
    stack_file(folder.path(), &sha256(), &signer(&fingerprint("good")));
    let ran = fetch(folder.path(), &server, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("plain http"), "{}", ran.stderr);
    assert_eq!(names(folder.path()), [NAME, &format!("{NAME}.sig"), "stack.toml", "team.asc"]);
}

#[test]
fn another_signer_another_digest_or_none_is_refused() {
    let (good, other) = (fingerprint("good"), "4E9091BCBB97A96B26B15E59A05480B1DD2D3CCC");
    let cases = [
        (sha256(), signer(other), &[][..], 3, "4E9091BCBB97A96B26B15E59A05480B1DD2D3CCC"),
        ("0".repeat(64), signer(&good), &[], 3, "SHA-256"),
        (sha256(), String::new(), &[], 2, "the stack file does not say who signs EFA 1.50.0"),
        (sha256(), String::new(), &["--fingerprint", &good], 2, "does not say who signs"),
        (sha256(), signer(&good), &["--fingerprint", other], 3, "4E9091BCBB97A96B26B15E59A05480B1DD2D3CCC"),
        (sha256(), signer(&good), &["--base-url", "http://x.example"], 2, "cannot be used with"),
        (sha256(), signer("DD2D3CCC"), &[], 2, "is not a fingerprint"),
        (sha256(), signer(&good).replace("https://", "http://"), &[], 2, "is not an https URL"),
    ];
    let server = mirror();
    for (sha256, signer, more, code, words) in cases {
        let folder = scratch();
        stack_file(folder.path(), &sha256, &signer);
        let ran = fetch(folder.path(), &server, more);
        assert_eq!(ran.code, code, "{words}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
        assert!(!names(folder.path()).contains(&NAME.to_owned()), "{words}: the tarball has its name");
    }
}

/// AWS published a digest for a file of this name; this is another file, and its signer is the user's.
#[test]
fn a_tarball_of_awss_name_is_not_held_to_awss_digest() {
    let (folder, name) = (scratch(), "aws-efa-installer-1.47.0.tar.gz");
    let server = Server::start(move |asked| match asked.path.rsplit('/').next() {
        Some(file) if file == name => Reply::file(asked, &bytes("efa.tar.gz"), "\"one\""),
        Some(file) if file.ends_with(".sig") => Reply::new(200, &bytes("good.sig")),
        _ => Reply::new(200, &bytes("good.asc")),
    });
    let download = format!("url = \"https://downloads.example/{name}\", published = \"us\"");
    let text = format!("[[efa]]\nversion = \"1.47.0\"\ndownload = {{ {download} }}\n{}", signer(&fingerprint("good")));
    std::fs::write(folder.path().join("stack.toml"), text).expect("a file can be written");
    let args = ["fetch", "--efa", "1.47.0", "--stack-file", "stack.toml", "--mirror", &server.url];
    let ran = run_in(folder.path(), &args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn what_the_mirror_does_not_have_is_named() {
    let (folder, server) = (scratch(), mirror());
    stack_file(folder.path(), &sha256(), &signer(&fingerprint("good")).replace("team.asc", "lost.asc"));
    let ran = fetch(folder.path(), &server, &[]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("/efa/keys.example/lost.asc"), "{}", ran.stderr);
}
