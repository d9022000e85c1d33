//! `efa-gen verify`, run as users run it, over keys and signatures made by real GnuPG.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::support::pgp::{bytes, fingerprint, fixtures};
use crate::support::{Ran, run_in, scratch};

/// One row of the table: which files, and what must come of it.
struct Case {
    name: &'static str,
    data: &'static str,
    signature: &'static str,
    key: &'static str,
    /// The key whose fingerprint is pinned; `=HEX` pins that, nothing the key file's own.
    pin: &'static str,
    more: &'static [&'static str],
    code: i32,
    /// Must stand in stderr (refusals) or in stdout and stderr together (good ones).
    says: &'static [&'static str],
}

const fn case(name: &'static str, signature: &'static str, code: i32, says: &'static [&'static str]) -> Case {
    Case { name, data: "efa.tar.gz", signature, key: "good.asc", pin: "good", more: &[], code, says }
}

/// A case that pins the primary key of its own key file, `NAME.asc`.
const fn own(
    name: &'static str,
    signature: &'static str,
    key: &'static str,
    code: i32,
    says: &'static [&'static str],
) -> Case {
    Case { name, data: "efa.tar.gz", signature, key, pin: "", more: &[], code, says }
}

impl Case {
    const fn data(mut self, data: &'static str) -> Self {
        self.data = data;
        self
    }

    const fn key(mut self, key: &'static str) -> Self {
        self.key = key;
        self
    }

    const fn pin(mut self, pin: &'static str) -> Self {
        self.pin = pin;
        self
    }

    const fn more(mut self, more: &'static [&'static str]) -> Self {
        self.more = more;
        self
    }
}

