"""Owns the cloud's network: one namespace with a bridge (the caller's own, made by `unshare --net`), one namespace for
each guest on that bridge, sockets inside a guest's namespace, and where elastic addresses lead. Knows nothing of what
runs there.

The host's own network is never configured: the namespaces are bound to files in a mount namespace of the cloud alone,
and are gone with it."""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

GATEWAY = "10.78.0.1"
# As in a VPC: the base of the network plus two.
NAME_SERVER = "10.78.0.2"
METADATA = "169.254.169.254"

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
lock = threading.Lock()
numbers = iter(range(260, 60000))

# As AWS's gateway does it: a guest knows nothing of its elastic address. The caller becomes the gateway, because its
# answer would not come back through here from a guest on the same bridge.
TRANSLATION = """table ip elastic {
    map guests { type ipv4_addr : ipv4_addr; }
    set leads { type ipv4_addr . ipv4_addr; }
    chain forwarded { type nat hook prerouting priority dstnat; dnat to ip daddr map @guests; }
    chain own { type nat hook output priority -100; dnat to ip daddr map @guests; }
    chain caller { type nat hook postrouting priority srcnat; ct status dnat masquerade; }
    # Connections are translated once, and would outlast what the address led to then.
    chain ended {
        type filter hook postrouting priority filter
        ct status dnat ct original ip daddr . ct reply ip saddr != @leads drop
    }
}"""
# The guest's address by the elastic one.
elastic: dict[str, str] = {}
translating = threading.RLock()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def batch(lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def nft(lines: str) -> None:
    """All of it or nothing."""
    subprocess.run(["nft", "--file", "-"], input=lines, text=True, check=True)


def inside(namespace: str | int, work: Callable[[], T]) -> T:
    """What the work gives, done inside a namespace, which is given by its path or descriptor. A namespace is a thread's
    own, and its children's: others don't notice."""
    return in_thread(lambda: (enter(namespace), work())[1])


def in_thread(work: Callable[[], T]) -> T:
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except Exception as error:
            found.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found.result(timeout=0)


def enter(namespace: str | int) -> None:
    if isinstance(namespace, str):
        with open(namespace, "rb") as there:
            enter(there.fileno())
    elif libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace}")


def unshare() -> int:
    """A new namespace for the calling thread; returns its descriptor, which keeps it."""
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def hardware_address(address: str) -> str:
    """The one that goes with an IPv4 address of ours."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def set_kernel(name: str, value: int) -> None:
    """A setting of the calling thread's namespace alone."""
    with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
        file.write(str(value))


def set_up_bridge() -> None:
    """Makes the cloud's own namespace a network in which guests reach the gateway and the name server, those that know
    the gateway alone each other, and all of them elastic addresses."""
    set_kernel("ipv4/ip_forward", 1)
    for name in ("all", "default"):
        set_kernel(f"ipv4/conf/{name}/send_redirects", 0)
    # A kernel that shows bridged packets to the translation keeps a guest from its own elastic address.
    if os.path.isdir("/proc/sys/net/bridge"):
        set_kernel("bridge/bridge-nf-call-iptables", 0)
    ip("link", "set", "lo", "up")
    ip("link", "add", "br0", "address", hardware_address(GATEWAY), "type", "bridge")
    ip("addr", "add", f"{GATEWAY}/16", "dev", "br0")
    ip("addr", "add", f"{NAME_SERVER}/16", "dev", "br0")
    ip("link", "set", "br0", "up")
    nft(TRANSLATION)


def new_address() -> str:
    """An address that no guest of this cloud has had."""
    with lock:
        number = next(numbers)
    return f"10.78.{number // 250}.{number % 250 + 1}"


def new_host(address: str, many: bool = False) -> int:
    """Makes a namespace and returns its descriptor: eth0 with the address, on the bridge. One of `many` finds all
    others through the gateway, and neither asks for the other's hardware address: the kernel keeps 1,024 of those that
    were asked for, of all namespaces together, and loses packets when there are more."""
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

    def make() -> int:
        namespace = unshare()
        batch(lines)
        return namespace

    namespace = in_thread(make)
    # No address is given twice, so what is known of it may stay.
    batch(f"link set {port} master br0 up\n" + (f"neigh add {address} lladdr {own} dev br0\n" if many else ""))
    return namespace


def add_host(namespace: str, address: str) -> None:
    """The same at this path, and with the metadata address on lo."""
    made = new_host(address)
    subprocess.run(["mount", "--bind", f"/proc/self/fd/{made}", make_file(namespace)], check=True, pass_fds=[made])
    os.close(made)
    inside(namespace, lambda: ip("addr", "add", f"{METADATA}/32", "dev", "lo"))


def remove_host(namespace: str) -> None:
    """Ends the namespace; its end of the bridge goes with it."""
    subprocess.run(["umount", namespace], check=True)
    os.unlink(namespace)


def add_address(address: str, guest: str) -> None:
    """Calls of an elastic address go to the guest with this address of its own, whoever had them before."""
    with translating:
        if address in elastic:
            remove_address(address, elastic[address])
        translate("add", address, guest)
        elastic[address] = guest


def remove_address(address: str, guest: str) -> None:
    """The elastic address leads nowhere, unless it is another guest's by now."""
    with translating:
        if elastic.get(address) == guest:
            del elastic[address]
            translate("delete", address, guest)


def remove_addresses(guest: str) -> None:
    """The same for all that lead to a guest."""
    with translating:
        for address in list(elastic):
            remove_address(address, guest)


def translate(verb: str, address: str, guest: str) -> None:
    nft(f"""{verb} element ip elastic guests {{ {address} : {guest} }}
        {verb} element ip elastic leads {{ {address} . {guest} }}""")
    # So that guests that ask the bridge whose it is are answered.
    ip("addr", verb, f"{address}/32", "dev", "lo")


def cut_off(namespace: str, address: str, cut: bool) -> None:
    """Makes an address unreachable from a namespace, or reachable again."""
    change = ("replace", "blackhole") if cut else ("del",)
    inside(namespace, lambda: ip("route", *change, address + "/32"))


def make_file(path: str) -> str:
    with open(path, "w", encoding="ascii"):
        return path


def listen(namespace: str, address: str, port: int) -> socket.socket:
    """A listening TCP socket inside a namespace."""

    def make() -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(64)
        return listening

    return inside(namespace, make)
