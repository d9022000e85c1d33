#!/usr/bin/python3
"""Starts, stops and steers the rehearsal cloud: a small EC2 of real parts on one Linux machine.

  control.py up FOLDER               start it; all that it is lies in FOLDER
  control.py down FOLDER             end it; FOLDER goes too
  control.py run FOLDER COMMAND...   run a command on the cloud's network, where AWS's names are the cloud's API
  control.py ec2 FOLDER CALL [JSON]  one EC2 call by its boto3 name, arguments and answer as JSON
  control.py steer FOLDER VERB [NAME=VALUE...]   what no EC2 call does; the table in cloud/daemon.py has
                                   the verbs

Needs root, Debian's systemd-container, mmdebstrap, iproute2, openssl and openssh-client, and for the first start a
network to fetch from. It makes mounts, network namespaces and processes only below namespaces of its own, so ending its
one process ends them all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
CACHE = os.environ.get("EFA_GEN_REHEARSAL_CACHE") or os.path.expanduser("~/.cache/efa-gen-rehearsal")
PYTHON = os.path.join(CACHE, "venv", "bin", "python")
REQUIREMENTS = os.path.join(HERE, "requirements.txt")


def fail(message, status=1):
    sys.exit(f"control.py: {message}") if status == 1 else (print(f"control.py: {message}", file=sys.stderr), sys.exit(status))


def main():
    arguments = sys.argv[1:]
    verbs = {"up": up, "down": down, "run": run, "ec2": ec2, "steer": steer}
    if len(arguments) < 2 or arguments[0] not in verbs:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    if os.geteuid() != 0:
        fail("the rehearsal needs root: it makes mounts and network namespaces of its own", 9)
    verbs[arguments[0]](os.path.realpath(arguments[1]), *arguments[2:])


def up(folder):
    if os.path.exists(folder):
        fail(f"{folder} exists already")
    for program in ("unshare", "nsenter", "ip", "openssl", "ssh", "ssh-keygen", "systemd-nspawn", "mmdebstrap"):
        if not shutil.which(program):
            fail(f"{program} is missing")
    rootfs = subprocess.run([os.path.join(HERE, "rootfs.sh")], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    make_venv()
    # A signal to end is an exception too, so that nothing is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        start(folder, rootfs)
    except BaseException:
        end(folder, signal.SIGKILL)
        raise


def start(folder, rootfs):
    os.makedirs(os.path.join(folder, "mirror"))
    os.chmod(folder, 0o711)
    make_certificates(folder)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", f"{folder}/key"], check=True)
    with open(f"{folder}/resolv.conf", "w", encoding="ascii") as file:
        file.write("nameserver 10.78.0.2\n")
    with open("/proc/self/ns/net", "rb") as host_network, open(f"{folder}/log", "ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", PYTHON,
             "-m", "cloud.daemon", folder, rootfs, shutil.which("systemd-nspawn"), CACHE,
             str(host_network.fileno())],
            pass_fds=[host_network.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=HERE,
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
    ec2(folder, "import_key_pair", json.dumps({"KeyName": "rehearsal", "PublicKeyMaterial": read(f"{folder}/key.pub")}))


def make_venv():
    """The Python packages, once; the file that pins them is the folder's mark."""
    mark = os.path.join(CACHE, "venv", "requirements")
    if os.path.exists(mark) and read(mark) == read(REQUIREMENTS):
        return
    shutil.rmtree(os.path.join(CACHE, "venv"), ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", os.path.join(CACHE, "venv")], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", REQUIREMENTS], check=True)
    shutil.copyfile(REQUIREMENTS, mark)


