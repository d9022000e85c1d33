//! Owns the OpenPGP fixtures. Everything that GnuPG can make, GnuPG makes, in a home of its own; the
//! rest (broken bindings, version 6 keys, forged issuers) is made with sequoia.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::{in_repository, target_tmp};

/// Set by `.ci/run`: make the fixtures anew with the GnuPG of this machine instead of taking the committed ones.
const WITH_GNUPG: &str = "EFA_GEN_GNUPG";

/// The folder with every fixture, made once and kept under target/tmp until a source of it changes; a lock makes
/// several test processes wait for the first. What GnuPG made lies in tests/fixtures/pgp, so that a machine without
/// it can test too. To renew that folder: `EFA_GEN_GNUPG=1 cargo test --test it verify::`, then copy the files of the
/// same names from target/tmp/pgp-gnupg.
pub fn fixtures() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let anew = std::env::var_os(WITH_GNUPG).is_some();
        let name = if anew { "pgp-gnupg" } else { "pgp-committed" };
        let folder = target_tmp(name);
        let lock = File::create(target_tmp(&format!("{name}.lock"))).expect("a lock file");
        lock.lock().expect("the lock");
        let origin = if anew { gpg_version() } else { committed_digest() };
        let stamp = format!("{origin}\n{}\n{}", include_str!("pgp.rs"), include_str!("pgp/odd.rs"));
        if fs::read_to_string(folder.join("stamp")).ok().as_ref() != Some(&stamp) {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).expect("the fixture folder");
            make_data(&folder);
            if anew {
                make_with_gnupg(&folder);
            } else {
                copy_committed(&folder);
            }
            odd::make(&folder);
            fs::write(folder.join("stamp"), stamp).expect("the stamp");
        }
        folder
    })
}

fn committed() -> Vec<PathBuf> {
    let entries = fs::read_dir(in_repository("tests/fixtures/pgp")).expect("tests/fixtures/pgp is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    paths
}

fn committed_digest() -> String {
    let mut digest = Sha256::new();
    for path in committed() {
        digest.update(fs::read(path).expect("a fixture can be read"));
    }
    format!("{:x?}", digest.finalize())
}

fn copy_committed(folder: &Path) {
    for path in committed() {
        fs::copy(&path, folder.join(path.file_name().expect("a file has a name"))).expect("a fixture can be copied");
    }
}

/// A fixture's bytes.
pub fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap_or_else(|error| panic!("fixture {name}: {error}"))
}

/// The primary fingerprint of the key `NAME.asc`.
pub fn fingerprint(name: &str) -> String {
    fs::read_to_string(fixtures().join(format!("{name}.fpr")))
        .unwrap_or_else(|error| panic!("fingerprint {name}: {error}"))
}

fn gpg_version() -> String {
    let output = Command::new("gpg").arg("--version").output();
    let output = output.expect("these tests need GnuPG: install the package `gnupg`");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

/// A GnuPG home of its own, whose daemons end with it. It lies in the system's temporary folder: the
/// agent's socket allows no long path.
struct Gpg<'a> {
    home: tempfile::TempDir,
    out: &'a Path,
}

impl Drop for Gpg<'_> {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", self.home.path()).status();
    }
}

impl<'a> Gpg<'a> {
    fn new(out: &'a Path) -> Self {
        let home = tempfile::tempdir().expect("a GnuPG home");
        fs::write(home.path().join("gpg.conf"), "no-auto-check-trustdb\n").expect("gpg.conf");
        Gpg { home, out }
    }

