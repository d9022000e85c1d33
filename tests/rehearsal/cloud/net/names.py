"""Owns the cloud's name server: every name that guests or clients need is the gateway's address, a guest's own name is
its address as in a VPC, any other does not exist. Knows DNS as far as a question for an IPv4 address (RFC 1035,
section 4)."""

import re
import socketserver
import struct

from cloud.net import network

# AWS's own names are those without a region and those of the regions that there are.
SERVED = re.compile(
    r"(^|\.)(deb\.debian\.org|rehearsal\.test)$"
    r"|^[a-z0-9-]+(\.(us-east-1|us-west-2|eu-west-1|eu-west-3|eu-north-1|ca-west-1))?\.amazonaws\.com$"
)
GUEST = re.compile(r"^ip-(\d+)-(\d+)-(\d+)-(\d+)\.ec2\.internal$")


def address_of(name: str) -> str | None:
    """The address of a name, or None."""
    guest = GUEST.match(name)
    if guest:
        return ".".join(guest.groups())
    return network.GATEWAY if SERVED.search(name) else None


def answer(query: bytes) -> bytes:
    """The reply to one query packet."""
    identifier, _flags, _questions = struct.unpack("!HHH", query[:6])
    labels: list[str] = []
    at = 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("ascii", "replace").lower())
        at += 1 + query[at]
    kind, _class = struct.unpack("!HH", query[at + 1:at + 5])
    question = query[12:at + 5]
    address = address_of(".".join(labels))
    # A name that exists, but not with an address of the kind asked for, is an empty answer, not an error.
    found = address if kind == 1 else None
    head = struct.pack("!HHHHHH", identifier, 0x8583 if address is None else 0x8580, 1, int(found is not None), 0, 0)
    if found is None:
        return head + question
    packed = bytes(int(part) for part in found.split("."))
    return head + question + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + packed


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, listening = self.request
        try:
            reply = answer(query)
        except (IndexError, struct.error):
            return
        listening.sendto(reply, self.client_address)


def serve() -> socketserver.ThreadingUDPServer:
    """A server to run in a thread."""
    return socketserver.ThreadingUDPServer((network.NAME_SERVER, 53), Handler)
