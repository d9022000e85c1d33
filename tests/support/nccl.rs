//! A model of an all_reduce_perf run and the log that each age of NCCL, plugin and nccl-tests writes of it; and the real
//! logs, read and judged.

use std::fmt::Write;
use std::path::PathBuf;

use efa_gen::catalog::Catalog;
use efa_gen::nccl::{Expect, Reader, Report, Verdict, judge};

use super::{catalog, in_repository};

/// What changed in the log from age to age.
pub struct Age {
    pub nccl: &'static str,
    pub cuda: &'static str,
    /// Each rank says the version, with its prefix; else rank 0 alone, without.
    pub version_everywhere: bool,
    pub plugin: Option<(&'static str, &'static str)>,
    /// `{}` is the provider, `{n}` the number of NICs.
    pub provider: &'static str,
    /// The plugin's name as a network, in channels too; `says` whether there is a `Using network` line.
    pub network: &'static str,
    pub says_network: bool,
    /// `{c}` channel, `{a}` and `{b}` ranks, `{way}` ` [send]`.
    pub channel: &'static str,
    /// Rows with `root` and `#wrong`, Rank lines with `Group`.
    pub thirteen: bool,
    /// `Collective test starting` and `concluded`.
    pub names_test: bool,
}

pub const AGES: [Age; 5] = [
    Age {
        nccl: "2.4.6",
        cuda: "10.0",
        version_everywhere: false,
        plugin: None,
        provider: "Selected Provider is {};ofi_rxr",
        network: "AWS Libfabric",
        says_network: false,
        channel: "Ring {c} : {a} -> {b}{way} via ",
        thirteen: false,
        names_test: false,
    },
    Age {
        nccl: "2.6.4",
        cuda: "10.2",
        version_everywhere: false,
        plugin: None,
        provider: "Selected Provider is {}",
        network: "AWS Libfabric",
        says_network: true,
        channel: "Ring {c} : {a}[1c0] -> {b}[1b0]{way} via ",
        thirteen: false,
        names_test: false,
    },
    Age {
        nccl: "2.8.3",
        cuda: "11.2",
        version_everywhere: false,
        plugin: Some(("Using", "1.1.4")),
        provider: "Selected Provider is {}",
        network: "AWS Libfabric",
        says_network: true,
        channel: "Channel {c} : {a}[101d0] -> {b}[101c0]{way} via ",
        thirteen: false,
        names_test: false,
    },
    Age {
        nccl: "2.12.7",
        cuda: "11.4",
        version_everywhere: false,
        plugin: Some(("Using", "1.5.0aws")),
        provider: "Selected Provider is {} (found {n} nics)",
        network: "AWS Libfabric",
        says_network: true,
        channel: "Channel {c}/0 : {a}[35000] -> {b}[f5000]{way} via ",
        thirteen: true,
        names_test: false,
    },
    Age {
        nccl: "2.28.9",
        cuda: "13.0",
        version_everywhere: true,
        plugin: Some(("Initializing", "1.17.3")),
        provider: "Selected provider is {}, fabric is {}-direct (found {n} nics)",
        network: "Libfabric",
        says_network: true,
        channel: "Channel {c}/0 : {a}[0] -> {b}[0]{way} via ",
        thirteen: true,
        names_test: true,
    },
];

