#!/usr/bin/python3
"""Makes the mirror's stand-in artifacts, signs them with a key of their own, and writes the stack file that pins them.

  artifacts.py FOLDER

Owns what lies in FOLDER/mirror/HOST/PATH, FOLDER/stack.toml and FOLDER/installed (what light hosts have of an install).
The versions are those of a real stack, so the plan is the real one but for digests and commits. Needs gpg, git and tar.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

KEY = "rehearsal.key"
HERE = os.path.join(os.path.dirname(os.path.realpath(__file__)), "artifacts")
VERSIONS = {
    "efa": "1.50.0", "driver": "580.159.04", "cuda": "13.0.2", "nccl": "2.30.4", "plugin": "1.17.3", "tests": "2.18.3",
}
GDRCOPY = "2.5.2"
NVLSM = "2025.06.5"
REDIST = "compute/cuda/redist/fabricmanager/linux-x86_64"
NVLSM_REDIST = "compute/cuda/redist/nvlsm/linux-x86_64"
NVLSM_ARCHIVE = f"nvlsm-linux-x86_64-{NVLSM}-archive"
FABRIC_MANAGER = f"fabricmanager-linux-x86_64-{VERSIONS['driver']}-archive"

STACK = """# Stand-in artifacts of the rehearsal, in the form of src/catalog/data/pins.toml.
[[efa]]
version = "{efa}"
download = {{ url = "{efa_url}", sha256 = "{efa_sha256}", published = "the rehearsal" }}
signer = {{ fingerprint = "{fingerprint}", key = "https://efa-installer.amazonaws.com/{key}" }}

[[driver]]
version = "{driver}"
download = {{ url = "{driver_url}", sha256 = "{driver_sha256}", published = "the rehearsal" }}
fabric_manager = {{ url = "{fabric_url}", sha256 = "{fabric_sha256}", published = "the rehearsal" }}
[driver.nvlsm]
version = "{nvlsm}"
download = {{ url = "{nvlsm_url}", sha256 = "{nvlsm_sha256}", published = "the rehearsal" }}

[[cuda]]
version = "{cuda}"
architectures = ["sm_70", "sm_80", "sm_90", "sm_100"]
space_mib = 1000
download = {{ url = "{cuda_url}", sha256 = "{cuda_sha256}", published = "the rehearsal" }}

[[nccl]]
version = "{nccl}-1"
url = "https://github.com/NVIDIA/nccl.git"
commit = "{nccl_commit}"
published = "the rehearsal"

[[plugin]]
version = "{plugin}"
efa = {{ first = "1.44.0" }}
prefix = "/opt/aws-ofi-nccl"
library = "libnccl-net-ofi.so"
[plugin.source]
url = "https://github.com/aws/aws-ofi-nccl.git"
commit = "{plugin_commit}"
published = "the rehearsal"
configure = ["--enable-platform-aws"]

[[nccl_tests]]
version = "{tests}"
url = "https://github.com/NVIDIA/nccl-tests.git"
commit = "{tests_commit}"
published = "the rehearsal"
make = ["CXXSTD=-std=c++17"]

[[gdrcopy]]
version = "{gdrcopy}"
url = "https://github.com/NVIDIA/gdrcopy.git"
commit = "{gdrcopy_commit}"
published = "the rehearsal"

