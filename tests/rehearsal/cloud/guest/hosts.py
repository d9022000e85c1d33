"""Owns the light hosts: machines that only answer SSH, hundreds of them at once. Each is a network, process and mount
namespace with an sshd in it, on an overlay of one root file system. Knows nothing of the EC2 API.

A light host has what its launch said of it: host name, login user, authorized keys, a host key of its own that its console
shows. Nothing boots there: no systemd, no cloud-init, no metadata service; the rest of the user-data is not executed."""

import gzip
import os
import re
import shutil
import stat
import subprocess
import threading
import traceback

from cloud.net import network
import yaml
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cloud.guest.roots import hardware, newest_kernel, put_file

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
# More at a time only get in each other's way.
AT_A_TIME = threading.BoundedSemaphore(8)


class Host:
    """One machine: its folder, its network, its process while it runs."""

    def __init__(self, folder, name, address):
        self.folder = folder
        self.name = name
        self.address = address
        self.namespace = None
        self.process = None
        self.wanted = False
        self.layers = None
        self.thread = None
        self.changing = threading.RLock()


class Hosts:
    """The light hosts of one cloud."""

    def __init__(self, folder, rootfs):
        self.folder = os.path.join(folder, "hosts")
        # What is seen of a host from outside, beside the guests'.
        self.shown = os.path.join(folder, "guests")
        self.rootfs = rootfs
        # What an install would leave; ../artifacts.py makes it.
        self.installed = os.path.join(folder, "installed")
        self.hosts = {}
        self.on_stopped = lambda instance: None
        self.making = threading.Lock()

    def create(self, instance, address, metadata, user_data, public_key, files):
        """Makes the machine, not yet running."""
        layers = self._layers()
        host = Host(os.path.join(self.folder, "disk", instance), metadata["hostname"].split(".")[0], address)
        upper = os.path.join(host.folder, "upper")
        for name in ("upper", "work", "root"):
            os.makedirs(os.path.join(host.folder, name))
        private, public = new_key(host.name)
        text = told(user_data)
        run = MARK.search(text)
        self._show(instance, "console", CONSOLE.format(public) + (RUN_CONSOLE.format(public, run[1]) if run else ""))
        self._show(instance, "address", address)
        keys = [key for key in [public_key, *authorized(text)] if key]
        user, uid = LOGIN
        put_file(upper, "/etc/ssh/ssh_host_ed25519_key", private, 0o600)
        put_file(upper, "/etc/ssh/ssh_host_ed25519_key.pub", public + "\n")
        put_file(upper, "/etc/hostname", host.name + "\n")
        put_file(upper, "/etc/hosts", f"127.0.0.1 localhost\n{address} {metadata['hostname']} {host.name}\n")
        put_file(upper, "/etc/resolv.conf", f"search ec2.internal\nnameserver {network.NAME_SERVER}\n")
        put_file(upper, "/run/rehearsal-hardware", hardware(metadata))
        put_file(upper, "/run/rehearsal-kernel", newest_kernel(self.rootfs) + "\n")
        put_file(upper, f"/home/{user}/.ssh/authorized_keys", "".join(key + "\n" for key in keys), 0o600)
        for path in (f"home/{user}", f"home/{user}/.ssh", f"home/{user}/.ssh/authorized_keys"):
            os.chown(os.path.join(upper, path), uid, uid)
        for path, content in files:
            put_file(upper, path, content)
        with AT_A_TIME:
            host.namespace = network.new_host(address, many=True)
        host.layers = layers
        self.hosts[instance] = host

    def boot(self, instance):
        host = self.hosts[instance]
        with host.changing:
            host.wanted = True
            host.thread = threading.Thread(target=self._live, args=(instance, host), daemon=True)
            with AT_A_TIME:
                self._start(host)
            host.thread.start()

    def reboot(self, instance):
        """Its process ends, and its life goes on with another."""
        self.hosts[instance].process.kill()

    def stop(self, instance, force):
        host = self.hosts[instance]
        with host.changing:
            running, host.wanted = host.wanted, False
            if running:
                host.process.kill()
        if not running:
            self.on_stopped(instance)

    def remove(self, instance):
        host = self.hosts.pop(instance)
        with host.changing:
            host.wanted = False
            if host.process:
                host.process.kill()
        if host.thread:
            host.thread.join()
        if host.namespace is not None:
            os.close(host.namespace)
        shutil.rmtree(host.folder)

    def console(self, instance):
        with open(os.path.join(self.shown, instance, "console"), "rb") as file:
            return file.read()

    def _show(self, instance, name, text):
        os.makedirs(os.path.join(self.shown, instance), exist_ok=True)
        with open(os.path.join(self.shown, instance, name), "w", encoding="ascii") as file:
            file.write(text)

    def add_address(self, instance, address):
        network.add_address(self.hosts[instance].namespace, address)

    def remove_address(self, instance, address):
        network.remove_address(self.hosts[instance].namespace, address)

    def remove_all(self):
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

    def _live(self, instance, host):
        """One life: starts the sshd again when it ends by a reboot; when it ends itself, the host is down."""
        while True:
            host.process.wait()
            with host.changing:
                # A kill is the hypervisor's, whose reboot it is then; an end by itself is the machine's.
                if not host.wanted or host.process.returncode != -9:
                    host.wanted, removed = False, instance not in self.hosts
                    break
                self._start(host)
        if not removed:
            self.on_stopped(instance)

    def _start(self, host):
        command = ["unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", START, "light",
                   host.folder, os.path.join(self.folder, "dev"), host.layers, host.name]
        with open(os.path.join(host.folder, "sshd.log"), "ab") as log:
            start = lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            host.process = network.inside(host.namespace, start)

    def _layers(self):
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

    def _make_base(self, base):
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


def new_key(comment):
    """An ed25519 host key, private and public half as OpenSSH writes them."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()).decode()
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
    return private, f"{public} root@{comment}"


def told(user_data):
    """The user-data as text."""
    data = gzip.decompress(user_data) if user_data.startswith(b"\x1f\x8b") else user_data
    return data.decode("utf-8", "replace")


def authorized(text):
    """The `ssh_authorized_keys` of every cloud-config in the user-data."""
    parts = [text]
    if text.startswith("#cloud-config-archive"):
        listed = yaml.safe_load(text) or []
        parts = [part if isinstance(part, str) else part.get("content", "") for part in listed]
    configs = [yaml.safe_load(part) for part in parts if part.startswith("#cloud-config\n")]
    return [key for config in configs if isinstance(config, dict) for key in config.get("ssh_authorized_keys", [])]


def make_devices(folder):
    """Devices of the hosts' own, those that sshd and a shell need: the kernel's devtmpfs would be this machine's."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", folder], check=True)
    for name, major, minor in DEVICES:
        os.mknod(f"{folder}/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        os.chmod(f"{folder}/{name}", 0o666)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")):
        os.symlink(target, f"{folder}/{name}")
    os.mkdir(f"{folder}/shm")
    os.chmod(f"{folder}/shm", 0o1777)
    os.mkdir(f"{folder}/pts")
    options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    subprocess.run(["mount", "-t", "devpts", "-o", options, "devpts", f"{folder}/pts"], check=True)
