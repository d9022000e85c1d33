//! Owns what is kept of a cluster on the machine that launched it, beside the login key and the known host keys. The
//! tags in the account say which nodes there are.

use efa_gen::catalog::nic_layout::Nic;
use efa_gen::error::{Class, Error, Result};
use serde::{Deserialize, Serialize};

use super::access::AccessPath;
use crate::cli::cluster::LaunchArgs;
use crate::run::state::{CLUSTER, RunState};

/// Connections at a time, as many as clustershell makes.
const AT_ONCE: usize = 64;

/// What a cluster needs to be reached and to grow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterRecord {
    pub run: String,
    pub name: String,
    pub account: String,
    pub region: String,
    /// The flags as they were given.
    pub args: LaunchArgs,
    /// Id of the nodes' image.
    pub image: String,
    #[serde(rename = "kind")]
    pub instance_type: String,
    /// Login user.
    pub user: String,
    /// Whether sudo asks for a terminal.
    pub tty: bool,
    #[serde(rename = "way")]
    pub access_path: AccessPath,
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

impl ClusterRecord {
    /// The security group whose port 22 is the cluster's own to open, if there is one.
    pub fn own_group(&self) -> Option<&str> {
        let ours = self.access_path != AccessPath::SessionManager && self.args.security_group.is_none();
        self.group.as_deref().filter(|_| ours)
    }

    /// The record of a cluster that this machine launched.
    ///
    /// Errors: it did not, or another version of efa-gen did.
    pub fn open(state: &RunState, name: &str) -> Result<Self> {
        state.read(CLUSTER)?.ok_or_else(|| {
            Error::new(Class::Usage, format!("nothing is known here of cluster {name}"))
                .hint("its login key is where it was launched; `efa-gen cluster rm` works everywhere")
        })
    }

    /// EFA devices of a node.
    pub fn efa(&self) -> u64 {
        self.nics.iter().filter(|nic| nic.kind != efa_gen::catalog::nic_layout::NicKind::Interface).count() as u64
    }

    /// Logins at a time: one sshd carries all that go through the leader, and OpenSSH's default drops logins beyond ten.
    pub fn at_once(&self) -> usize {
        if self.access_path == AccessPath::ThroughLeader { 8 } else { AT_ONCE }
    }
}
