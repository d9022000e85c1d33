"""Tests that bytes which are no text reach a call of AWS through the control socket, and a guest through its metadata
service. Needs no root: no cloud is started.

Run by `python -m cloud.tests`.
"""

import base64
import json
import os
import socket
import tempfile
import threading
import unittest
import urllib.request

from cloud import control_socket
from cloud.guest import imds

NO_TEXT = bytes(range(256))


class ControlSocket(unittest.TestCase):
    def setUp(self) -> None:
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = os.path.join(folder, "control")
        calls = control_socket.Calls("http://127.0.0.1:9")
        server = self.enterContext(control_socket.Server(self.path, calls, {"echo": lambda value: ascii(value)}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.shutdown)

    def echo(self, value: object) -> dict[str, str]:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(self.path)
            request = {"do": "steer", "verb": "echo", "values": {"value": value}}
            control.sendall(json.dumps(request).encode() + b"\n")
            with control.makefile() as answer:
                return json.loads(answer.readline())

    def test_bytes(self) -> None:
        self.assertEqual(self.echo({"base64": base64.b64encode(NO_TEXT).decode()}), {"ok": ascii(NO_TEXT)})
        self.assertEqual(self.echo({"base64": ""}), {"ok": "b''"})

    def test_what_looks_like_bytes(self) -> None:
        for value in ("base64", ["base64"], {"base64": "", "x": 1}, {}):
            with self.subTest(value):
                self.assertEqual(self.echo(value), {"ok": ascii(value)})

    def test_what_is_not_base64(self) -> None:
        for value in ("!!", "/w", "/w==\n"):
            with self.subTest(value):
                self.assertIn("Error: ", self.echo({"base64": value})["error"])


class Metadata(unittest.TestCase):
    def test_user_data(self) -> None:
        names = (
            "ami-id", "availability-zone", "hostname", "instance-id", "instance-type", "mac", "public-ipv4", "region",
            "reservation-id",
        )
        with socket.create_server(("127.0.0.1", 0)) as listening:
            host, port = listening.getsockname()
            server = imds.serve(listening, dict.fromkeys(names, ""), host, NO_TEXT, None)
            self.addCleanup(server.shutdown)
            latest = f"http://{host}:{port}/latest"
            asked = urllib.request.Request(
                f"{latest}/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
            )
            with urllib.request.urlopen(asked) as answer:
                token = {"X-aws-ec2-metadata-token": answer.read().decode()}
            with urllib.request.urlopen(urllib.request.Request(f"{latest}/user-data", headers=token)) as answer:
                self.assertEqual(answer.read(), NO_TEXT)
