#!/usr/bin/env python3
"""What a key file costs `efa-gen verify` to which anybody has added things. Prints a Markdown table.

    benches/keys.py [BINARY]

Without BINARY, target/release/efa-gen is used. Each file is 4 MiB at most, efa-gen's limit. The signature is over other
data, so that everything is judged that is ever judged, and exit code 3 is the right one.
"""

import hashlib
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import peak

ROUNDS = 9
LIMIT = 4 << 20
MOST_PARTS = 500
MOST_BYTES = 256 << 10

fixtures = pathlib.Path(__file__).parent.parent / "tests/fixtures/pgp"
key = (fixtures / "good.gpg").read_bytes()
fingerprint = (fixtures / "good.fpr").read_text().strip()
issuer = bytes.fromhex(fingerprint)
# The lengths of its packets: the primary key, the name, the self-signature.
PRIMARY, NAME = 272, 25
created = int.from_bytes(key[4:8])


def packet(tag: int, body: bytes) -> bytes:
    """RFC 9580, section 4.2.1.4: a length of five bytes."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def name(number: int) -> bytes:
    return packet(13, f"Mallory {number}".encode())


def subkey(number: int) -> bytes:
    """Ed25519, as old as the primary key."""
    point = b"\x40" + number.to_bytes(4) + bytes(28)
    return packet(14, b"\x04" + key[4:8] + b"\x16\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01\x01\x07" + point)


def signature(kind: int, number: int, prefix: bytes) -> bytes:
    """An RSA signature that says it is the key's, with the first two bytes of the digest that it is to be over."""
    made = (created + number % 1000).to_bytes(4)
    hashed = b"\x05\x02" + made + b"\x16\x21\x04" + issuer
    head = bytes([4, kind, 1, 8]) + len(hashed).to_bytes(2) + hashed
    digest = hashlib.sha256(prefix + head + b"\x04\xff" + len(head).to_bytes(4)).digest()
    value = b"\x07\xff" + b"\x55" * 256
    return packet(2, head + b"\x00\x00" + digest[:2] + value)


def direct(number: int) -> bytes:
    """Costs a whole RSA operation: its digest begins as it should (section 5.2.4)."""
    body = key[3:PRIMARY]
    return signature(0x1F, number, b"\x99" + len(body).to_bytes(2) + body)


def misplaced(number: int) -> bytes:
    """Belongs to nothing: it is tried with all that is there."""
    return signature(0x18, number, b"")


def filled(makers: list[Callable[[int], bytes]], parts: int, size: int) -> bytes:
    """The key, and as much behind it as may be."""
    whole, number = bytearray(key), 0
    while number + 3 < parts:
        more = makers[number % len(makers)](number)
        if len(whole) + len(more) > size:
            break
        whole += more
        number += 1
    return bytes(whole)


def files() -> Iterator[tuple[str, bytes]]:
    kinds = {
        "names": [name],
        "subkeys": [subkey],
        "direct key signatures": [direct],
        "subkeys and misplaced signatures": [subkey, misplaced],
        "names and misplaced signatures": [name, misplaced],
    }
    yield "nothing added", key
    for what, makers in kinds.items():
        yield f"{what}, as many as are looked at", filled(makers, MOST_PARTS, MOST_BYTES)
        yield f"{what}, 4 MiB", filled(makers, LIMIT, LIMIT)
    other = b"\xc6" + subkey(0)[1:]
    yield "other keys, 4 MiB", key + other * ((LIMIT - len(key)) // len(other))
    yield "copies of the key, 4 MiB", key * (LIMIT // len(key))


def main() -> None:
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/efa-gen"
    print("| what was added | kB | median s | CPU s | peak MB | answer |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data, file = pathlib.Path(folder, "data"), pathlib.Path(folder, "key")
        data.write_bytes(b"data")
        line = [binary, "verify", str(data), "--signature", str(fixtures / "good.sig"), "--key", str(file)]
        line += ["--fingerprint", fingerprint]
        for what, content in files():
            file.write_bytes(content)
            seconds, worked, answer = [], [], ""
            for _ in range(ROUNDS):
                begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
                ran = subprocess.run(line, capture_output=True, text=True, check=False, env={})
                seconds.append(time.monotonic() - begin)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                worked.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
                answer = ran.stderr
                if ran.returncode != 3:
                    sys.exit(f"{what}: exit {ran.returncode}: {answer}")
            silent = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={})
            memory = peak.memory(silent, binary)
            said = "too much" if "holds too much" in answer else answer.split(":")[1].strip()
            figures = f"{statistics.median(seconds):.3f} | {statistics.median(worked):.3f} | {memory:.1f}"
            print(f"| {what} | {len(content) // 1000} | {figures} | {said} |")


main()