const CHANGED: &str = "bad signature: the tarball was changed or cut short, or the signature belongs to another file";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Good.
    case("binary", "good.sig", 0, &["good signature  efa.tar.gz", "<good@example.org>", "(SHA256)"]),
    case("armored", "good.sig.asc", 0, &["good signature", "(SHA512)"]),
    case("SHA-384", "good-SHA384.sig", 0, &["(SHA384)"]),
    case("SHA-512", "good-SHA512.sig", 0, &["(SHA512)"]),
    case("SHA-224", "good-SHA224.sig", 0, &["(SHA224)"]),
    case("armored with CRLF", "crlf.sig.asc", 0, &["good signature"]),
    case("text before the armor", "lead.sig.asc", 0, &["good signature"]),
    case("the same signature twice", "twice.sig", 0, &["good signature"]),
    case("two signatures, two armored blocks", "two-blocks.sig.asc", 0, &["good signature"]),
    case("binary key", "good.sig", 0, &["good signature"]).key("good.gpg"),
    case("key file with three certificates", "good.sig", 0, &["<good@example.org>"]).key("keyring.asc"),
    case("valid subkey", "sub.sig", 0, &["<sub@example.org>", "signing key     "]).key("keyring.asc").pin("sub"),
    own("SHA-1 self-signature", "sha1self.sig", "sha1self.asc", 0, &["good signature"]),
    own("version 6 key", "six.sig", "six.asc", 0, &["good signature", "(SHA512)"]),
    own("key expired later", "expired.sig", "expired.asc", 0, &["signed at       2019-06-01", "warning: key ", "expired on 2020-05-31", "download the key file again"]),
    own("key extended later", "expextended.sig", "expextended.asc", 0, &["signed at       2019-06-01"]),
    own("key expired, but not at that time", "expired.sig", "expired.asc", 0, &["good signature"]).more(&["--at", "2019-12-01"]),
    own("short-lived signature in its day", "brief.sig", "brief.asc", 0, &["good signature"]).more(&["--at", "2019-06-02T12:00:00+02:00"]),
    own("revoked, but the key file is older", "soft.sig", "soft-before.asc", 0, &["good signature"]).pin("soft"),

    // The data.
    case("first byte changed", "good.sig", 3, &[CHANGED, "hint: SHA-256 is "]).data("first.tar.gz"),
    case("last byte changed", "good.sig", 3, &[CHANGED]).data("last.tar.gz"),
    case("cut short", "good.sig", 3, &[CHANGED, "do not unpack this one"]).data("cut.tar.gz"),
    case("signature over another file", "other.sig", 3, &[CHANGED]),
    case("empty tarball", "good.sig", 3, &["the tarball is empty"]).data("empty"),
    case("HTML page as tarball", "good.sig", 3, &["bad signature, and the tarball is an HTML or XML page", "hint: the server"]).data("page.html"),
    case("missing tarball", "good.sig", 5, &["could not read tarball nowhere.tar.gz", "No such file"]).data("nowhere.tar.gz"),
    case("folder as tarball", "good.sig", 2, &["tarball folder is a folder"]).data("folder"),
    case("pipe as tarball", "good.sig", 2, &["tarball pipe is not a regular file"]).data("pipe"),

    // The digest.
    case("digest differs", "good.sig", 3, &["sum differs, signature good: SHA-256 is ", "expected 00"]).more(&["--sha256", "0000000000000000000000000000000000000000000000000000000000000000"]),
    case("bad signature and digest differs", "good.sig", 3, &[CHANGED, "is not the expected 00", "download the tarball again"]).data("first.tar.gz").more(&["--sha256", "0000000000000000000000000000000000000000000000000000000000000000"]),
    case("digest too short", "good.sig", 2, &["has 4 hex digits instead of 64"]).more(&["--sha256", "abcd"]),
    case("digest no hex", "good.sig", 2, &["holds something else than hex digits"]).more(&["--sha256", "sum"]),
    case("published digest by the name", "good.sig", 3, &["note: the tarball must also have the SHA-256 of EFA 1.9.5 that is published in AWS EC2 User Guide, ", "sum differs, signature good", "a4343308d7ea4dc943ccc21bcebed913e8868e59bfb2ac93599c61a7c87d7d25"]).data("aws-efa-installer-1.9.5.tar.gz"),

    // The signature file.
    case("empty signature", "empty", 3, &["the signature file is empty"]),
    case("signature of blanks", "blanks", 3, &["the signature file is empty"]),
    case("truncated signature", "short.sig", 3, &["the signature file is truncated"]),
    case("signature short of one byte", "short1.sig", 3, &["the signature file is truncated"]),
    case("truncated armor", "short.sig.asc", 3, &["the signature file is truncated"]),
    case("flipped bit in the signature", "flipped.sig", 3, &[CHANGED]),
    case("junk after the signature", "junk.sig", 3, &["something else follows the signature"]),
    case("zeros after the signature", "zeros.sig", 3, &["something else follows the signature"]),
    case("text after the armor", "junk.sig.asc", 3, &["something else follows the signature"]),
    case("key after the signature", "sigkey.sig", 3, &["something else follows the signature"]),
    case("HTML page as signature", "page.html", 3, &["the signature file is an HTML or XML page", "hint: the server"]),
    case("XML page as signature", "page.xml", 3, &["the signature file is an HTML or XML page"]),
    case("text as signature", "text.txt", 3, &["the signature file holds no OpenPGP signature"]),
    case("tarball as signature", "other.tar.gz", 3, &["the signature file holds no OpenPGP signature"]),
    case("key as signature", "good.asc", 3, &["the signature file holds a key, not a signature", "change places"]),
    case("binary key as signature", "good.gpg", 3, &["the signature file holds a key, not a signature"]),
    case("private key as signature", "private.asc", 3, &["holds a private key, not a signature", "keep that file to its owner"]),
    case("binary private key as signature", "private.gpg", 3, &["holds a private key, not a signature"]),
    case("clearsigned message", "clear.asc", 3, &["is a signed message, not a detached signature"]),
    case("inline-signed message", "inline.gpg", 3, &["is a signed message, not a detached signature"]),
    case("armored inline-signed message", "inline.asc", 3, &["is a signed message, not a detached signature"]),
    case("missing signature", "nowhere.sig", 5, &["could not read signature nowhere.sig"]),
    case("signature too large", "large", 2, &["signature large is larger than 1048576 bytes"]),

    // The key file.
    case("wrong key", "wrong.sig", 3, &["wrong key: the key file holds ", "not the pinned ", "trust the fingerprint"]).key("wrong.asc"),
    case("empty key", "good.sig", 3, &["the key file is empty"]).key("empty"),
    case("HTML page as key", "good.sig", 3, &["the key file is an HTML or XML page"]).key("page.html"),
    case("XML page as key", "good.sig", 3, &["the key file is an HTML or XML page"]).key("page.xml"),
    case("text as key", "good.sig", 3, &["the key file holds no OpenPGP key"]).key("text.txt"),
    case("tarball as key", "good.sig", 3, &["the key file holds no OpenPGP key"]).key("other.tar.gz"),
    case("signature as key", "good.sig", 3, &["the key file holds no OpenPGP key"]).key("good.sig.asc"),
    case("truncated key", "good.sig", 3, &["the key file is damaged"]).key("short.gpg"),
    case("private key", "good.sig", 3, &["the key file holds a private key", "revoke the key"]).key("private.asc"),
    case("binary private key", "good.sig", 3, &["the key file holds a private key"]).key("private.gpg"),
    case("missing key", "good.sig", 5, &["could not read key nowhere.asc"]).key("nowhere.asc"),
    case("folder as key", "good.sig", 2, &["key folder is a folder"]).key("folder"),

    // Who signed.
    case("signer not in the certificate", "wrong.sig", 3, &["the signature is by key ", "not by the pinned key "]),
    case("signer is another certificate of the key file", "wrong.sig", 3, &["not by the pinned key "]).key("keyring.asc"),
    case("subkey's fingerprint pinned", "sub.sig", 3, &["wrong key: the key file holds "]).key("sub.asc").pin("subkey"),
    case("issuer forged", "forged.sig", 3, &[CHANGED]),
    case("two signatures, one by a stranger", "two.sig", 3, &["not by the pinned key "]),
    case("two signatures, a stranger's first", "two-rev.sig", 3, &["not by the pinned key "]),
    case("two signatures, one bad", "two-bad.sig", 3, &[CHANGED]),
    own("subkey without back signature", "unbound.sig", "unbound.asc", 3, &["the certificate does not vouch for key "]),
    own("key that may not sign", "certifier.sig", "certifier.asc", 3, &["is not meant for signing"]),

    // Dates and revocation.
    own("signed after the key expired", "late.sig", "late.asc", 3, &["the signature was made on 2021-06-01", "after its key expired on 2020-06-01"]),
    own("signed before the key was made", "before.sig", "before.asc", 3, &["before its key was made"]),
    own("signature expired", "brief.sig", "brief.asc", 3, &["the signature of 2019-06-02 00:00:00 UTC expired on 2019-06-03 00:00:00 UTC"]),
    own("hard revocation", "hard.sig", "hard.asc", 3, &["was revoked on ", "(Key material has been compromised: what \\x1b[31m happened)"]),
    own("soft revocation", "soft.sig", "soft.asc", 3, &["was revoked on ", "superseded"]),
    own("soft revocation, judged before it", "soft.sig", "soft.asc", 3, &["was revoked on "]).more(&["--at", "2019-07-01"]),
    own("revoked in one of two copies", "hard.sig", "hard-both.asc", 3, &["was revoked on "]).pin("hard"),
    own("signing subkey revoked", "revsub.sig", "revsub.asc", 3, &["was revoked on "]),
    own("subkey revoked by an appointed key", "appointing.sig", "appointing.asc", 3, &["was revoked on "]),
    own("expiry set later to before the signature", "shortened.sig", "shortened.asc", 3, &["the signature was made on ", "after its key expired on "]),
    own("the same of the subkey alone", "shortened-subkey.sig", "shortened-subkey.asc", 3, &["the signature was made on ", "after its key expired on "]),
    case("dated in the future", "future.sig", 3, &["the signature is dated 2040-01-01 00:00:00 UTC, after the time of checking"]),
    case("dated in the future, judged then", "future.sig", 0, &["signed at       2040-01-01"]).more(&["--at", "2040-01-02"]),
    case("judged before the signature", "good.sig", 3, &["after the time of checking, 2020-10-01 00:00:00 UTC"]).more(&["--at", "2020-10-01T00:00:00Z"]),
    case("no time", "good.sig", 2, &["--at \"yesterday\" is not a time", "write it like"]).more(&["--at", "yesterday"]),

    // Algorithms.
    case("SHA-1 over the data", "good-SHA1.sig", 3, &["the signature uses SHA1, which can be forged"]),
    case("SHA-1, judged in its day", "good-SHA1.sig", 3, &["which can be forged"]).more(&["--at", "2012-01-01"]),
    case("MD5 over the data", "md5.sig", 3, &["the signature uses MD5, which can be forged"]),
    own("RSA-1024", "rsa1024.sig", "rsa1024.asc", 3, &["with 1024 bits, which is too weak to count"]),
    own("DSA-2048", "dsa.sig", "dsa.asc", 3, &["with 2048 bits, which is too weak to count"]),
    own("version 3 signature", "three.sig", "three.asc", 3, &["the signature is of version 3, which is obsolete"]),
    own("RSA-8192", "rsa8192.sig", "rsa8192.asc", 3, &["efa-gen can't check signatures by RSA keys with 8192 bits", "recent GnuPG"]),
    own("RSA-4104", "rsa4104.sig", "rsa4104.asc", 3, &["efa-gen can't check signatures by RSA keys with 4104 bits"]),
    own("RSA with a long exponent", "exponent.sig", "exponent.asc", 3, &["efa-gen can't check signatures by RSA keys with so large an exponent"]),
    own("brainpool P-256", "brainpool256.sig", "brainpool256.asc", 3, &["efa-gen can't check signatures by ", " on the curve brainpoolP256r1"]),
    own("brainpool P-512", "brainpool512.sig", "brainpool512.asc", 3, &["efa-gen can't check signatures by ", " on the curve brainpoolP512r1"]),
    own("secp256k1", "secp256k1.sig", "secp256k1.asc", 3, &["efa-gen can't check signatures by ", " on the curve secp256k1"]),
    own("EdDSA on another curve", "eddsa448.sig", "eddsa448.asc", 3, &["efa-gen can't check signatures by ", " on the curve Unknown curve 1.3.101.113"]),
    own("brainpool subkey of another kind of key", "brainpoolsub.sig", "brainpoolsub.asc", 3, &["efa-gen can't check signatures by ", " on the curve brainpoolP384r1"]),
    case("text mode", "text.sig", 3, &["not one over a binary file"]),
    case("unknown critical notation", "critical.sig", 3, &["the signature is not acceptable: "]),

    // The pin.
    case("fingerprint too short", "good.sig", 2, &["has 39 hex digits instead of 40 (or 64)"]).pin("=07347F2EB191F27B6EA2307AB0FC64C5862BA4E"),
    case("key id as fingerprint", "good.sig", 2, &["is a key id, which anybody can forge"]).pin("=B0FC64C5862BA4E8"),
    case("fingerprint no hex", "good.sig", 2, &["holds something else than hex digits"]).pin("=07347F2EB191F27B6EA2307AB0FC64C5862BA4EG"),
    case("default fingerprint", "good.sig", 3, &["not the pinned 4E9091BCBB97A96B26B15E59A05480B1DD2D3CCC"]).pin("="),
];

