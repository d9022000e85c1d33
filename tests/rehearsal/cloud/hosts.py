"""Owns the light hosts: a network namespace with an sshd each, all on one root file system, for what needs many
machines that only answer SSH. Knows nothing of guests: nothing boots here."""

import os
import stat
import subprocess
import traceback

import network

CONFIGURATION = """HostKey /etc/ssh/rehearsal_host
AuthorizedKeysFile /etc/ssh/rehearsal_authorized
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
MaxStartups 300
MaxSessions 300
"""
# Character devices by name, major and minor number.
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))


class Hosts:
    """The light hosts of one cloud."""

    def __init__(self, folder, rootfs):
        self.folder = os.path.join(folder, "hosts")
        self.key = os.path.join(folder, "key.pub")
        self.rootfs = rootfs
        self.running = {}

    def start(self, count):
        """Starts so many more and returns their addresses, one a line."""
        root = self._root()
        addresses = [network.new_address() for _ in range(int(count))]
        for address in addresses:
            namespace = os.path.join(self.folder, address)
            network.add_host(namespace, address)
            command = ["nsenter", f"--net={namespace}", "unshare", "--uts", "sh", "-c",
                       'hostname "$1" && exec chroot "$2" /usr/sbin/sshd -D -e', "sshd",
                       "host-" + address.replace(".", "-"), root]
            with open(os.path.join(self.folder, "sshd.log"), "ab") as log:
                self.running[address] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return "".join(address + "\n" for address in addresses)

    def stop(self):
        """Ends every host; returns whether each could be. One that can't keeps none of the others."""
        good = True
        for address, process in self.running.items():
            try:
                process.kill()
                process.wait()
                network.remove_host(os.path.join(self.folder, address))
            except Exception:
                traceback.print_exc()
                good = False
        root = os.path.join(self.folder, "root")
        if os.path.ismount(root):
            # Lazily: who is logged in there stays until the cloud's process ends.
            done = subprocess.run(["umount", "--recursive", "--lazy", root], check=False)
            good = good and done.returncode == 0
        return good

    def _root(self):
        """The one root file system, made when first asked for."""
        root = os.path.join(self.folder, "root")
        if os.path.ismount(root):
            return root
        for name in ("upper", "work", "root"):
            os.makedirs(os.path.join(self.folder, name))
        options = f"lowerdir={self.rootfs},upperdir={self.folder}/upper,workdir={self.folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", f"{root}/proc"], check=True)
        make_devices(f"{root}/dev")
        os.makedirs(f"{root}/run/sshd", exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{root}/etc/ssh/rehearsal_host"], check=True)
        with open(f"{root}/etc/ssh/rehearsal_host.pub", encoding="ascii") as key, \
                open(os.path.join(self.folder, "known_hosts"), "w", encoding="ascii") as known:
            known.write("10.78.* " + key.read())
        subprocess.run(["install", "-m", "0600", self.key, f"{root}/etc/ssh/rehearsal_authorized"], check=True)
        with open(f"{root}/etc/ssh/sshd_config", "w", encoding="ascii") as file:
            file.write(CONFIGURATION)
        return root


def make_devices(folder):
    """Devices of the hosts' own, those that sshd and a shell need: the kernel's devtmpfs would be this machine's."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", folder], check=True)
    for name, major, minor in DEVICES:
        os.mknod(f"{folder}/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        os.chmod(f"{folder}/{name}", 0o666)
    os.symlink("/proc/self/fd", f"{folder}/fd")
    os.symlink("pts/ptmx", f"{folder}/ptmx")
    os.mkdir(f"{folder}/pts")
    options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    subprocess.run(["mount", "-t", "devpts", "-o", options, "devpts", f"{folder}/pts"], check=True)
