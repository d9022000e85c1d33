"""What the parts of the rehearsal's EC2 share: refusals, filters, tags, client tokens, time, and the order of work.

Owns the `Cloud`: the guests, the lock that every request holds, and the pace at which states change. It must not know
any single action of the API, nor how a guest is made.
"""

import json
import os
import queue
import re
import sys
import threading
import time
import traceback
from datetime import datetime, timezone
from functools import lru_cache

from moto.ec2.exceptions import EC2ClientError

PENDING_SECONDS = 1.5  # from the guest's power button to "running"
IMAGE_SECONDS = 2.0  # from the root file system being kept to "available"
CHECKS_SECONDS = 1.0  # from "running" to status checks that are "ok"
GONE_SECONDS = 0.2  # stopping and terminating an instance that has no guest


def refusal(code, message):
    """An error as EC2 answers it; the status is 400 unless the server says otherwise for this code."""
    return EC2ClientError(code, message)


def iso(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def moment(text):
    """A timestamp without zone, in UTC, as moto keeps them."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc).replace(tzinfo=None)


# Work and time.


class Hands(threading.Thread):
    """One thread that does what it is given in that order: nobody boots a guest that is still being made."""

    def __init__(self, name):
        super().__init__(name=name, daemon=True)
        self.work = queue.Queue()
        self.start()

    def do(self, work, failed=None):
        self.work.put((work, failed))

    def rest(self):
        """Ends the thread after the work it has."""
        self.work.put((None, None))

    def run(self):
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

    def __init__(self, guests, capacity, quotas):
        self.guests = guests
        self.lock = threading.RLock()
        self.pace = float(os.environ.get("EFA_GEN_REHEARSAL_PACE", "1"))
        self.instances = {}
        self.unused_images = set()
        self.failing_images = set()
        # Files that are put on the machine with this index of the next launch in this region.
        self.files = {}
        self.quotas = quotas
        self.capacity = capacity
        self.image_hands = Hands("images")
        self.event_hands = Hands("events")

    def after(self, seconds):
        return time.monotonic() + seconds * self.pace

    def settle(self):
        """Lets states change whose time has come; a request sees the instances as they are now."""
        for instance in self.instances.values():
            instance.settle()

    def went_down(self, instance_id):
        self.event_hands.do(lambda: self._down(instance_id))

    def _down(self, instance_id):
        with self.lock:
            instance = self.instances.get(instance_id)
            if instance:
                instance.settle()
                instance.down()

    def drop_image(self, image_id):
        """The root of a deregistered image goes when no instance stands on it any more: EC2 lets those go on."""
        if self.guests.has_root(image_id):
            self.unused_images.add(image_id)
            self.drop_unused_images()

    def drop_unused_images(self):
        used = {i.image_id for i in self.instances.values() if i.life != "terminated"}
        for image_id in self.unused_images - used:
            self.unused_images.discard(image_id)
            self.image_hands.do(lambda image_id=image_id: self.guests.drop_image(image_id))


class Region:
    """What this extension remembers for one account and region, beside moto's own records there."""

    def __init__(self):
        self.placement_groups = {}
        self.tokens = {}

    @staticmethod
    def of(backend):
        return vars(backend).setdefault("rehearsal", Region())

    def once(self, action, parameters, make):
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


# Tags.


def tags_of(backend, resource_id):
    return dict(backend.tags.get(resource_id, {}))


def tag_list(backend, resource_id):
    return [{"Key": key, "Value": value} for key, value in tags_of(backend, resource_id).items()]


def tags_by_type(specifications, allowed):
    """TagSpecifications as {type: {key: value}}; a type that this action does not tag is refused."""
    tags = {}
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
def pattern(text):
    """EC2's wildcards: * and ?, a backslash before either makes it plain; letters' case counts."""
    parts = re.findall(r"\\.|.", text, re.DOTALL)
    signs = {"*": ".*", "?": "."}
    return re.compile("".join(signs.get(p) or re.escape(p[-1]) for p in parts), re.DOTALL)


def words(value):
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


def chosen(objects, filters, fields, tags):
    """The objects that every filter keeps. `fields` names what can be asked for; `tags` gives an object's tags."""
    for one in filters or []:
        name, wanted = one.get("Name"), [pattern(v) for v in one.get("Values") or []]
        field = _tag_field(name, tags) or fields.get(name)
        if not field:
            raise refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
        if not wanted:
            raise refusal("InvalidParameterValue", f"The filter '{name}' has no values")
        objects = [o for o in objects if any(p.fullmatch(w) for w in words(field(o)) for p in wanted)]
    return objects


def _tag_field(name, tags):
    if name and name.startswith("tag:"):
        return lambda o: tags(o).get(name[4:])
    return {"tag-key": lambda o: list(tags(o)), "tag-value": lambda o: list(tags(o).values())}.get(name)


def page(items, parameters):
    """One page of a list and the token of the next; the token is where the next begins."""
    try:
        start = int(parameters.get("NextToken") or 0)
    except ValueError:
        raise refusal("InvalidParameterValue", "Unable to parse pagination token") from None
    size = parameters.get("MaxResults") or len(items) or 1
    more = start + size < len(items)
    return items[start : start + size], str(start + size) if more else None
