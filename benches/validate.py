#!/usr/bin/env python3
"""How fast is `efa-gen validate`, beside `grep -c`? Prints a Markdown table of medians.

    benches/validate.py [BINARY]

Makes a log of 1 GB in TMPDIR: INFO lines of 1,024 ranks on 128 hosts, interleaved, with the rows of a run that passes
at the end. Without BINARY, target/release/efa-gen is used. Each round runs every command once, so that a busy moment
hits all alike. `grep` runs in the C locale, its fastest.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import peak

RANKS, GPUS, ROUNDS = 1024, 8, int(os.environ.get("ROUNDS", "5"))
SIZE = int(os.environ.get("MEGABYTES", "1000")) * 1_000_000


def said(rank: int) -> Iterator[str]:
    """What one rank says when it starts."""
    yield "Bootstrap: Using eth0:10.0.0.1<0>"
    yield "NCCL version 2.28.9+cuda13.0"
    yield "NET/OFI Initializing aws-ofi-nccl 1.17.3"
    yield "NET/OFI Selected provider is efa, fabric is efa-direct (found 32 nics)"
    yield "Using network Libfabric"


def more(rank: int, at: int) -> str:
    """A line of the kinds that a real log of NCCL 2.28 is full of, in their proportion."""
    to, kind = (rank + 1) % RANKS, at % 16
    edge = f"Channel {at % 24:02}/0 : {rank}[{rank % GPUS}] -> {to}[{to % GPUS}]"
    if kind < 8:
        return f"{edge} via P2P/CUMEM"
    if kind < 10:
        way = "[send]" if kind == 8 else "[receive]"
        return f"{edge} {way} via NET/Libfabric/{at % 32}/GDRDMA"
    return (
        f"Channel {at % 24:02}/24 : 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
        "Trees [0] 1/-1/-1->0->-1 [1] -1/-1/-1->0->1 [2] 1/-1/-1->0->-1 [3] -1/-1/-1->0->1",
        "threadThresholds 8/8/64 | 16/8/64 | 512 | 512",
        "24 coll channels, 24 collnet channels, 0 nvls channels, 32 p2p channels, 32 p2p channels per peer",
        "Connected all rings, use ring PXN 0 GDR 1",
        "ncclTopoGetCpuAffinity: Affinity for GPU 1 is empty, ignoring. (GPU affinity =  ; CPU affinity = 0-31).",
    )[kind - 10]


def head(lines: list[str]) -> None:
    steps = "minBytes 8 maxBytes 1073741824 step: 2(factor) warmup iters: 5 iters: 100"
    lines.append(f"# nThread 1 nGpus 1 {steps} validation: 1")
    lines.append("# Using devices")
    for rank in range(RANKS):
        place = f"ip-10-0-0-{rank // GPUS} device {rank % GPUS:2}"
        lines.append(f"#  Rank {rank:2} Group  0 Pid {4000 + rank:6} on {place} [0x10] H100")


def tail(lines: list[str]) -> None:
    each = "     time   algbw   busbw #wrong"
    lines.append("#       size         count      type   redop    root" + each + each)
    for at in range(28):
        two = "   164.3   90.00  100.00      0   163.3   90.00  100.00      0"
        lines.append(f"{8 << at:12}  {2 << at:12}     float     sum      -1{two}")
    lines += ["# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 100"]


def make(path: str) -> None:
    order = random.Random(1)
    prefix = [
        f"ip-10-0-0-{rank // GPUS}:{4000 + rank}:{6000 + rank} [{rank % GPUS}] NCCL INFO " for rank in range(RANKS)
    ]
    lines: list[str] = []
    head(lines)
    first = [(rank, text) for rank in range(RANKS) for text in said(rank)]
    order.shuffle(first)
    lines += [prefix[rank] + text for rank, text in first]
    with open(path, "w") as log:
        log.write("\n".join(lines) + "\n")
        # 64 different blocks, so that no line predictor learns the log by heart.
        blocks = []
        for _ in range(64):
            ranks = [(order.randrange(RANKS), order.randrange(16 * 24)) for _ in range(4000)]
            blocks.append("".join(f"{prefix[rank]}{more(rank, at)}\n" for rank, at in ranks))
        while log.tell() < SIZE:
            log.write(order.choice(blocks))
        lines = []
        tail(lines)
        log.write("\n".join(lines) + "\n")


def run(command: list[str]) -> tuple[float, float, str]:
    """Seconds and peak memory (MB) of one command, which must succeed."""
    begin = time.monotonic()
    environment = {**os.environ, "LC_ALL": "C"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    assert child.stdout is not None
    memory = peak.memory(child, command[0])
    seconds = time.monotonic() - begin
    output = child.stdout.read().decode()
    if child.returncode != 0:
        sys.exit(f"exit {child.returncode}: {' '.join(command)}\n{output}")
    return seconds, memory, output


def main() -> None:
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/efa-gen"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "log")
        make(path)
        size = os.path.getsize(path)
        commands = {
            "grep -c 'NCCL INFO' (every line)": ["grep", "-c", "NCCL INFO", path],
            "grep -c 'via NET/' (one line in eight)": ["grep", "-c", "via NET/", path],
            "grep -c 'Selected provider' (few lines)": ["grep", "-c", "Selected provider", path],
            "efa-gen validate": [binary, "validate", "--hosts", "128", "--log", path],
        }
        seen: dict[str, list[tuple[float, float, str]]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                seen[name].append(run(command))
        assert "VERDICT: PASS" in seen["efa-gen validate"][0][2], seen["efa-gen validate"][0][2]
        own = statistics.median(seconds for seconds, _, _ in seen["efa-gen validate"])
        print(f"{size / 1e6:.0f} MB\n\n| command | median s | MB/s | peak MB | validate's time to it |")
        print("|---|---|---|---|---|")
        for name, runs in seen.items():
            median = statistics.median(seconds for seconds, _, _ in runs)
            memory = max(memory for _, memory, _ in runs)
            print(f"| {name} | {median:.3f} | {size / 1e6 / median:.0f} | {memory:.1f} | {own / median:.2f} |")


main()
