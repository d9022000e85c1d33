"""Tests what becomes of instances: their states, and what they say of themselves. Knows nothing of images made of them.

Run by `python -m cloud.tests`.
"""

import base64
import io
import re
from contextlib import redirect_stderr
from datetime import UTC, datetime
from typing import Any

from cloud.tests.testing import NO_GROUP, NO_INSTANCE, Ec2Test, client, until


class Lives(Ec2Test):
    def test_states_take_time(self) -> None:
        with self.guests.hold("boot"):
            instance = self.run_one()
            instance_id = instance["InstanceId"]
            self.assertEqual([instance["State"]["Name"], self.state(instance_id)], ["pending", "pending"])
            stop = self.ec2.stop_instances
            self.refused("IncorrectInstanceState", stop, text="never reached", InstanceIds=[instance_id])
        self.becomes(instance_id, "running")

        def status(**more: Any) -> list[dict[str, Any]]:
            return self.ec2.describe_instance_status(InstanceIds=[instance_id], **more)["InstanceStatuses"]

        self.pace(1000)
        self.assertEqual(status()[0]["InstanceStatus"]["Status"], "initializing")
        self.pace(0.1)
        until(lambda: status()[0]["SystemStatus"]["Status"] == "ok")
        self.assertEqual(self.guests.names(instance_id), ["create", "boot"])
        with self.guests.hold("stop"):
            stop(InstanceIds=[instance_id])
            self.assertEqual(self.state(instance_id), "stopping")
            self.refused("IncorrectInstanceState", self.ec2.start_instances, InstanceIds=[instance_id])
        stopped = self.becomes(instance_id, "stopped")
        self.assertEqual(stopped["StateReason"]["Code"], "Client.UserInitiatedShutdown")
        self.assertNotIn("PublicIpAddress", stopped)
        self.assertEqual(stopped["PrivateIpAddress"], instance["PrivateIpAddress"])
        self.assertEqual(status(), [])
        self.assertEqual(status(IncludeAllInstances=True)[0]["InstanceState"]["Name"], "stopped")
        self.ec2.start_instances(InstanceIds=[instance_id])
        again = self.becomes(instance_id, "running")
        self.assertEqual(again["PublicIpAddress"], instance["PublicIpAddress"])
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "terminated")
        self.assertEqual(self.guests.names(instance_id), ["create", "boot", "stop", "boot", "remove"])

    def test_what_a_state_does_not_allow(self) -> None:
        stopped = self.stopped()["InstanceId"]
        self.refused("IncorrectState", self.ec2.reboot_instances, InstanceIds=[stopped])
        self.ec2.stop_instances(InstanceIds=[stopped])
        self.assertEqual(self.guests.names(stopped).count("stop"), 1)
        self.ec2.terminate_instances(InstanceIds=[stopped])
        self.becomes(stopped, "terminated")
        for call in (self.ec2.start_instances, self.ec2.stop_instances):
            self.refused("IncorrectInstanceState", call, InstanceIds=[stopped])
        self.refused("IncorrectState", self.ec2.reboot_instances, InstanceIds=[stopped])
        self.refused("IncorrectState", self.ec2.create_image, InstanceId=stopped, Name="gone")
        self.assertEqual(
            self.ec2.terminate_instances(InstanceIds=[stopped])["TerminatingInstances"][0]["CurrentState"]["Code"], 48
        )

    def test_unknown_instances(self) -> None:
        known = self.running()["InstanceId"]
        api = self.ec2
        for call in (api.start_instances, api.stop_instances, api.reboot_instances, api.terminate_instances,
                     api.describe_instances, api.describe_instance_status):
            self.refused("InvalidInstanceID.NotFound", call, InstanceIds=[known, NO_INSTANCE])
            self.refused("InvalidInstanceID.Malformed", call, InstanceIds=["x"])
        self.refused("InvalidInstanceID.NotFound", api.get_console_output, InstanceId=NO_INSTANCE)
        tags = [{"Key": "a", "Value": "b"}]
        self.refused("InvalidInstanceID.NotFound", api.create_tags, Resources=[known, NO_INSTANCE], Tags=tags)
        self.assertEqual(self.state(known), "running")

    def test_dry_runs_change_nothing(self) -> None:
        instance_id = self.running()["InstanceId"]
        api = self.ec2
        for call in (
            api.start_instances,
            api.stop_instances,
            api.reboot_instances,
            api.terminate_instances,
            api.describe_instances,
        ):
            self.would(call, InstanceIds=[instance_id])
        self.would(api.get_console_output, InstanceId=instance_id)
        self.would(api.modify_instance_metadata_options, InstanceId=instance_id, HttpTokens="required")
        self.would(api.modify_instance_attribute, InstanceId=instance_id, DisableApiTermination={"Value": True})
        self.would(api.create_tags, Resources=[instance_id], Tags=[{"Key": "a", "Value": "b"}])
        self.would(api.create_security_group, GroupName="g", Description="g")
        self.would(api.create_key_pair, KeyName="k")
        self.assertEqual(self.guests.names(instance_id), ["create", "boot"])

    def test_a_guest_that_powers_itself_off(self) -> None:
        instance_id = self.running()["InstanceId"]
        self.guests.power_off(instance_id)
        stopped = self.becomes(instance_id, "stopped")
        self.assertEqual(stopped["StateReason"]["Code"], "Client.InstanceInitiatedShutdown")
        short = self.running(InstanceInitiatedShutdownBehavior="terminate")["InstanceId"]
        self.guests.power_off(short)
        self.becomes(short, "terminated")
        self.assertIn("remove", self.guests.names(short))

    def test_shutdown_behavior_can_be_changed(self) -> None:
        instance_id = self.running()["InstanceId"]
        modify = self.ec2.modify_instance_attribute
        self.refused(
            "InvalidParameterValue", modify, InstanceId=instance_id, InstanceInitiatedShutdownBehavior={"Value": "x"}
        )
        self.refused(
            "InvalidInstanceID.NotFound",
            modify,
            InstanceId=NO_INSTANCE,
            InstanceInitiatedShutdownBehavior={"Value": "stop"},
        )
        modify(InstanceId=instance_id, InstanceInitiatedShutdownBehavior={"Value": "terminate"})
        self.guests.power_off(instance_id)
        self.becomes(instance_id, "terminated")

    def test_other_attributes(self) -> None:
        instance_id = self.running()["InstanceId"]
        modify = self.ec2.modify_instance_attribute
        self.refused("IncorrectInstanceState", modify, InstanceId=instance_id, InstanceType={"Value": "c5.xlarge"})
        self.refused("IncorrectInstanceState", modify, InstanceId=instance_id, EnaSupport={"Value": True})
        self.refused("UnsupportedOperation", modify, InstanceId=instance_id, UserData={"Value": b"x"})
        self.refused("InvalidGroup.NotFound", modify, InstanceId=instance_id, Groups=[NO_GROUP])
        group = self.group()
        modify(InstanceId=instance_id, Groups=[group])
        self.assertEqual([g["GroupId"] for g in self.now(instance_id)["SecurityGroups"]], [group])
        modify(InstanceId=instance_id, DisableApiTermination={"Value": True})
        self.refused("OperationNotPermitted", self.ec2.terminate_instances, InstanceIds=[instance_id])
        modify(InstanceId=instance_id, DisableApiTermination={"Value": False})
        self.ec2.modify_instance_metadata_options(InstanceId=instance_id, HttpTokens="required")
        self.assertEqual(self.now(instance_id)["MetadataOptions"]["HttpPutResponseHopLimit"], 1)

    def test_reboot(self) -> None:
        instance_id = self.running()["InstanceId"]
        self.ec2.reboot_instances(InstanceIds=[instance_id])
        until(lambda: "reboot" in self.guests.names(instance_id))
        self.assertEqual(self.state(instance_id), "running")

    def test_the_console_is_the_guests(self) -> None:
        instance_id = self.running()["InstanceId"]
        raw: list[bytes] = []
        self.ec2 = client.__wrapped__()
        self.ec2.meta.events.register(
            "before-parse.ec2.GetConsoleOutput", lambda response_dict, **_: raw.append(response_dict["body"])
        )
        for latest in (True, False):
            self.assertIn("Timestamp", self.ec2.get_console_output(InstanceId=instance_id, Latest=latest))
        found = re.search(rb"<output>(.*?)</output>", raw[0], re.DOTALL)
        assert found is not None
        output = base64.b64decode(found[1])
        self.assertEqual(len(output), 64 * 1024)
        self.assertTrue(output.endswith(b"\xff\x00the end of " + instance_id.encode()))
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "terminated")
        self.assertIn("the end", self.ec2.get_console_output(InstanceId=instance_id)["Output"])

    def test_a_guest_that_cannot_be_made(self) -> None:
        for broken in ("create", "boot"):
            self.guests.breaks = {broken}
            with self.subTest(broken), redirect_stderr(io.StringIO()):
                gone = self.becomes(self.run_one()["InstanceId"], "terminated")
                self.assertEqual(gone["StateReason"]["Code"], "Server.InternalError")
                self.assertIn(broken, gone["StateReason"]["Message"])

    def test_what_goes_with_an_instance(self) -> None:
        instance = self.running(BlockDeviceMappings=[
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5, "DeleteOnTermination": False}}])
        self.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        gone = self.becomes(instance["InstanceId"], "terminated")
        self.assertNotIn("PrivateIpAddress", gone)
        self.assertEqual(gone["NetworkInterfaces"], [])
        self.assertEqual([v["Size"] for v in self.ec2.describe_volumes()["Volumes"]], [5])
        self.assertEqual(self.ec2.describe_network_interfaces()["NetworkInterfaces"], [])

    def test_filters(self) -> None:
        self.ec2.create_placement_group(GroupName="pg", Strategy="cluster")
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": "7"}]}]
        one = self.running(ClientToken="tok", Placement={"GroupName": "pg"}, TagSpecifications=tags)
        other = self.running(InstanceMarketOptions={"MarketType": "spot"}, InstanceType="c5.xlarge")
        nic = one["NetworkInterfaces"][0]

        def found(name: str, *values: str) -> list[str]:
            filters = [{"Name": name, "Values": list(values)}]
            reservations = self.ec2.describe_instances(Filters=filters)["Reservations"]
            return [i["InstanceId"] for r in reservations for i in r["Instances"]]

        reservation = self.ec2.describe_instances(InstanceIds=[one["InstanceId"]])["Reservations"][0]["ReservationId"]
        for name, value in {
            "placement-group-name": "pg", "client-token": "tok", "reservation-id": reservation, "tag:run": "7",
            "network-interface.network-interface-id": nic["NetworkInterfaceId"], "instance-type": "c5.large",
            "network-interface.addresses.private-ip-address": one["PrivateIpAddress"],
            "ip-address": one["PublicIpAddress"], "instance-id": one["InstanceId"],
        }.items():
            with self.subTest(name):
                self.assertEqual(found(name, value), [one["InstanceId"]])
        self.assertEqual(found("instance-lifecycle", "spot"), [other["InstanceId"]])
        both = [one["InstanceId"], other["InstanceId"]]
        for name, value in {
            "instance-state-code": "16", "root-device-type": "ebs", "metadata-options.http-tokens": "optional",
            "network-interface.subnet-id": nic["SubnetId"], "network-interface.vpc-id": nic["VpcId"],
            "launch-time": datetime.now(UTC).strftime("%Y-*"), "instance-type": "c5.*",
        }.items():
            with self.subTest(name):
                self.assertEqual(found(name, value), both)
        for name, value in {
            "placement-group-name": "no", "client-token": "no", "instance-state-code": "80", "launch-time": "2019-*",
            "network-interface.status": "available", "instance-lifecycle": "scheduled", "tag-key": "no",
        }.items():
            with self.subTest(name):
                self.assertEqual(found(name, value), [])
        self.refused("InvalidParameterValue", found, name="frob")
        self.refused("InvalidParameterCombination", self.ec2.describe_instances, InstanceIds=both, MaxResults=5)
