//! Owns the texts by which launchers, ssh, nccl-tests and the plugin say that something failed, and what to do about
//! each.
//!
//! Sources: the help texts of open-mpi/ompi v4.0.3 (orte/, opal/mca/btl/tcp) and, for Open MPI 5, of openpmix/prrte v3.0.0
//! to v3.0.14 (help-errmgr-base, help-plm-base, help-plm-ssh, help-prun, help-prte-rmaps-base, help-state-base); OpenSSH's
//! own messages, those of Slurm 22.05 as it ran, MPICH's Hydra, kubectl, the kernel's and glibc's of a process that dies,
//! pytorch/pytorch (ProcessGroupNCCL, elastic), NVIDIA/nccl-tests `src/common.h`, NVIDIA/nccl (`src/net.cc`, `src/include/checks.h`,
//! `src/init.cc`), aws/aws-ofi-nccl. Only the fixed part of each text is matched, within one line: where prrte breaks its lines
//! changed from v3.0.0 to v3.0.9.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use serde::Serialize;

use super::bytes::{behind, digits, holds};

/// A text that means failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// The fixed part of the line.
    pub needle: &'static str,
    /// What to do about it.
    pub to_do: &'static str,
    pub kind: Kind,
}

/// What a text says of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It failed.
    Failed,
    /// Time ran out.
    TimedOut,
    /// It failed if the exit status behind the text is not 0.
    Status,
}

const fn text(needle: &'static str, to_do: &'static str) -> Text {
    Text { needle, to_do, kind: Kind::Failed }
}

const fn timeout(needle: &'static str) -> Text {
    Text { needle, to_do: TIME, kind: Kind::TimedOut }
}

const fn status(needle: &'static str) -> Text {
    Text { needle, to_do: EARLIER, kind: Kind::Status }
}

const SSH_KEY: &str = "let the first host log in to every other one with a key, without a prompt";
const HOST_KEY: &str = "put every host's public host key into known_hosts of the first host";
const REACH: &str = "check that the host is up, that its name resolves, and that the security group lets itself in";
const DAEMON: &str = "the lines of ssh before this one tell why; else check that Open MPI is installed at the same path on \
                      every host, and that the hosts reach each other over TCP";
const GONE: &str = "check that the host is still up: it, or its network, went away";
const SLOTS: &str = "give each host as many slots as it has GPUs, and start no more ranks than that";
const SAME_PATH: &str = "install Open MPI at the same path on every host";
const PATHS: &str = "check the path, and that it is the same on every host";
const LIBRARIES: &str = "put the library's folder into LD_LIBRARY_PATH on every host (mpirun -x LD_LIBRARY_PATH)";
const EARLIER: &str = "read what that rank printed before it ended";
const KILLED: &str = "look in dmesg on that host for the kernel's out-of-memory killer, and for who else sent SIGKILL";
const TIME: &str = "find the rank that went silent first; if all still make progress, raise the time limit";
const NCCL_NET: &str = "NCCL_NET names a plugin that was not loaded: put the folder of the plugin's libnccl-net.so into \
                        LD_LIBRARY_PATH on every host";

/// Where the log has no line of NCCL's; where it has, they tell why.
pub(crate) const AGAIN: &str = "rerun with NCCL_DEBUG=INFO: NCCL then prints the cause";
const DRIVER: &str = "check the driver with nvidia-smi, and dmesg for Xid, on that host";
const NOT_BUILT: &str = "NCCL or the program was not built for this GPU: build both with its architecture in NVCC_GENCODE, or use an \
                         image built for this instance type";
const GPU_MEMORY: &str = "the GPU's memory is full: find the process with nvidia-smi, or use a smaller -e";
const HOST_MEMORY: &str = "the host ran out of memory: give the container more, or start fewer ranks on a host";
const SAME_NCCL: &str = "install the same NCCL on every host, and check which one LD_LIBRARY_PATH finds first";

