"""What an AMI and its snapshots are, the catalogue of those that are there from the start, and how one is found.

Owns what an image is known by. It must not know actions (image_actions.py), nor where the root file system of an
image lies: only the guests know that. What was not found in AWS's user guide is marked [assumed].
"""

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from moto.core.utils import utcnow
from moto.ec2.exceptions import InvalidAMIIdError, MalformedAMIIdError, UnvailableAMIIdError
from moto.ec2.models.elastic_block_store import Snapshot as MotoSnapshot
from moto.ec2.utils import random_ami_id, random_snapshot_id

from cloud.ec2.core import IMAGE_SECONDS, Cloud, iso, moment, refusal, tag_list

LIGHT = "rehearsal-light"
LIGHT_TAGS = {
    "Name": LIGHT, "efa-gen:run": "20260101-000000-5ea1", "efa-gen:version": "0.1.0",
    "efa-gen:distribution": "debian12", "efa-gen:stack": "rehearsal",
    "efa-gen:plan": "0" * 64, "efa-gen:state": "published", "efa-gen:base-name": LIGHT,
}
CATALOGUE: list[dict[str, Any]] = json.loads((Path(__file__).parent / "amis.json").read_text(encoding="utf-8"))


class Image:
    """One AMI in one region. `mappings` are block device mappings as DescribeImages shows them."""

    def __init__(
        self, backend: Any, image_id: str, name: str, owner_id: str, mappings: list[dict[str, Any]], **more: Any
    ) -> None:
        self.ec2_backend = backend
        self.id = image_id
        self.name = name
        self.owner_id = owner_id
        self.mappings = mappings
        self.owner_alias = more.get("owner_alias")
        self.description = more.get("description") or ""
        self.architecture = more.get("architecture") or "x86_64"
        self.virtualization_type = more.get("virtualization_type") or "hvm"
        self.root_device_name = more.get("root_device_name") or "/dev/sda1"
        self.ena_support = more.get("ena_support", True)
        self.sriov = more.get("sriov", "simple")
        self.boot_mode = more.get("boot_mode")
        self.imds_support = more.get("imds_support")
        self.platform_details = more.get("platform_details") or "Linux/UNIX"
        self.usage_operation = more.get("usage_operation") or "RunInstances"
        self.product_codes = more.get("product_codes") or []
        self.creation_date: datetime = more.get("creation_date") or utcnow()
        self.deprecation_time: datetime | None = more.get("deprecation_time")
        self.source_instance_id = more.get("source_instance_id")
        self.source_image_id = more.get("source_image_id")
        self.source_image_region = more.get("source_image_region")
        self.launch_permissions: list[dict[str, str]] = [{"Group": "all"}] if more.get("public") else []
        self.protection = "disabled"
        self.disabled = False
        self.failure: str | None = None
        self.ready_at: float | None = None
        # moto's Instance asks for these.
        self.platform = self.kernel_id = self.ramdisk = None

    @classmethod
    def of_catalogue(cls, backend: Any, entry: dict[str, Any]) -> "Image":
        ebs = {
            "SnapshotId": entry["snapshot_id"],
            "VolumeSize": entry["root_gib"],
            "VolumeType": entry["root_type"],
            "DeleteOnTermination": True,
            "Encrypted": False,
        }
        if entry["root_type"] == "gp3":
            ebs.update(Iops=3000, Throughput=125)
        facts = {**entry, "public": True, "creation_date": moment(entry["creation_date"])}
        if "deprecation_time" in entry:
            facts["deprecation_time"] = moment(entry["deprecation_time"])
        if "product_code" in entry:
            facts["product_codes"] = [entry["product_code"]]
        mappings = [{"DeviceName": entry["root_device_name"], "Ebs": ebs}]
        for known in ("ami_id", "name", "owner_id"):
            facts.pop(known)
        image = cls(backend, entry["ami_id"], entry["name"], entry["owner_id"], mappings, **facts)
        image.ready_at = 0.0
        return image

    def child(self, backend: Any, image_id: str, name: str, mappings: list[dict[str, Any]], **more: Any) -> "Image":
        """A new image of the caller's that is this one's kind of machine. Launch permissions, deprecation and
        protection do not go over [AWS docs, "Copy an AMI"]; ImdsSupport does [for CreateImage assumed]."""
        kept = (
            "architecture virtualization_type root_device_name ena_support sriov boot_mode imds_support"
            " platform_details usage_operation product_codes"
        )
        facts = {key: getattr(self, key) for key in kept.split()}
        return Image(backend, image_id, name, backend.account_id, mappings, **{**facts, **more})

    @property
    def state(self) -> str:
        if self.failure:
            return "failed"
        if self.ready_at is None or time.monotonic() < self.ready_at:
            return "pending"
        return "disabled" if self.disabled else "available"

    @property
    def is_public(self) -> bool:
        return {"Group": "all"} in self.launch_permissions

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        return self.mappings

    @property
    def root_gib(self) -> int:
        return next(m["Ebs"]["VolumeSize"] for m in self.mappings if m["DeviceName"] == self.root_device_name)

    def deprecated(self) -> bool:
        return self.deprecation_time is not None and self.deprecation_time <= utcnow()

    def visible_to(self, account: str) -> bool:
        return self.is_public or self.owner_id == account or {"UserId": account} in self.launch_permissions

    def snapshot_ids(self) -> list[str]:
        return [m["Ebs"]["SnapshotId"] for m in self.mappings if m.get("Ebs", {}).get("SnapshotId")]

    def get_filter_value(self, name: str, method_name: str | None = None) -> object:
        """moto's own look-ups by field."""
        return FIELDS[name](self)

    def view(self) -> dict[str, Any]:
        return {
            "ImageId": self.id,
            "ImageLocation": f"{self.owner_alias or self.owner_id}/{self.name}",
            "State": self.state,
            "StateReason": self.failure and {"Code": "Server.InternalError", "Message": self.failure},
            "OwnerId": self.owner_id,
            "ImageOwnerAlias": self.owner_alias,
            "CreationDate": self.creation_date,
            "DeprecationTime": self.deprecation_time and iso(self.deprecation_time),
            "DeregistrationProtection": self.protection,
            "Public": self.is_public,
            "Name": self.name,
            "Description": self.description or None,
            "Architecture": self.architecture,
            "ImageType": "machine",
            "Hypervisor": "xen",
            "VirtualizationType": self.virtualization_type,
            "RootDeviceName": self.root_device_name,
            "RootDeviceType": "ebs",
            "BlockDeviceMappings": self.mappings,
            "EnaSupport": self.ena_support,
            "SriovNetSupport": self.sriov,
            "BootMode": self.boot_mode,
            "ImdsSupport": self.imds_support,
            "PlatformDetails": self.platform_details,
            "UsageOperation": self.usage_operation,
            "ProductCodes": [{"ProductCodeId": c, "ProductCodeType": "marketplace"} for c in self.product_codes],
            "SourceInstanceId": self.source_instance_id,
            "SourceImageId": self.source_image_id,
            "SourceImageRegion": self.source_image_region,
            "Tags": tag_list(self.ec2_backend, self.id) or None,
        }


