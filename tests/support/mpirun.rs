//! A stand-in for mpirun and the programs of nccl-tests: it notes how it is called and does what the test's script says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use efa_gen::nccl::command::Collective;

use super::nccl::Run;
use super::{Ran, command, run_in, scratch};

/// How the stand-in begins. A script for every host is a question: it is noted apart, and `answer`, a file of shell, answers it
/// (`$asked` are the hosts, `$3` is the script); without one mpirun fails. Otherwise `$kind` is `check`, `pair` or `full` by the sizes that are asked for, `$hosts` are the hosts with
/// blanks between, `$program` is the program's name, `$here` the test's folder.
const PRELUDE: &str = r#"#!/bin/sh
here=HERE
case " $* " in
  *" /bin/sh -c "*)
    while [ "$1" != --host ]; do shift; done
    asked=$(printf '%s' "$2" | sed 's/:1//g; s/,/ /g')
    while [ "$1" != /bin/sh ]; do shift; done
    printf '%s|%s\n' "$asked" "$(printf %s "$3" | tr '\n' ' ')" >>"$here/questions"
    [ -e "$here/answer" ] || exit 1
    . "$here/answer"
    exit ;;
esac
call=
for word; do call="$call|$word"; done
printf '%s\n' "$call" >>"$here/calls"
kind=full
while [ $# -gt 0 ]; do
  case $1 in
    --host) hosts=$(printf '%s' "$2" | sed 's/:[0-9]*//g; s/,/ /g') ;;
    -b) min=$2 ;;
    -e) [ "$2" != 8388608 ] || kind=check; [ "$2" != "$min" ] || kind=pair ;;
    */*_perf) program=${1##*/} ;;
  esac
  shift
done
"#;

/// Hosts, programs and logs of one test, in a folder of its own.
pub struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    /// As many hosts with eight GPUs each; mpirun does what `script` says. `check` and `full` are logs that pass on two hosts.
    pub fn new(hosts: usize, script: &str) -> Self {
        let stage = Stage { folder: scratch() };
        let good = Run { hosts: hosts as u64, ..Run::good(4, 45.8) };
        stage.write("check", &Run::good(4, 45.8).up_to(8 << 20).text());
        stage.write("full", &good.text());
        stage.write("hosts", &(0..hosts).map(|host| format!("10.0.0.{host} slots=8\n")).collect::<String>());
        stage.program("mpirun", script);
        for collective in Collective::ALL {
            stage.program(collective.program(), "exit 1");
        }
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file can be written");
    }

    /// Changes a file.
    pub fn change(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} holds {from}");
        self.write(name, &text.replace(from, to));
    }

    /// A missing file is empty.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn program(&self, name: &str, script: &str) {
        let here = self.folder.path().display().to_string();
        self.write(name, &format!("{}{script}\n", PRELUDE.replace("HERE", &here)));
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    }

    /// How mpirun was called, a line a call, each word after a `|`.
    pub fn calls(&self) -> Vec<String> {
        self.read("calls").lines().map(str::to_owned).collect()
    }

    /// Flags of every call.
    const ALWAYS: [&'static str; 5] = ["validate", "--mpirun", "./mpirun", "--tests-dir", "."];

    /// `efa-gen validate` on the hosts.
    pub fn validate(&self, flags: &[&str]) -> Ran {
        run_in(
            self.folder.path(),
            &[&Self::ALWAYS[..], &["--hostfile", "hosts", "--keep-log", "run.log"], flags].concat(),
        )
    }

    /// The same without a hostfile and a log's name, not yet started.
    pub fn command(&self, flags: &[&str]) -> Command {
        let mut command = command(&[&Self::ALWAYS[..], flags].concat());
        command.current_dir(self.folder.path());
        command
    }
}