/// Last words of runs that died, whatever stands before them.
pub const ENDINGS: [&str; 37] = [
    "MPI_ERRORS_ARE_FATAL (processes in this communicator will now abort,",
    "[ip-10-0-0-1:04101] *** Process received signal ***",
    "[ip-10-0-0-1:04101] Signal: Aborted (6)",
    "[ip-10-0-0-1:04101] Signal: Bus error (7)",
    "[ip-10-0-0-1:04101] Signal: Segmentation fault (11)",
    "terminate called after throwing an instance of 'std::runtime_error'",
    "terminate called without an active exception",
    "command terminated with exit code 137",
    "Error: Process completed with exit code 1.",
    "=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES",
    "=   EXIT CODE: 9",
    "worker-1 exited with code 139",
    "bash: line 1:  4101 Segmentation fault      (core dumped) all_reduce_perf",
    "free(): double free or corruption (!prev)",
    "slurmstepd: error: *** JOB 77 ON node-1 CANCELLED AT 2026-11-30T10:00:00 DUE TO TIME LIMIT ***",
    "srun: Job step aborted: Waiting up to 32 seconds for job step to finish.",
    "[rank3]:[E ProcessGroupNCCL.cpp:632] [Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=8)",
    "[E ProcessGroupNCCL.cpp:684] To avoid data inconsistency, we are taking the entire process down.",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "E1130 10:00:00.000 torch/distributed/elastic/multiprocessing/api.py:874] failed (exitcode: -9) local_rank: 0 (pid: 77)",
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
    "Out of memory: Killed process 4101 (all_reduce_perf) total-vm:1kB",
    "ip-10-0-0-1: Test timeout (60s) all_reduce.cu:104",
    "# error: NCCL failure in all_reduce.cu:44",
    "pdsh@head: ip-10-0-0-1: ssh exited with exit code 137",
    "clush: ip-10-0-0-1: exited with exit code 137",
    "Exited with exit code 137.",
    "[2026-11-30 10:00:00,000] [INFO] [launch.py:319:sigkill_handler] Process 77 exits with return code = -9",
    "subprocess.CalledProcessError: Command '['mpirun']' returned non-zero exit status 139.",
    "Command terminated by signal 9",
    "srun: Force Terminated StepId=77.0",
    "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)",
    "Fatal error in PMPI_Finalize: Other MPI error, error stack:",
    "[node-1:4101:0:4101] Caught signal 7 (Bus error: nonexistent physical address)",
    "*** stack smashing detected ***: terminated",
    "free(): invalid pointer",
    "NVRM: Xid (PCI:0000:10:1c): 79, pid=4101, GPU has fallen off the bus.",
];

/// Warnings of the plugin by which a rank did not get its network or lost it, and a word of what to do.
pub const FAULTS: [(&str, &str); 16] = [
    (
        "NET/OFI Request 0x7f completed with error. RC: 20. Error: 4107 (unreachable remote). Completed length: 0",
        "security group",
    ),
    ("NET/OFI Request 0x7f completed with error. RC: 5. Error: Input/output error", "security group"),
    ("NET/OFI Unable to insert remote address into address vector for device 3. RC: -22", "security group"),
    ("NET/OFI Operation with NULL context completed with error", "security group"),
    ("NET/OFI Couldn't enable endpoint. RC: -12, ERROR: Cannot allocate memory", "locked memory"),
    ("NET/OFI Couldn't open CQ. RC: -12, ERROR: Cannot allocate memory", "locked memory"),
    ("NET/OFI Unable to register memory (type = 2) for device 1. RC: -14, Error: Bad address", "locked memory"),
    ("NET/OFI Couldn't open AV. RC: -22, ERROR: Invalid argument", "versions"),
    ("NET/OFI Failed to initialize sendrecv protocol", "versions"),
    ("NET/OFI Send close message complete with error", "security group"),
    ("NET/OFI Closing recv_comm 0x7f with inflight requests. Invalidating domain", "security group"),
    ("NET/OFI Error performing GPU GDR flush", "versions"),
    ("NET/OFI Error posting rx buffers: -11", "versions"),
    ("NET/OFI Caught exception in plugin connect: x", "versions"),
    ("NET/OFI Unexpected number of remote rails for dev 3. Expected 4 but got 8", "versions"),
    ("NET/OFI Request 0x7f completed with error. RC: 5. Error: GIN", "security group"),
];

/// What a launcher puts before each line.
#[derive(Debug, Clone, Copy)]
pub enum Prefix {
    None,
    Mpi,
    MpiBlank,
    Srun,
    Pod,
}

pub const PREFIXES: [Prefix; 5] = [Prefix::None, Prefix::Mpi, Prefix::MpiBlank, Prefix::Srun, Prefix::Pod];

/// A run that passes, unless a field says otherwise.
#[derive(Debug, Clone)]
pub struct Run {
    pub age: usize,
    pub prefix: Prefix,
    pub hosts: u64,
    pub gpus: u64,
    pub gdr: bool,
    pub provider: String,
    pub nics: u64,
    /// Smallest size.
    pub min: u64,
    /// Bus bandwidths (hundredths of GB/s), out of place and in place, for the smallest size, twice that, ...
    pub rows: Vec<(u64, u64)>,
    /// Where lines of ranks come to stand between the others.
    pub order: Vec<u64>,
}

