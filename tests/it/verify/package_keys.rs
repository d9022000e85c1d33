//! `--check-signatures`: which key may go to a guest, and for which installer.

use std::path::Path;

use sequoia_openpgp::cert::{CertBuilder, CertParser};
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::serialize::SerializeInto;

use crate::support::pgp::{bytes, fingerprint, fixtures};
use crate::support::{Ran, run_in, scratch};

/// A stack file with an installer of this version, signed by this key.
fn render(folder: &Path, version: &str, signer: &str, key: &str) -> Ran {
    let digest = "ab".repeat(32);
    let text = format!(
        "[[efa]]\nversion = \"{version}\"\n\
         download = {{ url = \"https://downloads.example/efa.tar.gz\", sha256 = \"{digest}\", published = \"us\" }}\n{signer}"
    );
    std::fs::write(folder.join("stack.toml"), text).expect("a file can be written");
    let beside = folder.join(key);
    let key = if beside.exists() { beside } else { fixtures().join(key) }.display().to_string();
    let fixed = ["render", "--distro", "ubuntu24", "--stack-file", "stack.toml", "--no-gpu", "--efa", version];
    run_in(folder, &[&fixed[..], &["--check-signatures", &key]].concat())
}

fn signed_by(name: &str) -> String {
    format!("signer = {{ fingerprint = \"{}\", key = \"https://keys.example/team.asc\" }}\n", fingerprint(name))
}

/// A private key, as its owner keeps it.
fn secret() -> Vec<u8> {
    let (certificate, _) = CertBuilder::general_purpose(Some("publisher")).generate().expect("a key can be made");
    certificate.as_tsk().armored().to_vec().expect("a key can be written")
}

/// The certificates in the armor that a script writes.
fn certificates(script: &str) -> Vec<String> {
    let begin = script.find("-----BEGIN PGP PUBLIC KEY BLOCK-----").expect("the script has a key");
    let end = script.rfind("-----END PGP PUBLIC KEY BLOCK-----\nEOF").expect("the key ends") + 35;
    let parser = CertParser::from_bytes(&script.as_bytes()[begin..end]).expect("it is armored");
    parser.map(|certificate| certificate.expect("it is whole").fingerprint().to_hex()).collect()
}

#[test]
fn the_signers_certificate_alone_goes_to_the_guest() {
    let folder = scratch();
    for (key, signer) in [("good.asc", "good"), ("good.gpg", "good"), ("keyring.asc", "good"), ("keyring.asc", "sub")] {
        let ran = render(folder.path(), "1.50.0", &signed_by(signer), key);
        assert_eq!(ran.code, 0, "{key}: {}", ran.stderr);
        assert_eq!(certificates(&ran.stdout), [fingerprint(signer)], "{key}");
        for words in [
            " EFA_INSTALLER_KEY=/var/lib/efa-gen/src/efa.key",
            "./efa_installer.sh -y --check-signatures",
            "-o Dpkg::Options::=--force-confold install gnupg",
            "forget_key ",
            "assert_gone /var/lib/efa-gen/src/efa.key",
        ] {
            assert!(ran.stdout.replace(" \\\n   ", "").contains(words), "{words}: {}", ran.stdout);
        }
    }
    let again = render(folder.path(), "1.50.0", &signed_by("good"), "keyring.asc").stdout;
    assert_eq!(again, render(folder.path(), "1.50.0", &signed_by("good"), "keyring.asc").stdout);
}

#[test]
fn a_key_that_may_not_be_believed_goes_to_no_guest() {
    let folder = scratch();
    let page = b"<html>404</html>\n".to_vec();
    for (name, content) in [("empty", Vec::new()), ("page.html", page), ("secret.asc", secret())] {
        std::fs::write(folder.path().join(name), content).expect("a file can be written");
    }
    std::fs::create_dir(folder.path().join("folder")).expect("a folder can be made");
    for (signer, key, code, words) in [
        ("good", "wrong.asc", 3, "wrong key"),
        ("hard", "hard.asc", 3, "revoked"),
        ("soft", "soft.asc", 3, "revoked"),
        ("revsub", "revsub.asc", 3, "revoked"),
        ("rsa1024", "rsa1024.asc", 3, "1024 bits"),
        ("dsa", "dsa.asc", 3, "DSA"),
        ("good", "empty", 3, "empty"),
        ("good", "page.html", 3, "HTML or XML page"),
        ("good", "secret.asc", 3, "private key"),
        ("good", "good.sig", 3, "key"),
        ("good", "nowhere.asc", 5, "No such file"),
        ("good", "folder", 2, "folder"),
    ] {
        let ran = render(folder.path(), "1.50.0", &signed_by(signer), key);
        assert_eq!(ran.code, code, "{key}: {}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stdout.is_empty(), "{key}, {words}: {}", ran.stderr);
    }
}

#[test]
fn installers_of_another_signer_or_time_are_refused() {
    let folder = scratch();
    let none = render(folder.path(), "1.50.0", "", "good.asc");
    assert_eq!(none.code, 3, "{}", none.stderr);
    assert!(none.stderr.contains("wrong key"), "the file has no key of the publisher's either: {}", none.stderr);
    for version in ["1.47.0", "1.33.0"] {
        let old = render(folder.path(), version, &signed_by("good"), "good.asc");
        assert_eq!(old.code, 4, "{}", old.stderr);
        let words = format!("--check-signatures: the packages of EFA installer {version} are not signed");
        assert!(old.stderr.contains(&words) && old.stderr.contains("from 1.48.0 on"), "{}", old.stderr);
    }
    // The stack file's signer signs its own installer, and not AWS's.
    render(folder.path(), "1.49.0", &signed_by("good"), "good.asc");
    let key = folder.path().join("key.asc");
    std::fs::write(&key, bytes("good.asc")).expect("a file can be written");
    let fixed = ["render", "--distro", "ubuntu24", "--stack-file", "stack.toml", "--no-gpu", "--efa", "1.50.0"];
    let ran = run_in(folder.path(), &[&fixed[..], &["--check-signatures", "key.asc"]].concat());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("EFA 1.50.0 is signed by 4E90 91BC"), "{}", ran.stderr);
}
