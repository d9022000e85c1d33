//! Owns the plan as a value: stages, steps, what the machine and its image are.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::action::Action;
use crate::text::hex;

/// Where the script keeps its state on the machine.
pub const STATE_DIR: &str = "/var/lib/efa-gen";
/// Folder of the script's log on the machine.
pub const LOG_DIR: &str = "/var/log/efa-gen";
/// What ends up on the machine, as JSON.
pub const RELEASE_FILE: &str = "/etc/efa-gen.json";
/// Program that makes a CUDA context on every GPU, built in images with a GPU stack.
pub const CUDA_CONTEXTS: &str = "/opt/efa-gen/bin/cuda-contexts";

/// Everything that will be done to one machine, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Version of this form.
    pub schema: u32,
    /// Short id of the distribution.
    pub distribution: String,
    /// Its name.
    pub distribution_name: String,
    /// What its users should know, as sentences.
    pub notes: Vec<String>,
    /// Id of the stack.
    pub stack: String,
    /// Instance type that it is built for, if one was chosen.
    pub instance_type: Option<String>,
    /// Compatibility rules that do not hold, and that the user took upon himself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<&'static str>,
    /// GPU architectures that it is built for; empty without GPU.
    pub architectures: Vec<String>,
    /// What is installed, with its origin and digest.
    pub components: Vec<Component>,
    /// Base AMI and login.
    pub base: BaseImage,
    /// Environment of every command.
    pub environment: Vec<(String, String)>,
    /// What is done before a package command: the distribution's own timers off, its locks free.
    pub package_locks: Vec<Action>,
    /// Commands that end what a cut package command left half-done, each for when the one before fails.
    pub recover_packages: Vec<Vec<String>>,
    /// Command that learns anew what the package sources have, before a failed package command is tried again.
    pub refresh_packages: Vec<String>,
    /// What is done on each new boot, before anything else.
    pub after_reboot: Vec<Action>,
    /// What makes the script start again after a reboot.
    pub boot_hook: BootHook,
    /// The stages.
    pub stages: Vec<Stage>,
}

/// Something that is installed from outside the distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Name for tags and `--sha256`.
    pub name: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Version.
    pub version: String,
    /// URL, or what brings it.
    pub origin: String,
    /// `sha256:` or `commit:` and hex; absent for what comes with another component.
    pub digest: Option<String>,
    /// Who says that the digest belongs to the version.
    pub published: String,
}

/// What a renderer needs to know of the base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseImage {
    /// Account ids of its publisher.
    pub owners: Vec<String>,
    /// Name filter.
    pub name: String,
    /// Machine architecture.
    pub architecture: String,
    /// Login user.
    pub user: String,
    /// Whether sudo asks for a terminal.
    pub sudo_needs_tty: bool,
    /// Root device.
    pub root_device: String,
    /// Version of its OpenSSH.
    pub openssh: String,
    /// GiB that the root volume must have.
    pub root_gib: u64,
    /// Whether its cloud-init can use IMDSv2.
    pub imdsv2: bool,
}

/// How the script is started at each boot until it is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootHook {
    /// Installs it.
    pub install: Vec<Action>,
    /// Starts the script now, in the background.
    pub start: Vec<Action>,
    /// Removes it.
    pub remove: Vec<Action>,
}

/// Steps between two reboots, or a part of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Name for `--from` and `--stage`.
    pub id: &'static str,
    /// For people.
    pub title: String,
    /// What follows it.
    pub then: Then,
    /// When it is run.
    pub run: When,
    /// The steps.
    pub steps: Vec<Step>,
}

/// When a stage is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// On every machine.
    Install,
    /// Only on a machine with the GPUs and EFA devices that the software is for; a builder may have neither.
    Target,
    /// Only when the machine becomes an image, and then each time.
    Image,
}

/// What follows a stage. A reboot lies between two stages and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The next stage.
    Continue,
    /// A reboot.
    Reboot,
}

/// The unit that is marked as done and done again as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Unique within its stage.
    pub id: String,
    /// For people.
    pub title: String,
    /// Why it is there or done so, where a reader would ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The actions.
    pub actions: Vec<Action>,
}

impl Step {
    /// A step without a word on why.
    pub(crate) fn new(id: impl Into<String>, title: impl Into<String>, actions: Vec<Action>) -> Self {
        Step { id: id.into(), title: title.into(), why: None, hint: None, actions }
    }

    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Plan {
    /// SHA-256 of the plan's JSON, lower-case hex. Two plans with the same digest do the same.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("a plan is plain data");
        hex(&Sha256::digest(json))
    }

    /// The version of a component, if the plan installs it.
    pub fn version(&self, component: &str) -> Option<&str> {
        self.components.iter().find(|c| c.name == component).map(|c| c.version.as_str())
    }
}
