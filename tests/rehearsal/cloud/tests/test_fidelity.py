"""Tests which public keys are imported, what is told of network cards, and that nothing is done that was not allowed.

Run by `python -m cloud.tests`.
"""

import base64
import re
import urllib.parse
import urllib.request
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloud.ec2 import api
from cloud.ec2.core import refusal
from cloud.tests.testing import Ec2Test, server

SIGNED = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0"


def in_openssh(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def in_rfc4716(public_key: bytes) -> bytes:
    text = public_key.split()[1].decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join(["---- BEGIN SSH2 PUBLIC KEY ----", *lines, "---- END SSH2 PUBLIC KEY ----"]).encode()


def of_parts(kind: bytes, *parts: bytes) -> bytes:
    """A public key in OpenSSH's format, of a kind that Python makes none of."""
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (kind, *parts))
    return kind + b" " + base64.b64encode(blob)


def raw(action: str, **parameters: str) -> str:
    """The XML of an answer."""
    body = urllib.parse.urlencode({"Action": action, "Version": "2016-11-15", **parameters}).encode()
    headers = {"Authorization": SIGNED, "Content-Type": "application/x-www-form-urlencoded"}
    with urllib.request.urlopen(urllib.request.Request(f"{server()}/", body, headers)) as answer:
        return answer.read().decode()


class PublicKeys(Ec2Test):
    def setUp(self) -> None:
        super().setUp()
        # 3072 bits are what ssh-keygen makes.
        self.rsa = in_openssh(rsa.generate_private_key(65537, 3072).public_key())
        self.ed25519 = in_openssh(ed25519.Ed25519PrivateKey.generate().public_key())

    def test_rsa_and_ed25519_are_imported(self) -> None:
        for name, kind, material in (
            ("rsa", "rsa", self.rsa),
            ("commented", "rsa", self.rsa + b" me@here\n"),
            ("rfc4716", "rsa", in_rfc4716(self.rsa)),
            ("ed25519", "ed25519", self.ed25519),
        ):
            with self.subTest(name):
                self.would(self.ec2.import_key_pair, KeyName=name, PublicKeyMaterial=material)
                self.ec2.import_key_pair(KeyName=name, PublicKeyMaterial=material)
                (pair,) = self.ec2.describe_key_pairs(KeyNames=[name])["KeyPairs"]
                self.assertEqual(pair["KeyType"], kind)

    def test_all_others_are_refused(self) -> None:
        ecdsa = in_openssh(ec.generate_private_key(ec.SECP256R1()).public_key())
        prime, order = b"\x00" + b"\xff" * 128, b"\x00" + b"\xff" * 20
        for name, material in (
            ("ECDSA", ecdsa),
            ("ECDSA in RFC 4716", in_rfc4716(ecdsa)),
            ("Ed25519 in RFC 4716", in_rfc4716(self.ed25519)),
            ("DSA", of_parts(b"ssh-dss", prime, order, b"\x02", b"\x03")),
            ("a security token", of_parts(b"sk-ssh-ed25519@openssh.com", b"\x01" * 32, b"ssh:")),
            ("PEM", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
            ("half a key", self.rsa[:60]),
            ("a line of authorized_keys with options", b"no-pty " + self.rsa),
            ("junk", b"junk"),
            ("bytes", b"\xff\xfe junk"),
            ("nothing", b" "),
        ):
            with self.subTest(name):
                for dry in (False, True):
                    self.refused(
                        "InvalidKey.Format", self.ec2.import_key_pair, KeyName="k", PublicKeyMaterial=material,
                        DryRun=dry, text="Key is not in valid OpenSSH public key format",
                    )
        self.assertEqual(self.ec2.describe_key_pairs()["KeyPairs"], [])


class NetworkCards(Ec2Test):
    """What each card takes is AWS's own data, in moto's files."""

    def test_what_a_card_takes_is_told(self) -> None:
        all_kinds = ["interface", "efa", "efa-only"]
        wanted = {
            "c5.large": [["interface"]],
            "c5n.18xlarge": [all_kinds],
            "p4d.24xlarge": [all_kinds] * 4,
            # Its card 0 is for IP alone [AWS docs, "EFA on accelerated computing types"].
            "p6-b300.48xlarge": [["interface"], *[all_kinds] * 16],
        }
        found = self.ec2.describe_instance_types(InstanceTypes=list(wanted))["InstanceTypes"]
        told = {
            one["InstanceType"]: [card["InterfaceTypes"] for card in one["NetworkInfo"]["NetworkCards"]]
            for one in found
        }
        self.assertEqual(told, wanted)

    def test_by_the_names_of_the_api(self) -> None:
        answer = raw("DescribeInstanceTypes", **{"InstanceType.1": "c5n.18xlarge"})
        cards = re.findall("<networkCards>(.*)</networkCards>", answer)
        self.assertEqual(len(cards), 1, answer)
        self.assertIn(
            "<interfaceTypeSet><item>interface</item><item>efa</item><item>efa-only</item></interfaceTypeSet>", cards[0]
        )


class Permissions(Ec2Test):
    def test_what_is_not_allowed_is_refused_before_anything_else(self) -> None:
        asked: list[tuple[str, str | None]] = []

        def refuse(call: api.RehearsalEc2) -> None:
            self.assertTrue(call.access_key)
            asked.append((call._get_action(), call.params.get("InstanceType")))
            raise refusal("UnauthorizedOperation", "You are not authorized to perform this operation.")

        with mock.patch.object(api, "authorize", refuse):
            self.refused("UnauthorizedOperation", self.run_one, status=403)
            self.refused("UnauthorizedOperation", self.run_one, status=403, DryRun=True)
            self.refused("UnauthorizedOperation", self.run_one, status=403, InstanceType="zz.bogus")
            self.refused("UnauthorizedOperation", self.ec2.describe_images, status=403)
            self.refused("UnauthorizedOperation", self.ec2.create_vpc, status=403, CidrBlock="10.0.0.0/16", DryRun=True)
        self.assertEqual(
            asked,
            [
                ("RunInstances", "c5.large"), ("RunInstances", "c5.large"), ("RunInstances", "zz.bogus"),
                ("DescribeImages", None), ("CreateVpc", None),
            ],
        )
        self.assertEqual(self.guests.calls, [])
        self.assertEqual(self.ec2.describe_instances()["Reservations"], [])

    def test_everything_is_allowed(self) -> None:
        self.would(self.run_one)
        self.running()
