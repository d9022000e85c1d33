"""The actions on instances that exist: describe, start, stop, reboot, terminate, modify, read the console.

Owns which state allows what, with the codes that public reports of EC2's answers show. It must not touch a guest
itself: an Instance does.
"""

import base64
import copy
import re
from collections.abc import Callable

from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import (
    EC2ClientError,
    InvalidInstanceIdError,
    OperationDisableApiStopNotPermitted,
    OperationNotPermitted4,
)
from moto.ec2.models.block_device import BlockDeviceType
from moto.ec2.models.instance_types import INSTANCE_TYPES

from cloud.ec2.core import chosen, page, refusal, tags_of
from cloud.ec2.instances import Instance
from cloud.ec2.networks import Networks, Nic

CONSOLE_BYTES = 64 * 1024


def nitro(name: str) -> bool:
    kind = INSTANCE_TYPES[name]
    return kind.get("Hypervisor") == "nitro" or kind["BareMetal"]


def _interfaces(field: Callable[[Nic], object]) -> Callable[[Instance], object]:
    return lambda i: [field(eni) for eni in i.network_interfaces]


def _blocks(field: Callable[[str, BlockDeviceType], object]) -> Callable[[Instance], object]:
    return lambda i: [field(device, block) for device, block in i.block_device_mapping.items()]


FIELDS: dict[str, Callable[[Instance], object]] = {
    "architecture": lambda i: i.architecture,
    "availability-zone": lambda i: i.placement.zone,
    "block-device-mapping.delete-on-termination": _blocks(lambda _, b: bool(b.delete_on_termination)),
    "block-device-mapping.device-name": _blocks(lambda device, _: device),
    "block-device-mapping.status": _blocks(lambda *_: "attached"),
    "block-device-mapping.volume-id": _blocks(lambda _, b: b.volume_id),
    "client-token": lambda i: i.client_token,
    "dns-name": lambda i: i.public_dns_name,
    "group-id": lambda i: [g.id for g in i.security_groups],
    "group-name": lambda i: [g.name for g in i.security_groups],
    "hypervisor": lambda i: i.hypervisor,
    "iam-instance-profile.arn": lambda i: (i.iam_instance_profile or {}).get("Arn"),
    "image-id": lambda i: i.image_id,
    "instance-id": lambda i: i.id,
    "instance-lifecycle": lambda i: i.lifecycle,
    "instance-state-code": lambda i: i.state_code,
    "instance-state-name": lambda i: i.state,
    "instance-type": lambda i: i.instance_type,
    "instance.group-id": lambda i: [g.id for g in i.security_groups],
    "instance.group-name": lambda i: [g.name for g in i.security_groups],
    "ip-address": lambda i: i.public_ip,
    "key-name": lambda i: i.key_name,
    "launch-index": lambda i: i.ami_launch_index,
    "launch-time": lambda i: i.launch_time,
    "metadata-options.http-endpoint": lambda i: i.metadata_options.http_endpoint,
    "metadata-options.http-put-response-hop-limit": lambda i: i.metadata_options.http_put_response_hop_limit,
    "metadata-options.http-tokens": lambda i: i.metadata_options.http_tokens,
    "metadata-options.instance-metadata-tags": lambda i: i.metadata_options.instance_metadata_tags,
    "metadata-options.state": lambda i: i.metadata_options.state,
    "monitoring-state": lambda i: i.monitoring_state,
    "network-interface.addresses.primary": _interfaces(lambda e: bool(e.private_ip_address)),
    "network-interface.addresses.private-ip-address": _interfaces(lambda e: e.private_ip_address),
    "network-interface.attachment.attachment-id": _interfaces(lambda e: e.attachment_id),
    "network-interface.attachment.delete-on-termination": _interfaces(lambda e: bool(e.delete_on_termination)),
    "network-interface.attachment.device-index": _interfaces(lambda e: e.device_index),
    "network-interface.attachment.network-card-index": _interfaces(lambda e: e.network_card_index),
    "network-interface.availability-zone": _interfaces(lambda e: e.availability_zone),
    "network-interface.description": _interfaces(lambda e: e.description),
    "network-interface.group-id": _interfaces(lambda e: [g.id for g in e.group_set]),
    "network-interface.group-name": _interfaces(lambda e: [g.name for g in e.group_set]),
    "network-interface.mac-address": _interfaces(lambda e: e.mac_address),
    "network-interface.network-interface-id": _interfaces(lambda e: e.id),
    "network-interface.owner-id": _interfaces(lambda e: e.owner_id),
    "network-interface.status": _interfaces(lambda e: e.status),
    "network-interface.subnet-id": _interfaces(lambda e: e.subnet_id),
    "network-interface.vpc-id": _interfaces(lambda e: e.vpc_id),
    "owner-id": lambda i: i.owner_id,
    "placement-group-name": lambda i: i.placement.group_name or None,
    "platform-details": lambda i: i.platform_details,
    "private-dns-name": lambda i: i.private_dns_name or None,
    "private-ip-address": lambda i: i.private_ip,
    "reservation-id": lambda i: i.reservation_id,
    "root-device-name": lambda i: i.root_device_name,
    "root-device-type": lambda i: i.root_device_type,
    "source-dest-check": lambda i: i.source_dest_check,
    "state-reason-code": lambda i: i.state_reason and i.state_reason.code,
    "state-reason-message": lambda i: i.state_reason and i.state_reason.message,
    "subnet-id": lambda i: i.subnet_id,
    "tenancy": lambda i: i.placement.tenancy,
    "usage-operation": lambda i: i.usage_operation,
    "virtualization-type": lambda i: i.virtualization_type,
    "vpc-id": lambda i: i.vpc_id,
}
STATUS_FIELDS: dict[str, Callable[[Instance], object]] = {
    "availability-zone": FIELDS["availability-zone"],
    "instance-state-code": FIELDS["instance-state-code"],
    "instance-state-name": FIELDS["instance-state-name"],
    "instance-status.reachability": lambda i: [d["Status"] for d in i.instance_status.get("Details", [])],
    "instance-status.status": lambda i: i.instance_status["Status"],
    "system-status.reachability": lambda i: [d["Status"] for d in i.system_status.get("Details", [])],
    "system-status.status": lambda i: i.system_status["Status"],
}


