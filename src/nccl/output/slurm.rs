//! Owns the batch job that makes an NCCL test under Slurm, for clusters that efa-gen did not launch.

use std::io::Write;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Serialize;

use crate::catalog::instance_type::InstanceType;
use crate::catalog::nccl_env::{self, Software, Variable};
use crate::error::{Class, Result};
use crate::nccl::command::{self, CHECK, CHECK_LIMIT, Collective, Programs, Sizes, TERMINATION_GRACE};
use crate::shell::quote;
use crate::template::Template;

/// What Slurm itself may take for each run, minutes.
const STARTING: u64 = 2;

static TEMPLATE: LazyLock<Template> =
    LazyLock::new(|| Template::new("output/slurm.sh", include_str!("../../../templates/output/slurm.sh"), escape));

/// A test to be made under Slurm.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// Hosts.
    pub nodes: u32,
    /// Their type; it must have GPUs.
    pub instance_type: &'a InstanceType,
    /// What is measured.
    pub collectives: &'a [Collective],
    /// Sizes of the judged runs.
    pub sizes: Sizes,
    /// How long each may take.
    pub limit: Duration,
    /// Bus bandwidth that the largest size must reach, instead of the type's bar.
    pub min_busbw: Option<f64>,
    /// Folder of nccl-tests' programs.
    pub tests: &'a str,
    /// What the hosts run.
    pub software: &'a Software,
    /// The variables that there are.
    pub variables: &'a [Variable],
}

#[derive(Serialize)]
struct SlurmView<'a> {
    version: &'static str,
    nodes: u32,
    instance_type: &'a str,
    gpus: u32,
    minutes: u64,
    software: String,
    environment: Vec<(String, String)>,
    libraries: String,
    tests: &'a str,
    grace: u64,
    runs: Vec<SlurmTest>,
    not_judged: u8,
}

#[derive(Serialize)]
struct SlurmTest {
    name: &'static str,
    hosts: u32,
    seconds: u64,
    program: &'static str,
    /// Of `efa-gen validate`.
    flags: String,
    arguments: String,
}

/// The job's script. Fails only on text that no shell can take.
pub fn job(job: &Job) -> Result<String> {
    let mut runs = Vec::new();
    if let (Some(collective), true) = (job.collectives.first(), job.nodes > 1) {
        // The bar is at a size that the check does not reach.
        let sizes = Sizes { max: CHECK.max.min(job.sizes.max), ..CHECK };
        runs.push(run("check", 2, CHECK_LIMIT.min(job.limit), *collective, String::new(), sizes));
    }
    for collective in job.collectives.iter().copied() {
        // The bars are of all-reduce, and old programs do not say which one they are.
        let named = Some(format!("--instance-type {}", job.instance_type.name));
        let flags = [
            named.filter(|_| collective == Collective::AllReduce),
            job.min_busbw.map(|busbw| format!("--min-busbw {busbw}")),
        ];
        let flags = flags.into_iter().flatten().collect::<Vec<_>>().join(" ");
        runs.push(run(collective.name(), job.nodes, job.limit, collective, flags, job.sizes));
    }
    let software = Software { gpudirect: job.instance_type.gpudirect, ..job.software.clone() };
    TEMPLATE.fill(&SlurmView {
        version: env!("CARGO_PKG_VERSION"),
        nodes: job.nodes,
        instance_type: &job.instance_type.name,
        gpus: job.instance_type.gpus,
        minutes: runs.iter().map(|run| run.seconds.div_ceil(60) + STARTING).sum(),
        software: software.describe(),
        environment: nccl_env::of(job.variables, &software),
        libraries: command::library_path("", &Programs::installed_mpirun()),
        tests: job.tests,
        grace: TERMINATION_GRACE.as_secs(),
        runs,
        not_judged: Class::Check as u8,
    })
}

fn run(
    name: &'static str,
    hosts: u32,
    limit: Duration,
    collective: Collective,
    flags: String,
    sizes: Sizes,
) -> SlurmTest {
    let (seconds, program) = (limit.as_secs().max(1), collective.program());
    SlurmTest { name, hosts, seconds, program, flags, arguments: command::arguments(sizes).join(" ") }
}

fn escape(text: &str, output: &mut dyn Write) -> std::io::Result<()> {
    let quoted = quote(text).map_err(std::io::Error::other)?;
    output.write_all(quoted.as_bytes())
}
