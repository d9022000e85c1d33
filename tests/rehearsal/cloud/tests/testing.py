"""What the tests of the EC2 API stand on: guests that are made of nothing, the server, a client, short words for
launching and waiting. Owns no test."""

import os
import threading
import time
import unittest
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, TypeVar

os.environ["EFA_GEN_REHEARSAL_PACE"] = "0.1"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from werkzeug.serving import WSGIRequestHandler, make_server

from cloud.ec2 import api

(ROOT,) = api.images_with_root()
NO_IMAGE, NO_GROUP, NO_SUBNET = "ami-0123456789abcdef0", "sg-0123456789abcdef0", "subnet-0123456789abcdef0"
NO_INSTANCE = "i-0123456789abcdef0"
T = TypeVar("T")
# boto3 makes its clients while it runs.
Client = Any
# A refusal's code, and the parameters that are refused.
Case = tuple[str, dict[str, Any]]


class FakeGuests:
    """Says what was asked of it; goes down when told to, in a thread of its own."""

    def __init__(self) -> None:
        # What was called, for which machine or image, and what else was said.
        self.calls: list[tuple[str, *tuple[object, ...]]] = []
        self.roots = {ROOT}
        self.alive: set[str] = set()
        # By instance: address, metadata, user-data and public key; and the files.
        self.made: dict[str, tuple[str, dict[str, str], bytes, str | None]] = {}
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.addresses = 0
        self.breaks: set[str] = set()
        self.held: dict[str, threading.Event] = {}
        self.on_stopped: Callable[[str], None] = lambda instance: None

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """While this lasts, nothing comes of calls with this name."""
        self.held[name] = threading.Event()
        try:
            yield
        finally:
            self.held.pop(name).set()

    def _note(self, name: str, *rest: object) -> None:
        self.calls.append((name, *rest))
        if name in self.held:
            self.held[name].wait(20)
        if name in self.breaks:
            raise OSError(f"{name} is broken")

    def names(self, instance: str) -> list[str]:
        return [call[0] for call in self.calls if call[1] == instance]

    def has_root(self, image: str) -> bool:
        return image in self.roots

    def new_address(self) -> str:
        self.addresses += 1
        return f"10.78.0.{self.addresses}"

    def create(
        self, instance: str, image: str, address: str, metadata: dict[str, str], user_data: bytes,
        public_key: str | None, files: list[tuple[str, str]],
    ) -> None:
        self._note("create", instance, image)
        if image not in self.roots:
            raise KeyError(image)
        self.made[instance] = (address, metadata, user_data, public_key)
        self.files[instance] = files

    def boot(self, instance: str) -> None:
        self._note("boot", instance)
        self.alive.add(instance)

    def reboot(self, instance: str) -> None:
        self._note("reboot", instance)

    def stop(self, instance: str, force: bool) -> None:
        self._note("stop", instance, force)
        threading.Timer(0.05, self.power_off, (instance,)).start()

    def power_off(self, instance: str) -> None:
        self.alive.discard(instance)
        self.on_stopped(instance)

    def remove(self, instance: str) -> None:
        self._note("remove", instance)
        self.power_off(instance)

    def add_address(self, instance: str, address: str) -> None:
        self._note("add_address", instance, address)

    def remove_address(self, instance: str, address: str) -> None:
        self._note("remove_address", instance, address)

    def console(self, instance: str) -> bytes:
        return b"x" * 70000 + b"\xff\x00the end of " + instance.encode()

    def keep(self, instance: str, image: str) -> None:
        self._note("keep", instance, image)
        if instance in self.alive:
            raise RuntimeError("the guest is running")
        self.roots.add(image)

    def add_light_image(self, image: str) -> None:
        self.roots.add(image)

    def copy_image(self, image: str, copy: str) -> None:
        self._note("copy_image", image, copy)
        self.roots.add(copy)

    def drop_image(self, image: str) -> None:
        self._note("drop_image", image)
        self.roots.discard(image)


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        pass


@cache
def server() -> str:
    """The address of the API, served from now on."""
    api.install(FakeGuests())
    served = make_server("127.0.0.1", 0, api.app(), threaded=True, request_handler=Quiet)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{served.server_port}"


@cache
def client(service: str = "ec2", region: str = "us-east-1", key: str = "testing") -> Client:
    return boto3.client(
        service, region_name=region, endpoint_url=server(), aws_access_key_id=key,
        aws_secret_access_key="testing", config=Config(retries={"max_attempts": 0}),
    )


def until(condition: Callable[[], T | Literal[False] | None], seconds: float = 5) -> T:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class Ec2Test(unittest.TestCase):
    def setUp(self) -> None:
        url = f"{server()}/moto-api/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()
        self.guests = FakeGuests()
        api.install(self.guests)
        self.ec2 = client()
        subnets = self.ec2.describe_subnets()["Subnets"]
        self.subnets: dict[str, str] = {s["AvailabilityZone"]: s["SubnetId"] for s in subnets}

    def refused(
        self, code: str, call: Callable[..., object], *, status: int = 400, text: str | None = None, **parameters: Any
    ) -> None:
        with self.assertRaises(ClientError) as raised:
            call(**parameters)
        answer = raised.exception.response
        self.assertEqual(answer["Error"]["Code"], code, answer["Error"]["Message"])
        self.assertEqual(answer["ResponseMetadata"]["HTTPStatusCode"], status)
        if text:
            self.assertIn(text, answer["Error"]["Message"])

    def would(self, call: Callable[..., object], **parameters: Any) -> None:
        self.refused("DryRunOperation", call, status=412, DryRun=True, **parameters)

    def request(self, **more: Any) -> dict[str, Any]:
        base = {"ImageId": ROOT, "InstanceType": "c5.large", "MinCount": 1, "MaxCount": 1}
        return {key: value for key, value in {**base, **more}.items() if value is not None}

    def run_one(self, **more: Any) -> dict[str, Any]:
        return self.ec2.run_instances(**self.request(**more))["Instances"][0]

    def pace(self, factor: float) -> None:
        api.RehearsalEc2.cloud.pace = factor

    def now(self, instance_id: str) -> dict[str, Any]:
        return self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]

    def state(self, instance_id: str) -> str:
        return self.now(instance_id)["State"]["Name"]

    def becomes(self, instance_id: str, state: str) -> dict[str, Any]:
        return until(lambda: self.state(instance_id) == state and self.now(instance_id))

    def running(self, **more: Any) -> dict[str, Any]:
        return self.becomes(self.run_one(**more)["InstanceId"], "running")

    def image(self, image_id: str, api: Client = None) -> dict[str, Any]:
        return (api or self.ec2).describe_images(ImageIds=[image_id])["Images"][0]

    def available(self, image_id: str, api: Client = None) -> dict[str, Any]:
        return until(lambda: self.image(image_id, api)["State"] == "available" and self.image(image_id, api))

    def stopped(self, **more: Any) -> dict[str, Any]:
        instance_id = self.running(**more)["InstanceId"]
        self.ec2.stop_instances(InstanceIds=[instance_id])
        return self.becomes(instance_id, "stopped")

    def group(self, name: str = "efa") -> str:
        return self.ec2.create_security_group(GroupName=name, Description="x")["GroupId"]

    def cards(self, *layout: tuple[int, int, str], zone: str = "us-east-1d", **more: Any) -> list[dict[str, Any]]:
        """Interfaces from (card, device, type)."""
        subnet = self.subnets[zone]
        return [
            {"NetworkCardIndex": card, "DeviceIndex": device, "InterfaceType": kind, "SubnetId": subnet, **more}
            for card, device, kind in layout
        ]
