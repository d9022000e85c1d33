"""Prints every file of the root file system: kind, mode, owner, path, and what it holds. Runs on a guest.

With `times`, when it was changed as well, and nothing is left out. Without, what no two machines have in common is left
out; each has its reason."""

import fnmatch
import hashlib
import os
import stat
import sys

TIMES = sys.argv[1:] == ["times"]

# Another file system, or this program's own.
NEVER = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp"]
# What runs on goes on writing.
ALWAYS_CHANGING = ["/var/log/journal/*", "/var/log/wtmp", "/var/log/lastlog", "/var/log/auth.log", "/var/lib/systemd/*"]
DIFFERENT = [
    # A machine's identity, and what cloud-init writes of it.
    "/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostname", "/etc/hosts", "/etc/ssh/ssh_host_*",
    "/var/lib/cloud/*", "/etc/resolv.conf", "/etc/.pwd.lock", "/etc/netplan/*", "/etc/sudoers.d/90-cloud-init-users",
    # Logs, and what holds times, inodes or the order of a run.
    "/var/log/*", "/var/cache/*", "/var/lib/systemd/*", "*/__pycache__/*", "/var/lib/dpkg/*-old",
    "/var/lib/apt/lists/*", "/var/lib/apt/extended_states", "/etc/ld.so.cache", "/var/lib/apt/periodic/*",
    "/var/lib/dpkg/lock*", "/var/lib/dpkg/triggers/*",
    # A key that DKMS makes.
    "/var/lib/dkms/mok*",
    # The script itself: user-data carries it without comments.
    "/var/lib/efa-gen/install.sh", "/root/install.sh", "/root/.bash_history", "/home/admin/*",
    # The id of the boot that a reboot is to end.
    "/var/lib/efa-gen/reboot",
    # The tests' own levers.
    "/root/hook*", "/etc/systemd/system/efa-gen-install.service.d*", "/root/cuts*",
]
# There must be one; what is in it holds the time at which it was made.
CONTENT_DIFFERS = ["/boot/initrd.img-*"]
# Their third field is the day on which a user was made, which differs on the two sides of midnight.
DAY_OF_CHANGE = ["/etc/shadow", "/etc/shadow-"]


def left_out(path: str) -> bool:
    names = ALWAYS_CHANGING if TIMES else ALWAYS_CHANGING + DIFFERENT
    return any(path == name.rstrip("/*") and name.endswith("/*") or fnmatch.fnmatchcase(path, name) for name in names)


def content(path: str, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(status.st_mode):
        return "-"
    if not TIMES and any(fnmatch.fnmatchcase(path, name) for name in CONTENT_DIFFERS):
        return "made at some time" if status.st_size > 1000 else "empty"
    with open(path, "rb") as file:
        held = file.read()
    if not TIMES and path in DAY_OF_CHANGE:
        held = b"\n".join(without_day(line) for line in held.split(b"\n"))
    return hashlib.sha256(held).hexdigest()


def without_day(line: bytes) -> bytes:
    fields = line.split(b":")
    return b":".join(fields[:2] + fields[3:])


def main() -> None:
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in NEVER]
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            if left_out(path):
                continue
            try:
                status = os.lstat(path)
                line = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid} {path} {content(path, status)}"
            except FileNotFoundError:
                continue
            if TIMES and not stat.S_ISDIR(status.st_mode):
                line += f" {status.st_mtime_ns}"
            print(line)


main()
