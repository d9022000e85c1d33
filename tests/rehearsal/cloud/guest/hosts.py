"""Owns the light hosts: machines that only answer SSH, hundreds of them at once. Each is a network, process and mount
namespace with an sshd in it, on an overlay of one root file system. Knows nothing of the EC2 API.

A light host has what its launch said of it: host name, login user, authorized keys, a host key of its own that its
console shows. Nothing boots there: no systemd, no cloud-init, no metadata service; the rest of the user-data is not
executed."""

import gzip
import os
import re
import shutil
import stat
import subprocess
import threading
import traceback
from collections.abc import Callable
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.guest.roots import hardware, newest_kernel, put_file
from cloud.net import network

LOGIN = ("admin", 1000)
SSHD = """HostKey /etc/ssh/ssh_host_ed25519_key
StrictModes no
UsePAM no
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
MaxSessions 300
Subsystem sftp internal-sftp
"""
# Stands in for systemd's: the first process of the host is its sshd.
SHUTDOWN = """#!/bin/sh
kill -TERM 1
"""
# $1 the host's folder, $2 the folder of devices, $3 the layers, $4 its name. It becomes the host's first process.
START = """
mount -t overlay overlay -o "lowerdir=$3,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount --rbind "$2" dev
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
hostname "$4"
pivot_root . mnt
umount --lazy /mnt
exec chroot . /usr/sbin/sshd -D -e
"""
# The run's mark in efa-gen's boothook, and cloud-init's own.
MARK = re.compile(r"-----EFA-GEN BEGIN HOST KEYS (\S+?)-----")
CONSOLE = "-----BEGIN SSH HOST KEY KEYS-----\n{0}\n-----END SSH HOST KEY KEYS-----\n"
RUN_CONSOLE = "-----EFA-GEN BEGIN HOST KEYS {1}-----\n{0}\n-----EFA-GEN END HOST KEYS {1}-----\n"
# Character devices by name, major and minor number.
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx"),
)
# More at a time only get in each other's way.
AT_A_TIME = threading.BoundedSemaphore(8)


class Host:
    """One machine: its folder, its network, its process while it runs."""

    def __init__(self, folder: str, name: str, address: str, layers: str, namespace: int) -> None:
        self.folder = folder
        self.name = name
        self.address = address
        self.layers = layers
        self.namespace = namespace
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.thread: threading.Thread | None = None
        self.changing = threading.RLock()

    def kill(self) -> None:
        if self.process:
            self.process.kill()