/// Most fundamental first: where one failure brings another about, it stands before it.
pub(crate) static RUN: [Text; 105] = [
    text("Could not resolve hostname", REACH),
    text("Permission denied (publickey", SSH_KEY),
    text("Host key verification failed", HOST_KEY),
    text("ssh: connect to host", REACH),
    text(
        "orted: command not found",
        "start mpirun by its whole path, or with --prefix, so that the other hosts find orted",
    ),
    text("orted: No such file or directory", SAME_PATH),
    text(
        "prted: command not found",
        "start mpirun by its whole path, or with --prefix, so that the other hosts find prted",
    ),
    text("prted: No such file or directory", SAME_PATH),
    text("error while loading shared libraries", LIBRARIES),
    text("not enough slots available in the system", SLOTS),
    text("All nodes which are allocated for this job are already filled", SLOTS),
    text("More than one hostfile was passed", "give one hostfile"),
    text("The value of the MCA parameter \"plm_rsh_agent\"", "install ssh, or unset that parameter"),
    text("The value of the MCA parameter \"plm_ssh_agent\"", "install ssh, or unset that parameter"),
    text("launcher has been given a prefix to use", "start mpirun by its whole path"),
    text("was unable to reliably start one or more daemons", DAEMON),
    text("A daemon died unexpectedly", DAEMON),
    text("daemon has unexpectedly failed after launch", DAEMON),
    text("A daemon has no recorded node", "name every host in the hostfile as `hostname` there does"),
    text("has lost communication with a remote daemon", GONE),
    text("A critical communication path was lost to", GONE),
    text("does not know how to route a message to the specified daemon", DAEMON),
    text("is unable to establish a communication connection to the", DAEMON),
    text(
        "Open MPI failed to handshake",
        "exclude bridge interfaces from Open MPI: --mca btl_tcp_if_exclude lo,docker0",
    ),
    text("was unable to find the specified executable file", PATHS),
    text("was unable to launch the specified application", PATHS),
    text("was unable to start the specified application", PATHS),
    text("Invalid number of GPUs", "start at most one rank per GPU on each host"),
    text("Error: network ", NCCL_NET),
    // What NCCL 2.30 says instead.
    text("Failed to initialize any NET plugin", NCCL_NET),
    text("Mismatched NCCL version detected", SAME_NCCL),
    text("Incompatible NCCL versions", SAME_NCCL),
    // What to do depends on the error's name: see `to_do`.
    text("Cuda failure ", DRIVER),
    text("CUDA error: ", DRIVER),
    text("Out of memory: Killed process", HOST_MEMORY),
    text("OOMKilled", HOST_MEMORY),
    text("oom_kill event", HOST_MEMORY),
    text("The node was low on resource", HOST_MEMORY),
    text("Test NCCL failure", AGAIN),
    text("Test CUDA failure", DRIVER),
    timeout("Test timeout ("),
    timeout("Watchdog caught collective operation timeout"),
    timeout("Timeout at NCCL work"),
    text("NCCL error in: ", AGAIN),
    text(
        "ncclRemoteError: ",
        "another process ended, or the network to it failed: the first rank that failed tells why",
    ),
    text("ncclSystemError: ", AGAIN),
    text("ncclInternalError: ", AGAIN),
    text("ncclInvalidUsage: ", AGAIN),
    text("ncclUnhandledCudaError: ", DRIVER),
    text("Some NCCL operations have failed or timed out", EARLIER),
    text("we are taking the entire process down", EARLIER),
    text("Test failure", EARLIER),
    text("# error: ", EARLIER),
    text("has exited due to process rank", EARLIER),
    text("noticed that process rank", EARLIER),
    text("exited on signal", EARLIER),
    text("MPI_ABORT was invoked", EARLIER),
    text("MPI_ERRORS_ARE_FATAL", EARLIER),
    text("BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES", EARLIER),
    text("Segmentation fault", EARLIER),
    text("Process received signal", EARLIER),
    text("Signal: Aborted (", EARLIER),
    text("Signal: Bus error (", EARLIER),
    text("Signal: Floating point exception (", EARLIER),
    text("Signal: Illegal instruction (", EARLIER),
    text("Signal: Killed (", EARLIER),
    text("Signal: Terminated (", EARLIER),
    text("terminate called ", EARLIER),
    text("(core dumped)", EARLIER),
    text("double free or corruption", EARLIER),
    text("Fatal Python error", EARLIER),
    text("ChildFailedError", EARLIER),
    text("a required daemon terminated during execution", "check that every host is still up"),
    text("exited with non-zero status", EARLIER),
    text("Per user-direction, the job has been aborted", EARLIER),
    timeout("The user-provided time limit for job execution has been reached"),
    timeout("DUE TO TIME LIMIT"),
    timeout("was active on the node longer than the specified deadline"),
    timeout("was active longer than specified deadline"),
    text("has reached the specified backoff limit", EARLIER),
    status("command terminated with exit code "),
    status("Process completed with exit code "),
    status("failed (exitcode: "),
    status("exited with code "),
    status("EXIT CODE: "),
    text("Job step aborted", EARLIER),
    text("srun: Force Terminated", EARLIER),
    text("APPLICATION TERMINATED WITH THE EXIT STRING", EARLIER),
    text("Fatal error in PMPI_", EARLIER),
    text("MPI_Abort(", EARLIER),
    text("Caught signal ", EARLIER),
    text("*** stack smashing detected ***", EARLIER),
    text("free(): invalid pointer", EARLIER),
    text("corrupted size vs. prev_size", EARLIER),
    text("malloc(): ", EARLIER),
    text(
        "NVRM: Xid (",
        "look the number up in NVIDIA's list of Xid errors; nvidia-smi -q tells whether the GPU works still",
    ),
    text("error: execve():", PATHS),
    text(
        "srun: error: Invalid MPI type",
        "use a Slurm built with PMIx (`srun --mpi=list` shows it), and put the libpmix.so that it was built with on every host",
    ),
    text("srun: error:", EARLIER),
    text("slurmstepd: error:", EARLIER),
    status("exited with exit code "),
    status("Exited with exit code "),
    status("exits with return code = "),
    status("returned non-zero exit status "),
    status("terminated by signal "),
];

