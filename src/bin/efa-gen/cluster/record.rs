//! Owns what is kept of a cluster on the machine that launched it, beside the login key and the known host keys. The tags in
//! the account say which nodes there are. Knows nothing of AWS's calls.

use efa_gen::cluster::nic::Nic;
use efa_gen::error::{Class, Error, Result};
use serde::{Deserialize, Serialize};

use super::preflight::Ready;
use crate::build::run::{CLUSTER, Folder};
use crate::cli::cluster::LaunchArgs;

/// How the nodes are reached from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Each by its public address.
    Public,
    /// The leader by its elastic address, the others through it: a node with several interfaces gets no public address.
    ThroughLeader,
    /// Each by its private address.
    Private,
    /// Each through Session Manager.
    SessionManager,
}

/// What a cluster needs to be reached and to grow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub run: String,
    pub name: String,
    pub account: String,
    pub region: String,
    /// The flags as they were given.
    pub args: LaunchArgs,
    /// Id of the nodes' image.
    pub image: String,
    pub kind: String,
    /// Login user.
    pub user: String,
    /// Whether sudo asks for a terminal.
    pub tty: bool,
    pub way: Way,
    pub ssh_cidrs: Vec<String>,
    pub nics: Vec<Nic>,
    /// GPUs of a node.
    pub gpus: u32,
    /// Seconds since 1970 at which the nodes end themselves.
    pub deadline: i64,
    /// Where they are, once they are launched.
    pub subnet: Option<String>,
    pub group: Option<String>,
    pub placement_group: Option<String>,
}

impl Record {
    /// The security group whose port 22 is the cluster's own to open, if there is one.
    pub fn own_group(&self) -> Option<&str> {
        let ours = self.way != Way::SessionManager && self.args.security_group.is_none();
        self.group.as_deref().filter(|_| ours)
    }

    /// Of a cluster that is to be launched. `deadline` is when its nodes end themselves, seconds since 1970.
    pub fn new(args: &LaunchArgs, ready: &Ready, run: &str, deadline: i64) -> Self {
        Record {
            run: run.to_owned(),
            name: ready.name.clone(),
            account: ready.identity.account.clone(),
            region: ready.region.clone(),
            args: args.clone(),
            image: ready.image.id.clone(),
            kind: ready.machine.kind.clone(),
            user: ready.user.clone(),
            tty: ready.tty,
            way: ready.way,
            ssh_cidrs: ready.ssh_cidrs.clone(),
            nics: ready.nics.clone(),
            gpus: ready.gpus,
            deadline,
            subnet: None,
            group: None,
            placement_group: None,
        }
    }

    /// The record of a cluster that this machine launched.
    ///
    /// Errors: it did not, or another version of efa-gen did.
    pub fn open(folder: &Folder, name: &str) -> Result<Self> {
        folder.read(CLUSTER)?.ok_or_else(|| {
            Error::new(Class::Usage, format!("nothing is known here of cluster {name}"))
                .hint("its login key is where it was launched; `efa-gen cluster rm` works everywhere")
        })
    }

    /// EFA devices of a node.
    pub fn efa(&self) -> u64 {
        self.nics.iter().filter(|nic| nic.kind != efa_gen::cluster::nic::Kind::Interface).count() as u64
    }
}
