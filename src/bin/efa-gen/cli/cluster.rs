//! Owns the flags of `efa-gen launch` and `efa-gen cluster`.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::cloud::{AccountArgs, ReachArgs};
use super::{ListArgs, OutputArg, RecipeArgs};

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct LaunchArgs {
    /// Name of the cluster: small letters, digits and `-` [default: made of the time]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Image of the nodes
    #[arg(long, value_name = "AMI", required_unless_present = "distro")]
    pub ami: Option<String>,
    /// Distribution: without --ami, the newest image of it that efa-gen has published in the region
    #[arg(long, value_name = "ID")]
    pub distro: Option<String>,
    /// Take the publisher's AMI (or --ami) and install everything at the first boot, instead of an image that has it all
    #[arg(long, requires = "distro")]
    pub install: bool,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Number of nodes: all of them, or none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub nodes: u32,
    /// Be content with so many, if the zone has no more or some do not come up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub at_least: Option<u32>,
    /// Instance type of the nodes
    #[arg(id = "type", long = "type", value_name = "TYPE", default_value = "p3dn.24xlarge")]
    #[serde(rename = "kind")]
    pub instance_type: String,
    #[command(flatten)]
    pub account: AccountArgs,
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Subnet of the nodes [default: a default subnet of any zone that has the type]
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Option<String>,
    /// Security group of your own instead of a new one: its members must reach each other both ways
    #[arg(long, value_name = "GROUP")]
    pub security_group: Option<String>,
    /// No placement group: the nodes may be far from each other
    #[arg(long)]
    pub no_placement_group: bool,
    /// Launch into this capacity reservation or capacity block
    #[arg(long, value_name = "RESERVATION")]
    pub capacity_reservation: Option<String>,
    /// Size of the root volumes [default: the image's]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub root_gib: Option<u16>,
    /// After this time every node ends itself: a number and m, h or d
    #[arg(long, value_name = "AGE", default_value = "24h")]
    pub ttl: String,
    /// Tag of yours on everything that is made (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub tag: Vec<String>,
    /// Stop after the preflight: what would be called, and what it costs
    #[arg(long)]
    pub plan: bool,
    /// Leave everything when the launch fails, to look at it
    #[arg(long)]
    pub keep: bool,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
}

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Clusters of the account, with their nodes
    Ls(ClusterLsArgs),
    /// Log in to a node, or run a command on it
    Ssh(ClusterSshArgs),
    /// Run a command on every node at once
    Run(ClusterRunArgs),
    /// Look at every node: limits, EFA devices, GPUs, versions, clocks, logins between them
    Check(ClusterCheckArgs),
    /// Run the NCCL test on it and judge it; `efa-gen validate --cluster NAME` has all the flags
    Validate(ClusterRef),
    /// Open port 22 to one more address, such as yours when it has changed; with --only, to the given ones alone
    Admit(ClusterAdmitArgs),
    /// Give every node a new key for the logins between them, and take the old one from all
    Rekey(ClusterRef),
    /// Add nodes
    Grow(ClusterGrowArgs),
    /// End every node and remove everything of the cluster
    Rm(ClusterRmArgs),
}

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub struct ClusterRef {
    /// Name of the cluster
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub account: AccountArgs,
}

#[derive(Debug, Args)]
pub struct ClusterLsArgs {
    /// Region to look in (repeatable) [default: the profile's, or AWS_REGION]
    #[arg(long, value_name = "REGION")]
    pub region: Vec<String>,
    /// Profile of ~/.aws/config [default: AWS_PROFILE]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    #[command(flatten)]
    pub output: ListArgs,
}

#[derive(Debug, Args)]
pub struct ClusterSshArgs {
    #[command(flatten)]
    pub cluster: ClusterRef,
    /// Which node: its number (0 is the leader), instance id or private address
    #[arg(long, value_name = "NODE", default_value = "0")]
    pub node: String,
    /// Command, after `--`; without one, a login
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ClusterRunArgs {
    #[command(flatten)]
    pub cluster: ClusterRef,
    /// Command, after `--`
    #[arg(last = true, value_name = "COMMAND", required = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ClusterCheckArgs {
    #[command(flatten)]
    pub cluster: ClusterRef,
    #[command(flatten)]
    pub output: ListArgs,
}

#[derive(Debug, Args)]
pub struct ClusterAdmitArgs {
    #[command(flatten)]
    pub cluster: ClusterRef,
    /// Addresses that may connect (repeatable) [default: yours, as checkip.amazonaws.com sees it; none for private nodes]
    #[arg(long, value_name = "CIDR")]
    pub ssh_cidr: Vec<String>,
    /// Close it to every other address that efa-gen has opened it to, and list the rules that are not efa-gen's
    #[arg(long)]
    pub only: bool,
}

#[derive(Debug, Args)]
pub struct ClusterGrowArgs {
    #[command(flatten)]
    pub cluster: ClusterRef,
    /// How many more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub nodes: u32,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
}

#[derive(Debug, Args)]
pub struct ClusterRmArgs {
    #[command(flatten)]
    pub cluster: ClusterRef,
    /// Remove it; without this it is only shown what would go
    #[arg(long)]
    pub yes: bool,
}
