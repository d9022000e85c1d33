"""Where an instance is launched and by what it is connected: zone, subnet, security groups, interfaces, cards, EFA.

Owns the checks of these parts of RunInstances, and what moto's interfaces don't know of cards. The facts about types
(zones, cards, which kind of EFA a card takes and how many) are AWS's own, in moto's data files. Codes and texts are
EC2's where a public report shows them; those for EFA on a type or card without it, and for a card that is not there,
are [assumed].
"""

from dataclasses import dataclass
from typing import Any

from moto.ec2.exceptions import InvalidSecurityGroupNotFoundError
from moto.ec2.models.elastic_network_interfaces import Attachment, NetworkInterface
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.models.security_groups import SecurityGroup
from moto.ec2.models.subnets import Subnet

from cloud.ec2.core import Part, refusal

# moto's NetworkInterface, with what `extend_interfaces` gives it and its type does not have.
Nic = Any


def extend_interfaces() -> None:
    """moto puts every interface on card 0 and gives each the groups of all."""

    def attachment(eni: Nic) -> Attachment | None:
        if not eni.attachment_id:
            return None
        attached = Attachment(eni)
        attached.network_card_index = eni.network_card_index
        return attached

    interface: Nic = NetworkInterface
    interface.network_card_index = 0
    interface.attachment = property(attachment)
    interface.group_set = property(lambda eni: eni._group_set)


def slot(card: int, device: int) -> int:
    """moto keeps an instance's interfaces by device index, the primary one as 0; cards would collide there."""
    return 1000 * card + device


@dataclass
class Interface:
    """An interface of a launch: one to make, or one that exists."""

    card: int
    device: int
    kind: str
    subnet: Subnet
    groups: list[SecurityGroup]
    public: bool
    delete_on_termination: bool
    description: str = ""
    existing: NetworkInterface | None = None