/// What the plugin or libfabric says when there is no provider to use. A rank may say so and select one later.
pub(crate) static PROVIDER: [&str; 7] = [
    "No eligible providers were found",
    "Couldn't find any optimal provider",
    "Only EFA provider is supported",
    "provider efa output empty list",
    "Unable to find a protocol that worked",
    "aws-ofi-nccl initialization failed",
    "Failed to initialize NET plugin Libfabric",
];

/// Those of them that follow from whatever went wrong before.
pub(crate) static GENERAL: [&str; 2] =
    ["aws-ofi-nccl initialization failed", "Failed to initialize NET plugin Libfabric"];

/// The plugin's word for a type that could do GPUDirect and does not.
pub(crate) const GDR_DISABLED: &str = "GDR disabled on GDR-supported instance type";

/// Both tables in one automaton: a log of prose is searched once, not once a text.
static TEXTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let needles = RUN.iter().map(|text| text.needle).chain(PROVIDER);
    AhoCorasick::builder().kind(Some(AhoCorasickKind::DFA)).build(needles).expect("the needles are few and short")
});

/// What a line tells: places in [`RUN`] and in [`PROVIDER`], the most fundamental of each. A shell's trace (`+ ...`) shows
/// commands, not messages.
pub(crate) fn told(line: &[u8]) -> (Option<usize>, Option<usize>) {
    let (mut run, mut provider) = (None::<usize>, None::<usize>);
    if is_trace(line) {
        return (run, provider);
    }
    for found in TEXTS.find_overlapping_iter(line) {
        let at = found.pattern().as_usize();
        match RUN.get(at) {
            None => {
                let at = at - RUN.len();
                provider = Some(provider.map_or(at, |known| known.min(at)));
            }
            Some(text) if text.kind == Kind::Status && !failed_status(&line[found.end()..]) => {}
            Some(_) => run = Some(run.map_or(at, |known| known.min(at))),
        }
    }
    (run, provider)
}

/// Whether a shell shows a command by this line (`+ ...`, and more signs in a function of a function).
pub(crate) fn is_trace(line: &[u8]) -> bool {
    let signs = line.iter().take_while(|b| **b == b'+').count();
    signs > 0 && line.get(signs) == Some(&b' ')
}

