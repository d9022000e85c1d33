//! The package commands of every plan, executed: by the rendered script itself, from its first step through its reboots
//! to "complete" and the seal, on machines that are made for the purpose. Refusals outnumber successes.
//!
//! What is real, and what stands in:
//!
//! - Real, of Debian 12: bash, dnf 4 under the name yum, rpm, apt, dpkg and their signature and digest checks; dracut,
//!   update-initramfs, depmod, modprobe (asked whether it would load nouveau), update-grub and grub-mkconfig, systemctl
//!   enable and disable, the package locks.
//! - The packages stand in: every name that a plan installs is a package of one empty file, signed by a key made for
//!   the run; kernel packages have real modules, no kernel, and a postinst that makes a real initramfs. So it is shown
//!   that each command is one that the package manager takes and carries out, in this order, with these sources and
//!   keys, and not that the real distribution has a package of that name.
//! - The mirrors stand in: a web server on the sandbox's loopback has the addresses of the AMI's own source files,
//!   which are written by hand (machines/) after the distributions'. They speak http where RHUI and Amazon Linux 2
//!   speak https, but CentOS's vault https, by a certificate of the sandbox's own.
//! - yum 3 differs from dnf 4: it takes `releasever` from yum.conf (the stand-in yum passes it on), replaces REGION in
//!   RHUI's addresses by a plugin (written out here), and succeeds when one of several packages is missing (one test
//!   sets dnf's `strict` so). apt of 16.04 takes an unsigned source with a warning (one test sets today's apt so).
//! - Recorded only: grubby, initctl, cloud-init, shutdown (which makes a new boot id and "boots" the newest kernel).
//!   uname -r names that kernel, and /proc/version the gcc that built it; stat says how much of an AMI's disk is free; sleep and sync return at once; su answers
//!   for the memlock limit; grub-probe sees a disk.
//! - Left out: steps that download (a stand-in EFA installer brings the files that later steps look for). The mirrors with
//!   rpm have the group that the guide's readers know; no plan installs it, each names its packages.

#[path = "../rehearsal/packages/machine.rs"]
mod machine;
#[path = "../rehearsal/packages/refusals.rs"]
mod refusals;

use std::collections::{BTreeMap, BTreeSet};

use self::machine::{Argv, Machine, actions, plans};
use crate::support::{catalog, in_repository};
use efa_gen::plan::{Action, Assertion, GuestCommand, LOG_DIR, Plan};

/// As many machines at a time as there are processors, each thread named after its distribution.
#[test]
#[ignore = "needs root and Debian: run by .ci/run"]
fn every_package_command_of_every_distribution_runs() {
    let ids: Vec<String> = catalog().distributions.into_iter().map(|distribution| distribution.id).collect();
    for id in &ids {
        let file = format!("tests/rehearsal/packages/machines/{id}.sh");
        assert!(in_repository(&file).is_file(), "{file} is missing: what {id}'s AMI and mirrors have");
    }
    let machines = std::thread::available_parallelism().map_or(1, usize::from);
    for some in ids.chunks(machines) {
        std::thread::scope(|scope| {
            for id in some {
                let thread = std::thread::Builder::new().name(id.clone());
                thread.spawn_scoped(scope, || run_every_package_command(id)).expect("a thread can be started");
            }
        });
    }
}

/// Runs the default plan whole; then, of each other plan, the steps with commands that were not run yet.
fn run_every_package_command(id: &str) {
    let machine = Machine::new(id);
    let mut seen = BTreeSet::new();
    for (index, plan) in plans(id).iter().enumerate() {
        let new: BTreeSet<Argv> =
            commands_of(plan).into_values().flatten().filter(|argv| !seen.contains(argv)).collect();
        if new.is_empty() {
            continue;
        }
        if index == 0 {
            run_whole(&machine, plan);
        } else {
            run_steps_with(&machine, plan, &new);
        }
        let kernel = machine.kernel();
        for argv in &new {
            let wanted: Argv = argv.iter().map(|word| word.replace("{kernel}", &kernel)).collect();
            let ran = machine.commands().into_iter().any(|(status, argv)| status == 0 && argv == wanted);
            assert!(ran, "{id}, stack {}: `{}` was not run, or failed", plan.stack, wanted.join(" "));
        }
        if index == 0 {
            check_hold(&machine);
        }
        seen.extend(new);
    }
    assert!(seen.len() > 20, "{id}: only {} commands were found in the plans", seen.len());
}

