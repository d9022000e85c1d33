//! Owns what the script must refuse of package sources: by the step's name, with the cause in sight, with nothing
//! marked done, and so that the same script goes on once the source is mended.

use std::process::Command;

use efa_gen::plan::{self, Request, STATE_DIR};
use efa_gen::render::{self, Format};

use super::machine::{Machine, Ran, family, plans};
use crate::support::catalog;

/// A fault at the mirrors, and what the script must say of it in its step "Install the tools that this script calls".
struct Fault {
    /// Shell text that brings it about; NAME is one of the packages that the step installs.
    break_it: &'static str,
    code: i32,
    words: &'static [&'static str],
}

const FAILED: i32 = 6;
const ASSERTION: i32 = 7;

/// On a fresh machine for each: the step fails and says why, nothing is marked done, and once the fault is mended the
/// same script goes on to the end of the stage. What it must say of one fault, it says of no other.
fn refuses_each(id: &str, faults: &[Fault]) {
    let mut refusals: Vec<(Vec<String>, String)> = Vec::new();
    for fault in faults {
        let machine = Machine::new(id);
        let plan = plans(id).remove(0);
        machine.begin(&plan, |_| false);
        let name = machine.distribution.packages.names.base[2].clone();
        machine.shell(&fault.break_it.replace("NAME", &name));
        let words: Vec<_> = fault.words.iter().map(|word| word.replace("NAME", &name)).collect();
        let said = refused_then_mended(&machine, ("prepare", "tools"), fault.code, &words);
        refusals.push((words, said));
    }
    for (index, (words, _)) in refusals.iter().enumerate() {
        for (_, said) in refusals.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, refusal)| refusal) {
            assert!(!words.iter().all(|word| said.contains(word)), "{words:?} is said of another fault too:\n{said}");
        }
    }
}

/// Runs the stage, which must fail in this step with these words and the step's hint. Returns what the script said.
fn refused(machine: &Machine, (stage, step): (&str, &str), code: i32, words: &[String]) -> String {
    let plan = plans(&machine.distribution.id).remove(0);
    let steps = &plan.stages.iter().find(|found| found.id == stage).expect("the plan has the stage").steps;
    let step = steps.iter().find(|found| found.id == step).expect("the stage has the step");
    let Ran { code: actual, said } = machine.script(&["--stage", stage]);
    assert_eq!(actual, code, "{said}");
    let title = format!("FAILED in stage {stage}, step: {}\n", step.title);
    let hint = format!("\n  hint: {}\n", step.hint.as_ref().expect("a step that needs package sources has a hint"));
    for word in [&title, &hint].into_iter().chain(words) {
        assert!(said.contains(word), "`{word}` is not in:\n{said}");
    }
    said
}

fn refused_then_mended(machine: &Machine, (stage, step): (&str, &str), code: i32, words: &[String]) -> String {
    let said = refused(machine, (stage, step), code, words);
    let marks = [machine.mark(stage), machine.mark(&format!("{stage}.{step}")), format!("{STATE_DIR}/complete")];
    assert!(marks.iter().all(|mark| !machine.path(mark).exists()), "nothing is done");

    machine.mend();
    let ran = machine.script(&["--stage", stage]);
    assert_eq!(ran.code, 0, "once it is mended it goes on: {}", ran.said);
    assert!(machine.path(&machine.mark(&format!("{stage}.{step}"))).exists(), "{}", ran.said);
    assert!(machine.path(&machine.mark(stage)).exists(), "{}", ran.said);
    said
}

