//! Owns the flags of `efa-gen validate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::cloud::AccountArgs;
use super::{OutputArg, time};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").multiple(false))]
pub struct ValidateArgs {
    /// Log of nccl-tests with NCCL_DEBUG=INFO, or `-` for standard input; further ones are only drawn beside the first
    #[arg(long, value_name = "FILE", group = "where")]
    pub log: Vec<PathBuf>,
    #[command(flatten)]
    pub test: TestArgs,
    /// The hosts' type: its bandwidth bar, GPUDirect and NICs are judged [default: the cluster's]
    #[arg(long, value_name = "TYPE")]
    pub instance_type: Option<String>,
    /// Hosts that must have taken part, at least; with 1, a run on one host is judged on what it can prove [default: 2, or
    /// the hosts of the test]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub hosts: Option<u64>,
    /// Bus bandwidth that the largest size must reach, instead of the type's bar
    #[arg(long, value_name = "GB/s", value_parser = bandwidth)]
    pub min_busbw: Option<f64>,
    /// Exit status of the program that wrote the log; 124 says that it did not end in time
    #[arg(long, value_name = "N", requires = "log", conflicts_with_all = ["hostfile", "cluster", "slurm"])]
    pub exit_status: Option<i32>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = OutputArg::Human)]
    pub output: OutputArg,
    /// Write a page with the verdict, the bandwidth curve and every rank into this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the checks as JUnit XML into this file
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// The test that is run.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Run the test from this host on the hosts of this file, in Open MPI's form: `HOST slots=GPUS`
    #[arg(long, value_name = "FILE", group = "where")]
    pub hostfile: Option<PathBuf>,
    /// Run the test on this cluster, from its leader
    #[arg(long, value_name = "NAME", group = "where")]
    pub cluster: Option<String>,
    /// Print a batch job that makes the test under Slurm, for a cluster that is not of efa-gen
    #[arg(long, group = "where", requires_all = ["nodes", "instance_type"])]
    #[arg(conflicts_with_all = ["mpirun", "keep_log", "hosts", "output", "html", "junit"])]
    pub slurm: bool,
    /// Hosts of the batch job
    #[arg(long, value_name = "N", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub nodes: Option<u32>,
    /// The cluster's region [default: the profile's, or AWS_REGION]
    #[arg(long, value_name = "REGION", requires = "cluster")]
    pub region: Option<String>,
    /// Profile of ~/.aws/config by which the cluster is found [default: AWS_PROFILE]
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub profile: Option<String>,
    /// What is measured (repeatable)
    #[arg(long, value_name = "NAME", conflicts_with = "log", default_value = "all-reduce", value_parser = collectives())]
    pub collective: Vec<String>,
    /// Largest size, bytes or with K, M or G; bars are at 1G
    #[arg(long, value_name = "SIZE", conflicts_with = "log", default_value = "1G", value_parser = size)]
    pub max_size: u64,
    /// Measured rounds of each size
    #[arg(long, value_name = "N", conflicts_with = "log", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: u32,
    /// How long a run may take: a number and s, m or h
    #[arg(long, value_name = "TIME", conflicts_with = "log", default_value = "30m", value_parser = time::parse_test_timeout)]
    pub timeout: Duration,
    /// Stack that the hosts run, where they are not of an image of efa-gen, which says so itself: the environment is that
    /// of its plugin and NCCL
    #[arg(long, value_name = "STACK", conflicts_with = "log")]
    pub stack: Option<String>,
    /// Set a variable of every rank, instead of the test's own of that name (repeatable); it stands in the command and in the log
    #[arg(long, value_name = "NAME=VALUE", conflicts_with_all = ["log", "slurm"])]
    pub env: Vec<String>,
    /// Set one of Open MPI's parameters, instead of the test's own of that name (repeatable)
    #[arg(long, value_names = ["KEY", "VALUE"], num_args = 2, allow_hyphen_values = true, conflicts_with_all = ["log", "slurm"])]
    pub mca: Vec<String>,
    /// Interfaces that Open MPI uses, by name or network, with commas; by name also NCCL's for its own messages [default: on
    /// each host the one that holds the address by which the others reach it]
    #[arg(long, value_name = "CIDR|NAME", conflicts_with_all = ["log", "slurm"])]
    pub interfaces: Option<String>,
    /// mpirun, the same on every host [default: /opt/amazon/openmpi/bin/mpirun]
    #[arg(long, value_name = "PATH", conflicts_with = "log")]
    pub mpirun: Option<String>,
    /// Folder of all_reduce_perf and its like, the same on every host [default: /opt/nccl-tests/build]
    #[arg(long, value_name = "DIR", conflicts_with = "log")]
    pub tests_dir: Option<String>,
    /// Keep the run's log in this file; further runs' lie beside it [default: efa-gen-validate-TIME.log, for a cluster in its
    /// folder]
    #[arg(long, value_name = "FILE", conflicts_with = "log")]
    pub keep_log: Option<PathBuf>,
}

impl ValidateArgs {
    /// As on the command line with no more than a cluster, and where its log is kept.
    pub fn of_cluster(name: &str, account: &AccountArgs, log: Option<PathBuf>) -> Self {
        ValidateArgs {
            log: Vec::new(),
            test: TestArgs {
                hostfile: None,
                cluster: Some(name.to_owned()),
                slurm: false,
                nodes: None,
                region: account.region.clone(),
                profile: account.profile.clone(),
                collective: vec!["all-reduce".to_owned()],
                max_size: 1 << 30,
                iterations: 20,
                timeout: Duration::from_secs(30 * 60),
                stack: None,
                env: Vec::new(),
                mca: Vec::new(),
                interfaces: None,
                mpirun: None,
                tests_dir: None,
                keep_log: log,
            },
            instance_type: None,
            hosts: None,
            min_busbw: None,
            exit_status: None,
            output: OutputArg::Human,
            html: None,
            junit: None,
        }
    }
}

fn collectives() -> clap::builder::PossibleValuesParser {
    efa_gen::nccl::command::Collective::ALL.map(efa_gen::nccl::command::Collective::name).into()
}

fn size(text: &str) -> Result<u64, String> {
    efa_gen::nccl::command::parse_size(text).ok_or_else(|| "not a size such as 512M or 1G".to_owned())
}

fn bandwidth(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("not a bandwidth in GB/s".to_owned()),
    }
}
