"""How many instances of a type there is room for, and capacity that is reserved: reservations and capacity blocks.

Owns both, for the whole cloud; tests say by steering what there is. A launch takes room and never gives it back; what
it takes of a reservation is free again when the instance is gone. Codes are those of AWS's list "Error codes for the
Amazon EC2 API" and of public reports; those for a reservation of another type, zone or market are [assumed].
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.subnets import Subnet

from cloud.ec2.core import Part, chosen, page, refusal
from cloud.ec2.instances import Instance

if TYPE_CHECKING:
    from cloud.ec2.launch import Plan

BLOCK, DEFAULT = "capacity-block", "default"
FIELDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "availability-zone": lambda r: r["AvailabilityZone"],
    "instance-type": lambda r: r["InstanceType"],
    "reservation-type": lambda r: r["ReservationType"],
    "state": lambda r: r["State"],
}


class Capacity:
    """The room and the reservations of one cloud."""

    def __init__(self) -> None:
        # By place, a region or zone, and type.
        self.room: dict[tuple[str, str], int] = {}
        self.reservations: dict[str, dict[str, Any]] = {}

    def set_room(self, place: str, kind: str, count: int | str) -> None:
        """From now on a region or zone has room for so many more instances of a type; "any" takes the limit away."""
        if kind not in INSTANCE_TYPES:
            raise ValueError(f"no type {kind}")
        if count == "any":
            self.room.pop((place, kind), None)
        else:
            self.room[place, kind] = int(count)

    def reserve(
        self, reservation: str, zone: str, kind: str, count: int | str, market: str = DEFAULT, state: str = "active"
    ) -> None:
        """Registers a reservation, or changes it."""
        if kind not in INSTANCE_TYPES or market not in (BLOCK, DEFAULT):
            raise ValueError(f"no reservation of type {kind} for market {market}")
        self.reservations[reservation] = {
            "CapacityReservationId": reservation, "AvailabilityZone": zone, "InstanceType": kind,
            "TotalInstanceCount": int(count), "ReservationType": market, "State": state, "Tenancy": "default",
            "InstancePlatform": "Linux/UNIX", "InstanceMatchCriteria": "targeted", "EndDateType": "unlimited",
            "EbsOptimized": False, "EphemeralStorage": False, "CreateDate": utcnow(), "StartDate": utcnow(),
        }

    def take(self, zone: str, kind: str, least: int, most: int) -> int:
        """Takes room for at most so many; returns for how many there was, or 0 if that is less than `least`."""
        places = [place for place in (zone, zone[:-1]) if (place, kind) in self.room]
        count = min([most] + [self.room[place, kind] for place in places])
        if count < least:
            return 0
        for place in places:
            self.room[place, kind] -= count
        return count

    def left(self, reservation: str, instances: Iterable[Instance]) -> int:
        """How many more instances a reservation takes."""
        used = sum(i.reservation == reservation and i.life != "terminated" for i in instances)
        return self.reservations[reservation]["TotalInstanceCount"] - used


class Reservations(Part):
    """The actions on reservations, and what a launch takes of them."""

    def describe_capacity_reservations(self) -> ActionResult:
        p = self.params
        self.error_on_dryrun()
        here = {k: r for k, r in self.cloud.capacity.reservations.items() if r["AvailabilityZone"][:-1] == self.region}
        found = [self._known_reservation(one) for one in p.get("CapacityReservationIds", [])] or list(here.values())
        shown, token = page(chosen(found, p.get("Filters"), FIELDS, lambda r: {}), p)
        return ActionResult({"CapacityReservations": [self._shown(r) for r in shown], "NextToken": token})

    def _shown(self, reservation: dict[str, Any]) -> dict[str, Any]:
        left = self.cloud.capacity.left(reservation["CapacityReservationId"], self.cloud.instances.values())
        return {**reservation, "OwnerId": self.current_account, "AvailableInstanceCount": left}

    def _known_reservation(self, reservation: str) -> dict[str, Any]:
        if not re.fullmatch(r"cr-[0-9a-f]{17}", reservation):
            raise refusal("InvalidCapacityReservationId.Malformed", f"Invalid id: \"{reservation}\"")
        found = self.cloud.capacity.reservations.get(reservation)
        if not found or found["AvailabilityZone"][:-1] != self.region:
            raise refusal(
                "InvalidCapacityReservationId.NotFound",
                f"The specified Capacity Reservation '{reservation}' does not exist",
            )
        return found

    def reservation_of(
        self, r: dict[str, Any], kind: dict[str, Any], subnet: Subnet, placement_group: str | None
    ) -> str | None:
        """The reservation that a launch is aimed at, or None; refuses one that can't take it."""
        target = r.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget", {})
        market = r.get("InstanceMarketOptions", {}).get("MarketType")
        if market == BLOCK and not target.get("CapacityReservationId"):
            raise refusal("InvalidParameterCombination", "A capacity block needs the ID of its Capacity Reservation")
        if not target.get("CapacityReservationId"):
            return None
        found = self._known_reservation(target["CapacityReservationId"])
        if (market == BLOCK) != (found["ReservationType"] == BLOCK):
            raise refusal(
                "InvalidParameterValue",
                "The market type (purchasing) option is not valid. Choose a different market type and try again.",
            )
        if market == BLOCK and placement_group:
            raise refusal("InvalidParameterCombination", "A capacity block can't be launched into a placement group")
        for what, wanted, have in (
            ("instance type", kind["InstanceType"], found["InstanceType"]),
            ("Availability Zone", subnet.availability_zone, found["AvailabilityZone"]),
        ):
            if wanted != have:
                raise refusal(
                    "InvalidParameterCombination",
                    f"The {what} {wanted} does not match that of the Capacity Reservation, {have}",
                )
        if found["State"] != "active":
            raise refusal("IncorrectState", f"The Capacity Reservation is not active: it is {found['State']}")
        return found["CapacityReservationId"]

    def taken(self, plan: "Plan", least: int, most: int) -> int:
        """Takes capacity for a launch: how many instances it gets, at least `least` or it is refused."""
        zone, kind, capacity = plan.interfaces[0].subnet.availability_zone, plan.instance_type, self.cloud.capacity
        if plan.reservation:
            count = min(most, capacity.left(plan.reservation, self.cloud.instances.values()))
            if count < least:
                raise refusal(
                    "ReservationCapacityExceeded",
                    "The targeted Capacity Reservation does not have enough available instance capacity to fulfill"
                    " your request.",
                )
            return count
        count = capacity.take(zone, kind, least, most)
        if not count:
            raise refusal(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested ({zone})."
                " Our system will be working on provisioning additional capacity.",
            )
        return count
