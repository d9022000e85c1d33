"""Tests what a build asks of the account before and around its instance: the way to the Internet, quotas, consoles,
tags, images that fail. Knows nothing of what is built.

Run by `python -m cloud.tests`.
"""

from typing import Any

from cloud.ec2 import api
from cloud.net import names
from cloud.tests.testing import Ec2Test, client, until

RUN = [{"Key": "run", "Value": "r1"}]
PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGyBDESfjUlGemDgvioPIfym90EPsquyaDAdMpHKgXD"
TAGGED = [{"Name": "tag:run", "Values": ["r1"]}]


def tags(*kinds: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": RUN} for kind in kinds]


class Account(Ec2Test):
    def test_the_default_vpc_leads_to_the_internet(self) -> None:
        for region in ("us-east-1", "us-west-2", "eu-west-1"):
            api = client(region=region)
            (vpc,) = api.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
            main = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}, {"Name": "association.main", "Values": ["true"]}]
            (table,) = api.describe_route_tables(Filters=main)["RouteTables"]
            routes = {route["DestinationCidrBlock"]: route["GatewayId"] for route in table["Routes"]}
            (gateway,) = api.describe_internet_gateways()["InternetGateways"]
            self.assertEqual(routes["0.0.0.0/0"], gateway["InternetGatewayId"])
            self.assertEqual(gateway["Attachments"][0]["VpcId"], vpc["VpcId"])
            subnets = api.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
            self.assertTrue(subnets and all(one["MapPublicIpOnLaunch"] for one in subnets))

    def test_quotas(self) -> None:
        for code in ("L-1216C47A", "L-417A185B", "L-DB2E81BA", "L-34B43A08", "L-7212CCBC", "L-3819A6DF"):
            quota = client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
            self.assertEqual((quota["QuotaCode"], quota["Value"] > 0), (code, True))

    def test_the_consoles_of_types_without_nitro_are_not_live(self) -> None:
        console = self.ec2.get_console_output
        old = self.run_one(InstanceType="c4.large")["InstanceId"]
        self.refused("UnsupportedOperation", console, InstanceId=old, Latest=True)
        console(InstanceId=old)
        console(InstanceId=self.run_one()["InstanceId"], Latest=True)

    def test_a_dry_run_checks_what_the_real_one_checks(self) -> None:
        self.refused("InvalidKeyPair.NotFound", self.run_one, KeyName="nobody's", DryRun=True)
        self.refused("InvalidParameterValue", self.run_one, IamInstanceProfile={"Name": "none"}, DryRun=True)
        copy: dict[str, Any] = {
            "Name": "copy", "SourceImageId": "ami-0123456789abcdef0", "SourceRegion": "us-east-1",
        }
        self.refused("InvalidAMIID.NotFound", self.ec2.copy_image, **copy, DryRun=True)
        self.would(self.run_one, ClientToken="t")
        self.run_one(ClientToken="t")

    def test_parameters_of_our_own(self) -> None:
        ssm = client("ssm")

        def put(value: str, **more: Any) -> None:
            ssm.put_parameter(Name="/team/ami", Value=value, Type="String", DataType="aws:ec2:image", **more)

        put("ami-0123456789abcdef0")
        self.refused("ParameterAlreadyExists", put, value="ami-0123456789abcdef1")
        put("ami-0123456789abcdef1", Overwrite=True)
        self.assertEqual(ssm.get_parameter(Name="/team/ami")["Parameter"]["Value"], "ami-0123456789abcdef1")

    def test_names_of_regions_that_are_not_there(self) -> None:
        for name in ("ec2.us-east-1.amazonaws.com", "sts.amazonaws.com", "checkip.amazonaws.com", "deb.debian.org"):
            self.assertIsNotNone(names.address_of(name), name)
        for name in ("ec2.us-east-9.amazonaws.com", "amazonaws.com.test", "notdeb.debian.orgs"):
            self.assertIsNone(names.address_of(name), name)


class Run(Ec2Test):
    def launch(self) -> str:
        self.key = self.ec2.import_key_pair(
            KeyName="k", PublicKeyMaterial=PUBLIC_KEY, TagSpecifications=tags("key-pair"),
        )
        self.group_id = self.ec2.create_security_group(
            GroupName="g", Description="g", TagSpecifications=tags("security-group")
        )["GroupId"]
        return self.run_one(
            KeyName="k", SecurityGroupIds=[self.group_id], ClientToken="t",
            InstanceInitiatedShutdownBehavior="terminate",
            TagSpecifications=tags("instance", "volume", "network-interface"),
            BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3", "Encrypted": True}}],
        )["InstanceId"]

    def tagged(self) -> dict[str, int]:
        """How many things of each kind carry the run's tag; a terminated instance is gone."""
        api = self.ec2
        lists: dict[str, int] = {}
        for call, key in (
            (api.describe_volumes, "Volumes"), (api.describe_key_pairs, "KeyPairs"), (api.describe_images, "Images"),
            (api.describe_security_groups, "SecurityGroups"), (api.describe_snapshots, "Snapshots"),
            (api.describe_network_interfaces, "NetworkInterfaces"), (api.describe_addresses, "Addresses"),
        ):
            lists[key] = len(call(Filters=TAGGED)[key])
        found = [i for r in api.describe_instances(Filters=TAGGED)["Reservations"] for i in r["Instances"]]
        lists["Instances"] = sum(i["State"]["Name"] != "terminated" for i in found)
        return {key: count for key, count in lists.items() if count}

    def test_everything_of_a_run_is_found_by_its_tag(self) -> None:
        instance_id = self.launch()
        one = dict.fromkeys(("Instances", "Volumes", "NetworkInterfaces", "KeyPairs", "SecurityGroups"), 1)
        self.assertEqual(self.tagged(), one)
        self.becomes(instance_id, "running")
        self.ec2.stop_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "stopped")
        made = {"Name": "made", "TagSpecifications": tags("image", "snapshot")}
        image_id = self.ec2.create_image(InstanceId=instance_id, **made)["ImageId"]
        self.available(image_id)
        self.assertEqual(self.tagged(), {**one, "Images": 1, "Snapshots": 1})
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "terminated")
        self.ec2.delete_key_pair(KeyPairId=self.key["KeyPairId"])
        self.ec2.delete_security_group(GroupId=self.group_id)
        self.assertEqual(self.tagged(), {"Images": 1, "Snapshots": 1})

    def test_a_builder_that_shuts_itself_down_is_gone(self) -> None:
        instance_id = self.launch()
        self.becomes(instance_id, "running")
        self.guests.power_off(instance_id)
        reason = self.becomes(instance_id, "terminated")["StateReason"]["Code"]
        self.assertEqual(reason, "Client.InstanceInitiatedShutdown")
        self.assertNotIn("Volumes", self.tagged())

    def test_an_image_that_is_told_to_fail(self) -> None:
        instance_id = self.stopped()["InstanceId"]
        api.fail_image("bad")
        bad, good = (self.ec2.create_image(InstanceId=instance_id, Name=name)["ImageId"] for name in ("bad", "good"))
        failed = until(lambda: self.image(bad)["State"] == "failed" and self.image(bad))
        self.assertIn("told to let this image fail", failed["StateReason"]["Message"])
        self.available(good)
        self.ec2.deregister_image(ImageId=bad)
        self.available(self.ec2.create_image(InstanceId=instance_id, Name="bad")["ImageId"])
