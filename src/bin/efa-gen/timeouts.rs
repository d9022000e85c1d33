//! Owns how long efa-gen waits: for EC2, for machines, for programs on them. What a user can choose is not here.

use std::time::Duration;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// How long EC2 may take to know what it has just made (AWS EC2 API Reference, "Eventual consistency").
pub const VISIBLE: Duration = minutes(1);
/// Between two questions about something that EC2 does not know yet.
pub const VISIBLE_EVERY: Duration = seconds(1);
/// How long EC2 may take to list what it has just launched, where nothing else tells of it.
pub const LISTED: Duration = seconds(4);
/// After this long EC2 surely lists what it has launched (AWS EC2 API Reference, "Eventual consistency": minutes).
pub const SURELY_LISTED: Duration = minutes(10);

/// From RunInstances to the host keys on the console: boot and cloud-init of an old distribution on a small type.
pub const BUILDER_BOOTS: Duration = minutes(15);
/// Between two looks at a builder's console, for which EC2 has no waiter.
pub const CONSOLE_EVERY: Duration = seconds(5);
/// The same for a cluster's node; a type with eight GPUs takes its time.
pub const NODE_BOOTS: Duration = minutes(20);
/// Between two looks at the nodes of a cluster.
pub const NODES_EVERY: Duration = seconds(2);
/// How long a builder may take until it can be logged in to: a boot, with a file system check.
pub const BUILDER_LOGIN: Duration = minutes(15);
/// How long a login is tried between two looks at whether the builder is still there.
pub const LOGIN_TRY: Duration = seconds(20);
/// From a node's host keys to a login; and until an elastic address is associated.
pub const NODE_LOGIN: Duration = minutes(5);
/// Between two logins that are tried.
pub const LOGIN_EVERY: Duration = seconds(1);
/// Before a stage is tried again that another process is still running.
pub const STAGE_LOCKED: Duration = seconds(10);
/// Between two looks at whether a machine is back from its reboot.
pub const REBOOT_EVERY: Duration = seconds(1);
/// For a log that is fetched on the way to an error.
pub const LOG_FETCH: Duration = minutes(1);

/// From the seal's beginning to its mark on the console.
pub const SEAL: Duration = minutes(10);
/// From StopInstances to `stopped`: a shutdown that hangs is cut off by EC2 after some minutes.
pub const STOP: Duration = minutes(15);
/// From TerminateInstances to `terminated`; machines with GPUs take minutes.
pub const TERMINATION: Duration = minutes(15);

/// For an image or a copy to be available: snapshots of large disks take long, across oceans longer.
pub const IMAGE_AVAILABLE: Duration = minutes(120);
/// From CreateImage or CopyImage until the image is finished: available, tested and copied, with room for one repeat. A sweep on
/// another machine leaves it alone that long.
pub const IMAGE_FINISHED: Duration = minutes(480);
/// From a run's begin until its copies are finished: the longest life of a builder (`--deadline`), and [`IMAGE_FINISHED`].
pub const RUN_FINISHED: Duration = minutes(2880 + 480);
/// How long an image that EC2 has named may be unknown to it, or not the same everywhere.
pub const IMAGE_CONSISTENT: Duration = minutes(1);
/// How long EC2 and Parameter Store may take to show what they were just told.
pub const CHANGE_SHOWN: Duration = seconds(30);
/// Between two reads of the same.
pub const READ_EVERY: Duration = seconds(1);
/// How long a deregistered image may still be listed, and its snapshots count as used.
pub const DEREGISTERED: Duration = minutes(5);
/// Between two looks at an image that is going away.
pub const DEREGISTERED_EVERY: Duration = seconds(2);

/// How long a security group may still be in use by interfaces that are going away.
pub const RELEASED: Duration = minutes(2);
/// Between two tries at something that is still in use.
pub const RELEASED_EVERY: Duration = seconds(3);
/// Before each further look of a clean-up: listings lag behind what was done, and a snapshot may appear after its image went.
pub const LOOKS_AGAIN: [Duration; 3] = [seconds(2), seconds(4), seconds(8)];

/// How long an install at the first boot may take: driver, CUDA, NCCL and the reboots between them.
pub const FIRST_BOOT_INSTALL: Duration = minutes(120);
/// Between two looks at it.
pub const FIRST_BOOT_INSTALL_EVERY: Duration = seconds(10);
/// How long a node may take to answer the questions of a check. One that asks hundreds of others takes a while.
pub const NODE_ANSWER: Duration = minutes(5);

/// How long the answer to a short question about the first host may take.
pub const QUESTION: Duration = minutes(1);
/// Before a test's time is over, NCCL's RAS is asked who is missing, which may take twenty seconds, and then the hosts.
pub const BEFORE_THE_END: Duration = seconds(45);
/// How long the hosts of a test may take together to execute a short script.
pub const HOSTS_ANSWER: Duration = seconds(20);
/// How long the NCCL test of one pair of hosts may take.
pub const PAIR_TEST: Duration = minutes(2);
/// How long the far side may take beyond a test's own limit: it ends its program itself, and must get that far.
pub const TEST_SLACK: Duration = seconds(30);

/// How long ssh may take to tell how the user's own configuration leads to a host; a `Match exec` there may run a program.
pub const SSH_ROUTE: Duration = seconds(30);