/// Steps that download, or that run what those bring: their artifacts have no stand-in here.
fn left_out(plan: &Plan) -> BTreeSet<String> {
    let without = |action: &Action| match action {
        Action::Fetch { .. } | Action::Checkout { .. } => true,
        Action::Run(command) => command.argv[0].to_string().starts_with("/usr/local/cuda"),
        _ => false,
    };
    actions(plan).filter(|(_, action)| without(action)).map(|(step, _)| step).collect()
}

/// Every command of a plan that changes or asks about the system through a program that has a witness, by step; what
/// belongs to no step is under the empty name.
fn commands_of(plan: &Plan) -> BTreeMap<String, Vec<Argv>> {
    let left_out = left_out(plan);
    let mut commands: BTreeMap<String, Vec<Argv>> = BTreeMap::new();
    let whole = [&plan.package_locks, &plan.after_reboot, &plan.boot_hook.install, &plan.boot_hook.remove];
    let outside = whole.into_iter().flatten().map(|action| (String::new(), action));
    commands.insert(String::new(), plan.recover_packages.clone());
    for (step, action) in actions(plan).filter(|(step, _)| !left_out.contains(step)).chain(outside) {
        let of_step = commands.entry(step).or_default();
        match action {
            Action::Run(GuestCommand { argv, packages, .. }) => {
                let argv: Argv = argv.iter().map(ToString::to_string).collect();
                if *packages || !WITHOUT_WITNESS.contains(&argv[0].as_str()) {
                    of_step.push(argv);
                }
            }
            Action::WaitForCloudInit { argv } => of_step.push(argv.clone()),
            Action::Assert(Assertion::Installed { query, packages }) => {
                let ask = |package: &efa_gen::plan::Argument| [&query[..], &[package.to_string()]].concat();
                of_step.extend(packages.iter().map(ask));
            }
            _ => {}
        }
    }
    commands
}

/// Programs that do the same everywhere.
const WITHOUT_WITNESS: [&str; 4] = ["ldconfig", "ln", "mkdir", "cp"];