def _ebs(key: str) -> Callable[[Image], object]:
    return lambda i: [m["Ebs"].get(key) for m in i.mappings if "Ebs" in m]


FIELDS: dict[str, Callable[[Image], object]] = {
    "architecture": lambda i: i.architecture,
    "block-device-mapping.delete-on-termination": _ebs("DeleteOnTermination"),
    "block-device-mapping.device-name": lambda i: [m["DeviceName"] for m in i.mappings],
    "block-device-mapping.encrypted": _ebs("Encrypted"),
    "block-device-mapping.snapshot-id": _ebs("SnapshotId"),
    "block-device-mapping.volume-size": _ebs("VolumeSize"),
    "block-device-mapping.volume-type": _ebs("VolumeType"),
    "boot-mode": lambda i: i.boot_mode,
    "creation-date": lambda i: i.creation_date,
    "description": lambda i: i.description,
    "ena-support": lambda i: i.ena_support,
    "hypervisor": lambda i: "xen",
    "image-id": lambda i: i.id,
    "image-type": lambda i: "machine",
    "imds-support": lambda i: i.imds_support,
    "is-public": lambda i: i.is_public,
    "kernel-id": lambda i: i.kernel_id,
    "manifest-location": lambda i: f"{i.owner_alias or i.owner_id}/{i.name}",
    "name": lambda i: i.name,
    "owner-alias": lambda i: i.owner_alias,
    "owner-id": lambda i: i.owner_id,
    "platform": lambda i: i.platform,
    "platform-details": lambda i: i.platform_details,
    "product-code": lambda i: i.product_codes,
    "product-code.type": lambda i: ["marketplace" for _ in i.product_codes],
    "ramdisk-id": lambda i: i.ramdisk,
    "root-device-name": lambda i: i.root_device_name,
    "root-device-type": lambda i: "ebs",
    "source-image-id": lambda i: i.source_image_id,
    "source-image-region": lambda i: i.source_image_region,
    "source-instance-id": lambda i: i.source_instance_id,
    "sriov-net-support": lambda i: i.sriov,
    "state": lambda i: i.state,
    "state-reason-code": lambda i: i.failure and "Server.InternalError",
    "state-reason-message": lambda i: i.failure,
    "usage-operation": lambda i: i.usage_operation,
    "virtualization-type": lambda i: i.virtualization_type,
}


