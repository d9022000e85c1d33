//! Owns the bars: what bus bandwidth a run of all_reduce_perf must reach on an instance type.

use serde::{Deserialize, Serialize};

use crate::version;

/// A bar for one shape of run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// Instance types it holds for.
    pub types: Vec<String>,
    /// Hosts of the run.
    pub hosts: u64,
    /// Whether it holds for more hosts as well.
    #[serde(default)]
    pub more_hosts: bool,
    /// Ranks, one a GPU, of each host.
    pub gpus_per_host: u64,
    /// The row that is judged, bytes.
    pub size: u64,
    /// Oldest NCCL that it holds for.
    pub nccl_min: Option<String>,
    /// Oldest aws-ofi-nccl that it holds for.
    pub plugin_min: Option<String>,
    /// GB/s below which the run fails.
    pub fail_below: f64,
    /// GB/s below which it is slower than good runs were.
    pub warn_below: Option<f64>,
    /// What holds instead of `warn_below` where the log does not show that a ring was forced.
    pub free_choice: Option<FreeChoice>,
    /// Whether runs on this type were measured, or the bar was computed.
    pub measured: bool,
    /// Who measured what, or how it was computed.
    pub source: String,
}

/// What NCCL reaches with an algorithm of its own choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreeChoice {
    /// GB/s below which the run is slower than good runs were. It never fails one.
    pub warn_below: f64,
    /// Who measured what.
    pub source: String,
}

/// A run as far as a bar depends on it.
#[derive(Debug, Clone, Copy)]
pub struct BarQuery<'a> {
    /// `p4d.24xlarge`.
    pub instance_type: &'a str,
    /// Hosts that took part.
    pub hosts: u64,
    /// Ranks of each.
    pub gpus_per_host: u64,
    /// NCCL's version, where it is known.
    pub nccl: Option<&'a str>,
    /// The plugin's version, where it is known.
    pub plugin: Option<&'a str>,
}

impl Bar {
    /// Whether the bar holds for this run. A version that is not known reaches no minimum.
    pub fn fits(&self, run: &BarQuery) -> bool {
        let reaches = |min: &Option<String>, version: Option<&str>| {
            min.as_ref().is_none_or(|min| version.is_some_and(|version| version::at_least(version, min)))
        };
        self.types.iter().any(|name| name == run.instance_type)
            && (self.hosts == run.hosts || self.more_hosts && self.hosts < run.hosts)
            && self.gpus_per_host == run.gpus_per_host
            && reaches(&self.nccl_min, run.nccl)
            && reaches(&self.plugin_min, run.plugin)
    }
}