/// The default plan from a fresh machine to the seal, and what it must have done to the system.
fn run_whole(machine: &Machine, plan: &Plan) {
    let left_out = left_out(plan);
    machine.begin(plan, |step| left_out.contains(step));
    bring_efa_installer(machine, plan);
    assert!(
        nouveau_would_load(machine),
        "{}: or it proves nothing that it is not loaded later",
        machine.distribution.id
    );

    let first = first_boot(machine, plan);
    assert!(first.said.ends_with("rebooting\n") && first.code == 0, "{}", first.said);
    check_boot_hook(machine, plan, true);
    check_timers(machine, true);
    if machine.family() == "deb" {
        // As if the machine had been cut off in the middle of a package command.
        machine.shell("dpkg --unpack /srv/pool/ours/half-installed_1.0_amd64.deb");
        let second = machine.boot(&["/bin/bash", "/var/lib/efa-gen/install.sh"]);
        assert!(second.said.ends_with("rebooting\n") && second.code == 0, "{}", second.said);
        // As if it had been cut off between a package's files and its status, while another one is half-installed: what
        // dpkg then says of it is this.
        let status = "/^Package: make$/,/^$/s/^Status: .*/Status: install reinstreq unpacked/";
        machine.shell(&format!(
            "dpkg --purge half-installed was-to-follow && dpkg --unpack /srv/pool/ours/half-installed_1.0_amd64.deb && \
             sed -i '{status}' /var/lib/dpkg/status && dpkg -s make | grep -q reinstreq"
        ));
    }
    run_to_completion(machine);
    check_boot_hook(machine, plan, false);
    check_timers(machine, false);
    check_compiler(machine);
    let again = machine.script(&[]);
    assert_eq!((again.code, again.said.as_str()), (0, "EFA-GEN COMPLETE: every stage is done already.\n"));

    if machine.family() == "rpm" {
        let group = machine.shell("yum --quiet --cacheonly group info 'Development Tools'");
        assert!(group.contains("Mandatory Packages") && group.contains(" gcc\n"), "the mirrors have it: {group}");
    }
    check_updates(machine);
    check_boot(machine);
    let missing: Vec<_> = machine.asked().into_iter().filter(|line| line.starts_with("404")).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let seal = machine.script(&["--stage", "seal"]);
    assert_eq!(seal.code, 0, "{}", seal.said);
    check_timers(machine, false);
    let cached =
        machine.shell("find /var/cache -name '*.rpm' -o -name '*.deb' -o -name '*primary*' -o -name 'pkgcache.bin'");
    assert_eq!(cached, "", "a sealed image has no package caches");
}

/// The first boot. On machines whose locks the script watches, somebody else has one at first.
fn first_boot(machine: &Machine, plan: &Plan) -> machine::Ran {
    let locks = plan.package_locks.iter().find_map(|action| match action {
        Action::WaitForLocks { files } => files.get(1),
        _ => None,
    });
    let Some(lock) = locks else { return machine.script(&[]) };
    let text = format!(
        "python3 /rehearsal/hold_lock.py {lock} {LOG_DIR}/install.log | {{ read -r _; exec bash /srv/install.sh; }}"
    );
    let ran = machine.boot(&["bash", "-c", &text]);
    assert!(ran.said.contains(&format!("note: waiting for the lock on {lock}\n")), "{}", ran.said);
    ran
}

/// Boots until the script says that it is complete, as the boot hook would.
fn run_to_completion(machine: &Machine) {
    for _ in 0..6 {
        let ran = machine.boot(&["/bin/bash", "/var/lib/efa-gen/install.sh"]);
        assert_eq!(
            ran.code,
            0,
            "{}: {}\n{}",
            machine.distribution.id,
            ran.said,
            machine.read("/var/log/efa-gen/install.log")
        );
        if ran.said.ends_with("EFA-GEN COMPLETE: every stage is done.\n") {
            return;
        }
        assert!(ran.said.ends_with("rebooting\n"), "{}", ran.said);
    }
    panic!("six reboots are too many");
}

/// Of a further plan, only the steps that have one of these commands.
fn run_steps_with(machine: &Machine, plan: &Plan, new: &BTreeSet<Argv>) {
    let commands = commands_of(plan);
    machine.begin(plan, |step| !commands.get(step).is_some_and(|argvs| argvs.iter().any(|argv| new.contains(argv))));
    bring_efa_installer(machine, plan);
    machine.shell("cp /srv/install.sh /var/lib/efa-gen/");
    run_to_completion(machine);
}

