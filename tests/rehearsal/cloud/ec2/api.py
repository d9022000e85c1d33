"""The EC2 API of the rehearsal cloud: moto's server with an extension of ours, and guests behind its instances.

This is our patch of an emulator, not a counterpart of AWS: what passes here may still be refused there. moto answers
what is not named below; where it would answer with a page of HTML, this answers with EC2's own error.

    behaviour                                             known from
    placement groups, their errors                        AWS API reference, list of error codes
    interfaces: type, card, limits, EFA only where had    AWS user guide ("EFA on accelerated computing types"); the
                                                          limits are AWS's own data, in moto's files
    public address only with a single interface           AWS API reference, many public reports of the refusal
    client tokens                                         AWS user guide, "Ensuring idempotency"
    names taken, unknown, in use; 16 KiB of user data     list of error codes; user guide, "User data"
    the public keys that are imported                     user guide, "Create a key pair"; public reports of refusals
    states that take their time, console, shutdown        user guide, "Instance state changes"; the times are ours
    images: what a copy keeps, deprecation, protection,   user guide, "Copy an AMI", "Deprecate an AMI", "Protect an
    sharing, IMDS support                                 AMI from deregistration", "Share an AMI"
    zones without the type                                AWS's offerings, in moto's files
    elastic addresses                                     API reference, AssociateAddress; list of error codes; the
                                                          address is translated outside the guest, by nftables
    the default VPC's way to the Internet                 VPC user guide, "Default VPC components"
    the console of now, of Nitro's types alone            user guide, "Instance console output"
    capacity reservations and blocks                      user guide, "Capacity Blocks for ML"; list of error codes;
                                                          public reports of refusals
    images that fail, room, reservations, quotas          ours, by what steers
    who may do what                                       ours: the policy judge (cloud/iam); access.py has the rules
    the AMIs and SSM parameters                           amis.json: names and owners as published, ids invented; the
                                                          same ids in every region, which AWS does not do

Owns the patching of moto and the way of a request. Each action is in the module of its kind: launch, instance_actions,
image_actions, groups, addresses, capacity; what it asks of its caller's policy is in access. It must not know how
machines are made: `install` takes an object that makes them.
"""

import base64
import json
import sys
import traceback
from typing import Any
from uuid import uuid4

from botocore.model import OperationNotFoundError
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.common_types import TYPE_RESPONSE
from moto.core.exceptions import AccessDeniedError, JsonRESTError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.request import Request
from moto.core.responses import ActionResult, BaseResponse
from moto.core.utils import camelcase_to_underscores, utcnow
from moto.ec2 import urls
from moto.ec2.exceptions import DryRunClientError, EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.amis import AmiBackend
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, EC2_RESOURCE_TO_PREFIX
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.servicequotas.models import ServiceQuotasBackend
from moto.ssm.models import Parameter, ParameterDict

from cloud.ec2 import access
from cloud.ec2.addresses import Addresses
from cloud.ec2.capacity import Capacity
from cloud.ec2.core import Cloud, Machines, refusal
from cloud.ec2.groups import KeyPairIds, PlacementGroups, SecurityGroupRules
from cloud.ec2.image_actions import Images
from cloud.ec2.images import images_with_root, light_image_of, load_catalogue, newest_by_parameter
from cloud.ec2.launch import Launches
from cloud.ec2.networks import extend_interfaces
from cloud.iam.callers import arn, sentence
from cloud.iam.judge import judge

__all__ = [
    "app", "fail_image", "images_with_root", "install", "light_image", "limit", "put_file", "record", "reserve",
    "set_quota", "set_room",
]

# vCPUs and addresses. The codes and names are AWS's, also the five addresses; the vCPUs on demand are enough for 256
# large machines.
QUOTAS = {
    "L-1216C47A": ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 32768.0),
    "L-417A185B": ("Running On-Demand P instances", 32768.0),
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 32768.0),
    "L-34B43A08": ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 640.0),
    "L-7212CCBC": ("All P4, P3 and P2 Spot Instance Requests", 192.0),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 192.0),
    "L-0263D0A3": ("EC2-VPC Elastic IPs", 5.0),
}
# EC2's server errors; all others are the client's, with status 400.
SERVER_ERRORS = {"InsufficientInstanceCapacity": 500}


