//! Runs a rendered install script as it is, but for the places where it meets the machine: its state, its log, the
//! boot id and the programs that need root are in a folder of the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use efa_gen::plan::{Action, BaseImage, BootHook, GuestCommand, Plan, Stage, Step, Then, When};
use efa_gen::render::{self, Format};

/// A machine of its own for one script.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// A machine on its first boot, where the caller is root.
    pub fn new() -> Self {
        let sandbox = Sandbox { folder: tempfile::tempdir().expect("a temporary folder can be made") };
        fs::create_dir(sandbox.path("bin")).expect("a folder can be made");
        sandbox.write("boot_id", "boot-1\n");
        sandbox.program("id", "echo 0");
        sandbox.program("sync", "exit 0");
        sandbox.program("systemctl", &format!("echo systemctl \"$@\" >>{}", sandbox.path("trace").display()));
        // A reboot ends the script and gives the machine a new boot id.
        let boot_id = sandbox.path("boot_id");
        sandbox.program("shutdown", &format!("echo \"boot-$$\" >{}; kill -TERM $PPID", boot_id.display()));
        sandbox
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text, for plans.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in the sandbox")).expect("a folder can be made");
        fs::write(path, content).expect("a file can be written");
    }

    /// Puts a device on the PCI bus.
    pub fn pci(&self, slot: &str, vendor: &str, device: &str, class: &str) {
        for (name, value) in [("vendor", vendor), ("device", device), ("class", class)] {
            self.write(&format!("pci/{slot}/{name}"), &format!("{value}\n"));
        }
    }

    /// Reads a file; a missing one is empty.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Puts a program in front of the script's PATH.
    pub fn program(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a program can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    }

    /// Renders the plan and puts the script into the sandbox as install.sh.
    pub fn install(&self, plan: &Plan) {
        let script = render::render(plan, &[Format::Script]).expect("the plan can be rendered").remove(0).text;
        let mut replaced = script;
        for (from, to) in [
            ("readonly STATE=/var/lib/efa-gen", format!("readonly STATE={}", self.text("state"))),
            ("readonly LOG=/var/log/efa-gen/install.log", format!("readonly LOG={}", self.text("log/install.log"))),
            ("PATH=/usr/local/sbin:", format!("PATH={}:/usr/local/sbin:", self.text("bin"))),
            ("/proc/sys/kernel/random/boot_id", self.text("boot_id")),
            ("GPUS=$(count_pci '0x10de:*:0x030*')", "GPUS=$(cat GPUS_FILE)".replace("GPUS_FILE", &self.text("gpus"))),
        ] {
            assert_eq!(replaced.matches(from).count(), 1, "the script says `{from}` once");
            replaced = replaced.replace(from, &to);
        }
        // Only the checks of kernels look there.
        replaced = replaced.replace("/boot/vmlinuz-", &self.text("boot/vmlinuz-"));
        // What the kernel tells of the machine is in the sandbox, too, as far as a test puts it there.
        for (from, to) in [
            ("/sys/bus/pci/devices/", "pci/"),
            ("/sys/class/infiniband/", "infiniband/"),
            ("/proc/driver/nvidia/", "nvidia/"),
            ("/proc/sys/kernel/yama/", "yama/"),
            ("/proc/devices", "devices"),
            ("/dev/gdrdrv", "gdrdrv"),
        ] {
            replaced = replaced.replace(from, &self.text(to));
        }
        if self.path("meminfo").exists() {
            replaced = replaced.replace("/proc/meminfo", &self.text("meminfo"));
        }
        if !self.path("gpus").exists() {
            self.write("gpus", "0");
        }
        self.write("install.sh", &replaced);
    }

    /// Runs the script with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("bash starts")
    }

    /// The script with these arguments, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg(self.path("install.sh")).args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
        command
    }

    /// Runs it again after each reboot, as the boot hook would; returns every output.
    pub fn run_through_reboots(&self) -> Vec<Output> {
        let mut outputs = Vec::new();
        for _ in 0..10 {
            outputs.push(self.run(&[]));
            if !String::from_utf8_lossy(&outputs[outputs.len() - 1].stdout).trim_end().ends_with("rebooting") {
                return outputs;
            }
        }
        panic!("ten reboots are too many");
    }

    /// Runs one step of these actions from the beginning; returns the exit code and all that was said.
    pub fn run_actions(&self, actions: Vec<Action>) -> (Option<i32>, String) {
        let _ = fs::remove_dir_all(self.path("state"));
        self.install(&plan(vec![stage("one", Then::Continue, vec![step("it", actions)])]));
        let output = self.run(&[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    }

    /// Every file below a folder of the sandbox, with its content.
    pub fn listing(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.path(name)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder can be read") {
                let path = entry.expect("a folder can be read").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let content = fs::read(&path).expect("a file can be read");
                    found.push((path, content));
                }
            }
        }
        found.sort();
        found
    }

    /// A step that appends a word to the trace.
    pub fn trace_step(&self, id: &str, word: &str) -> Step {
        step(id, vec![append(&self.path("trace"), word)])
    }
}

/// An action that appends a line to a file.
pub fn append(file: &Path, word: &str) -> Action {
    let redirect = format!("echo {word} >>{}", file.display());
    GuestCommand::new(["sh", "-c", &redirect]).into()
}

/// A step without a word on why.
pub fn step(id: &str, actions: Vec<Action>) -> Step {
    Step { id: id.into(), title: format!("Do {id}"), why: None, hint: Some(format!("mend {id}")), actions }
}

/// A stage.
pub fn stage(id: &'static str, then: Then, steps: Vec<Step>) -> Stage {
    Stage { id, title: format!("Stage {id}"), then, run: if id == "seal" { When::Image } else { When::Install }, steps }
}

/// A plan of these stages, for no distribution in particular.
pub fn plan(stages: Vec<Stage>) -> Plan {
    Plan {
        schema: 1,
        distribution: "test".into(),
        distribution_name: "Test Linux".into(),
        notes: Vec::new(),
        stack: "none".into(),
        instance_type: None,
        allowed: Vec::new(),
        architectures: Vec::new(),
        components: Vec::new(),
        base: BaseImage {
            owners: vec!["000000000000".into()],
            name: "test-*".into(),
            architecture: "x86_64".into(),
            user: "nobody".into(),
            sudo_needs_tty: false,
            root_device: "/dev/xvda".into(),
            openssh: "8.7".into(),
            root_gib: 8,
            imdsv2: true,
        },
        environment: vec![("PLAN_SAYS".into(), "it's $HOME".into())],
        package_locks: Vec::new(),
        recover_packages: Vec::new(),
        refresh_packages: Vec::new(),
        after_reboot: Vec::new(),
        boot_hook: BootHook {
            install: vec![GuestCommand::new(["systemctl", "enable", "hook"]).into()],
            start: vec![GuestCommand::new(["systemctl", "start", "hook"]).into()],
            remove: vec![GuestCommand::new(["systemctl", "disable", "hook"]).into()],
        },
        stages,
    }
}
