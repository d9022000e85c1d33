"""Tests elastic addresses: whose they are, where they lead, when they are refused.

Run by `python -m cloud.tests`.
"""

from typing import Any

from cloud.ec2 import api
from cloud.tests.testing import NO_INSTANCE, Ec2Test, client, until

RUN = [{"Key": "run", "Value": "r1"}]


class Addresses(Ec2Test):
    def allocate(self, **more: Any) -> dict[str, Any]:
        return self.ec2.allocate_address(Domain="vpc", **more)

    def associate(self, address: dict[str, Any], **more: Any) -> str:
        return self.ec2.associate_address(AllocationId=address["AllocationId"], **more)["AssociationId"]

    def shown(self, address: dict[str, Any]) -> dict[str, Any]:
        return self.ec2.describe_addresses(AllocationIds=[address["AllocationId"]])["Addresses"][0]

    def in_two_parts(self) -> tuple[dict[str, Any], str]:
        """A running instance with two interfaces, and the primary one's id."""
        nics = self.cards((0, 0, "efa"), (1, 1, "efa"), DeleteOnTermination=True)
        instance = self.running(InstanceType="p4d.24xlarge", NetworkInterfaces=nics)
        return instance, instance["NetworkInterfaces"][0]["NetworkInterfaceId"]

    def asked(self, instance: dict[str, Any]) -> list[tuple[str, *tuple[object, ...]]]:
        """What its machine was told of addresses."""
        calls = [call for call in self.guests.calls if call[0].endswith("_address")]
        return [call for call in calls if call[1] == instance["InstanceId"]]

    def test_an_address_is_nobodys_and_has_its_tags(self) -> None:
        instance = self.running()
        tags = [{"ResourceType": "elastic-ip", "Tags": RUN}]
        one, other = self.allocate(TagSpecifications=tags), self.allocate()
        self.assertEqual(len({one["PublicIp"], other["PublicIp"], instance["PublicIpAddress"]}), 3)
        self.assertTrue(one["PublicIp"].startswith("10.78."))
        found = self.ec2.describe_addresses(Filters=[{"Name": "tag:run", "Values": ["r1"]}])["Addresses"]
        self.assertEqual([(a["AllocationId"], a["Tags"]) for a in found], [(one["AllocationId"], RUN)])
        wrong = [{"ResourceType": "instance", "Tags": RUN}]
        self.refused("InvalidParameterValue", self.allocate, TagSpecifications=wrong)

    def test_where_it_leads(self) -> None:
        instance, eni = self.in_two_parts()
        self.assertNotIn("PublicIpAddress", instance)
        address = self.allocate()
        association = self.associate(address, NetworkInterfaceId=eni)
        now = self.now(instance["InstanceId"])
        self.assertEqual(now["PublicIpAddress"], address["PublicIp"])
        self.assertEqual(now["NetworkInterfaces"][0]["Association"]["PublicIp"], address["PublicIp"])
        shown = self.shown(address)
        self.assertEqual(
            (shown["AssociationId"], shown["InstanceId"], shown["NetworkInterfaceId"], shown["PrivateIpAddress"]),
            (association, instance["InstanceId"], eni, instance["PrivateIpAddress"]),
        )
        until(lambda: self.asked(instance) == [("add_address", instance["InstanceId"], address["PublicIp"])])
        self.ec2.disassociate_address(AssociationId=association)
        self.assertNotIn("PublicIpAddress", self.now(instance["InstanceId"]))
        self.assertNotIn("AssociationId", self.shown(address))
        until(lambda: [call[0] for call in self.asked(instance)] == ["add_address", "remove_address"])
        self.refused("InvalidAssociationID.NotFound", self.ec2.disassociate_address, AssociationId=association)
        self.ec2.release_address(AllocationId=address["AllocationId"])
        self.assertEqual(self.ec2.describe_addresses()["Addresses"], [])

    def test_which_interface(self) -> None:
        both, _ = self.in_two_parts()
        address = self.allocate()
        self.refused(
            "InvalidInstanceID", self.associate, text="multiple interfaces", address=address,
            InstanceId=both["InstanceId"],
        )
        layout = self.cards((0, 0, "interface"), (0, 1, "efa-only"), DeleteOnTermination=True)
        nics = self.running(InstanceType="p5.48xlarge", NetworkInterfaces=layout)["NetworkInterfaces"]
        self.refused(
            "InvalidParameterValue", self.associate, address=address, NetworkInterfaceId=nics[1]["NetworkInterfaceId"]
        )
        self.refused("MissingParameter", self.associate, address=address)
        alone = self.running()
        self.associate(address, InstanceId=alone["InstanceId"])
        self.assertEqual(self.now(alone["InstanceId"])["PublicIpAddress"], address["PublicIp"])

    def test_an_instance_must_be_there(self) -> None:
        address = self.allocate()
        with self.guests.hold("boot"):
            pending = self.run_one()["InstanceId"]
            self.refused("InvalidInstanceID", self.associate, text="pending", address=address, InstanceId=pending)
        self.refused("InvalidInstanceID.NotFound", self.associate, address=address, InstanceId=NO_INSTANCE)
        self.becomes(pending, "running")
        self.would(self.ec2.associate_address, AllocationId=address["AllocationId"], InstanceId=pending)
        self.ec2.terminate_instances(InstanceIds=[pending])
        self.becomes(pending, "terminated")
        self.refused("IncorrectInstanceState", self.associate, address=address, InstanceId=pending)

    def test_it_moves_unless_told_not_to(self) -> None:
        first, second, address = self.running(), self.running(), self.allocate()
        self.associate(address, InstanceId=first["InstanceId"])
        self.refused(
            "Resource.AlreadyAssociated", self.associate, address=address, InstanceId=second["InstanceId"],
            AllowReassociation=False,
        )
        self.associate(address, InstanceId=second["InstanceId"])
        self.assertEqual(self.now(second["InstanceId"])["PublicIpAddress"], address["PublicIp"])
        self.assertNotIn("PublicIpAddress", self.now(first["InstanceId"]))
        until(lambda: [call[0] for call in self.asked(first)] == ["add_address", "remove_address"])
        other = self.allocate()
        self.associate(other, InstanceId=second["InstanceId"])
        self.assertNotIn("AssociationId", self.shown(address))

    def test_what_is_in_use_is_not_released(self) -> None:
        instance, address = self.running(), self.allocate()
        release = self.ec2.release_address
        self.associate(address, InstanceId=instance["InstanceId"])
        self.refused("InvalidIPAddress.InUse", release, AllocationId=address["AllocationId"])
        self.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        self.becomes(instance["InstanceId"], "terminated")
        self.assertFalse(self.shown(address).get("InstanceId"))
        self.would(release, AllocationId=address["AllocationId"])
        release(AllocationId=address["AllocationId"])
        self.refused("InvalidAllocationID.NotFound", release, AllocationId=address["AllocationId"])
        self.refused("InvalidAllocationID.NotFound", self.associate, address=address, InstanceId=instance["InstanceId"])

    def test_it_stays_through_a_stop(self) -> None:
        instance_id, address = self.stopped()["InstanceId"], self.allocate()
        self.associate(address, InstanceId=instance_id)
        self.ec2.start_instances(InstanceIds=[instance_id])
        self.assertEqual(self.becomes(instance_id, "running")["PublicIpAddress"], address["PublicIp"])
        self.ec2.stop_instances(InstanceIds=[instance_id])
        self.assertEqual(self.becomes(instance_id, "stopped")["PublicIpAddress"], address["PublicIp"])

    def test_an_account_has_five(self) -> None:
        for _ in range(5):
            self.allocate()
        self.refused("AddressLimitExceeded", self.allocate)
        client(region="us-west-2").allocate_address(Domain="vpc")
        api.set_quota("L-0263D0A3", 6)
        self.allocate()
