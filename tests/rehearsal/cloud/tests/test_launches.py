"""Tests what a launch is refused for and what it makes: parameters, interfaces, client tokens.

Run by `python -m cloud.tests`.
"""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cloud.ec2 import api
from cloud.tests.testing import NO_GROUP, NO_IMAGE, NO_SUBNET, ROOT, Case, Ec2Test, client


class Launches(Ec2Test):
    def test_unknown_things(self) -> None:
        refusals: list[Case] = [
            ("InvalidAMIID.NotFound", {"ImageId": NO_IMAGE}),
            ("InvalidAMIID.Malformed", {"ImageId": "debian"}),
            ("MissingParameter", {"ImageId": None}),
            ("InvalidParameterValue", {"InstanceType": "zz.bogus"}),
            ("InvalidKeyPair.NotFound", {"KeyName": "none"}),
            ("InvalidGroup.NotFound", {"SecurityGroupIds": [NO_GROUP]}),
            ("InvalidGroup.NotFound", {"SecurityGroups": ["none"]}),
            ("InvalidSubnetID.NotFound", {"SubnetId": NO_SUBNET}),
            ("InvalidParameterValue", {"IamInstanceProfile": {"Name": "none"}}),
            ("InvalidParameterValue", {"Placement": {"AvailabilityZone": "eu-west-1a"}}),
            ("InvalidLaunchTemplateName.NotFoundException", {"LaunchTemplate": {"LaunchTemplateName": "none"}}),
        ]
        for code, more in refusals:
            with self.subTest(more):
                self.refused(code, self.run_one, **more)
        self.assertEqual(self.ec2.describe_instances()["Reservations"], [])
        self.assertEqual(self.guests.calls, [])

    def test_refused_values(self) -> None:
        def tag(kind: str, key: str) -> list[dict[str, Any]]:
            return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": "x"}]}]

        def root(**ebs: Any) -> dict[str, Any]:
            return {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": ebs}]}

        refusals: list[Case] = [
            ("InvalidParameterValue", {"MinCount": 2, "MaxCount": 1}),
            ("InvalidParameterValue", {"MinCount": 0, "MaxCount": 0}),
            ("InvalidParameterValue", {"UserData": "x" * 16385}),
            ("InvalidParameterValue", {"InstanceInitiatedShutdownBehavior": "sleep"}),
            ("InvalidParameterValue", {"MetadataOptions": {"HttpTokens": "maybe"}}),
            ("InvalidParameterValue", {"MetadataOptions": {"HttpPutResponseHopLimit": 65}}),
            ("InvalidParameterValue", {"InstanceType": "c6g.large"}),
            ("InvalidParameterValue", {"TagSpecifications": tag("image", "a")}),
            ("InvalidParameterValue", {"TagSpecifications": tag("instance", "aws:a")}),
            ("Unsupported", {"InstanceType": "p3dn.24xlarge", "SubnetId": self.subnets["us-east-1a"]}),
            ("Unsupported", {"InstanceType": "p3dn.24xlarge", "Placement": {"AvailabilityZone": "us-east-1b"}}),
            ("UnsupportedOperation", {"PrivateIpAddress": "172.31.0.9"}),
            ("InvalidBlockDeviceMapping", root(VolumeSize=4)),
            ("InvalidParameterValue", root(VolumeType="gp9")),
            ("InvalidParameterCombination", root(VolumeType="gp2", Iops=3000)),
            ("InvalidParameterCombination", root(VolumeType="gp2", Throughput=200)),
            ("MissingParameter", root(VolumeType="io1")),
            ("InvalidParameterDependency", root(KmsKeyId="alias/x")),
            ("MissingParameter", {"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeType": "gp3"}}]}),
        ]
        for code, more in refusals:
            with self.subTest(more):
                self.refused(code, self.run_one, **more)
        self.would(self.run_one)
        self.assertEqual(self.guests.calls, [])

    def test_raw_user_data_that_is_not_base64(self) -> None:
        def encode(params: dict[str, Any], **_: object) -> None:
            params["body"].update(UserData="!!")

        self.ec2 = client.__wrapped__()
        self.ec2.meta.events.register("before-call.ec2.RunInstances", encode)
        self.refused("InvalidUserData.Malformed", self.run_one)

    def test_the_guest_gets_what_the_launch_said(self) -> None:
        group, iam = self.group(), client("iam")
        profile = iam.create_instance_profile(InstanceProfileName="builder")["InstanceProfile"]["Arn"]
        key = self.ec2.create_key_pair(KeyName="k", KeyType="ed25519")
        data = bytes(range(256)) * 64
        instance = self.running(
            KeyName="k", SecurityGroupIds=[group], UserData=data, InstanceInitiatedShutdownBehavior="terminate",
            MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 3},
            IamInstanceProfile={"Name": "builder"},
        )
        address, metadata, user_data, public_key = self.guests.made[instance["InstanceId"]]
        self.assertEqual(user_data, data)
        self.assertEqual({address}, {instance["PrivateIpAddress"], instance["PublicIpAddress"]})
        self.assertTrue(public_key and public_key.startswith("ssh-ed25519 "))
        self.assertTrue(key["KeyMaterial"].startswith("-----BEGIN OPENSSH"))
        self.assertTrue(all(isinstance(value, str) for value in metadata.values()))
        expected = {
            "instance-id": instance["InstanceId"], "ami-id": ROOT, "instance-type": "c5.large", "region": "us-east-1",
            "availability-zone": instance["Placement"]["AvailabilityZone"], "ami-launch-index": "0",
            "tokens": "required", "hop-limit": "3", "security-groups": "efa", "shutdown-behaviour": "terminate",
            "iam": profile, "mac": instance["NetworkInterfaces"][0]["MacAddress"],
        }
        self.assertEqual({key: metadata[key] for key in expected}, expected)
        self.assertEqual(instance["IamInstanceProfile"]["Arn"], profile)
        shown = self.ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
        self.assertEqual(base64.b64decode(shown["UserData"]["Value"]), data)

    def test_an_image_with_imds_support_asks_for_tokens(self) -> None:
        noble = self.ec2.describe_images(Filters=[{"Name": "imds-support", "Values": ["v2.0"]}])["Images"][0]["ImageId"]
        options = self.run_one(ImageId=noble)["MetadataOptions"]
        self.assertEqual((options["HttpTokens"], options["HttpPutResponseHopLimit"]), ("required", 2))
        told = self.run_one(ImageId=noble, MetadataOptions={"HttpTokens": "optional"})["MetadataOptions"]
        self.assertEqual(told["HttpTokens"], "optional")
        self.assertEqual(self.run_one()["MetadataOptions"]["HttpTokens"], "optional")

    def test_volumes(self) -> None:
        tags = [{"ResourceType": "volume", "Tags": [{"Key": "v", "Value": "1"}]}]
        instance = self.run_one(
            TagSpecifications=tags,
            BlockDeviceMappings=[
                {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 100, "Iops": 4000, "Throughput": 250}},
                {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5, "VolumeType": "gp2", "Encrypted": True}},
            ],
        )
        self.assertEqual(instance["RootDeviceName"], "/dev/xvda")
        mine = [{"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]}]
        volumes = {v["Attachments"][0]["Device"]: v for v in self.ec2.describe_volumes(Filters=mine)["Volumes"]}
        root, extra = volumes["/dev/xvda"], volumes["/dev/sdf"]
        self.assertEqual([root[k] for k in ("Size", "VolumeType", "Iops", "Throughput")], [100, "gp3", 4000, 250])
        self.assertEqual([extra[k] for k in ("Size", "VolumeType", "Iops", "Encrypted")], [5, "gp2", 100, True])
        self.assertEqual(root["Tags"], [{"Key": "v", "Value": "1"}])
        self.assertEqual(root["SnapshotId"], self.image(ROOT)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])
        self.refused("VolumeInUse", self.ec2.delete_volume, VolumeId=root["VolumeId"])

    def test_no_address_where_none_is_mapped_or_wanted(self) -> None:
        alone = [{"DeviceIndex": 0, "SubnetId": self.subnets["us-east-1a"], "AssociatePublicIpAddress": False}]
        self.assertNotIn("PublicIpAddress", self.run_one(NetworkInterfaces=alone))
        self.ec2.modify_subnet_attribute(SubnetId=self.subnets["us-east-1b"], MapPublicIpOnLaunch={"Value": False})
        self.assertNotIn("PublicIpAddress", self.run_one(SubnetId=self.subnets["us-east-1b"]))
        wanted = [{"DeviceIndex": 0, "SubnetId": self.subnets["us-east-1b"], "AssociatePublicIpAddress": True}]
        self.assertIn("PublicIpAddress", self.run_one(NetworkInterfaces=wanted))

    def test_a_type_goes_where_it_is_offered(self) -> None:
        zone = self.run_one(InstanceType="p3dn.24xlarge")["Placement"]["AvailabilityZone"]
        self.assertIn(zone, ("us-east-1c", "us-east-1d"))

    def test_an_image_without_root_has_only_a_line(self) -> None:
        other = self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        instance_id = self.running(ImageId=other)["InstanceId"]
        self.assertIn("no root file system", self.ec2.get_console_output(InstanceId=instance_id)["Output"])
        self.ec2.stop_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "stopped")
        self.ec2.start_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "running")
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "terminated")
        self.assertEqual(self.guests.calls, [])

    def test_templates(self) -> None:
        interfaces = self.cards((0, 0, "efa"))
        data = {"ImageId": ROOT, "InstanceType": "c5n.18xlarge", "NetworkInterfaces": interfaces, "UserData": "aGk="}
        data["TagSpecifications"] = [{"ResourceType": "instance", "Tags": [{"Key": "t", "Value": "1"}]}]
        self.ec2.create_launch_template(LaunchTemplateName="template", LaunchTemplateData=data)
        launch = {"LaunchTemplate": {"LaunchTemplateName": "template"}, "ImageId": None, "InstanceType": None}
        instance = self.run_one(**launch)
        self.assertEqual(instance["NetworkInterfaces"][0]["InterfaceType"], "efa")
        self.assertEqual(instance["Tags"], [{"Key": "t", "Value": "1"}])
        self.refused("Unsupported", self.run_one, **{**launch, "InstanceType": "c5.large"})
        configuration = {"LaunchTemplateSpecification": {"LaunchTemplateName": "template", "Version": "$Latest"}}

        def fleet(*kinds: str, **more: Any) -> dict[str, Any]:
            return self.ec2.create_fleet(
                LaunchTemplateConfigs=[{**configuration, "Overrides": [{"InstanceType": kind} for kind in kinds]}],
                TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
                **{"Type": "instant", **more},
            )

        made = fleet("c5.large", "c5n.18xlarge")
        self.assertEqual([e["ErrorCode"] for e in made["Errors"]], ["Unsupported"])
        spot = self.now(made["Instances"][0]["InstanceIds"][0])
        self.assertEqual((spot["InstanceLifecycle"], spot["InstanceType"]), ("spot", "c5n.18xlarge"))
        self.becomes(spot["InstanceId"], "running")
        self.refused("UnsupportedOperation", self.ec2.stop_instances, InstanceIds=[spot["InstanceId"]])
        self.refused("UnsupportedOperation", fleet, Type="maintain")
        self.assertEqual(fleet("c5.large")["Instances"], [])


