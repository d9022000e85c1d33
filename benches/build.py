#!/usr/bin/env python3
"""How much of a build's time is the driver's own? Prints a Markdown table: efa-gen, Packer with the rendered template,
and a driver that looks ten times a second, one after the other in the same rehearsal cloud, with the same delays.

  benches/build.py [EFA-GEN-BINARY]

  benches/build.py --side-by-side N [EFA-GEN-BINARY]

Whatever the third takes is the guest's and the cloud's own work; what the others take more is theirs. The three write
their calls of the API to the cloud's log, from which they are counted. With --side-by-side efa-gen builds one image and
then N at once, from a machine on which all but the seal is done, so that the guests have little to do. Needs what
tests/rehearsal/run needs."""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TextIO, TypeVar

HERE = os.path.dirname(os.path.realpath(__file__))
REHEARSAL = os.path.join(HERE, "..", "tests", "rehearsal")
CLOUD = os.path.join(REHEARSAL, "control.py")
CIDR = "10.78.0.1/32"
STAGES = (
    "prepare", "update", "kernel", "driver", "efa", "nccl", "plugin", "nccl-tests", "environment", "check", "seal",
)
Found = TypeVar("Found")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", nargs="?", default=os.path.join(HERE, "..", "target", "debug", "efa-gen"))
    parser.add_argument("--side-by-side", type=int, default=0)
    options = parser.parse_args()
    build_tools = os.path.join(REHEARSAL, "..", "tools", "build")
    tools = subprocess.run([build_tools], check=True, stdout=subprocess.PIPE, text=True)
    packer = os.path.join(tools.stdout.strip(), "packer")
    with tempfile.TemporaryDirectory() as folder:
        cloud = Cloud(os.path.join(folder, "cloud"), os.path.realpath(options.binary))
        try:
            measure(cloud, packer, folder, options.side_by_side)
        finally:
            subprocess.run([CLOUD, "down", cloud.folder], check=True)


def measure(cloud: "Cloud", packer: str, folder: str, side_by_side: int) -> None:
    if side_by_side:
        together(cloud, side_by_side)
        return
    runs = {
        "looking ten times a second": lambda: bare(cloud, STAGES),
        "Packer, rendered template": lambda: by_packer(cloud, packer, folder),
        "efa-gen build": lambda: cloud.build("--force"),
    }
    rows = {name: cloud.timed(run) for name, run in runs.items()}
    least = rows["looking ten times a second"][0]
    theirs = rows["Packer, rendered template"][0] - least
    print("| driver | s | more than the least | beside Packer's | calls |\n|---|---|---|---|---|")
    for name, (seconds, calls) in rows.items():
        more = seconds - least
        print(f"| {name} | {seconds:.1f} | {more:.1f} | {more / theirs:.2f} | {sum(calls.values())} |")
    for name, (_, calls) in rows.items():
        print(f"\n{name}: " + ", ".join(f"{call} {count}" for call, count in sorted(calls.items())))


def together(cloud: "Cloud", count: int) -> None:
    """One build and then several at once, each from a machine that has only to boot, to be checked and to be sealed."""
    ready = bare(cloud, STAGES[:-1])
    print("| builds at once | s | beside one |\n|---|---|---|")
    one = None
    for number in (1, count):
        names = [f"bench-{number}-{n}" for n in range(number)]
        builds = [partial(cloud.build, "--force", "--source-ami", ready, "--name", name) for name in names]
        seconds, _ = cloud.timed(partial(in_parallel, builds))
        one = one or seconds
        print(f"| {number} | {seconds:.1f} | {seconds / one:.2f} |", flush=True)


def in_parallel(runs: Sequence[Callable[[], None]]) -> None:
    children: list[int] = []
    for run in runs:
        pid = os.fork()
        if pid == 0:
            try:
                run()
                os._exit(0)
            except BaseException as error:
                print(error, file=sys.stderr)
                os._exit(1)
        children.append(pid)
    if any([os.waitpid(pid, 0)[1] for pid in children]):
        sys.exit("one of them failed")


