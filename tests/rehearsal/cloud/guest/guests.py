"""Owns the guests: machines in systemd-nspawn, each on an overlay of an image's layers, with systemd as PID 1, in a
network namespace of its own with its own metadata service. A guest really boots, reboots and powers off, and its
console is kept. Knows nothing of the EC2 API.

What a guest is not: it has the host's kernel, and for a disk a file system in memory, so that a disk can be full. The
stand-ins for what that lacks are in ../stand-ins."""

import os
import pty
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress

from cloud.guest import imds
from cloud.guest.cgroups import in_groups, processes, remove_groups
from cloud.guest.roots import hardware, newest_kernel, put_file
from cloud.net import network

# What systemd-nspawn exits with when the guest rebooted.
REBOOTED = 133
# systemd's own signals to PID 1 (systemd(1)).
REBOOT = signal.SIGRTMIN + 5
# After this many seconds a guest that was asked to power off loses its power.
PATIENCE = 60


class Guest:
    """One machine: its folders, its process while it runs.

    What changes is guarded by `changing`. The thread of its life alone reaps the process, and only under that lock, so
    whoever holds it signals this process and never a stranger with its number."""

    def __init__(self, folder: str, layers: list[str], address: str) -> None:
        self.folder = folder
        self.layers = layers
        self.address = address
        self.namespace: str | None = None
        self.metadata: imds.Service | None = None
        self.process: subprocess.Popen[bytes] | None = None
        # Whether it is to run; a life that finds otherwise ends before its next boot.
        self.wanted = False
        # Whether there is a life, which alone says when the guest is down.
        self.alive = False
        self.removed = False
        self.thread: threading.Thread | None = None
        self.changing = threading.RLock()

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def running(self) -> subprocess.Popen[bytes] | None:
        return self.process if self.process is not None and self.process.returncode is None else None


