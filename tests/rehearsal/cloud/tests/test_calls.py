#!/usr/bin/python3
"""Tests calls.py before an API of one line: each answer counts up, and the answer of an action that makes something
holds an id. Needs neither root nor the cloud."""

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Sequence
from typing import Any

HERE = os.path.dirname(os.path.realpath(__file__))
ID = "i-0123456789abcdef0"
# A client of no SDK: one call after another, as many attempts as it is told, and what came of each on a line.
CLIENT = '''
import os, sys, urllib.error, urllib.request
for words in sys.argv[2:]:
    for attempt in range(1, 1 + int(sys.argv[1])):
        service = {"G": "sts", "{": "ssm"}.get(words[0], "ec2")
        scope = f"k/20260101/us-east-1/{service}/aws4_request"
        headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, Signature={attempt}",
                   "amz-sdk-request": f"attempt={attempt}; max=3"}
        body = words.encode()
        if words.startswith("{"):
            headers["X-Amz-Target"] = "AmazonSSM.GetParameter"
        else:
            body = b"Action=" + body
        request = urllib.request.Request(os.environ["AWS_ENDPOINT_URL"], body, headers)
        try:
            said = urllib.request.urlopen(request).read().decode()
        except urllib.error.HTTPError as refusal:
            said = f"{refusal.code} {refusal.read().decode()}"
        except OSError as lost:
            said = "nothing"
        print(said, flush=True)
        if said[:1] == "<":
            break
'''