#[test]
fn every_case_has_its_exit_code_and_its_sentence() {
    let folder = scratch();
    fill(folder.path());
    let failures: Vec<String> = CASES.iter().filter_map(|case| check(case, &run(folder.path(), case)).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n\n{}", failures.len(), CASES.len(), failures.join("\n"));
}

fn run(folder: &Path, case: &Case) -> Ran {
    let pin = match case.pin.strip_prefix('=') {
        Some(literal) => literal.to_owned(),
        None if case.pin.is_empty() => fingerprint(case.key.trim_end_matches(".asc")),
        None => fingerprint(case.pin),
    };
    let mut args = vec!["verify", case.data, "--signature", case.signature, "--key", case.key];
    if !pin.is_empty() {
        args.extend(["--fingerprint", &pin]);
    }
    args.extend(case.more);
    run_in(folder, &args)
}

fn check(case: &Case, ran: &Ran) -> Result<(), String> {
    let Ran { code, stdout, stderr } = ran;
    let describe = |problem: String| format!("{}: {problem}\n  stdout: {stdout}\n  stderr: {stderr}", case.name);
    if *code != case.code {
        return Err(describe(format!("exit {code} instead of {}", case.code)));
    }
    if (*code == 0) == stdout.is_empty() {
        return Err(describe("stdout is for verdicts, and only for good ones".to_owned()));
    }
    if *code != 0 && !stderr.starts_with("error: ") && !stderr.starts_with("note: ") {
        return Err(describe("stderr does not begin with the error".to_owned()));
    }
    if *code == 3 && !stderr.contains("\nhint: ") {
        return Err(describe("no hint".to_owned()));
    }
    let text = if *code == 0 { format!("{stdout}{stderr}") } else { stderr.clone() };
    match case.says.iter().find(|says| !text.contains(**says)) {
        Some(missing) => Err(describe(format!("does not say {missing:?}"))),
        None => Ok(()),
    }
}

/// Copies the fixtures, and derives from them what needs no key.
fn fill(folder: &Path) {
    for entry in fs::read_dir(fixtures()).expect("fixtures") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
    }
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("written");
    let flip = |name: &str, place: usize| {
        let mut bytes = bytes(name);
        let place = place % bytes.len();
        bytes[place] ^= 1;
        bytes
    };
    let (data, sig, armor) = (bytes("efa.tar.gz"), bytes("good.sig"), bytes("good.sig.asc"));
    write("first.tar.gz", &flip("efa.tar.gz", 0));
    write("last.tar.gz", &flip("efa.tar.gz", data.len() - 1));
    write("cut.tar.gz", &data[..data.len() - 1]);
    write("aws-efa-installer-1.9.5.tar.gz", &data);
    write("short.sig", &sig[..100]);
    write("short1.sig", &sig[..sig.len() - 1]);
    write("short.sig.asc", &armor[..armor.len() - 30]);
    write("flipped.sig", &flip("good.sig", sig.len() - 10));
    write("short.gpg", &bytes("good.gpg")[..200]);
    for (name, more) in [("junk.sig", &b"junk"[..]), ("zeros.sig", &[0; 8]), ("sigkey.sig", &bytes("good.gpg"))] {
        write(name, &[&sig, more].concat());
    }
    write("junk.sig.asc", &[&armor, &b"and so on\n"[..]].concat());
    write("lead.sig.asc", &[b"Dear reader,\n\n", &armor[..]].concat());
    write("crlf.sig.asc", String::from_utf8_lossy(&armor).replace('\n', "\r\n").as_bytes());
    write("two-blocks.sig.asc", &[armor.clone(), b"\n".to_vec(), armor].concat());
    write("twice.sig", &[&sig[..], &sig].concat());
    write("two.sig", &[&sig[..], &bytes("wrong.sig")].concat());
    write("two-rev.sig", &[&bytes("wrong.sig")[..], &sig].concat());
    write("two-bad.sig", &[&sig[..], &bytes("other.sig")].concat());
    write("hard-both.asc", &[bytes("hard-before.asc"), bytes("hard.asc")].concat());
    write("text.txt", b"See the README.\n");
    write("empty", b"");
    write("blanks", b" \r\n\n");
    write("large", &vec![b'x'; (1 << 20) + 1]);
    fs::create_dir(folder.join("folder")).expect("a folder");
    assert!(Command::new("mkfifo").arg(folder.join("pipe")).status().expect("mkfifo").success());
}