class Guests:
    """Every guest and image of one cloud. `nspawn` is the systemd-nspawn program; `rootfs` is the layer that the images
    named in `roots` consist of."""

    def __init__(self, folder: str, nspawn: str, rootfs: str, roots: Iterable[str]) -> None:
        self.folder = folder
        self.nspawn = nspawn
        self.guests: dict[str, Guest] = {}
        self.images = {image: [rootfs] for image in roots}
        self.on_stopped: Callable[[str], None] = lambda instance: None
        self.new_address = network.new_address
        for name in ("guests", "layers", "namespaces"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)

    def has_root(self, image: str) -> bool:
        return image in self.images

    def create(
        self, instance: str, image: str, address: str, metadata: dict[str, str], user_data: bytes,
        public_key: str | None, files: list[tuple[str, str]],
    ) -> None:
        """Makes the machine, not yet running. An image without a root file system gives a machine that only says so."""
        guest = Guest(os.path.join(self.folder, "guests", instance), list(self.images.get(image, [])), address)
        os.makedirs(guest.path("root"))
        add_disk(guest.path("disk"))
        with open(guest.path("address"), "w", encoding="ascii") as file:
            file.write(address)
        network.make_file(guest.path("console"))
        with open(guest.path("hardware"), "w", encoding="utf-8") as file:
            file.write(hardware(metadata))
        for path, content in files:
            put_file(guest.path("disk/upper"), path, content)
        if guest.layers:
            guest.namespace = os.path.join(self.folder, "namespaces", instance)
            network.add_host(guest.namespace, address)
            listening = network.listen(guest.namespace, network.METADATA, 80)
            guest.metadata = imds.serve(listening, metadata, address, user_data, public_key)
        self.guests[instance] = guest

    def boot(self, instance: str) -> None:
        guest = self.guests[instance]
        if not guest.layers:
            with open(guest.path("console"), "ab") as console:
                console.write(b"rehearsal: this image has no root file system here, so nothing boots\n")
            return
        with guest.changing:
            if guest.alive:
                raise RuntimeError(f"{instance} has not gone down yet")
            guest.wanted = guest.alive = True
            guest.thread = threading.Thread(target=self._live, args=(instance, guest), daemon=True)
            guest.thread.start()

    def reboot(self, instance: str) -> None:
        guest = self.guests[instance]
        with guest.changing:
            process = guest.running()
            for child in children_of(process) if process else []:
                if is_first(child):
                    signal_to(child, REBOOT)

    def stop(self, instance: str, force: bool) -> None:
        """Asks systemd to power off; with force the power goes at once. Returns before the guest is down."""
        guest = self.guests[instance]
        with guest.changing:
            guest.wanted = False
            if not guest.alive:
                self.on_stopped(instance)
            elif process := guest.running():
                timer = threading.Timer(0 if force else PATIENCE, cut_power, (guest, process))
                timer.daemon = True
                timer.start()
                if not force:
                    signal_to(process.pid, signal.SIGTERM)

    def remove(self, instance: str) -> None:
        guest = self.guests.pop(instance)
        with guest.changing:
            guest.removed = True
            guest.wanted = False
        cut_power(guest, guest.process)
        if guest.thread:
            guest.thread.join()
        if guest.metadata:
            guest.metadata.shutdown()
            guest.metadata.server_close()
        self._unmount(guest)
        subprocess.run(["umount", guest.path("disk")], check=True)
        if guest.namespace:
            network.remove_addresses(guest.address)
            network.remove_host(guest.namespace)
            remove_groups(instance)

    def console(self, instance: str) -> bytes:
        guest = self.guests.get(instance)
        path = guest.path("console") if guest else os.path.join(self.folder, "guests", instance, "console")
        with open(path, "rb") as file:
            return file.read()

    def keep(self, instance: str, image: str) -> None:
        """What the stopped guest has written becomes a layer; the guest goes on above it."""
        guest = self.guests[instance]
        with guest.changing:
            self._unmount(guest)
            layer = os.path.join(self.folder, "layers", image)
            os.mkdir(layer)
            subprocess.run(["mount", "--move", guest.path("disk"), layer], check=True)
            add_disk(guest.path("disk"))
            guest.layers.insert(0, os.path.join(layer, "upper"))
            self.images[image] = list(guest.layers)

    def copy_image(self, image: str, copy: str) -> None:
        self.images[copy] = list(self.images[image])

    def drop_image(self, image: str) -> None:
        """The layer stays: other images and guests may stand on it."""
        self.images.pop(image, None)

    def add_address(self, instance: str, address: str) -> None:
        """An elastic address leads to the guest, which knows it from its metadata alone."""
        guest = self.guests[instance]
        if guest.metadata:
            network.add_address(address, guest.address)
            guest.metadata.data["public-ipv4"] = address

    def remove_address(self, instance: str, address: str) -> None:
        guest = self.guests[instance]
        if guest.metadata:
            network.remove_address(address, guest.address)
            guest.metadata.data.pop("public-ipv4", None)

    def at(self, address: str) -> Guest:
        """The guest with this address. A launch is answered before its machine is made, so this waits for it."""
        for _ in range(600):
            for guest in list(self.guests.values()):
                if guest.address == address:
                    return guest
            time.sleep(0.1)
        raise ValueError(f"no guest has the address {address}")

    def cut_off(self, address: str, server: str, cut: bool) -> None:
        """Makes a server unreachable for the guest with this address, or reachable again."""
        namespace = self.at(address).namespace
        assert namespace
        network.cut_off(namespace, server, cut)

    def leave_free(self, address: str, mib: str) -> None:
        """Makes the disk of the guest with this address so small that this much is free."""
        guest = self.at(address)
        found = os.statvfs(guest.path("disk"))
        size = (found.f_blocks - found.f_bfree) * found.f_frsize + (int(mib) << 20)
        subprocess.run(["mount", "-o", f"remount,size={size}", guest.path("disk")], check=True)

    def remove_all(self) -> bool:
        """Removes every guest; returns whether each could be. One that can't keeps none of the others."""
        good = True
        for instance in list(self.guests):
            try:
                self.remove(instance)
            except Exception:
                traceback.print_exc()
                good = False
        return good

    def _live(self, instance: str, guest: Guest) -> None:
        """One life: boots again after each reboot until the guest is down, or is no longer wanted."""
        try:
            while (process := self._start_if_wanted(instance, guest)) and ended(guest, process) == REBOOTED:
                pass
        except Exception:
            # Standard error is the cloud's log. A guest that does not start is down.
            traceback.print_exc()
        with guest.changing:
            guest.alive = False
            if not guest.removed:
                self.on_stopped(instance)

    def _start_if_wanted(self, instance: str, guest: Guest) -> subprocess.Popen[bytes] | None:
        with guest.changing:
            if not guest.wanted:
                return None
            self._mount(guest)
            self._write_kernel(guest)
            guest.process = self._start(instance, guest)
            return guest.process

    def _start(self, instance: str, guest: Guest) -> subprocess.Popen[bytes]:
        master, slave = pty.openpty()
        # Before the process, so that nothing can fail once it is there.
        threading.Thread(target=keep_console, args=(master, guest.path("console")), daemon=True).start()
        try:
            return subprocess.Popen(
                [
                    *in_groups(instance), self.nspawn, "--quiet", "--boot", f"--directory={guest.path('root')}",
                    f"--machine={instance}", "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off",
                    "--timezone=off", f"--network-namespace-path={guest.namespace}", "--console=interactive",
                    f"--bind-ro={guest.path('kernel')}:/run/rehearsal-kernel",
                    f"--bind-ro={guest.path('hardware')}:/run/rehearsal-hardware",
                ],
                stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        finally:
            os.close(slave)

    def _mount(self, guest: Guest) -> None:
        root = guest.path("root")
        if os.path.ismount(root):
            return
        disk = guest.path("disk")
        options = f"lowerdir={':'.join(guest.layers)},upperdir={disk}/upper,workdir={disk}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
        with open(os.path.join(root, "etc/resolv.conf"), "w", encoding="ascii") as file:
            file.write(f"search ec2.internal\nnameserver {network.NAME_SERVER}\noptions timeout:5 attempts:3\n")
        # As cloud-init has it on Debian's AMI: sudo asks for the machine's own name, also when no server answers.
        name = f"ip-{guest.address.replace('.', '-')}"
        with open(os.path.join(root, "etc/hosts"), "w", encoding="ascii") as file:
            file.write(f"127.0.0.1 localhost\n{guest.address} {name}.ec2.internal {name}\n")

    def _unmount(self, guest: Guest) -> None:
        if os.path.ismount(guest.path("root")):
            subprocess.run(["umount", guest.path("root")], check=True)

    def _write_kernel(self, guest: Guest) -> None:
        """The kernel that this boot would have taken: the newest that is installed."""
        with open(guest.path("kernel"), "w", encoding="ascii") as file:
            file.write(newest_kernel(guest.path("root")) + "\n")


def ended(guest: Guest, process: subprocess.Popen[bytes]) -> int:
    """Waits for the guest's process; returns its exit status."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with guest.changing:
        return process.wait()


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The children of systemd-nspawn, which nobody has reaped: the guest's PID 1, or for a moment the helper that makes
    it."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def is_first(pid: int) -> bool:
    """Whether it is PID 1 of a guest, which alone takes systemd's signals; they would end any other process."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            numbers = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [])
    except (FileNotFoundError, ProcessLookupError):
        return False
    return len(numbers) > 1 and numbers[-1] == "1"


def signal_to(pid: int, number: int) -> None:
    """Signals a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def cut_power(guest: Guest, process: subprocess.Popen[bytes] | None) -> None:
    """Ends this process of a guest, and all in the guest with it. Again until it has ended: the first child of
    systemd-nspawn may be the helper, or a PID 1 that is dead already, or not there yet. systemd-nspawn gets a moment to
    end by itself, because it tidies up. All in the guest is stopped before: nothing there sees
    another process die."""
    moment = time.monotonic() + 2
    while True:
        with guest.changing:
            if process is None or process.returncode is not None:
                return
            children = children_of(process)
            for pid in processes(os.path.basename(guest.folder)):
                if pid not in (process.pid, *children):
                    signal_to(pid, signal.SIGSTOP)
            for child in children:
                signal_to(child, signal.SIGKILL)
            if time.monotonic() > moment:
                signal_to(process.pid, signal.SIGKILL)
        time.sleep(0.05)


def add_disk(path: str) -> None:
    """An empty disk of 64 GiB, of which only what is written takes memory."""
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64G,mode=755", "tmpfs", path], check=True)
    for name in ("upper", "work"):
        os.mkdir(os.path.join(path, name))


def keep_console(master: int, path: str) -> None:
    """Copies all that comes to the console until the guest's terminal is closed."""
    with open(path, "ab", buffering=0) as file:
        while True:
            try:
                text = os.read(master, 65536)
            except OSError:
                text = b""
            if not text:
                break
            file.write(text)
    os.close(master)