class Api(http.server.BaseHTTPRequestHandler):
    """Counts its calls."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(asked)
        items = f"<set><item><id>{ID}</id></item><item><id>i-old</id></item></set>" if "Instances" in asked else ""
        body = f"<Answer><n>{len(self.server.asked)}</n>{items}</Answer>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


# Seconds. A compiler may be at work beside these tests.
PATIENCE = 300


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Api)
        self.asked: list[str] = []


class Calls(unittest.TestCase):
    def setUp(self) -> None:
        self.api = Server()
        threading.Thread(target=self.api.serve_forever, daemon=True).start()
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.addCleanup(self.api.server_close)
        self.addCleanup(self.api.shutdown)
        self.kinds = os.path.join(self.folder.name, "kinds")

    def start(self, *options: str, command: Sequence[str]) -> subprocess.Popen[str]:
        upstream = f"http://127.0.0.1:{self.api.server_port}"
        record = os.path.join(self.folder.name, "record")
        line = [os.path.join(HERE, "..", "..", "calls.py"), "--upstream", upstream, "--record", record]
        process = subprocess.Popen([*line, *options, "--", *command], stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        return process

    def run_client(
        self, *options: str, attempts: int = 1, calls: Sequence[str] = ("DescribeVpcs",)
    ) -> tuple[int, list[str], list[dict[str, Any]]]:
        """The exit code, what came of each attempt, and the record."""
        process = self.start(*options, command=[sys.executable, "-c", CLIENT, str(attempts), *calls])
        said = process.communicate(timeout=PATIENCE)[0].splitlines()
        with open(os.path.join(self.folder.name, "record"), encoding="utf-8") as file:
            return process.returncode, said, [json.loads(line) for line in file]

    def test_calls_pass_and_are_recorded(self) -> None:
        calls = ("DescribeVpcs", "RunInstances&DryRun=true", '{"Name": "x"}')
        code, said, record = self.run_client("--delay", "50", calls=calls)
        self.assertEqual(code, 0)
        self.assertEqual([line[:14] for line in said], ["<Answer><n>1</", "<Answer><n>2</", "<Answer><n>3</"])
        self.assertEqual([line["n"] for line in record], [1, 2, 3])
        self.assertEqual([line["action"] for line in record], ["DescribeVpcs", "RunInstances", "GetParameter"])
        self.assertEqual([line["dry"] for line in record], [False, True, False])
        self.assertEqual({(line["region"], line["status"]) for line in record}, {("us-east-1", 200)})
        self.assertEqual([line["service"] for line in record], ["ec2", "ec2", "ssm"])
        self.assertTrue(all(line["ms"] >= 50 for line in record))

    def test_killed_before_and_after(self) -> None:
        for side, at, reached in (("before", "2", 1), ("after", "2", 2), ("before", "B", 1), ("after", "B", 2)):
            code, said, record = self.run_client(f"--kill-{side}", at, calls=("A", "B", "C"))
            self.assertEqual((code, len(said), record[-1]["fault"]), (137, 1, f"killed {side}"))
            self.assertEqual(len(self.api.asked), reached)
            self.api.asked.clear()

    def test_killed_at_each_new_kind(self) -> None:
        calls = ("A", "B", "A", "A")
        codes = [self.run_client("--kill-new", self.kinds, calls=calls)[0] for _ in range(4)]
        self.assertEqual(codes, [137, 137, 137, 0])
        with open(self.kinds, encoding="utf-8") as file:
            self.assertEqual(file.read().splitlines(), ["ec2.A", "ec2.B", "ec2.A again"])

    def test_first_attempts(self) -> None:
        for option, first, reached in (
            ("throttle", "RequestLimitExceeded", 1), ("unavailable", "InternalError", 1), ("lose", "", 2)
        ):
            code, said, record = self.run_client(f"--{option}", attempts=2)
            self.assertEqual((code, len(said), len(self.api.asked)), (0, 2, reached))
            self.assertIn(first or "nothing", said[0])
            self.assertEqual(record[-2]["code"], first)
            self.api.asked.clear()
        self.assertIn("<ErrorResponse>", self.run_client("--throttle", calls=("GetCallerIdentity",))[1][0])
        self.assertIn('{"__type": "ThrottlingException"', self.run_client("--throttle", calls=("{}",))[1][0])

    def test_refusals(self) -> None:
        run = ("RunInstances&SubnetId=a", "RunInstances&SubnetId=b", "RunInstances&SubnetId=a&DryRun=true")

        def said(rule: str) -> list[str]:
            return [line.split(" ")[0][:3] for line in self.run_client("--refuse", rule, calls=run)[1]]

        self.assertEqual(said("RunInstances=InsufficientInstanceCapacity"), ["500", "500", "<An"])
        self.assertEqual(said("RunInstances@a=InsufficientInstanceCapacity"), ["500", "<An", "<An"])
        self.assertEqual(said("RunInstances=UnauthorizedOperation:1"), ["400", "<An", "<An"])
        self.assertEqual(said("RunInstances?dry=UnauthorizedOperation"), ["<An", "<An", "400"])

    def test_late(self) -> None:
        calls = ("RunInstances", f"DescribeInstances&InstanceId.1={ID}", "DescribeInstances&Filter.1.Value.1=x",
                 "DescribeInstances")
        said = self.run_client("--late", "20", calls=calls)[1]
        self.assertIn("InvalidInstanceID.NotFound", said[1])
        for line in said[2:]:
            self.assertNotIn(ID, line)
            self.assertIn("i-old", line)
        self.assertIn(ID, self.run_client("--late", "0", calls=calls)[1][1])

    def test_late_names(self) -> None:
        calls = ("ImportKeyPair&KeyName=a", "CreateSecurityGroup&GroupName=a", "RunInstances&KeyName=a",
                 "ImportKeyPair&KeyName=a")
        said = self.run_client("--late", "20", calls=calls)[1]
        self.assertEqual(["InvalidKeyPair.NotFound" in line for line in said], [False, False, True, False])

    def test_late_placement_groups_and_addresses(self) -> None:
        calls = ("CreatePlacementGroup&GroupName=a", "RunInstances&Placement.GroupName=a",
                 "CreateSecurityGroup&GroupName=a", "DescribePlacementGroups&GroupName.1=a",
                 "DeletePlacementGroup&GroupName=a", "RunInstances&Placement.GroupName=b")
        said = self.run_client("--late", "20", calls=calls)[1]
        unknown = ["InvalidPlacementGroup.Unknown" in line for line in said]
        self.assertEqual(unknown, [False, True, False, True, True, False])
        associate = f"AssociateAddress&NetworkInterfaceId=eni-new&AllocationId={ID}"
        rule = f"AssociateAddress@{ID}=InvalidAllocationID.NotFound:1"
        record = self.run_client("--refuse", rule, calls=(associate, associate))[2]
        codes = [line["code"] for line in record]
        self.assertEqual(codes[-2:], ["InvalidAllocationID.NotFound", ""])

    def test_a_subnet_that_is_full_is_the_clients_error(self) -> None:
        for code, status in (("InsufficientFreeAddressesInSubnet", "400"), ("InsufficientInstanceCapacity", "500"),
                             ("InsufficientAddressCapacity", "500"), ("ReservationCapacityExceeded", "400")):
            said = self.run_client("--refuse", f"RunInstances={code}", calls=("RunInstances",))[1]
            self.assertEqual(said[0][:3], status)

    def test_many_calls_at_once(self) -> None:
        client = "import os, sys, urllib.request as u\nfrom concurrent.futures import ThreadPoolExecutor as P\n" \
                 "url = os.environ['AWS_ENDPOINT_URL']\n" \
                 "ask = lambda n: u.urlopen(u.Request(url, f'Action=A{n}'.encode())).status\n" \
                 "sys.exit(set(P(256).map(ask, range(512))) != {200})"
        process = self.start(command=[sys.executable, "-c", client])
        process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, len(self.api.asked)), (0, 512))

    def test_the_commands_own_end(self) -> None:
        for words, code in (("exit 3", 3), ("kill -TERM $$", 143)):
            process = self.start(command=["sh", "-c", words])
            process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, code)
        traps = "trap 'exit 6' INT; trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"
        for number, words in (("INT", "6"), ("TERM", "7")):
            process = self.start(command=["sh", "-c", traps])
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.2)
            subprocess.run(["kill", f"-{number}", str(process.pid)], check=True)
            process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, int(words))


if __name__ == "__main__":
    unittest.main()