/// Whether a number that is not 0 stands here.
fn failed_status(text: &[u8]) -> bool {
    let negative = text.strip_prefix(b"-");
    digits(negative.unwrap_or(text)).is_some_and(|(status, _)| status != 0)
}

/// What to do about a line that holds the text at this place of [`RUN`].
pub(crate) fn to_do(at: usize, line: &[u8]) -> &'static str {
    let text = &RUN[at];
    if text.to_do == EARLIER && ["signal 9", "Killed"].iter().any(|words| holds(line, words)) {
        return KILLED;
    }
    if text.to_do != DRIVER {
        return text.to_do;
    }
    // CUDA's names for code that is not there for this GPU (cuda.h: 209, 500; cudart's 98).
    let not_built = ["named symbol not found", "no kernel image", "invalid device function"];
    if not_built.iter().any(|words| holds(line, words)) {
        NOT_BUILT
    } else if holds(line, "out of memory") {
        GPU_MEMORY
    } else {
        DRIVER
    }
}

/// A warning of the plugin by which a rank did not get its network, or lost it. The most fundamental first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginFault {
    /// Memory could not be allocated or registered.
    Memory,
    /// A transfer ended with an error, or the other side could not be addressed.
    Transfer,
    /// The plugin did not start. Where the same process selects a provider later, it was a try.
    Start,
}

impl PluginFault {
    /// All of them.
    pub const ALL: [PluginFault; 3] = [PluginFault::Memory, PluginFault::Transfer, PluginFault::Start];

    /// What to do about it.
    pub fn to_do(self) -> &'static str {
        match self {
            PluginFault::Memory => {
                "raise the limit of locked memory there (ulimit -l must say unlimited, also in the job's or container's own session), \
                 and see whether huge pages are free (grep Huge /proc/meminfo)"
            }
            PluginFault::Transfer => {
                "allow all traffic to and from the security group itself, inbound and outbound; then check that the rank on the \
                 other side is still alive"
            }
            PluginFault::Start => {
                "compare the versions of EFA installer, plugin and driver on every host, and check with `fi_info -p efa` that there is \
                 an EFA device"
            }
        }
    }
}

/// What a warning after `NET/OFI ` is a fault of, if it is one (aws/aws-ofi-nccl: its calls of NCCL_OFI_WARN; `RC` is libfabric's
/// or the kernel's error number, 12 being ENOMEM).
pub(crate) fn plugin(text: &[u8]) -> Option<PluginFault> {
    let any = |words: &[&str]| words.iter().any(|words| holds(text, words));
    if is_optional(text) {
        return None;
    }
    let code = behind(text, "RC: ").map(|rest| rest.strip_prefix(b"-").unwrap_or(rest));
    let out_of_memory = code.and_then(digits).is_some_and(|(code, _)| code == 12);
    if out_of_memory || any(&["Cannot allocate memory", "register memory", "memory registration", "RLIMIT_MEMLOCK"]) {
        return Some(PluginFault::Memory);
    }
    let transfer = [
        "complete with error",
        "completed with error",
        "remote address into address vector",
        "Remote error",
        "inflight requests",
    ];
    if any(&transfer) {
        return Some(PluginFault::Transfer);
    }
    let start = [
        "RC: ",
        "failed",
        "Failed",
        "Unable to",
        "Couldn't",
        "Could not",
        "Error ",
        "Caught exception",
        "Unexpected",
        "nvalid",
        "non-existent",
    ];
    any(&start).then_some(PluginFault::Start)
}

/// Whether a warning of the plugin, or NCCL's, is of what a run does without: transfers that the GPU starts itself (GIN, with GDRCopy), and
/// the choice of an algorithm.
pub(crate) fn is_optional(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"NET/OFI ").unwrap_or(text);
    let starts = ["gin", "GIN", "TUNER", "Tuner", "NET/OFI_TUNER", "Unable to configure tuner"];
    starts.iter().any(|word| text.starts_with(word.as_bytes()))
        || ["GDRCopy", "libgdrapi", "gdr_"].iter().any(|word| holds(text, word))
}
