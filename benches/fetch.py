#!/usr/bin/env python3
"""How long after a tarball's last byte is `efa-gen fetch` done with it? Prints a Markdown table.

    benches/fetch.py [BINARY]

Needs gpg and 1.5 GB in TMPDIR. A server on this machine sends 700 MB (MEGABYTES) as fast as it is taken, and at
100 MB a second; the time runs from the end of its last send to the verdict on stdout, and to the end of the process.
Beside it is `efa-gen verify` of the same file: what a second look at the whole file takes. Without BINARY,
target/release/efa-gen is used.
"""

import hashlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SIZE = int(os.environ.get("MEGABYTES", "700")) * 1_000_000
ROUNDS = int(os.environ.get("ROUNDS", "5"))
NAME = "aws-efa-installer-1.51.0.tar.gz"
PIECE = 1 << 20


def sign(folder: str) -> str:
    """Makes the tarball, its signature and the key; returns the key's fingerprint."""
    home = os.path.join(folder, "gnupg")
    os.mkdir(home, 0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "Bench <bench@example.org>", "rsa2048", "sign", "never"], check=True)
    tarball, key = os.path.join(folder, NAME), os.path.join(folder, "aws-efa-installer.key")
    with open(tarball, "wb") as file:
        for at in range(0, SIZE, PIECE):
            file.write(os.urandom(min(PIECE, SIZE - at)))
    signing = ["--digest-algo", "sha256", "--output", f"{tarball}.sig", "--detach-sign", tarball]
    subprocess.run([*gpg, *signing], check=True)
    subprocess.run([*gpg, "--armor", "--output", key, "--export", "bench@example.org"], check=True)
    listed = subprocess.run([*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True).stdout
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))


class Server:
    """Serves the folder's files; remembers when the tarball's last byte was sent."""

    def __init__(self, folder: str, rate: int | None) -> None:
        self.folder, self.rate, self.sent = folder, rate, 0.0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.answer, args=[connection], daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as request:
            name = request.readline().split()[1].decode().lstrip("/")
            while request.readline().strip():
                pass
            with open(os.path.join(self.folder, name), "rb") as file:
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {os.path.getsize(file.name)}\r\nConnection: close\r\n"
                connection.sendall(f'{head}ETag: "one"\r\n\r\n'.encode())
                began, total = time.monotonic(), 0
                while piece := file.read(PIECE):
                    connection.sendall(piece)
                    total += len(piece)
                    if self.rate is not None:
                        time.sleep(max(0.0, began + total / self.rate - time.monotonic()))
            if name == NAME:
                self.sent = time.monotonic()


def fetch(binary: str, server: Server, fingerprint: str, sha256: str) -> tuple[float, float]:
    """Seconds from the last byte to the verdict, and to the end of the process."""
    with tempfile.TemporaryDirectory() as out:
        # With its digest, as of a known release: without one the version is looked up in the file afterwards.
        flags = ["--efa", "1.51.0", "--base-url", server.url, "--fingerprint", fingerprint, "--sha256", sha256]
        command = [binary, "fetch", *flags, "--out", out]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdout is not None
        line = child.stdout.readline()
        verdict = time.monotonic()
        if child.wait() != 0 or not line.startswith(b"good signature"):
            sys.exit(f"exit {child.returncode}: {line!r}")
        return verdict - server.sent, time.monotonic() - server.sent


def verify(binary: str, folder: str, fingerprint: str, sha256: str) -> float:
    begin = time.monotonic()
    command = [binary, "verify", os.path.join(folder, NAME), "--fingerprint", fingerprint, "--sha256", sha256]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - begin


def main() -> None:
    binary = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/efa-gen")
    with tempfile.TemporaryDirectory() as folder:
        fingerprint = sign(folder)
        with open(os.path.join(folder, NAME), "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        print("| line | verdict after the last byte, median s | min-max s | end of the process, median s |")
        print("|---|---|---|---|")
        for name, rate in (("as fast as it is taken", None), ("100 MB/s", 100_000_000)):
            server = Server(folder, rate)
            runs = [fetch(binary, server, fingerprint, sha256) for _ in range(ROUNDS)]
            verdicts = [verdict for verdict, _ in runs]
            end = statistics.median(end for _, end in runs)
            spread = f"{min(verdicts):.3f}-{max(verdicts):.3f}"
            print(f"| {name} | {statistics.median(verdicts):.3f} | {spread} | {end:.3f} |")
        second = statistics.median(verify(binary, folder, fingerprint, sha256) for _ in range(ROUNDS))
        print(f"\n`efa-gen verify` of the same file: {second:.3f} s")


main()
