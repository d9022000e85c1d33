//! `efa-gen fetch` against a real server on a local port, which serves well, badly or not at all.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::http::{Asked, Reply, Server};
use crate::support::pgp::{bytes, fingerprint};
use crate::support::{Ran, command, in_repository, names, preload, run_in, scratch};

/// A version without published digest, so that the fixture's own need not be it.
const VERSION: &str = "1.51.0";
const NAME: &str = "aws-efa-installer-1.51.0.tar.gz";
const PART: &str = "aws-efa-installer-1.51.0.tar.gz.part";
const KEY: &str = "aws-efa-installer.key";

/// A good mirror, except for the tarball, which `tarball` answers for.
fn mirror(tarball: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |asked| {
        if asked.path.ends_with(".key") {
            Reply::new(200, &bytes("good.asc"))
        } else if asked.path.ends_with(".sig") {
            Reply::new(200, &bytes("good.sig"))
        } else if asked.path == format!("/{NAME}") {
            tarball(asked)
        } else {
            Reply::new(404, b"?")
        }
    })
}

fn good(asked: &Asked) -> Reply {
    Reply::file(asked, &bytes("efa.tar.gz"), "\"one\"")
}

fn fetch(folder: &Path, server: &Server, more: &[&str]) -> Ran {
    let fingerprint = fingerprint("good");
    let mut args = vec!["fetch", "--efa", VERSION, "--base-url", &server.url, "--fingerprint", &fingerprint];
    args.extend(more);
    run_in(folder, &args)
}

/// The same, by a clock that runs so much faster that a minute is over in a second and a half.
fn fetch_by_a_fast_clock(folder: &Path, server: &Server) -> Ran {
    let args = ["fetch", "--efa", VERSION, "--base-url", &server.url, "--fingerprint", &fingerprint("good")];
    let mut command = command(&args);
    preload::speed_up(command.current_dir(folder), 40);
    let output = command.output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[track_caller]
fn assert_ran(ran: &Ran, code: i32, says: &str) {
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains(says), "does not say {says:?}:\n{}", ran.stderr);
    assert_eq!(ran.stdout.is_empty(), code != 0, "stdout is for good files:\n{}", ran.stdout);
}

#[track_caller]
fn assert_complete(folder: &Path) {
    assert_eq!(names(folder), [NAME, &format!("{NAME}.sig"), KEY]);
    assert_eq!(fs::read(folder.join(NAME)).expect("the tarball"), bytes("efa.tar.gz"));
}

#[test]
fn a_good_file_gets_its_name() {
    let (folder, server) = (scratch(), mirror(good));
    let ran = fetch(folder.path(), &server, &[]);
    assert_ran(&ran, 0, "note: plain http: nothing but the signature protects this download");
    assert!(ran.stdout.contains(&format!("good signature  ./{NAME}\n")), "{}", ran.stdout);
    assert_complete(folder.path());
    // What fetch leaves is what verify takes by default.
    let verify = run_in(folder.path(), &["verify", NAME, "--fingerprint", &fingerprint("good")]);
    assert_eq!(verify.code, 0, "{}", verify.stderr);
}

#[test]
fn json_names_the_file_and_its_digest() {
    let (folder, server) = (scratch(), mirror(good));
    let ran = fetch(folder.path(), &server, &["--output", "json", "--out", "new/folder"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(json["path"], format!("new/folder/{NAME}"));
    assert_eq!(json["sha256"].as_str().map(str::len), Some(64));
}

#[test]
fn a_cut_connection_is_resumed() {
    let server = mirror(|asked| if asked.nth == 0 { good(asked).cut(200_000) } else { good(asked) });
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "trying again in 0.2 s");
    assert_complete(folder.path());
    let asked = server.asked(NAME);
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].header("range"), None);
    assert_eq!(asked[1].header("range"), Some("bytes=200000-"));
    assert_eq!(asked[1].header("if-range"), Some("\"one\""));
}

#[test]
fn cut_every_time_it_gives_up_and_a_later_run_goes_on() {
    // Each try brings a little more; the sixth request is another run's.
    let server = mirror(|asked| if asked.nth < 5 { good(asked).cut(50_000) } else { good(asked) });
    let folder = scratch();
    let ran = fetch(folder.path(), &server, &[]);
    assert_ran(&ran, 5, "gave up after 5 tries");
    assert!(ran.stderr.contains("keeps the 250000 bytes that arrived"), "{}", ran.stderr);
    assert_eq!(names(folder.path()), [PART, &format!("{PART}.etag")]);

    assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
    assert_complete(folder.path());
    let asked = server.asked(NAME);
    assert_eq!(asked.len(), 6);
    assert_eq!(asked[5].header("range"), Some("bytes=250000-"));
}