    /// Runs gpg in the fixture folder and returns its stdout. `args` are split at blanks.
    fn run(&self, args: &str, stdin: &str) -> String {
        let fixed = "--batch --yes --quiet --no-tty --pinentry-mode loopback --passphrase-file /dev/null";
        let interactive = args.contains("--command-fd");
        let fixed = fixed.split(' ').filter(|flag| !(interactive && *flag == "--batch"));
        let mut child = Command::new("gpg")
            .args(fixed)
            .args(args.split(' ').map(|arg| arg.replace('~', " ")))
            .env("GNUPGHOME", self.home.path())
            .env("LC_ALL", "C")
            .current_dir(self.out)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gpg starts");
        child.stdin.take().expect("a pipe").write_all(stdin.as_bytes()).expect("gpg reads");
        let output = child.wait_with_output().expect("gpg ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gpg {args} failed:\n{stderr}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Makes a key `NAME`; writes its fingerprint.
    fn key(&self, name: &str, algorithm: &str, options: &str) -> String {
        let (usage, expiry) = if algorithm.contains("cert") { ("", "never") } else { (" sign", "never") };
        let expiry = if options.contains("2019") && name.starts_with("exp") { "1y" } else { expiry };
        let blank = if options.is_empty() { "" } else { " " };
        self.run(
            &format!("{options}{blank}--quick-gen-key {name}~<{name}@example.org> {algorithm}{usage} {expiry}"),
            "",
        );
        let list = self.run(&format!("--with-colons --list-keys {name}@example.org"), "");
        let line = list.lines().find(|line| line.starts_with("fpr:")).expect("a fingerprint");
        let fingerprint = line.split(':').nth(9).expect("ten columns").to_owned();
        fs::write(self.out.join(format!("{name}.fpr")), &fingerprint).expect("written");
        fingerprint
    }

    /// Writes the public key to `FILE.asc`.
    fn export(&self, name: &str, file: &str) {
        self.run(&format!("--armor --output {file}.asc --export {name}@example.org"), "");
    }

    /// Makes a detached signature over `efa.tar.gz`.
    fn sign(&self, name: &str, file: &str, options: &str) {
        let blank = if options.is_empty() { "" } else { " " };
        self.run(&format!("{options}{blank}-u {name}@example.org --output {file} --detach-sign efa.tar.gz"), "");
    }
}

const IN_2019: &str = "--faked-system-time 20190601T000000";

fn make_data(out: &Path) {
    // Gzip's magic, then bytes that fill more than one read buffer.
    let mut data = vec![0x1f, 0x8b, 8, 0];
    data.extend((0..600_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8));
    let write = |name: &str, bytes: &[u8]| fs::write(out.join(name), bytes).expect("written");
    write("efa.tar.gz", &data);
    write("other.tar.gz", b"\x1f\x8bother");
    write("page.html", b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n");
    write("page.xml", b"<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code></Error>\n");
}

fn make_with_gnupg(out: &Path) {
    let gpg = Gpg::new(out);
    good_keys(&gpg);
    weak_keys(&gpg);
    dated_keys(&gpg);
    revoked_keys(&gpg);
    let read = |name: &str| fs::read(out.join(name)).expect("made before");
    let keyring = [read("wrong.asc"), read("sub.asc"), read("good.asc")].concat();
    fs::write(out.join("keyring.asc"), keyring).expect("written");
}

fn good_keys(gpg: &Gpg) {
    gpg.key("good", "rsa2048", "");
    gpg.export("good", "good");
    gpg.run("--output good.gpg --export good@example.org", "");
    for digest in ["SHA256", "SHA384", "SHA512", "SHA224", "SHA1"] {
        gpg.sign("good", &format!("good-{digest}.sig"), &format!("--digest-algo {digest}"));
    }
    gpg.sign("good", "good.sig", "--digest-algo SHA256");
    gpg.sign("good", "good.sig.asc", "--digest-algo SHA512 --armor");
    gpg.sign("good", "text.sig", "--textmode");
    gpg.sign("good", "critical.sig", "--sig-notation !odd@example.org=1");
    gpg.sign("good", "future.sig", "--faked-system-time 20400101T000000");
    gpg.sign("good", "md5.sig", "--digest-algo MD5 --allow-weak-digest-algos");
    gpg.run("-u good@example.org --output other.sig --detach-sign other.tar.gz", "");
    gpg.run("-u good@example.org --output clear.asc --clearsign other.tar.gz", "");
    gpg.run("-u good@example.org --output inline.gpg --sign other.tar.gz", "");
    gpg.run("-u good@example.org --armor --output inline.asc --sign other.tar.gz", "");
    gpg.key("wrong", "ed25519", "");
    gpg.export("wrong", "wrong");
    gpg.sign("wrong", "wrong.sig", "");
    let sub = gpg.key("sub", "rsa2048 cert", "");
    gpg.run(&format!("--quick-add-key {sub} ed25519 sign never"), "");
    gpg.export("sub", "sub");
    gpg.sign("sub", "sub.sig", "");
    let list = gpg.run("--with-colons --list-keys sub@example.org", "");
    let subkey = list.lines().filter(|line| line.starts_with("fpr:")).nth(1).and_then(|line| line.split(':').nth(9));
    fs::write(gpg.out.join("subkey.fpr"), subkey.expect("a subkey")).expect("written");
}

fn weak_keys(gpg: &Gpg) {
    for (name, algorithm, options) in
        [("rsa1024", "rsa1024", ""), ("dsa", "dsa2048", ""), ("sha1self", "rsa2048", "--cert-digest-algo SHA1")]
    {
        gpg.key(name, algorithm, options);
        gpg.export(name, name);
        gpg.sign(name, &format!("{name}.sig"), "--digest-algo SHA256");
    }
}

fn dated_keys(gpg: &Gpg) {
    // Expired in 2020, signed in 2019.
    gpg.key("expired", "ed25519", IN_2019);
    gpg.sign("expired", "expired.sig", IN_2019);
    gpg.export("expired", "expired");
    // The same, extended in 2021: GnuPG replaces the self-signature of 2019.
    let extended = gpg.key("expextended", "ed25519", IN_2019);
    gpg.sign("expextended", "expextended.sig", IN_2019);
    gpg.run(&format!("--faked-system-time 20210601T000000 --quick-set-expire {extended} 20y"), "");
    gpg.export("expextended", "expextended");
    // Signed in 2021; then given an expiry in 2020 by a self-signature of 2019.
    let late = gpg.key("late", "ed25519", IN_2019);
    gpg.sign("late", "late.sig", "--faked-system-time 20210601T000000");
    gpg.run(&format!("--faked-system-time 20191201T000000 --quick-set-expire {late} 20200601T000000"), "");
    gpg.export("late", "late");
    // A signature that was good for one day.
    gpg.key("brief", "ed25519", "--faked-system-time 20190601T000000");
    gpg.sign("brief", "brief.sig", "--faked-system-time 20190602T000000 --default-sig-expire 1d");
    gpg.export("brief", "brief");
}

fn revoked_keys(gpg: &Gpg) {
    // Reasons in GnuPG's menu: 1 = compromised (hard), 2 = superseded (soft).
    for (name, reason) in [("hard", "1"), ("soft", "2")] {
        let fingerprint = gpg.key(name, "ed25519", IN_2019);
        gpg.sign(name, &format!("{name}.sig"), "--faked-system-time 20190602T000000");
        gpg.export(name, &format!("{name}-before"));
        let answers = format!("y\n{reason}\nwhat \u{1b}[31m happened\n\ny\n");
        gpg.run(&format!("--command-fd 0 --output {name}.rev --gen-revoke {fingerprint}"), &answers);
        gpg.run(&format!("--import {name}.rev"), "");
        gpg.export(name, name);
    }
    let subkey = gpg.key("revsub", "ed25519 cert", IN_2019);
    gpg.run(&format!("{IN_2019} --quick-add-key {subkey} ed25519 sign never"), "");
    gpg.sign("revsub", "revsub.sig", "--faked-system-time 20190602T000000");
    gpg.run(&format!("--command-fd 0 --edit-key {subkey}"), "key 1\nrevkey\ny\n3\n\ny\nsave\n");
    gpg.export("revsub", "revsub");
}

mod odd;
