//! `efa-gen fetch` against a real server on a local port, which serves well, badly or not at all.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::http::{Asked, Reply, Server};
use crate::support::pgp::{bytes, fingerprint};
use crate::support::{Ran, names, run_in, scratch};

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
