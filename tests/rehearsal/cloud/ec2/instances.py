"""An instance: its states, its interfaces and volumes in moto's records, and its guest.

Owns an instance's life, from the guest being made to the guest being gone. It must not know requests: what may be
launched is decided in launch.py, what may be done to an instance in instance_actions.py. States and codes are those of
AWS's user guide, "Amazon EC2 instance state changes".
"""

import time
from typing import TYPE_CHECKING, Any, Self

from moto.core.utils import utcnow
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance as MotoInstance
from moto.ec2.models.instances import InstanceState, StateReason
from moto.ec2.models.security_groups import SecurityGroup
from moto.ec2.utils import random_eni_attach_id, random_spot_request_id

from cloud.ec2.core import CHECKS_SECONDS, GONE_SECONDS, PENDING_SECONDS, Cloud, Failed, Hands, Work
from cloud.ec2.images import Image, image_failed, image_kept
from cloud.ec2.networks import Interface, Nic, slot

if TYPE_CHECKING:
    from cloud.ec2.launch import Plan

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
# Why an instance is no longer running: code and message.
BY_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
BY_GUEST = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")


class Instance(MotoInstance):
    """An instance and its guest, if its image has a root file system here."""

    # moto files every model by the second word of its module.
    __module__ = "moto.ec2.models.instances"

    if TYPE_CHECKING:

        def __new__(cls, *_: Any, **__: Any) -> Self: ...  # moto says that this gives any of its records

    def __init__(self, cloud: Cloud, backend: Any, reservation_id: str, plan: "Plan", index: int) -> None:
        self.cloud = cloud
        self.plan = plan
        self.image = plan.image
        self.reservation_id = reservation_id
        self.address = cloud.guests.new_address()
        self.has_guest = cloud.guests.has_root(plan.image.id)
        self.console_kept = b""
        self.made = False
        self.files = cloud.files.pop((backend.region_name, index), [])
        self.life = "pending"
        self.changes_at: float | None = None
        self.running_since: float | None = None
        self.to_keep: list[Image] = []
        super().__init__(
            backend, plan.image.id, plan.user_data_text, [], client_token=plan.client_token,
            instance_type=plan.instance_type, region_name=backend.region_name, key_name=plan.key_name,
            subnet_id=plan.interfaces[0].subnet.id, ebs_optimized=plan.ebs_optimized, ami_launch_index=index,
            monitoring_state=plan.monitoring, instance_initiated_shutdown_behavior=plan.shutdown_behavior,
            metadata_options=plan.metadata_options, disable_api_termination=plan.termination_protection,
            disable_api_stop=plan.stop_protection, hibernation_options=plan.hibernation_options,
        )
        self.placement.group_name = plan.placement_group or ""
        self.placement.tenancy = plan.tenancy
        self.lifecycle = plan.lifecycle
        self.spot_instance_request_id = random_spot_request_id() if plan.lifecycle == "spot" else None
        self.state_reason = None
        self.ena_support = plan.image.ena_support
        self.boot_mode = plan.image.boot_mode
        self.platform_details = plan.image.platform_details
        self.usage_operation = plan.image.usage_operation
        self.cpu_options = plan.cpu_options
        self.capacity_reservation_specification = plan.capacity_reservation
        self.reservation = self.capacity_reservation_id = plan.reservation
        self.hands = Hands(f"guest of {self.id}") if self.has_guest else None
        cloud.instances[self.id] = self

    # What moto asks and shows.

    @property
    def _state(self) -> InstanceState:
        return InstanceState(self.life, CODES[self.life])

    @_state.setter
    def _state(self, value: InstanceState) -> None:
        """moto's constructor says "running" at once; `life` says what is."""

    @property
    def security_groups(self) -> list[SecurityGroup]:
        return self.nics[0]._group_set if getattr(self, "nics", None) else []

    @security_groups.setter
    def security_groups(self, groups: list[SecurityGroup]) -> None:
        if getattr(self, "nics", None):
            self.nics[0]._group_set = list(groups)

    @property
    def network_interfaces(self) -> list[NetworkInterface]:
        def place(eni: Nic) -> tuple[int, int]:
            return eni.network_card_index, eni.device_index

        return sorted(self.nics.values(), key=place)

    @property
    def private_ip_address(self) -> str | None:
        return self.nics[0].private_ip_address if 0 in self.nics else None

    @property
    def private_ip(self) -> str | None:
        return self.private_ip_address

    @property
    def public_ip_address(self) -> str | None:
        return self.nics[0].public_ip if 0 in self.nics else None

    @property
    def public_ip(self) -> str | None:
        return self.public_ip_address

    @property
    def private_dns_name(self) -> str:
        return super().private_dns_name if self.private_ip else ""

    @property
    def subnet_id(self) -> str | None:
        return self._subnet_id if self.life != "terminated" else None

    @property
    def instance_status(self) -> dict[str, Any]:
        if self.life != "running" or self.running_since is None:
            return {"Status": "not-applicable"}
        young = time.monotonic() < self.running_since + CHECKS_SECONDS * self.cloud.pace
        passed, status = ("initializing", "initializing") if young else ("passed", "ok")
        return {"Details": [{"Name": "reachability", "Status": passed}], "Status": status}

    @property
    def system_status(self) -> dict[str, Any]:
        return self.instance_status

    # Interfaces and volumes.

    def prep_nics(self, nic_spec: list[dict[str, Any]], *_: Any, **__: Any) -> None:
        """Called by moto's constructor: the interfaces of the plan, in moto's records."""
        self.nics = {}
        for planned in self.plan.interfaces:
            eni: Nic = planned.existing or self._new_interface(planned)
            eni.network_card_index = planned.card
            self.attach_eni(eni, planned.device)

    def _new_interface(self, planned: Interface) -> Nic:
        primary = slot(planned.card, planned.device) == 0
        eni = self.ec2_backend.create_network_interface(
            planned.subnet, self.address if primary else None, group_ids=[g.id for g in planned.groups],
            description=planned.description, tags=self.plan.tags.get("network-interface"),
            delete_on_termination=planned.delete_on_termination,
        )
        eni.interface_type = planned.kind
        if planned.kind == "efa-only":
            # It has no IP stack [user guide, "EFA on accelerated computing types"].
            eni.private_ip_address, eni.private_ip_addresses, eni.private_dns_name = None, [], None
        if primary and planned.public:
            eni.public_ip = self.address
        return eni

    def attach_eni(self, eni: Nic, device_index: int) -> str:
        self.nics[slot(eni.network_card_index, int(device_index))] = eni
        eni.instance, eni.device_index, eni.status = self, int(device_index), "in-use"
        eni.attachment_id, eni.attach_time = random_eni_attach_id(), utcnow()
        return eni.attachment_id

    def detach_eni(self, eni: Nic) -> None:
        self.nics = {key: one for key, one in self.nics.items() if one is not eni}
        eni.instance = eni.attachment_id = eni.attach_time = eni.device_index = None
        eni.network_card_index, eni.status = 0, "available"

    def add_volumes(self) -> None:
        for planned in self.plan.volumes:
            volume = self.ec2_backend.create_volume(
                size=planned["VolumeSize"], zone_name=self.placement.zone, encrypted=planned["Encrypted"],
                kms_key_id=planned.get("KmsKeyId"), volume_type=planned["VolumeType"],
                iops=planned.get("Iops"), throughput=planned.get("Throughput"),
            )
            volume.snapshot_id = planned.get("SnapshotId")
            if volume.volume_type == "gp2":
                volume.iops = min(16000, max(100, 3 * volume.size))
            volume.add_tags(self.plan.tags.get("volume", {}))
            gone = planned["DeleteOnTermination"]
            self.ec2_backend.attach_volume(volume.id, self.id, planned["DeviceName"], gone).delete_on_termination = gone

    # The guest.

    def launch(self) -> None:
        if not self.has_guest:
            self.console_kept = f"No guest: image {self.image_id} has no root file system in this rehearsal.\n".encode()
        else:
            metadata = self._metadata()
            self._do(lambda: self._make_guest(metadata), self._broken)
        self.start_guest()

    def _do(self, work: Work, failed: Failed | None = None) -> None:
        """What is done to the guest is done in this order."""
        assert self.hands, "an instance without a guest has no hands"
        self.hands.do(work, failed)

    def _make_guest(self, metadata: dict[str, str]) -> None:
        plan = self.plan
        self.cloud.guests.create(
            self.id, self.image_id, self.address, metadata, plan.user_data, plan.public_key, self.files
        )
        self.made = True

    def _metadata(self) -> dict[str, str]:
        options = self.metadata_options
        profile = (self.iam_instance_profile or {}).get("Arn", "")
        gpus = INSTANCE_TYPES[self.instance_type].get("GpuInfo", {}).get("Gpus", [])
        facts = {
            "instance-id": self.id,
            "ami-id": self.image_id,
            "instance-type": self.instance_type,
            "availability-zone": self.placement.zone,
            "region": self.region_name,
            "ami-launch-index": self.ami_launch_index,
            "reservation-id": self.reservation_id,
            "security-groups": "\n".join(g.name for g in self.security_groups),
            "mac": self.nics[0].mac_address,
            "hostname": self.private_dns_name,
            "public-ipv4": self.public_ip or "",
            "placement-group": self.placement.group_name,
            "tokens": options.http_tokens,
            "hop-limit": options.http_put_response_hop_limit,
            "shutdown-behaviour": self.instance_initiated_shutdown_behavior,
            "iam": profile,
            "efa-devices": sum(eni.interface_type != "interface" for eni in self.nics.values()),
            "gpus": sum(gpu["Count"] for gpu in gpus),
            "gpu": gpus[0]["Name"] if gpus else "",
        }
        return {name: str(value) for name, value in facts.items()}

    def _broken(self, error: Exception) -> None:
        """A guest that cannot be made or booted: the instance ends, as EC2's does, and says why."""
        with self.cloud.lock:
            self.terminate(("Server.InternalError", f"Server.InternalError: {error}"))

    def start_guest(self) -> None:
        self.life, self.changes_at, self.launch_time = "pending", None, utcnow()
        self._reason, self.state_reason = "", None
        primary = self.nics[0]
        if self.plan.interfaces[0].public and not primary.public_ip:
            primary.public_ip = self.address
        if self.has_guest:
            self._do(self._boot, self._broken)
        else:
            self.changes_at = self.cloud.after(PENDING_SECONDS)

    def _boot(self) -> None:
        if self.life not in ("pending", "running"):
            return
        self.cloud.guests.boot(self.id)
        with self.cloud.lock:
            if self.life == "pending":
                self.changes_at = self.cloud.after(PENDING_SECONDS)

    def add_address(self, address: str) -> None:
        """The guest is reached there too, from when it is made."""
        if self.has_guest:
            self._do(lambda: self.made and self.cloud.guests.add_address(self.id, address))

    def remove_address(self, address: str) -> None:
        if self.has_guest:
            self._do(lambda: self.made and self.cloud.guests.remove_address(self.id, address))

    def settle(self) -> None:
        if self.changes_at is None or time.monotonic() < self.changes_at:
            return
        due, self.changes_at = self.changes_at, None
        if self.life == "pending":
            self.life, self.running_since = "running", due
        elif self.life == "stopping":
            self._stopped()
        elif self.life == "shutting-down":
            self._terminated()

    # Who stops or terminates an instance does not ask for its state, which moto's methods answer.

    def stop(self, force: bool = False) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        again, self.life = self.life == "stopping", "stopping"
        if not again:
            self._say(*BY_USER)
        if not self.has_guest:
            self.changes_at = self.cloud.after(GONE_SECONDS)
        elif force or not (again or self.to_keep):
            self._do(lambda: self.life == "stopping" and self.cloud.guests.stop(self.id, force))

    def reboot(self) -> None:
        if self.has_guest:
            self._do(lambda: self.life == "running" and self.cloud.guests.reboot(self.id))

    def keep_as(self, image: Image) -> None:
        """CreateImage: the guest is stopped for it, and goes on afterwards."""
        if not self.has_guest:
            image_kept(self.cloud, image)
        elif self.life == "stopped":
            self._keep(image)
        else:
            self.to_keep.append(image)
            if len(self.to_keep) == 1:
                self._do(lambda: self.cloud.guests.stop(self.id, False))

    def _keep(self, image: Image) -> None:
        def work() -> None:
            self.cloud.guests.keep(self.id, image.id)
            image_kept(self.cloud, image)

        self._do(work, image_failed(self.cloud, image))

    def down(self) -> None:
        """The guest went down, by whatever reason but a reboot."""
        if self.life in ("stopped", "shutting-down", "terminated"):
            return
        images, self.to_keep = self.to_keep, []
        for image in images:
            self._keep(image)
        if self.life == "stopping":
            self._stopped()
        elif images:
            self._do(self._boot, self._broken)
        elif self.instance_initiated_shutdown_behavior == "terminate":
            self.terminate(BY_GUEST)
        else:
            self._say(*BY_GUEST)
            self._stopped()

    def _stopped(self) -> None:
        self.life, self.changes_at = "stopped", None
        # The automatic public address goes with the stop; the private one stays.
        if self.nics[0].public_ip == self.address:
            self.nics[0].public_ip = None

    def terminate(self, reason: tuple[str, str] = BY_USER) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.life in ("shutting-down", "terminated"):
            return
        self.life, self.changes_at = "shutting-down", None
        self._say(*reason)
        for image in self.to_keep:
            image.failure = f"Instance {self.id} was terminated before its root was kept"
        self.to_keep = []
        if self.hands:
            self.hands.do(self._remove_guest, lambda error: self._end())
            self.hands.rest()
        else:
            self.changes_at = self.cloud.after(GONE_SECONDS)

    def _remove_guest(self) -> None:
        if self.made:
            self.console_kept = self.cloud.guests.console(self.id)
            self.made = False
        self.cloud.guests.remove(self.id)
        self._end()

    def _end(self) -> None:
        with self.cloud.lock:
            self._terminated()

    def _terminated(self) -> None:
        self.life, self.changes_at = "terminated", None
        backend = self.ec2_backend
        for address in [one for one in backend.addresses if one.instance is self]:
            address.instance = None
            if address.eni.delete_on_termination:
                address.eni.public_ip = address.eni = address.association_id = None
        for eni in list(self.nics.values()):
            gone = eni.delete_on_termination
            self.detach_eni(eni)
            if gone:
                backend.enis.pop(eni.id, None)
        self.teardown_defaults()
        association = backend.iam_instance_profile_associations.get(self.id)
        if association:
            backend.disassociate_iam_instance_profile(association.association_id)
        self.cloud.drop_unused_images()

    def _say(self, code: str, message: str) -> None:
        self._reason = f"User initiated ({utcnow():%Y-%m-%d %H:%M:%S} GMT)" if code == BY_USER[0] else message
        self.state_reason = StateReason(message, code)

    def console(self) -> bytes:
        return self.cloud.guests.console(self.id) if self.made else self.console_kept
