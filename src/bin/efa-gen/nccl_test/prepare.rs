//! Owns what is settled before a test: which hosts, which programs, and which software they run, so that its
//! environment is the right one.

use std::path::{Path, PathBuf};

use efa_gen::catalog::Catalog;
use efa_gen::catalog::instance_type::InstanceType;
use efa_gen::catalog::nccl_env::{self, Software};
use efa_gen::error::{Class, Error, Result};
use efa_gen::guest::release;
use efa_gen::nccl::command::{self, Collective, Host, Programs, Sizes};
use efa_gen::nccl::interfaces;
use efa_gen::nccl::output::slurm::{self, Job};
use efa_gen::plan::RELEASE_FILE;
use efa_gen::shell::{self, quote};
use efa_gen::text::ending;

use super::{Executor, TestSpec, questions};
use crate::cli::validate::{TestArgs, ValidateArgs};
use crate::cluster::nodes::Cluster;
use crate::io::events::EventSink;
use crate::io::files;

/// How the first host calls itself where no other is asked for.
const ALONE: &str = "localhost";

/// Largest hostfile, bytes: 100,000 hosts with long names fit.
const HOSTFILE: u64 = 16 << 20;

/// What the first host says of a missing program.
const MISSING: &str = "EFA-GEN MISSING ";

/// What stands before its release file; a shell's startup files may have said something before.
const RELEASE: &str = "EFA-GEN RELEASE\n";

/// The test that the flags ask for, on this host or from it, or on a cluster.
pub async fn spec<'a>(
    args: &ValidateArgs,
    catalog: &'a Catalog,
    instance_type: Option<&'a InstanceType>,
    cluster: Option<&'a Cluster>,
    events: &EventSink,
) -> Result<TestSpec<'a>> {
    let leader = cluster.and_then(|cluster| cluster.nodes.first());
    let executor = leader.map_or(Executor::Here, |leader| Executor::Guest(&leader.guest));
    let hosts = match (cluster, &args.test.hostfile) {
        (Some(cluster), _) => nodes(cluster)?,
        (None, Some(path)) => hosts(path, instance_type)?,
        (None, None) => vec![Host { address: ALONE.into(), slots: gpus(executor, events).await? }],
    };
    let collectives = collectives(&args.test);
    let (mut programs, own) = programs(&args.test, catalog, instance_type, executor, &collectives, events).await?;
    questions::interfaces(executor, &mut programs, &hosts, &own, events).await?;
    // Whether the command can be started is known before two of its hosts are tested.
    if let Some(collective) = collectives.first() {
        command::line(&command::argv(*collective, &hosts, sizes(&args.test), &programs), args.test.timeout)?;
    }
    Ok(TestSpec {
        executor,
        programs,
        collectives,
        sizes: sizes(&args.test),
        limit: args.test.timeout,
        instance_type,
        catalog,
        // A run on one host says nothing of what lies between the nodes of a cluster.
        wanted: args.hosts.unwrap_or(hosts.len().max(if cluster.is_some() { 2 } else { 1 }) as u64),
        hosts,
        min_busbw: args.min_busbw,
        log: args.test.keep_log.clone().unwrap_or_else(|| {
            let name = jiff::Timestamp::now().strftime("efa-gen-validate-%Y%m%d-%H%M%S.log").to_string();
            cluster.map_or(PathBuf::from(&name), |cluster| cluster.state.path.join(&name))
        }),
    })
}

/// The nodes that run, one rank a GPU.
fn nodes(cluster: &Cluster) -> Result<Vec<Host>> {
    let slots = cluster.record.gpus;
    if slots == 0 {
        let message =
            format!("the nodes of cluster {} ({}) have no GPU", cluster.record.name, cluster.record.instance_type);
        return Err(Error::new(Class::Usage, message).hint("the programs of nccl-tests need one"));
    }
    Ok(cluster.nodes.iter().map(|node| Host { address: node.address.clone(), slots }).collect())
}

/// The hosts of a file.
fn hosts(path: &Path, instance_type: Option<&InstanceType>) -> Result<Vec<Host>> {
    let text = String::from_utf8(files::read(path, "hostfile", HOSTFILE)?).map_err(|error| {
        Error::new(Class::Usage, format!("hostfile {} is not text", path.display())).with_source(error)
    })?;
    command::hosts(&text, instance_type.map(|t| t.gpus).filter(|gpus| *gpus > 0))
}

