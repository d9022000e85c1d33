"""Owns a guest's instance metadata service: IMDSv2 and nothing else, so whoever asks without a session token is
refused. Knows nothing of guests but the metadata it is given.

Paths and versions as cloud-init's Ec2 datasource and AWS's clients ask them (EC2 User Guide, "Instance metadata
categories")."""

import http.server
import json
import secrets
import socket
import threading
from typing import TypeAlias

VERSIONS = ["1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest"]

Tree: TypeAlias = "dict[str, str | Tree]"


def tree(metadata: dict[str, str], address: str, public_key: str | None) -> Tree:
    """The metadata categories as a tree: a dict is a folder."""
    mac = metadata["mac"]
    interface: Tree = {
        "device-number": "0",
        "interface-id": metadata.get("interface-id", "eni-0"),
        "local-ipv4s": address,
        "mac": mac,
        "subnet-ipv4-cidr-block": "10.78.0.0/16",
    }
    data: Tree = {
        "ami-id": metadata["ami-id"],
        "ami-launch-index": metadata.get("ami-launch-index", "0"),
        "hostname": metadata["hostname"],
        "local-hostname": metadata["hostname"],
        "instance-id": metadata["instance-id"],
        "instance-type": metadata["instance-type"],
        "local-ipv4": address,
        "mac": mac,
        "placement": {"availability-zone": metadata["availability-zone"], "region": metadata["region"]},
        "reservation-id": metadata["reservation-id"],
        "security-groups": metadata.get("security-groups", "default"),
        "services": {"domain": "amazonaws.com", "partition": "aws"},
        "network": {"interfaces": {"macs": {mac: interface}}},
    }
    if metadata["public-ipv4"]:
        data["public-ipv4"] = metadata["public-ipv4"]
    if public_key:
        data["public-keys"] = {"0": {"openssh-key": public_key}}
    return data


class Service(http.server.ThreadingHTTPServer):
    """One guest's service, on a listening socket that is there already."""

    daemon_threads = True

    def __init__(
        self, listening: socket.socket, metadata: dict[str, str], address: str, user_data: bytes, public_key: str | None
    ) -> None:
        super().__init__(listening.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.data = tree(metadata, address, public_key)
        self.user_data = user_data
        self.tokens: set[str] = set()
        self.document = json.dumps({
            "instanceId": metadata["instance-id"], "region": metadata["region"], "imageId": metadata["ami-id"],
            "availabilityZone": metadata["availability-zone"], "instanceType": metadata["instance-type"],
            "privateIp": address, "accountId": "123456789012", "architecture": "x86_64", "version": "2017-09-30",
        })

    def find(self, path: str) -> bytes | None:
        """What is at this path, or None."""
        parts = [part for part in path.split("/") if part]
        if not parts:
            return "\n".join(VERSIONS).encode()
        if parts[0] not in VERSIONS:
            return None
        match parts[1:]:
            case []:
                return b"dynamic\nmeta-data\nuser-data"
            case ["user-data"]:
                return self.user_data or None
            case ["dynamic", "instance-identity", "document"]:
                return self.document.encode()
            case ["dynamic", *_]:
                return b"instance-identity/" if len(parts) == 2 else b"document"
            case ["meta-data", "public-keys"] if "public-keys" in self.data:
                return b"0=launch"
            case ["meta-data", *rest]:
                return look_up(self.data, rest)
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    server: Service  # pyright: ignore[reportIncompatibleVariableOverride]: no other has this handler
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        if self.path.rstrip("/") != "/latest/api/token":
            self.answer(404)
        elif not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "").isdigit():
            self.answer(400)
        else:
            self.server.tokens.add(token := secrets.token_hex(16))
            self.answer(200, token.encode())

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
            self.answer(401)
            return
        body = self.server.find(self.path.split("?")[0])
        self.answer(404) if body is None else self.answer(200, body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(
    listening: socket.socket, metadata: dict[str, str], address: str, user_data: bytes, public_key: str | None
) -> Service:
    """Answers on a listening socket until it is closed."""
    server = Service(listening, metadata, address, user_data, public_key)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def look_up(tree: Tree, path: list[str]) -> bytes | None:
    node: str | Tree = tree
    for name in path:
        if not isinstance(node, dict) or name not in node:
            return None
        node = node[name]
    if isinstance(node, dict):
        return "\n".join(name + ("/" if isinstance(value, dict) else "") for name, value in node.items()).encode()
    return node.encode()
