"""Tests that callers may do what their policies allow, and nothing else. Each policy is written for its test."""

import json
import unittest
from typing import Any

from botocore.exceptions import ClientError

from cloud.ec2 import api
from cloud.iam.callers import judged_by
from cloud.tests.testing import NO_INSTANCE, ROOT, Client, Ec2Test, client

KEY = "AKIAREHEARSALPOLICY1"
RUN = {"Null": {"aws:RequestTag/run": "false"}}
OF_RUN = {"Null": {"aws:ResourceTag/run": "false"}}
TAGS = [{"Key": "run", "Value": "1"}]


def allow(action: str | list[str], resource: str | list[str] = "*", **more: Any) -> dict[str, Any]:
    return {"Sid": "S", "Effect": "Allow", "Action": action, "Resource": resource, **more}


def tagged(*kinds: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": TAGS} for kind in kinds]


class Policies(Ec2Test):
    def limit(self, *statements: dict[str, Any]) -> None:
        api.limit(KEY, json.dumps({"Version": "2012-10-17", "Statement": statements}))

    def caller(self, service: str = "ec2", region: str = "us-east-1") -> Client:
        return client(service, region, KEY)

    def denied(self, name: str, resource: str, call: Any, **parameters: Any) -> None:
        words = f"is not authorized to perform: {name} on resource: arn:aws:ec2:us-east-1:{resource} because"
        self.refused("UnauthorizedOperation", call, status=403, text=words, **parameters)

    def asked(self) -> list[tuple[str, str]]:
        """The last call's requests: action and type of resource."""
        judged = json.loads(api.record(KEY))
        call = [one["request"] for one in judged if one["call"] == judged[-1]["call"]]
        return [(one["action"].split(":")[1], one["resource"].rsplit(":", 1)[-1].split("/")[0]) for one in call]

    def test_without_a_policy_everything_is_allowed(self) -> None:
        self.would(self.caller().run_instances, **self.request())
        with self.assertRaises(KeyError):
            api.record(KEY)

    def test_what_no_statement_allows_is_denied(self) -> None:
        self.limit(allow("ec2:DescribeImages"))
        ec2 = self.caller()
        ec2.describe_images(ImageIds=[ROOT])
        self.refused("UnauthorizedOperation", ec2.describe_instances, status=403, text="ec2:DescribeInstances on")
        # Before it is looked at what is asked, and before a dry run is answered.
        self.refused("UnauthorizedOperation", ec2.create_vpc, status=403, CidrBlock="10.1.0.0/16", DryRun=True)
        self.denied("ec2:TerminateInstances", f"123456789012:instance/{NO_INSTANCE}", ec2.terminate_instances,
                    InstanceIds=[NO_INSTANCE])
        record = [(one["call"], one["dry"], one["allowed"]) for one in json.loads(api.record(KEY))]
        self.assertEqual(record, [
            ("DescribeImages", False, True), ("DescribeInstances", False, False), ("CreateVpc", True, False),
            ("TerminateInstances", False, False),
        ])
        # Others are not concerned.
        self.ec2.describe_instances()

    def test_a_launch_asks_for_each_resource(self) -> None:
        self.limit(allow("ec2:*"), allow("iam:PassRole"))
        self.ec2.import_key_pair(KeyName="pair", PublicKeyMaterial=PUBLIC)
        self.ec2.create_placement_group(GroupName="close", Strategy="cluster")
        kinds = ("instance", "volume", "network-interface")
        more = {"KeyName": "pair", "Placement": {"GroupName": "close"}, "TagSpecifications": tagged(*kinds)}
        self.caller().run_instances(**self.request(**more))
        used = ["image", "instance", "key-pair", "network-interface", "placement-group", "security-group", "subnet"]
        expected = [("RunInstances", kind) for kind in [*used, "volume"]]
        self.assertEqual(self.asked(), expected + [("CreateTags", kind) for kind in sorted(kinds)])

    def test_a_spot_launch_asks_for_its_request_and_a_profile_for_its_role(self) -> None:
        iam = client("iam")
        trust = {"Version": "2012-10-17", "Statement": []}
        role = iam.create_role(RoleName="machine", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        iam.create_instance_profile(InstanceProfileName="machine")
        iam.add_role_to_instance_profile(InstanceProfileName="machine", RoleName="machine")
        self.limit(allow("ec2:*"))
        asked = self.request(InstanceMarketOptions={"MarketType": "spot"}, IamInstanceProfile={"Name": "machine"})
        words = f"iam:PassRole on resource: {role}"
        self.refused("UnauthorizedOperation", self.caller().run_instances, status=403, text=words, **asked)
        self.assertIn(("RunInstances", "spot-instances-request"), self.asked())
        for service, allowed in (("lambda", False), ("ec2", True)):
            to = {"StringEquals": {"iam:PassedToService": f"{service}.amazonaws.com"}}
            self.limit(allow("ec2:*"), allow("iam:PassRole", Condition=to))
            if allowed:
                self.would(self.caller().run_instances, **asked)
            else:
                self.refused("UnauthorizedOperation", self.caller().run_instances, status=403, **asked)

    def test_each_resource_of_a_launch_must_be_allowed(self) -> None:
        kinds = ("image", "instance", "network-interface", "security-group", "subnet", "volume")
        for missing in kinds:
            arns = [f"arn:aws:ec2:*:*:{kind}/*" for kind in kinds if kind != missing]
            self.limit(allow("ec2:RunInstances", arns))
            asked = self.request()
            self.refused("UnauthorizedOperation", self.caller().run_instances, status=403, text=f":{missing}/", **asked)
        self.limit(allow("ec2:RunInstances", [f"arn:aws:ec2:*:*:{kind}/*" for kind in kinds]))
        self.would(self.caller().run_instances, **self.request())

    def test_what_is_made_must_get_the_tag(self) -> None:
        at = {"StringEquals": {"ec2:CreateAction": "CreateSecurityGroup"}}
        self.limit(
            allow("ec2:CreateSecurityGroup", "arn:aws:ec2:*:*:security-group/*", Condition=RUN),
            allow("ec2:CreateSecurityGroup", "arn:aws:ec2:*:*:vpc/*"), allow("ec2:CreateTags", Condition=at),
        )
        ec2, group = self.caller(), {"GroupName": "efa", "Description": "x"}
        self.refused("UnauthorizedOperation", ec2.create_security_group, status=403, text="security-group/", **group)
        other = [{"ResourceType": "security-group", "Tags": [{"Key": "runs", "Value": "1"}]}]
        self.refused("UnauthorizedOperation", ec2.create_security_group, status=403, TagSpecifications=other, **group)
        ec2.create_security_group(TagSpecifications=tagged("security-group"), **group)
        # The right to tag is the call's alone, and no other call's.
        made = self.group("other")
        of_other = f"123456789012:security-group/{made}"
        self.denied("ec2:CreateTags", of_other, ec2.create_tags, Resources=[made], Tags=TAGS)
        self.refused("UnauthorizedOperation", ec2.import_key_pair, status=403, KeyName="k", PublicKeyMaterial=PUBLIC,
                     TagSpecifications=tagged("key-pair"))

    def test_only_what_has_the_tag_is_changed(self) -> None:
        self.limit(allow(["ec2:TerminateInstances", "ec2:CreateTags", "ec2:DeleteKeyPair", "ec2:DeletePlacementGroup",
                          "ec2:DeleteSecurityGroup", "ec2:AuthorizeSecurityGroupIngress"], Condition=OF_RUN))
        ec2 = self.caller()
        ours, others = (self.run_one(TagSpecifications=specs)["InstanceId"] for specs in (tagged("instance"), None))
        of_others = f"123456789012:instance/{others}"
        self.denied("ec2:TerminateInstances", of_others, ec2.terminate_instances, InstanceIds=[ours, others])
        self.denied("ec2:CreateTags", of_others, ec2.create_tags, Resources=[others], Tags=TAGS)
        ec2.create_tags(Resources=[ours], Tags=[{"Key": "more", "Value": "x"}])
        self.would(ec2.terminate_instances, InstanceIds=[ours])
        # By name or by id, the tags of a thing count, and no rule is asked about the other group that it names.
        for name, tags in (("theirs", None), ("ours", True)):
            specs = {kind: tagged(kind) if tags else [] for kind in ("key-pair", "placement-group", "security-group")}
            key = {"KeyName": name, "PublicKeyMaterial": PUBLIC, "TagSpecifications": specs["key-pair"]}
            key = self.ec2.import_key_pair(**key)["KeyPairId"]
            self.ec2.create_placement_group(GroupName=name, TagSpecifications=specs["placement-group"])
            group = {"GroupName": name, "Description": "x", "TagSpecifications": specs["security-group"]}
            group = self.ec2.create_security_group(**group)["GroupId"]
            rule = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": self.group(f"other-than-{name}")}]}]
            for call, asked in (
                (ec2.authorize_security_group_ingress, {"GroupId": group, "IpPermissions": rule}),
                (ec2.delete_key_pair, {"KeyName": name}), (ec2.delete_key_pair, {"KeyPairId": key}),
                (ec2.delete_placement_group, {"GroupName": name}), (ec2.delete_security_group, {"GroupId": group}),
            ):
                if tags:
                    self.would(call, **asked)
                else:
                    self.refused("UnauthorizedOperation", call, status=403, **asked)

    def test_a_copy_is_asked_about_its_source_and_itself(self) -> None:
        made = ["arn:aws:ec2:*::image/*", "arn:aws:ec2:*::snapshot/*"]
        self.limit(allow("ec2:CopyImage", made, Condition=RUN), allow("ec2:CreateTags"))
        copy = {"Name": "copy", "SourceImageId": ROOT, "SourceRegion": "us-east-1",
                "TagSpecifications": tagged("image", "snapshot")}
        # The source is not made, so it gets no tag.
        self.refused("UnauthorizedOperation", self.caller().copy_image, status=403, text=f"image/{ROOT}", **copy)
        copies = allow("ec2:CopyImage", made, Condition=RUN)
        self.limit(copies, allow("ec2:CopyImage", made[0]), allow("ec2:CreateTags"))
        self.would(self.caller().copy_image, **copy)
        copy["TagSpecifications"] = tagged("image")
        self.refused("UnauthorizedOperation", self.caller().copy_image, status=403, text="snapshot/", **copy)

    def test_other_services(self) -> None:
        client("ssm").put_parameter(Name="/a/b", Value="x", Type="String")
        self.limit(allow("ssm:GetParameter", "arn:aws:ssm:*:*:parameter/a/*"))
        self.caller("sts").get_caller_identity()
        ssm = self.caller("ssm")
        self.assertEqual(ssm.get_parameter(Name="/a/b")["Parameter"]["Value"], "x")
        other = "ssm:GetParameter on resource: arn:aws:ssm:us-east-1:123456789012:parameter/b because"
        quota = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
        cases: list[tuple[Any, dict[str, Any], str]] = [
            (ssm.get_parameter, {"Name": "/b"}, other),
            (ssm.put_parameter, {"Name": "/a/b", "Value": "y", "Type": "String"}, "ssm:PutParameter"),
            (self.caller("service-quotas").get_service_quota, quota, "servicequotas:GetServiceQuota on resource"),
        ]
        for call, asked, words in cases:
            self.refused("AccessDeniedException", call, text=words, **asked)
        self.refused("AccessDenied", self.caller("iam").get_instance_profile, status=403, InstanceProfileName="x",
                     text="iam:GetInstanceProfile")

    def test_what_can_not_be_judged_is_refused(self) -> None:
        self.limit(allow(["ec2:*", "ssm:*"]))
        for call, asked, words in (
            (self.caller().release_address, {"PublicIp": "203.0.113.1"}, "judge ReleaseAddress"),
            (self.caller("ssm").delete_parameter, {"Name": "x"}, ""),
        ):
            with self.assertRaises(ClientError) as raised:
                call(**asked)
            answer = raised.exception.response
            self.assertEqual(answer["ResponseMetadata"]["HTTPStatusCode"], 500)
            self.assertIn(words, str(answer))

    def test_a_policy_that_makes_no_sense_is_refused(self) -> None:
        for statement, words in (
            (allow("ec2:Frobnicate"), "S: there is no action ec2:Frobnicate"),
            (allow("frob:RunInstances"), "there is no action frob:RunInstances"),
            (allow("ec2:DescribeImages", Condition=OF_RUN), "ec2:DescribeImages has no aws:ResourceTag/run"),
            (allow("ec2:CopyImage", Condition=OF_RUN), "ec2:CopyImage has no aws:ResourceTag/run"),
            (allow("ec2:RunInstances", Condition={"Null": {"ec2:Tenancy": "true"}}), "the cloud has no ec2:Tenancy"),
        ):
            with self.assertRaisesRegex(ValueError, words):
                self.limit(statement)
            self.assertFalse(api.RehearsalEc2.cloud.callers.is_limited(KEY))

    def test_requests_are_judged_again_without_a_call(self) -> None:
        self.limit(allow("ec2:Describe*"), allow("ec2:ImportKeyPair"))
        self.caller().describe_images(ImageIds=[ROOT])
        self.caller().import_key_pair(KeyName="k", PublicKeyMaterial=PUBLIC)
        requests = json.dumps([one["request"] for one in json.loads(api.record(KEY))])
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow("ec2:Describe*")]})
        self.assertEqual(json.loads(judged_by(policy, requests)), [True, False])


PUBLIC = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFYOYkKiQ8p3q8iPKM6SvGkFLWg0D6bVGAXcz9AqkWfO x"

if __name__ == "__main__":
    unittest.main()
