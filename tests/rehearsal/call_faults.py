"""Owns what one call of AWS is, by its form on the wire, and the answers that calls.py gives in the API's place:
errors, refusals asked for, and things that AWS does not know yet. It must not know how calls travel. No action is known
here but for what it makes or lists."""

import json
import re
import sys
import time
import urllib.parse
import uuid
import xml.etree.ElementTree as ET
from email.message import Message

# Status, headers, body.
Answer = tuple[int, list[tuple[str, str]], bytes]

# EC2's server errors by status (list of error codes, "Server error codes"); all others are 400.
STATUS = {"RequestLimitExceeded": 503, "Unavailable": 503, "ServiceUnavailable": 503}
THROTTLED = {"ec2": "RequestLimitExceeded", "sts": "Throttling", "servicequotas": "TooManyRequestsException"}
# What an action makes, and what a list shows, by the prefix of their ids.
MAKES = {
    "RunInstances": ("i", "vol", "eni"), "CreateImage": ("ami",), "CopyImage": ("ami",), "CreateSecurityGroup": ("sg",),
    "ImportKeyPair": ("key",), "CreateKeyPair": ("key",), "AllocateAddress": ("eipalloc",),
    "CreatePlacementGroup": ("pg",), "AssociateAddress": ("eipassoc",),
}
# What is not named by its id, by the action that makes it.
NAMED = {"ImportKeyPair": "key pair", "CreateKeyPair": "key pair", "CreatePlacementGroup": "placement group"}
LISTS = {
    "DescribeInstances": "i", "DescribeImages": "ami", "DescribeSecurityGroups": "sg", "DescribeKeyPairs": "key",
    "DescribeVolumes": "vol", "DescribeAddresses": "eipalloc", "DescribePlacementGroups": "pg",
    "DescribeNetworkInterfaces": "eni",
}
NOT_FOUND = {
    "i": "InvalidInstanceID.NotFound", "ami": "InvalidAMIID.NotFound", "sg": "InvalidGroup.NotFound",
    "key": "InvalidKeyPair.NotFound", "vol": "InvalidVolume.NotFound", "eni": "InvalidNetworkInterfaceID.NotFound",
    "eipalloc": "InvalidAllocationID.NotFound", "pg": "InvalidPlacementGroup.Unknown",
    "eipassoc": "InvalidAssociationID.NotFound",
}


class Call:
    """One request of the command; an SDK's second attempt is a call of its own."""

    def __init__(self, number: int, headers: Message, body: bytes) -> None:
        scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", headers.get("Authorization", ""))
        self.number = number
        self.region, self.service = scope.groups() if scope else ("", "")
        self.target = headers.get("X-Amz-Target")
        self.values = parameters(self.target, body)
        self.action = self.target.rsplit(".", 1)[-1] if self.target else dict(self.values).get("Action", "")
        self.dry = ("DryRun", "true") in self.values
        # An SDK of today numbers its attempts; of an older one, the same words again are another attempt.
        attempt = re.search(r"attempt=(\d+)", headers.get("amz-sdk-request", ""))
        self.attempt = int(attempt[1]) if attempt else None
        self.same = (self.service, self.region, self.target, body)

    def named(self) -> list[str]:
        """What this call takes to be there already: the values that are not in a filter, and the names of what it does
        not make itself."""
        plain = [(key, value) for key, value in self.values if not key.startswith("Filter.")]
        named = [value for key, value in plain if not self.kind_named(key)]
        return named + [name for name in self.names() if not name.startswith(NAMED.get(self.action, "nothing"))]

    def names(self) -> list[str]:
        """Names with their kinds, so that one is not taken for another thing's."""
        return [f"{self.kind_named(key)} {value}" for key, value in self.values if self.kind_named(key)]

    def kind_named(self, key: str) -> str | None:
        """Of which kind the thing is that a parameter names, if it is one that has no id there."""
        if "KeyName" in key:
            return "key pair"
        of_group = key == "Placement.GroupName" or (key.startswith("GroupName") and "PlacementGroup" in self.action)
        return "placement group" if of_group else None


