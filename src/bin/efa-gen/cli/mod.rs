//! Owns the command line: every flag, its help and its value parser.

pub mod cloud;
pub mod cluster;
pub mod time;
pub mod validate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use efa_gen::error::Class;
use efa_gen::text::printable;
use serde::{Deserialize, Serialize};

use crate::io::events::Form;
use crate::io::terminal;

/// Verified install scripts, cloud-init user-data and Packer templates for EFA + NCCL machine images
#[derive(Debug, Parser)]
#[command(name = "efa-gen", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The command line; or the exit code, where clap has said what is to be said.
///
/// clap repeats arguments as they are. So its words, and its colours, are those on arguments that can be shown.
pub fn parse() -> std::result::Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let arguments = std::env::args_os().map(|argument| printable(argument.as_encoded_bytes()));
        match Cli::try_parse_from(arguments) {
            Err(again) if again.kind() == error.kind() => drop(again.print()),
            _ => terminal::message(&error.render().to_string()),
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Class::Usage as u8))
    })
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print or write the install script, cloud-init user-data and Packer template
    Render(RenderArgs),
    /// Show the plan that every format is rendered from: stages, steps, actions, reboots
    Plan(PlanArgs),
    /// Build an AMI: launch a builder, install, test, make the image, publish it, leave nothing else
    Build(Box<cloud::BuildArgs>),
    /// Launch a cluster with EFA and passwordless SSH, and check every node
    Launch(Box<cluster::LaunchArgs>),
    /// Look at clusters, log in, run commands, add nodes, remove them
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Show, or remove, what runs that ended early have left in an account
    Sweep(cloud::SweepArgs),
    /// List the images that efa-gen built
    Images(cloud::ImagesArgs),
    /// Do something with one image
    #[command(subcommand)]
    Image(cloud::ImageCommand),
    /// Print the IAM policy that a use of efa-gen needs
    Permissions(cloud::PermissionsArgs),
    /// Check the OpenPGP signature and digest of an EFA installer tarball
    Verify(VerifyArgs),
    /// Download an EFA installer tarball and check it before it gets its name
    Fetch(FetchArgs),
    /// Run or read an NCCL test and judge it: a pass needs proof of EFA on every rank
    ///
    /// Without --log, --hostfile and --cluster it is run on this host alone, with all its GPUs. One host never uses the network: it
    /// proves that the plugin loads and selects EFA.
    Validate(Box<validate::ValidateArgs>),
    /// List the distributions
    Distros(ListArgs),
    /// List the instance types with EFA
    InstanceTypes(ListArgs),
    /// List the software stacks and their pinned artifacts
    Stacks(ListArgs),
    /// Print the completion script of a shell
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff), or write one page a command
    Man {
        /// Write every page into this folder instead
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// What to install, and for which machine.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct RecipeArgs {
    /// Software stack: `guide`, `newest`, or a name that `efa-gen stacks` lists [default: guide, or
    /// newest where the guide's software is too old for the distribution]
    #[arg(long, value_name = "STACK")]
    pub stack: Option<String>,
    /// File with stacks and artifacts of your own, in the form of src/catalog/data/pins.toml
    #[arg(long, value_name = "FILE")]
    pub stack_file: Option<PathBuf>,
    /// Take every artifact from this mirror: URL/HOST/PATH instead of https://HOST/PATH, digests unchanged
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Take the distribution's packages from this yum repository alone: the folder that holds repodata/, with every package of
    /// the distribution, signed by its key. For RHEL 7, whose own repositories may not answer any more
    #[arg(long, value_name = "URL")]
    pub yum_repository: Option<String>,
    /// Instance type to build for; without it, every GPU architecture that the stack can build
    #[arg(long, value_name = "TYPE")]
    pub instance_type: Option<String>,
    /// Another EFA installer version than the stack's
    #[arg(long, value_name = "VERSION")]
    pub efa: Option<String>,
    /// Take a compatibility rule that does not hold upon yourself (repeatable); plan, notes and tags of the image say so
    #[arg(long, value_name = "RULE")]
    #[serde(default)]
    pub allow: Vec<String>,
    /// CPU-only image: EFA, no driver, no CUDA, no NCCL
    #[arg(long)]
    pub no_gpu: bool,
    /// Install an optional part as well (repeatable)
    #[arg(long, value_name = "PART", value_enum)]
    #[serde(default)]
    pub with: Vec<PartArg>,
    /// SHA-256 of an artifact, by the name that `efa-gen stacks` shows; may be repeated
    #[arg(long, value_name = "NAME=HEX")]
    pub sha256: Vec<String>,
    /// What `efa-gen fetch` or `efa-gen verify` printed for the EFA installer, where nobody publishes its digest
    #[arg(long, value_name = "sha256:HEX,DATE,FINGERPRINT")]
    pub efa_digest: Option<String>,
    /// Let the EFA installer, from 1.48.0 on, check each of its packages by the signer's key: file with its certificate
    #[arg(long, value_name = "KEYFILE")]
    pub check_signatures: Option<PathBuf>,
    /// Your own step (guide step 9): an executable text file with a `#!` line, run as root. Whoever may launch the image, or
    /// read its user-data, can read it: no passwords, no tokens
    #[arg(long, value_name = "FILE")]
    pub extra_script: Option<PathBuf>,
    /// End with guide step 8: run all_reduce_perf on the machine and judge its log
    #[arg(long)]
    pub test: bool,
}

