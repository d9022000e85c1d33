"""Tests launches of several instances in one call: their indexes, room for fewer, reserved capacity.

Run by `python -m cloud.tests`.
"""

from typing import Any

from cloud.ec2 import api
from cloud.tests.testing import Ec2Test, client

TYPE = "p4d.24xlarge"
RESERVED, BLOCK = "cr-0123456789abcdef0", "cr-0123456789abcdef1"
OTHER = "cr-0123456789abcdeff"


class Several(Ec2Test):
    def several(self, least: int, most: int, zone: str = "us-east-1d", **more: Any) -> list[dict[str, Any]]:
        request = self.request(InstanceType=TYPE, MinCount=least, MaxCount=most, **more)
        return self.ec2.run_instances(NetworkInterfaces=self.cards((0, 0, "efa"), zone=zone), **request)["Instances"]

    def test_each_has_an_index_an_address_and_its_interfaces(self) -> None:
        self.ec2.create_placement_group(GroupName="pg", Strategy="cluster")
        layout = self.cards((0, 0, "efa"), (1, 1, "efa"), (2, 1, "efa"), (3, 1, "efa"))
        request = self.request(InstanceType=TYPE, MinCount=8, MaxCount=8, Placement={"GroupName": "pg"})
        made = self.ec2.run_instances(NetworkInterfaces=layout, **request)
        shown = self.ec2.describe_instances(Filters=[{"Name": "placement-group-name", "Values": ["pg"]}])
        (reservation,) = shown["Reservations"]
        instances = reservation["Instances"]
        self.assertEqual(reservation["ReservationId"], made["ReservationId"])
        self.assertEqual([i["AmiLaunchIndex"] for i in instances], list(range(8)))
        self.assertEqual(len({i["PrivateIpAddress"] for i in instances}), 8)
        self.assertEqual(len({n["NetworkInterfaceId"] for i in instances for n in i["NetworkInterfaces"]}), 32)
        self.assertTrue(all("PublicIpAddress" not in i for i in instances))
        for i in instances:
            self.becomes(i["InstanceId"], "running")
            self.assertEqual(self.guests.made[i["InstanceId"]][1]["ami-launch-index"], str(i["AmiLaunchIndex"]))

    def test_room_for_fewer(self) -> None:
        api.set_room("us-east-1d", TYPE, 5)
        self.refused("InsufficientInstanceCapacity", self.several, status=500, text=TYPE, least=6, most=8)
        self.assertEqual(self.ec2.describe_instances()["Reservations"], [])
        self.assertEqual(len(self.several(2, 4)), 4)
        self.assertEqual([i["AmiLaunchIndex"] for i in self.several(1, 4)], [0])
        self.refused("InsufficientInstanceCapacity", self.several, status=500, least=1, most=1)
        self.run_one(InstanceType="c5n.18xlarge")
        self.assertEqual(len(self.several(3, 3, zone="us-east-1c")), 3)
        api.set_room("us-east-1d", TYPE, "any")
        self.assertEqual(len(self.several(3, 3)), 3)

    def test_room_in_a_region(self) -> None:
        api.set_room("us-east-1", TYPE, 3)
        self.assertEqual(len(self.several(1, 2)), 2)
        for zone in ("us-east-1c", "us-east-1d"):
            self.refused("InsufficientInstanceCapacity", self.several, status=500, least=2, most=2, zone=zone)
        client(region="us-west-2").run_instances(**self.request(InstanceType=TYPE, MinCount=4, MaxCount=4))
        self.assertEqual(len(self.several(1, 2, zone="us-east-1c")), 1)

    def test_a_dry_run_does_not_ask_for_room(self) -> None:
        api.set_room("us-east-1d", TYPE, 0)
        self.refused("DryRunOperation", self.several, status=412, least=1, most=1, DryRun=True)

    def test_a_refused_launch_leaves_its_token_and_takes_no_room(self) -> None:
        api.set_room("us-east-1d", TYPE, 2)
        self.refused("InsufficientInstanceCapacity", self.several, status=500, least=3, most=3, ClientToken="t")
        self.assertEqual(len(self.several(2, 3, ClientToken="t")), 2)
        self.assertEqual(len(self.several(2, 3, ClientToken="t")), 2)

    def test_dry_runs_make_nothing(self) -> None:
        self.would(self.ec2.create_placement_group, GroupName="pg", Strategy="cluster")
        self.would(self.ec2.allocate_address, Domain="vpc")
        self.would(self.ec2.describe_capacity_reservations)
        self.assertEqual(self.ec2.describe_placement_groups()["PlacementGroups"], [])
        self.assertEqual(self.ec2.describe_addresses()["Addresses"], [])

    def test_quotas_can_be_told(self) -> None:
        def quota() -> float:
            quotas = client("service-quotas")
            return quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-417A185B")["Quota"]["Value"]

        self.assertGreaterEqual(quota(), 256 * 96)
        api.set_quota("L-417A185B", 96)
        self.assertEqual(quota(), 96)