def parameters(target: str | None, body: bytes) -> list[tuple[str, str]]:
    """A call's parameters as pairs of text; a JSON call's outermost ones."""
    if not target:
        return urllib.parse.parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    said = json.loads(body or b"{}")
    return [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in said.items()]


def error(call: Call, code: str, message: str = "The rehearsal answers so.") -> Answer:
    """An answer with this error, in the service's own form."""
    capacity = code.startswith("Insufficient") and code.endswith("Capacity")
    status = STATUS.get(code) or (500 if capacity or code.startswith(("Internal", "ServerInternal")) else 400)
    if call.target:
        body = json.dumps({"__type": code, "message": message})
        return status, [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", code)], body.encode()
    said, request_id = f"<Code>{code}</Code><Message>{message}</Message>", uuid.uuid4()
    if call.service == "ec2":
        body = f"<Response><Errors><Error>{said}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    else:
        body = f"<ErrorResponse><Error>{said}</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    return status, [("Content-Type", "text/xml")], body.encode()


def code_of(answer: Answer) -> str:
    """The error code of an answer, or nothing."""
    if answer[0] < 400:
        return ""
    found = re.search(rb'<Code>([^<]+)|"__type": ?"([^"]+)', answer[2])
    return (found[1] or found[2]).decode() if found else "?"


class Refusals:
    """--refuse, each with the times that are left."""

    RULE = re.compile(r"(?P<action>\w+)(?P<dry>\?dry)?(?:@(?P<value>[^=]+))?=(?P<code>[\w.]+)(?::(?P<times>\d+))?")

    def __init__(self, texts: list[str]) -> None:
        self.rules = [rule.groupdict() for rule in map(self.RULE.fullmatch, texts) if rule]
        if len(self.rules) != len(texts):
            sys.exit(f"calls.py: --refuse ACTION[?dry][@VALUE]=CODE[:TIMES], not one of {texts}")
        self.left = [int(rule["times"] or sys.maxsize) for rule in self.rules]

    def code(self, call: Call) -> str | None:
        for index, rule in enumerate(self.rules):
            fits = rule["action"] == call.action and bool(rule["dry"]) == call.dry and self.left[index] > 0
            if fits and rule["value"] in (None, *(value for _, value in call.values)):
                self.left[index] -= 1
                return rule["code"]
        return None


class Late:
    """--late: what was made and when, by id, and by name too where that is what a thing is known by."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.born: dict[str, tuple[str, float]] = {}

    def young(self, prefix: str | None = None) -> set[str]:
        ids = {one for one, (_, at) in list(self.born.items()) if time.monotonic() - at < self.seconds}
        return {one for one in ids if prefix in (None, self.born[one][0])}

    def code(self, call: Call) -> str | None:
        return next((NOT_FOUND[self.born[one][0]] for one in call.named() if one in self.young()), None)

    def answered(self, call: Call, answer: Answer) -> Answer:
        """Notes what the call has made; takes out of a list what is too new for it."""
        status, headers, body = answer
        if status == 200 and call.action in MAKES:
            made = NAMED.get(call.action)
            names = [name for name in call.names() if made and name.startswith(made)]
            for prefix in MAKES[call.action]:
                ids = re.findall(rf"\b{prefix}-[0-9a-f]{{17}}\b", body.decode("utf-8", "replace"))
                for one in set(ids) | set(names):
                    self.born.setdefault(one, (prefix, time.monotonic()))
        young = self.young(LISTS.get(call.action, "none"))
        return (status, headers, without(body, young)) if status == 200 and young else answer


def without(body: bytes, ids: set[str]) -> bytes:
    """A list without the items that hold one of these ids."""
    root = ET.fromstring(body)
    for items in root:
        for item in list(items):
            if any(text in ids for text in item.itertext()):
                items.remove(item)
    return ET.tostring(root)
