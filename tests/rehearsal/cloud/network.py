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


def ip(*arguments, namespace=None):
    enter = ["nsenter", f"--net={namespace}"] if namespace else []
    subprocess.run([*enter, "ip", *arguments], check=True)


def set_up_bridge():
    """Makes the cloud's own namespace a network in which guests reach the gateway and the name server."""
    ip("link", "set", "lo", "up")
    ip("link", "add", "br0", "type", "bridge")
    ip("addr", "add", f"{GATEWAY}/16", "dev", "br0")
    ip("addr", "add", f"{NAME_SERVER}/16", "dev", "br0")
    ip("link", "set", "br0", "up")


def new_address():
    """An address that no guest of this cloud has had."""
    with lock:
        number = next(numbers)
    return f"10.78.{number // 250}.{number % 250 + 1}"


def add_host(namespace, address):
    """Makes a namespace at this path: eth0 with the address, and the metadata address on lo."""
    subprocess.run(["unshare", f"--net={make_file(namespace)}", "true"], check=True)
    port = "p" + "-".join(address.split(".")[2:])
    ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    ip("link", "set", port, "master", "br0", "up")
    for arguments in (
        ("link", "set", "lo", "up"),
        ("addr", "add", f"{METADATA}/32", "dev", "lo"),
        ("addr", "add", f"{address}/16", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("route", "add", "default", "via", GATEWAY),
    ):
        ip(*arguments, namespace=namespace)


def remove_host(namespace):
    """Ends the namespace; its end of the bridge goes with it."""
    subprocess.run(["umount", namespace], check=True)
    os.unlink(namespace)


def add_address(namespace, address):
    """Gives the namespace one more address; it may have been another's before."""
    ip("addr", "add", f"{address}/32", "dev", "eth0", namespace=namespace)
    ip("neigh", "flush", "to", address, "dev", "br0")


def remove_address(namespace, address):
    ip("addr", "del", f"{address}/32", "dev", "eth0", namespace=namespace)


def cut_off(namespace, address, cut):
    """Makes an address unreachable from a namespace, or reachable again."""
    ip("route", "replace" if cut else "del", "blackhole" if cut else address + "/32", *([address + "/32"] if cut else []),
       namespace=namespace)


def make_file(path):
    with open(path, "w", encoding="ascii"):
        return path


def listen(namespace, address, port):
    """A listening TCP socket inside a namespace. A namespace is a thread's own: others don't notice."""
    found = []

    def inside():
        with open(namespace, "rb") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                found.append(OSError(ctypes.get_errno(), f"setns {namespace}"))
                return
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(64)
        found.append(listening)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]
