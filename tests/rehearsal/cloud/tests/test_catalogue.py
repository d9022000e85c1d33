"""Tests what is found and named in the EC2 API of the rehearsal cloud: images, groups, keys, actions.

Run by `python -m cloud.tests`.
"""

import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloud.tests.testing import NO_GROUP, NO_IMAGE, NO_INSTANCE, ROOT, Ec2Test, client, server

DISTRIBUTIONS = Path(__file__).parents[4] / "distros"


class Catalogue(Ec2Test):
    def search(self, distribution: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        ami = distribution["ami"]
        filters = [{"Name": "name", "Values": [ami["name"]]}, {"Name": "state", "Values": ["available"]}]
        found = self.ec2.describe_images(**{"Owners": ami["owners"], "Filters": filters, **more})["Images"]
        return sorted(found, key=lambda i: i["CreationDate"])

    def distributions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(DISTRIBUTIONS.glob("*.toml")):
            with self.subTest(path.stem):
                yield path.stem, tomllib.loads(path.read_text(encoding="utf-8"))

    def test_every_distribution_finds_its_image(self) -> None:
        ssm = client("ssm")
        for name, distribution in self.distributions():
            found = self.search(distribution, IncludeDeprecated=True)
            # CentOS 7 is looked for by its whole name, which an owner gives only once.
            self.assertGreaterEqual(len(found), 1 if name == "centos7" else 2)
            newest = found[-1]
            self.assertEqual(newest["RootDeviceName"], distribution["ami"]["root_device"])
            self.assertTrue(newest["EnaSupport"])
            self.assertEqual(newest["SriovNetSupport"], "simple")
            self.assertRegex(newest["ImageId"], "^ami-[0-9a-f]{17}$")
            parameter = distribution["ami"].get("ssm_parameter")
            if parameter:
                self.assertEqual(ssm.get_parameter(Name=parameter)["Parameter"]["Value"], newest["ImageId"])
                self.assertEqual(
                    len(ssm.get_parameters(Names=[parameter, "/aws/service/none"])["InvalidParameters"]), 1
                )

    def test_the_newest_debian_has_a_root_here(self) -> None:
        for name, distribution in self.distributions():
            self.assertEqual(
                self.search(distribution, IncludeDeprecated=True)[-1]["ImageId"] == ROOT, name == "debian12"
            )

    def test_deprecated_images_hide(self) -> None:
        hidden = {n for n, d in self.distributions() if not self.search(d)}
        self.assertEqual(hidden, {"centos7", "ubuntu16", "ubuntu18"})

    def test_a_search_without_owner_finds_a_stranger(self) -> None:
        ours = tomllib.loads((DISTRIBUTIONS / "debian12.toml").read_text(encoding="utf-8"))
        named = [{"Name": "name", "Values": [ours["ami"]["name"]]}]
        newest = max(self.ec2.describe_images(Filters=named)["Images"], key=lambda i: i["CreationDate"])
        self.assertNotIn(newest["OwnerId"], ours["ami"]["owners"])

    def test_owners(self) -> None:
        def owners(*names: str) -> set[str]:
            return {i["OwnerId"] for i in self.ec2.describe_images(Owners=list(names))["Images"]}

        self.assertEqual(owners("amazon"), {"137112412989"})
        self.assertEqual(owners("aws-marketplace"), {"679593333241"})
        self.assertEqual(owners("self"), set())
        self.assertEqual(owners("999999999999"), set())

    def test_an_id_finds_what_is_deprecated(self) -> None:
        old = self.ec2.describe_images(Owners=["125523088429"], IncludeDeprecated=True)["Images"][0]
        self.assertLess(old["DeprecationTime"], datetime.now(UTC).isoformat())
        self.assertEqual(self.image(old["ImageId"])["Name"], old["Name"])
        self.run_one(ImageId=old["ImageId"])

    def test_filters(self) -> None:
        def count(name: str, value: str) -> int:
            filters = [{"Name": name, "Values": [value]}]
            return len(self.ec2.describe_images(IncludeDeprecated=True, Filters=filters)["Images"])

        everything = len(self.ec2.describe_images(IncludeDeprecated=True)["Images"])
        for name, value in {
            "ena-support": "true", "sriov-net-support": "simple", "root-device-type": "ebs", "is-public": "true",
            "block-device-mapping.delete-on-termination": "true", "virtualization-type": "hvm", "image-type": "machine",
            "hypervisor": "xen", "architecture": "x86_64", "state": "available",
        }.items():
            with self.subTest(name):
                self.assertEqual(count(name, value), everything)
        self.assertEqual(count("platform-details", "Red Hat*"), 8)
        self.assertEqual(count("imds-support", "v2.0"), 2)
        self.assertEqual(count("block-device-mapping.volume-size", "10"), 8)
        self.assertEqual(count("name", "RHEL-7.?_HVM_GA*"), 2)
        self.assertEqual(count("creation-date", "2019-*"), 4)
        for name, value in {
            "source-image-id": NO_IMAGE, "ena-support": "false", "name": "rhel-7*", "owner-alias": "self",
            "state": "pending", "tag:Name": "x", "tag-key": "x", "architecture": "arm64",
            "description": "", "platform-details": "red hat*",
        }.items():
            with self.subTest(name):
                self.assertEqual(count(name, value), 0)

    def test_refused_questions(self) -> None:
        describe = self.ec2.describe_images
        self.refused("InvalidParameterValue", describe, text="'frob'", Filters=[{"Name": "frob", "Values": ["x"]}])
        self.refused("InvalidParameterValue", describe, Filters=[{"Name": "name", "Values": []}])
        self.refused("InvalidAMIID.NotFound", describe, ImageIds=[NO_IMAGE])
        self.refused("InvalidAMIID.NotFound", describe, ImageIds=[ROOT, NO_IMAGE])
        self.refused("InvalidAMIID.Malformed", describe, ImageIds=["ami-zzz"])
        self.refused("InvalidParameterValue", describe, NextToken="x")
        self.would(describe)
        self.refused("ParameterNotFound", client("ssm").get_parameter, Name="/aws/service/debian/none")

    def test_pages(self) -> None:
        pages = list(self.ec2.get_paginator("describe_images").paginate(PaginationConfig={"PageSize": 5}))
        ids = [i["ImageId"] for page in pages for i in page["Images"]]
        self.assertEqual(len(set(ids)), len(ids))
        self.assertEqual(len(ids), len(self.ec2.describe_images()["Images"]))

    def test_other_regions(self) -> None:
        self.assertEqual(self.image(ROOT, client(region="eu-west-1"))["ImageId"], ROOT)


class PlacementGroups(Ec2Test):
    def create(self, name: str = "pg", **more: Any) -> dict[str, Any]:
        return self.ec2.create_placement_group(GroupName=name, **{"Strategy": "cluster", **more})["PlacementGroup"]

    def test_tags_and_filters(self) -> None:
        tags = [{"ResourceType": "placement-group", "Tags": [{"Key": "run", "Value": "1"}]}]
        group = self.create(TagSpecifications=tags)
        self.create("other", Strategy="spread")
        self.assertEqual(group["Tags"], [{"Key": "run", "Value": "1"}])

        def find(name: str, value: str) -> list[str]:
            filters = [{"Name": name, "Values": [value]}]
            found = self.ec2.describe_placement_groups(Filters=filters)["PlacementGroups"]
            return [g["GroupName"] for g in found]

        self.assertEqual(find("tag:run", "1"), ["pg"])
        self.assertEqual(find("strategy", "spread"), ["other"])
        self.assertEqual(find("group-name", "no*"), [])
        self.ec2.create_tags(Resources=[group["GroupId"]], Tags=[{"Key": "later", "Value": "2"}])
        self.assertEqual(find("tag-key", "later"), ["pg"])

    def test_refusals(self) -> None:
        self.create()
        create, describe = self.ec2.create_placement_group, self.ec2.describe_placement_groups
        delete = self.ec2.delete_placement_group
        self.refused("InvalidPlacementGroup.Duplicate", create, GroupName="pg", Strategy="cluster")
        self.refused("InvalidPlacementGroup.Duplicate", create, GroupName="pg", Strategy="spread")
        self.refused("InvalidParameterValue", create, GroupName="x" * 256)
        self.refused("InvalidParameterValue", create, GroupName="b", Strategy="heap")
        self.refused("MissingParameter", create, Strategy="cluster")
        bad = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
        self.refused("InvalidParameterValue", create, GroupName="b", TagSpecifications=bad)
        self.would(create, GroupName="b")
        self.refused("InvalidPlacementGroup.Unknown", describe, GroupNames=["b"])
        self.refused("InvalidParameterValue", describe, Filters=[{"Name": "frob", "Values": ["x"]}])
        self.refused("InvalidPlacementGroup.Unknown", delete, GroupName="b")
        self.would(delete, GroupName="pg")
        self.refused("InvalidPlacementGroup.Unknown", self.run_one, Placement={"GroupName": "b"})
        self.refused(
            "InvalidParameterCombination", self.run_one, InstanceType="t3.micro", Placement={"GroupName": "pg"}
        )

    def test_in_use_until_the_instance_is_gone(self) -> None:
        self.create()
        instance = self.running(Placement={"GroupName": "pg"})
        self.assertEqual(instance["Placement"]["GroupName"], "pg")
        delete = self.ec2.delete_placement_group
        self.refused("InvalidPlacementGroup.InUse", delete, GroupName="pg")
        self.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        self.becomes(instance["InstanceId"], "terminated")
        delete(GroupName="pg")
        self.assertEqual(self.ec2.describe_placement_groups()["PlacementGroups"], [])


class GroupsAndKeys(Ec2Test):
    def test_security_groups(self) -> None:
        group, other = self.group(), self.group("other")
        self.refused("InvalidGroup.Duplicate", self.ec2.create_security_group, GroupName="efa", Description="x")
        delete = self.ec2.delete_security_group
        self.refused("InvalidGroup.NotFound", delete, GroupId=NO_GROUP)
        self.refused("InvalidGroup.NotFound", delete, GroupName="none")
        default = self.ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"][0]["GroupId"]
        self.refused("CannotDelete", delete, GroupId=default)
        instance_id = self.running(SecurityGroupIds=[group])["InstanceId"]
        self.refused("DependencyViolation", delete, GroupId=group)
        self.refused("DependencyViolation", delete, GroupName="efa")
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "terminated")
        rule = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rule)
        self.ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=rule)
        self.refused("DependencyViolation", delete, GroupId=group)
        self.ec2.revoke_security_group_ingress(GroupId=other, IpPermissions=rule)
        self.would(delete, GroupId=group)
        delete(GroupId=group)

    def test_key_pairs(self) -> None:
        made = self.ec2.create_key_pair(KeyName="k")
        self.refused("InvalidKeyPair.Duplicate", self.ec2.create_key_pair, KeyName="k")
        self.refused("InvalidKeyPair.Duplicate", self.ec2.import_key_pair, KeyName="k", PublicKeyMaterial=b"ssh-rsa x")
        self.refused("InvalidKey.Format", self.ec2.import_key_pair, KeyName="j", PublicKeyMaterial=b"junk")
        self.refused("InvalidKeyPair.NotFound", self.ec2.describe_key_pairs, KeyPairIds=["key-0123456789abcdef0"])
        found = self.ec2.describe_key_pairs(KeyPairIds=[made["KeyPairId"]])["KeyPairs"]
        self.assertEqual([one["KeyName"] for one in found], ["k"])
        self.would(self.ec2.delete_key_pair, KeyName="k")
        self.ec2.delete_key_pair(KeyPairId=made["KeyPairId"])
        self.assertEqual(self.ec2.describe_key_pairs()["KeyPairs"], [])


