#!/usr/bin/python3
"""Shows what the cloud's account holds in a region, or makes one call there.

  account.py list REGION               every thing, one a line, with its tags and what else a run may change
  account.py call REGION CALL [JSON]   one call of EC2, or SERVICE.CALL, by its boto3 name; arguments and answer are JSON

Runs on the cloud's network, by the Python that has boto3. Owns the listing by which tests tell that an account is as it was
before; an instance that is terminated is gone. It must not know who made what."""

import json
import sys

import boto3
from botocore.exceptions import ClientError

# Call, arguments, key of the list, name of the id, and the fields that are shown beside it.
LISTS = (
    ("describe_images", {"Owners": ["self"], "IncludeDeprecated": True}, "Images", "ImageId",
     ("Name", "State", "DeprecationTime", "DeregistrationProtection", "ImdsSupport")),
    ("describe_snapshots", {"OwnerIds": ["self"]}, "Snapshots", "SnapshotId", ("State", "Description")),
    ("describe_volumes", {}, "Volumes", "VolumeId", ("State", "Encrypted", "VolumeType")),
    ("describe_network_interfaces", {}, "NetworkInterfaces", "NetworkInterfaceId", ("Status",)),
    ("describe_key_pairs", {}, "KeyPairs", "KeyPairId", ("KeyName",)),
    ("describe_security_groups", {}, "SecurityGroups", "GroupId", ("GroupName", "IpPermissions", "IpPermissionsEgress")),
    ("describe_addresses", {}, "Addresses", "AllocationId", ("PublicIp", "AssociationId")),
    ("describe_placement_groups", {}, "PlacementGroups", "GroupId", ("GroupName", "Strategy")),
    ("describe_launch_templates", {}, "LaunchTemplates", "LaunchTemplateId", ("LaunchTemplateName",)),
)


def client(service, region):
    return boto3.client(service, region_name=region, endpoint_url="http://10.78.0.1")


def line(kind, one, name, fields):
    tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags") or one.get("TagSet") or []}
    shown = {field: one.get(field) for field in fields}
    return f"{kind} {one.get(name)} {json.dumps({**shown, 'tags': tags}, sort_keys=True, default=str)}"


def things(region):
    api = client("ec2", region)
    for reservation in api.describe_instances()["Reservations"]:
        for one in reservation["Instances"]:
            if one["State"]["Name"] != "terminated":
                yield line("Instances", {**one, "Is": one["State"]["Name"]}, "InstanceId", ("Is", "KeyName", "ImageId"))
    for call, arguments, key, name, fields in LISTS:
        for one in getattr(api, call)(**arguments)[key]:
            yield line(key, one, name, fields)


def main():
    verb, region, *rest = sys.argv[1:]
    if verb == "list":
        print("\n".join(sorted(things(region))))
        return
    service, _, call = rest[0].rpartition(".")
    try:
        answer = getattr(client(service or "ec2", region), call)(**json.loads(rest[1] if rest[1:] else "{}"))
    except ClientError as error:
        sys.exit(f"{error.response['Error']['Code']}: {error.response['Error']['Message']}")
    answer.pop("ResponseMetadata", None)
    print(json.dumps(answer, default=lambda value: value.decode() if isinstance(value, bytes) else str(value)))


main()