class Instances(Networks):
    """The actions on instances, and how other parts of the API find one."""

    def all_instances(self) -> list[Instance]:
        return [i for r in self.ec2_backend.reservations.values() for i in r.instances]

    def find_instance(self, instance_id: str) -> Instance:
        return self._named_instances([instance_id])[0]

    def _named_instances(self, ids: list[str] | None) -> list[Instance]:
        """All of them, or none: one unknown id refuses the whole request."""
        if not ids:
            raise refusal("MissingParameter", "The request must contain the parameter InstanceId")
        for one in ids:
            if not re.fullmatch(r"i-[0-9a-f]{8}([0-9a-f]{9})?", one):
                raise refusal("InvalidInstanceID.Malformed", f'Invalid id: "{one}"')
        known = {i.id: i for i in self.all_instances()}
        unknown = [one for one in ids if one not in known]
        if unknown:
            raise InvalidInstanceIdError(unknown)
        return [known[one] for one in dict.fromkeys(ids)]

    def _asked_instances(self, fields: dict[str, Callable[[Instance], object]]) -> list[Instance]:
        ids = self.params.get("InstanceIds")
        instances = self._named_instances(ids) if ids else self.all_instances()
        return chosen(instances, self.params.get("Filters"), fields, lambda i: tags_of(self.ec2_backend, i.id))

    # Looking.

    def describe_instances(self) -> ActionResult:
        p = self.params
        if p.get("InstanceIds") and p.get("MaxResults"):
            raise refusal(
                "InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults"
            )
        kept = set(self._asked_instances(FIELDS))
        reservations = []
        for whole in self.ec2_backend.reservations.values():
            part = copy.copy(whole)
            part.instances = [i for i in whole.instances if i in kept]
            if part.instances:
                reservations.append(part)
        reservations, token = page(reservations, p)
        return ActionResult({"Reservations": reservations, "NextToken": token})

    def describe_instance_status(self) -> ActionResult:
        instances = self._asked_instances(STATUS_FIELDS)
        if not self.params.get("IncludeAllInstances"):
            instances = [i for i in instances if i.life == "running"]
        instances, token = page(instances, self.params)
        statuses = [
            {
                "AvailabilityZone": i.placement.zone,
                "InstanceId": i.id,
                "InstanceState": {"Code": i.state_code, "Name": i.state},
                "InstanceStatus": i.instance_status,
                "SystemStatus": i.system_status,
            }
            for i in instances
        ]
        return ActionResult({"InstanceStatuses": statuses, "NextToken": token})

    def get_console_output(self) -> ActionResult:
        instance = self.find_instance(self._get_param("InstanceId"))
        if self._get_param("Latest") and not nitro(instance.instance_type):
            # The text is ours [the code is assumed].
            raise refusal(
                "UnsupportedOperation", f"The latest output of {instance.instance_type} can't be had: no Nitro"
            )
        output = base64.b64encode(instance.console()[-CONSOLE_BYTES:]).decode()
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output or None})

    # Changing states.

    def start_instances(self) -> ActionResult:
        instances = self._named_instances(self.params.get("InstanceIds"))
        for i in instances:
            if i.life not in ("pending", "running", "stopped"):
                raise self._wrong_state(i, "started")
        self.error_on_dryrun()
        return self._changes("StartingInstances", instances, lambda i: i.life == "stopped" and i.start_guest())

    def stop_instances(self) -> ActionResult:
        instances = self._named_instances(self.params.get("InstanceIds"))
        for i in instances:
            if i.life == "pending" and i.running_since is None:
                raise refusal(
                    "IncorrectInstanceState",
                    f"Instance '{i.id}' cannot be stopped as it has never reached the 'running' state",
                )
            if i.life in ("shutting-down", "terminated"):
                raise self._wrong_state(i, "stopped")
            if i.disable_api_stop:
                raise OperationDisableApiStopNotPermitted(i.id)
            if i.lifecycle == "spot":
                raise refusal(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{i.id}' because it is associated with a one-time Spot Instance"
                    " request. You can only stop Spot Instances associated with persistent Spot Instance requests.",
                )
        self.error_on_dryrun()
        force = bool(self._get_param("Force"))
        return self._changes("StoppingInstances", instances, lambda i: i.life != "stopped" and i.stop(force))

    def reboot_instances(self) -> ActionResult:
        instances = self._named_instances(self.params.get("InstanceIds"))
        for i in instances:
            if i.life not in ("pending", "running"):
                raise refusal("IncorrectState", f"Cannot reboot instance {i.id} that is currently in {i.life} state.")
        self.error_on_dryrun()
        for i in instances:
            i.reboot()
        return EmptyResult()

    def terminate_instances(self) -> ActionResult:
        instances = self._named_instances(self.params.get("InstanceIds"))
        for i in instances:
            if i.disable_api_termination:
                raise OperationNotPermitted4(i.id)
        self.error_on_dryrun()
        return self._changes("TerminatingInstances", instances, lambda i: i.terminate())

    def _changes(self, key: str, instances: list[Instance], change: Callable[[Instance], object]) -> ActionResult:
        said = []
        for i in instances:
            before = {"Code": i.state_code, "Name": i.state}
            change(i)
            now = {"Code": i.state_code, "Name": i.state}
            said.append({"InstanceId": i.id, "PreviousState": before, "CurrentState": now})
        return ActionResult({key: said})

    @staticmethod
    def _wrong_state(instance: Instance, what: str) -> EC2ClientError:
        return refusal(
            "IncorrectInstanceState", f"The instance '{instance.id}' is not in a state from which it can be {what}."
        )

    # Modifying.

    def create_tags(self) -> ActionResult:
        """moto tags instances that there are not."""
        ids = [one for one in self.params.get("Resources", []) if one.startswith("i-")]
        if ids:
            self._named_instances(ids)
        return super().create_tags()

    def modify_instance_attribute(self) -> ActionResult:
        p = self.params
        instance = self.find_instance(p["InstanceId"])
        behavior = p.get("InstanceInitiatedShutdownBehavior", {}).get("Value")
        if p.get("Attribute") == "instanceInitiatedShutdownBehavior":
            behavior = p.get("Value")
        if behavior is not None:
            if behavior not in ("stop", "terminate"):
                raise refusal(
                    "InvalidParameterValue",
                    f"Value ({behavior}) for parameter instanceInitiatedShutdownBehavior is invalid.",
                )
            self.error_on_dryrun()
            instance.instance_initiated_shutdown_behavior = behavior
            return EmptyResult()
        if "EnaSupport" in p or "SriovNetSupport" in p:
            self._must_be_stopped(instance)
            self.error_on_dryrun()
            instance.ena_support = p.get("EnaSupport", {}).get("Value", instance.ena_support)
            instance.sriov_net_support = p.get("SriovNetSupport", {}).get("Value", instance.sriov_net_support)
            return EmptyResult()
        if "UserData" in p or p.get("Attribute") == "userData":
            raise refusal("UnsupportedOperation", "The rehearsal's guests keep the user data they were launched with")
        if "InstanceType" in p or p.get("Attribute") == "instanceType":
            self._must_be_stopped(instance)
        if "Groups" in p:
            self._known_groups(p["Groups"])
        return super().modify_instance_attribute()

    @staticmethod
    def _must_be_stopped(instance: Instance) -> None:
        if instance.life != "stopped":
            raise refusal("IncorrectInstanceState", f"The instance '{instance.id}' is not in the 'stopped' state.")

    def modify_instance_metadata_options(self) -> ActionResult:
        """Takes what is not given as it was; moto takes it away."""
        options = self.find_instance(self._get_param("InstanceId")).metadata_options
        self.error_on_dryrun()
        for key, attribute in {
            "HttpTokens": "http_tokens", "HttpPutResponseHopLimit": "http_put_response_hop_limit",
            "HttpEndpoint": "http_endpoint", "HttpProtocolIpv6": "http_protocol_ipv6",
            "InstanceMetadataTags": "instance_metadata_tags",
        }.items():
            setattr(options, attribute, self.params.get(key, getattr(options, attribute)))
        return ActionResult({"InstanceId": self._get_param("InstanceId"), "InstanceMetadataOptions": options})