class Snapshot(MotoSnapshot):
    """A snapshot that is complete when its image is; moto's are complete at once."""

    # moto files every model by the second word of its module.
    __module__ = "moto.ec2.models.elastic_block_store"

    if TYPE_CHECKING:

        def __new__(cls, *_: Any, **__: Any) -> Self: ...  # moto says that this gives any of its records

    def __init__(
        self, backend: Any, image: Image, volume: Any, description: str, encrypted: bool, kms_key_id: str | None
    ) -> None:
        self.image = image
        super().__init__(
            backend, random_snapshot_id(), volume, description, encrypted, kms_key_id, backend.account_id, image.id
        )
        backend.snapshots[self.id] = self

    @property
    def status(self) -> str:
        return {"pending": "pending", "failed": "error"}.get(self.image.state, "completed")

    @status.setter
    def status(self, value: str) -> None:
        """The image says it."""

    @property
    def progress(self) -> str:
        return "0%" if self.status == "pending" else "100%"


def load_catalogue(backend: Any) -> None:
    for entry in CATALOGUE:
        backend.amis[entry["ami_id"]] = Image.of_catalogue(backend, entry)


def light_image_of(backend: Any) -> Image:
    """The account's own image whose machines are light hosts, tagged as one that efa-gen has published."""
    known = next((image for image in backend.amis.values() if image.name == LIGHT), None)
    if known:
        return known
    base = next(Image.of_catalogue(backend, entry) for entry in CATALOGUE if entry.get("rehearsal_root"))
    ebs = {**base.mappings[0]["Ebs"], "VolumeSize": 8}
    image = base.child(backend, random_ami_id(), LIGHT, [{"DeviceName": base.root_device_name, "Ebs": ebs}])
    image.ready_at = 0.0
    volume = SimpleNamespace(id="vol-ffffffff", size=8)
    ebs["SnapshotId"] = Snapshot(backend, image, volume, "Of light hosts", False, None).id
    backend.amis[image.id] = image
    backend.create_tags([image.id], LIGHT_TAGS)
    return image


def images_with_root() -> list[str]:
    """The images of the catalogue that have a root file system in the rehearsal."""
    return [entry["ami_id"] for entry in CATALOGUE if entry.get("rehearsal_root")]


def newest_by_parameter() -> dict[str, str]:
    """SSM's public parameters: each names the newest image that carries it."""
    by_age = sorted(CATALOGUE, key=lambda e: e["creation_date"])
    return {e["ssm_parameter"]: e["ami_id"] for e in by_age if "ssm_parameter" in e}


def find(backend: Any, image_id: str, account: str) -> Image:
    """The image, if the caller may know of it."""
    if not re.fullmatch(r"ami-[0-9a-f]{8}([0-9a-f]{9})?", image_id or ""):
        raise MalformedAMIIdError([image_id])
    image = backend.amis.get(image_id)
    if not image or not image.visible_to(account):
        raise InvalidAMIIdError(image_id)
    return image


def available(backend: Any, image_id: str, account: str) -> Image:
    if image_id in backend.deleted_amis:
        raise UnvailableAMIIdError(image_id)
    image = find(backend, image_id, account)
    if image.state != "available":
        raise refusal("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available: it is {image.state}")
    return image


def image_kept(cloud: Cloud, image: Image) -> None:
    """The image's root file system is where it belongs: it becomes available in a while, if nobody gave it up."""
    with cloud.lock:
        if image.name in cloud.failing_images:
            cloud.failing_images.discard(image.name)
            image.failure = "The rehearsal was told to let this image fail"
        if not image.failure:
            image.ready_at = cloud.after(IMAGE_SECONDS)
        if image.id in image.ec2_backend.deleted_amis:
            cloud.drop_image(image.id)


def image_failed(cloud: Cloud, image: Image) -> Callable[[Exception], None]:
    def failed(error: Exception) -> None:
        image.failure = str(error) or type(error).__name__

    return failed
