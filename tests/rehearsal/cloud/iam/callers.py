"""Owns the policies of callers and the record of what was judged by them. It must not know how a call becomes requests,
nor how a service words a refusal."""

import json
from typing import Any, TypedDict

from moto.core.models import DEFAULT_ACCOUNT_ID

from cloud.iam.judge import Request, judge

# The keys that the cloud gives a value, where the action has them; a name that ends with a stroke is the begin of some.
# Those of other services are not asked here.
GIVEN = (
    "aws:requestedregion", "aws:requesttag/", "aws:resourcetag/", "aws:tagkeys", "ec2:createaction", "ec2:region",
    "ec2:resourcetag/",
)


class Judged(TypedDict):
    """One request, the call that it was a part of, and what became of it."""

    call: str
    dry: bool
    request: Request
    allowed: bool


class Callers:
    """A caller is an access key: twenty letters and digits. One without a policy may do everything."""

    def __init__(self) -> None:
        self.policies: dict[str, dict[str, Any]] = {}
        self.judged: dict[str, list[Judged]] = {}

    def limit(self, key: str, policy: str) -> None:
        """From now on the caller may do what this policy document allows, and nothing else. One that could not be
        judged is refused: by the reference it names an action that there is not, or a key that the action has not; or
        the cloud does not give the key a value."""
        document = json.loads(policy)
        wrong = judge().wrong_in(document)
        for statement in document["Statement"]:
            keys = [key for test in statement.get("Condition", {}).values() for key in test]
            of_here = [key for key in keys if key.startswith(("aws:", "ec2:"))]
            wrong += [f"{statement.get('Sid')}: the cloud has no {key}" for key in of_here if not is_given(key)]
        if wrong:
            raise ValueError("; ".join(wrong))
        self.policies[key] = document
        self.judged[key] = []

    def is_limited(self, key: str) -> bool:
        return key in self.policies

    def denied(self, key: str, call: str, dry: bool, requests: list[Request]) -> Request | None:
        """The first request of a limited caller's call that its policy does not allow."""
        allowed = judge().allowed(arn(key), self.policies[key], requests)
        for request, verdict in zip(requests, allowed, strict=True):
            self.judged[key].append({"call": call, "dry": dry, "request": request, "allowed": verdict})
        return next((request for request, verdict in zip(requests, allowed, strict=True) if not verdict), None)

    def record(self, key: str) -> str:
        """All that was judged of a caller, as JSON."""
        return json.dumps(self.judged[key])


def judged_by(policy: str, requests: str) -> str:
    """What a policy says of requests that were recorded, as JSON. No call is made."""
    return json.dumps(judge().allowed(arn("ANYBODY"), json.loads(policy), json.loads(requests)))


def arn(key: str) -> str:
    return f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/{key}"


def is_given(key: str) -> bool:
    return any(key.lower().startswith(known) if known[-1] == "/" else key.lower() == known for known in GIVEN)


def sentence(key: str, denied: Request) -> str:
    """As AWS words it (IAM User Guide, "Access denied error message examples")."""
    return (
        f"User: {arn(key)} is not authorized to perform: {denied['action']} on resource: {denied['resource']} because"
        f" no identity-based policy allows the {denied['action']} action"
    )