class Interfaces(Ec2Test):
    def launch(self, kind: str, interfaces: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return self.run_one(InstanceType=kind, NetworkInterfaces=interfaces, **more)

    def shown(self, instance: dict[str, Any]) -> list[tuple[int, int, str]]:
        nics = instance["NetworkInterfaces"]
        return [(n["Attachment"]["NetworkCardIndex"], n["Attachment"]["DeviceIndex"], n["InterfaceType"]) for n in nics]

    def test_every_card_is_kept(self) -> None:
        layout = [(0, 0, "efa"), (1, 1, "efa"), (2, 1, "efa"), (3, 1, "efa")]
        tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "n", "Value": "1"}]}]
        instance = self.launch("p4d.24xlarge", self.cards(*layout), TagSpecifications=tags)
        self.assertEqual(self.shown(instance), layout)
        self.assertNotIn("PublicIpAddress", instance)
        mine = [{"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]}]
        listed = self.ec2.describe_network_interfaces(Filters=mine)["NetworkInterfaces"]
        self.assertEqual(sorted((n["Attachment"]["NetworkCardIndex"], n["InterfaceType"]) for n in listed),
                         [(c, k) for c, _, k in layout])
        self.assertTrue(all(n["TagSet"] == [{"Key": "n", "Value": "1"}] for n in listed))

    def test_efa_only_has_no_address(self) -> None:
        layout = [(0, 0, "interface"), (0, 1, "efa-only"), *((card, 0, "efa-only") for card in range(1, 32))]
        instance = self.launch("p5.48xlarge", self.cards(*layout))
        self.assertEqual(self.shown(instance), layout)
        self.assertEqual([("PrivateIpAddress" in n) for n in instance["NetworkInterfaces"]], [True] + [False] * 32)

    def test_refused_layouts(self) -> None:
        p4d, p5, p3dn, c5 = "p4d.24xlarge", "p5.48xlarge", "p3dn.24xlarge", "c5.large"
        for code, kind, layout in (
            ("Unsupported", c5, [(0, 0, "efa")]),
            ("Unsupported", "t3.micro", [(0, 0, "interface"), (0, 1, "efa-only")]),
            ("Unsupported", "p6-b300.48xlarge", [(0, 0, "efa")]),
            ("AttachmentLimitExceeded", p3dn, [(0, 0, "efa"), (0, 1, "efa")]),
            ("AttachmentLimitExceeded", p4d, [(0, 0, "efa"), *((c, 1, "efa") for c in (1, 2, 3)), (1, 2, "efa")]),
            ("AttachmentLimitExceeded", p5, [(0, 0, "efa"), (0, 1, "interface"), (0, 2, "interface")]),
            ("AttachmentLimitExceeded", c5, [(0, device, "interface") for device in range(4)]),
            ("InvalidParameterCombination", p5, [(0, 0, "efa-only")]),
            ("InvalidParameterValue", p4d, [(0, 0, "efa"), (4, 1, "efa")]),
            ("InvalidParameterValue", p4d, [(0, 0, "efa"), (1, 1, "efa"), (1, 1, "efa")]),
            ("InvalidParameterValue", p4d, [(0, 1, "efa")]),
            ("InvalidParameterValue", p4d, [(1, 0, "efa")]),
            ("InvalidParameterValue", p4d, [(0, 0, "infiniband")]),
        ):
            zone = "us-east-1c" if kind.startswith("p6") else "us-east-1d"
            with self.subTest(kind=kind, layout=layout):
                self.refused(code, self.launch, kind=kind, interfaces=self.cards(*layout, zone=zone))

    def test_refused_parameters(self) -> None:
        efa, two = self.cards((0, 0, "efa")), self.cards((0, 0, "efa"), (1, 1, "efa"))
        public = [{**one, "AssociatePublicIpAddress": True} for one in two]
        refusals: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
            ("InvalidParameterCombination", public, {}),
            ("InvalidParameterCombination", [two[0], public[1]], {}),
            ("InvalidParameterCombination", efa, {"SubnetId": self.subnets["us-east-1d"]}),
            ("InvalidParameterCombination", efa, {"SecurityGroupIds": [self.group()]}),
            ("InvalidParameterCombination", [efa[0], *self.cards((1, 1, "efa"), zone="us-east-1a")], {}),
            ("InvalidGroup.NotFound", self.cards((0, 0, "efa"), Groups=[NO_GROUP]), {}),
            ("InvalidSubnetID.NotFound", [{**efa[0], "SubnetId": NO_SUBNET}], {}),
            (
                "InvalidNetworkInterfaceID.NotFound",
                [{"DeviceIndex": 0, "NetworkInterfaceId": "eni-0123456789abcdef0"}],
                {},
            ),
            ("InvalidParameterValue", [{"SubnetId": self.subnets["us-east-1d"]}], {}),
            ("UnsupportedOperation", self.cards((0, 0, "efa"), PrivateIpAddress="172.31.48.9"), {}),
        ]
        for code, interfaces, more in refusals:
            with self.subTest(interfaces=interfaces, more=more):
                self.refused(code, self.launch, kind="p4d.24xlarge", interfaces=interfaces, **more)
        vpc = self.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        foreign = self.ec2.create_security_group(GroupName="f", Description="f", VpcId=vpc)["GroupId"]
        self.refused("InvalidParameter", self.run_one, SecurityGroupIds=[foreign])
        self.assertEqual(self.ec2.describe_network_interfaces()["NetworkInterfaces"], [])

    def test_only_the_primary_goes_unless_told(self) -> None:
        subnet = self.subnets["us-east-1d"]
        instance = self.launch("c5n.18xlarge", [
            {"DeviceIndex": 0, "SubnetId": subnet}, {"DeviceIndex": 1, "SubnetId": subnet},
            {"DeviceIndex": 2, "SubnetId": subnet, "DeleteOnTermination": True},
        ])
        self.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        gone = self.becomes(instance["InstanceId"], "terminated")
        self.assertEqual(gone["NetworkInterfaces"], [])
        left = self.ec2.describe_network_interfaces()["NetworkInterfaces"]
        self.assertEqual(
            [n["NetworkInterfaceId"] for n in left], [instance["NetworkInterfaces"][1]["NetworkInterfaceId"]]
        )
        self.assertEqual(left[0]["Status"], "available")

    def test_an_interface_made_before(self) -> None:
        made = self.ec2.create_network_interface(SubnetId=self.subnets["us-east-1d"], InterfaceType="efa")[
            "NetworkInterface"
        ]
        self.assertEqual(made["InterfaceType"], "efa")
        given = [{"DeviceIndex": 0, "NetworkInterfaceId": made["NetworkInterfaceId"]}]
        self.refused("Unsupported", self.launch, kind="c5.large", interfaces=given)
        instance = self.launch("c5n.18xlarge", given)
        self.assertEqual(self.shown(instance), [(0, 0, "efa")])
        self.refused("InvalidNetworkInterface.InUse", self.launch, kind="c5n.18xlarge", interfaces=given)


class Tokens(Ec2Test):
    def test_the_same_request_is_answered_again(self) -> None:
        first, second = (self.ec2.run_instances(**self.request(ClientToken="t", MaxCount=2)) for _ in range(2))

        def ids(answer: dict[str, Any]) -> list[str]:
            return [answer["ReservationId"]] + [i["InstanceId"] for i in answer["Instances"]]

        self.assertEqual(ids(first), ids(second))
        self.assertEqual(len(first["Instances"]), 2)
        self.assertEqual(first["Instances"][0]["ClientToken"], "t")

    def test_another_request_is_refused(self) -> None:
        self.run_one(ClientToken="t")
        others: list[dict[str, Any]] = [{"InstanceType": "c5.xlarge"}, {"MaxCount": 2}, {"UserData": "x"}]
        for more in others:
            self.refused("IdempotentParameterMismatch", self.run_one, ClientToken="t", **more)
        self.assertEqual(len(self.ec2.describe_instances()["Reservations"]), 1)

    def test_a_refused_request_leaves_the_token(self) -> None:
        self.refused("InvalidKeyPair.NotFound", self.run_one, ClientToken="t", KeyName="k")
        self.would(self.run_one, ClientToken="t")
        self.run_one(ClientToken="t")

    def test_a_token_belongs_to_a_region(self) -> None:
        self.run_one(ClientToken="t")
        client(region="us-west-2").run_instances(**self.request(ClientToken="t", InstanceType="c5.xlarge"))

    def test_many_at_once_make_one(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client().run_instances(**self.request(ClientToken="t")), range(8)))
        self.assertEqual(len({a["Instances"][0]["InstanceId"] for a in answers}), 1)
        self.assertEqual(len(self.ec2.describe_instances()["Reservations"]), 1)

    def test_copies(self) -> None:
        known = {"Name": "copy", "SourceImageId": ROOT, "SourceRegion": "us-east-1", "ClientToken": "t"}

        def copy(**more: Any) -> str:
            return self.ec2.copy_image(**{**known, **more})["ImageId"]

        self.assertEqual(copy(), copy())
        self.refused("IdempotentParameterMismatch", copy, Name="other")
        self.refused("InvalidAMIName.Duplicate", copy, ClientToken="u")


