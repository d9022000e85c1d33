"""Elastic addresses: allocate, associate, disassociate, release.

Owns their rules, on moto's records of them. An address is one of the cloud's own network that nobody has had, and the
instance that it is associated with really answers there. Codes and rules are those of the EC2 API reference, the list
of error codes and public reports; an address without a VPC there is not.
"""

from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.models.elastic_ip_addresses import ElasticAddress
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.utils import random_eip_association_id

from cloud.ec2.core import refusal, tags_by_type
from cloud.ec2.instance_actions import Instances
from cloud.ec2.instances import Instance

# moto's ElasticAddress; by its type one is never associated.
Address = Any


class Addresses(Instances):
    """The actions on elastic addresses."""

    def allocate_address(self) -> ActionResult:
        p, backend = self.params, self.ec2_backend
        if p.get("Address"):
            raise refusal("UnsupportedOperation", "The rehearsal chooses its addresses itself")
        tags = tags_by_type(p.get("TagSpecifications"), ("elastic-ip",))
        self.error_on_dryrun()
        if len(backend.addresses) >= self.cloud.quotas["L-0263D0A3"]:
            raise refusal("AddressLimitExceeded", "The maximum number of addresses has been reached.")
        address: Address = ElasticAddress(backend, "vpc", self.cloud.guests.new_address(), tags.get("elastic-ip"))
        backend.addresses.append(address)
        said = {"PublicIp": address.public_ip, "AllocationId": address.allocation_id, "Domain": "vpc"}
        return ActionResult({**said, "PublicIpv4Pool": "amazon", "NetworkBorderGroup": self.region})

    def associate_address(self) -> ActionResult:
        p = self.params
        address = self._allocated()
        eni = self._interface_to_associate()
        if p.get("AllowReassociation") is False and address.eni not in (None, eni):
            raise refusal(
                "Resource.AlreadyAssociated",
                f"resource {address.allocation_id} is already associated with associate-id {address.association_id}",
            )
        self.error_on_dryrun()
        # What either has had before goes: reassociation is automatic unless the request forbids it.
        for old in [one for one in self.ec2_backend.addresses if one.eni and (one is address or one.eni is eni)]:
            self._disassociate(old)
        address.eni, address.instance = eni, eni.instance
        address.association_id = random_eip_association_id()
        eni.public_ip = address.public_ip
        if isinstance(eni.instance, Instance):
            eni.instance.add_address(address.public_ip)
        return ActionResult({"AssociationId": address.association_id})

    def _interface_to_associate(self) -> NetworkInterface:
        p = self.params
        if p.get("NetworkInterfaceId"):
            eni = self.ec2_backend.get_network_interface(p["NetworkInterfaceId"])
            if not eni.private_ip_address:
                raise refusal("InvalidParameterValue", f"The interface {eni.id} has no private IPv4 address")
            return eni
        if not p.get("InstanceId"):
            raise refusal("MissingParameter", "Either instance ID or network interface id must be specified")
        instance = self.find_instance(p["InstanceId"])
        if instance.life == "pending":
            raise refusal(
                "InvalidInstanceID",
                f"The pending instance '{instance.id}' is not in a valid state for this operation.",
            )
        if instance.life not in ("running", "stopping", "stopped"):
            raise refusal("IncorrectInstanceState", f"The instance '{instance.id}' is {instance.life}")
        if len(instance.nics) > 1:
            raise refusal(
                "InvalidInstanceID",
                f"There are multiple interfaces attached to instance '{instance.id}'. Please specify an interface ID"
                " for the operation instead.",
            )
        return instance.nics[0]

    def disassociate_address(self) -> ActionResult:
        p = self.params
        if not p.get("AssociationId"):
            raise refusal(
                "MissingParameter", "You must specify an association id when unmapping an address from a VPC instance"
            )
        (address,) = self.ec2_backend.address_by_association([p["AssociationId"]])
        self.error_on_dryrun()
        self._disassociate(address)
        return ActionResult({"Return": True})

    def _disassociate(self, address: Address) -> None:
        eni, instance = address.eni, address.instance
        address.eni = address.instance = address.association_id = None
        eni.public_ip = None
        if instance:
            instance.remove_address(address.public_ip)

    def release_address(self) -> ActionResult:
        address = self._allocated()
        if address.association_id:
            raise refusal("InvalidIPAddress.InUse", f"Address {address.public_ip} is in use.")
        self.error_on_dryrun()
        self.ec2_backend.addresses.remove(address)
        return EmptyResult()

    def _allocated(self) -> Address:
        allocation = self._get_param("AllocationId")
        if not allocation:
            raise refusal("MissingParameter", "You must specify an allocation id for an address of a VPC")
        return self.ec2_backend.address_by_allocation([allocation])[0]
