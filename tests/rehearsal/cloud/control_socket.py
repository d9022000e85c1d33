"""Owns the cloud's control socket: by it tests make calls of AWS and steer the cloud, and start no program for each.

One connection, one request and one answer, each a line of JSON. The answer is {"ok": VALUE} or {"error": TEXT}; what
AWS refuses is told as "CODE: message". The requests:

  {"do": "call", "service": "ec2", "region": R, "call": NAME, "arguments": {...}}   a call by its boto3 name; bytes are
                                     {"base64": TEXT}; with "key" it is made by the caller with this access key
  {"do": "list", "region": R}        every resource of the account there, a line each, by which tests see that an
                                     account is as it was before; an instance that is terminated is gone
  {"do": "steer", "verb": V, "values": {...}}   what no call of AWS does; the table in daemon.py has the verbs

The socket lies in the cloud's folder, so a client needs no part of the cloud's network."""

import base64
import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.exceptions import ClientError

# Call, arguments, key of the list, name of the id, and the fields that are shown beside it.
LISTS: tuple[tuple[str, dict[str, Any], str, str, tuple[str, ...]], ...] = (
    ("describe_images", {"Owners": ["self"], "IncludeDeprecated": True}, "Images", "ImageId",
     ("Name", "State", "DeprecationTime", "DeregistrationProtection", "ImdsSupport")),
    ("describe_snapshots", {"OwnerIds": ["self"]}, "Snapshots", "SnapshotId", ("State", "Description")),
    ("describe_volumes", {}, "Volumes", "VolumeId", ("State", "Encrypted", "VolumeType")),
    ("describe_network_interfaces", {}, "NetworkInterfaces", "NetworkInterfaceId", ("Status",)),
    ("describe_key_pairs", {}, "KeyPairs", "KeyPairId", ("KeyName",)),
    ("describe_security_groups", {}, "SecurityGroups", "GroupId",
     ("GroupName", "IpPermissions", "IpPermissionsEgress")),
    ("describe_addresses", {}, "Addresses", "AllocationId", ("PublicIp", "AssociationId")),
    ("describe_placement_groups", {}, "PlacementGroups", "GroupId", ("GroupName", "Strategy")),
    ("describe_launch_templates", {}, "LaunchTemplates", "LaunchTemplateId", ("LaunchTemplateName",)),
)


class Calls:
    """The cloud's API as its own client, with one boto3 client for each service, region and caller."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.clients: dict[tuple[str, str, str], Any] = {}
        self.lock = threading.Lock()

    def client(self, service: str, region: str, key: str = "rehearsal") -> Any:
        with self.lock:
            known = (service, region, key)
            if known not in self.clients:
                self.clients[known] = boto3.client(
                    service, region_name=region, endpoint_url=self.endpoint,
                    aws_access_key_id=key, aws_secret_access_key="rehearsal",
                )
            return self.clients[known]

    def call(self, service: str, region: str, key: str, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        answer = getattr(self.client(service, region, key), call)(**arguments)
        answer.pop("ResponseMetadata", None)
        return answer

    def resources(self, region: str) -> Iterator[str]:
        api = self.client("ec2", region)
        for reservation in api.describe_instances()["Reservations"]:
            for one in reservation["Instances"]:
                if one["State"]["Name"] != "terminated":
                    shown = {**one, "Is": one["State"]["Name"]}
                    yield line("Instances", shown, "InstanceId", ("Is", "KeyName", "ImageId"))
        for call, arguments, key, name, fields in LISTS:
            for one in getattr(api, call)(**arguments)[key]:
                yield line(key, one, name, fields)


def line(kind: str, one: dict[str, Any], name: str, fields: tuple[str, ...]) -> str:
    tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags") or one.get("TagSet") or []}
    shown = {field: one.get(field) for field in fields}
    return f"{kind} {one.get(name)} {json.dumps({**shown, 'tags': tags}, sort_keys=True, default=str)}"


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Server)
        try:
            said = {"ok": self.server.answer(json.loads(self.rfile.readline(), object_hook=with_bytes))}
        except ClientError as error:
            refused = error.response["Error"]
            said = {"error": f"{refused['Code']}: {refused['Message']}"}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        self.wfile.write(json.dumps(said, default=as_text).encode() + b"\n")


def with_bytes(value: dict[str, Any]) -> object:
    return base64.b64decode(value["base64"], validate=True) if value.keys() == {"base64"} else value


def as_text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Server(socketserver.ThreadingUnixStreamServer):
    """`steer` maps a verb to a function of the request's values."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str, calls: Calls, steer: dict[str, Callable[..., str | None]]) -> None:
        super().__init__(path, Handler)
        os.chmod(path, 0o600)
        self.calls = calls
        self.steer = steer

    def answer(self, request: dict[str, Any]) -> object:
        match request:
            case {"do": "call", "service": service, "region": region, "call": call, "arguments": arguments}:
                return self.calls.call(service, region, request.get("key", "rehearsal"), call, arguments)
            case {"do": "list", "region": region}:
                return sorted(self.calls.resources(region))
            case {"do": "steer", "verb": verb, "values": values} if verb in self.steer:
                return self.steer[verb](**values) or ""
        raise ValueError(f"no such request: {json.dumps(request)}")
