//! Owns one machine in the package sandbox: made fresh from the pool of stand-in packages, booted once for each
//! command, gone with the value. Must not know what the tests expect of it, nor any distribution.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use efa_gen::catalog::distribution::Distribution;
use efa_gen::catalog::instance_type::{Fabric, InstanceType};
use efa_gen::error::{Class, Error};
use efa_gen::plan::{self, Action, Assertion, GuestCommand, Plan, Request};
use efa_gen::render::{self, Format};

use crate::support::{catalog, in_repository, scratch};

/// What a command in the sandbox gave.
pub struct Ran {
    pub code: i32,
    pub said: String,
}

/// A command as the witnesses note it: the program's name, then its arguments.
pub type Argv = Vec<String>;

/// A machine of one distribution.
pub struct Machine {
    pub distribution: Distribution,
    folder: tempfile::TempDir,
}

impl Machine {
    /// A machine as its AMI boots for the first time, and mirrors that have all that the plans ask for.
    pub fn new(id: &str) -> Self {
        // First of all, because it says what is missing where the sandbox can't be.
        root_file_system();
        let catalog = catalog();
        let distribution = catalog.distribution(id).expect("the catalog has it").clone();
        let machine = Machine { distribution, folder: scratch() };
        machine.shell(&format!("/rehearsal/machine.sh {id}"));
        machine
    }

    /// `rpm` or `deb`.
    pub fn family(&self) -> &'static str {
        family(&self.distribution)
    }

    /// Boots the machine for one command.
    pub fn boot(&self, argv: &[&str]) -> Ran {
        sandbox(self.folder.path(), &pool(self.family()).join("upper/srv/pool"), argv)
    }

    /// Boots the machine for shell text that must succeed; returns what it said.
    pub fn shell(&self, text: &str) -> String {
        let ran = self.boot(&["bash", "-euc", text]);
        assert_eq!(ran.code, 0, "{text}\n{}", ran.said);
        ran.said
    }

    /// Puts everything right again at the mirrors.
    pub fn mend(&self) {
        self.shell(&format!("/rehearsal/machine.sh {} mend", self.distribution.id));
    }

    /// A path on the machine's disk, as far as it was changed since the machine was made.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("upper").join(path.trim_start_matches('/'))
    }

    /// A file's text; a missing one is empty.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// Writes a file, for the next boot to find.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder can be made");
        fs::write(path, content).expect("a file can be written");
    }

    /// Puts the plan's script on the machine as if nothing had been installed, but for the steps that `skip` names as
    /// STAGE.STEP: those count as done.
    pub fn begin(&self, plan: &Plan, skip: impl Fn(&str) -> bool) {
        let _ = fs::remove_dir_all(self.path(plan::STATE_DIR));
        let script = render::render(plan, &[Format::Script]).expect("the plan can be rendered").remove(0).text;
        self.write("/srv/install.sh", &script);
        for stage in &plan.stages {
            let mut left = false;
            for step in &stage.steps {
                let id = format!("{}.{}", stage.id, step.id);
                if skip(&id) {
                    self.write(&self.mark(&id), "");
                } else {
                    left = true;
                }
            }
            if !left {
                self.write(&self.mark(stage.id), "");
            }
        }
    }

    /// The file that says a stage, or STAGE.STEP, is done.
    pub fn mark(&self, id: &str) -> String {
        format!("{}/done/{id}", plan::STATE_DIR)
    }

    /// Runs the script in one boot.
    pub fn script(&self, arguments: &[&str]) -> Ran {
        self.boot(&[&["bash", "/srv/install.sh"], arguments].concat())
    }

    /// Each command that a witness saw since the machine was made, with its exit status.
    pub fn commands(&self) -> Vec<(i32, Argv)> {
        let line = |line: &str| {
            let mut words = line.split('\t').map(|word| word.replace('\x0b', "\n"));
            let status = words.next().and_then(|status| status.parse().ok()).expect("a status comes first");
            (status, words.collect())
        };
        self.read("/run/rehearsal/commands").lines().map(line).collect()
    }

    /// What was asked of the mirrors: `STATUS HOST/PATH`.
    pub fn asked(&self) -> Vec<String> {
        self.read("/srv/www/asked").lines().map(str::to_owned).collect()
    }

    /// Release of the kernel that the next boot runs.
    pub fn kernel(&self) -> String {
        self.read("/run/rehearsal/kernel").trim().to_owned()
    }
}

/// `rpm` or `deb`.
pub fn family(distribution: &Distribution) -> &'static str {
    if distribution.packages.installed[0] == "rpm" { "rpm" } else { "deb" }
}