class Server(Ec2Test):
    def test_what_is_not_there_is_refused_in_xml(self) -> None:
        api = self.ec2
        offerings = api.describe_capacity_block_offerings
        self.refused("UnsupportedOperation", offerings, CapacityDurationHours=24)
        self.refused("UnsupportedOperation", offerings, CapacityDurationHours=24, DryRun=True)
        self.refused(
            "UnsupportedOperation", api.enable_image_block_public_access, ImageBlockPublicAccessState="unblocked"
        )
        self.refused("UnsupportedOperation", api.request_spot_instances, LaunchSpecification={"ImageId": ROOT})
        self.run_one()
        self.refused("UnsupportedOperation", api.describe_volumes, Filters=[{"Name": "frob", "Values": ["x"]}])
        body = b"Action=MakeCoffee&Version=2016-11-15"
        key = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0"
        headers = {"Authorization": key, "Content-Type": "application/x-www-form-urlencoded"}
        request = urllib.request.Request(f"{server()}/", body, headers)
        with self.assertRaises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request)
        with raised.exception as answer:
            self.assertEqual(answer.code, 400)
            self.assertIn(b"<Code>InvalidAction</Code>", answer.read())

    def test_request_ids_differ(self) -> None:
        ids = {self.ec2.describe_key_pairs()["ResponseMetadata"]["RequestId"] for _ in range(3)}
        self.assertEqual(len(ids), 3)

    def test_other_services(self) -> None:
        self.assertRegex(client("sts").get_caller_identity()["Account"], "^[0-9]{12}$")
        quotas = client("service-quotas")
        for code in ("L-417A185B", "L-1216C47A"):
            self.assertGreater(quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"], 0)
        self.refused("NoSuchResourceException", quotas.get_service_quota, ServiceCode="ec2", QuotaCode="L-00000000")

    def test_a_guest_nobody_knows(self) -> None:
        self.guests.on_stopped(NO_INSTANCE)
        self.assertEqual(self.ec2.describe_instances()["Reservations"], [])