#[test]
fn the_files_beside_the_tarball_are_the_defaults() {
    let folder = scratch();
    let place = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
    place("efa.tar.gz", &bytes("efa.tar.gz"));
    place("efa.tar.gz.sig", &bytes("good.sig"));
    let good = fingerprint("good");
    let bare = run_in(folder.path(), &["verify", "efa.tar.gz", "--fingerprint", &good]);
    assert_eq!(bare.code, 2, "{}", bare.stderr);
    assert!(bare.stderr.contains("there is no aws-efa-installer.key beside the tarball"), "{}", bare.stderr);
    assert!(bare.stderr.contains("`efa-gen fetch` downloads it"), "{}", bare.stderr);

    place("aws-efa-installer.key", &bytes("good.asc"));
    // As GnuPG prints it: in groups.
    let groups: Vec<_> = good.as_bytes().chunks(4).map(|group| String::from_utf8_lossy(group).to_lowercase()).collect();
    let ran = run_in(folder.path(), &["verify", "efa.tar.gz", "--fingerprint", &groups.join(" ")]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.stderr, "");
}

#[test]
fn json_says_who_when_and_what() {
    let good = fingerprint("expired");
    let args = [
        "verify",
        "efa.tar.gz",
        "--signature",
        "expired.sig",
        "--key",
        "expired.asc",
        "--fingerprint",
        &good,
        "--output",
        "json",
    ];
    let ran = run_in(fixtures(), &args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(json["signer"], good);
    assert_eq!(json["signing_key"], good);
    assert_eq!(json["user_id"], "expired <expired@example.org>");
    // GnuPG's faked clock goes on from there while it works.
    let signed_at = json["signed_at"].as_str().expect("a time");
    assert!(signed_at.starts_with("2019-06-01T00:00:"), "{signed_at}");
    assert_eq!(json["length"], bytes("efa.tar.gz").len());
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(1));
    let sum = Command::new("sha256sum").arg(fixtures().join("efa.tar.gz")).output().expect("sha256sum");
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(json["sha256"].as_str().expect("a digest")));
}