def authorize(api: "RehearsalEc2") -> None:
    """Every call of EC2 comes here before it takes effect or a dry run is answered."""
    callers, key = api.cloud.callers, api.access_key
    if not callers.is_limited(key):
        return
    denied = callers.denied(key, api._get_action(), bool(api._get_param("DryRun")), access.requests_of(api, judge()))
    if denied:
        encoded = base64.b64encode(json.dumps({"allowed": False, "asked": denied}).encode()).decode()
        raise refusal(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. {sentence(key, denied)}. Encoded authorization failure"
            f" message: {encoded}",
        )


def _authorize_other(api: BaseResponse, resource: str = "*") -> None:
    """The same for other services, which word it in their own forms."""
    callers, key = RehearsalEc2.cloud.callers, api.access_key
    if isinstance(api, RehearsalEc2) or not callers.is_limited(key):
        return
    asked = access.requests_of_other(api, judge())
    denied = callers.denied(key, api._get_action(), False, asked)
    if denied and api.service_name == "iam":
        raise AccessDeniedError(arn(key), f"{denied['action']} on resource: {denied['resource']}")
    if denied:
        raise JsonRESTError("AccessDeniedException", sentence(key, denied))


class RehearsalEc2(Launches, Addresses, Images, PlacementGroups, SecurityGroupRules, KeyPairIds):
    """One request: all parts of the API together."""

    def _dispatch(self, request: Request, full_url: str | None = None, headers: Any = None) -> TYPE_RESPONSE:
        try:
            self.setup_class(request, full_url, headers)
        except OperationNotFoundError:
            action = request.values.get("Action", "")
            return self._refuse(refusal("InvalidAction", f"The action {action} is not valid for this web service."))
        return self.call_action()

    def call_action(self) -> TYPE_RESPONSE:
        """moto's, one at a time, and an XML error for whatever goes wrong."""
        try:
            with self.cloud.lock:
                self.cloud.settle()
                print("call", self._get_action() + ("?dry" if self._get_param("DryRun") else ""), flush=True)
                try:
                    authorize(self)
                except EC2ClientError as error:
                    return self._refuse(error, 403)
                self._dry_run_for_those_that_ignore_it()
                return self._numbered(*super().call_action())
        except DryRunClientError as error:
            return self._refuse(error, 412)
        except NotImplementedError as error:
            return self._refuse(refusal("UnsupportedOperation", f"The rehearsal's EC2 does not do this: {error}"))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return self._refuse(refusal("InternalError", f"The rehearsal's EC2 failed: {error!r}"), 500)

    def _dry_run_for_those_that_ignore_it(self) -> None:
        name = camelcase_to_underscores(self._get_action())
        # Where a client token is looked at first, the action itself is in a method of its own.
        methods = [method for method in (getattr(type(self), n, None) for n in (name, "_" + name)) if method]
        if methods and self._get_param("DryRun") and not any("error_on_dryrun" in m.__code__.co_names for m in methods):
            raise DryRunClientError()

    def serialized(self, action_result: ActionResult) -> TYPE_RESPONSE:
        status, headers, body = super().serialized(action_result)
        return SERVER_ERRORS.get(getattr(action_result.result, "code", ""), status), headers, body

    def _refuse(self, error: EC2ClientError, status: int = 400) -> TYPE_RESPONSE:
        _, headers, body = self.serialized(ActionResult(error))
        headers, body = self._enrich_response(headers, body)
        return self._numbered(status, headers, body)

    @staticmethod
    def _numbered(status: int, headers: dict[str, Any], body: Any) -> TYPE_RESPONSE:
        """Each answer has an id of its own; moto's EC2 calls all of them "request-id"."""
        return status, headers, body.replace(">request-id<", f">{uuid4()}<")

    def create_network_interface(self) -> ActionResult:
        result: Any = super().create_network_interface()
        result.result["NetworkInterface"].interface_type = self._get_param("InterfaceType", "interface")
        return result


def _no_other_launches(self: EC2Backend, *_: Any, **__: Any) -> None:
    """moto's own way to instances (old spot requests, auto scaling): they would have no guest and obey no rule."""
    raise refusal("UnsupportedOperation", "The rehearsal launches by RunInstances and by instant fleets only")


def _load_parameters(parameters: ParameterDict, name: str) -> None:
    """SSM's public parameters name images of our catalogue; moto's would name its own."""
    if str(name or "").startswith("/aws/service/global-infrastructure"):
        _moto_parameters(parameters, name)
    if vars(parameters).get("rehearsal"):
        return
    vars(parameters)["rehearsal"] = True
    for known, image_id in newest_by_parameter().items():
        dict.setdefault(parameters, known, []).append(
            Parameter(parameters.account_id, known, image_id, "String", None, None, None, utcnow(), 1, "text")
        )