#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn rpm_sources_that_are_wrong_are_refused_by_name() {
    refuses_each(
        "centos7",
        &[
            Fault {
                break_it: "/rehearsal/fault.sh rpm missing NAME",
                code: FAILED,
                words: &["  reason: exit status 1, 3 times\n", "Error: Unable to find a match: NAME\n"],
            },
            // As yum 3 does: it warns, installs the others and succeeds.
            Fault {
                break_it: "/rehearsal/fault.sh rpm missing NAME; echo strict=0 >>/etc/yum.conf",
                code: ASSERTION,
                words: &["  reason: package NAME is not installed\n"],
            },
            Fault {
                break_it: "/rehearsal/fault.sh rpm unsigned NAME",
                code: FAILED,
                words: &["Package NAME-1.0-1.noarch.rpm is not signed\n", "Error: GPG check FAILED\n"],
            },
            Fault {
                break_it: "/rehearsal/fault.sh rpm theirs NAME",
                code: FAILED,
                words: &[
                    "already installed but they are not correct for this package.",
                    "Failing package is: NAME-1.0-1.noarch\n",
                    "Error: GPG check FAILED\n",
                ],
            },
            Fault {
                break_it: "/rehearsal/fault.sh rpm rotten NAME",
                code: FAILED,
                words: &["NAME-1.0-1.noarch.rpm: Downloading successful, but checksum doesn't match."],
            },
            Fault {
                break_it: "/rehearsal/fault.sh rpm gone NAME",
                code: FAILED,
                words: &["NAME-1.0-1.noarch.rpm: Status code: 404 for https://vault.centos.org/"],
            },
            Fault {
                break_it: "/rehearsal/fault.sh rpm metadata",
                code: FAILED,
                words: &[
                    "  - Downloading successful, but checksum doesn't match.",
                    "Error: Failed to download metadata for repo 'base': Yum repo downloading error",
                ],
            },
            Fault {
                break_it: "/rehearsal/fault.sh rpm dead",
                code: FAILED,
                words: &["Curl error (6)", "[Could not resolve host: vault.centos.org]"],
            },
        ],
    );
}

#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn apt_sources_that_are_wrong_are_refused_by_name() {
    refuses_each(
        "ubuntu18",
        &[
            Fault {
                break_it: "/rehearsal/fault.sh deb missing NAME",
                code: FAILED,
                words: &["E: Unable to locate package NAME\n"],
            },
            Fault {
                break_it: "/rehearsal/fault.sh deb unsigned",
                code: FAILED,
                words: &[
                    "E: The repository 'http://us-east-1.ec2.archive.ubuntu.com/ubuntu bionic Release' is not signed.\n",
                ],
            },
            // As apt of 16.04 does: it warns, and then refuses to install.
            Fault {
                break_it: "echo 'Acquire::AllowInsecureRepositories 1;' >/etc/apt/apt.conf.d/old; /rehearsal/fault.sh deb unsigned",
                code: FAILED,
                words: &["E: There were unauthenticated packages and -y was used without --allow-unauthenticated"],
            },
            Fault {
                break_it: "/rehearsal/fault.sh deb theirs",
                code: FAILED,
                words: &["the public key is not available: NO_PUBKEY ", "bionic InRelease' is not signed.\n"],
            },
            Fault {
                break_it: "/rehearsal/fault.sh deb rotten NAME",
                code: FAILED,
                words: &["/NAME_1.0_amd64.deb  Hash Sum mismatch\n"],
            },
            Fault {
                break_it: "/rehearsal/fault.sh deb gone NAME",
                code: FAILED,
                words: &["/NAME_1.0_amd64.deb  404  Not Found "],
            },
            Fault {
                break_it: "/rehearsal/fault.sh deb metadata",
                code: FAILED,
                words: &[
                    "Hashes of received file:\n",
                    "Release file created at: ",
                    "E: Some index files failed to download",
                ],
            },
            Fault {
                break_it: "/rehearsal/fault.sh deb dead",
                code: FAILED,
                words: &[
                    "  Temporary failure resolving 'us-east-1.ec2.archive.ubuntu.com'\n",
                    "W: Some index files failed to download",
                ],
            },
        ],
    );
}

/// A missing package and an unsigned one, with the sources, the keys and the settings of each distribution. What apt of
/// 16.04 and yum 3 do otherwise is in the tests above.
#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn every_distribution_refuses_a_missing_and_an_unsigned_package() {
    let fault = |break_it, words| Fault { break_it, code: FAILED, words };
    let rpms = [
        fault("/rehearsal/fault.sh rpm missing NAME", &["Error: Unable to find a match: NAME\n"]),
        fault("/rehearsal/fault.sh rpm unsigned NAME", &["Package NAME-1.0-1.noarch.rpm is not signed\n"]),
    ];
    let debs = [
        fault("/rehearsal/fault.sh deb missing NAME", &["E: Unable to locate package NAME\n"]),
        fault("/rehearsal/fault.sh deb unsigned", &["E: The repository '", " Release' is not signed.\n"]),
    ];
    for distribution in catalog().distributions {
        refuses_each(&distribution.id, if family(&distribution) == "rpm" { &rpms } else { &debs });
    }
}

