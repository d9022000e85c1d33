"""The actions on AMIs and their snapshots: describe, create, copy, register, deregister, share, deprecate, protect.

Owns the rules of AWS's user guide: "Copy an AMI", "Deprecate an AMI", "Protect an AMI from deregistration", "Share an
AMI". It must not touch a guest but through an Instance; of the guests' images it knows their ids alone.
"""

import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import UnvailableAMIIdError
from moto.ec2.models import ec2_backends
from moto.ec2.models.block_device import BlockDeviceType
from moto.ec2.models.elastic_block_store import Volume
from moto.ec2.utils import random_ami_id

from cloud.ec2.core import Tags, chosen, page, refusal, tags_by_type, tags_of
from cloud.ec2.images import FIELDS, Image, Snapshot, available, find, image_failed, image_kept
from cloud.ec2.instance_actions import Instances
from cloud.ec2.instances import Instance


class Images(Instances):
    """The actions on images and snapshots."""

    # Listing.

    def describe_images(self) -> ActionResult:
        p = self.params
        # EC2 promises no order; this one is neither by age nor by name.
        images: list[Image] = sorted(self.ec2_backend.amis.values(), key=lambda i: i.id)
        images = [i for i in images if i.visible_to(self.current_account)]
        if p.get("ImageIds"):
            images = [find(self.ec2_backend, i, self.current_account) for i in dict.fromkeys(p["ImageIds"])]
        elif not p.get("IncludeDeprecated"):
            # An id finds a deprecated image, and its owner always sees it [AWS docs, "Deprecate an AMI"].
            images = [i for i in images if not i.deprecated() or i.owner_id == self.current_account]
        if p.get("Owners"):
            owners = [self.current_account if o == "self" else o for o in p["Owners"]]
            images = [i for i in images if i.owner_id in owners or i.owner_alias in owners]
        if p.get("ExecutableUsers"):
            images = [i for i in images if self._may_launch(i, p["ExecutableUsers"])]
        if not p.get("IncludeDisabled"):
            images = [i for i in images if not i.disabled]
        images = chosen(images, p.get("Filters"), FIELDS, self._tags)
        images, token = page(images, p)
        return ActionResult({"Images": [i.view() for i in images], "NextToken": token})

    def _may_launch(self, image: Image, users: list[str]) -> bool:
        users = [self.current_account if u == "self" else u for u in users]
        named = [u for u in users if u != "all" and {"UserId": u} in image.launch_permissions]
        return bool(named) or ("all" in users and image.is_public)

    def _tags(self, thing: Image) -> Tags:
        return tags_of(self.ec2_backend, thing.id)

    def describe_snapshots(self) -> ActionResult:
        p = self.params
        snapshots = self.ec2_backend.describe_snapshots(p.get("SnapshotIds"), self._filters_from_querystring())
        if p.get("OwnerIds"):
            owners = [self.current_account if o == "self" else o for o in p["OwnerIds"]]
            snapshots = [s for s in snapshots if s.owner_id in owners]
        return ActionResult({"Snapshots": snapshots})

    # Making.

    def create_image(self) -> ActionResult:
        p, backend = self.params, self.ec2_backend
        instance = self.find_instance(p["InstanceId"])
        self._check_new_name(p["Name"])
        tags = tags_by_type(p.get("TagSpecifications"), ("image", "snapshot"))
        if instance.life not in ("running", "stopped"):
            raise refusal("IncorrectState", "Instance is not in state 'running' or 'stopped'")
        if instance.life == "running" and p.get("NoReboot") and instance.has_guest:
            raise refusal(
                "UnsupportedOperation", "The rehearsal keeps the root of stopped guests only: leave NoReboot out"
            )
        mappings = _mappings_of(instance, backend, p.get("BlockDeviceMappings"))
        self.error_on_dryrun()
        image = instance.image.child(
            backend, random_ami_id(), p["Name"], mappings, description=p.get("Description"),
            root_device_name=instance.root_device_name, ena_support=instance.ena_support,
            source_instance_id=instance.id, source_image_id=instance.image_id, source_image_region=self.region,
        )
        text = f"Created by CreateImage({instance.id}) for {image.id}"
        for mapping in mappings:
            volume = backend.volumes.get(mapping["Ebs"].pop("VolumeId", None))
            if volume:
                snapshot = Snapshot(backend, image, volume, text, volume.encrypted, volume.kms_key_id)
                mapping["Ebs"]["SnapshotId"] = snapshot.id
        self._add_image(image, tags)
        instance.keep_as(image)
        return ActionResult({"ImageId": image.id})

    def copy_image(self) -> ActionResult:
        # The token first: a repeated request is answered, not checked.
        return ActionResult({"ImageId": self.memory.once("CopyImage", self.params, self._copy_image)})

    def _copy_image(self) -> str:
        p, backend = self.params, self.ec2_backend
        self._check_new_name(p["Name"])
        source_backend = ec2_backends[self.current_account][p["SourceRegion"]]
        source = available(source_backend, p["SourceImageId"], self.current_account)
        tags = tags_by_type(p.get("TagSpecifications"), ("image", "snapshot"))
        if p.get("KmsKeyId") and not p.get("Encrypted"):
            raise refusal(
                "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
            )
        self.error_on_dryrun()
        if p.get("CopyImageTags") and source.owner_id == self.current_account:
            copied = {k: v for k, v in tags_of(source_backend, source.id).items() if not k.startswith("aws:")}
            tags["image"] = {**copied, **tags.get("image", {})}
        image = source.child(
            backend, random_ami_id(), p["Name"], [], description=p.get("Description") or source.description,
            source_image_id=source.id, source_image_region=p["SourceRegion"],
        )
        image.mappings = [self._copied_mapping(m, source, image) for m in source.mappings]
        self._add_image(image, tags)
        self._copy_root(source.id, image)
        return image.id

    def _copied_mapping(self, mapping: dict[str, Any], source: Image, image: Image) -> dict[str, Any]:
        # A copy of what is encrypted stays encrypted.
        ebs = dict(mapping["Ebs"])
        ebs["Encrypted"] = bool(self.params.get("Encrypted") or ebs.get("Encrypted"))
        key = (self.params.get("KmsKeyId") or self._default_key()) if ebs["Encrypted"] else None
        volume = SimpleNamespace(id="vol-ffffffff", size=ebs["VolumeSize"])
        text = (
            f"Copied for DestinationAmi {image.id} from SourceAmi {source.id} for SourceSnapshot {ebs['SnapshotId']}."
        )
        ebs["SnapshotId"] = Snapshot(self.ec2_backend, image, volume, text, ebs["Encrypted"], key).id
        return {"DeviceName": mapping["DeviceName"], "Ebs": ebs}

    def _copy_root(self, source_id: str, image: Image) -> None:
        cloud = self.cloud
        if not cloud.guests.has_root(source_id):
            image_kept(cloud, image)
            return
        failed = image_failed(cloud, image)
        cloud.image_hands.do(lambda: cloud.guests.copy_image(source_id, image.id), failed)
        cloud.image_hands.do(lambda: image_kept(cloud, image))

    def register_image(self) -> ActionResult:
        p, backend = self.params, self.ec2_backend
        self._check_new_name(p["Name"])
        tags = tags_by_type(p.get("TagSpecifications"), ("image",))
        mappings = [m for m in p.get("BlockDeviceMappings", []) if "Ebs" in m]
        for mapping in mappings:
            self._complete_mapping(mapping["Ebs"])
        root = p.get("RootDeviceName") or "/dev/sda1"
        if root not in [m["DeviceName"] for m in mappings]:
            raise refusal(
                "InvalidBlockDeviceMapping", f"The root device {root} has no block device mapping with a snapshot"
            )
        self.error_on_dryrun()
        image = Image(
            backend, random_ami_id(), p["Name"], self.current_account, mappings, root_device_name=root,
            description=p.get("Description"), architecture=p.get("Architecture") or "i386",
            virtualization_type=p.get("VirtualizationType") or "paravirtual", boot_mode=p.get("BootMode"),
            ena_support=bool(p.get("EnaSupport")), sriov=p.get("SriovNetSupport"), imds_support=p.get("ImdsSupport"),
        )
        self._add_image(image, tags)
        image_kept(self.cloud, image)
        return ActionResult({"ImageId": image.id})

    def _complete_mapping(self, ebs: dict[str, Any]) -> None:
        ebs.setdefault("VolumeType", "standard")
        ebs.setdefault("DeleteOnTermination", True)
        if ebs.get("SnapshotId"):
            snapshot = self.ec2_backend.get_snapshot(ebs["SnapshotId"])
            ebs.setdefault("VolumeSize", snapshot.volume_size)
            ebs["Encrypted"] = snapshot.encrypted
        if not ebs.get("VolumeSize"):
            raise refusal("MissingParameter", "The request must contain the parameter size or snapshotId")
        ebs.setdefault("Encrypted", False)

    def _add_image(self, image: Image, tags: dict[str, Tags]) -> None:
        self.ec2_backend.amis[image.id] = image
        self.ec2_backend.create_tags([image.id], tags.get("image", {}))
        if tags.get("snapshot"):
            self.ec2_backend.create_tags(image.snapshot_ids(), tags["snapshot"])

    def _check_new_name(self, name: str) -> None:
        """[AWS API reference, CreateImage, Name]"""
        if not re.fullmatch(r"[A-Za-z0-9 ()\[\]./'@_-]{3,128}", name):
            raise refusal(
                "InvalidAMIName.Malformed",
                "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, spaces,"
                " '(', ')', '[', ']', '.', '-', '/', ''', '@' and '_'",
            )
        for image in self.ec2_backend.amis.values():
            if image.name == name and image.owner_id == self.current_account:
                raise refusal("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {image.id}")

    def _default_key(self) -> str:
        return self.ec2_backend.default_kms_key_id or self.ec2_backend._create_default_encryption_key()

    # Unmaking.

    def deregister_image(self) -> ActionResult:
        image = self._own_image()
        if image.protection != "disabled":
            raise refusal(
                "OperationNotPermitted",
                f"The image {image.id} is protected from deregistration: disable the protection first",
            )
        self.error_on_dryrun()
        del self.ec2_backend.amis[image.id]
        self.ec2_backend.deleted_amis.append(image.id)
        self.cloud.drop_image(image.id)
        results = []
        if self._get_param("DeleteAssociatedSnapshots"):
            for snapshot_id in image.snapshot_ids():
                busy = self._image_with(snapshot_id)
                if not busy:
                    self.ec2_backend.snapshots.pop(snapshot_id, None)
                results.append({"SnapshotId": snapshot_id, "ReturnCode": "skipped" if busy else "success"})
        return ActionResult({"Return": True, "DeleteSnapshotResults": results})

    def delete_snapshot(self) -> ActionResult:
        snapshot = self.ec2_backend.get_snapshot(self._get_param("SnapshotId"))
        image = self._image_with(snapshot.id)
        if image:
            raise refusal("InvalidSnapshot.InUse", f"The snapshot {snapshot.id} is currently in use by {image.id}")
        self.error_on_dryrun()
        del self.ec2_backend.snapshots[snapshot.id]
        return EmptyResult()

    def _image_with(self, snapshot_id: str) -> Image | None:
        return next((i for i in self.ec2_backend.amis.values() if snapshot_id in i.snapshot_ids()), None)

    # Attributes.

    def _own_image(self) -> Image:
        image_id = self._get_param("ImageId")
        if image_id in self.ec2_backend.deleted_amis:
            raise UnvailableAMIIdError(image_id)
        image = find(self.ec2_backend, image_id, self.current_account)
        if image.owner_id != self.current_account:
            raise refusal("AuthFailure", f"Not authorized for image:{image_id}")
        return image

    def modify_image_attribute(self) -> ActionResult:
        p, image = self.params, self._own_image()
        if image.state == "pending":
            raise refusal("InvalidAMIID.Unavailable", f"The image ID '{image.id}' is not available: it is pending")
        name = p.get("Attribute")
        named = {name: p.get("Value")} if name else {}
        description = p.get("Description", {}).get("Value", named.get("description"))
        imds = p.get("ImdsSupport", {}).get("Value", named.get("imdsSupport"))
        if imds not in (None, "v2.0"):
            raise refusal("InvalidParameterValue", f"Value ({imds}) for parameter imdsSupport is invalid. Use v2.0.")
        add, remove = self._permission_changes(image)
        if description is None and imds is None and not add and not remove:
            raise refusal("InvalidParameterCombination", "No attributes specified.")
        self.error_on_dryrun()
        if description is not None:
            image.description = description
        image.imds_support = imds or image.imds_support
        kept = [one for one in image.launch_permissions if one not in remove]
        image.launch_permissions = kept + [one for one in add if one not in kept]
        return EmptyResult()

    def _permission_changes(self, image: Image) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """LaunchPermission, or OperationType with lists of users, groups and organisations."""
        p = self.params
        changes = {k: list(p.get("LaunchPermission", {}).get(k, [])) for k in ("Add", "Remove")}
        lists = {
            "UserIds": "UserId", "UserGroups": "Group", "OrganizationArns": "OrganizationArn",
            "OrganizationalUnitArns": "OrganizationalUnitArn",
        }
        for parameter, key in lists.items():
            target = changes["Remove" if p.get("OperationType") == "remove" else "Add"]
            target.extend({key: value} for value in p.get(parameter, []))
        self.ec2_backend.validate_permission_targets(changes["Add"] + changes["Remove"])
        default = self.ec2_backend.default_kms_key_id
        snapshots = [self.ec2_backend.snapshots.get(one) for one in image.snapshot_ids()]
        if changes["Add"] and default and any(s and s.kms_key_id == default for s in snapshots):
            # AWS docs, "Share an AMI": what is encrypted with the account's own EBS key cannot be shared.
            raise refusal("InvalidParameter", "Snapshots encrypted with the AWS Managed CMK can't be shared")
        return changes["Add"], changes["Remove"]

    def describe_image_attribute(self) -> ActionResult:
        image = self._own_image()
        name = self._get_param("Attribute")
        values = {
            "bootMode": ("BootMode", image.boot_mode),
            "deregistrationProtection": ("DeregistrationProtection", image.protection),
            "description": ("Description", image.description),
            "imdsSupport": ("ImdsSupport", image.imds_support),
            "sriovNetSupport": ("SriovNetSupport", image.sriov),
        }
        if name == "launchPermission":
            return ActionResult({"ImageId": image.id, "LaunchPermissions": image.launch_permissions})
        if name == "blockDeviceMapping":
            raise refusal("AuthFailure", "Unauthorized attempt to access restricted resource")
        if name not in values:
            raise refusal("UnsupportedOperation", f"The rehearsal does not keep the image attribute {name}")
        key, value = values[name]
        return ActionResult({"ImageId": image.id, key: {"Value": value}})

    def reset_image_attribute(self) -> Any:  # moto says that its own gives a text
        image = self._own_image()
        if self._get_param("Attribute") != "launchPermission":
            raise refusal("InvalidParameterValue", "Only launchPermission can be reset")
        self.error_on_dryrun()
        image.launch_permissions = []
        return EmptyResult()

    def enable_image_deprecation(self) -> ActionResult:
        image, when = self._own_image(), self._get_param("DeprecateAt")
        years = 2 if image.is_public else 10
        if not utcnow() < when < utcnow() + timedelta(days=366 * years):
            raise refusal("InvalidParameterValue", f"DeprecateAt must be in the future, at most {years} years from now")
        self.error_on_dryrun()
        image.deprecation_time = when.replace(second=0, microsecond=0)
        return ActionResult({"Return": True})

    def disable_image_deprecation(self) -> ActionResult:
        image = self._own_image()
        self.error_on_dryrun()
        image.deprecation_time = None
        return ActionResult({"Return": True})

    def enable_image_deregistration_protection(self) -> ActionResult:
        image = self._own_image()
        self.error_on_dryrun()
        image.protection = "enabled-with-cooldown" if self._get_param("WithCooldown") else "enabled-without-cooldown"
        return ActionResult({"Return": image.protection})

    def disable_image_deregistration_protection(self) -> ActionResult:
        image = self._own_image()
        self.error_on_dryrun()
        # The cooldown is a day: nobody waits for it in a rehearsal, so such an image stays protected.
        if image.protection == "enabled-without-cooldown":
            image.protection = "disabled"
        return ActionResult({"Return": "true"})

    def disable_image(self) -> ActionResult:
        image = self._own_image()
        self.error_on_dryrun()
        image.disabled = True
        return ActionResult({"Return": True})

    def enable_image(self) -> ActionResult:
        image = self._own_image()
        self.error_on_dryrun()
        image.disabled = False
        return ActionResult({"Return": True})