/// Every plan of this distribution that can differ in its packages, the default first: each stack, with and without
/// GPU, and one for a type with NVLink 5.
pub fn plans(id: &str) -> Vec<Plan> {
    let catalog = catalog();
    let default = plan::plan(&catalog, &Request { distribution: id.into(), ..Request::default() });
    let mut plans = vec![default.expect("the default can be planned")];
    let stacks = ["guide", "newest"].into_iter().chain(catalog.pins.stack.iter().map(|stack| stack.id.as_str()));
    for stack in stacks {
        for no_gpu in [false, true] {
            let request = Request { distribution: id.into(), stack: Some(stack.into()), no_gpu, ..Request::default() };
            match plan::plan(&catalog, &request) {
                Ok(plan) => plans.push(plan),
                Err(error) if does_not_go_with_it(&error) => {}
                Err(error) => panic!("{id}, stack {stack}, no_gpu {no_gpu}: {error}"),
            }
        }
    }
    if catalog.distribution(id).expect("it is known").fabric.is_some() {
        let of_nvlink5 = |t: &&InstanceType| t.fabric == Fabric::NvLink5;
        let instance_type = catalog.instance_types.iter().find(of_nvlink5).map(|t| t.name.clone());
        let request = Request { distribution: id.into(), instance_type, ..Request::default() };
        plans.push(plan::plan(&catalog, &request).expect("it has what the type needs"));
    }
    plans
}

/// Whether a stack was refused because it does not go with this distribution, or has no digest to check its EFA installer with.
fn does_not_go_with_it(error: &Error) -> bool {
    let message = error.to_string();
    let of_pair = ["[rule ", "no published SHA-256"].iter().any(|words| message.contains(words));
    error.class() == Class::Plan && of_pair
}

/// Every action of a plan's stages, with its step as STAGE.STEP.
pub fn actions(plan: &Plan) -> impl Iterator<Item = (String, &Action)> {
    plan.stages.iter().flat_map(|stage| {
        stage
            .steps
            .iter()
            .flat_map(move |step| step.actions.iter().map(move |action| (format!("{}.{}", stage.id, step.id), action)))
    })
}

/// Names of the distribution's packages that a plan installs, and of those that it removes; kernels have packages of
/// their own.
fn names(distribution: &Distribution, plan: &Plan) -> (Vec<String>, Vec<String>) {
    let (mut installed, mut removed) = (Vec::new(), Vec::new());
    for (_, action) in actions(plan) {
        match action {
            Action::Assert(Assertion::Installed { packages, .. }) => {
                installed.extend(packages.iter().map(ToString::to_string).filter(|name| !name.contains("{kernel}")));
            }
            Action::Run(GuestCommand { argv, .. }) => {
                let argv: Argv = argv.iter().map(ToString::to_string).collect();
                removed.extend(argv.strip_prefix(&distribution.packages.remove[..]).unwrap_or_default().to_vec());
            }
            _ => {}
        }
    }
    (installed, removed)
}

/// The folder of the pool of stand-in packages of this family, made once for each run of the tests.
fn pool(family: &'static str) -> PathBuf {
    static POOLS: LazyLock<Mutex<BTreeMap<&str, tempfile::TempDir>>> = LazyLock::new(Mutex::default);
    let mut pools = POOLS.lock().expect("no test failed while it made the pool");
    pools.entry(family).or_insert_with(|| make_pool(family)).path().to_owned()
}

fn make_pool(wanted: &str) -> tempfile::TempDir {
    let folder = scratch();
    let names_folder = folder.path().join("upper/srv/pool/names");
    fs::create_dir_all(&names_folder).expect("a folder can be made");
    let mut all = BTreeSet::new();
    for distribution in catalog().distributions.iter().filter(|distribution| family(distribution) == wanted) {
        let mut installed = BTreeSet::new();
        for plan in plans(&distribution.id) {
            let (more, removed) = names(distribution, &plan);
            installed.extend(more);
            all.extend(removed);
        }
        let words: Vec<_> = installed.iter().map(String::as_str).collect();
        fs::write(names_folder.join(&distribution.id), words.join(" ")).expect("a file can be written");
        all.extend(installed);
    }
    let argv: Vec<&str> = ["/rehearsal/pool.sh", wanted].into_iter().chain(all.iter().map(String::as_str)).collect();
    let ran = sandbox(folder.path(), &folder.path().join("none"), &argv);
    assert_eq!(ran.code, 0, "the pool could not be made: {}", ran.said);
    folder
}

/// The root file system under every sandbox.
fn root_file_system() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let output = Command::new(in_repository("tests/rehearsal/rootfs.sh")).arg("rpm").output();
        let output = output.expect("rootfs.sh starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the package sandboxes need root and Debian: {said}");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    });
    &FOLDER
}

fn sandbox(folder: &Path, pool: &Path, argv: &[&str]) -> Ran {
    let output = Command::new("timeout")
        .args(["--kill-after=5", "200"])
        .arg(in_repository("tests/rehearsal/packages/sandbox.sh"))
        .args([root_file_system(), folder, pool])
        .args(argv)
        .env("LC_ALL", "C")
        .output()
        .expect("timeout starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ran { code: output.status.code().unwrap_or(-1), said }
}