def _quota(backend: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
    if service_code != "ec2" or quota_code not in QUOTAS:
        return _moto_quota(backend, service_code, quota_code)
    name, value = QUOTAS[quota_code][0], RehearsalEc2.cloud.quotas[quota_code]
    return {
        "ServiceCode": "ec2", "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)", "QuotaCode": quota_code,
        "QuotaArn": f"arn:aws:servicequotas:{backend.region_name}:{backend.account_id}:ec2/{quota_code}",
        "QuotaName": name, "Value": value, "Unit": "None", "Adjustable": True, "GlobalQuota": False,
    }


def _with_gateway(backend: EC2Backend, *arguments: Any, **more: Any) -> None:
    """moto's default VPC leads nowhere."""
    _moto_backend(backend, *arguments, **more)
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, backend.default_vpc.id)
    for table in list(backend.route_tables.values()):
        backend.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)


def fail_image(name: str) -> None:
    """The next image that an instance is made into under this name ends as failed."""
    with RehearsalEc2.cloud.lock:
        RehearsalEc2.cloud.failing_images.add(name)


def set_room(place: str, kind: str, count: int | str) -> None:
    """A region or zone has room for so many more instances of a type, or for any number again."""
    with RehearsalEc2.cloud.lock:
        RehearsalEc2.cloud.capacity.set_room(place, kind, count)


def reserve(**said: Any) -> None:
    """There is a capacity reservation, or a capacity block."""
    with RehearsalEc2.cloud.lock:
        RehearsalEc2.cloud.capacity.reserve(**said)


def light_image(region: str) -> str:
    """The image of the account's own in a region whose machines are light hosts; made when first asked for."""
    cloud = RehearsalEc2.cloud
    with cloud.lock:
        image = light_image_of(ec2_backends[DEFAULT_ACCOUNT_ID][region])
        cloud.guests.add_light_image(image.id)
        return image.id + "\n"


def put_file(region: str, index: int | str, path: str, text: str) -> None:
    """A file on the machine with this launch index of the next launch in a region, from before its first boot."""
    with RehearsalEc2.cloud.lock:
        RehearsalEc2.cloud.files.setdefault((region, int(index)), []).append((path, text + "\n"))


def set_quota(code: str, value: float | str) -> None:
    """The account's quota is so high, in every region."""
    if code not in QUOTAS:
        raise ValueError(f"no quota {code}")
    with RehearsalEc2.cloud.lock:
        RehearsalEc2.cloud.quotas[code] = float(value)


def limit(key: str, policy: str) -> None:
    """Whoever has this access key may do what the policy document allows, and nothing else."""
    RehearsalEc2.cloud.callers.limit(key, policy)


def record(key: str) -> str:
    """All that was judged of a limited caller, as JSON."""
    return RehearsalEc2.cloud.callers.record(key)


_moto_backend = EC2Backend.__init__
_moto_parameters = ParameterDict._check_loading_status
_moto_quota = ServiceQuotasBackend.get_service_quota


def install(guests: Machines) -> None:
    """Puts the extension into moto, with these machines behind it. A second call only replaces the machines."""
    RehearsalEc2.cloud = Cloud(guests, Capacity(), {code: value for code, (_, value) in QUOTAS.items()})
    guests.on_stopped = RehearsalEc2.cloud.went_down
    urls.url_paths = {"{0}/": RehearsalEc2.dispatch}
    for where, name, ours in (
        (ActionAuthenticatorMixin, "_authenticate_and_authorize_normal_action", _authorize_other),
        (AmiBackend, "_load_amis", load_catalogue),
        (EC2Backend, "__init__", _with_gateway),
        (EC2Backend, "run_instances", _no_other_launches),
        (ParameterDict, "_check_loading_status", _load_parameters),
        (ServiceQuotasBackend, "get_service_quota", _quota),
    ):
        setattr(where, name, ours)
    EC2_RESOURCE_TO_PREFIX["placement-group"], EC2_PREFIX_TO_RESOURCE["pg"] = "pg", "placement-group"
    extend_interfaces()


def app() -> DomainDispatcherApplication:
    """moto's server as a WSGI application."""
    return DomainDispatcherApplication(create_backend_app)
