"""What the tests of the EC2 API stand on: guests that are made of nothing, the server, a client, short words for
launching and waiting. Owns no test."""

import os
import threading
import time
import unittest
import urllib.request
from contextlib import contextmanager
from functools import cache

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


class FakeGuests:
    """Says what was asked of it; goes down when told to, in a thread of its own."""

    def __init__(self):
        self.calls = []
        self.roots = {ROOT}
        self.alive = set()
        self.made = {}
        self.files = {}
        self.addresses = 0
        self.breaks = set()
        self.held = {}
        self.on_stopped = None

    @contextmanager
    def hold(self, name):
        """While this lasts, nothing comes of calls with this name."""
        self.held[name] = threading.Event()
        try:
            yield
        finally:
            self.held.pop(name).set()

    def _note(self, name, *rest):
        self.calls.append((name, *rest))
        if name in self.held:
            self.held[name].wait(20)
        if name in self.breaks:
            raise OSError(f"{name} is broken")

    def names(self, instance_id):
        return [call[0] for call in self.calls if call[1] == instance_id]

    def has_root(self, image_id):
        return image_id in self.roots

    def new_address(self):
        self.addresses += 1
        return f"10.78.0.{self.addresses}"

    def create(self, instance_id, image_id, address, metadata, user_data, public_key, files):
        self._note("create", instance_id, image_id)
        if image_id not in self.roots:
            raise KeyError(image_id)
        self.made[instance_id] = (address, metadata, user_data, public_key)
        self.files[instance_id] = files

    def boot(self, instance_id):
        self._note("boot", instance_id)
        self.alive.add(instance_id)

    def reboot(self, instance_id):
        self._note("reboot", instance_id)

    def stop(self, instance_id, force):
        self._note("stop", instance_id, force)
        threading.Timer(0.05, self.power_off, (instance_id,)).start()

    def power_off(self, instance_id):
        self.alive.discard(instance_id)
        self.on_stopped(instance_id)

    def remove(self, instance_id):
        self._note("remove", instance_id)
        self.power_off(instance_id)

    def add_address(self, instance_id, address):
        self._note("add_address", instance_id, address)

    def remove_address(self, instance_id, address):
        self._note("remove_address", instance_id, address)

    def console(self, instance_id):
        return b"x" * 70000 + b"\xff\x00the end of " + instance_id.encode()

    def keep(self, instance_id, image_id):
        self._note("keep", instance_id, image_id)
        if instance_id in self.alive:
            raise RuntimeError("the guest is running")
        self.roots.add(image_id)

    def add_light_image(self, image_id):
        self.roots.add(image_id)

    def copy_image(self, from_id, to_id):
        self._note("copy_image", from_id, to_id)
        self.roots.add(to_id)

    def drop_image(self, image_id):
        self._note("drop_image", image_id)
        self.roots.discard(image_id)


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


@cache
def server():
    """The address of the API, served from now on."""
    api.install(FakeGuests())
    served = make_server("127.0.0.1", 0, api.app(), threaded=True, request_handler=Quiet)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{served.server_port}"


@cache
def client(service="ec2", region="us-east-1"):
    return boto3.client(
        service, region_name=region, endpoint_url=server(), aws_access_key_id="testing",
        aws_secret_access_key="testing", config=Config(retries={"max_attempts": 0}),
    )


def until(condition, seconds=5):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class Ec2Test(unittest.TestCase):
    def setUp(self):
        url = f"{server()}/moto-api/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()
        self.guests = FakeGuests()
        api.install(self.guests)
        self.ec2 = client()
        self.subnets = {s["AvailabilityZone"]: s["SubnetId"] for s in self.ec2.describe_subnets()["Subnets"]}

    def refused(self, code, call, *, status=400, text=None, **parameters):
        with self.assertRaises(ClientError) as raised:
            call(**parameters)
        answer = raised.exception.response
        self.assertEqual(answer["Error"]["Code"], code, answer["Error"]["Message"])
        self.assertEqual(answer["ResponseMetadata"]["HTTPStatusCode"], status)
        if text:
            self.assertIn(text, answer["Error"]["Message"])

    def would(self, call, **parameters):
        self.refused("DryRunOperation", call, status=412, DryRun=True, **parameters)

    def request(self, **more):
        base = {"ImageId": ROOT, "InstanceType": "c5.large", "MinCount": 1, "MaxCount": 1}
        return {key: value for key, value in {**base, **more}.items() if value is not None}

    def run_one(self, **more):
        return self.ec2.run_instances(**self.request(**more))["Instances"][0]

    def pace(self, factor):
        api.RehearsalEc2.cloud.pace = factor

    def now(self, instance_id):
        return self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]

    def state(self, instance_id):
        return self.now(instance_id)["State"]["Name"]

    def becomes(self, instance_id, state):
        return until(lambda: self.state(instance_id) == state and self.now(instance_id))

    def running(self, **more):
        return self.becomes(self.run_one(**more)["InstanceId"], "running")

    def image(self, image_id, api=None):
        return (api or self.ec2).describe_images(ImageIds=[image_id])["Images"][0]

    def available(self, image_id, api=None):
        return until(lambda: self.image(image_id, api)["State"] == "available" and self.image(image_id, api))

    def stopped(self, **more):
        instance_id = self.running(**more)["InstanceId"]
        self.ec2.stop_instances(InstanceIds=[instance_id])
        return self.becomes(instance_id, "stopped")

    def group(self, name="efa"):
        return self.ec2.create_security_group(GroupName=name, Description="x")["GroupId"]

    def cards(self, *layout, zone="us-east-1d", **more):
        """Interfaces from (card, device, type)."""
        parts = ("NetworkCardIndex", "DeviceIndex", "InterfaceType")
        return [{**dict(zip(parts, one)), "SubnetId": self.subnets[zone], **more} for one in layout]