impl Run {
    /// Two hosts with eight GPUs each that reach `busbw` GB/s at 1 GiB.
    pub fn good(age: usize, busbw: f64) -> Run {
        let top = (busbw * 100.0).round() as u64;
        let rows = (0..28).map(|at| (top >> (27 - at), top >> (27 - at))).collect();
        let (prefix, provider) = (Prefix::None, "efa".to_owned());
        Run { age, prefix, hosts: 2, gpus: 8, gdr: true, provider, nics: 4, min: 8, rows, order: Vec::new() }
    }

    /// The same, up to this size.
    pub fn up_to(mut self, max: u64) -> Run {
        self.rows.truncate((max / self.min).ilog2() as usize + 1);
        self
    }

    pub fn age(&self) -> &'static Age {
        &AGES[self.age]
    }

    pub fn ranks(&self) -> u64 {
        self.hosts * self.gpus
    }

    fn process(&self, rank: u64) -> String {
        format!("ip-10-0-0-{}:{}", rank / self.gpus, 4100 + rank)
    }

    /// Ends of channels over the network that the log shows.
    pub fn net_channels(&self) -> u64 {
        2 * self.hosts
    }

    pub fn text(&self) -> String {
        let mut lines = self.head();
        let info = self.info();
        for (at, line) in info.into_iter().enumerate() {
            lines.push((self.order.get(at).copied().unwrap_or(at as u64), line));
        }
        // Only NCCL's lines move: sort them among themselves, ranks interleaved.
        let head = self.head().len();
        lines[head..].sort_by_key(|(order, _)| *order);
        let mut text = String::new();
        for (_, (rank, line)) in lines {
            text += &self.prefixed(rank, &line);
        }
        for line in self.tail() {
            text += &self.prefixed(0, &line);
        }
        text
    }

    fn prefixed(&self, rank: u64, line: &str) -> String {
        match self.prefix {
            Prefix::None => format!("{line}\n"),
            Prefix::Mpi => format!("[1,{rank}]<stdout>:{line}\n"),
            Prefix::MpiBlank => format!("[1,{rank}]<stdout>: {line}\r\n"),
            Prefix::Srun => format!("{rank:>3}: {line}\n"),
            Prefix::Pod => format!("[pod/launcher-x7/mpi] [1,{rank}]<stderr>:{line}\n"),
        }
    }

    fn head(&self) -> Vec<(u64, (u64, String))> {
        let mut lines = Vec::new();
        if self.age().names_test {
            lines.push("# nccl-tests version 2.19.6 nccl-headers=22809 nccl-library=22809".to_owned());
            lines.push("# Collective test starting: all_reduce_perf".to_owned());
        }
        let (min, max) = (self.min, self.min << (self.rows.len() - 1));
        let more = if self.age().thirteen { "agg iters: 1 validation: 1 graph: 0" } else { "validation: 1 " };
        lines.push(format!(
            "# nThread 1 nGpus 1 minBytes {min} maxBytes {max} step: 2(factor) warmup iters: 5 iters: 100 {more}"
        ));
        lines.push("#".into());
        lines.push("# Using devices".into());
        for rank in 0..self.ranks() {
            let (host, pid, device) = (rank / self.gpus, 4100 + rank, rank % self.gpus);
            let group = if self.age().thirteen { " Group  0" } else { "" };
            lines.push(format!(
                "#  Rank {rank:2}{group} Pid {pid:6} on ip-10-0-0-{host} device {device:2} [0x10] NVIDIA A100"
            ));
        }
        lines.into_iter().map(|line| (0, (0, line))).collect()
    }

    fn info(&self) -> Vec<(u64, String)> {
        let age = self.age();
        let mut lines = Vec::new();
        for rank in 0..self.ranks() {
            let (process, device) = (self.process(rank), rank % self.gpus);
            let mut say = |text: &str| {
                lines.push((rank, format!("{process}:{} [{device}] NCCL INFO {text}", 4200 + rank)));
            };
            say("NET/Socket : Using [0]eth0:10.0.0.1<0>");
            if let Some((verb, version)) = age.plugin {
                say(&format!("NET/OFI {verb} aws-ofi-nccl {version}"));
            }
            let provider = age.provider.replace("{}", &self.provider).replace("{n}", &self.nics.to_string());
            say(&format!("NET/OFI {provider}"));
            say("NET/Plugin: Failed to find ncclCollNetPlugin_v5 symbol.");
            if age.says_network {
                say(&format!("Using network {}", age.network));
            }
            if age.version_everywhere {
                say(&format!("NCCL version {}+cuda{}", age.nccl, age.cuda));
            }
            say("NCCL_SOCKET_IFNAME set by environment to ^lo,docker");
            say("Channel 00/02 :    0   1");
            let next = (rank + 1) % self.ranks();
            let channel =
                age.channel.replace("{c}", "07").replace("{a}", &rank.to_string()).replace("{b}", &next.to_string());
            // The first rank of a host receives from another host, the last one sends to one.
            let gdr = if self.gdr { "/GDRDMA" } else { "" };
            let net = format!("NET/{}/{}{gdr}", age.network, rank % 4);
            if device == 0 {
                say(&(channel.replace("{way}", " [receive]") + &net));
            }
            if device == self.gpus - 1 {
                say(&(channel.replace("{way}", " [send]") + &net));
            } else {
                say(&(channel.replace("{way}", "") + "P2P/IPC"));
            }
            say("Connected all rings, use ring PXN 0 GDR 1");
        }
        if !age.version_everywhere {
            // No rank's own: it stands where rank 0 wrote it.
            lines.push((0, format!("NCCL version {}+cuda{}", age.nccl, age.cuda)));
        }
        lines
    }

    fn tail(&self) -> Vec<String> {
        let header = match self.age().thirteen {
            true => {
                "#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong"
            }
            false => {
                "#       size         count    type   redop     time   algbw   busbw  error     time   algbw   busbw  error"
            }
        };
        let mut lines = vec!["#".to_owned(), header.to_owned()];
        let (root, end) = if self.age().thirteen { ("     -1", "0") } else { ("", "5e-07") };
        let mut sum = 0;
        for (at, (out, inside)) in self.rows.iter().enumerate() {
            let size = self.min << at;
            let mut row = format!("{size:12}  {:12}  float     sum{root}", size / 4);
            for busbw in [out, inside] {
                // Without a dot from 10000 us on.
                let time = if at > 20 { "17286".to_owned() } else { "152.5".to_owned() };
                let busbw = *busbw as f64 / 100.0;
                let _ = write!(row, "  {time:>7}  {:>6.2}  {busbw:>6.2}  {end:>5}", busbw / 1.875);
            }
            sum += out + inside;
            lines.push(row);
        }
        lines.push("# Out of bounds values : 0 OK".into());
        lines.push(format!("# Avg bus bandwidth    : {:.6} ", sum as f64 / 100.0 / (2 * self.rows.len()) as f64));
        lines.push("#".into());
        if self.age().names_test {
            lines.push("# Collective test concluded: all_reduce_perf".into());
        }
        lines
    }
}