#[test]
fn a_changed_file_starts_again() {
    let server = mirror(|asked| match asked.nth {
        0 => Reply::file(asked, &[b'x'; 300_000], "\"old\"").cut(100_000),
        _ => good(asked),
    });
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
    assert_complete(folder.path());
    assert_eq!(server.asked(NAME)[1].header("if-range"), Some("\"old\""));
}

#[test]
fn a_server_without_ranges_starts_again() {
    let server = mirror(|asked| {
        let whole = Reply::new(200, &bytes("efa.tar.gz")).header("ETag", "\"one\"");
        if asked.nth == 0 { whole.cut(100_000) } else { whole }
    });
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
    assert_complete(folder.path());
}

#[test]
fn without_a_strong_entity_tag_nothing_is_resumed() {
    let server = mirror(|asked| {
        let whole = Reply::new(200, &bytes("efa.tar.gz")).header("ETag", "W/\"one\"");
        if asked.nth == 0 { whole.cut(100_000) } else { whole }
    });
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
    assert_eq!(server.asked(NAME)[1].header("range"), None);
    assert_complete(folder.path());
}

#[test]
fn wrong_partial_answers_start_again() {
    for second in ["bytes 0-99999/600004", "bytes 100000-200000/600004", "junk", "416"] {
        let server = mirror(move |asked| match asked.nth {
            0 => good(asked).cut(100_000),
            1 if second == "416" => Reply::new(416, b""),
            1 => Reply::new(206, &[b'x'; 1000]).header("Content-Range", second),
            _ => good(asked),
        });
        let folder = scratch();
        assert_ran(&fetch(folder.path(), &server, &[]), 0, "does not fit what was asked for");
        assert_complete(folder.path());
        assert_eq!(server.asked(NAME)[2].header("range"), None, "{second}");
    }
}

#[test]
fn a_part_larger_than_the_file_starts_again() {
    let (folder, server) = (scratch(), mirror(good));
    fs::write(folder.path().join(PART), vec![0; 700_000]).expect("written");
    fs::write(folder.path().join(format!("{PART}.etag")), "\"one\"").expect("written");
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "status 416");
    assert_complete(folder.path());
}

#[test]
fn a_length_too_long_is_a_broken_connection() {
    let server = mirror(|_| Reply::new(200, &bytes("efa.tar.gz")).announce(900_000));
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 5, "gave up after 5 tries");
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

#[test]
fn a_length_too_short_is_a_bad_signature() {
    let server = mirror(|_| Reply::new(200, &bytes("efa.tar.gz")).announce(600_000));
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 3, "bad signature: the tarball was changed or cut short");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_file_too_large_is_not_downloaded() {
    let server = mirror(|_| Reply::new(200, b"x").announce(9 << 30));
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 5, "larger than 8589934592 bytes");
    assert_eq!(server.asked(NAME).len(), 1);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_missing_file_is_said_with_status_and_address() {
    let server = mirror(|_| Reply::new(404, &bytes("page.xml")));
    let folder = scratch();
    let ran = fetch(folder.path(), &server, &[]);
    assert_ran(&ran, 5, &format!("{}/{NAME}: the server answered with status 404", server.url));
    assert!(ran.stderr.contains("hint: check --efa and --base-url"), "{}", ran.stderr);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    assert_eq!(server.asked(NAME).len(), 1);
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = mirror(|asked| match asked.nth {
        0 => Reply::new(500, b"?"),
        1 => Reply::new(429, b"?"),
        _ => good(asked),
    });
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "status 429; trying again in 0.4 s");
    assert_complete(folder.path());
}

#[test]
fn redirects_lead_to_https_only() {
    for location in ["http://127.0.0.1:1/x", "/elsewhere", "//127.0.0.1:1/x", "ftp://127.0.0.1/x", ""] {
        let server = mirror(move |_| Reply::new(302, b"").header("Location", location));
        let folder = scratch();
        assert_ran(&fetch(folder.path(), &server, &[]), 5, "which is not https");
        assert_eq!(server.asked(NAME).len(), 1, "{location}");
        assert!(names(folder.path()).is_empty());
    }
}