class Machines(Ec2Test):
    def test_the_image_of_light_hosts_is_there_when_asked_for(self) -> None:
        def listed(region: str) -> list[str]:
            return [i["ImageId"] for i in client(region=region).describe_images(Owners=["self"])["Images"]]

        self.assertEqual(listed("us-west-2"), [])
        image_id = api.light_image("us-west-2").strip()
        self.assertEqual((api.light_image("us-west-2").strip(), listed("us-west-2")), (image_id, [image_id]))
        self.assertEqual(listed("us-east-1"), [])
        image = self.image(image_id, client(region="us-west-2"))
        tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
        self.assertEqual((tags["efa-gen:distribution"], tags["efa-gen:state"]), ("debian12", "published"))
        self.assertIn(image_id, self.guests.roots)

    def test_the_machine_is_told_of_its_devices(self) -> None:
        layout = self.cards((0, 0, "interface"), (0, 1, "efa-only"), *((card, 0, "efa-only") for card in range(1, 4)))
        for kind, nics, told in (
            ("p5.48xlarge", layout, ("4", "8", "H100")),
            ("p3dn.24xlarge", self.cards((0, 0, "efa")), ("1", "8", "V100")),
            ("c5n.18xlarge", self.cards((0, 0, "interface")), ("0", "0", "")),
        ):
            instance = self.running(InstanceType=kind, NetworkInterfaces=nics)
            _, metadata, _, _ = self.guests.made[instance["InstanceId"]]
            self.assertEqual(tuple(metadata[name] for name in ("efa-devices", "gpus", "gpu")), told, kind)

    def test_a_file_is_for_one_machine_of_the_next_launch(self) -> None:
        api.put_file("us-east-1", "1", "/etc/scenario", "slow")
        client(region="us-west-2").run_instances(**self.request(MinCount=2, MaxCount=2))
        for most, told in ((1, [[]]), (2, [[], [("/etc/scenario", "slow\n")]]), (2, [[], []])):
            made = self.ec2.run_instances(**self.request(MinCount=most, MaxCount=most))["Instances"]
            for i in made:
                self.becomes(i["InstanceId"], "running")
            self.assertEqual([self.guests.files[i["InstanceId"]] for i in made], told)
