"""Owns the cloud's network: one namespace with a bridge (the caller's own, made by `unshare --net`), one namespace for
each guest on that bridge, and sockets inside a guest's namespace. Knows nothing of what runs there.

The host's own network is never configured: the namespaces are bound to files in a mount namespace of the cloud alone,
and are gone with it."""

import ctypes
import os
import socket
import subprocess
import threading

GATEWAY = "10.78.0.1"
# As in a VPC: the base of the network plus two.
NAME_SERVER = "10.78.0.2"
METADATA = "169.254.169.254"

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
lock = threading.Lock()
numbers = iter(range(260, 60000))


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def batch(lines):
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def inside(namespace, work):
    """What the work gives, done inside a namespace, which is given by its path or descriptor. A namespace is a thread's
    own, and its children's: others don't notice."""
    return in_thread(lambda: (enter(namespace), work())[1])


def in_thread(work):
    found = []

    def run():
        try:
            found.append((work(), None))
        except Exception as error:
            found.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = found[0]
    if error:
        raise error
    return result


def enter(namespace):
    if isinstance(namespace, str):
        with open(namespace, "rb") as there:
            return enter(there.fileno())
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    return None


def unshare():
    """A new namespace for the calling thread; returns its descriptor, which keeps it."""
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def hardware_address(address):
    """The one that goes with an IPv4 address of ours."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def set_up_bridge():
    """Makes the cloud's own namespace a network in which guests reach the gateway and the name server, and those that know
    the gateway alone each other."""
    for name, value in (("ip_forward", 1), ("conf/all/send_redirects", 0), ("conf/default/send_redirects", 0)):
        with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as file:
            file.write(str(value))
    ip("link", "set", "lo", "up")
    ip("link", "add", "br0", "address", hardware_address(GATEWAY), "type", "bridge")
    ip("addr", "add", f"{GATEWAY}/16", "dev", "br0")
    ip("addr", "add", f"{NAME_SERVER}/16", "dev", "br0")
    ip("link", "set", "br0", "up")


def new_address():
    """An address that no guest of this cloud has had."""
    with lock:
        number = next(numbers)
    return f"10.78.{number // 250}.{number % 250 + 1}"


def new_host(address, many=False):
    """Makes a namespace and returns its descriptor: eth0 with the address, on the bridge. One of `many` finds all others
    through the gateway, and neither asks for the other's hardware address: the kernel keeps 1,024 of those that were asked
    for, of all namespaces together, and loses packets when there are more."""
    port = "p" + "-".join(address.split(".")[2:])
    own = hardware_address(address)
    known = f"""neigh add {GATEWAY} lladdr {hardware_address(GATEWAY)} dev eth0
        route add {GATEWAY} dev eth0""" if many else ""
    # The cloud is process 1 of its own.
    lines = f"""link add eth0 address {own} type veth peer name {port} netns 1
        link set lo up
        addr add {address}/16 dev eth0 {"noprefixroute" if many else ""}
        link set eth0 up
        {known}
        route add default via {GATEWAY}
        """

    def make():
        namespace = unshare()
        batch(lines)
        return namespace

    namespace = in_thread(make)
    # No address is given twice, so what is known of it may stay.
    batch(f"link set {port} master br0 up\n" + (f"neigh add {address} lladdr {own} dev br0\n" if many else ""))
    return namespace


def add_host(namespace, address):
    """The same at this path, and with the metadata address on lo."""
    made = new_host(address)
    subprocess.run(["mount", "--bind", f"/proc/self/fd/{made}", make_file(namespace)], check=True, pass_fds=[made])
    os.close(made)
    inside(namespace, lambda: ip("addr", "add", f"{METADATA}/32", "dev", "lo"))


def remove_host(namespace):
    """Ends the namespace; its end of the bridge goes with it."""
    subprocess.run(["umount", namespace], check=True)
    os.unlink(namespace)


def add_address(namespace, address):
    """Gives the namespace one more address; it may have been another's before."""
    inside(namespace, lambda: ip("addr", "add", f"{address}/32", "dev", "eth0"))
    ip("neigh", "flush", "to", address, "dev", "br0")


def remove_address(namespace, address):
    inside(namespace, lambda: ip("addr", "del", f"{address}/32", "dev", "eth0"))


def cut_off(namespace, address, cut):
    """Makes an address unreachable from a namespace, or reachable again."""
    change = ("replace", "blackhole") if cut else ("del",)
    inside(namespace, lambda: ip("route", *change, address + "/32"))


def make_file(path):
    with open(path, "w", encoding="ascii"):
        return path


def listen(namespace, address, port):
    """A listening TCP socket inside a namespace."""

    def make():
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(64)
        return listening

    return inside(namespace, make)