#[test]
fn a_redirect_to_https_is_followed() {
    // Nobody speaks TLS there: that it was tried shows in the error.
    let server = mirror(|_| Reply::new(307, b"").header("Location", "https://127.0.0.1:1/x"));
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 5, "could not reach https://127.0.0.1:1/x");
}

#[test]
fn a_bad_tarball_leaves_nothing() {
    for (body, says) in [("other.tar.gz", "bad signature: "), ("page.html", "and the tarball is an HTML or XML page")] {
        let server = mirror(move |_| Reply::new(200, &bytes(body)).header("ETag", "\"bad\""));
        let folder = scratch();
        let ran = fetch(folder.path(), &server, &[]);
        assert_ran(&ran, 3, says);
        assert!(ran.stderr.contains(&format!("note: removed ./{PART}")), "{}", ran.stderr);
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }
}

#[test]
fn a_bad_key_or_signature_costs_no_tarball() {
    for (end, body, code, says) in [
        (".key", "page.html", 3, "the key file is an HTML or XML page"),
        (".key", "wrong.asc", 3, "wrong key: "),
        (".key", "private.asc", 3, "the key file holds a private key"),
        (".sig", "page.xml", 3, "the signature file is an HTML or XML page"),
        (".sig", "wrong.sig", 3, "not by the pinned key"),
        (".sig", "good-SHA1.sig", 3, "which can be forged"),
    ] {
        let server = Server::start(move |asked| match asked.path.as_str() {
            path if path.ends_with(end) => Reply::new(200, &bytes(body)),
            path if path.ends_with(".key") => Reply::new(200, &bytes("good.asc")),
            path if path.ends_with(".sig") => Reply::new(200, &bytes("good.sig")),
            _ => good(asked),
        });
        let folder = scratch();
        assert_ran(&fetch(folder.path(), &server, &[]), code, says);
        assert!(server.asked(NAME).is_empty(), "{body}");
        assert!(names(folder.path()).is_empty());
    }
}

#[test]
fn a_key_too_large_is_refused() {
    let server = Server::start(|_| Reply::new(200, &vec![b'x'; (4 << 20) + 1]));
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 5, "larger than 4194304 bytes");
}

#[test]
fn ones_own_key_is_not_downloaded() {
    let (folder, server) = (scratch(), mirror(good));
    fs::write(folder.path().join("my.key"), bytes("good.asc")).expect("written");
    assert_ran(&fetch(folder.path(), &server, &["--key", "my.key"]), 0, "");
    assert!(server.asked(".key").is_empty());
    assert_eq!(names(folder.path()), [NAME, &format!("{NAME}.sig"), "my.key"]);
}

#[test]
fn a_file_that_is_there_is_checked_not_downloaded() {
    let (folder, server) = (scratch(), mirror(good));
    let path = folder.path().join(NAME);
    fs::write(&path, bytes("efa.tar.gz")).expect("written");
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "is there already; checking it");
    assert!(server.asked(NAME).is_empty());
    assert_complete(folder.path());

    fs::write(&path, bytes("other.tar.gz")).expect("written");
    let ran = fetch(folder.path(), &server, &[]);
    assert_ran(&ran, 3, "bad signature: ");
    assert!(ran.stderr.contains(&format!("or remove ./{NAME} to download it again")), "{}", ran.stderr);
    assert_eq!(fs::read(&path).expect("still there"), bytes("other.tar.gz"));
    assert!(server.asked(NAME).is_empty());
}

#[test]
fn two_at_once_do_not_mix() {
    let server = mirror(|asked| {
        std::thread::sleep(std::time::Duration::from_millis(700));
        good(asked)
    });
    let (folder, good) = (scratch(), fingerprint("good"));
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_efa-gen"))
            .args(["fetch", "--efa", VERSION, "--base-url", &server.url, "--fingerprint", &good])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs")
    };
    let both = [start(), start()].map(|child| child.wait_with_output().expect("it ends"));
    let mut codes = both.each_ref().map(|output| output.status.code());
    codes.sort();
    assert_eq!(codes, [Some(0), Some(5)]);
    let text: String = both.iter().map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).collect();
    assert!(text.contains(&format!("another efa-gen is downloading ./{NAME}")), "{text}");
    assert_complete(folder.path());
}