class Hosts:
    """The light hosts of one cloud."""

    def __init__(self, folder: str, rootfs: str) -> None:
        self.folder = os.path.join(folder, "hosts")
        # What is seen of a host from outside, beside the guests'.
        self.shown = os.path.join(folder, "guests")
        self.rootfs = rootfs
        # What an install would leave; ../artifacts.py makes it.
        self.installed = os.path.join(folder, "installed")
        self.hosts: dict[str, Host] = {}
        self.on_stopped: Callable[[str], None] = lambda instance: None
        self.making = threading.Lock()

    def create(
        self, instance: str, address: str, metadata: dict[str, str], user_data: bytes, public_key: str | None,
        files: list[tuple[str, str]],
    ) -> None:
        """Makes the machine, not yet running."""
        layers = self._layers()
        folder = os.path.join(self.folder, "disk", instance)
        name = metadata["hostname"].split(".")[0]
        upper = os.path.join(folder, "upper")
        for part in ("upper", "work", "root"):
            os.makedirs(os.path.join(folder, part))
        private, public = new_key(name)
        text = told(user_data)
        run = MARK.search(text)
        self._show(instance, "console", CONSOLE.format(public) + (RUN_CONSOLE.format(public, run[1]) if run else ""))
        self._show(instance, "address", address)
        keys = [key for key in [public_key, *authorized(text)] if key]
        user, uid = LOGIN
        put_file(upper, "/etc/ssh/ssh_host_ed25519_key", private, 0o600)
        put_file(upper, "/etc/ssh/ssh_host_ed25519_key.pub", public + "\n")
        put_file(upper, "/etc/hostname", name + "\n")
        put_file(upper, "/etc/hosts", f"127.0.0.1 localhost\n{address} {metadata['hostname']} {name}\n")
        put_file(upper, "/etc/resolv.conf", f"search ec2.internal\nnameserver {network.NAME_SERVER}\n")
        put_file(upper, "/run/rehearsal-hardware", hardware(metadata))
        put_file(upper, "/run/rehearsal-kernel", newest_kernel(self.rootfs) + "\n")
        put_file(upper, f"/home/{user}/.ssh/authorized_keys", "".join(key + "\n" for key in keys), 0o600)
        for path in (f"home/{user}", f"home/{user}/.ssh", f"home/{user}/.ssh/authorized_keys"):
            os.chown(os.path.join(upper, path), uid, uid)
        for path, content in files:
            put_file(upper, path, content)
        with AT_A_TIME:
            namespace = network.new_host(address, many=True)
        self.hosts[instance] = Host(folder, name, address, layers, namespace)

    def boot(self, instance: str) -> None:
        host = self.hosts[instance]
        with host.changing:
            host.wanted = True
            with AT_A_TIME:
                process = self._start(host)
            host.thread = threading.Thread(target=self._live, args=(instance, host, process), daemon=True)
            host.thread.start()

    def reboot(self, instance: str) -> None:
        """Its process ends, and its life goes on with another."""
        self.hosts[instance].kill()

    def stop(self, instance: str, force: bool) -> None:
        host = self.hosts[instance]
        with host.changing:
            running, host.wanted = host.wanted, False
            if running:
                host.kill()
        if not running:
            self.on_stopped(instance)

    def remove(self, instance: str) -> None:
        host = self.hosts.pop(instance)
        with host.changing:
            host.wanted = False
            host.kill()
        if host.thread:
            host.thread.join()
        network.remove_addresses(host.address)
        os.close(host.namespace)
        shutil.rmtree(host.folder)

    def console(self, instance: str) -> bytes:
        with open(os.path.join(self.shown, instance, "console"), "rb") as file:
            return file.read()

    def _show(self, instance: str, name: str, text: str) -> None:
        os.makedirs(os.path.join(self.shown, instance), exist_ok=True)
        with open(os.path.join(self.shown, instance, name), "w", encoding="ascii") as file:
            file.write(text)

    def add_address(self, instance: str, address: str) -> None:
        network.add_address(address, self.hosts[instance].address)

    def remove_address(self, instance: str, address: str) -> None:
        network.remove_address(address, self.hosts[instance].address)

    def remove_all(self) -> bool:
        """Removes every host and their root; returns whether all could be."""
        good = True
        for instance in list(self.hosts):
            try:
                self.remove(instance)
            except Exception:
                traceback.print_exc()
                good = False
        for name in ("dev", "disk"):
            folder = os.path.join(self.folder, name)
            if os.path.ismount(folder):
                # Lazily: a namespace takes a moment to end with its last process.
                good = subprocess.run(["umount", "--recursive", "--lazy", folder], check=False).returncode == 0 and good
        return good

    def _live(self, instance: str, host: Host, process: subprocess.Popen[bytes]) -> None:
        """One life: starts the sshd again when it ends by a reboot; when it ends itself, the host is down."""
        while True:
            process.wait()
            with host.changing:
                # A kill is the hypervisor's, whose reboot it is then; an end by itself is the machine's.
                if not host.wanted or process.returncode != -9:
                    host.wanted, removed = False, instance not in self.hosts
                    break
                process = self._start(host)
        if not removed:
            self.on_stopped(instance)

    def _start(self, host: Host) -> subprocess.Popen[bytes]:
        command = [
            "unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", START, "light",
            host.folder, os.path.join(self.folder, "dev"), host.layers, host.name,
        ]
        with open(os.path.join(host.folder, "sshd.log"), "ab") as log:
            host.process = network.inside(
                host.namespace, lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        return host.process

    def _layers(self) -> str:
        """What every host's root stands on, made when first asked for: the guests' root file system and what is a light
        host's own."""
        base, dev, disk = (os.path.join(self.folder, name) for name in ("base", "dev", "disk"))
        with self.making:
            if not os.path.ismount(disk):
                os.makedirs(self.installed, exist_ok=True)
                for path in (f"{base}/upper", f"{base}/work", f"{base}/root", dev, disk):
                    os.makedirs(path)
                self._make_base(base)
                make_devices(dev)
                subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", disk], check=True)
        return f"{base}/upper:{self.installed}:{self.rootfs}"

    def _make_base(self, base: str) -> None:
        user, uid = LOGIN
        upper, root = f"{base}/upper", f"{base}/root"
        put_file(upper, "/etc/ssh/sshd_config", SSHD)
        put_file(upper, "/etc/sudoers.d/90-rehearsal", f"{user} ALL=(ALL) NOPASSWD:ALL\n", 0o440)
        for name in ("shutdown", "poweroff", "halt"):
            put_file(upper, f"/usr/local/sbin/{name}", SHUTDOWN, 0o755)
        options = f"lowerdir={self.rootfs},upperdir={upper},workdir={base}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
        try:
            os.makedirs(f"{root}/run/sshd", exist_ok=True)
            # With a password that is none; sshd lets nobody in whose account is locked.
            add = ["useradd", "--create-home", "--shell", "/bin/bash", "--uid", str(uid), "--groups", "adm,sudo",
                   "--password", "*", user]
            subprocess.run(["chroot", root, *add], check=True)
        finally:
            subprocess.run(["umount", root], check=True)


def new_key(comment: str) -> tuple[str, str]:
    """An ed25519 host key, private and public half as OpenSSH writes them."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()).decode()
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
    return private, f"{public} root@{comment}"


def told(user_data: bytes) -> str:
    """The user-data as text."""
    data = gzip.decompress(user_data) if user_data.startswith(b"\x1f\x8b") else user_data
    return data.decode("utf-8", "replace")


def authorized(text: str) -> list[str]:
    """The `ssh_authorized_keys` of every cloud-config in the user-data."""
    parts: list[str] = [text]
    if text.startswith("#cloud-config-archive"):
        listed: list[str | dict[str, str]] = yaml.safe_load(text) or []
        parts = [part if isinstance(part, str) else part.get("content", "") for part in listed]
    configs: list[Any] = [yaml.safe_load(part) for part in parts if part.startswith("#cloud-config\n")]
    return [key for config in configs if isinstance(config, dict) for key in config.get("ssh_authorized_keys", [])]


def make_devices(folder: str) -> None:
    """Devices of the hosts' own, those that sshd and a shell need: the kernel's devtmpfs would be this machine's."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", folder], check=True)
    for name, major, minor in DEVICES:
        os.mknod(f"{folder}/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        os.chmod(f"{folder}/{name}", 0o666)
    for name, target in LINKS:
        os.symlink(target, f"{folder}/{name}")
    os.mkdir(f"{folder}/shm")
    os.chmod(f"{folder}/shm", 0o1777)
    os.mkdir(f"{folder}/pts")
    options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    subprocess.run(["mount", "-t", "devpts", "-o", options, "devpts", f"{folder}/pts"], check=True)