/// A stand-in for the EFA installer, where the step that runs it looks: it notes how it was called, brings every file
/// below /opt that a later check looks for, and the packages that the plan removes.
fn bring_efa_installer(machine: &Machine, plan: &Plan) {
    let mut text = String::from("#!/bin/bash\nset -eu\n");
    text += "{ printf '0\\t./efa_installer.sh'; printf '\\t%s' \"$@\"; echo; } >>/run/rehearsal/commands\n";
    let (library, mut folder) = ("cp /lib/x86_64-linux-gnu/libz.so.1", None);
    for (_, action) in actions(plan) {
        let bring = |path: &str, how: &str| format!("mkdir -p \"$(dirname {path})\"; {how} {path}\n");
        match action {
            Action::Assert(Assertion::Exists { path }) if path.to_string().starts_with("/opt/") => {
                let path = path.to_string();
                text += &bring(&path, if path.contains(".so") { library } else { "touch" });
            }
            Action::Assert(Assertion::CudaContexts { program }) => text += &bring(program, "install -m 0755 /bin/true"),
            // The driver's module, which was left out, as kmod would tell of it.
            Action::Assert(Assertion::ModuleFlavour { license, .. }) => {
                let lines = format!(
                    "#!/bin/sh\ncase $* in *\\ -F\\ license\\ nvidia) echo {license} ;; *) exec /usr/sbin/modinfo \"$@\" ;; esac\n"
                );
                text += &format!("cat >/usr/local/bin/modinfo <<'END'\n{lines}END\nchmod +x /usr/local/bin/modinfo\n");
            }
            Action::Assert(Assertion::LibrariesFound { library: path }) => {
                text += &bring(path, library);
            }
            Action::Assert(Assertion::Contains { path, text: words }) => {
                text += &bring(path, &format!("echo '# {words}' >"));
            }
            Action::Run(GuestCommand { argv, dir: Some(dir), packages: true, .. })
                if argv[0].to_string().starts_with("./") =>
            {
                folder = Some(dir);
            }
            _ => {}
        }
    }
    let efa = if machine.family() == "rpm" { "rpm --install --replacepkgs" } else { "dpkg --install" };
    text += &format!("for file in /pool/ours/efa-nv-peermem*; do [ ! -e \"$file\" ] || {efa} \"$file\"; done\n");
    let path = format!("{}/efa_installer.sh", folder.expect("a step runs the installer"));
    machine.write(&path, &text);
    machine.shell(&format!("chmod +x {path}"));
}

/// The script starts at each boot until it is complete, and not after.
fn check_boot_hook(machine: &Machine, plan: &Plan, expected: bool) {
    let unit = plan.boot_hook.install.iter().find_map(|action| match action {
        Action::WriteFile { path, .. } => Some(path),
        _ => None,
    });
    let unit = unit.expect("the boot hook is a file");
    assert_eq!(machine.path(unit).exists(), expected, "{unit}");
    if machine.distribution.init == "systemd" {
        // Made and removed by the real systemctl.
        let link = "/etc/systemd/system/multi-user.target.wants/efa-gen-install.service";
        assert_eq!(machine.path(link).is_symlink(), expected, "{link}");
    } else if expected {
        // As the user-data does; how systemd starts it is shown by guests.
        let started = machine.boot(&["/bin/bash", "/var/lib/efa-gen/install.sh", "--start"]);
        assert_eq!(started.code, 0, "{}", started.said);
        let argv = plan.boot_hook.start.iter().find_map(|action| match action {
            Action::Run(run) => Some(run.argv.iter().map(ToString::to_string).collect::<Argv>()),
            _ => None,
        });
        let asked = machine.commands().into_iter().any(|(_, called)| Some(called) == argv);
        assert!(asked, "not called: {argv:?}");
    }
}

/// The distribution's timers stay off over the reboots, and are as they were when the script is done.
fn check_timers(machine: &Machine, masked: bool) {
    for unit in &machine.distribution.packages.timers {
        let link = machine.path(&format!("/etc/systemd/system/{unit}"));
        assert_eq!(link.is_symlink(), masked, "{}: {unit}", machine.distribution.id);
    }
}

/// What modules would be built by is of the major version that the machine's kernel was built by.
fn check_compiler(machine: &Machine) {
    let said = machine
        .shell("readlink -e /var/lib/efa-gen/kernel-gcc; /var/lib/efa-gen/kernel-gcc -dumpversion; cat /proc/version");
    let lines: Vec<_> = said.lines().collect();
    let major = lines[1].split('.').next().expect("a version");
    assert!(lines[2].contains(&format!(") {major}.")), "{}: {said}", machine.distribution.id);
    let other = machine.read("/run/rehearsal/version").contains("gcc10-gcc");
    assert_eq!(lines[0].ends_with("/gcc10-gcc"), other, "{}: {said}", machine.distribution.id);
}

