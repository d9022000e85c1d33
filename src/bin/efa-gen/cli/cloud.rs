//! Owns the flags of the commands that speak with AWS.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{ListArgs, OutputArg, RecipeArgs};
use crate::aws::action::Use;
use crate::io::ssh::KeyType;

/// Which account and region.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct AccountArgs {
    /// Region [default: the profile's, or AWS_REGION]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Profile of ~/.aws/config [default: AWS_PROFILE]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
}

/// Flags that a run keeps as it began with them. Named one by one, so that the refusal names the one that was given.
#[rustfmt::skip]
const KEPT: [&str; 44] = [
    "distro", "plan", "force", "reuse", "driver", "stack", "stack_file", "mirror", "yum_repository", "instance_type", "efa", "allow", "no_gpu", "with", "sha256",
    "efa_digest", "check_signatures", "extra_script", "test", "region", "profile", "builder_type", "spot", "source_ami", "subnet", "root_gib", "kms_key",
    "no_encrypt", "deadline", "tag", "host_key", "private", "session_manager", "instance_profile", "key_type", "name", "gate",
    "copy_to", "copy_kms_key", "share", "deprecate_at", "protect", "ssm_parameter", "manifest",
];

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct BuildArgs {
    /// Distribution (repeatable: built side by side), or `all`
    #[arg(long, value_name = "ID", required_unless_present = "resume")]
    pub distro: Vec<String>,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub account: AccountArgs,
    #[command(flatten)]
    pub builder: BuilderArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    #[command(flatten)]
    pub publish: PublishArgs,
    /// Stop after the preflight: what would be called, how long it takes and what it costs
    #[arg(long)]
    pub plan: bool,
    /// Build even if an image of the same plan and base AMI is there
    #[arg(long)]
    pub force: bool,
    /// Take the image of the same plan and base AMI that is there, although nothing on this machine, no --manifest and no
    /// --ssm-parameter says that efa-gen has made it
    #[arg(long, conflicts_with = "force")]
    #[serde(default)]
    pub reuse: bool,
    /// Go on with a run that ended early, at whatever point; its own flags are used again, but --on-error and --ssh-cidr can be
    /// given anew
    #[arg(long, value_name = "RUN", conflicts_with_all = KEPT)]
    pub resume: Option<String>,
    /// What to do with the builder when the build fails [default: cleanup]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_error: Option<OnError>,
    /// Who drives the build: efa-gen itself, or your Packer with the rendered template
    #[arg(long, value_enum, value_name = "WHO", default_value_t = BuildDriver::Native)]
    pub driver: BuildDriver,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
}

/// The machine that the image is made of.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct BuilderArgs {
    /// Instance type of the builder; it needs no GPU and no EFA, cores make the build of NCCL faster
    #[arg(long, value_name = "TYPE", default_value = "c5.4xlarge")]
    pub builder_type: String,
    /// Spot instead of on demand
    #[arg(long)]
    pub spot: bool,
    /// AMI to start from [default: the newest that the distribution's publisher has]
    #[arg(long, value_name = "AMI")]
    pub source_ami: Option<String>,
    /// Subnet of the builder [default: a default subnet of any zone that has the type]
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Option<String>,
    /// Size of the root volume [default: what the plan needs]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub root_gib: Option<u16>,
    /// KMS key of the root volume and the image's snapshots [default: the account's own EBS key]
    #[arg(long, value_name = "KEY")]
    pub kms_key: Option<String>,
    /// Leave the snapshots unencrypted, so that the image can be shared without a key of your own
    #[arg(long, conflicts_with = "kms_key")]
    pub no_encrypt: bool,
    /// Minutes after which the builder ends itself, whatever became of efa-gen
    #[arg(long, value_name = "MINUTES", default_value_t = 240, value_parser = clap::value_parser!(u32).range(10..=2880))]
    pub deadline: u32,
    /// Tag of yours on everything that is made (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub tag: Vec<String>,
    /// Where the builder's host key comes from
    #[arg(long, value_enum, value_name = "HOW", default_value_t = HostKey::Console)]
    pub host_key: HostKey,
}

