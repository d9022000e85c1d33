"""RunInstances and instant fleets: what is refused, and the plan of what is launched.

Owns every rule that a launch is checked by, but those about networks (networks.py) and capacity (capacity.py). It must
not know guests, nor what becomes of an instance later. The facts about types are AWS's own, in moto's data files; codes
and texts are EC2's where AWS's list of error codes or a public report shows them.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Reservation
from moto.ec2.utils import filter_iam_instance_profiles, parse_user_data, random_fleet_id, random_reservation_id
from moto.iam.exceptions import NotFoundException

from cloud.ec2.capacity import Reservations
from cloud.ec2.core import Tags, refusal, tags_by_type
from cloud.ec2.groups import placement_group
from cloud.ec2.images import Image, available
from cloud.ec2.instances import Instance
from cloud.ec2.networks import Interface, Networks

USER_DATA_BYTES = 16384
VOLUME_TYPES = ("gp2", "gp3", "io1", "io2", "sc1", "st1", "standard")
LAUNCH_TAGS = ("instance", "volume", "network-interface", "spot-instances-request")


@dataclass
class Plan:
    """A launch that was checked: an Instance is made from it."""

    image: Image
    instance_type: str
    key_name: str | None
    public_key: str | None
    user_data: bytes
    user_data_text: Base64EncodedString | None
    interfaces: list[Interface]
    volumes: list[dict[str, Any]]
    # By type of what is tagged.
    tags: dict[str, Tags]
    client_token: str | None = None
    placement_group: str | None = None
    tenancy: str = "default"
    lifecycle: str | None = None
    shutdown_behavior: str = "stop"
    termination_protection: bool = False
    stop_protection: bool = False
    ebs_optimized: bool = False
    monitoring: str = "disabled"
    metadata_options: dict[str, Any] = field(default_factory=dict)
    hibernation_options: dict[str, Any] = field(default_factory=dict)
    cpu_options: dict[str, Any] | None = None
    capacity_reservation: dict[str, Any] | None = None
    reservation: str | None = None
    # The name or the ARN, as moto calls them.
    profile: dict[str, str] = field(default_factory=dict)


class Launches(Networks, Reservations):
    """The actions that launch. `r` is a request, with its template's parameters; `kind` is its type as
    DescribeInstanceTypes shows it."""

    def run_instances(self) -> ActionResult:
        # The token first: a repeated request is answered, not checked.
        return ActionResult(self.memory.once("RunInstances", self.params, self._run_instances))

    def _run_instances(self) -> Reservation:
        least, most = int(self.params.get("MinCount", 1)), int(self.params.get("MaxCount", 1))
        if not 1 <= least <= most:
            raise refusal("InvalidParameterValue", f"Invalid value '{least}' for MinCount and '{most}' for MaxCount.")
        plan = self._plan(self._with_template(self.params))
        self.error_on_dryrun()
        return self._launch(plan, self.taken(plan, least, most))

    def create_fleet(self) -> ActionResult:
        """Fleets of type instant, as Packer uses for spot: launches from the first configuration that can be had."""
        p = self.params
        if p.get("Type") != "instant":
            raise refusal("UnsupportedOperation", "The rehearsal makes fleets of type instant only")
        self.error_on_dryrun()
        target = p.get("TargetCapacitySpecification", {})
        spot = target.get("DefaultTargetCapacityType") == "spot"
        tags = tags_by_type(p.get("TagSpecifications"), ("fleet", "instance"))
        errors, launched = [], []
        for configuration in p.get("LaunchTemplateConfigs", []):
            for override in configuration.get("Overrides") or [{}]:
                if launched:
                    break
                said = {
                    "LaunchTemplateAndOverrides": {
                        "LaunchTemplateSpecification": configuration["LaunchTemplateSpecification"],
                        "Overrides": override,
                    },
                    "Lifecycle": "spot" if spot else "on-demand",
                }
                wanted = int(target.get("TotalTargetCapacity", 1))
                try:
                    plan = self._plan(self._fleet_request(configuration, override, spot))
                    count = self.taken(plan, wanted, wanted)
                except EC2ClientError as error:
                    errors.append({**said, "ErrorCode": error.code, "ErrorMessage": error.message})
                    continue
                plan.tags["instance"] = {**plan.tags.get("instance", {}), **tags.get("instance", {})}
                ids = [i.id for i in self._launch(plan, count).instances]
                launched.append({**said, "InstanceIds": ids, "InstanceType": plan.instance_type})
        return ActionResult({"FleetId": random_fleet_id(), "Errors": errors, "Instances": launched})

    def _fleet_request(self, configuration: dict[str, Any], override: dict[str, Any], spot: bool) -> dict[str, Any]:
        request = self._with_template({"LaunchTemplate": configuration["LaunchTemplateSpecification"]})
        request.update({k: v for k, v in override.items() if k in ("ImageId", "InstanceType", "Placement")})
        if override.get("AvailabilityZone"):
            request["Placement"] = {**request.get("Placement", {}), "AvailabilityZone": override["AvailabilityZone"]}
        if override.get("SubnetId") and request.get("NetworkInterfaces"):
            request["NetworkInterfaces"] = [
                {**n, "SubnetId": override["SubnetId"]} for n in request["NetworkInterfaces"]
            ]
        elif override.get("SubnetId"):
            request["SubnetId"] = override["SubnetId"]
        if spot:
            request["InstanceMarketOptions"] = {"MarketType": "spot"}
        return request

    def _launch(self, plan: Plan, count: int) -> Reservation:
        backend = self.ec2_backend
        reservation = Reservation(random_reservation_id(), backend.account_id)
        backend.reservations[reservation.id] = reservation
        instances: list[Instance] = []
        for index in range(count):
            instance = Instance(self.cloud, backend, reservation.id, plan, index)
            instances.append(instance)
            reservation.instances.append(instance)
            instance.add_tags(plan.tags.get("instance", {}))
            instance.add_volumes()
            if plan.profile:
                backend.associate_iam_instance_profile(instance.id, **plan.profile)
        for instance in instances:
            instance.launch()
        return reservation

    # From a request to a plan.

    def _with_template(self, request: dict[str, Any]) -> dict[str, Any]:
        """The launch template's parameters, then the request's: those given in both are the request's."""
        given = request.get("LaunchTemplate")
        if not given:
            return dict(request)
        version = self.ec2_backend._get_template_from_args(given)
        data = {key: value for key, value in version.data.items() if value is not None}
        if data.get("UserData"):
            data["UserData"] = str(data["UserData"])
        tags = [one for one in data.get("TagSpecifications", []) if one["ResourceType"] in LAUNCH_TAGS]
        merged = {**data, **request}
        merged["TagSpecifications"] = tags + request.get("TagSpecifications", [])
        return merged

    def _plan(self, r: dict[str, Any]) -> Plan:
        kind = self._type(r)
        image = self._image(r, kind)
        user_data = self._user_data(r)
        key = self.ec2_backend.key_pairs.get(r.get("KeyName"))
        if r.get("KeyName") and not key:
            raise refusal("InvalidKeyPair.NotFound", f"The key pair '{r['KeyName']}' does not exist")
        behavior = r.get("InstanceInitiatedShutdownBehavior") or "stop"
        if behavior not in ("stop", "terminate"):
            raise refusal(
                "InvalidParameterValue",
                f"Value ({behavior}) for parameter instanceInitiatedShutdownBehavior is invalid.",
            )
        interfaces, group = self._interfaces(r, kind), self._placement_group(r, kind)
        market = r.get("InstanceMarketOptions", {}).get("MarketType")
        return Plan(
            image=image, instance_type=kind["InstanceType"],
            key_name=r.get("KeyName"), public_key=key and key.public_key.strip(),
            user_data=user_data, user_data_text=parse_user_data(r.get("UserData")),
            interfaces=interfaces, volumes=self._volumes(r, image),
            tags=tags_by_type(r.get("TagSpecifications"), LAUNCH_TAGS), client_token=r.get("ClientToken"),
            placement_group=group, tenancy=r.get("Placement", {}).get("Tenancy", "default"),
            lifecycle=market if market in ("spot", "capacity-block") else None,
            shutdown_behavior=behavior, termination_protection=bool(r.get("DisableApiTermination")),
            stop_protection=bool(r.get("DisableApiStop")), ebs_optimized=bool(r.get("EbsOptimized")),
            monitoring="enabled" if r.get("Monitoring", {}).get("Enabled") else "disabled",
            metadata_options=self._metadata_options(r, image), hibernation_options=r.get("HibernationOptions", {}),
            cpu_options=r.get("CpuOptions"), capacity_reservation=r.get("CapacityReservationSpecification"),
            reservation=self.reservation_of(r, kind, interfaces[0].subnet, group), profile=self._profile(r),
        )

    def _type(self, r: dict[str, Any]) -> dict[str, Any]:
        name = r.get("InstanceType") or "m1.small"
        if name not in INSTANCE_TYPES:
            raise refusal("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.")
        return INSTANCE_TYPES[name]

    def _image(self, r: dict[str, Any], kind: dict[str, Any]) -> Image:
        if not r.get("ImageId"):
            raise refusal("MissingParameter", "The request must contain the parameter ImageId")
        image = available(self.ec2_backend, r["ImageId"], self.current_account)
        architectures = kind["ProcessorInfo"]["SupportedArchitectures"]
        if image.architecture not in architectures:
            raise refusal(
                "InvalidParameterValue",
                f"The architecture '{','.join(architectures)}' of the specified instance type does not match the"
                f" architecture '{image.architecture}' of the specified AMI. Specify an instance type and an AMI that"
                " have matching architectures, and try again.",
            )
        if kind["NetworkInfo"].get("EnaSupport") == "required" and not image.ena_support:
            raise refusal(
                "InvalidParameterCombination",
                "Enhanced networking with the Elastic Network Adapter (ENA) is required for the"
                f" '{kind['InstanceType']}' instance type. Ensure that you are using an AMI that is enabled for ENA.",
            )
        return image

    def _user_data(self, r: dict[str, Any]) -> bytes:
        try:
            data = base64.b64decode(r.get("UserData") or "", validate=True)
        except binascii.Error:
            raise refusal("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
        if len(data) > USER_DATA_BYTES:
            raise refusal("InvalidParameterValue", f"User data is limited to {USER_DATA_BYTES} bytes")
        return data

    def _metadata_options(self, r: dict[str, Any], image: Image) -> dict[str, Any]:
        """An image with ImdsSupport v2.0 asks for tokens and two hops unless told otherwise [user guide]."""
        options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2} if image.imds_support == "v2.0" else {}
        options.update(r.get("MetadataOptions", {}))
        tokens, hops = options.get("HttpTokens", "optional"), options.get("HttpPutResponseHopLimit", 1)
        if tokens not in ("optional", "required"):
            raise refusal("InvalidParameterValue", f"Value ({tokens}) for parameter HttpTokens is invalid.")
        if not 1 <= int(hops) <= 64:
            raise refusal("InvalidParameterValue", f"Value ({hops}) for parameter HttpPutResponseHopLimit is invalid.")
        return options

    def _profile(self, r: dict[str, Any]) -> dict[str, str]:
        given = r.get("IamInstanceProfile") or {}
        names = {"iam_instance_profile_name": given.get("Name"), "iam_instance_profile_arn": given.get("Arn")}
        names = {key: value for key, value in names.items() if value}
        try:
            found = not names or filter_iam_instance_profiles(
                self.current_account,
                self.partition,
                names.get("iam_instance_profile_arn"),
                names.get("iam_instance_profile_name"),
            )
        except NotFoundException:
            found = False
        if not found:
            key, value = next(iter(names.items()))
            short = key.removeprefix("iam_instance_profile_")
            raise refusal(
                "InvalidParameterValue",
                f"Value ({value}) for parameter iamInstanceProfile.{short} is invalid."
                f" Invalid IAM Instance Profile {short}",
            )
        return names

    def _placement_group(self, r: dict[str, Any], kind: dict[str, Any]) -> str | None:
        placement = r.get("Placement", {})
        name, group_id = placement.get("GroupName"), placement.get("GroupId")
        if not name and not group_id:
            return None
        group = placement_group(self.memory.placement_groups, name=name, group_id=group_id)
        if group["Strategy"] not in kind["PlacementGroupInfo"]["SupportedStrategies"]:
            raise refusal(
                "InvalidParameterCombination",
                f"{group['Strategy'].capitalize()} placement groups are not supported by the '{kind['InstanceType']}'"
                " instance type. Specify a supported instance type or change the placement group strategy, and try"
                " again.",
            )
        return group["GroupName"]

    # Volumes.

    def _volumes(self, r: dict[str, Any], image: Image) -> list[dict[str, Any]]:
        """The image's volumes, changed and added to by the request's mappings [AWS docs, "Block device mappings"]."""
        devices = {m["DeviceName"]: dict(m["Ebs"]) for m in image.mappings if "Ebs" in m}
        for mapping in r.get("BlockDeviceMappings", []):
            name, ebs = mapping.get("DeviceName"), mapping.get("Ebs", {})
            if "NoDevice" in mapping and name != image.root_device_name:
                devices.pop(name, None)
            elif "VirtualName" not in mapping:
                devices[name] = _merged_volume(name, devices.get(name), ebs)
        return [{"DeviceName": name, **self._checked_volume(name, ebs)} for name, ebs in devices.items()]

    def _checked_volume(self, name: str, ebs: dict[str, Any]) -> dict[str, Any]:
        ebs = {"VolumeType": "gp2", "DeleteOnTermination": True, "Encrypted": False, **ebs}
        kind = ebs["VolumeType"]
        if kind not in VOLUME_TYPES:
            raise refusal("InvalidParameterValue", f"Value ({kind}) for parameter volumeType is invalid.")
        if not ebs.get("VolumeSize"):
            raise refusal("MissingParameter", f"The request must contain the parameter size or snapshotId for {name}")
        if ebs.get("KmsKeyId") and not ebs["Encrypted"]:
            raise refusal(
                "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
            )
        if ebs.get("Iops") and kind not in ("gp3", "io1", "io2"):
            raise refusal("InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes.")
        if ebs.get("Throughput") and kind != "gp3":
            raise refusal(
                "InvalidParameterCombination", f"The parameter throughput is not supported for {kind} volumes."
            )
        if kind in ("io1", "io2") and not ebs.get("Iops"):
            raise refusal("MissingParameter", f"The request must contain the parameter iops for {kind} volumes")
        if kind == "gp3":
            ebs = {"Iops": 3000, "Throughput": 125, **ebs}
        return ebs


def _merged_volume(name: str, of_image: dict[str, Any] | None, ebs: dict[str, Any]) -> dict[str, Any]:
    if of_image is None:
        return dict(ebs)
    if ebs.get("VolumeSize", of_image["VolumeSize"]) < of_image["VolumeSize"]:
        raise refusal(
            "InvalidBlockDeviceMapping",
            f"Volume of size {ebs['VolumeSize']}GB is smaller than snapshot '{of_image.get('SnapshotId')}',"
            f" expect size >= {of_image['VolumeSize']}GB",
        )
    if of_image.get("Encrypted") and ebs.get("Encrypted") is False:
        raise refusal(
            "InvalidParameterValue", f"The encrypted flag of {name} cannot be false: its snapshot is encrypted"
        )
    if ebs.get("VolumeType", of_image["VolumeType"]) != of_image["VolumeType"]:
        # Another type brings its own speed.
        of_image = {key: value for key, value in of_image.items() if key not in ("Iops", "Throughput")}
    return {**of_image, **ebs}
