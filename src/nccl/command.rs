//! Owns the command of one NCCL test: the program, the hosts, the sizes, the environment, and the shell line that
//! bounds it in time and ends it with its caller.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Class, Error, Result};
use crate::plan::{EFA_PREFIX, MPI_OPTIONS, MPI_PREFIX, NCCL_PREFIX, TESTS_PREFIX};
use crate::shell::{join, quote};
use crate::text::excerpt;

/// Seconds that a program may take to end after it was asked to.
pub const TERMINATION_GRACE: Duration = Duration::from_secs(15);

/// What the fast check measures: enough to see whether the hosts reach each other, and over what.
pub const CHECK: Sizes = Sizes { min: 8, max: 8 << 20, iterations: 5 };

/// How long the fast check may take; a large host's GPUs take a minute to begin.
pub const CHECK_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Longest name of a host (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 255;

/// Longest argument of a program, bytes, its end included (Linux, `MAX_ARG_STRLEN`).
const LONGEST_ARGUMENT: usize = 128 << 10;

/// What stands on standard error before the program's exit status, when it has ended.
const EXIT: &str = "EFA-GEN EXIT ";

/// The collective operation that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    /// The one that the bars hold for.
    AllReduce,
    /// Everybody gets what everybody has.
    AllGather,
    /// Everybody gets a part of the sum.
    ReduceScatter,
    /// Everybody sends a part to everybody.
    AllToAll,
    /// Everybody sends to the next.
    SendRecv,
}

impl Collective {
    /// All of them.
    pub const ALL: [Collective; 5] = [
        Collective::AllReduce,
        Collective::AllGather,
        Collective::ReduceScatter,
        Collective::AllToAll,
        Collective::SendRecv,
    ];

    /// The program of nccl-tests.
    pub fn program(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce_perf",
            Collective::AllGather => "all_gather_perf",
            Collective::ReduceScatter => "reduce_scatter_perf",
            Collective::AllToAll => "alltoall_perf",
            Collective::SendRecv => "sendrecv_perf",
        }
    }

    /// `all-reduce`.
    pub fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all-reduce",
            Collective::AllGather => "all-gather",
            Collective::ReduceScatter => "reduce-scatter",
            Collective::AllToAll => "alltoall",
            Collective::SendRecv => "sendrecv",
        }
    }
}

/// A host of the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name or address, as the first host reaches it.
    pub address: String,
    /// Ranks that it gets, one a GPU.
    pub slots: u32,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Smallest size, bytes.
    pub min: u64,
    /// Largest size, bytes; each is twice the one before.
    pub max: u64,
    /// Measured rounds of each size.
    pub iterations: u32,
}

/// Where the programs lie, and what they are run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Open MPI's mpirun.
    pub mpirun: String,
    /// Folder of nccl-tests' programs.
    pub tests: String,
    /// Environment of every rank.
    pub environment: Vec<(String, String)>,
    /// Open MPI's parameters beside or instead of [`MPI_OPTIONS`].
    pub mca: Vec<(String, String)>,
}

impl Programs {
    /// mpirun of the EFA installer.
    pub fn installed_mpirun() -> String {
        format!("{MPI_PREFIX}/bin/mpirun")
    }

    /// Where efa-gen's images have nccl-tests.
    pub fn installed_tests() -> String {
        format!("{TESTS_PREFIX}/build")
    }
}

/// mpirun and its arguments for one run.
pub fn argv(collective: Collective, hosts: &[Host], sizes: Sizes, programs: &Programs) -> Vec<String> {
    let ranks: u64 = hosts.iter().map(|host| u64::from(host.slots)).sum();
    let each = hosts.iter().map(|host| host.slots).max().unwrap_or(0);
    let named: Vec<String> = hosts.iter().map(|host| format!("{}:{}", host.address, host.slots)).collect();
    // It refuses to run as root otherwise, and on a host that is tested nobody else's work is at stake.
    let mut argv = vec![programs.mpirun.clone(), "--allow-run-as-root".into(), "--host".into(), named.join(",")];
    argv.extend(["-n".into(), ranks.to_string(), "-N".into(), each.to_string()]);
    argv.extend(mpi_options(&programs.mca));
    for (name, value) in &programs.environment {
        argv.extend(["-x".into(), format!("{name}={value}")]);
    }
    argv.push(format!("{}/{}", programs.tests.trim_end_matches('/'), collective.program()));
    argv.extend(arguments(sizes));
    argv
}