[[stack]]
id = "rehearsal"
title = "Stand-ins of EFA {efa}, CUDA {cuda}, NCCL {nccl}"
efa = "{efa}"
cuda = "{cuda}"
driver = "{driver}"
nccl = "{nccl}-1"
plugin = "{plugin}"
nccl_tests = "{tests}"
gdrcopy = "{gdrcopy}"
run_environment = []
"""


def main(folder: str) -> None:
    mirror = os.path.join(folder, "mirror")
    facts = dict(VERSIONS, nvlsm=NVLSM, gdrcopy=GDRCOPY)
    driver_version, cuda_version = VERSIONS["driver"], VERSIONS["cuda"]
    driver_path = f"tesla/{driver_version}/NVIDIA-Linux-x86_64-{driver_version}.run"
    cuda_path = f"compute/cuda/{cuda_version}/local_installers/cuda_{cuda_version}_linux.run"
    for name, (host, path, make) in {
        "efa": ("efa-installer.amazonaws.com", f"aws-efa-installer-{VERSIONS['efa']}.tar.gz", efa_tarball),
        "driver": ("us.download.nvidia.com", driver_path, driver),
        "fabric": ("developer.download.nvidia.com", f"{REDIST}/{FABRIC_MANAGER}.tar.xz", fabric_manager),
        "nvlsm": ("developer.download.nvidia.com", f"{NVLSM_REDIST}/{NVLSM_ARCHIVE}.tar.xz", nvlsm),
        "cuda": ("developer.download.nvidia.com", cuda_path, cuda),
    }.items():
        file = os.path.join(mirror, host, path)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        make(file)
        facts[f"{name}_url"] = f"https://{host}/{path}"
        with open(file, "rb") as opened:
            facts[f"{name}_sha256"] = hashlib.sha256(opened.read()).hexdigest()
    for name, source, repository in (("nccl", "nccl", "NVIDIA/nccl"), ("plugin", "plugin", "aws/aws-ofi-nccl"),
                                     ("tests", "nccl-tests", "NVIDIA/nccl-tests"),
                                     ("gdrcopy", "gdrcopy", "NVIDIA/gdrcopy")):
        facts[f"{name}_commit"] = git_repository(source, os.path.join(mirror, "github.com", repository + ".git"))
    facts["fingerprint"] = fingerprint(os.path.join(mirror, "efa-installer.amazonaws.com", KEY))
    with open(os.path.join(folder, "stack.toml"), "w", encoding="utf-8") as file:
        file.write(STACK.format(**facts, key=KEY))
    installed(os.path.join(folder, "installed"))


def installed(folder: str) -> None:
    """What an install leaves, as far as light hosts need it: nothing installs there."""
    programs = {"opt/amazon/efa/bin/fi_info": "efa/fi_info", "usr/bin/nvidia-smi": "nvidia-smi",
                "opt/efa-gen/bin/cuda-contexts": "cuda-contexts"}
    for name in ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "sendrecv"):
        programs[f"opt/nccl-tests/build/{name}_perf"] = "nccl-tests/nccl_test.py"
    for path, name in programs.items():
        os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
        write(os.path.join(folder, path), filled(name))
    os.makedirs(os.path.join(folder, "opt/amazon/openmpi/bin"))
    for link, target in (("mpirun", "mpirun.openmpi"), ("orted", "orted")):
        os.symlink(f"/usr/bin/{target}", os.path.join(folder, "opt/amazon/openmpi/bin", link))
    os.makedirs(os.path.join(folder, "etc/security/limits.d"))
    limits = "* soft memlock unlimited\n* hard memlock unlimited\n"
    write(os.path.join(folder, "etc/security/limits.d/99-efa-gen.conf"), limits, 0o644)
    names = {"tests": "nccl-tests"}
    release = [{"name": names.get(name, name), "version": version + ("-1" if name == "nccl" else "")}
               for name, version in VERSIONS.items()]
    write(os.path.join(folder, "etc/efa-gen.json"), json.dumps(release) + "\n", 0o644)


def filled(name: str) -> str:
    """A stand-in's text with its versions."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        text = file.read()
    of_driver = ("driver.run", "nvidia-smi", "nvidia-fabricmanager-start.sh")
    version = VERSIONS["driver" if name in of_driver else "cuda"]
    release = VERSIONS["nccl"] if name.startswith("nccl/") else ".".join(version.split(".")[:2])
    return text.replace("@VERSION@", version).replace("@RELEASE@", release)


def write(path: str, text: str, mode: int = 0o755) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


# Padding, so that half a download is something, and a resumed one too.
PADDING = "\n: <<'PADDING'\n" + "stand-in " * 40000 + "\nPADDING\n"


def driver(file: str) -> None:
    text = filled("driver.run")
    for mark, name in (("@NVIDIA_SMI@", "nvidia-smi"), ("@NVIDIA_PERSISTENCED@", "nvidia-persistenced")):
        text = text.replace(mark, filled(name).rstrip("\n"))
    write(file, text + "exit 0" + PADDING)


def fabric_manager(file: str) -> None:
    """NVIDIA's archive: one folder of its own name, and in it what its own installer copies."""
    start = "/usr/bin/nvidia-fabricmanager-start.sh --mode"
    archive(file, FABRIC_MANAGER, {
        "bin/nv-fabricmanager": f"#!/bin/sh\necho 'Fabric Manager version is : {VERSIONS['driver']}'\n",
        "bin/nvidia-fabricmanager-start.sh": filled("nvidia-fabricmanager-start.sh"),
        "lib/libnvfm.so.1": "stand-in\n",
        "share/nvidia/nvswitch/dgxa100_hgxa100_topology": "stand-in\n",
        "etc/fabricmanager.cfg": "LOG_LEVEL=4\n",
        "systemd/nvidia-fabricmanager.service":
            f"[Service]\nType=forking\nExecStartPre={start} precheck\nExecStart={start} start\n"
            "[Install]\nWantedBy=multi-user.target\n",
    })