def make_certificates(folder):
    """A certificate authority of this cloud alone, and a certificate for the names of AWS's API."""
    names = ["*.amazonaws.com"] + [f"*.{region}.amazonaws.com" for region in ("us-east-1", "us-west-2", "eu-west-1", "eu-west-3", "eu-north-1", "ca-west-1")]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    subprocess.run([*new, "-subj", "/CN=rehearsal", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt"], **quiet)
    subprocess.run(
        [*new, "-subj", "/CN=amazonaws.com", "-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt",
         "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-addext", "basicConstraints=critical,CA:FALSE",
         "-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)], **quiet)


def process_of(folder):
    """Process id of the cloud's outermost process, or None. A number that another process has by now is not it."""
    try:
        pid = int(read(f"{folder}/pid"))
        command = read(f"/proc/{pid}/cmdline").split("\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    ours = any(word == "cloud.daemon" and after == folder for word, after in zip(command, command[1:]))
    return pid if ours else None


def children_of(pid):
    try:
        return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def daemon_of(folder):
    """Process id, on this machine, of the cloud's one process."""
    pid = process_of(folder)
    children = children_of(pid) if pid else []
    if not children:
        fail(f"no cloud runs in {folder}")
    return children[0]


def down(folder):
    if not os.path.isdir(folder):
        fail(f"no cloud runs in {folder}")
    found = process_of(folder)
    log = end(folder, signal.SIGTERM)
    if log is not None and found:
        fail("not all of it could be ended in order:\n" + log)
    if not found:
        print("control.py: it had ended by itself", file=sys.stderr)


def end(folder, number):
    """Ends the cloud by this signal and removes what is left of it, also of one that has crashed. Returns its log if it
    did not end in order."""
    pid = process_of(folder)
    family = [pid, *children_of(pid)] if pid else []
    for child in family[1:]:
        send(child, number)
    if not gone(family, 60) and process_of(folder):
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


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def gone(pids, seconds):
    """Waits until none of these runs; returns whether. One that has ended and is only waited for does not run."""
    until = time.monotonic() + seconds
    while any(running(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def running(pid):
    try:
        return read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def environment(folder):
    """The caller's, without what leads elsewhere, and with what leads to this cloud."""
    own = {name: value for name, value in os.environ.items()
           if not name.upper().endswith("_PROXY") and not name.upper().startswith("AWS_")}
    return {
        **own, "AWS_ACCESS_KEY_ID": "rehearsal", "AWS_SECRET_ACCESS_KEY": "rehearsal", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CA_BUNDLE": f"{folder}/ca.crt", "SSL_CERT_FILE": f"{folder}/ca.crt",
    }


def run(folder, *command):
    # Names are resolved by the cloud's name server, in a mount namespace of this command alone.
    inner = 'mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'
    enter = ["nsenter", f"--net=/proc/{daemon_of(folder)}/ns/net", "unshare", "--mount", "sh", "-c", inner, folder]
    os.execvpe("nsenter", [*enter, *command], environment(folder))


CALL = """
import boto3, json, sys
from botocore.exceptions import ClientError
client = boto3.client("ec2", region_name="us-east-1", endpoint_url="http://10.78.0.1", aws_access_key_id="rehearsal",
                      aws_secret_access_key="rehearsal")
try:
    answer = getattr(client, sys.argv[1])(**json.loads(sys.argv[2]))
except ClientError as error:
    sys.exit(f"{error.response['Error']['Code']}: {error.response['Error']['Message']}")
answer.pop("ResponseMetadata", None)
print(json.dumps(answer, default=lambda value: value.decode() if isinstance(value, bytes) else str(value)))
"""


def ec2(folder, call, arguments="{}"):
    done = subprocess.run(["nsenter", f"--net=/proc/{daemon_of(folder)}/ns/net", PYTHON, "-c", CALL, call, arguments],
                          check=False, env=environment(folder), stdout=subprocess.PIPE, text=True)
    if sys.argv[1] == "ec2":
        print(done.stdout, end="")
    if done.returncode != 0:
        sys.exit(done.returncode)


def steer(folder, verb, *values):
    url = f"http://10.78.0.1/{verb}?" + "&".join(values)
    os.execvpe("nsenter", ["nsenter", f"--net=/proc/{daemon_of(folder)}/ns/net", "curl", "--silent", "--show-error",
                           "--fail-with-body", "--header", "Host: steer.rehearsal.test", url], environment(folder))


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    main()