class Cloud:
    def __init__(self, folder: str, binary: str) -> None:
        self.folder, self.binary = folder, binary
        subprocess.run([CLOUD, "up", folder], check=True)
        subprocess.run([os.path.join(REHEARSAL, "artifacts.py"), folder], check=True, stdout=subprocess.DEVNULL)
        self.recipe = ["--distro", "debian12", "--stack", "rehearsal", "--stack-file", f"{folder}/stack.toml",
                       "--mirror", "http://mirror.rehearsal.test"]
        self.build("--plan")  # The binary and the archive's cache are warm for all.

    def timed(self, run: Callable[[], object]) -> tuple[float, collections.Counter[str]]:
        """The seconds that it took, and its calls of the API."""
        log = f"{self.folder}/log"
        began, from_here = time.monotonic(), os.path.getsize(log)
        run()
        seconds = time.monotonic() - began
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(from_here)
            calls = re.findall(r"^call (\S+)", file.read(), re.MULTILINE)
        return seconds, collections.Counter(calls)

    def run(self, *command: str, cwd: str | None = None, env: dict[str, str] | None = None,
            stdin: TextIO | None = None) -> tuple[int, str]:
        environment = {**os.environ, "XDG_STATE_HOME": f"{self.folder}/state", "XDG_CACHE_HOME": f"{self.folder}/cache"}
        ran = subprocess.run([CLOUD, "run", self.folder, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, env={**environment, **(env or {})}, cwd=cwd, stdin=stdin)
        return ran.returncode, ran.stdout

    def build(self, *flags: str) -> None:
        code, said = self.run(self.binary, "build", *self.recipe, "--region", "us-east-1", "--ssh-cidr", CIDR, *flags)
        if code:
            sys.exit(f"efa-gen build {flags}: {code}\n{said}")

    def ec2(self, call: str, **arguments: Any) -> dict[str, Any]:
        command = [CLOUD, "ec2", self.folder, call, json.dumps(arguments)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    def until(self, ready: Callable[[], Found]) -> Found:
        while not (found := ready()):
            time.sleep(0.1)
        return found


def render(cloud: Cloud, form: str, out: str) -> None:
    command = [cloud.binary, "render", *cloud.recipe, "--format", form, "--out", out]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def by_packer(cloud: Cloud, packer: str, folder: str) -> None:
    out = os.path.join(folder, "packer")
    render(cloud, "all", out)
    home = os.path.join(os.path.dirname(packer), "home")
    code, said = cloud.run(packer, "build", "-var", f'ssh_cidrs=["{CIDR}"]', ".", cwd=out,
                           env={"HOME": home, "CHECKPOINT_DISABLE": "1"})
    if code:
        sys.exit(f"packer: {code}\n{said}")


def host_keys(cloud: Cloud, machine: str) -> list[str]:
    """Its public host keys, as cloud-init prints them to the console; nothing before that."""
    console = cloud.ec2("get_console_output", InstanceId=machine, Latest=True).get("Output", "")
    found = re.search("-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", console, re.DOTALL)
    return re.findall(r"^(?:ssh|ecdsa)-\S+ \S+", found[1], re.MULTILINE) if found else []


def bare(cloud: Cloud, stages: Sequence[str]) -> str:
    """The same work, each step begun at once. Returns the image."""
    named = [{"Name": "name", "Values": ["debian-12-amd64-*"]}]
    images = cloud.ec2("describe_images", Owners=["136693071363"], Filters=named)
    base = max(images["Images"], key=lambda image: image["CreationDate"])
    machine = cloud.ec2("run_instances", ImageId=base["ImageId"], InstanceType="c5.4xlarge", MinCount=1, MaxCount=1,
                        KeyName="rehearsal", MetadataOptions={"HttpTokens": "required"})["Instances"][0]["InstanceId"]

    def seen() -> dict[str, Any]:
        return cloud.ec2("describe_instances", InstanceIds=[machine])["Reservations"][0]["Instances"][0]

    address = cloud.until(lambda: seen().get("PrivateIpAddress"))
    known = f"{cloud.folder}/known-{machine}"
    with open(known, "w", encoding="ascii") as file:
        file.writelines(f"{machine} {key}\n" for key in cloud.until(lambda: host_keys(cloud, machine)))
    ssh = ["ssh", "-q", "-i", f"{cloud.folder}/key", "-o", "StrictHostKeyChecking=yes",
           "-o", f"UserKnownHostsFile={known}", "-o", f"HostKeyAlias={machine}", "-o", "BatchMode=yes",
           "-o", "ConnectTimeout=5", f"admin@{address}"]
    cloud.until(lambda: cloud.run(*ssh, "true")[0] == 0)
    out = f"{cloud.folder}/bare-{machine}"
    render(cloud, "script", out)
    with open(f"{out}/install.sh", encoding="utf-8") as script:
        code, said = cloud.run(*ssh, "cat >i.sh && sudo install -D i.sh /var/lib/efa-gen/install.sh", stdin=script)
    for stage in stages:
        code, said = cloud.run(*ssh, f"sudo bash /var/lib/efa-gen/install.sh --stage {stage}")
        if "rebooting" in said:
            cloud.until(lambda: cloud.run(*ssh, "sudo bash /var/lib/efa-gen/install.sh --after-reboot")[0] == 0)
        elif code:
            sys.exit(f"{stage}: {said}")
    cloud.ec2("stop_instances", InstanceIds=[machine])
    cloud.until(lambda: seen()["State"]["Name"] == "stopped")
    image = cloud.ec2("create_image", InstanceId=machine, Name=f"bare-{machine}")["ImageId"]
    cloud.until(lambda: cloud.ec2("describe_images", ImageIds=[image])["Images"][0]["State"] == "available")
    cloud.ec2("terminate_instances", InstanceIds=[machine])
    cloud.until(lambda: seen()["State"]["Name"] == "terminated")
    return image


if __name__ == "__main__":
    main()