#[test]
fn a_matching_digest_passes_and_tells_which_file_is_wrong() {
    let good = fingerprint("good");
    let sum = Command::new("sha256sum").arg(fixtures().join("efa.tar.gz")).output().expect("sha256sum");
    let sum = String::from_utf8_lossy(&sum.stdout)[..64].to_uppercase();
    let verify = |signature: &str| {
        let args = [
            "verify",
            "efa.tar.gz",
            "--signature",
            signature,
            "--key",
            "good.asc",
            "--fingerprint",
            &good,
            "--sha256",
            &sum,
        ];
        run_in(fixtures(), &args)
    };
    assert_eq!(verify("good.sig").code, 0);
    let other = verify("other.sig");
    assert_eq!(other.code, 3);
    assert!(other.stderr.contains("is the expected one, so look at the signature"), "{}", other.stderr);
}

#[test]
fn a_path_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let folder = scratch();
    let name = std::ffi::OsStr::from_bytes(b"efa-\xff.tar.gz");
    fs::write(folder.path().join(name), bytes("efa.tar.gz")).expect("written");
    let mut signature = name.to_owned();
    signature.push(".sig");
    fs::write(folder.path().join(signature), bytes("good.sig")).expect("written");
    let (key, good) = (fixtures().join("good.asc"), fingerprint("good"));
    let args =
        [std::ffi::OsStr::new("verify"), name, "--key".as_ref(), key.as_ref(), "--fingerprint".as_ref(), good.as_ref()];
    let ran = run_in(folder.path(), &args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn an_unreadable_file_is_an_error_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let folder = scratch();
    let path = folder.path().join("secret.tar.gz");
    let mut file = fs::File::create(&path).expect("created");
    file.write_all(b"x").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("chmod");
    if fs::read(&path).is_ok() {
        return; // Root reads everything.
    }
    let ran = run_in(folder.path(), &["verify", "secret.tar.gz"]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("could not read tarball secret.tar.gz"), "{}", ran.stderr);
}

#[test]
fn only_a_name_that_the_key_vouches_for_is_shown() {
    let good = fingerprint("good");
    let args = ["verify", "efa.tar.gz", "--signature", "good.sig", "--key", "unvouched.gpg", "--fingerprint", &good];
    let ran = run_in(fixtures(), &args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("good <good@example.org>"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("Amazon"), "{}", ran.stdout);
}
