"""Owns the web that guests and clients see, one WSGI application chosen by host name: Debian's archive (fetched once
through this machine's apt, then kept), the mirror of stand-in artifacts with its faults, and the address echo that
Packer asks. Knows nothing of EC2: what is not named here goes to the API."""

import os
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

# The mirror behaves so towards one guest until told otherwise.
FAULTS = ("cut", "wrong", "down")


class Sites:
    """`archive` is the cache folder, `mirror` the artifacts' folder; `fetch` a command prefix that has the network."""

    def __init__(self, archive: str, mirror: str, fetch: list[str], api: WSGIApplication) -> None:
        self.archive = archive
        self.mirror = mirror
        self.fetch = fetch
        self.api = api
        # By a guest's address.
        self.faults: dict[str, str] = {}
        self.fresh: set[str] = set()
        self.locks: dict[str, threading.Lock] = {}
        self.guard = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").split(":")[0]
        answers: dict[str, Callable[[Request], Response]] = {
            "deb.debian.org": self.debian,
            "mirror.rehearsal.test": self.artifact,
            "checkip.amazonaws.com": lambda request: Response(f"{request.remote_addr}\n"),
        }
        if host not in answers:
            return self.api(environ, start_response)
        try:
            answer = answers[host](Request(environ))
        except HTTPException as refusal:
            answer = refusal.get_response(environ)
        return answer(environ, start_response)

    def fault(self, address: str, fault: str) -> None:
        """How the mirror behaves towards the guest with this address."""
        if fault != "none" and fault not in FAULTS:
            raise ValueError(f"no such fault: {fault}")
        self.faults[address] = fault

    def debian(self, request: Request) -> Response:
        """A file of Debian's archive. A release's index is asked for anew in each rehearsal, other files never
        change."""
        path = safe(self.archive, request.path)
        changing = path.endswith(("/InRelease", "/Release", "/Release.gpg"))
        with self.lock_of(path):
            if not os.path.exists(path) or (changing and path not in self.fresh):
                self.download("http://deb.debian.org" + request.path, path)
                self.fresh.add(path)
        return send_file(file_of(path), request.environ, mimetype="application/octet-stream", max_age=0)

    def download(self, url: str, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = path + ".new"
        done = subprocess.run(
            [*self.fetch, "/usr/lib/apt/apt-helper", "download-file", url, new], capture_output=True, check=False,
        )
        if done.returncode != 0:
            if os.path.exists(new):
                os.unlink(new)
            raise NotFound(f"{url}: {done.stderr.decode(errors='replace')}")
        os.rename(new, path)

    def lock_of(self, path: str) -> threading.Lock:
        with self.guard:
            return self.locks.setdefault(path, threading.Lock())

    def artifact(self, request: Request) -> Response:
        """A file of the mirror, `HOST/PATH`, resumable; unless the guest that asks is to see it fail."""
        path = file_of(safe(self.mirror, request.path))
        fault = self.faults.get(request.remote_addr or "", "none")
        if fault == "down":
            return Response("the mirror is down for this guest\n", 503)
        if fault == "none":
            return send_file(path, request.environ, mimetype="application/octet-stream", conditional=True, max_age=0)
        size = os.path.getsize(path)
        if fault == "wrong":
            return Response(b"\0" * size, mimetype="application/octet-stream")
        return Response(half(path, size), headers={"Content-Length": str(size)}, mimetype="application/octet-stream")


def half(path: str, size: int) -> Iterator[bytes]:
    """The first half of a file; then the connection ends, although more was announced."""
    with open(path, "rb") as file:
        yield file.read(size // 2)


def safe(folder: str, path: str) -> str:
    """The path below the folder, never outside it."""
    found = os.path.normpath(os.path.join(folder, urllib.parse.unquote(path).lstrip("/")))
    if not found.startswith(folder + os.sep) or os.path.isdir(found):
        raise NotFound(path)
    return found


def file_of(path: str) -> str:
    """The path of a file that is there."""
    if not os.path.isfile(path):
        raise NotFound(path)
    return path
