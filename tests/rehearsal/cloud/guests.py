"""Owns the guests: machines in systemd-nspawn, each on an overlay of an image's layers, with systemd as PID 1, in a
network namespace of its own with its own metadata service. A guest really boots, reboots and powers off, and its
console is kept. Knows nothing of the EC2 API.

What a guest is not: it has the host's kernel, and for a disk a file system in memory, so that a disk can be full. The
stand-ins for what that lacks are in ../stand-ins."""

import errno
import functools
import glob
import os
import pty
import signal
import subprocess
import threading
import time
import traceback

import imds
import network

# What systemd-nspawn exits with when the guest rebooted.
REBOOTED = 133
# systemd keeps its services in control groups, so each guest gets groups of its own: below the unified hierarchy, and
# below systemd's named one where the host still has that.
HIERARCHIES = [path for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd") if os.path.isdir(path)] or ["/sys/fs/cgroup"]
# systemd's own signals to PID 1 (systemd(1)).
REBOOT = signal.SIGRTMIN + 5


class Guest:
    """One machine: its folders, its process while it runs."""

    def __init__(self, folder, layers, address):
        self.folder = folder
        self.layers = layers
        self.address = address
        self.namespace = None
        self.metadata = None
        self.process = None
        # Whether it is to run; a life that finds otherwise ends before its next boot.
        self.wanted = False
        self.alive = False
        self.changing = threading.RLock()

    def path(self, name):
        return os.path.join(self.folder, name)


class Guests:
    """Every guest and image of one cloud. `nspawn` is the systemd-nspawn program; `rootfs` is the layer that the images
    named in `roots` consist of."""

    def __init__(self, folder, nspawn, rootfs, roots):
        self.folder = folder
        self.nspawn = nspawn
        self.guests = {}
        self.images = {image: [rootfs] for image in roots}
        self.on_stopped = lambda instance: None
        self.new_address = network.new_address
        for name in ("guests", "layers", "namespaces"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)

    def has_root(self, image):
        return image in self.images

    def create(self, instance, image, address, metadata, user_data, public_key):
        """Makes the machine, not yet running. An image without a root file system gives a machine that only says so."""
        guest = Guest(os.path.join(self.folder, "guests", instance), list(self.images.get(image, [])), address)
        os.makedirs(guest.path("root"))
        add_disk(guest.path("disk"))
        with open(guest.path("address"), "w", encoding="ascii") as file:
            file.write(address)
        network.make_file(guest.path("console"))
        if guest.layers:
            guest.namespace = os.path.join(self.folder, "namespaces", instance)
            network.add_host(guest.namespace, address)
            listening = network.listen(guest.namespace, network.METADATA, 80)
            guest.metadata = imds.serve(listening, metadata, address, user_data, public_key)
        self.guests[instance] = guest

    def boot(self, instance):
        guest = self.guests[instance]
        if not guest.layers:
            with open(guest.path("console"), "ab") as console:
                console.write(b"rehearsal: this image has no root file system here, so nothing boots\n")
            return
        with guest.changing:
            guest.wanted = True
            if guest.alive:
                return
            guest.alive = True
        threading.Thread(target=self._live, args=(instance, guest), daemon=True).start()

    def reboot(self, instance):
        leader = self._leader(self.guests[instance])
        if leader:
            os.kill(leader, REBOOT)

    def stop(self, instance, force):
        """Asks systemd to power off; with force the power goes at once."""
        guest = self.guests[instance]
        with guest.changing:
            guest.wanted = False
            if not guest.alive:
                threading.Thread(target=self.on_stopped, args=(instance,), daemon=True).start()
                return
            process = guest.process
        if force:
            threading.Thread(target=cut_power, args=(process,), daemon=True).start()
            return
        if process and process.poll() is None:
            process.terminate()
        timer = threading.Timer(60, cut_power, (process,))
        timer.daemon = True
        timer.start()

    def remove(self, instance):
        guest = self.guests.pop(instance)
        with guest.changing:
            guest.wanted = False
            process = guest.process
        cut_power(process)
        if not wait_for(lambda: not guest.alive, 30):
            raise RuntimeError(f"{instance} does not end")
        if guest.metadata:
            guest.metadata.shutdown()
            guest.metadata.server_close()
        self._unmount(guest)
        subprocess.run(["umount", guest.path("disk")], check=True)
        if guest.namespace:
            network.remove_host(guest.namespace)
            remove_groups(instance)

    def console(self, instance):
        guest = self.guests.get(instance)
        path = guest.path("console") if guest else os.path.join(self.folder, "guests", instance, "console")
        with open(path, "rb") as file:
            return file.read()

    def keep(self, instance, image):
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

    def copy_image(self, image, copy):
        self.images[copy] = list(self.images[image])

    def drop_image(self, image):
        """The layer stays: other images and guests may stand on it."""
        self.images.pop(image, None)

    def cut_off(self, address, server, cut):
        """Makes a server unreachable for the guest with this address, or reachable again."""
        guest = next(guest for guest in self.guests.values() if guest.address == address)
        network.cut_off(guest.namespace, server, cut)

    def leave_free(self, address, mib):
        """Makes the disk of the guest with this address so small that this much is free."""
        guest = next(guest for guest in self.guests.values() if guest.address == address)
        found = os.statvfs(guest.path("disk"))
        size = (found.f_blocks - found.f_bfree) * found.f_frsize + (int(mib) << 20)
        subprocess.run(["mount", "-o", f"remount,size={size}", guest.path("disk")], check=True)

    def remove_all(self):
        """Removes every guest; returns whether each could be. One that can't keeps none of the others."""
        good = True
        for instance in list(self.guests):
            try:
                self.remove(instance)
            except Exception:
                traceback.print_exc()
                good = False
        return good

    def _live(self, instance, guest):
        """One life: boots again after each reboot until the guest is down, or is no longer wanted."""
        status = REBOOTED
        try:
            while status == REBOOTED:
                with guest.changing:
                    if not guest.wanted:
                        break
                    self._mount(guest)
                    self._write_kernel(guest)
                    guest.process = self._start(instance, guest)
                status = guest.process.wait()
        except Exception:
            traceback.print_exc()
        with guest.changing:
            guest.alive = False
        if instance in self.guests:
            self.on_stopped(instance)

    def _start(self, instance, guest):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [
                *in_groups(instance), self.nspawn, "--quiet", "--boot", f"--directory={guest.path('root')}", f"--machine={instance}",
                "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
                f"--network-namespace-path={guest.namespace}", "--console=interactive",
                f"--bind-ro={guest.path('kernel')}:/run/rehearsal-kernel",
            ],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        os.close(slave)
        threading.Thread(target=keep_console, args=(master, guest.path("console")), daemon=True).start()
        return process

    def _mount(self, guest):
        root = guest.path("root")
        if os.path.ismount(root):
            return
        disk = guest.path("disk")
        options = f"lowerdir={':'.join(guest.layers)},upperdir={disk}/upper,workdir={disk}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
        with open(os.path.join(root, "etc/resolv.conf"), "w", encoding="ascii") as file:
            file.write(f"search ec2.internal\nnameserver {network.NAME_SERVER}\noptions timeout:5 attempts:3\n")

    def _unmount(self, guest):
        if os.path.ismount(guest.path("root")):
            subprocess.run(["umount", guest.path("root")], check=True)

    def _write_kernel(self, guest):
        """The kernel that this boot would have taken: the newest that is installed."""
        kernels = [os.path.basename(path)[len("vmlinuz-"):] for path in glob.glob(guest.path("root/boot/vmlinuz-*"))]
        newest = subprocess.run(["sort", "-V"], input="\n".join(kernels), capture_output=True, text=True, check=True)
        with open(guest.path("kernel"), "w", encoding="ascii") as file:
            file.write((newest.stdout.split() or ["none"])[-1] + "\n")

    def _leader(self, guest):
        process = guest.process
        children = children_of(process) if process and process.poll() is None else []
        return children[0] if children else None


def children_of(process):
    """The children of systemd-nspawn: the guest's PID 1, and for a moment the helper that makes it."""
    try:
        with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:
        return []


def cut_power(process):
    """Ends the guest's PID 1, and with it all in the guest at once; systemd-nspawn then ends by itself. Again until it
    has: between two of its steps there may be nobody to end."""
    while process and process.poll() is None:
        for child in children_of(process) or [process.pid]:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.2)


def add_disk(path):
    """An empty disk of 64 GiB, of which only what is written takes memory."""
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64G,mode=755", "tmpfs", path], check=True)
    for name in ("upper", "work"):
        os.mkdir(os.path.join(path, name))


def groups(instance):
    """The control groups of one guest, by their folders."""
    return [os.path.join(hierarchy, f"efa-gen-rehearsal-{instance}") for hierarchy in HIERARCHIES]


def in_groups(instance):
    """The beginning of a command line: it enters the guest's groups and becomes what follows."""
    for group in groups(instance):
        os.makedirs(group, exist_ok=True)
    enter = "".join(f"echo $$ >'{group}/cgroup.procs' && " for group in groups(instance))
    return ["sh", "-c", enter + 'exec "$@"', "sh"]


def remove_groups(instance):
    """Ends the guest's groups, deepest first. Its processes are killed, and gone in a moment."""
    def removed(folder):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    for group in groups(instance):
        for folder, _, _ in os.walk(group, topdown=False):
            if not wait_for(functools.partial(removed, folder), 10):
                raise RuntimeError(f"processes of {instance} are still in {folder}")


def keep_console(master, path):
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


def wait_for(condition, seconds):
    """Waits until it holds; returns whether it does."""
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return held
