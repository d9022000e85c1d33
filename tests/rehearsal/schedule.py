#!/usr/bin/python3
"""Runs the rehearsal's tests, each as a process of its own, as many side by side as this machine bears.

  schedule.py BINARY [--alone NAME]... [--jobs N] [--record] [TEST...]

BINARY is the test binary; TEST is a part of a test's name. The longest test begins first, by the times of the run
before (times.tsv); one that is new there counts as long. A guest mostly waits, so memory says how many tests run at
once: a quarter of it is left free. A test that must have the machine to itself (--alone) comes last. What a test prints
is shown when it fails; a failure ends nothing else. At the end stands a table by time. --record writes the times of
this run to times.tsv."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, Any

HERE = os.path.dirname(os.path.realpath(__file__))
TIMES = os.path.join(HERE, "times.tsv")
# A test takes minutes; one that takes half an hour is stuck.
LIMIT = 1800
# What a test's machines may take of memory; at six tests side by side two cores have no idle time left.
TEST_GIB = 3.8
# How many tests may begin in a second: machines that boot at the same moment slow each other down.
PAUSE = 2.0


@dataclass
class Test:
    name: str
    output: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    seconds: float = 0.0
    passed: bool = False

    def start(self, binary: str) -> None:
        line = [binary, "--exact", self.name, "--ignored", "--test-threads", "1"]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def ended(self) -> bool:
        """Whether it is over. One that takes too long is ended."""
        assert self.process
        if self.process.poll() is None:
            if time.monotonic() - self.began < LIMIT:
                return False
            self.kill()
            self.output.write(f"\nended after {LIMIT} s\n".encode())
        self.seconds = time.monotonic() - self.began
        self.passed = self.process.returncode == 0 and "1 passed" in self.text()
        return True

    def kill(self) -> None:
        """With all that it has started."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def text(self) -> str:
        self.output.seek(0)
        return self.output.read().decode(errors="replace")


def main() -> None:
    options = arguments()
    tests = chosen(options.binary, options.names)
    if not tests:
        sys.exit(f"schedule.py: no test is called so: {' '.join(options.names)}")
    known = times()
    tests.sort(key=lambda test: known.get(test.name, LIMIT), reverse=True)
    alone = [test for test in tests if any(name in test.name for name in options.alone)]
    jobs = options.jobs or max(2, int(gib("MemTotal") / TEST_GIB))
    print(f"{len(tests)} tests, {jobs} at a time; {len(alone)} of them alone", flush=True)
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run([test for test in tests if test not in alone], jobs, options.binary)
        run(alone, 1, options.binary)
    finally:
        for test in tests:
            test.kill()
    table(tests, time.monotonic() - begun)
    if options.record:
        record(tests, known)
    failed = [test.name for test in tests if not test.passed]
    print(f"{len(tests) - len(failed)} passed, {len(failed)} failed", flush=True)
    if failed:
        print("failed: " + " ".join(failed), flush=True)
        sys.exit(1)


def arguments() -> Any:
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument("binary")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--alone", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    return parser.parse_intermixed_args()


def chosen(binary: str, names: list[str]) -> list[Test]:
    listed = subprocess.run([binary, "--ignored", "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout
    tests = [line.removesuffix(": test") for line in listed.splitlines() if line.endswith(": test")]
    return [Test(test) for test in tests if not names or any(name in test for name in names)]


def run(waiting: list[Test], jobs: int, binary: str) -> None:
    waiting = list(waiting)
    running: list[Test] = []
    last = 0.0
    while waiting or running:
        for test in [test for test in running if test.ended()]:
            running.remove(test)
            print(f"{'ok    ' if test.passed else 'FAILED'} {test.seconds:6.0f} s  {test.name}", flush=True)
            if not test.passed:
                print(test.text(), flush=True)
        room = len(running) < jobs and (not running or gib("MemAvailable") > gib("MemTotal") / 4)
        if waiting and room and time.monotonic() - last > PAUSE:
            test = waiting.pop(0)
            test.start(binary)
            running.append(test)
            last = time.monotonic()
        time.sleep(0.2)


def gib(name: str) -> float:
    """A figure of /proc/meminfo."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) / (1 << 20) for line in file if line.startswith(name + ":"))


def times() -> dict[str, float]:
    with open(TIMES, encoding="ascii") as file:
        rows = [line.split("\t") for line in file.read().splitlines() if not line.startswith("#")]
    return {name: float(seconds) for seconds, name in rows}


def table(tests: list[Test], seconds: float) -> None:
    print(f"\nseconds  test                ({len(tests)} tests, {sum(test.seconds for test in tests):.0f} s in all"
          f", {seconds:.0f} s side by side)")
    for test in sorted(tests, key=lambda test: -test.seconds):
        print(f"{test.seconds:7.0f}  {test.name}")


def record(tests: list[Test], known: dict[str, float]) -> None:
    new = {**known, **{test.name: test.seconds for test in tests if test.passed}}
    with open(TIMES, "w", encoding="ascii") as file:
        file.write("# Seconds that each test of the rehearsal took; written by schedule.py --record.\n")
        file.writelines(f"{seconds:.0f}\t{name}\n" for name, seconds in sorted(new.items(), key=lambda row: -row[1]))


if __name__ == "__main__":
    main()
