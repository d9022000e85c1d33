"""Owns what is put into a machine's root file system from outside: files, and what the hypervisor would show of its
hardware. Knows nothing of how a machine runs."""

import glob
import os
import subprocess
from collections.abc import Mapping


def put_file(root: str, path: str, content: str, mode: int = 0o644) -> None:
    """Writes a file as root's; folders that are not there are made."""
    target = os.path.normpath(root + "/" + path)
    if not target.startswith(root + "/"):
        raise ValueError(f"{path} leads out of the root")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    # Not through a link that somebody has left there.
    if os.path.lexists(target):
        os.unlink(target)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(content)
    os.chmod(target, mode)


def newest_kernel(root: str) -> str:
    """The kernel that a boot of this root file system would have taken."""
    kernels = [os.path.basename(path)[len("vmlinuz-"):] for path in glob.glob(f"{root}/boot/vmlinuz-*")]
    newest = subprocess.run(["sort", "-V"], input="\n".join(kernels), capture_output=True, text=True, check=True)
    return (newest.stdout.split() or ["none"])[-1]


def hardware(metadata: Mapping[str, str]) -> str:
    """What a machine's devices are, for the stand-ins that tell of them: a name and a value on each line."""
    names = ("instance-type", "efa-devices", "gpus", "gpu")
    return "".join(f"{name} {metadata.get(name, '')}".rstrip() + "\n" for name in names)