impl ValueEnum for KeyType {
    fn value_variants<'a>() -> &'a [Self] {
        &[KeyType::Ed25519, KeyType::Ecdsa, KeyType::Rsa]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// How efa-gen reaches its machines.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct ReachArgs {
    /// Addresses that may connect (repeatable) [default: yours, as checkip.amazonaws.com sees it]
    #[arg(long, value_name = "CIDR")]
    pub ssh_cidr: Vec<String>,
    /// Connect to private addresses; no machine gets a public one
    #[arg(long)]
    pub private: bool,
    /// Connect through Session Manager: no port is opened. Needs the AWS CLI, its plugin and --instance-profile
    #[arg(long, conflicts_with_all = ["ssh_cidr", "private"], requires = "instance_profile")]
    pub session_manager: bool,
    /// Instance profile of the machines
    #[arg(long, value_name = "NAME")]
    pub instance_profile: Option<String>,
    /// Type of the login key. EC2 has no ECDSA key pairs: that one goes through the user-data [default: ed25519; ecdsa where
    /// this machine is in FIPS mode]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub key_type: Option<KeyType>,
}

/// What becomes of the image.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct PublishArgs {
    /// Name of the image, 3 to 128 characters [default: made of distribution, stack, plan and base AMI]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Before anything is published: launch two instances of this type from the image and run all_reduce_perf on both
    #[arg(long, value_name = "TYPE")]
    pub gate: Option<String>,
    /// Copy the image to this region (repeatable)
    #[arg(long, value_name = "REGION")]
    pub copy_to: Vec<String>,
    /// KMS key of the copy in a region (repeatable)
    #[arg(long, value_name = "REGION=KEY")]
    pub copy_kms_key: Vec<String>,
    /// Who may launch the image: an account's twelve digits, or the ARN of an organisation or organisational unit (repeatable)
    #[arg(long, value_name = "WHO")]
    pub share: Vec<String>,
    /// Time from which on the image is deprecated, e.g. 2027-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub deprecate_at: Option<String>,
    /// Protect the image from being deregistered
    #[arg(long)]
    pub protect: bool,
    /// SSM parameter that gets the image's id, in every region
    #[arg(long, value_name = "NAME")]
    pub ssm_parameter: Option<String>,
    /// Write what was built to this file, in the form of Packer's manifest and more
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum HostKey {
    /// The builder makes it and tells it on its serial console, which is read over the API
    Console,
    /// efa-gen makes it and gives it in the user-data: faster, but whoever may read the instance's user-data can play the builder
    Inject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum OnError {
    /// Remove everything
    Cleanup,
    /// Leave everything and say how to connect
    Keep,
    /// Ask on the terminal
    Ask,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum BuildDriver {
    /// efa-gen, over the EC2 API and SSH
    Native,
    /// `packer` on the PATH, with the rendered template
    Packer,
}

#[derive(Debug, Args)]
pub struct SweepArgs {
    /// Region to look in (repeatable) [default: where --run was, with its copies, if it began here; else the profile's, or
    /// AWS_REGION]
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// Profile of ~/.aws/config [default: AWS_PROFILE]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Only what this run made
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Only what is older: a number and s, m, h or d
    #[arg(long, value_name = "AGE", default_value = "3h")]
    pub older_than: String,
    /// Remove it; without this it is only shown
    #[arg(long)]
    pub yes: bool,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
}

#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Region to look in (repeatable) [default: the profile's, or AWS_REGION]
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// Profile of ~/.aws/config [default: AWS_PROFILE]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    #[command(flatten)]
    pub output: ListArgs,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Deregister an image that efa-gen built, and delete its snapshots
    Rm(ImageRmArgs),
}

#[derive(Debug, Args)]
pub struct ImageRmArgs {
    /// The image
    #[arg(value_name = "AMI")]
    pub image: String,
    #[command(flatten)]
    pub account: AccountArgs,
    /// Remove its deregistration protection first
    #[arg(long)]
    pub unprotect: bool,
    /// Remove it; without this it is only shown what would go
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct PermissionsArgs {
    /// What is to be allowed; may be repeated, or separated by commas
    #[arg(long = "for", value_name = "USE", value_enum, required = true, value_delimiter = ',')]
    pub uses: Vec<UseArg>,
    /// Allow making only what gets the tag efa-gen:run, and changing only what has it
    #[arg(long)]
    pub tagged: bool,
    /// Form of the policy
    #[arg(long, value_enum, default_value_t = PolicyFormat::Json)]
    pub format: PolicyFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UseArg {
    /// `efa-gen build`
    Build,
    /// Copies, shares, deprecation, protection and the parameter of an image, besides `build`
    Publish,
    /// `efa-gen build --gate`, besides `build`
    Gate,
    /// `efa-gen launch` and `efa-gen cluster`
    Launch,
    /// `efa-gen sweep`, `images` and `image rm`
    Sweep,
    /// Packer itself with a rendered template; `efa-gen build --driver packer` needs `build` besides
    Packer,
    /// `--session-manager`, besides any other
    SessionManager,
}

impl From<UseArg> for Use {
    fn from(of: UseArg) -> Self {
        match of {
            UseArg::Build => Use::Build,
            UseArg::Publish => Use::Publish,
            UseArg::Gate => Use::Gate,
            UseArg::Launch => Use::Launch,
            UseArg::Sweep => Use::Sweep,
            UseArg::Packer => Use::Packer,
            UseArg::SessionManager => Use::SessionManager,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyFormat {
    /// The policy document
    Json,
    /// Terraform's data source `aws_iam_policy_document`
    Hcl,
}
