"""Placement groups, and what moto leaves out of security groups and key pairs.

Owns the rules for names that are taken, unknown or in use. Codes are those of AWS's list "Error codes for the Amazon
EC2 API".
"""

from collections.abc import Callable
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import InvalidSecurityGroupNotFoundError
from moto.ec2.models.security_groups import SecurityGroup
from moto.ec2.utils import public_key_parse, random_id

from cloud.ec2.core import Part, chosen, refusal, tag_list, tags_by_type, tags_of
from cloud.ec2.instance_actions import Instances

STRATEGIES = ("cluster", "partition", "spread")
PLACEMENT_FIELDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "group-arn": lambda g: g["GroupArn"],
    "group-id": lambda g: g["GroupId"],
    "group-name": lambda g: g["GroupName"],
    "spread-level": lambda g: g.get("SpreadLevel"),
    "state": lambda g: g["State"],
    "strategy": lambda g: g["Strategy"],
}


def placement_group(
    groups: dict[str, dict[str, Any]], name: str | None = None, group_id: str | None = None
) -> dict[str, Any]:
    for group in groups.values():
        if (name and group["GroupName"] == name) or (group_id and group["GroupId"] == group_id):
            return group
    raise refusal("InvalidPlacementGroup.Unknown", f"The Placement Group '{name or group_id}' is unknown.")


class PlacementGroups(Instances):
    """moto has none of these actions."""

    def create_placement_group(self) -> ActionResult:
        p, groups = self.params, self.memory.placement_groups
        name, strategy = p.get("GroupName"), p.get("Strategy") or "cluster"
        if not name:
            raise refusal("MissingParameter", "The request must contain the parameter groupName")
        if not (name.isascii() and len(name) <= 255):
            raise refusal("InvalidParameterValue", f"Value ({name}) for parameter groupName is invalid.")
        if strategy not in STRATEGIES:
            raise refusal("InvalidParameterValue", f"Value ({strategy}) for parameter strategy is invalid.")
        if name in groups:
            raise refusal("InvalidPlacementGroup.Duplicate", f"The placement group '{name}' already exists.")
        tags = tags_by_type(p.get("TagSpecifications"), ("placement-group",))
        self.error_on_dryrun()
        group_id = random_id("pg")
        arn = f"arn:{self.partition}:ec2:{self.region}:{self.current_account}:placement-group/{name}"
        group = {"GroupName": name, "GroupId": group_id, "GroupArn": arn, "State": "available", "Strategy": strategy}
        if strategy == "partition":
            group["PartitionCount"] = p.get("PartitionCount") or 2
        if strategy == "spread":
            group["SpreadLevel"] = p.get("SpreadLevel") or "rack"
        groups[name] = group
        self.ec2_backend.create_tags([group_id], tags.get("placement-group", {}))
        return ActionResult({"PlacementGroup": self._with_tags(group)})

    def describe_placement_groups(self) -> ActionResult:
        p, groups = self.params, self.memory.placement_groups
        found = [placement_group(groups, name=name) for name in p.get("GroupNames", [])]
        found += [placement_group(groups, group_id=one) for one in p.get("GroupIds", [])]
        if not p.get("GroupNames") and not p.get("GroupIds"):
            found = list(groups.values())
        found = chosen(found, p.get("Filters"), PLACEMENT_FIELDS, lambda g: tags_of(self.ec2_backend, g["GroupId"]))
        return ActionResult({"PlacementGroups": [self._with_tags(g) for g in found]})

    def delete_placement_group(self) -> ActionResult:
        name = self._get_param("GroupName")
        placement_group(self.memory.placement_groups, name=name)
        if any(i.life != "terminated" and i.placement.group_name == name for i in self.all_instances()):
            raise refusal(
                "InvalidPlacementGroup.InUse", f"The placement group '{name}' is in use and may not be deleted."
            )
        self.error_on_dryrun()
        del self.memory.placement_groups[name]
        return EmptyResult()

    def _with_tags(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**group, "Tags": tag_list(self.ec2_backend, group["GroupId"])}


class SecurityGroupRules(Part):
    """moto deletes a security group that is in use."""

    def delete_security_group(self) -> ActionResult:
        backend, name, group_id = self.ec2_backend, self._get_param("GroupName"), self._get_param("GroupId")
        if group_id:
            group = backend.get_security_group_from_id(group_id)
        else:
            group = backend.get_security_group_from_name(name, backend.default_vpc.id)
        if not group:
            raise InvalidSecurityGroupNotFoundError(group_id or name)
        if group.is_default:
            raise refusal(
                "CannotDelete", f'the specified group: "{group.id}" name: "{group.name}" cannot be deleted by a user'
            )
        if self._group_in_use(group):
            raise refusal("DependencyViolation", f"resource {group.id} has a dependent object")
        self.error_on_dryrun()
        backend.delete_security_group(group_id=group.id)
        return ActionResult({"Return": True, "GroupId": group.id})

    def _group_in_use(self, group: SecurityGroup) -> bool:
        """By an interface, also of an instance on its way out, or by another group's rule."""
        if any(group in eni.group_set for eni in self.ec2_backend.enis.values()):
            return True
        others = [g for groups in self.ec2_backend.groups.values() for g in groups.values() if g is not group]
        rules = [rule for other in others for rule in other.ingress_rules + other.egress_rules]
        return any(rule.source_group.get("GroupId") == group.id for rule in rules)


class KeyPairIds(Part):
    """moto knows key pairs by name alone, and takes public keys that EC2 does not."""

    def import_key_pair(self) -> ActionResult:
        name, material = self._get_param("KeyName"), self._get_param("PublicKeyMaterial")
        if name not in self.ec2_backend.key_pairs and not _importable(material):
            raise refusal("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
        self.error_on_dryrun()
        return super().import_key_pair()

    def delete_key_pair(self) -> ActionResult:
        pairs, key_id = self.ec2_backend.key_pairs, self._get_param("KeyPairId")
        name = self._get_param("KeyName") or next((n for n, pair in pairs.items() if pair.id == key_id), None)
        self.error_on_dryrun()
        pair = pairs.pop(name, None)
        return ActionResult({"Return": True, "KeyPairId": pair.id if pair else None})

    def describe_key_pairs(self) -> ActionResult:
        wanted = self.params.get("KeyPairIds", [])
        by_id = {pair.id: name for name, pair in self.ec2_backend.key_pairs.items()}
        for key_id in wanted:
            if key_id not in by_id:
                raise refusal("InvalidKeyPair.NotFound", f"The key pair ID '{key_id}' does not exist")
        if wanted:
            self.params["KeyNames"] = self.params.get("KeyNames", []) + [by_id[one] for one in wanted]
        return super().describe_key_pairs()


def _importable(material: bytes) -> bool:
    """Whether EC2 takes this public key: RSA or Ed25519 in OpenSSH's format, RSA in that of RFC 4716 as well [AWS docs,
    "Create a key pair"; public reports show the refusal of ECDSA and DSA]. Base64 of DER, which EC2 takes too, moto
    can't read. The docs name 1024, 2048 and 4096 bits, but 8192 was imported
    [github.com/terraform-aws-modules/terraform-aws-key-pair/issues/16], so an RSA key of any size passes here."""
    try:
        key = public_key_parse(material)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if material.startswith(b"---- BEGIN SSH2 PUBLIC KEY ----"):
        return isinstance(key, RSAPublicKey)
    # A certificate, or the key of a security token, is read as the key that it is about [refusal assumed].
    return material.split()[0] in (b"ssh-rsa", b"ssh-ed25519")