class Networks(Part):
    """What a launch says of its networks. `r` is its request, `kind` its type as DescribeInstanceTypes shows it."""

    # Where: zone, subnet, groups.

    def _zones(self, kind: dict[str, Any]) -> list[str]:
        offers = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(self.region, [])
        return sorted(o["Location"] for o in offers if o["InstanceType"] == kind["InstanceType"])

    def _subnet(self, subnet_id: str | None, r: dict[str, Any], kind: dict[str, Any]) -> Subnet:
        zones, zone = self._zones(kind), r.get("Placement", {}).get("AvailabilityZone")
        if subnet_id:
            subnet = self.ec2_backend.get_subnet(subnet_id)
        else:
            defaults = self.ec2_backend.get_default_subnets()
            if zone and zone not in defaults:
                raise refusal("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
            subnet = defaults.get(zone or next((z for z in zones if z in defaults), None))
        if subnet and subnet.availability_zone in zones:
            return subnet
        if not zones:
            raise refusal(
                "Unsupported",
                "The requested configuration is currently not supported. Please check the documentation for supported"
                " configurations.",
            )
        raise refusal(
            "Unsupported",
            f"Your requested instance type ({kind['InstanceType']}) is not supported in your requested"
            f" Availability Zone ({subnet.availability_zone if subnet else zone}). Please retry your request by not"
            f" specifying an Availability Zone or choosing {', '.join(zones)}.",
        )

    def _known_groups(self, ids: list[str]) -> list[SecurityGroup]:
        groups = {one: self.ec2_backend.get_security_group_from_id(one) for one in ids}
        for one, group in groups.items():
            if not group:
                raise InvalidSecurityGroupNotFoundError(one)
        return list(groups.values())

    def _groups(self, ids: list[str] | None, names: list[str] | None, subnet: Subnet) -> list[SecurityGroup]:
        groups = self._known_groups(ids or [])
        for name in names or []:
            group = self.ec2_backend.get_security_group_from_name(name, subnet.vpc_id)
            if not group:
                raise refusal(
                    "InvalidGroup.NotFound",
                    f"The security group '{name}' does not exist in default VPC '{subnet.vpc_id}'",
                )
            groups.append(group)
        for group in groups:
            if group.vpc_id != subnet.vpc_id:
                raise refusal(
                    "InvalidParameter",
                    f"Security group {group.id} and subnet {subnet.id} belong to different networks.",
                )
        return groups or [self.ec2_backend.get_default_security_group(subnet.vpc_id)]

    # Interfaces.

    def _interfaces(self, r: dict[str, Any], kind: dict[str, Any]) -> list[Interface]:
        asked = r.get("NetworkInterfaces")
        if r.get("PrivateIpAddress"):
            raise refusal("UnsupportedOperation", "The rehearsal gives its guests their addresses itself")
        if not asked:
            subnet = self._subnet(r.get("SubnetId"), r, kind)
            groups = self._groups(r.get("SecurityGroupIds"), r.get("SecurityGroups"), subnet)
            return [Interface(0, 0, "interface", subnet, groups, bool(subnet.map_public_ip_on_launch), True)]
        for parameter, text in (
            ("SubnetId", "an instance-level subnet ID"), ("SecurityGroupIds", "an instance-level security groups"),
            ("SecurityGroups", "an instance-level security groups"),
        ):
            if r.get(parameter):
                raise refusal(
                    "InvalidParameterCombination",
                    f"Network interfaces and {text} may not be specified on the same request",
                )
        self._check_public_addresses(asked)
        interfaces = [self._interface(one, len(asked) == 1, r, kind) for one in asked]
        _check_slots(interfaces, kind)
        _check_efa(interfaces, kind)
        return interfaces

    def _interface(self, one: dict[str, Any], alone: bool, r: dict[str, Any], kind: dict[str, Any]) -> Interface:
        if "DeviceIndex" not in one:
            raise refusal("InvalidParameterValue", "Each network interface requires a device index.")
        card, device = int(one.get("NetworkCardIndex") or 0), int(one["DeviceIndex"])
        if one.get("NetworkInterfaceId"):
            eni = self.ec2_backend.get_network_interface(one["NetworkInterfaceId"])
            if eni.attachment_id:
                raise refusal("InvalidNetworkInterface.InUse", f"Interface: [{eni.id}] in use.")
            self._subnet(eni.subnet_id, r, kind)
            return Interface(card, device, eni.interface_type, eni.subnet, eni.group_set, False, False, existing=eni)
        if one.get("PrivateIpAddress") or one.get("PrivateIpAddresses"):
            raise refusal("UnsupportedOperation", "The rehearsal gives its guests their addresses itself")
        interface_type = one.get("InterfaceType") or "interface"
        if interface_type not in ("interface", "efa", "efa-only"):
            raise refusal("InvalidParameterValue", f"Value ({interface_type}) for parameter InterfaceType is invalid.")
        subnet = self._subnet(one.get("SubnetId"), r, kind)
        groups = self._groups(one.get("Groups"), None, subnet)
        primary = slot(card, device) == 0
        public = one.get("AssociatePublicIpAddress", subnet.map_public_ip_on_launch)
        # Only the primary interface goes with its instance unless the request says so [user guide].
        gone = one.get("DeleteOnTermination", primary)
        return Interface(
            card,
            device,
            interface_type,
            subnet,
            groups,
            bool(public and alone),
            bool(gone),
            one.get("Description") or "",
        )

    @staticmethod
    def _check_public_addresses(asked: list[dict[str, Any]]) -> None:
        public = [one for one in asked if one.get("AssociatePublicIpAddress")]
        if public and len(asked) > 1:
            raise refusal(
                "InvalidParameterCombination",
                "The associatePublicIPAddress parameter cannot be specified when launching with multiple network"
                " interfaces.",
            )
        if any(int(one.get("DeviceIndex", 0)) for one in public):
            raise refusal(
                "InvalidParameterCombination",
                "The associatePublicIPAddress parameter can only be specified for the network interface with"
                " DeviceIndex 0.",
            )


def _check_slots(interfaces: list[Interface], kind: dict[str, Any]) -> None:
    """Cards and the places on them, by the type's own data."""
    name, cards = kind["InstanceType"], {c["NetworkCardIndex"]: c for c in kind["NetworkInfo"]["NetworkCards"]}
    slots = [slot(i.card, i.device) for i in interfaces]
    if 0 not in slots:
        raise refusal(
            "InvalidParameterValue", "When specifying network interfaces, you must include a device at index 0."
        )
    if len(set(slots)) < len(slots):
        raise refusal("InvalidParameterValue", "Each network interface requires a unique device index.")
    for i in interfaces:
        if i.card not in cards:
            raise refusal("InvalidParameterValue", f"The instance type '{name}' has no network card {i.card}.")
        count = sum(other.card == i.card for other in interfaces)
        if count > cards[i.card]["MaximumNetworkInterfaces"]:
            raise refusal("AttachmentLimitExceeded", f"Interface count {count} exceeds the limit for {name}")
    if len({i.subnet.availability_zone for i in interfaces}) > 1:
        raise refusal("InvalidParameterCombination", "All network interfaces must be in one Availability Zone.")


def _check_efa(interfaces: list[Interface], kind: dict[str, Any]) -> None:
    name, network = kind["InstanceType"], kind["NetworkInfo"]
    efa = [i for i in interfaces if i.kind != "interface"]
    if efa and not network.get("EfaSupported"):
        raise refusal("Unsupported", f"The instance type '{name}' does not support Elastic Fabric Adapters.")
    kinds = {c["NetworkCardIndex"]: c["InterfaceTypes"] for c in network["NetworkCards"]}
    for i in efa:
        if i.kind not in kinds[i.card]:
            raise refusal(
                "Unsupported", f"Network card {i.card} of '{name}' does not take an interface of type {i.kind}."
            )
        if i.kind == "efa-only" and slot(i.card, i.device) == 0:
            raise refusal("InvalidParameterCombination", "The primary network interface cannot be of type efa-only.")
    most = network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0)
    if len(efa) > most:
        raise refusal(
            "AttachmentLimitExceeded", f"EFA interface count {len(efa)} exceeds the limit of {most} for {name}"
        )
