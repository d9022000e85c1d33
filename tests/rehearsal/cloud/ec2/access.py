"""A call as IAM sees it: the requests (action, resource, context) that its caller's policy must allow, all of them.

Owns the way from a call's parameters and the cloud's records to requests. Which types of resources and which condition
keys an action has, and how an ARN is written, the policy judge's reference says, not this file: a resource of another
type is not asked about, a key that is not listed there is not given. What it can't judge it refuses.

    rule                                                  known from
    what is made gets the tags of the call, and has none  user guide, "Grant permission to tag resources during
    of its own; CreateTags is asked for each              creation"
    a launch makes a volume, from spot a request          user guide, "Example policies ... RunInstances"
    a copy is asked about its source and itself           user guide, "Grant permissions to copy AMIs"
    the default VPC, subnet and group                     API reference, of the action
    iam:PassRole for an instance profile's role           user guide, "IAM roles for Amazon EC2"
    GetCallerIdentity is nobody's to deny                 STS API reference
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moto.core.responses import BaseResponse
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE
from moto.iam.models import iam_backends

from cloud.ec2.core import Part, Region, Tags, tags_of
from cloud.iam.judge import Judge, Request

# moto's names of types, and those that it has not, in IAM's words.
KINDS = {
    **EC2_PREFIX_TO_RESOURCE, "cr": "capacity-reservation", "eipalloc": "elastic-ip", "pg": "placement-group",
    "sir": "spot-instances-request",
}
# What names no resource of the call: words of the caller's, and another group in a rule.
APART = (
    "ClientToken", "Description", "Filters", "IpPermissions", "PublicKeyMaterial", "TagSpecifications", "Tags",
    "UserData",
)
# A thing that is not there yet has an id that nobody has.
NEW = "0" * 17


@dataclass(frozen=True)
class Named:
    """A resource of a call: its type, the end of its ARN, and its tags as they are; what is yet to be made has none."""

    kind: str
    name: str
    tags: tuple[tuple[str, str], ...] = ()
    is_new: bool = False


def requests_of(api: Part, judge: Judge) -> list[Request]:
    """What a call of EC2 asks."""
    action = api._get_action()
    known = judge.action(f"ec2:{action}")
    types = {one["name"]: one for one in known["resourceTypes"]}
    given = tags_given(api)
    if not types:
        return [request(api, f"ec2:{action}", known["conditionKeys"], "*")]
    there = {one for one in there_already(api, action) if one.kind in types}
    new = {Named(kind, name_of_new(api, action, kind), (), True) for kind in made(api, action, types, given)}
    # What is imported or made by its name is not there already.
    there -= {one for one in there if any((one.kind, one.name) == (other.kind, other.name) for other in new)}
    missing = [kind for kind, one in types.items() if one["required"] and kind not in {r.kind for r in there | new}]
    if missing or not there | new:
        raise LookupError(f"the rehearsal can't judge {action}: it finds no {', '.join(missing) or 'resource'}")
    asked = [
        about(api, f"ec2:{action}", known, types[one.kind], one, given)
        for one in sorted(there | new, key=lambda one: (one.kind, one.name))
    ]
    if action != "CreateTags":
        tagging = judge.action("ec2:CreateTags")
        tagged = {one["name"]: one for one in tagging["resourceTypes"]}
        asked += [
            about(api, "ec2:CreateTags", tagging, tagged[one.kind], one, given, action)
            for one in sorted(new, key=lambda one: one.kind) if given.get(one.kind)
        ]
    return asked + [passed(role) for role in roles(api)]


def about(
    api: Part, name: str, known: dict[str, Any], kind: dict[str, Any], one: Named, given: dict[str, Tags],
    create_action: str | None = None,
) -> Request:
    """The request about one resource."""
    facts: dict[str, str | list[str]] = {}
    # Tags are given to what is made, and by CreateTags to what is there.
    if one.is_new or name == "ec2:CreateTags":
        tags = given.get(one.kind, {}) if one.is_new else given[""]
        facts |= {f"aws:RequestTag/{key}": value for key, value in tags.items()}
        facts |= {"aws:TagKeys": list(tags)} if tags else {}
    for key, value in one.tags:
        facts |= {f"aws:ResourceTag/{key}": value, f"ec2:ResourceTag/{key}": value}
    if create_action:
        facts["ec2:CreateAction"] = create_action
    arn = re.sub(r"\$\{(\w+)\}", lambda part: places(api).get(part[1], one.name), kind["arn"])
    return request(api, name, known["conditionKeys"] + kind["conditionKeys"], arn, facts)


def request(
    api: BaseResponse, name: str, keys: list[str], arn: str, facts: dict[str, str | list[str]] | None = None
) -> Request:
    """Of the facts only those whose key the action has."""
    begins = [key.split("${")[0].lower() for key in keys]

    def has(key: str) -> bool:
        key = key.lower()
        return any(key.startswith(begin) if begin.endswith("/") else key == begin for begin in begins)

    context = {key: value for key, value in {"ec2:Region": api.region, **(facts or {})}.items() if has(key)}
    return {"action": name, "resource": arn, "context": {"aws:RequestedRegion": api.region, **context}}


def places(api: BaseResponse) -> dict[str, str]:
    return {"Partition": api.partition, "Region": api.region, "Account": api.current_account}


def tags_given(api: Part) -> dict[str, Tags]:
    """The tags of the call, by the type of what gets them; those of CreateTags have no type."""
    given: dict[str, Tags] = {"": {}}
    for one in [api.params, *(api.params.get("TagSpecifications") or [])]:
        tags = {tag["Key"]: tag.get("Value", "") for tag in one.get("Tags") or []}
        given.setdefault(one.get("ResourceType", ""), {}).update(tags)
    return given


def made(api: Part, action: str, types: dict[str, Any], given: dict[str, Tags]) -> Iterator[str]:
    """The types that the action makes: by the reference they get tags and have none. One that need not be made is if it
    gets tags."""
    for kind, one in types.items():
        keys = one["conditionKeys"]
        if "aws:RequestTag/${TagKey}" in keys and "aws:ResourceTag/${TagKey}" not in keys:
            too = action == "RunInstances" and (kind == "volume" or (kind == "spot-instances-request" and spot(api)))
            if one["required"] or given.get(kind) or too:
                yield kind


def spot(api: Part) -> bool:
    return api.params.get("InstanceMarketOptions", {}).get("MarketType") == "spot"


def name_of_new(api: Part, action: str, kind: str) -> str:
    """Some things have a name from the beginning."""
    by_name = {"key-pair": "KeyName", "placement-group": "GroupName"}
    if kind in by_name:
        return api.params[by_name[kind]]
    prefix = next(prefix for prefix, known in KINDS.items() if known == kind)
    return f"{prefix}-{NEW}"


def there_already(api: Part, action: str) -> Iterator[Named]:
    """What the call names, and what it means where it names nothing."""
    named = [one for key, value in words_of(api.params) for one in called(api, action, key, value)]
    yield from named
    kinds = {one.kind for one in named}
    backend = api.ec2_backend
    if action == "CreateSecurityGroup" and "vpc" not in kinds:
        yield known(api, "vpc", backend.default_vpc.id)
    if action != "RunInstances":
        return
    subnets = [one.name for one in named if one.kind == "subnet"]
    if not subnets:
        subnets = [one.id for one in backend.get_default_subnets().values()][:1]
        yield known(api, "subnet", subnets[0])
    if "security-group" not in kinds:
        yield known(api, "security-group", backend.get_default_security_group(backend.get_subnet(subnets[0]).vpc_id).id)


def words_of(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of the parameters, with the path of names that leads to it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in APART:
                yield from words_of(inner, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from words_of(inner, key)
    elif isinstance(value, str):
        yield key, value


def called(api: Part, action: str, key: str, value: str) -> Iterator[Named]:
    """The resource that a text names: by an id, or by a name where that is what the parameter takes."""
    last = key.rsplit(".", 1)[-1]
    found = re.fullmatch(r"([a-z]+(?:-[a-z]+)*)-[0-9a-f]{8,17}", value)
    if last in ("KeyName", "KeyNames"):
        yield key_pair(api, value)
    elif key.endswith("Placement.GroupName") or (last == "GroupName" and action.endswith("PlacementGroup")):
        yield placement(api, value)
    elif last in ("GroupName", "SecurityGroups") and action != "CreateSecurityGroup":
        vpc = api.ec2_backend.default_vpc
        group = api.ec2_backend.get_security_group_from_name(value, vpc.id if vpc else None)
        yield known(api, "security-group", group.id if group else value)
    elif found and found[1] == "key":
        pairs = api.ec2_backend.key_pairs
        yield key_pair(api, next((name for name, pair in pairs.items() if pair.id == value), value))
    elif found and found[1] == "pg":
        groups = Region.of(api.ec2_backend).placement_groups
        yield placement(api, next((name for name, group in groups.items() if group["GroupId"] == value), value))
    elif found and found[1] in KINDS:
        yield known(api, KINDS[found[1]], value)


def known(api: Part, kind: str, resource_id: str) -> Named:
    return Named(kind, resource_id, tuple(sorted(tags_of(api.ec2_backend, resource_id).items())))


def key_pair(api: Part, name: str) -> Named:
    pair = api.ec2_backend.key_pairs.get(name)
    return Named("key-pair", name, known(api, "key-pair", pair.id).tags if pair else ())


def placement(api: Part, name: str) -> Named:
    group = Region.of(api.ec2_backend).placement_groups.get(name)
    return Named("placement-group", name, known(api, "placement-group", group["GroupId"]).tags if group else ())


def roles(api: Part) -> list[str]:
    """The ARNs of the roles that a machine is given by its instance profile."""
    profile = api.params.get("IamInstanceProfile")
    if not profile:
        return []
    backend = iam_backends[api.current_account]["global"]
    profiles = list(backend.get_instance_profiles())
    asked = [one for one in profiles if one.name == profile.get("Name") or one.arn == profile.get("Arn")]
    return [role.arn for one in asked for role in one.roles]


def passed(role: str) -> Request:
    return {"action": "iam:PassRole", "resource": role, "context": {"iam:PassedToService": "ec2.amazonaws.com"}}


# By service and action: from parameter to placeholder of the ARN.
OTHERS = {
    "ssm:GetParameter": ("Name", "ParameterNameWithoutLeadingSlash"),
    "ssm:PutParameter": ("Name", "ParameterNameWithoutLeadingSlash"),
    "iam:GetInstanceProfile": ("InstanceProfileName", "InstanceProfileNameWithPath"),
}


def requests_of_other(api: BaseResponse, judge: Judge) -> list[Request]:
    """What a call of another service asks. The reference gives every parameter an account, AWS's own as well."""
    name = f"{api.service_name}:{api._get_action()}"
    if name == "sts:GetCallerIdentity":
        return []
    if name == "service-quotas:GetServiceQuota":
        name = "servicequotas:GetServiceQuota"
        values = {"ServiceCode": api._get_param("ServiceCode"), "QuotaCode": api._get_param("QuotaCode")}
    elif name in OTHERS:
        parameter, place = OTHERS[name]
        values = {place: api._get_param(parameter).lstrip("/")}
    else:
        raise LookupError(f"the rehearsal can't judge {name}")
    known = judge.action(name)
    (kind,) = known["resourceTypes"]
    arn = re.sub(r"\$\{(\w+)\}", lambda part: {**places(api), **values}[part[1]], kind["arn"])
    return [request(api, name, known["conditionKeys"] + kind["conditionKeys"], arn)]
