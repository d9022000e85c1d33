#!/usr/bin/env python3
"""How does a launch grow with its nodes? Prints Markdown tables: launches of light hosts (a network namespace and an
sshd each) in the rehearsal cloud, one after the other, and one command on all of their nodes by efa-gen, by a loop of
ssh, by clustershell and by pdsh in the same run.

  benches/launch.py [EFA-GEN-BINARY] [--nodes 8,64,256]

A launch is from the command to its end: nodes launched, host keys learnt, logins, trust given, every node checked. All
hosts are on this one machine, so their sshd's work is in every figure. Needs what tests/rehearsal/run needs, and
Debian's clustershell and pdsh."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from typing import Any

HERE = os.path.dirname(os.path.realpath(__file__))
CLOUD = os.path.join(HERE, "..", "tests", "rehearsal", "control.py")
REGION = "us-east-1"
# One EFA device, no GPU.
KIND = "c5n.18xlarge"
CHECK_FAILED = 7


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", nargs="?", default=os.path.join(HERE, "..", "target", "debug", "efa-gen"))
    parser.add_argument("--nodes", default="8,64,256")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cloud = Cloud(os.path.join(folder, "cloud"), os.path.realpath(options.binary))
        try:
            rows = [cloud.measure(int(count)) for count in options.nodes.split(",")]
        finally:
            subprocess.run([CLOUD, "down", cloud.folder], check=True)
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        shown = [f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()]
        print("| " + " | ".join(shown) + " |")
    first, last = rows[0], rows[-1]
    print(f"\nT({last['nodes']}) / T({first['nodes']}): "
          + ", ".join(f"{name} {last[name] / first[name]:.1f}" for name in names[1:] if first[name]))


class Cloud:
    def __init__(self, folder: str, binary: str) -> None:
        self.folder, self.binary = folder, binary
        subprocess.run([CLOUD, "up", folder], check=True)
        steer = [CLOUD, "steer", folder, "light-image", f"region={REGION}"]
        self.image = subprocess.run(steer, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        # The cloud's own, which is in the caller's home.
        os.environ.setdefault("EFA_GEN_REHEARSAL_CACHE", os.path.expanduser("~/.cache/efa-gen-rehearsal"))
        os.environ.update(XDG_STATE_HOME=f"{folder}/state", XDG_CACHE_HOME=f"{folder}/cache", HOME=f"{folder}/home")

    def timed(self, *command: str, good: Collection[int] = (0,)) -> tuple[float, str]:
        began = time.monotonic()
        ran = subprocess.run([CLOUD, "run", self.folder, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True)
        seconds = time.monotonic() - began
        if ran.returncode not in good:
            sys.exit(f"{command}: {ran.returncode}\n{ran.stdout[-4000:]}")
        return seconds, ran.stdout

    def measure(self, count: int) -> dict[str, int | float]:
        name, place = f"n{count}", ["--region", REGION]
        flags = ["--ami", self.image, "--type", KIND, "--nodes", str(count), "--name", name,
                 "--ssh-cidr", "10.78.0.1/32"]
        launched, said = self.timed(self.binary, "launch", *flags, *place, good=(0, CHECK_FAILED))
        # The check finds no EFA. Each node must know all others, though.
        if "can't log in" in said:
            sys.exit(said[-4000:])
        bare, _ = self.launched_by_hand(count)
        ours, _ = self.timed(self.binary, "cluster", "run", name, *place, "--", "true")
        known = os.path.dirname(subprocess.run(["find", f"{self.folder}/state", "-name", "cluster.json"], check=True,
                                               stdout=subprocess.PIPE, text=True).stdout.split()[0])
        nodes = self.nodes(name)
        config = self.configuration(known, nodes)
        addresses = ",".join(address for _, address in nodes)
        loop = f"for node in {addresses.replace(',', ' ')}; do ssh -F {config} $node true || exit 1; done"
        row: dict[str, int | float] = {
            "nodes": count, "launch, s": launched, "RunInstances to running, s": bare, "efa-gen cluster run, s": ours,
        }
        clush = ["clush", "-q", "-S", "-f", "64", "-o", f"-F {config}", "-w", addresses, "true"]
        pdsh = ["env", f"PDSH_SSH_ARGS_APPEND=-F {config}", "pdsh", "-S", "-R", "ssh", "-f", "64",
                "-w", addresses, "true"]
        row["loop of ssh, s"], _ = self.timed("bash", "-c", loop)
        row["clush -f 64, s"], _ = self.timed(*clush)
        row["pdsh -f 64, s"], _ = self.timed(*pdsh)
        self.timed(self.binary, "cluster", "rm", name, *place, "--yes")
        print(f"{count}: {row}", file=sys.stderr)
        return row

    def launched_by_hand(self, count: int) -> tuple[float, list[str]]:
        """What the cloud itself takes: as many of the same launched, and looked at ten times a second until all run."""
        began = time.monotonic()
        asked = dict(ImageId=self.image, InstanceType=KIND, MinCount=count, MaxCount=count, KeyName="rehearsal")
        ids = [one["InstanceId"] for one in self.ec2("run_instances", asked)["Instances"]]
        while True:
            found = self.ec2("describe_instances", {"InstanceIds": ids})["Reservations"]
            if all(one["State"]["Name"] == "running" for group in found for one in group["Instances"]):
                break
            time.sleep(0.1)
        seconds = time.monotonic() - began
        self.ec2("terminate_instances", {"InstanceIds": ids})
        return seconds, ids

    def ec2(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        command = [CLOUD, "ec2", self.folder, call, json.dumps(arguments)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    def nodes(self, name: str) -> list[tuple[str, str]]:
        """The nodes' ids and addresses."""
        named = {"Filters": [{"Name": "tag:efa-gen:cluster", "Values": [name]}]}
        found = self.ec2("describe_instances", named)["Reservations"]
        return [(one["InstanceId"], one["PrivateIpAddress"]) for group in found for one in group["Instances"]]

    def configuration(self, known: str, nodes: list[tuple[str, str]]) -> str:
        """The same keys and the same strictness for everybody."""
        path = f"{self.folder}/ssh_config"
        with open(path, "w", encoding="ascii") as file:
            for instance, address in nodes:
                file.write(f"Host {address}\n  HostKeyAlias {instance}\n")
            file.write(f"Host *\n  User admin\n  IdentityFile {known}/key\n  IdentitiesOnly yes\n"
                       f"  UserKnownHostsFile {known}/known_hosts\n  StrictHostKeyChecking yes\n"
                       "  BatchMode yes\n  LogLevel ERROR\n")
        return path


if __name__ == "__main__":
    main()
