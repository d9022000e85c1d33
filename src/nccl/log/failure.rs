//! Owns the texts by which launchers, ssh, nccl-tests and the plugin say that something failed, and what to do about
//! each.
//!
//! Sources: the help texts of open-mpi/ompi v4.0.3 (orte/, opal/mca/btl/tcp) and, for Open MPI 5, of openpmix/prrte v3.0.0
//! to v3.0.14 (help-errmgr-base, help-plm-base, help-plm-ssh, help-prun, help-prte-rmaps-base, help-state-base); OpenSSH's
//! own messages, those of Slurm 22.05 as it ran, NVIDIA/nccl-tests `src/common.h`, NVIDIA/nccl `src/net.cc`,
//! aws/aws-ofi-nccl. Only the fixed part of each text is matched, within one line: where prrte breaks its lines changed
//! from v3.0.0 to v3.0.9.

use super::bytes::holds;

/// A text that means failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// The fixed part of the line.
    pub needle: &'static str,
    /// What to do about it.
    pub to_do: &'static str,
    /// Whether it says that time ran out.
    pub timeout: bool,
}

const fn text(needle: &'static str, to_do: &'static str) -> Text {
    Text { needle, to_do, timeout: false }
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
const EARLIER: &str = "what the rank printed before it ended tells why";
const TIME: &str = "look for the rank that printed nothing last, or give it more time";
const NCCL_NET: &str = "NCCL_NET names a plugin that was not loaded: put the folder of the plugin's libnccl-net.so into \
                        LD_LIBRARY_PATH on every host";

/// Most fundamental first: where one failure brings another about, it stands before it.
pub(crate) static RUN: [Text; 47] = [
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
    text("Open MPI failed to handshake", "keep bridges out of Open MPI's TCP: --mca btl_tcp_if_exclude lo,docker0"),
    text("was unable to find the specified executable file", PATHS),
    text("was unable to launch the specified application", PATHS),
    text("was unable to start the specified application", PATHS),
    text("Invalid number of GPUs", "start no more ranks on a host than it has GPUs"),
    text("Error: network ", NCCL_NET),
    // What NCCL 2.30 says instead.
    text("Failed to initialize any NET plugin", NCCL_NET),
    text("Test NCCL failure", "run it again with NCCL_DEBUG=INFO: NCCL's warning before this line tells why"),
    text("Test CUDA failure", "check the driver with nvidia-smi on that host"),
    text("Test failure", EARLIER),
    text("has exited due to process rank", EARLIER),
    text("noticed that process rank", EARLIER),
    text("exited on signal", EARLIER),
    text("MPI_ABORT was invoked", EARLIER),
    text("Segmentation fault", EARLIER),
    text("a required daemon terminated during execution", "check that every host is still up"),
    text("exited with non-zero status", EARLIER),
    text("Per user-direction, the job has been aborted", EARLIER),
    Text { needle: "The user-provided time limit for job execution has been reached", to_do: TIME, timeout: true },
    Text { needle: "DUE TO TIME LIMIT", to_do: TIME, timeout: true },
    text("error: execve():", PATHS),
    text(
        "srun: error: Invalid MPI type",
        "use a Slurm built with PMIx (`srun --mpi=list` shows it), and put the libpmix.so that it was built with on every host",
    ),
    text("srun: error:", EARLIER),
    text("slurmstepd: error:", EARLIER),
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

/// The plugin's word for a type that could do GPUDirect and does not.
pub(crate) const GDR_DISABLED: &str = "GDR disabled on GDR-supported instance type";

/// The failure that this line tells of: its place in [`RUN`]. A shell's trace (`+ ...`) shows commands, not messages.
pub(crate) fn run(line: &[u8]) -> Option<usize> {
    if line.starts_with(b"+ ") {
        return None;
    }
    RUN.iter().position(|failure| holds(line, failure.needle))
}

/// The trouble that this line tells of: its place in [`PROVIDER`].
pub(crate) fn provider(line: &[u8]) -> Option<usize> {
    PROVIDER.iter().position(|needle| holds(line, needle))
}