#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn a_dead_mirror_that_is_not_repaired_fails_and_says_so() {
    let machine = Machine::new("centos7");
    let plan = plans("centos7").remove(0);
    machine.begin(&plan, |step| step == "prepare.vault");
    let cause = "[Could not resolve host: mirrorlist.centos.org]".to_owned();
    refused(&machine, ("prepare", "tools"), FAILED, &[cause]);
    // With the repair, and nothing else changed, the same script goes on.
    std::fs::remove_file(machine.path(&machine.mark("prepare.vault"))).expect("it counted as done");
    let ran = machine.script(&["--stage", "prepare"]);
    assert_eq!(ran.code, 0, "{}", ran.said);
}

#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn a_client_that_finds_none_of_its_servers_is_refused_with_a_hint() {
    let machine = Machine::new("rhel7.6");
    machine.begin(&plans("rhel7.6")[0], |_| false);
    machine.shell("/rehearsal/fault.sh rpm dead");
    let hint = "  hint: whether RHUI still serves RHEL 7 is not proven: --yum-repository takes the packages from a repository of your own";
    let cause = "[Could not resolve host: rhui3.us-east-1.aws.ce.redhat.com]";
    refused_then_mended(&machine, ("prepare", "rhui-client"), FAILED, &[cause.to_owned(), hint.to_owned()]);
}

/// The vault is gone, and its copy is not.
#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn the_second_host_is_asked_where_the_first_does_not_answer() {
    let machine = Machine::new("centos7");
    machine.begin(&plans("centos7")[0], |_| false);
    machine.shell(
        "copy=/srv/www/archive.kernel.org/centos-vault && mkdir -p $copy && mv /srv/www/vault.centos.org/7.9.2009 $copy/ && \
         echo '127.0.0.1 archive.kernel.org' >/etc/hosts",
    );
    let ran = machine.script(&["--stage", "prepare"]);
    assert_eq!(ran.code, 0, "{}", ran.said);
    let asked = machine.asked();
    assert!(!asked.is_empty() && asked.iter().all(|line| line.contains(" archive.kernel.org/")), "{asked:?}");
}

/// RHUI is gone; a repository of the user's own has what the plan asks for. What it has unsigned, is refused.
#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn a_repository_of_ones_own_is_enough_and_the_only_one_that_is_asked() {
    let machine = Machine::new("rhel7.6");
    let request = Request {
        distribution: "rhel7.6".into(),
        yum_repository: Some("http://packages.example/rhel7.6/$basearch/".into()),
        ..Request::default()
    };
    let plan = plan::plan(&catalog(), &request).expect("it can be planned");
    machine.begin(&plan, |_| false);
    machine.shell(
        "own=/srv/www/packages.example/rhel7.6 && mkdir -p $own && \
         mv /srv/www/cds.*/pulp/repos/content/dist/rhel/rhui/server/7/7.6/x86_64/os $own/x86_64 && rm -rf /srv/www/*rhui* && \
         echo '127.0.0.1 packages.example' >/etc/hosts",
    );
    let name = machine.distribution.packages.names.base[2].clone();
    machine.shell(&format!(
        "mkdir /srv/kept && cp -r /srv/www/packages.example /srv/kept/ && /rehearsal/fault.sh rpm unsigned {name}"
    ));
    let ran = machine.script(&["--stage", "prepare"]);
    assert_eq!(ran.code, FAILED, "{}", ran.said);
    assert!(ran.said.contains(&format!("Package {name}-1.0-1.noarch.rpm is not signed\n")), "{}", ran.said);
    machine.shell("rm -rf /srv/www/packages.example && mv /srv/kept/packages.example /srv/www/");
    for stage in ["prepare", "update"] {
        let ran = machine.script(&["--stage", stage]);
        assert_eq!(ran.code, 0, "{}", ran.said);
    }
    let asked = machine.asked();
    assert!(!asked.is_empty() && asked.iter().all(|line| line.contains(" packages.example/")), "{asked:?}");
    let kernels = machine.read("/run/rehearsal/kernels");
    assert_eq!(Some(machine.kernel().as_str()), kernels.lines().nth(1), "the update's kernel runs");
}

