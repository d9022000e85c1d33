"""Tests what becomes of instances: their states, and the images that are made of them.

Run by test_ec2.py.
"""

import base64
import io
import re
from contextlib import redirect_stderr
from datetime import datetime, timedelta, timezone

from ec2_testing import NO_GROUP, NO_IMAGE, NO_INSTANCE, ROOT, Ec2Test, client, until


class Lives(Ec2Test):
    def test_states_take_time(self):
        with self.guests.hold("boot"):
            instance = self.run_one()
            instance_id = instance["InstanceId"]
            self.assertEqual([instance["State"]["Name"], self.state(instance_id)], ["pending", "pending"])
            stop = self.ec2.stop_instances
            self.refused("IncorrectInstanceState", stop, text="never reached", InstanceIds=[instance_id])
        self.becomes(instance_id, "running")
        status = lambda **more: self.ec2.describe_instance_status(InstanceIds=[instance_id], **more)["InstanceStatuses"]
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

    def test_what_a_state_does_not_allow(self):
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

    def test_unknown_instances(self):
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

    def test_dry_runs_change_nothing(self):
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

    def test_a_guest_that_powers_itself_off(self):
        instance_id = self.running()["InstanceId"]
        self.guests.power_off(instance_id)
        stopped = self.becomes(instance_id, "stopped")
        self.assertEqual(stopped["StateReason"]["Code"], "Client.InstanceInitiatedShutdown")
        short = self.running(InstanceInitiatedShutdownBehavior="terminate")["InstanceId"]
        self.guests.power_off(short)
        self.becomes(short, "terminated")
        self.assertIn("remove", self.guests.names(short))

    def test_shutdown_behavior_can_be_changed(self):
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

    def test_other_attributes(self):
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

    def test_reboot(self):
        instance_id = self.running()["InstanceId"]
        self.ec2.reboot_instances(InstanceIds=[instance_id])
        until(lambda: "reboot" in self.guests.names(instance_id))
        self.assertEqual(self.state(instance_id), "running")

    def test_the_console_is_the_guests(self):
        instance_id = self.running()["InstanceId"]
        raw = []
        self.ec2 = client.__wrapped__()
        self.ec2.meta.events.register(
            "before-parse.ec2.GetConsoleOutput", lambda response_dict, **_: raw.append(response_dict["body"])
        )
        for latest in (True, False):
            self.assertIn("Timestamp", self.ec2.get_console_output(InstanceId=instance_id, Latest=latest))
        output = base64.b64decode(re.search(rb"<output>(.*?)</output>", raw[0], re.DOTALL)[1])
        self.assertEqual(len(output), 64 * 1024)
        self.assertTrue(output.endswith(b"\xff\x00the end of " + instance_id.encode()))
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.becomes(instance_id, "terminated")
        self.assertIn("the end", self.ec2.get_console_output(InstanceId=instance_id)["Output"])

    def test_a_guest_that_cannot_be_made(self):
        for broken in ("create", "boot"):
            self.guests.breaks = {broken}
            with self.subTest(broken), redirect_stderr(io.StringIO()):
                gone = self.becomes(self.run_one()["InstanceId"], "terminated")
                self.assertEqual(gone["StateReason"]["Code"], "Server.InternalError")
                self.assertIn(broken, gone["StateReason"]["Message"])

    def test_what_goes_with_an_instance(self):
        instance = self.running(BlockDeviceMappings=[
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5, "DeleteOnTermination": False}}])
        address = self.ec2.allocate_address(Domain="vpc")
        self.ec2.associate_address(InstanceId=instance["InstanceId"], AllocationId=address["AllocationId"])
        self.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        gone = self.becomes(instance["InstanceId"], "terminated")
        self.assertNotIn("PrivateIpAddress", gone)
        self.assertEqual(gone["NetworkInterfaces"], [])
        self.assertEqual([v["Size"] for v in self.ec2.describe_volumes()["Volumes"]], [5])
        self.assertEqual(self.ec2.describe_network_interfaces()["NetworkInterfaces"], [])
        self.assertFalse(self.ec2.describe_addresses()["Addresses"][0].get("InstanceId"))

    def test_filters(self):
        self.ec2.create_placement_group(GroupName="pg", Strategy="cluster")
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": "7"}]}]
        one = self.running(ClientToken="tok", Placement={"GroupName": "pg"}, TagSpecifications=tags)
        other = self.running(InstanceMarketOptions={"MarketType": "spot"}, InstanceType="c5.xlarge")
        nic = one["NetworkInterfaces"][0]
        found = lambda name, *values: [i["InstanceId"] for r in self.ec2.describe_instances(
            Filters=[{"Name": name, "Values": list(values)}])["Reservations"] for i in r["Instances"]]
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
            "launch-time": datetime.now(timezone.utc).strftime("%Y-*"), "instance-type": "c5.*",
        }.items():
            with self.subTest(name):
                self.assertEqual(found(name, value), both)
        for name, value in {
            "placement-group-name": "no", "client-token": "no", "instance-state-code": "80", "launch-time": "2019-*",
            "network-interface.status": "available", "instance-lifecycle": "scheduled", "tag-key": "no",
        }.items():
            with self.subTest(name):
                self.assertEqual(found(name, value), [])
        self.refused("InvalidParameterValue", found, name="frob", **{})
        self.refused("InvalidParameterCombination", self.ec2.describe_instances, InstanceIds=both, MaxResults=5)