def _mappings_of(instance: Instance, backend: Any, asked: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The instance's volumes as an image's mappings. Of them a request changes DeleteOnTermination alone, or leaves one
    out; it may add volumes of its own [AWS API reference, CreateImage]."""
    changes = {m.get("DeviceName"): m for m in asked or []}
    mappings = []
    for device, block in instance.block_device_mapping.items():
        mapping = changes.pop(device, {})
        if "NoDevice" in mapping:
            continue
        ebs, wanted = _ebs_of(backend.volumes[block.volume_id], block), mapping.get("Ebs", {})
        for key, value in wanted.items():
            if key != "DeleteOnTermination" and ebs.get(key) != value:
                raise refusal(
                    "InvalidBlockDeviceMapping", f"{key} of the instance's own volume {device} can't be changed"
                )
        mappings.append({"DeviceName": device, "Ebs": {**ebs, **wanted}})
    for device, mapping in changes.items():
        ebs = {"VolumeType": "gp2", "DeleteOnTermination": True, "Encrypted": False, **mapping.get("Ebs", {})}
        if not ebs.get("VolumeSize"):
            raise refusal("MissingParameter", f"The request must contain the parameter size for {device}")
        mappings.append({"DeviceName": device, "Ebs": ebs})
    return mappings


def _ebs_of(volume: Volume, block: BlockDeviceType) -> dict[str, Any]:
    ebs = {
        "VolumeId": volume.id,
        "VolumeSize": volume.size,
        "VolumeType": volume.volume_type,
        "DeleteOnTermination": bool(block.delete_on_termination),
        "Encrypted": bool(volume.encrypted),
    }
    if volume.volume_type in ("gp3", "io1", "io2"):
        ebs["Iops"] = volume.iops
    if volume.volume_type == "gp3":
        ebs["Throughput"] = volume.throughput
    return ebs
