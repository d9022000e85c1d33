"""What the parts of the rehearsal's EC2 share: refusals, filters, tags, client tokens, time, and the order of work.

Owns the `Cloud`: the machines, the lock that every request holds, and the pace at which states change; and what a part
of the API stands on. It must not know any single action of the API, nor how a machine is made.
"""

import json
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

from cloud.iam.callers import Callers

if TYPE_CHECKING:
    from cloud.ec2.capacity import Capacity
    from cloud.ec2.instances import Instance

T = TypeVar("T")
Tags = dict[str, str]
Work = Callable[[], object]
Failed = Callable[[Exception], object]

PENDING_SECONDS = 1.5  # from the guest's power button to "running"
IMAGE_SECONDS = 2.0  # from the root file system being kept to "available"
CHECKS_SECONDS = 1.0  # from "running" to status checks that are "ok"
GONE_SECONDS = 0.2  # stopping and terminating an instance that has no guest


def refusal(code: str, message: str) -> EC2ClientError:
    """An error as EC2 answers it; the status is 400 unless the server says otherwise for this code."""
    return EC2ClientError(code, message)


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def moment(text: str) -> datetime:
    """A timestamp without zone, in UTC, as moto keeps them."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC).replace(tzinfo=None)


# Machines.


class Machines(Protocol):
    """What makes the machines behind the instances: guests and light hosts, or in tests nothing at all. A machine is
    known by the id of its instance, its root by the id of an image. A method may be slow, and returns when the thing is
    done, if it does not say otherwise; what is done to one machine is asked for one after the other."""

    @property
    def on_stopped(self) -> Callable[[str], None] | None:
        """Is told, by any thread, of a machine that went down for whatever reason but a reboot."""
        ...

    @on_stopped.setter
    def on_stopped(self, told: Callable[[str], None], /) -> None: ...

    def new_address(self) -> str:
        """Gives an address of the cloud's network that nobody has had."""
        ...

    def has_root(self, image: str, /) -> bool:
        """Whether machines can be made from this image."""
        ...

    def add_light_image(self, image: str, /) -> None:
        """Machines of this image are light hosts."""
        ...

    def create(
        self, instance: str, image: str, address: str, metadata: dict[str, str], user_data: bytes,
        public_key: str | None, files: list[tuple[str, str]], /,
    ) -> None:
        """Makes the machine, not yet running, with these files (path and content) on it."""
        ...

    def boot(self, instance: str, /) -> None:
        """Presses the power button; returns before the machine is up."""
        ...

    def reboot(self, instance: str, /) -> None: ...

    def stop(self, instance: str, force: bool, /) -> None:
        """Asks it to power off, or takes the power away; returns before the machine is down."""
        ...

    def remove(self, instance: str, /) -> None: ...

    def console(self, instance: str, /) -> bytes:
        """All that its console has shown; of a machine that is removed too."""
        ...

    def add_address(self, instance: str, address: str, /) -> None:
        """The machine is reached at one more address."""
        ...

    def remove_address(self, instance: str, address: str, /) -> None: ...

    def keep(self, instance: str, image: str, /) -> None:
        """Makes an image of a machine that is down; it goes on afterwards."""
        ...

    def copy_image(self, image: str, copy: str, /) -> None: ...

    def drop_image(self, image: str, /) -> None: ...


# Work and time.


class Hands(threading.Thread):
    """One thread that does what it is given in that order: nobody boots a guest that is still being made."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.work: queue.Queue[tuple[Work | None, Failed | None]] = queue.Queue()
        self.start()

    def do(self, work: Work, failed: Failed | None = None) -> None:
        self.work.put((work, failed))

    def rest(self) -> None:
        """Ends the thread after the work it has."""
        self.work.put((None, None))

    def run(self) -> None:
        while True:
            work, failed = self.work.get()
            if work is None:
                return
            try:
                work()
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                if failed:
                    failed(error)


class Cloud:
    """All that outlives a request and is not moto's.

    The lock guards moto's records and ours. It is held through a request, but never while a guest is made, booted or
    removed: that is done by hands. `went_down` only leaves a note, so guests may call it from any thread and whatever
    locks they hold.
    """

    def __init__(self, guests: Machines, capacity: "Capacity", quotas: dict[str, float]) -> None:
        self.guests = guests
        self.lock = threading.RLock()
        self.pace = float(os.environ.get("EFA_GEN_REHEARSAL_PACE", "1"))
        self.instances: dict[str, Instance] = {}
        self.unused_images: set[str] = set()
        self.failing_images: set[str] = set()
        # Files that are put on the machine with this index of the next launch in this region.
        self.files: dict[tuple[str, int], list[tuple[str, str]]] = {}
        self.quotas = quotas
        self.capacity = capacity
        self.callers = Callers()
        self.image_hands = Hands("images")
        self.event_hands = Hands("events")

    def after(self, seconds: float) -> float:
        return time.monotonic() + seconds * self.pace

    def settle(self) -> None:
        """Lets states change whose time has come; a request sees the instances as they are now."""
        for instance in self.instances.values():
            instance.settle()

    def went_down(self, instance_id: str) -> None:
        self.event_hands.do(lambda: self._down(instance_id))

    def _down(self, instance_id: str) -> None:
        with self.lock:
            instance = self.instances.get(instance_id)
            if instance:
                instance.settle()
                instance.down()

    def drop_image(self, image_id: str) -> None:
        """The root of a deregistered image goes when no instance stands on it any more: EC2 lets those go on."""
        if self.guests.has_root(image_id):
            self.unused_images.add(image_id)
            self.drop_unused_images()

    def drop_unused_images(self) -> None:
        used = {i.image_id for i in self.instances.values() if i.life != "terminated"}
        for image_id in self.unused_images - used:
            self.unused_images.discard(image_id)
            self.image_hands.do(lambda image_id=image_id: self.guests.drop_image(image_id))


class Region:
    """What this extension remembers for one account and region, beside moto's own records there."""

    def __init__(self) -> None:
        self.placement_groups: dict[str, dict[str, Any]] = {}
        # By action and token: what was asked and answered.
        self.tokens: dict[tuple[str, str], tuple[str, Any]] = {}

    @staticmethod
    def of(backend: Any) -> "Region":
        return vars(backend).setdefault("rehearsal", Region())

    def once(self, action: str, parameters: dict[str, Any], make: Callable[[], T]) -> T:
        """Client tokens: the same token gives the same answer, and is refused with other parameters [AWS docs,
        "Ensuring idempotency"]. A request that fails leaves its token unused."""
        token = parameters.get("ClientToken")
        if not token:
            return make()
        rest = {k: v for k, v in parameters.items() if k not in ("ClientToken", "DryRun")}
        said = json.dumps(rest, sort_keys=True, default=str)
        known = self.tokens.get((action, token))
        if known and known[0] != said:
            raise refusal(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )
        if not known:
            known = self.tokens[action, token] = (said, make())
        return known[1]


