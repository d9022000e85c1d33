"""Tests the images that are made of instances, from CreateImage on. Knows nothing of other states of instances.

Run by `python -m cloud.tests`.
"""

import io
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta
from typing import Any

from cloud.tests.testing import NO_IMAGE, NO_INSTANCE, ROOT, Case, Client, Ec2Test, client, until


class Images(Ec2Test):
    def create(self, instance_id: str, name: str = "made", **more: Any) -> str:
        return self.ec2.create_image(InstanceId=instance_id, Name=name, **more)["ImageId"]

    def test_a_stopped_guest_is_kept(self) -> None:
        tags = [{"ResourceType": kind, "Tags": [{"Key": "k", "Value": kind}]} for kind in ("image", "snapshot")]
        instance = self.stopped(BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 60, "Iops": 5000, "Throughput": 300}}])
        with self.guests.hold("keep"):
            image_id = self.create(instance["InstanceId"], Description="d", TagSpecifications=tags)
            first = self.image(image_id)
            self.assertEqual(first["State"], "pending")
            snapshot_id = first["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
            self.assertEqual(self.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"], "pending")
            modify = self.ec2.modify_image_attribute
            self.refused("InvalidAMIID.Unavailable", modify, ImageId=image_id, Description={"Value": "x"})
            self.refused("InvalidAMIID.Unavailable", self.run_one, ImageId=image_id)
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

    def test_a_running_guest_is_stopped_kept_and_started(self) -> None:
        instance_id = self.running()["InstanceId"]
        image_id = self.create(instance_id)
        self.assertEqual(self.state(instance_id), "running")
        self.available(image_id)
        until(lambda: self.guests.names(instance_id) == ["create", "boot", "stop", "keep", "boot"])
        self.assertEqual(self.state(instance_id), "running")

    def test_an_image_that_cannot_be_kept_fails(self) -> None:
        instance_id = self.stopped()["InstanceId"]
        self.guests.breaks = {"keep"}
        with redirect_stderr(io.StringIO()):
            image_id = self.create(instance_id)
            failed = until(lambda: self.image(image_id)["State"] == "failed" and self.image(image_id))
        self.assertIn("keep is broken", failed["StateReason"]["Message"])
        self.refused("InvalidAMIID.Unavailable", self.run_one, ImageId=image_id)

    def test_terminated_before_it_was_kept(self) -> None:
        instance_id = self.running()["InstanceId"]
        self.guests.stop = lambda instance, force: None
        image_id = self.create(instance_id)
        self.ec2.terminate_instances(InstanceIds=[instance_id])
        self.assertEqual(self.image(image_id)["State"], "failed")
        self.becomes(instance_id, "terminated")

    def test_refused_images(self) -> None:
        instance_id = self.running()["InstanceId"]
        create = self.ec2.create_image
        self.would(create, InstanceId=instance_id, Name="made")
        first = self.create(instance_id)

        def root(**ebs: Any) -> dict[str, Any]:
            return {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": ebs}]}

        refusals: list[Case] = [
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
        ]
        for code, more in refusals:
            with self.subTest(more):
                self.refused(code, create, **{"InstanceId": instance_id, "Name": "next", **more})
        self.available(first)
        self.ec2.deregister_image(ImageId=first)
        self.create(instance_id)

    def test_copies(self) -> None:
        tags = [{"ResourceType": "image", "Tags": [{"Key": "k", "Value": "v"}]}]
        west = client(region="us-west-2")
        known = {"Name": "copy", "SourceRegion": "us-east-1"}

        def copy(api: Client, **more: Any) -> str:
            return api.copy_image(**{**known, **more})["ImageId"]

        with self.guests.hold("keep"):
            source = self.create(self.stopped()["InstanceId"], TagSpecifications=tags)
            known["SourceImageId"] = source
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

        def share(image: dict[str, Any]) -> None:
            more = {"Add": [{"UserId": "111122223333"}]}
            self.ec2.modify_image_attribute(ImageId=image["ImageId"], LaunchPermission=more)

        for image in (near, again):
            self.refused("InvalidParameter", share, text="can't be shared", image=image)
        share(keyed)
        reservation = west.run_instances(**self.request(ImageId=far["ImageId"]))
        until(lambda: reservation["Instances"][0]["InstanceId"] in self.guests.made)
        refusals: list[Case] = [
            ("InvalidAMIName.Duplicate", {}),
            ("InvalidAMIID.NotFound", {"Name": "next", "SourceImageId": NO_IMAGE}),
            ("InvalidAMIID.NotFound", {"Name": "next", "SourceRegion": "eu-west-1"}),
            ("InvalidParameterDependency", {"Name": "next", "KmsKeyId": "alias/mine"}),
        ]
        for code, more in refusals:
            with self.subTest(more):
                self.refused(code, copy, api=self.ec2, **more)
        self.would(copy, api=west, Name="dry")

    def test_deregistered(self) -> None:
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

    def test_deregistered_with_its_snapshots(self) -> None:
        image_id = self.create(self.stopped()["InstanceId"])
        self.available(image_id)
        done = self.ec2.deregister_image(ImageId=image_id, DeleteAssociatedSnapshots=True)
        self.assertEqual([one["ReturnCode"] for one in done["DeleteSnapshotResults"]], ["success"])
        self.assertEqual(self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"], [])

    def test_attributes(self) -> None:
        image_id = self.create(self.stopped()["InstanceId"])
        self.available(image_id)
        modify, api = self.ec2.modify_image_attribute, self.ec2
        modify(ImageId=image_id, Description={"Value": "new"})
        modify(ImageId=image_id, ImdsSupport={"Value": "v2.0"})
        modify(ImageId=image_id, Attribute="launchPermission", OperationType="add", UserIds=["111122223333"])
        image = self.image(image_id)
        self.assertEqual((image["Description"], image["ImdsSupport"], image["Public"]), ("new", "v2.0", False))

        def seen(name: str) -> dict[str, Any]:
            return api.describe_image_attribute(ImageId=image_id, Attribute=name)

        self.assertEqual(seen("launchPermission")["LaunchPermissions"], [{"UserId": "111122223333"}])
        self.assertEqual(seen("description")["Description"]["Value"], "new")
        modify(ImageId=image_id, LaunchPermission={"Remove": [{"UserId": "111122223333"}]})
        self.assertEqual(seen("launchPermission")["LaunchPermissions"], [])
        refusals: list[Case] = [
            ("InvalidParameterValue", {"ImdsSupport": {"Value": "v1.0"}}),
            ("InvalidParameterCombination", {}),
            ("InvalidAMIAttributeItemValue", {"LaunchPermission": {"Add": [{"UserId": "1"}]}}),
            ("InvalidAMIID.NotFound", {"ImageId": NO_IMAGE, "Description": {"Value": "x"}}),
        ]
        for code, more in refusals:
            with self.subTest(more):
                self.refused(code, modify, **{"ImageId": image_id, **more})
        self.refused("AuthFailure", modify, status=401, ImageId=ROOT, Description={"Value": "x"})
        self.would(modify, ImageId=image_id, Description={"Value": "x"})
        self.refused("AuthFailure", seen, status=401, name="blockDeviceMapping")
        self.refused("UnsupportedOperation", seen, name="kernel")

    def test_deprecation(self) -> None:
        image_id = self.create(self.stopped()["InstanceId"])
        enable, when = self.ec2.enable_image_deprecation, datetime.now(UTC) + timedelta(days=30)
        self.refused("InvalidParameterValue", enable, ImageId=image_id, DeprecateAt=when - timedelta(days=60))
        self.refused("InvalidParameterValue", enable, ImageId=image_id, DeprecateAt=when + timedelta(days=3700))
        self.refused("AuthFailure", enable, status=401, ImageId=ROOT, DeprecateAt=when)
        self.would(enable, ImageId=image_id, DeprecateAt=when)
        enable(ImageId=image_id, DeprecateAt=when)
        self.assertTrue(self.image(image_id)["DeprecationTime"].startswith(when.strftime("%Y-%m-%dT%H:%M:00")))
        self.ec2.disable_image_deprecation(ImageId=image_id)
        self.assertNotIn("DeprecationTime", self.image(image_id))

    def test_protection(self) -> None:
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

    def test_disabled(self) -> None:
        image_id = self.create(self.stopped()["InstanceId"])
        self.available(image_id)
        self.ec2.disable_image(ImageId=image_id)
        self.assertEqual(self.ec2.describe_images(Owners=["self"])["Images"], [])
        self.refused("InvalidAMIID.Unavailable", self.run_one, ImageId=image_id)
        self.ec2.enable_image(ImageId=image_id)
        self.running(ImageId=image_id)

    def test_registered(self) -> None:
        image_id = self.create(self.stopped()["InstanceId"])
        snapshot = self.available(image_id)["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}
        known: dict[str, Any] = {"RootDeviceName": "/dev/xvda", "Architecture": "x86_64", "VirtualizationType": "hvm"}
        known.update(Name="registered", EnaSupport=True, BlockDeviceMappings=[mapping])

        def request(**more: Any) -> dict[str, Any]:
            return {**known, **more}

        register = self.ec2.register_image
        self.refused("InvalidBlockDeviceMapping", register, **request(RootDeviceName="/dev/sda1"))
        self.refused("InvalidAMIName.Duplicate", register, **request(Name="made"))
        self.would(register, **request())
        registered = self.available(register(**request(EnaSupport=False))["ImageId"])
        self.assertEqual(registered["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"], 8)
        self.refused("InvalidParameterCombination", self.run_one, text="ENA", ImageId=registered["ImageId"])
        self.ec2.deregister_image(ImageId=image_id)
        self.refused("InvalidSnapshot.InUse", self.ec2.delete_snapshot, SnapshotId=snapshot)
