#!/usr/bin/env python3
"""Makes fuzz/primary and the seeds of `key` and `signature` from tests/fixtures/pgp: run it when those change."""

import base64
import pathlib
import re

here = pathlib.Path(__file__).parent
fixtures = here.parent / "tests/fixtures/pgp"

# As SIGNERS in checks.rs: a key seed begins with its signer's place in this list.
SIGNERS = ["good", "sub", "revsub", "hard", "soft", "late", "expired", "expextended", "sha1self"]


def binary(path: pathlib.Path) -> bytes:
    """A file's packets, without the armor that may be around them (RFC 9580, section 6)."""
    data = path.read_bytes()
    blocks = re.findall(rb"-----BEGIN [^\n]*\n(?:[^\n]+: [^\n]*\n)*\n(.*?)\n[=-]", data, re.DOTALL)
    return b"".join(map(base64.b64decode, blocks)) if blocks else data


def packets(data: bytes) -> list[bytes]:
    """Packets with a length in the old format, which is what GnuPG writes here (section 4.2.2)."""
    found = []
    while data:
        size = 1 << (data[0] & 3)
        end = 1 + size + int.from_bytes(data[1 : 1 + size], "big")
        found.append(data[:end])
        data = data[end:]
    return found


def keys() -> dict[str, bytes]:
    """What follows the primary key: as it is, in another order, with parts missing, twice, or another key's."""
    seeds = {}
    parts = {name: packets(binary(fixtures / f"{name}.asc"))[1:] for name in SIGNERS}
    for place, name in enumerate(SIGNERS):
        mine = parts[name]
        shapes = {"whole": mine, "reversed": mine[::-1], "twice": mine * 2, "cut": [b"".join(mine)[:-9]], "bare": []}
        shapes |= {f"without-{index}": mine[:index] + mine[index + 1 :] for index in range(len(mine))}
        shapes["others"] = mine + parts["hard"] + parts["revsub"]
        for shape, bodies in shapes.items():
            seeds[f"{name}-{shape}"] = bytes([place]) + b"".join(bodies)
    return seeds


def signatures() -> dict[str, bytes]:
    """Every signature of the fixtures, two of them together, and one with junk behind it."""
    seeds = {path.name: path.read_bytes() for path in sorted(fixtures.glob("*.sig")) + [fixtures / "good.sig.asc"]}
    good, wrong = seeds["good.sig"], seeds["wrong.sig"]
    return seeds | {"two": good + wrong, "two-reversed": wrong + good, "junk": good + b"junk", "cut": good[:100]}


for name in SIGNERS:
    (here / "primary" / f"{name}.gpg").write_bytes(packets(binary(fixtures / f"{name}.asc"))[0])
for target, seeds in (("key", keys()), ("signature", signatures())):
    folder = here / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (folder / name).write_bytes(seed)