/// Interfaces that Open MPI takes; it refuses to be told which it must not take as well.
pub const INCLUDE: &str = "btl_tcp_if_include";
/// Those that it does not take.
pub const EXCLUDE: &str = "btl_tcp_if_exclude";

/// [`MPI_OPTIONS`], but for the parameters that are given.
fn mpi_options(mca: &[(String, String)]) -> Vec<String> {
    let given = |key: &str| mca.iter().any(|(other, _)| other == key || (other.as_str(), key) == (INCLUDE, EXCLUDE));
    let mut options = Vec::new();
    let mut words = MPI_OPTIONS.into_iter();
    while let Some(word) = words.next() {
        match (word, words.as_slice()) {
            ("--mca", [key, value, ..]) => {
                if !given(key) {
                    options.extend(["--mca", key, value].map(str::to_owned));
                }
                words.nth(1);
            }
            _ => options.push(word.to_owned()),
        }
    }
    options.extend(mca.iter().flat_map(|(key, value)| ["--mca".to_owned(), key.clone(), value.clone()]));
    options
}

/// Reads `NAME=VALUE` of a rank's environment.
pub fn variable(text: &str) -> Result<(String, String)> {
    let sound = |name: &&str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parts = text.split_once('=').filter(|(name, _)| sound(name));
    let Some((name, value)) = parts.filter(|(_, value)| !value.chars().any(char::is_control)) else {
        return Err(Error::new(Class::Usage, format!("`{}` is not NAME=VALUE", excerpt(text)))
            .hint("for example NCCL_ALGO=Tree"));
    };
    if name == "NCCL_DEBUG" && !["INFO", "TRACE"].contains(&value) {
        return Err(Error::new(
            Class::Usage,
            "NCCL_DEBUG must be INFO: without NCCL's lines nothing proves that EFA was used",
        )
        .hint("leave it out"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// mpirun and its arguments for a script that every host executes once. What it prints comes in the order in which it is said.
pub fn script_on(hosts: &[Host], programs: &Programs, script: &str) -> Vec<String> {
    let named: Vec<String> = hosts.iter().map(|host| format!("{}:1", host.address)).collect();
    let mut argv = vec![programs.mpirun.clone(), "--allow-run-as-root".into(), "--host".into(), named.join(",")];
    argv.extend(["-n".into(), hosts.len().to_string(), "-N".into(), "1".into()]);
    argv.extend(mpi_options(&programs.mca));
    argv.extend(["/bin/sh", "-c", script].map(str::to_owned));
    argv
}

/// The arguments of a program of nccl-tests.
pub fn arguments(sizes: Sizes) -> Vec<String> {
    let (min, max, iterations) = (sizes.min.to_string(), sizes.max.to_string(), sizes.iterations.to_string());
    ["-b", &min, "-e", &max, "-f", "2", "-g", "1", "-c", "1", "-n", &iterations].map(str::to_owned).into()
}

/// A line for any POSIX shell that runs the command, its messages among its output, and ends it after this time or as soon
/// as the line's standard input ends: whoever started it is gone then. [`exit_status`] reads what it prints last.
///
/// Errors: it is longer than an argument can be.
pub fn line(argv: &[String], limit: Duration) -> Result<String> {
    let command = join(argv)?;
    // In the background a program's standard input is empty, so the real one is kept at hand as 3. Without `--foreground`
    // mpirun would get the signal twice, which for it means to go without its ranks. `timeout` must have begun before it is
    // told to end, or what it starts outlives it.
    let script = format!(
        "exec 3<&0; \
         timeout --foreground --kill-after={grace} {limit} {command} </dev/null 3<&- 2>&1 & run=$!; \
         (read -r end <&3; sleep 1; kill -TERM \"$run\") >/dev/null 2>&1 & watch=$!; \
         wait \"$run\"; status=$?; \
         kill \"$watch\" 2>/dev/null; wait \"$watch\" 2>/dev/null; \
         echo \"{EXIT}$status\" >&2",
        grace = TERMINATION_GRACE.as_secs(),
        limit = limit.as_secs().max(1),
    );
    let line = format!("/bin/sh -c {}", quote(&script)?);
    if line.len() >= LONGEST_ARGUMENT {
        let message = format!("the command of the test has {} bytes, and Linux takes {LONGEST_ARGUMENT}", line.len());
        return Err(Error::new(Class::Usage, message).hint("test fewer hosts at a time: their names are what is long"));
    }
    Ok(line)
}

/// The exit status that a line of standard error tells.
pub fn exit_status(line: &str) -> Option<i32> {
    line.strip_prefix(EXIT)?.trim_end().parse().ok()
}

/// The hosts of an Open MPI hostfile. A host without `slots=` gets `gpus`, where that is known: Open MPI would count its
/// cores. All must have as many.
pub fn hosts(hostfile: &str, gpus: Option<u32>) -> Result<Vec<Host>> {
    let wrong = |message: String| Error::new(Class::Usage, format!("hostfile: {message}"));
    let mut hosts: Vec<Host> = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    for line in hostfile.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next() else { continue };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !address.chars().all(plain) || address.starts_with('-') {
            return Err(wrong(format!("`{}` is not a host's name or IPv4 address", excerpt(address))));
        }
        if address.len() > LONGEST_NAME {
            return Err(wrong(format!("`{}` is longer than a host's name can be", excerpt(address))));
        }
        if !known.insert(address) {
            return Err(wrong(format!("{address} stands there twice"))
                .hint("write the file anew: the guide's `>>` adds every host again at each run"));
        }
        // Open MPI takes blanks around the sign.
        let rest = words.collect::<Vec<_>>().join(" ").replace(" = ", "=").replace("= ", "=").replace(" =", "=");
        let mut slots = None;
        for word in rest.split_whitespace() {
            match word.split_once('=') {
                Some(("slots", number)) => slots = Some(number.parse::<u32>()),
                Some(("max_slots" | "max-slots", _)) => {}
                _ => return Err(wrong(format!("`{}` after {address} is not known", excerpt(word)))),
            }
        }
        let slots = match (slots, gpus) {
            (Some(Ok(slots)), _) if slots > 0 => slots,
            (Some(_), _) => return Err(wrong(format!("the slots of {address} are not a number"))),
            (None, Some(gpus)) => gpus,
            (None, None) => {
                return Err(wrong(format!("{address} has no slots"))
                    .hint("write `slots=N` after each host, N its GPUs, or give --instance-type"));
            }
        };
        hosts.push(Host { address: address.to_owned(), slots });
    }
    let Some(first) = hosts.first() else { return Err(wrong("it names no host".into())) };
    if let Some(other) = hosts.iter().find(|host| host.slots != first.slots) {
        let message = format!(
            "{} has {} slots and {} has {}: the ranks of a test are spread evenly",
            first.address, first.slots, other.address, other.slots
        );
        return Err(wrong(message).hint("test the hosts of one kind at a time"));
    }
    Ok(hosts)
}

/// `LD_LIBRARY_PATH` for a machine that efa-gen did not install, where the loader may not know the libraries: what is set
/// there already, mpirun's own, then the usual places.
pub fn library_path(own: &str, mpirun: &str) -> String {
    let lib = |prefix: &str| ["lib", "lib64"].map(|lib| format!("{prefix}/{lib}"));
    let mut folders: Vec<String> = own.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned).collect();
    // The loader knows the system's own.
    let prefix = mpirun.strip_suffix("/bin/mpirun").filter(|prefix| prefix.len() > 1 && *prefix != "/usr");
    folders.extend(prefix.into_iter().flat_map(lib));
    folders.extend([EFA_PREFIX, "/opt/amazon/ofi-nccl", "/opt/aws-ofi-nccl"].into_iter().flat_map(lib));
    // From source, where the guide of 2020 leaves it, and as the guides from 2023 on have it.
    folders.extend([format!("{NCCL_PREFIX}/lib"), format!("{NCCL_PREFIX}/build/lib"), "/usr/local/cuda/lib64".into()]);
    folders.join(":")
}

/// Bytes as `8`, `512K`, `1G`: what nccl-tests takes as a size.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.chars().last()? {
        'K' | 'k' => (&text[..text.len() - 1], 10),
        'M' | 'm' => (&text[..text.len() - 1], 20),
        'G' | 'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}
