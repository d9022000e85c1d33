//! `efa-gen verify`, run as users run it, over keys and signatures made by real GnuPG.

mod support;

use std::fs;
use std::path::Path;

use support::pgp::{bytes, fingerprint, fixtures};
use support::{efa_gen, scratch};

#[test]
fn probe() {
    for entry in ["good", "sub", "six", "expextended", "expired", "sha1self"] {
        let sig = format!("{entry}.sig");
        let key = format!("{entry}.asc");
        let ran = efa_gen(
            fixtures(),
            &["verify", "efa.tar.gz", "--signature", &sig, "--key", &key, "--fingerprint", &fingerprint(entry)],
        );
        println!("{entry} {} {} {}", ran.code, ran.stdout, ran.stderr);
    }
}