class Reserved(Ec2Test):
    def setUp(self) -> None:
        super().setUp()
        api.reserve(reservation=RESERVED, zone="us-east-1d", kind=TYPE, count=4)
        api.reserve(reservation=BLOCK, zone="us-east-1d", kind=TYPE, count=4, market="capacity-block")

    def launch(
        self, reservation: str | None, most: int = 1, kind: str = TYPE, zone: str = "us-east-1d", **more: Any
    ) -> list[dict[str, Any]]:
        target = {"CapacityReservationTarget": {"CapacityReservationId": reservation}} if reservation else None
        interfaces = self.cards((0, 0, "interface"), zone=zone)
        return self.ec2.run_instances(**self.request(
            InstanceType=kind, CapacityReservationSpecification=target, NetworkInterfaces=interfaces,
            **{"MaxCount": most, "MinCount": most, **more},
        ))["Instances"]

    def block(self, reservation: str | None = BLOCK, **more: Any) -> list[dict[str, Any]]:
        return self.launch(reservation, InstanceMarketOptions={"MarketType": "capacity-block"}, **more)

    def left(self, reservation: str) -> int:
        (found,) = self.ec2.describe_capacity_reservations(CapacityReservationIds=[reservation])["CapacityReservations"]
        return found["AvailableInstanceCount"]

    def test_what_a_launch_takes_is_free_again_when_it_is_gone(self) -> None:
        ids = [i["InstanceId"] for i in self.launch(RESERVED, most=3)]
        self.assertEqual(self.now(ids[0])["CapacityReservationId"], RESERVED)
        self.assertEqual((self.left(RESERVED), self.left(BLOCK)), (1, 4))
        self.refused("ReservationCapacityExceeded", self.launch, reservation=RESERVED, most=2)
        self.assertEqual(len(self.launch(RESERVED, most=2, MinCount=1)), 1)
        self.ec2.terminate_instances(InstanceIds=ids)
        for one in ids:
            self.becomes(one, "terminated")
        self.assertEqual(self.left(RESERVED), 3)

    def test_blocks(self) -> None:
        (instance,) = self.block()
        self.assertEqual(self.now(instance["InstanceId"])["InstanceLifecycle"], "capacity-block")
        self.assertEqual(self.left(BLOCK), 3)
        self.ec2.create_placement_group(GroupName="pg", Strategy="cluster")
        group: dict[str, Any] = {"Placement": {"GroupName": "pg"}}
        self.refused("InvalidParameterCombination", self.block, text="placement group", **group)
        self.launch(RESERVED, **group)
        self.refused("InvalidParameterValue", self.block, text="market type", reservation=RESERVED)
        self.refused("InvalidParameterValue", self.launch, text="market type", reservation=BLOCK)
        self.refused("InvalidParameterCombination", self.block, reservation=None)

    def test_refusals(self) -> None:
        self.refused("InvalidCapacityReservationId.NotFound", self.launch, reservation=OTHER)
        self.refused("InvalidCapacityReservationId.Malformed", self.launch, reservation="cr-1")
        self.refused("InvalidParameterCombination", self.launch, reservation=RESERVED, kind="c5n.18xlarge")
        self.refused("InvalidParameterCombination", self.launch, reservation=RESERVED, zone="us-east-1c")
        api.reserve(reservation=OTHER, zone="us-east-1d", kind=TYPE, count=4, state="expired")
        self.refused("IncorrectState", self.launch, reservation=OTHER)
        self.refused("InvalidCapacityReservationId.NotFound", self.launch, reservation=OTHER[:-1] + "e", DryRun=True)
        self.assertEqual(self.ec2.describe_instances()["Reservations"], [])

    def test_listing(self) -> None:
        api = self.ec2

        def listed(**more: Any) -> list[str]:
            found = api.describe_capacity_reservations(**more)["CapacityReservations"]
            return [r["CapacityReservationId"] for r in found]

        self.assertEqual(sorted(listed()), [RESERVED, BLOCK])
        self.assertEqual(listed(Filters=[{"Name": "reservation-type", "Values": ["capacity-block"]}]), [BLOCK])
        self.assertEqual(listed(Filters=[{"Name": "state", "Values": ["expired"]}]), [])
        self.refused("InvalidCapacityReservationId.NotFound", listed, CapacityReservationIds=[OTHER])
        self.refused("InvalidParameterValue", listed, Filters=[{"Name": "frob", "Values": ["x"]}])
        elsewhere = client(region="us-west-2")
        self.assertEqual(elsewhere.describe_capacity_reservations()["CapacityReservations"], [])
