//! `--check-signatures`, executed: the key reaches the installer, which refuses, and is gone when it has installed.
//!
//! The installer here stands for AWS's: it takes the key's path from EFA_INSTALLER_KEY, leaves the key in gpg's home and in
//! rpm's database, and looks at every package before it installs any. A signature is the digest of key and package.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::sandbox::{Sandbox, plan, stage, step};
use crate::support::{catalog, request, stdout};
use efa_gen::plan::{self, Action, Assertion, Request, Step, Then};

const FINGERPRINT: &str = "4E9091BCBB97A96B26B15E59A05480B1DD2D3CCC";
const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nthe publisher's\n-----END PGP PUBLIC KEY BLOCK-----\n";
const INSTALLER: &str = r#"
[ "$*" = "-y --check-signatures" ] || { echo "Error: Invalid option $*"; exit 1; }
[ -s "$EFA_INSTALLER_KEY" ] || { echo "Error: no key"; exit 1; }
[ "$(stat -c %a "$GNUPGHOME")" = 700 ] || { echo "gpg: unsafe permissions"; exit 1; }
cp "$EFA_INSTALLER_KEY" "$GNUPGHOME/pubring.kbx"
touch "$GNUPGHOME/agent"
echo gpg-pubkey-dd2d3ccc-5e9091bc >>RPMDB
for package in packages/*.deb; do
  [ "$(cat "$package.sig")" = "$(cat "$EFA_INSTALLER_KEY" "$package" | sha256sum)" ] ||
    { echo "Error: signature verification failed: $package"; exit 1; }
done
touch installed
"#;
const RPM: &str = r#"
case $1 in
  --query) cat RPMDB ;;
  --erase) sed -i "/^$3\$/d" RPMDB ;;
esac
"#;

/// The steps of a real plan that run the installer and tidy up after it, below the sandbox's folder.
fn steps(sandbox: &Sandbox, key: &str) -> Vec<Step> {
    let package_keys = BTreeMap::from([(FINGERPRINT.to_owned(), key.to_owned())]);
    let plan =
        plan::plan(&catalog(), &Request { package_keys, ..request("ubuntu24", "newest") }).expect("it is planned");
    let efa = plan.stages.into_iter().find(|stage| stage.id == "efa").expect("every plan has EFA");
    let (own, src) = (sandbox.text("src"), "/var/lib/efa-gen/src");
    let below = |text: &str| text.replace(src, &own);
    let moved = |action| match action {
        Action::WriteFile { path, mode, content } => Some(Action::WriteFile { path: below(&path), mode, content }),
        Action::Run(mut run) => {
            run.dir = run.dir.map(|dir| below(&dir));
            run.environment.iter_mut().for_each(|(_, value)| *value = below(value));
            run.argv = run.argv.iter().map(|word| efa_gen::plan::Argument::literal(below(&word.to_string()))).collect();
            Some(run.into())
        }
        Action::Remove { paths } => Some(Action::Remove { paths: paths.iter().map(|path| below(path)).collect() }),
        Action::Assert(Assertion::Gone { paths }) => {
            Some(Action::Assert(Assertion::Gone { paths: paths.iter().map(|path| below(path)).collect() }))
        }
        forget @ Action::ForgetKey { .. } => Some(forget),
        // What the real installer leaves below /opt.
        _ => None,
    };
    let wanted = efa.steps.into_iter().filter(|step| ["install", "tidy"].contains(&step.id.as_str()));
    wanted.map(|found| step(&found.id, found.actions.into_iter().filter_map(moved).collect())).collect()
}

fn sign(sandbox: &Sandbox, package: &str, key: &str) {
    let path = format!("src/efa/aws-efa-installer/packages/{package}.deb");
    sandbox.write(&path, package);
    let digest = format!("cat - {} <<'EOF' | sha256sum >{}.sig\n{key}EOF", sandbox.text(&path), sandbox.text(&path));
    assert!(std::process::Command::new("sh").args(["-c", &digest]).status().expect("sh starts").success());
}

/// A machine with an unpacked installer of two signed packages, whose rpm knows another key.
fn machine() -> Sandbox {
    let sandbox = Sandbox::new();
    let packages = sandbox.path("src/efa/aws-efa-installer/packages");
    fs::create_dir_all(&packages).expect("a folder can be made");
    ["efa", "libfabric"].iter().for_each(|package| sign(&sandbox, package, KEY));
    sandbox.program("installer", &INSTALLER.replace("RPMDB", &sandbox.text("rpmdb")));
    fs::rename(sandbox.path("bin/installer"), packages.with_file_name("efa_installer.sh")).expect("it can be moved");
    sandbox.program("sleep", "exit 0");
    // gpg's agent, which keeps its home from being removed.
    sandbox.program("gpgconf", "[ \"$*\" = '--kill all' ] && rm -f \"$GNUPGHOME/agent\"");
    sandbox.program("rm", "for word; do [ ! -e \"$word/agent\" ] || exit 1; done; PATH=/usr/bin:/bin exec rm \"$@\"");
    sandbox.program("rpm", &RPM.replace("RPMDB", &sandbox.text("rpmdb")));
    sandbox.write("rpmdb", OTHER);
    sandbox
}

const OTHER: &str = "gpg-pubkey-c87f5b1a-593863f8\n";

fn run(sandbox: &Sandbox, key: &str) -> (Option<i32>, String) {
    sandbox.install(&plan(vec![stage("efa", Then::Continue, steps(sandbox, key))]));
    let output = sandbox.run(&[]);
    (output.status.code(), stdout(&output) + &sandbox.read("log/install.log"))
}

fn installed(sandbox: &Sandbox) -> bool {
    sandbox.path("src/efa/aws-efa-installer/installed").exists()
}

fn holds_key(folder: &Path) -> bool {
    folder.exists() && fs::read_dir(folder).expect("it can be read").next().is_some()
}

#[test]
fn the_key_serves_the_installer_and_is_gone_afterwards() {
    let sandbox = machine();
    let (code, said) = run(&sandbox, KEY);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("./efa_installer.sh -y --check-signatures"), "{said}");
    assert!(!holds_key(&sandbox.path("src")), "{:?}", sandbox.listing("src"));
    assert_eq!(sandbox.read("rpmdb"), OTHER, "the installer's key is gone, and no other");
}

#[test]
fn an_unsigned_package_or_one_by_another_key_is_not_installed() {
    let unsigned = machine();
    fs::remove_file(unsigned.path("src/efa/aws-efa-installer/packages/libfabric.deb.sig")).expect("it is there");
    let changed = machine();
    changed.write("src/efa/aws-efa-installer/packages/libfabric.deb", "another");
    let strangers = machine();
    sign(&strangers, "libfabric", "a stranger's\n");
    let cases = [(unsigned, KEY), (changed, KEY), (strangers, KEY), (machine(), "another key\n")];
    for (index, (sandbox, key)) in cases.iter().enumerate() {
        let (code, said) = run(sandbox, key);
        assert_eq!(code, Some(6), "{index}: {said}");
        assert!(said.contains("Error: signature verification failed: packages/"), "{index}: {said}");
        assert!(!installed(sandbox), "{index}");
    }
}

#[test]
fn a_key_that_rpm_keeps_or_does_not_tell_of_fails_the_step() {
    for (rpm, code, words) in [
        ("case $1 in --query) cat RPMDB ;; esac", 7, format!("rpm still goes by key {FINGERPRINT}")),
        ("exit 1", 6, "rpm does not tell which keys it goes by".to_owned()),
        ("case $1 in --query) cat RPMDB ;; *) exit 3 ;; esac", 6, "exit status 3".to_owned()),
        // rpm 6 names the whole fingerprint.
        ("echo gpg-pubkey-4e9091bcbb97a96b26b15e59a05480b1dd2d3ccc-5e9091bc", 7, "still goes by key".to_owned()),
    ] {
        let sandbox = machine();
        sandbox.program("rpm", &rpm.replace("RPMDB", &sandbox.text("rpmdb")));
        let (found, said) = run(&sandbox, KEY);
        assert_eq!(found, Some(code), "{rpm}: {said}");
        assert!(said.contains(&words), "{rpm}: {said}");
    }
}