/// Each once, in the order of the flags.
fn collectives(args: &TestArgs) -> Vec<Collective> {
    let mut collectives = Vec::new();
    for name in &args.collective {
        let named = Collective::ALL.into_iter().filter(|collective| collective.name() == name);
        collectives.extend(named.filter(|collective| !collectives.contains(collective)).collect::<Vec<_>>());
    }
    collectives
}

/// Status with which nvidia-smi warns of a corrupted infoROM, all GPUs listed (nvidia-smi manual, "RETURN VALUE").
const INFOROM: &str = "14";

/// GPUs of the one host that is tested.
async fn gpus(executor: Executor<'_>, events: &EventSink) -> Result<u32> {
    let failed = |what: &str, why: String, hint: &str| {
        Error::new(Class::Check, format!("{} {what}", executor.name())).with_source(why).hint(hint)
    };
    let none = |why: String| {
        failed(
            "has no NVIDIA GPU that works",
            why,
            "the test needs a GPU and its driver; to judge a log give --log, to test other hosts from here --hostfile",
        )
    };
    // What it says when it fails is the reason that is told, so the question itself succeeds.
    let output = executor.ask("nvidia-smi --query-gpu=index --format=csv,noheader 2>&1; printf '\\n%s' \"$?\"").await?;
    let (listed, status) = output.rsplit_once('\n').unwrap_or_default();
    let listed = listed.trim();
    let shown = ending(listed);
    let numbers = listed.lines().filter(|line| line.trim().parse::<u32>().is_ok()).count();
    if numbers == 0 {
        return Err(none(if status == "0" { shown.into_owned() } else { format!("status {status}: {shown}") }));
    }
    // CUDA shows no others to the ranks, and none from the first one on that it can't tell.
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok().filter(|_| matches!(executor, Executor::Here));
    if status != "0" {
        let why = format!("nvidia-smi ended with status {status} after {numbers} of them: {shown}");
        if status != INFOROM && visible.is_none() {
            let hint = "a GPU that is lost comes back by a reboot, or not at all; on this machine CUDA_VISIBLE_DEVICES \
                        names those to test";
            return Err(failed("may have more GPUs than work", why, hint));
        }
        events.note(why);
    }
    let named =
        visible.as_ref().map(|list| list.split(',').take_while(|one| !["", "-1"].contains(&one.trim())).count());
    match named {
        Some(0) => Err(none("CUDA_VISIBLE_DEVICES shows none".to_owned())),
        Some(named) => Ok(named.min(numbers) as u32),
        None => Ok(numbers as u32),
    }
}

/// The programs, looked for on the first host, and the environment that its software needs; and the user's own part of it.
async fn programs(
    args: &TestArgs,
    catalog: &Catalog,
    instance_type: Option<&InstanceType>,
    executor: Executor<'_>,
    collectives: &[Collective],
    events: &EventSink,
) -> Result<(Programs, Vec<(String, String)>)> {
    let mpirun = args.mpirun.clone().unwrap_or_else(Programs::installed_mpirun);
    let tests = args.tests_dir.clone().unwrap_or_else(Programs::installed_tests);
    let tests = if matches!(executor, Executor::Here) { absolute(&tests)? } else { tests };
    let wanted = collectives.iter().map(|collective| format!("{tests}/{}", collective.program()));
    let wanted: Vec<String> = [mpirun.clone(), "timeout".into()].into_iter().chain(wanted).collect();
    let quoted = shell::join(&wanted)?;
    let line = format!(
        "for program in {quoted}; do command -v \"$program\" >/dev/null || echo \"{MISSING}$program\"; done; \
         echo {}; if [ -e {RELEASE_FILE} ]; then cat {RELEASE_FILE}; fi",
        quote(RELEASE.trim_end())?
    );
    let output = executor.ask(&line).await?;
    if let Some(missing) = output.lines().find_map(|line| line.strip_prefix(MISSING)) {
        return Err(Error::new(Class::Check, format!("{} has no program {}", executor.name(), ending(missing))).hint(
            "--mpirun PATH and --tests-dir DIR say where they are; images of efa-gen have them in the usual places",
        ));
    }
    let release = output.split_once(RELEASE).map_or("", |(_, release)| release);
    let (mut software, known) = software(args, catalog, executor, release.trim(), events)?;
    software.gpudirect = instance_type.is_some_and(|t| t.gpudirect);
    let mut variables = nccl_env::of(&catalog.environment, &software);
    if known == Known::NotOurs {
        let own = match executor {
            Executor::Here => std::env::var("LD_LIBRARY_PATH").unwrap_or_default(),
            Executor::Guest(_) => String::new(),
        };
        variables.push(("LD_LIBRARY_PATH".into(), command::library_path(&own, &mpirun)));
    }
    let mut mca: Vec<(String, String)> =
        args.mca.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let mut own = args.env.iter().map(|text| command::variable(text)).collect::<Result<Vec<_>>>()?;
    if let Some(list) = &args.interfaces {
        let interfaces = interfaces::named(list)?;
        mca.push(interfaces.mca);
        match interfaces.variable {
            Some(variable) => own.push(variable),
            None => events.note("NCCL takes interfaces by name alone: --interfaces is for Open MPI"),
        }
    }
    variables.retain(|(name, _)| !own.iter().any(|(other, _)| other == name));
    variables.extend(own.iter().cloned());
    Ok((Programs { mpirun, tests, environment: variables, mca }, own))
}