/// Reads a log in one piece.
pub fn read(log: impl AsRef<[u8]>, exit_status: Option<i32>) -> Report {
    let mut reader = Reader::new();
    reader.feed(log.as_ref());
    reader.finish(exit_status)
}

/// Judges it for this type and as many hosts, by the bars that efa-gen carries.
pub fn judged(report: &Report, instance_type: Option<&str>, hosts: u64) -> Verdict {
    let catalog: Catalog = catalog();
    let instance_type = instance_type.map(|name| catalog.instance_type(name).expect("the type is known"));
    judge(report, &Expect { instance_type, bars: &catalog.bars, hosts, ..Expect::default() })
}

/// A log of our own runs, and the exit status that its recorder wrote as the last line.
pub fn fixture(name: &str) -> (String, Option<i32>) {
    let path = in_repository("tests/fixtures/nccl").join(name);
    let log = std::fs::read_to_string(&path).expect("the fixture is there");
    let status = log.lines().rev().find_map(|line| line.strip_prefix("rc=")).map(|rc| rc.parse().expect("a number"));
    (log, status)
}

/// A folder of other people's samples, which are no part of the project: they are where `EFA_GEN_SHARED` says.
pub fn shared(folder: &str) -> PathBuf {
    let samples = std::env::var_os("EFA_GEN_SHARED").expect("EFA_GEN_SHARED must name the folder of the samples");
    let path = PathBuf::from(samples).join(folder);
    assert!(path.is_dir(), "{} is not there", path.display());
    path
}
