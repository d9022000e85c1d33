//! Owns efa-gen's own picture of what is in an account.

use std::collections::BTreeMap;

use efa_gen::catalog::nic_layout::Nic;
use serde::{Deserialize, Serialize};

/// Tags as name and value.
pub type Tags = BTreeMap<String, String>;

/// Who the credentials belong to.
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// Twelve digits.
    pub account: String,
    /// Name of the user or role.
    pub arn: String,
}

/// What EC2 itself says of where a resource comes from. Tags can be given by anybody who may tag; this can't.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Token of the call that launched an instance.
    pub token: String,
    /// Name of an instance's key pair.
    pub key: String,
    /// Names of an instance's security groups.
    pub groups: Vec<String>,
    /// Id of the instance that a volume is attached to, an address is associated with, or an image was made of.
    pub instance: Option<String>,
    /// Region and id of the image that a copy was made of; of an image of an instance, the instance's own.
    pub image: Option<(String, String)>,
    /// What EC2 wrote on a snapshot.
    pub description: String,
}

/// An AMI.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Image {
    pub id: String,
    pub name: String,
    pub owner: String,
    /// `pending`, `available`, `failed`, ...
    pub state: String,
    /// Why it failed.
    pub reason: String,
    /// ISO 8601.
    pub created: String,
    pub architecture: String,
    pub boot_mode: String,
    /// `/dev/xvda`.
    pub root_device: String,
    /// Smallest root volume that its instances can have.
    pub root_gib: i32,
    pub snapshots: Vec<String>,
    /// Whether any of them is.
    pub encrypted: bool,
    pub ena: bool,
    /// Whether its instances answer IMDSv2 alone.
    pub imds_v2: bool,
    /// ISO 8601, or empty.
    pub deprecated_at: String,
    /// `enabled`, `disabled`, ...
    pub protection: String,
    #[serde(skip)]
    pub origin: Origin,
    pub tags: Tags,
}

/// An instance.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Instance {
    pub id: String,
    /// `pending`, `running`, `stopping`, `stopped`, `shutting-down`, `terminated`.
    pub state: String,
    /// Why it is in this state, where EC2 says so.
    pub reason: String,
    pub image: String,
    #[serde(rename = "kind")]
    pub instance_type: String,
    pub zone: String,
    pub public_address: Option<String>,
    pub private_address: Option<String>,
    /// Of all its interfaces, IPv4.
    #[serde(skip)]
    pub private_addresses: Vec<String>,
    /// Its number in the call that launched it.
    pub index: i32,
    /// Id of its primary network interface.
    pub interface: Option<String>,
    /// ISO 8601.
    pub launched: String,
    #[serde(skip)]
    pub origin: Origin,
    pub tags: Tags,
}

impl Instance {
    /// Whether it is a machine still, if only a stopped one.
    pub fn exists(&self) -> bool {
        !["terminated", "shutting-down"].contains(&self.state.as_str())
    }
}

/// What DescribeInstanceTypes says of a type.
#[derive(Debug, Clone, Serialize)]
pub struct TypeInfo {
    pub vcpus: i32,
    pub architectures: Vec<String>,
    /// EC2's words for the ways in which it boots: `legacy-bios`, `uefi`.
    pub boot_modes: Vec<String>,
    /// EFA devices at most.
    pub efa: u32,
    /// Network cards.
    pub cards: u32,
    /// Whether a placement group `cluster` can have it.
    pub clusters: bool,
    pub gpus: i32,
    /// Whether the console can be read while it runs.
    pub nitro: bool,
    pub spot: bool,
}

/// A subnet.
#[derive(Debug, Clone, Serialize)]
pub struct Subnet {
    pub id: String,
    pub vpc: String,
    pub zone: String,
    /// The default one of its zone.
    pub default: bool,
    pub public_addresses: bool,
    pub free_addresses: i32,
}

/// What is decided of a launch before anything is made.
#[derive(Debug, Clone)]
pub struct LaunchSpec {
    pub image: String,
    pub instance_type: String,
    pub subnet: String,
    pub root_device: String,
    pub root_gib: i32,
    pub kms_key: Option<String>,
    /// `None` leaves it as the image has it.
    pub encrypted: Option<bool>,
    pub imds_v2: bool,
    /// `None` leaves it to the subnet.
    pub public_address: Option<bool>,
    /// The primary one first.
    pub nics: Vec<Nic>,
    pub spot: bool,
    pub reservation: Option<Reservation>,
    /// Name of an IAM instance profile.
    pub profile: Option<String>,
}

/// What of a launch is known only when its run is under way.
#[derive(Debug, Clone)]
pub struct LaunchRun {
    /// So many at least, and at most.
    pub count: (u32, u32),
    /// Name of the key pair.
    pub key: Option<String>,
    /// Id of the security group.
    pub group: Option<String>,
    pub placement_group: Option<String>,
    /// As the machine gets it; may be compressed.
    pub user_data: Vec<u8>,
    /// The same token never makes further instances.
    pub token: String,
    pub tags: Tags,
}

impl LaunchRun {
    /// For a dry run, before there is anything of the run.
    pub fn dry(count: (u32, u32), tags: Tags) -> Self {
        LaunchRun {
            count,
            key: None,
            group: None,
            placement_group: None,
            user_data: Vec::new(),
            token: String::new(),
            tags,
        }
    }
}

/// A capacity reservation or capacity block.
#[derive(Debug, Clone, Serialize)]
pub struct Reservation {
    pub id: String,
    #[serde(rename = "kind")]
    pub instance_type: String,
    pub zone: String,
    /// `active`, ...
    pub state: String,
    /// Instances that are free.
    pub free: i32,
    /// Whether it is a capacity block, which allows no placement group.
    pub block: bool,
}

/// What a security group lets its own members do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Members {
    /// All traffic from the group itself comes in.
    pub inward: bool,
    /// All traffic to the group itself goes out, by a rule that names the group.
    pub outward: bool,
}

/// A rule of a security group by which somebody reaches port 22.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshRule {
    /// A CIDR, or the id of a prefix list or of another security group.
    pub source: String,
    /// May be empty.
    pub description: String,
    /// Whether it is for port 22 of a CIDR and for nothing else.
    pub ssh_alone: bool,
}

/// The kinds of things that a run makes, in the order in which they are undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceKind {
    Instance,
    Image,
    Snapshot,
    Volume,
    Address,
    KeyPair,
    SecurityGroup,
    PlacementGroup,
}

impl ResourceKind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            ResourceKind::Instance => "instance",
            ResourceKind::Image => "image",
            ResourceKind::Snapshot => "snapshot",
            ResourceKind::Volume => "volume",
            ResourceKind::Address => "address",
            ResourceKind::KeyPair => "key pair",
            ResourceKind::SecurityGroup => "security group",
            ResourceKind::PlacementGroup => "placement group",
        }
    }
}

/// Something in an account that a run made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    pub region: String,
    pub kind: ResourceKind,
    pub id: String,
    pub name: String,
    pub state: String,
    /// ISO 8601, or empty where EC2 does not tell.
    pub created: String,
    #[serde(skip)]
    pub origin: Origin,
    pub tags: Tags,
}
