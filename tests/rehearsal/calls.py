#!/usr/bin/python3
"""Runs a command whose calls of AWS all pass through here: numbered, recorded, and answered as in AWS's bad hours.

  control.py run FOLDER calls.py [OPTION...] -- COMMAND...

  --record FILE          one line of JSON for each call
  --kill-before CALL     kill -9 of COMMAND and its process group before this call reaches the API; exit code 137.
                         CALL is a number, or an action, which means the first that is no dry run
  --kill-after CALL      the same after the call took effect and before its answer goes back
  --kill-new FILE        the same at the first kind of call that is not in FILE yet, which then gets it; before and
                         after by turns. A kind is service, action, dry run or not, and whether it is the command's
                         first of these
  --throttle             the first attempt of every call is throttled
  --unavailable          the first attempt of every call gets a server error
  --lose                 the first attempt of every call takes effect, but the connection ends without an answer
  --refuse ACTION[?dry][@VALUE]=CODE[:TIMES]
                         this action gets this error, if one of its parameters has this value; dry runs only with ?dry
  --late SECONDS         for so long after a thing was made, calls that name it get its NotFound and lists lack it
  --delay MS             every call takes so long at least
  --upstream URL         the API, by default the cloud's

Owns the way of a call between a client and the API, and the command's life. It must not know what a call means
(call_faults.py knows a little), nor what the command is for."""

import argparse
import contextlib
import http.client
import http.server
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable
from email.message import Message

from call_faults import THROTTLED, Answer, Call, Late, Refusals, code_of, error

KILLED = 137
CONNECTIONS = ("connection", "keep-alive", "transfer-encoding", "content-length")


class Way:
    """All that is between the command and the API."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.upstream = urllib.parse.urlsplit(options.upstream)
        self.refusals = Refusals(options.refuse)
        self.late = Late(options.late)
        # Open as long as the command runs.
        self.record = open(options.record, "a", encoding="utf-8") if options.record else None  # noqa: SIM115
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.started = time.monotonic()
        self.seen: set[tuple[object, ...]] = set()
        self.dead = False
        self.command: subprocess.Popen[bytes] | None = None

    def answer(self, method: str, path: str, headers: Message, body: bytes) -> Answer | None:
        """The answer that the command gets; None ends the connection instead."""
        started = time.monotonic()
        with self.lock:
            call = Call(next(self.numbers), headers, body)
            first = call.attempt == 1 if call.attempt else call.same not in self.seen
            self.seen.add(call.same)
            kill, fault, code = self.kill_at(call), *self.fault(call, first)
        if kill == "before":
            return self.kill(call, started, "killed before")
        time.sleep(self.options.delay / 1000)
        if self.dead:
            return None
        answer = error(call, code) if code else self.late.answered(call, self.forward(method, path, headers, body))
        if kill == "after":
            return self.kill(call, started, "killed after")
        self.note(call, started, answer, fault)
        return None if fault == "lost" else answer

    def fault(self, call: Call, first: bool) -> tuple[str, str | None]:
        """What goes wrong with this call, and the error code that says so, if one does."""
        if first and self.options.throttle:
            return "throttled", THROTTLED.get(call.service, "ThrottlingException")
        if first and self.options.unavailable:
            ec2 = "InternalError" if call.number % 2 else "Unavailable"
            return "unavailable", ec2 if call.service == "ec2" else "InternalServerError"
        refused = self.refusals.code(call)
        if refused:
            return "refused", refused
        late = self.late.code(call)
        return ("late", late) if late else ("lost" if first and self.options.lose else "", None)

    def kill_at(self, call: Call) -> str | None:
        """Whether the command dies at this call: before it, after it, or not."""
        at = (str(call.number), None if call.dry else call.action)
        if self.options.kill_before in at or self.options.kill_after in at:
            return "before" if self.options.kill_before in at else "after"
        if not self.options.kill_new:
            return None
        kind = f"{call.service}.{call.action}{'?dry' if call.dry else ''}"
        if ("kind", kind) in self.seen:
            kind += " again"
        self.seen.add(("kind", kind))
        with open(self.options.kill_new, "a+", encoding="utf-8") as file:
            file.seek(0)
            known = file.read().splitlines()
            if kind in known:
                return None
            file.write(kind + "\n")
        return ("after", "before")[len(known) % 2]

    def kill(self, call: Call, started: float, how: str) -> None:
        assert self.command is not None
        with self.lock:
            self.dead = True
        os.killpg(self.command.pid, signal.SIGKILL)
        self.note(call, started, None, how)

    def forward(self, method: str, path: str, headers: Message, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port or 80, timeout=120)
        try:
            connection.request(method, path, body, dict(passed_on(headers.items())))
            answer = connection.getresponse()
            return answer.status, passed_on(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def note(self, call: Call, started: float, answer: Answer | None, fault: str) -> None:
        if not self.record:
            return
        line = {
            "n": call.number, "at": round(started - self.started, 3), "service": call.service, "region": call.region,
            "action": call.action, "dry": call.dry, "attempt": call.attempt, "status": answer[0] if answer else 0,
            "code": code_of(answer) if answer else "", "ms": round((time.monotonic() - started) * 1000, 1),
            "fault": fault,
        }
        with self.lock:
            self.record.write(json.dumps(line) + "\n")
            self.record.flush()


def passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers that are not one connection's own."""
    return [(name, value) for name, value in headers if name.lower() not in CONNECTIONS]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.server.way.answer(self.command, self.path, self.headers, body)
        except (OSError, http.client.HTTPException):
            answer = None
        if answer is None:
            self.close_connection = True
            return
        status, headers, body = answer
        lines = [f"{name}: {value}" for name, value in [*headers, ("Content-Length", len(body))]]
        head = "\r\n".join([f"HTTP/1.1 {status} {http.client.responses.get(status, '')}", *lines, "", ""])
        # In one piece: a body that follows its head would wait for the client's delayed acknowledgement.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(head.encode() + body)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    for name in ("--kill-before", "--kill-after", "--kill-new", "--record"):
        parser.add_argument(name, default="")
    for name in ("--throttle", "--unavailable", "--lose"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--refuse", action="append", default=[])
    parser.add_argument("--late", type=float, default=0)
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--upstream", default="http://10.78.0.1")
    parser.add_argument("words", nargs="+")
    return parser.parse_args()


class Server(http.server.ThreadingHTTPServer):
    # A command may make its calls for hundreds of machines at once.
    request_queue_size = 512

    def __init__(self, way: Way) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.way = way


def main() -> None:
    options = arguments()
    way = Way(options)
    server = Server(way)
    # The command's calls wait in the socket's queue until it is known whom to kill.
    environment = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    # What starts in the background may ignore Ctrl-C; a command inherits that, and a shell can't undo it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = way.command = subprocess.Popen(options.words, env=environment, process_group=0)
    # As from a terminal: Ctrl-C goes to the whole group, an order to end to the command alone.
    signal.signal(signal.SIGINT, lambda *_: os.killpg(command.pid, signal.SIGINT))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(command.pid, signal.SIGTERM))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    status = command.wait()
    sys.exit(KILLED if way.dead else status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