/// Whether the first host is of an image of efa-gen, where the loader knows every library.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Ours,
    NotOurs,
}

/// Which software the environment is for, and who says so.
fn software(
    args: &TestArgs,
    catalog: &Catalog,
    executor: Executor<'_>,
    release: &str,
    events: &EventSink,
) -> Result<(Software, Known)> {
    if release.is_empty() {
        let software = by_name(args.stack.as_deref(), catalog)?;
        let why = match &args.stack {
            Some(id) => format!("by --stack {id}"),
            None => format!("{} has no {RELEASE_FILE}, and no --stack says what is installed", executor.name()),
        };
        events.note(format!("environment for {}: {why}", software.describe()));
        return Ok((software, Known::NotOurs));
    }
    let software = release::software(release).ok_or_else(|| {
        let message = format!("{RELEASE_FILE} of {} can't be read", executor.name());
        Error::new(Class::Check, message)
            .hint("another version of efa-gen wrote it, or it is damaged: install the host again, or remove the file and give --stack")
    })?;
    if args.stack.is_some() {
        events.note(format!("--stack is not needed: {} says what is installed", executor.name()));
    }
    events.note(format!("environment for {}: {RELEASE_FILE} of {} says so", software.describe(), executor.name()));
    Ok((software, Known::Ours))
}

/// The software of a stack; nothing is known without one.
fn by_name(stack: Option<&str>, catalog: &Catalog) -> Result<Software> {
    let Some(id) = stack else { return Ok(Software::default()) };
    let stack = catalog.stack(id)?;
    let version = |version: &str| Some(version.to_owned());
    Ok(Software {
        efa: version(&stack.stack.efa),
        nccl: version(&stack.nccl.version),
        plugin: version(&stack.plugin.version),
        gpudirect: false,
    })
}

/// The batch job that makes the test under Slurm.
pub fn job(args: &ValidateArgs, catalog: &Catalog, instance_type: Option<&InstanceType>) -> Result<String> {
    let missing = |what: &str| Error::new(Class::Usage, format!("--slurm needs {what}"));
    let nodes = args.test.nodes.ok_or_else(|| missing("--nodes"))?;
    let instance_type = instance_type.ok_or_else(|| missing("--instance-type"))?;
    if instance_type.gpus == 0 {
        return Err(Error::new(Class::Usage, format!("{} has no GPU", instance_type.name))
            .hint("the programs of nccl-tests need one"));
    }
    slurm::job(&Job {
        nodes,
        instance_type,
        collectives: &collectives(&args.test),
        sizes: sizes(&args.test),
        limit: args.test.timeout,
        min_busbw: args.min_busbw,
        tests: &args.test.tests_dir.clone().unwrap_or_else(Programs::installed_tests),
        software: &by_name(args.test.stack.as_deref(), catalog)?,
        variables: &catalog.environment,
    })
}

fn sizes(args: &TestArgs) -> Sizes {
    Sizes { min: 8.min(args.max_size), max: args.max_size, iterations: args.iterations }
}

fn absolute(path: &str) -> Result<String> {
    let path = std::path::absolute(Path::new(path))
        .map_err(|error| Error::new(Class::Io, "the current folder is not known").with_source(error))?;
    Ok(path.display().to_string())
}