#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn without_its_pin_a_machine_moves_on_to_the_next_release() {
    for id in ["al1", "rhel7.7"] {
        let machine = Machine::new(id);
        machine.begin(&plans(id)[0], |step| step == "prepare.pin-release");
        for stage in ["prepare", "update"] {
            let ran = machine.script(&["--stage", stage]);
            assert_eq!(ran.code, 0, "{}", ran.said);
        }
        let kernels = machine.read("/run/rehearsal/kernels");
        assert_eq!(kernels.lines().last(), Some(machine.kernel().as_str()), "or the pin proves nothing");
    }
}

/// The headers of the running kernel were not there when the machine learned what its sources have. That they are there
/// now is enough: it learns anew.
#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn headers_that_are_missing_are_named_and_found_once_they_are_there() {
    // Ubuntu's images bring them; here something has removed them.
    let cases = [
        (
            "centos7",
            "Error: Unable to find a match: kernel-devel-KERNEL\n",
            "/rehearsal/fault.sh rpm missing kernel-devel",
        ),
        (
            "ubuntu18",
            "E: Package 'linux-headers-KERNEL' has no installation candidate\n",
            "dpkg --purge linux-aws linux-headers-aws linux-headers-KERNEL; /rehearsal/fault.sh deb missing linux-headers-KERNEL",
        ),
    ];
    for (id, cause, break_it) in cases {
        let machine = Machine::new(id);
        let named = |text: &str| text.replace("KERNEL", &machine.kernel());
        machine.begin(&plans(id)[0], |step| step.starts_with("update"));
        machine.shell(&named(break_it));
        let ran = machine.script(&["--stage", "prepare"]);
        assert_eq!(ran.code, 0, "{}", ran.said);
        let hint = "  hint: the package sources may lack headers for this kernel: update the machine and reboot";
        refused_then_mended(&machine, ("kernel", "headers"), FAILED, &[named(cause), hint.to_owned()]);
    }
}

/// What rpm and dpkg take for the newest kernel, the script must: without it, it would wait for a reboot that has been.
#[test]
fn the_newest_kernel_is_the_package_manager_s() {
    let script = render::render(&plans("centos7")[0], &[Format::Script]).expect("it can be rendered").remove(0).text;
    let start = script.find("\nnewest_kernel() {").expect("the function is there");
    let check = start + script[start..].find("\nassert_newest_kernel() {").expect("the check is there");
    let function = &script[start..check + script[check..].find("\n}\n").expect("it ends") + 3];
    let run = |running: &str, others: &str| {
        let text = format!(
            "kernels() {{ printf '%s\\n' {running} {others}; }}\ndie() {{ echo \"$2\"; exit \"$1\"; }}\nASSERTION=7 KERNEL={running}\n{function}assert_newest_kernel"
        );
        let output = Command::new("bash").args(["-euc", &text]).env("LC_ALL", "C").output().expect("bash starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // Oldest first, one line a distribution.
    let lines = [
        "3.10.0-957.el7.x86_64 3.10.0-957.1.3.el7.x86_64 3.10.0-957.21.3.el7.x86_64 3.10.0-1062.el7.x86_64",
        "3.10.0-1160.el7.x86_64 3.10.0-1160.2.1.el7.x86_64 3.10.0-1160.119.1.el7.x86_64",
        "4.14.171-105.231.amzn1.x86_64 4.14.336-179.557.amzn1.x86_64 4.14.336-180.562.amzn1.x86_64",
        "4.14.336-253.554.amzn2.x86_64 4.14.355-280.652.amzn2.x86_64 5.10.9-5.amzn2.x86_64 5.10.234-225.910.amzn2.x86_64",
        "4.4.0-1052-aws 4.4.0-1128-aws 4.15.0-1021-aws 4.15.0-1155-aws 5.4.0-1018-aws 6.8.0-1008-aws",
        "6.1.0-9-cloud-amd64 6.1.0-10-cloud-amd64 6.1.0-50-cloud-amd64",
    ];
    for line in lines {
        let kernels: Vec<_> = line.split(' ').collect();
        for pair in kernels.windows(2) {
            assert_eq!(run(pair[1], pair[0]), (Some(0), String::new()), "{} is newer than {}", pair[1], pair[0]);
            let why = format!("kernel {} is running, {} is the newest in /boot\n", pair[0], pair[1]);
            assert_eq!(run(pair[0], pair[1]), (Some(7), why));
        }
    }
}