class Images(Ec2Test):
    def create(self, instance_id, name="made", **more):
        return self.ec2.create_image(InstanceId=instance_id, Name=name, **more)["ImageId"]

    def test_a_stopped_guest_is_kept(self):
        tags = [{"ResourceType": kind, "Tags": [{"Key": "k", "Value": kind}]} for kind in ("image", "snapshot")]
        instance = self.stopped(BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 60, "Iops": 5000, "Throughput": 300}}])
        with self.guests.hold("keep"):
            image_id = self.create(instance["InstanceId"], Description="d", TagSpecifications=tags)
            first = self.image(image_id)
            self.assertEqual(first["State"], "pending")
            snapshot_id = first["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
            self.assertEqual(self.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"], "pending")
            for call, more in ((self.ec2.modify_image_attribute, {"Description": {"Value": "x"}}), (self.run_one, {})):
                self.refused("InvalidAMIID.Unavailable", call, ImageId=image_id, **more)
        image, source = self.available(image_id), self.image(ROOT)
        self.assertEqual(image["BlockDeviceMappings"], [{"DeviceName": "/dev/xvda", "Ebs": {
            "SnapshotId": snapshot_id, "VolumeSize": 60, "VolumeType": "gp3", "Iops": 5000, "Throughput": 300,
            "DeleteOnTermination": True, "Encrypted": False}}])
        for key in ("RootDeviceName", "BootMode", "EnaSupport", "SriovNetSupport", "PlatformDetails", "Architecture"):
            self.assertEqual(image[key], source[key], key)
        self.assertEqual((image["SourceInstanceId"], image["SourceImageId"]), (instance["InstanceId"], ROOT))
        self.assertEqual(image["Tags"], [{"Key": "k", "Value": "image"}])
        snapshot = self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"][0]
        self.assertEqual((snapshot["State"], snapshot["VolumeSize"]), ("completed", 60))
        self.assertEqual(snapshot["Tags"], [{"Key": "k", "Value": "snapshot"}])
        self.assertEqual(self.ec2.describe_snapshots(OwnerIds=["amazon"])["Snapshots"], [])
        self.assertEqual(self.state(instance["InstanceId"]), "stopped")
        self.running(ImageId=image_id)
        self.refused("InvalidBlockDeviceMapping", self.run_one, ImageId=image_id, BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 59}}])

    def test_a_running_guest_is_stopped_kept_and_started(self):
        instance_id = self.running()["InstanceId"]
        image_id = self.create(instance_id)
        self.assertEqual(self.state(instance_id), "running")
        self.available(image_id)
        until(lambda: self.guests.names(instance_id) == ["create", "boot", "stop", "keep", "boot"])
        self.assertEqual(self.state(instance_id), "running")

    def test_an_image_that_cannot_be_kept_fails(self):
        instance_id = self.stopped()["InstanceId"]
        self.guests.breaks = {"keep"}
        with redirect_stderr(io.StringIO()):
            image_id = self.create(instance_id)
            failed = until(lambda: self.image(image_id)["State"] == "failed" and self.image(image_id))
        self.assertIn("keep is broken", failed["StateReason"]["Message"])
        self.refused("InvalidAMIID.Unavailable", self.run_one, ImageId=image_id)

    def test_terminated_before_it_was_kept(self):
        instance_id = self.running()["InstanceId"]
        self.guests.stop = lambda *_: None
        image_id = self.create(instance_id)
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.assertEqual(self.image(image_id)["State"], "failed")
        self.becomes(instance_id, "terminated")

    def test_refused_images(self):
        instance_id = self.running()["InstanceId"]
        create = self.ec2.create_image
        self.would(create, InstanceId=instance_id, Name="made")
        first = self.create(instance_id)
        root = lambda **ebs: {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": ebs}]}
        for code, more in (
            ("InvalidAMIName.Duplicate", {"Name": "made"}),
            ("InvalidAMIName.Malformed", {"Name": "a#b"}),
            ("InvalidInstanceID.NotFound", {"InstanceId": NO_INSTANCE}),
            ("UnsupportedOperation", {"NoReboot": True}),
            ("InvalidBlockDeviceMapping", root(VolumeSize=99)),
            ("InvalidBlockDeviceMapping", root(Encrypted=True)),
            ("MissingParameter", {"BlockDeviceMappings": [{"DeviceName": "/dev/sdq", "Ebs": {"VolumeType": "gp3"}}]}),
            (
                "InvalidParameterValue",
                {"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}]},
            ),
        ):
            with self.subTest(more):
                self.refused(code, create, **{"InstanceId": instance_id, "Name": "next", **more})
        self.available(first)
        self.ec2.deregister_image(ImageId=first)
        self.create(instance_id)

    def test_copies(self):
        tags = [{"ResourceType": "image", "Tags": [{"Key": "k", "Value": "v"}]}]
        west = client(region="us-west-2")
        with self.guests.hold("keep"):
            source = self.create(self.stopped()["InstanceId"], TagSpecifications=tags)
            known = {"Name": "copy", "SourceImageId": source, "SourceRegion": "us-east-1"}
            copy = lambda api, **more: api.copy_image(**{**known, **more})["ImageId"]
            self.refused("InvalidAMIID.Unavailable", copy, api=west)
        self.available(source)
        self.ec2.modify_image_attribute(ImageId=source, ImdsSupport={"Value": "v2.0"})
        far = self.available(copy(west, CopyImageTags=True), west)
        self.assertEqual((far["SourceImageId"], far["SourceImageRegion"]), (source, "us-east-1"))
        self.assertEqual((far["ImdsSupport"], far["Tags"]), ("v2.0", [{"Key": "k", "Value": "v"}]))
        near = self.available(copy(self.ec2, Encrypted=True))
        self.assertTrue(near["BlockDeviceMappings"][0]["Ebs"]["Encrypted"])
        self.assertNotIn("Tags", near)
        again = self.available(copy(self.ec2, Name="again", SourceImageId=near["ImageId"]))
        self.assertTrue(again["BlockDeviceMappings"][0]["Ebs"]["Encrypted"])
        keyed = self.available(copy(self.ec2, Name="keyed", Encrypted=True, KmsKeyId="alias/mine"))
        share = lambda image: self.ec2.modify_image_attribute(
            ImageId=image["ImageId"], LaunchPermission={"Add": [{"UserId": "111122223333"}]}
        )
        for image in (near, again):
            self.refused("InvalidParameter", share, text="can't be shared", image=image)
        share(keyed)
        reservation = west.run_instances(**self.request(ImageId=far["ImageId"]))
        until(lambda: reservation["Instances"][0]["InstanceId"] in self.guests.made)
        for code, more in (
            ("InvalidAMIName.Duplicate", {}),
            ("InvalidAMIID.NotFound", {"Name": "next", "SourceImageId": NO_IMAGE}),
            ("InvalidAMIID.NotFound", {"Name": "next", "SourceRegion": "eu-west-1"}),
            ("InvalidParameterDependency", {"Name": "next", "KmsKeyId": "alias/mine"}),
        ):
            with self.subTest(more):
                self.refused(code, copy, api=self.ec2, **more)
        self.would(copy, api=west, Name="dry")

    def test_deregistered(self):
        source = self.create(self.stopped()["InstanceId"])
        snapshot = self.available(source)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        child = self.running(ImageId=source)["InstanceId"]
        self.refused("InvalidSnapshot.InUse", self.ec2.delete_snapshot, SnapshotId=snapshot)
        self.would(self.ec2.deregister_image, ImageId=source)
        self.ec2.deregister_image(ImageId=source)
        self.refused("InvalidAMIID.Unavailable", self.ec2.deregister_image, ImageId=source)
        self.refused("InvalidAMIID.Unavailable", self.run_one, ImageId=source)
        self.refused("InvalidAMIID.NotFound", self.ec2.describe_images, ImageIds=[source])
        self.refused("InvalidAMIID.NotFound", self.ec2.deregister_image, ImageId=NO_IMAGE)
        self.refused("AuthFailure", self.ec2.deregister_image, status=401, ImageId=ROOT)
        self.assertIn(source, self.guests.roots)
        self.ec2.terminate_instances(InstanceIds=[child])
        until(lambda: source not in self.guests.roots)
        self.would(self.ec2.delete_snapshot, SnapshotId=snapshot)
        self.ec2.delete_snapshot(SnapshotId=snapshot)
        self.refused("InvalidSnapshot.NotFound", self.ec2.delete_snapshot, SnapshotId=snapshot)

    def test_deregistered_with_its_snapshots(self):
        image_id = self.create(self.stopped()["InstanceId"])
        self.available(image_id)
        done = self.ec2.deregister_image(ImageId=image_id, DeleteAssociatedSnapshots=True)
        self.assertEqual([one["ReturnCode"] for one in done["DeleteSnapshotResults"]], ["success"])
        self.assertEqual(self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"], [])

    def test_attributes(self):
        image_id = self.create(self.stopped()["InstanceId"])
        self.available(image_id)
        modify, api = self.ec2.modify_image_attribute, self.ec2
        modify(ImageId=image_id, Description={"Value": "new"})
        modify(ImageId=image_id, ImdsSupport={"Value": "v2.0"})
        modify(ImageId=image_id, Attribute="launchPermission", OperationType="add", UserIds=["111122223333"])
        image = self.image(image_id)
        self.assertEqual((image["Description"], image["ImdsSupport"], image["Public"]), ("new", "v2.0", False))
        seen = lambda name: api.describe_image_attribute(ImageId=image_id, Attribute=name)
        self.assertEqual(seen("launchPermission")["LaunchPermissions"], [{"UserId": "111122223333"}])
        self.assertEqual(seen("description")["Description"]["Value"], "new")
        modify(ImageId=image_id, LaunchPermission={"Remove": [{"UserId": "111122223333"}]})
        self.assertEqual(seen("launchPermission")["LaunchPermissions"], [])
        for code, more in (
            ("InvalidParameterValue", {"ImdsSupport": {"Value": "v1.0"}}),
            ("InvalidParameterCombination", {}),
            ("InvalidAMIAttributeItemValue", {"LaunchPermission": {"Add": [{"UserId": "1"}]}}),
            ("InvalidAMIID.NotFound", {"ImageId": NO_IMAGE, "Description": {"Value": "x"}}),
        ):
            with self.subTest(more):
                self.refused(code, modify, **{"ImageId": image_id, **more})
        self.refused("AuthFailure", modify, status=401, ImageId=ROOT, Description={"Value": "x"})
        self.would(modify, ImageId=image_id, Description={"Value": "x"})
        self.refused("AuthFailure", seen, status=401, name="blockDeviceMapping")
        self.refused("UnsupportedOperation", seen, name="kernel")

    def test_deprecation(self):
        image_id = self.create(self.stopped()["InstanceId"])
        enable, when = self.ec2.enable_image_deprecation, datetime.now(timezone.utc) + timedelta(days=30)
        self.refused("InvalidParameterValue", enable, ImageId=image_id, DeprecateAt=when - timedelta(days=60))
        self.refused("InvalidParameterValue", enable, ImageId=image_id, DeprecateAt=when + timedelta(days=3700))
        self.refused("AuthFailure", enable, status=401, ImageId=ROOT, DeprecateAt=when)
        self.would(enable, ImageId=image_id, DeprecateAt=when)
        enable(ImageId=image_id, DeprecateAt=when)
        self.assertTrue(self.image(image_id)["DeprecationTime"].startswith(when.strftime("%Y-%m-%dT%H:%M:00")))
        self.ec2.disable_image_deprecation(ImageId=image_id)
        self.assertNotIn("DeprecationTime", self.image(image_id))

    def test_protection(self):
        image_id = self.create(self.stopped()["InstanceId"])
        api = self.ec2
        self.would(api.enable_image_deregistration_protection, ImageId=image_id)
        api.enable_image_deregistration_protection(ImageId=image_id)
        self.assertEqual(self.image(image_id)["DeregistrationProtection"], "enabled-without-cooldown")
        self.refused("OperationNotPermitted", api.deregister_image, ImageId=image_id)
        api.disable_image_deregistration_protection(ImageId=image_id)
        api.enable_image_deregistration_protection(ImageId=image_id, WithCooldown=True)
        api.disable_image_deregistration_protection(ImageId=image_id)
        self.refused("OperationNotPermitted", api.deregister_image, ImageId=image_id)

    def test_disabled(self):
        image_id = self.create(self.stopped()["InstanceId"])
        self.available(image_id)
        self.ec2.disable_image(ImageId=image_id)
        self.assertEqual(self.ec2.describe_images(Owners=["self"])["Images"], [])
        self.refused("InvalidAMIID.Unavailable", self.run_one, ImageId=image_id)
        self.ec2.enable_image(ImageId=image_id)
        self.running(ImageId=image_id)

    def test_registered(self):
        image_id = self.create(self.stopped()["InstanceId"])
        snapshot = self.available(image_id)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}
        known = {"RootDeviceName": "/dev/xvda", "Architecture": "x86_64", "VirtualizationType": "hvm"}
        known.update(Name="registered", EnaSupport=True, BlockDeviceMappings=[mapping])
        request = lambda **more: {**known, **more}
        register = self.ec2.register_image
        self.refused("InvalidBlockDeviceMapping", register, **request(RootDeviceName="/dev/sda1"))
        self.refused("InvalidAMIName.Duplicate", register, **request(Name="made"))
        self.would(register, **request())
        registered = self.available(register(**request(EnaSupport=False))["ImageId"])
        self.assertEqual(registered["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"], 8)
        self.refused("InvalidParameterCombination", self.run_one, text="ENA", ImageId=registered["ImageId"])
        self.ec2.deregister_image(ImageId=image_id)
        self.refused("InvalidSnapshot.InUse", self.ec2.delete_snapshot, SnapshotId=snapshot)