#[test]
fn what_is_no_version_or_address_is_a_usage_error() {
    let (folder, server) = (scratch(), mirror(good));
    for version in ["latest", "1.9.5/../x", "", "1..2", "-1"] {
        let argument = format!("--efa={version}");
        let ran = run_in(folder.path(), &["fetch", &argument, "--base-url", &server.url]);
        assert_ran(&ran, 2, "is not a version of the EFA installer");
    }
    for url in ["ftp://127.0.0.1/", "mirror", "file:///tmp"] {
        let ran = run_in(folder.path(), &["fetch", "--base-url", url]);
        assert_ran(&ran, 2, "begins with neither https:// nor http://");
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn the_published_digest_is_demanded() {
    let server = Server::start(|asked| match asked.path.as_str() {
        path if path.ends_with(".key") => Reply::new(200, &bytes("good.asc")),
        path if path.ends_with(".sig") => Reply::new(200, &bytes("good.sig")),
        _ => good(asked),
    });
    let folder = scratch();
    let ran = run_in(folder.path(), &["fetch", "--base-url", &server.url, "--fingerprint", &fingerprint("good")]);
    assert_ran(&ran, 3, "sum differs, signature good");
    assert!(
        ran.stderr.contains("expected a4343308d7ea4dc943ccc21bcebed913e8868e59bfb2ac93599c61a7c87d7d25"),
        "{}",
        ran.stderr
    );
    assert!(names(folder.path()).is_empty());
}

#[test]
fn what_stands_in_the_way_of_the_part_is_left_alone() {
    let (folder, server) = (scratch(), mirror(good));
    std::os::unix::fs::symlink("/nowhere", folder.path().join(PART)).expect("a link");
    assert_ran(&fetch(folder.path(), &server, &[]), 5, "is in the way: not a regular file");
    assert_eq!(names(folder.path()), [PART]);
}

#[test]
fn nobody_there_is_said_so() {
    let folder = scratch();
    let ran = run_in(folder.path(), &["fetch", "--base-url", "http://127.0.0.1:1"]);
    assert_ran(&ran, 5, "gave up after 5 tries; the last: could not reach http://127.0.0.1:1/aws-efa-installer.key");
}

/// A key whose owner has revoked it: the file of before, and the one with the revocation.
fn revoked_mirror(key: &'static str) -> Server {
    Server::start(move |asked| match asked.path.rsplit('.').next() {
        Some("key") => Reply::new(200, &bytes(key)),
        Some("sig") => Reply::new(200, &bytes("hard.sig")),
        _ => good(asked),
    })
}

fn fetch_hard(folder: &Path, server: &Server) -> Ran {
    run_in(folder, &["fetch", "--efa", VERSION, "--base-url", &server.url, "--fingerprint", &fingerprint("hard")])
}

/// What `verify` says by the key file that lies there.
fn assert_revoked_here(folder: &Path) {
    fs::write(folder.join("tarball"), bytes("efa.tar.gz")).expect("written");
    fs::write(folder.join("tarball.sig"), bytes("hard.sig")).expect("written");
    let ran = run_in(folder, &["verify", "tarball", "--fingerprint", &fingerprint("hard")]);
    assert_ran(&ran, 3, "was revoked on ");
    ["tarball", "tarball.sig"].iter().for_each(|name| fs::remove_file(folder.join(name)).expect("removed"));
}

#[test]
fn a_revocation_on_the_disk_counts_and_stays() {
    let keyring = [bytes("wrong.asc"), bytes("hard.asc"), bytes("good.asc")].concat();
    for there in [bytes("hard.asc"), keyring] {
        let (folder, server) = (scratch(), revoked_mirror("hard-before.asc"));
        fs::write(folder.path().join(KEY), &there).expect("written");
        assert_ran(&fetch_hard(folder.path(), &server), 3, "was revoked on ");
        assert!(server.asked(NAME).is_empty(), "the tarball was downloaded");
        assert_revoked_here(folder.path());
        // The same where the tarball lies there, too.
        fs::write(folder.path().join(NAME), bytes("efa.tar.gz")).expect("written");
        assert_ran(&fetch_hard(folder.path(), &server), 3, "was revoked on ");
        assert_revoked_here(folder.path());
    }
}

#[test]
fn a_revocation_that_is_served_stays_where_there_was_a_key_without_it() {
    let folder = scratch();
    fs::write(folder.path().join(KEY), bytes("hard-before.asc")).expect("written");
    assert_ran(&fetch_hard(folder.path(), &revoked_mirror("hard.asc")), 3, "was revoked on ");
    assert_revoked_here(folder.path());
    // A server that takes it back is too late.
    assert_ran(&fetch_hard(folder.path(), &revoked_mirror("hard-before.asc")), 3, "was revoked on ");
    assert_revoked_here(folder.path());
    // Where there was none, a refusal leaves nothing.
    let folder = scratch();
    assert_ran(&fetch_hard(folder.path(), &revoked_mirror("hard.asc")), 3, "was revoked on ");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_key_file_never_gets_less() {
    let (folder, server, good) = (scratch(), mirror(good), fingerprint("good"));
    let path = folder.path().join(KEY);
    let verify = |key: &str| {
        let fingerprint = fingerprint(key);
        let signature = format!("{key}.sig");
        fs::write(folder.path().join("signature"), bytes(&signature)).expect("written");
        run_in(folder.path(), &["verify", NAME, "--signature", "signature", "--fingerprint", &fingerprint])
    };
    // Other certificates of the file stay, whether the pinned one was among them or not.
    for there in [bytes("wrong.asc"), [bytes("wrong.asc"), bytes("good.asc")].concat()] {
        let _ = fs::remove_file(folder.path().join(NAME));
        fs::write(&path, &there).expect("written");
        assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
        for key in ["wrong", "good"] {
            assert_ran(&verify(key), 0, "");
        }
    }
    // What a fetch left is left as it is by the next.
    let before = fs::read(&path).expect("it is there");
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "is there already; checking it");
    assert_eq!(fs::read(&path).expect("it is there"), before);
    // What can't be read may hold a revocation: it is looked at by its owner first.
    for there in [&b"junk"[..], &bytes("page.html"), &bytes("good.asc")[..200], &bytes("private.asc")] {
        fs::write(&path, there).expect("written");
        let ran = fetch(folder.path(), &server, &[]);
        assert_ran(&ran, 3, &format!("key ./{KEY} is there already: "));
        assert!(ran.stderr.contains("hint: it may hold a revocation"), "{}", ran.stderr);
        assert_eq!(fs::read(&path).expect("still there"), there);
    }
    // Neither is what a bad mirror serves written over it.
    for served in ["page.html", "wrong.asc", "private.asc"] {
        fs::write(&path, bytes("good.asc")).expect("written");
        let bad = Server::start(move |asked| match asked.path.ends_with(".key") {
            true => Reply::new(200, &bytes(served)),
            false => Reply::new(200, &bytes("good.sig")),
        });
        let args = ["fetch", "--efa", VERSION, "--base-url", &bad.url, "--fingerprint", &good];
        assert_ran(&run_in(folder.path(), &args), 3, "");
        assert_eq!(fs::read(&path).expect("still there"), bytes("good.asc"), "{served}");
    }
}

/// Of the clock's two seconds each.
const NOW_AND_THEN: Duration = Duration::from_millis(50);

#[test]
fn a_server_that_sends_a_byte_now_and_then_is_given_up() {
    let server = mirror(|asked| match asked.nth {
        0 => good(asked).cut(200_000),
        1 => good(asked).drip(1, NOW_AND_THEN),
        _ => good(asked),
    });
    let folder = scratch();
    let ran = fetch_by_a_fast_clock(folder.path(), &server);
    assert_ran(&ran, 0, "slower than 1024 bytes a second over 60 seconds; trying again");
    assert_complete(folder.path());
    let asked = server.asked(NAME);
    // What did arrive is kept.
    let from = asked[2].header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    assert!(from.is_some_and(|from: u64| (200_002..201_000).contains(&from)), "{from:?}");
    assert_eq!(asked.len(), 3);
    // The guest's curl is as patient.
    let script = fs::read_to_string(in_repository("templates/script/lib/actions.sh")).expect("a script");
    assert!(script.contains("--speed-limit 1024 --speed-time 60 "));
}

#[test]
fn a_key_or_signature_that_comes_byte_by_byte_is_given_up() {
    for (end, good) in [(".key", "good.asc"), (".sig", "good.sig")] {
        let server = Server::start(move |asked| match asked.path.as_str() {
            path if path.ends_with(end) && asked.nth == 0 => Reply::new(200, &bytes(good)).drip(1, NOW_AND_THEN),
            path if path.ends_with(".key") => Reply::new(200, &bytes("good.asc")),
            path if path.ends_with(".sig") => Reply::new(200, &bytes("good.sig")),
            _ => self::good(asked),
        });
        let folder = scratch();
        assert_ran(&fetch_by_a_fast_clock(folder.path(), &server), 0, "slower than 1024 bytes a second");
        assert_complete(folder.path());
    }
}

#[test]
fn a_slow_line_that_goes_on_is_good_enough() {
    // By the clock 5,000 bytes a second, for two minutes.
    let server = mirror(|asked| good(asked).drip(10_000, NOW_AND_THEN));
    let folder = scratch();
    let ran = fetch_by_a_fast_clock(folder.path(), &server);
    assert_ran(&ran, 0, "");
    assert!(!ran.stderr.contains("trying again"), "{}", ran.stderr);
    assert_complete(folder.path());
    assert_eq!(server.asked(NAME).len(), 1);
}

/// A folder that others may write to, with a file of ours that none of them may change; and its content.
fn shared_folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = scratch();
    fs::create_dir(folder.path().join("shared")).expect("a folder");
    fs::set_permissions(folder.path().join("shared"), Permissions::from_mode(0o777)).expect("a mode");
    fs::write(folder.path().join("victim"), VICTIM).expect("a file");
    let shared = folder.path().join("shared");
    (folder, shared)
}

const VICTIM: &str = "mine alone\n";

#[track_caller]
fn assert_unharmed(folder: &tempfile::TempDir) {
    assert_eq!(fs::read_to_string(folder.path().join("victim")).expect("the file"), VICTIM);
}

#[test]
fn nothing_is_written_through_a_planted_link() {
    let server = mirror(good);
    // The entity tag's file: replaced, not followed.
    for target in ["../victim", "nowhere"] {
        let (folder, shared) = shared_folder();
        symlink(target, shared.join(format!("{PART}.etag"))).expect("a link");
        assert_ran(&fetch(&shared, &server, &[]), 0, "");
        assert_complete(&shared);
        assert_unharmed(&folder);
    }
    // The signature; a key file that lies there is never replaced by another.
    let (folder, shared) = shared_folder();
    symlink("../victim", shared.join(format!("{NAME}.sig"))).expect("a link");
    assert_ran(&fetch(&shared, &server, &[]), 0, "");
    assert_complete(&shared);
    assert_unharmed(&folder);
    fs::remove_file(shared.join(KEY)).expect("removed");
    symlink("../victim", shared.join(KEY)).expect("a link");
    assert_ran(&fetch(&shared, &server, &[]), 3, "is there already");
    assert_unharmed(&folder);
    // The download itself.
    for target in ["../victim", "nowhere", "/dev/null", ".", "../shared"] {
        let (folder, shared) = shared_folder();
        symlink(target, shared.join(PART)).expect("a link");
        assert_ran(&fetch(&shared, &server, &[]), 5, "is in the way: not a regular file");
        assert_unharmed(&folder);
        assert_eq!(names(&shared), [PART]);
    }
}

#[test]
fn a_part_that_is_no_file_is_in_the_way() {
    let (server, folder) = (mirror(good), scratch());
    fs::create_dir(folder.path().join(PART)).expect("a folder");
    assert_ran(&fetch(folder.path(), &server, &[]), 5, "is in the way: not a regular file");
    let folder = scratch();
    assert!(Command::new("mkfifo").arg(folder.path().join(PART)).status().expect("mkfifo").success());
    assert_ran(&fetch(folder.path(), &server, &[]), 5, "is in the way: not a regular file");
    assert!(server.asked(NAME).is_empty());
}

#[test]
fn a_part_that_others_can_change_is_begun_anew() {
    let whole = bytes("efa.tar.gz");
    for mode in [0o666, 0o602, 0o660] {
        let server = mirror(good);
        let (_folder, shared) = shared_folder();
        let planted = shared.join(PART);
        fs::write(&planted, &whole[..100_000]).expect("a file");
        fs::set_permissions(&planted, Permissions::from_mode(mode)).expect("a mode");
        fs::write(shared.join(format!("{PART}.etag")), "\"one\"").expect("a file");
        let theirs = fs::OpenOptions::new().write(true).open(&planted).expect("whoever planted it has it open");
        assert_ran(&fetch(&shared, &server, &[]), 0, "to begin anew: others may write to it");
        assert_complete(&shared);
        let (ours, theirs) = (fs::metadata(shared.join(NAME)).expect("there"), theirs.metadata().expect("open"));
        assert_ne!(ours.ino(), theirs.ino(), "{mode:o}");
        assert_eq!(ours.mode() & 0o777, 0o644);
        assert_eq!(server.asked(NAME)[0].header("range"), None);
    }
}

#[test]
fn a_part_that_is_another_file_too_is_begun_anew() {
    let server = mirror(good);
    let (folder, shared) = shared_folder();
    fs::hard_link(folder.path().join("victim"), shared.join(PART)).expect("a link");
    assert_ran(&fetch(&shared, &server, &[]), 0, "to begin anew: it has another name elsewhere");
    assert_complete(&shared);
    assert_unharmed(&folder);
}

#[test]
fn an_entity_tag_that_others_can_change_is_not_believed() {
    let whole = bytes("efa.tar.gz");
    let (server, folder) = (mirror(good), scratch());
    let part = folder.path().join(PART);
    fs::write(&part, &whole[..100_000]).expect("a file");
    fs::set_permissions(&part, Permissions::from_mode(0o600)).expect("a mode");
    let etag = folder.path().join(format!("{PART}.etag"));
    fs::write(&etag, "\"one\"").expect("a file");
    fs::set_permissions(&etag, Permissions::from_mode(0o666)).expect("a mode");
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
    assert_complete(folder.path());
    assert_eq!(server.asked(NAME)[0].header("range"), None);
}

#[test]
fn a_tarball_that_others_can_change_is_told_of() {
    let (server, folder) = (mirror(good), scratch());
    let path = folder.path().join(NAME);
    fs::write(&path, bytes("efa.tar.gz")).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("a mode");
    let says = "may be changed after this check: others may write to it (mode 0666)";
    assert_ran(&fetch(folder.path(), &server, &[]), 0, says);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
    assert!(!fetch(folder.path(), &server, &[]).stderr.contains("may be changed"));
}

#[test]
fn what_an_earlier_run_left_is_checked_with_the_rest() {
    let whole = bytes("efa.tar.gz");
    let leave = |folder: &Path, left: &[u8]| {
        for (name, bytes) in [(PART.to_owned(), left), (format!("{PART}.etag"), b"\"one\"")] {
            fs::write(folder.join(&name), bytes).expect("a file");
            fs::set_permissions(folder.join(&name), Permissions::from_mode(0o600)).expect("a mode");
        }
    };
    let (server, folder) = (mirror(good), scratch());
    leave(folder.path(), &whole[..400_000]);
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
    assert_complete(folder.path());
    assert_eq!(server.asked(NAME)[0].header("range"), Some("bytes=400000-"));
    // A bit that fell over on the disk.
    for at in [0, 199_999, 399_999] {
        let (server, folder) = (mirror(good), scratch());
        let mut left = whole[..400_000].to_vec();
        left[at] ^= 1;
        leave(folder.path(), &left);
        assert_ran(&fetch(folder.path(), &server, &[]), 3, "bad signature: ");
        assert_eq!(server.asked(NAME)[0].header("range"), Some("bytes=400000-"));
        assert!(names(folder.path()).is_empty(), "{at}: {:?}", names(folder.path()));
    }
}

#[test]
fn a_file_that_begins_anew_is_checked_anew() {
    // Half of another file, then the good one from its beginning.
    let server = mirror(|asked| match asked.nth {
        0 => Reply::file(asked, &[b'x'; 700_000], "\"old\"").cut(300_000),
        1 => good(asked).cut(200_000),
        _ => good(asked),
    });
    let folder = scratch();
    assert_ran(&fetch(folder.path(), &server, &[]), 0, "");
    assert_complete(folder.path());
    // The good one, then nothing at all.
    let server = mirror(|asked| match asked.nth {
        0 => good(asked).cut(300_000),
        _ => Reply::new(200, b"").header("ETag", "\"new\""),
    });
    let folder = scratch();
    let ran = fetch(folder.path(), &server, &[]);
    assert_ran(&ran, 3, "empty");
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}