class Part(EC2Response):
    """A part of the API: some of the actions, for one request. moto brings `params`, `_get_param`, `ec2_backend` and
    `error_on_dryrun`, and the actions that no part of ours has."""

    # Set by `api.install`.
    cloud: ClassVar[Cloud]

    @property
    def memory(self) -> Region:
        return Region.of(self.ec2_backend)


# Tags.


def tags_of(backend: Any, resource_id: str) -> Tags:
    return dict(backend.tags.get(resource_id, {}))


def tag_list(backend: Any, resource_id: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags_of(backend, resource_id).items()]


def tags_by_type(specifications: list[dict[str, Any]] | None, allowed: tuple[str, ...]) -> dict[str, Tags]:
    """TagSpecifications as {type: {key: value}}; a type that this action does not tag is refused."""
    tags: dict[str, Tags] = {}
    for one in specifications or []:
        kind = one.get("ResourceType")
        if kind not in allowed:
            raise refusal(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        for tag in one.get("Tags", []):
            if tag["Key"].lower().startswith("aws:"):
                raise refusal(
                    "InvalidParameterValue",
                    f"Tag keys starting with 'aws:' are reserved for internal use: '{tag['Key']}'.",
                )
            tags.setdefault(kind, {})[tag["Key"]] = tag.get("Value", "")
    return tags


# Filters.


@lru_cache(maxsize=1024)
def pattern(text: str) -> re.Pattern[str]:
    """EC2's wildcards: * and ?, a backslash before either makes it plain; letters' case counts."""
    parts = re.findall(r"\\.|.", text, re.DOTALL)
    signs = {"*": ".*", "?": "."}
    return re.compile("".join(signs.get(p) or re.escape(p[-1]) for p in parts), re.DOTALL)


def words(value: object) -> list[str]:
    """A field's value as the strings that a filter is compared with."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, datetime):
        return [iso(value)]
    if isinstance(value, (list, tuple, set)):
        return [word for one in value for word in words(one)]
    return [str(value)]


def chosen(
    objects: Iterable[T],
    filters: list[dict[str, Any]] | None,
    fields: Mapping[str, Callable[[T], object]],
    tags: Callable[[T], Tags],
) -> list[T]:
    """The objects that every filter keeps. `fields` names what can be asked for; `tags` gives an object's tags."""
    left = list(objects)
    for one in filters or []:
        name, wanted = one.get("Name"), [pattern(v) for v in one.get("Values") or []]
        field = _tag_field(name, tags) or fields.get(name or "")
        if not field:
            raise refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
        if not wanted:
            raise refusal("InvalidParameterValue", f"The filter '{name}' has no values")
        left = [o for o in left if any(p.fullmatch(w) for w in words(field(o)) for p in wanted)]
    return left


def _tag_field(name: str | None, tags: Callable[[T], Tags]) -> Callable[[T], object] | None:
    if name and name.startswith("tag:"):
        return lambda o: tags(o).get(name[4:])
    return {"tag-key": lambda o: list(tags(o)), "tag-value": lambda o: list(tags(o).values())}.get(name or "")


def page(items: list[T], parameters: dict[str, Any]) -> tuple[list[T], str | None]:
    """One page of a list and the token of the next; the token is where the next begins."""
    try:
        start = int(parameters.get("NextToken") or 0)
    except ValueError:
        raise refusal("InvalidParameterValue", "Unable to parse pagination token") from None
    size = parameters.get("MaxResults") or len(items) or 1
    more = start + size < len(items)
    return items[start : start + size], str(start + size) if more else None