/// The updates came from the right place: neither the image's versions nor those of a later release.
fn check_updates(machine: &Machine) {
    let version = machine.shell("rpm --query basesystem 2>/dev/null || dpkg-query --show basesystem");
    assert!(version.contains("basesystem-2-1") || version.contains("basesystem\t2"), "{version}");
    let kernels = machine.read("/run/rehearsal/kernels");
    assert_eq!(Some(machine.kernel().as_str()), kernels.lines().nth(1), "the update's kernel runs");
}

fn nouveau_would_load(machine: &Machine) -> bool {
    let device = "pci:v000010DEd00001DB5sv000010DEsd00001249bc03sc02i00";
    let said =
        machine.shell(&format!("modprobe --dry-run --verbose --use-blacklist --set-version $(uname -r) {device}"));
    said.contains("nouveau.ko")
}

/// The next boot is without nouveau, by what the real tools made of the plan's files.
fn check_boot(machine: &Machine) {
    assert!(!nouveau_would_load(machine));
    let kernel = &machine.distribution.kernel;
    let initramfs = kernel.initramfs.replace("{kernel}", &machine.kernel());
    let content = machine.shell(&format!("{{ lsinitramfs {initramfs} || lsinitrd {initramfs}; }} 2>/dev/null"));
    assert!(content.contains("xen-blkfront.ko"), "{initramfs} is no initramfs of this kernel: {content}");
    if machine.family() == "deb" {
        assert!(content.contains("etc/modprobe.d/blacklist-nouveau.conf"), "{content}");
        let menu = machine.read("/boot/grub/grub.cfg");
        let lines: Vec<_> = menu.lines().filter(|line| line.trim_start().starts_with("linux")).collect();
        assert!(lines.len() >= 2, "{menu}");
        for line in lines {
            assert!(line.contains("modprobe.blacklist=nouveau"), "{line}");
            assert!(line.contains("console=ttyS0") || line.contains("single"), "what the image had is kept: {line}");
        }
    }
    if let Some(append) = &kernel.nouveau_off.append {
        let menu = machine.read(&append.path);
        let lines: Vec<_> = menu.lines().filter(|line| line.starts_with("kernel")).collect();
        assert!(lines.len() == 2, "the image's kernel and the update's: {menu}");
        for line in lines {
            assert!(line.matches(append.text.trim()).count() == 1 && line.contains("console=ttyS0"), "{line}");
        }
    }
}

/// A kernel that comes after the build is not installed; and it is the hold that keeps it out.
fn check_hold(machine: &Machine) {
    let late = machine.read("/run/rehearsal/kernels").lines().nth(2).expect("a third kernel").to_owned();
    machine.shell(&format!("LATE=1 /rehearsal/machine.sh {} mend", machine.distribution.id));
    let packages = &machine.distribution.packages;
    let upgrade = || {
        for argv in [&packages.refresh, &packages.upgrade] {
            let ran = machine.boot(&argv.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(ran.code, 0, "{}", ran.said);
        }
    };
    let installed = || machine.path(&format!("/boot/vmlinuz-{late}")).is_file();
    upgrade();
    assert!(!installed(), "kernel {late} came in spite of the hold");
    let hold = &machine.distribution.kernel.hold;
    match &hold.line {
        Some(line) => {
            machine.shell(&format!("grep -vxF '{0}' {1} >/tmp/without; cp /tmp/without {1}", line.line, line.path))
        }
        None => machine.shell("apt-mark showhold | xargs apt-mark unhold"),
    };
    upgrade();
    assert!(installed(), "without the hold it comes");
}