def nvlsm(file: str) -> None:
    archive(file, NVLSM_ARCHIVE, {
        "sbin/nvlsm": "#!/bin/sh\n",
        "lib/libgrpc_mgr.so": "stand-in\n",
        "share/nvidia/nvlsm/nvlsm.conf": "stand-in\n",
    })


def archive(file: str, top: str, files: dict[str, str]) -> None:
    """A tarball with one folder; what is below bin or sbin in it can be run."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            mode = 0o755 if path.split("/")[0] in ("bin", "sbin") else 0o644
            path = os.path.join(folder, top, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, text, mode)
        subprocess.run(["tar", "--create", "--xz", "--file", file, "--directory", folder, top], check=True)


def cuda(file: str) -> None:
    text = filled("cuda.run").replace("@CUDA_CONTEXTS@", filled("cuda-contexts").rstrip("\n"))
    write(file, text + "exit 0" + PADDING)


def efa_tarball(file: str) -> None:
    """The installer, its packages and itself signed, and the key beside it."""
    with tempfile.TemporaryDirectory() as folder, signer() as gpg:
        top = os.path.join(folder, "aws-efa-installer")
        os.mkdir(top)
        for name in ("efa_installer.sh", "fi_info"):
            write(os.path.join(top, name), filled(f"efa/{name}"))
        write(os.path.join(top, "env.sh"), f"EFA_INSTALLER_VERSION={VERSIONS['efa']}\n", 0o644)
        os.mkdir(os.path.join(top, "DEBS"))
        for name in ("efa-config", "libfabric-aws"):
            package = os.path.join(top, "DEBS", f"{name}.deb")
            write(package, f"stand-in {name}\n", 0o644)
            sign(package, gpg)
        with open(os.path.join(top, "padding"), "wb") as padding:
            padding.write(os.urandom(300_000))
        pack = ["tar", "--create", "--gzip", "--file", file, "--directory", folder, "aws-efa-installer"]
        subprocess.run(pack, check=True)
        sign(file, gpg)
        key = os.path.join(os.path.dirname(file), KEY)
        subprocess.run([*gpg, "--armor", "--export", "--output", key], check=True)


def git_repository(source: str, bare: str) -> str:
    """A repository of one commit, served as plain files; returns the commit."""
    identity = {"GIT_AUTHOR_NAME": "rehearsal", "GIT_AUTHOR_EMAIL": "rehearsal@rehearsal.test",
                "GIT_COMMITTER_NAME": "rehearsal", "GIT_COMMITTER_EMAIL": "rehearsal@rehearsal.test",
                "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def git(*arguments: str) -> str:
        environment = {**os.environ, **identity}
        done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, env=environment)
        return done.stdout.strip()

    with tempfile.TemporaryDirectory() as folder:
        for name in os.listdir(os.path.join(HERE, source)):
            mode = 0o755 if name.endswith(".sh") else 0o644
            write(os.path.join(folder, name), filled(f"{source}/{name}"), mode)
        git("-C", folder, "init", "--quiet", "--initial-branch=master")
        git("-C", folder, "add", "--all")
        git("-C", folder, "commit", "--quiet", "--message", "Stand-in")
        os.makedirs(os.path.dirname(bare), exist_ok=True)
        git("clone", "--quiet", "--bare", folder, bare)
        git("-C", bare, "update-server-info")
        return git("-C", bare, "rev-parse", "HEAD")


@contextlib.contextmanager
def signer() -> Iterator[list[str]]:
    """gpg with a key made now and forgotten after."""
    home = tempfile.mkdtemp()
    try:
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", "--passphrase", "",
               "--pinentry-mode", "loopback"]
        subprocess.run([*gpg, "--quick-generate-key", "Rehearsal <rehearsal@rehearsal.test>", "rsa2048", "sign", "1y"],
                       check=True, stderr=subprocess.DEVNULL)
        yield gpg
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
        shutil.rmtree(home)


def sign(path: str, gpg: list[str]) -> None:
    subprocess.run([*gpg, "--detach-sign", "--output", path + ".sig", path], check=True)


def fingerprint(key: str) -> str:
    with tempfile.TemporaryDirectory() as home:
        show = ["gpg", "--homedir", home, "--batch", "--show-keys", "--with-colons", key]
        listing = subprocess.run(show, check=True, capture_output=True, text=True)
    return next(line.split(":")[9] for line in listing.stdout.splitlines() if line.startswith("fpr:"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]))
