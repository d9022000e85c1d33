//! Passwords and tokens in addresses: what is rendered, stored or logged has none, whichever way they were given, and no message
//! repeats one.

use std::fs;
use std::path::Path;

use crate::support::{command, scratch, stderr, stdout};

/// What nothing may show.
const SECRET: &str = "s3cretw0rd";

/// Runs it in a folder of its own; its exit code and whatever it said.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = command(arguments);
    let output = command.current_dir(folder).env("HOME", folder).output().expect("it starts");
    (output.status.code(), stdout(&output) + &stderr(&output))
}

/// Addresses that hold something secret, below a scheme.
fn secret() -> Vec<String> {
    [
        "me:SECRET@mirror.example/efa",
        "SECRET@mirror.example/efa",
        ":SECRET@mirror.example:8443/efa",
        "me:SECRET@[2001:db8::1]:8443/efa",
        "me:%40SECRET@mirror.example",
        "me:SECRET/more@mirror.example/efa",
        "me:SECRET?more@mirror.example/efa",
        "mirror.example/efa?token=SECRET",
        "mirror.example?SECRET",
        "mirror.example/efa#SECRET",
        "mirror.example/efa?X-Amz-Signature=SECRET&X-Amz-Expires=60",
    ]
    .map(|address| address.replace("SECRET", SECRET))
    .into()
}

#[test]
fn no_flag_takes_an_address_with_a_secret() {
    let folder = scratch();
    for scheme in ["https", "http"] {
        for address in secret() {
            let url = format!("{scheme}://{address}");
            for arguments in [
                &["render", "--distro", "ubuntu24", "--mirror", &url][..],
                &["plan", "--distro", "ubuntu24", "--mirror", &url],
                &["render", "--distro", "al2", "--yum-repository", &url],
                &["fetch", "--efa", "1.43.2", "--mirror", &url],
                &["fetch", "--efa", "1.43.2", "--base-url", &url],
            ] {
                let (code, said) = run(folder.path(), arguments);
                assert_eq!(code, Some(2), "{arguments:?}: {said}");
                assert!(!said.contains(SECRET), "{said}");
                let named = said.contains("a user name or password") || said.contains("a query or a fragment");
                assert!(named && said.contains("hint: "), "{arguments:?}: {said}");
            }
        }
    }
}

#[test]
fn an_address_without_one_is_as_good_as_before() {
    let folder = scratch();
    for url in [
        "https://mirror.example/efa",
        "http://mirror.example:8080/efa/",
        "https://[2001:db8::1]:8443/a@b",
        "https://mirror.example/team@example.org/efa",
        "https://mirror.example",
    ] {
        let (code, said) = run(folder.path(), &["render", "--distro", "ubuntu24", "--mirror", url]);
        assert_eq!(code, Some(0), "{url}: {said}");
        assert!(said.contains(url.trim_end_matches('/')), "{url}");
        let (code, said) = run(folder.path(), &["render", "--distro", "al2", "--yum-repository", url]);
        assert_eq!(code, Some(0), "{url}: {said}");
        assert!(said.contains(&format!("\nbaseurl={url}\n")), "{url}");
    }
}

#[test]
fn no_stack_file_has_an_address_with_a_secret() {
    let folder = scratch();
    let hex = "0".repeat(64);
    let commit = "0".repeat(40);
    for address in secret() {
        let url = format!("https://{address}");
        let download = |url: &str| format!("{{ url = \"{url}\", sha256 = \"{hex}\", published = \"us\" }}");
        let good = download("https://mirror.example/x");
        let signer = |key: &str| format!("{{ fingerprint = \"{}\", key = \"{key}\" }}", "A".repeat(40));
        for stack in [
            format!("[[efa]]\nversion = \"9.9.9\"\ndownload = {}\n", download(&url)),
            format!("[[efa]]\nversion = \"9.9.9\"\ndownload = {good}\nsigner = {}\n", signer(&url)),
            format!("[[nccl]]\nversion = \"9.9.9\"\npublished = \"us\"\nurl = \"{url}\"\ncommit = \"{commit}\"\n"),
            format!(
                "[[nccl_tests]]\nversion = \"9.9.9\"\npublished = \"us\"\nurl = \"{url}\"\ncommit = \"{commit}\"\n"
            ),
        ] {
            fs::write(folder.path().join("stack.toml"), &stack).expect("a file");
            let (code, said) = run(folder.path(), &["render", "--distro", "ubuntu24", "--stack-file", "stack.toml"]);
            assert_eq!(code, Some(2), "{stack}: {said}");
            assert!(!said.contains(SECRET), "{said}");
            assert!(said.contains("a URL has a user name") || said.contains("a URL has a query"), "{stack}: {said}");
        }
    }
}

#[test]
fn no_extra_script_has_a_url_with_a_password() {
    let folder = scratch();
    let render = |line: &str| {
        fs::write(folder.path().join("extra.sh"), format!("#!/bin/bash\nset -e\n{line}\n")).expect("a file");
        run(folder.path(), &["render", "--distro", "ubuntu24", "--extra-script", "extra.sh", "--format", "script"])
    };
    for line in [
        "git clone https://me:SECRET@git.example/x.git",
        "git clone 'https://SECRET@git.example/x.git'",
        "curl -fsS HTTP://me:SECRET@git.example",
        "pip install --index-url=\"https://me:SECRET@pypi.example:8080/simple\" x",
        "curl https://git.example/a https://me:SECRET@git.example/b",
        "curl https://${NAME}:SECRET@git.example",
        "curl 'https://me:SECRET$1@git.example'",
        "curl https://me:SECRET/more@git.example/x",
        "curl https://git:SECRET@git.example/x",
    ] {
        let (code, said) = render(&line.replace("SECRET", SECRET));
        assert_eq!(code, Some(2), "{line}: {said}");
        assert!(said.contains("://***@") && !said.contains(SECRET), "{line}: {said}");
        assert!(said.contains("public to whoever may launch the image"), "{said}");
    }
    for line in [
        "git clone https://$TOKEN@git.example/x.git",
        "git clone \"https://me:${TOKEN}@git.example/x.git\"",
        "pip install git+https://git@github.com/org/repository",
        "curl https://$NAME:$TOKEN@git.example/x",
        "curl https://host:8443/x@y https://[::1]:8443/x@y https://host:$PORT/x@y",
        "git clone ssh://git@git.example/x.git",
        "mail -s https://example.org me@example.org",
        "curl https://example.org/@scope/package",
        "echo https:// @",
    ] {
        let (code, said) = render(line);
        assert_eq!(code, Some(0), "{line}: {said}");
    }
}

#[test]
fn the_help_says_who_reads_an_extra_script() {
    for command in ["render", "build", "plan"] {
        let (_, help) = run(Path::new("/"), &[command, "--help"]);
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("Whoever may launch the image, or read its user-data, can read it"), "{help}");
    }
}