/// A part that an image does without unless it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartArg {
    /// GDRCopy: low-latency copies to and from GPU memory, with its kernel module
    Gdrcopy,
}

#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Distribution (repeatable), or `all`
    #[arg(long, value_name = "ID", required = true)]
    pub distro: Vec<String>,
    /// What to render [default: script, or all with --out]
    #[arg(long, value_enum)]
    pub format: Option<FormatArg>,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Grammar of the Packer template: 1.6 is the subset that every Packer since 1.6.6 takes, for distributions whose OpenSSH is
    /// older than 8.8, which refuses such a Packer's login
    #[arg(long, value_name = "VERSION", value_enum, default_value_t = PackerArg::Newest)]
    pub packer: PackerArg,
    /// Write files into this folder (one folder a distribution when there are several)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write nothing: show how the files in --out differ from what would be written, exit 1 if they do
    #[arg(long, requires = "out")]
    pub check: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Self-contained bash script
    Script,
    /// cloud-init user-data that carries the script
    CloudInit,
    /// Packer HCL2 template, used beside the script
    Packer,
    /// Every format, as files in --out
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PackerArg {
    /// Common subset of 1.6.6 and everything since
    #[value(name = "1.6")]
    Common,
    /// Packer 1.7 and newer
    #[value(name = "1.7")]
    Newest,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Distribution
    #[arg(long, value_name = "ID")]
    pub distro: String,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub output: ListArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum OutputArg {
    /// For people
    Human,
    /// For programs
    Json,
}

impl From<OutputArg> for Form {
    fn from(output: OutputArg) -> Self {
        match output {
            OutputArg::Human => Form::Lines,
            OutputArg::Json => Form::Json,
        }
    }
}

/// Whose signature, which digest, judged when.
#[derive(Debug, Clone, Args)]
pub struct TrustArgs {
    /// File with the signer's certificate
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Fingerprint of the signer's primary key [default: the EFA publisher's]
    #[arg(long, value_name = "HEX")]
    pub fingerprint: Option<String>,
    /// SHA-256 that the tarball must have as well [default: the published one, where there is one]
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The tarball
    pub tarball: PathBuf,
    /// Detached signature [default: TARBALL.sig]
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Judge as of this time instead of now, e.g. 2020-10-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
}

#[derive(Debug, Args)]
pub struct FetchArgs {
    /// EFA installer version [default: the guide stack's]
    #[arg(long, value_name = "VERSION")]
    pub efa: Option<String>,
    /// Folder for the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Where the tarball, its `.sig` and the key lie [default: AWS's own host]
    #[arg(long, value_name = "URL", conflicts_with_all = ["mirror", "stack_file"])]
    pub base_url: Option<String>,
    /// Take everything from this mirror: URL/HOST/PATH instead of https://HOST/PATH
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// File with an `[[efa]]` tarball of your own: its digest and its signer are what is checked
    #[arg(long, value_name = "FILE")]
    pub stack_file: Option<PathBuf>,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
}
