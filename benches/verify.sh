#!/usr/bin/env bash
# How fast is `efa-gen verify`, beside openssl's digests and GnuPG? Prints a Markdown table of medians.
#
#   benches/verify.sh [BINARY]
#
# Needs gpg, openssl, python3 and 800 MB in TMPDIR. Without BINARY, target/release/efa-gen is used and
# built first if it is missing. Each round runs every tool once, so that a busy moment hits all alike.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:-target/release/efa-gen}
if [ $# -eq 0 ] && [ ! -x "$binary" ]; then
  cargo build --release --quiet
fi
binary=$(realpath "$binary")
rounds=${ROUNDS:-5}

work=$(mktemp -d)
export GNUPGHOME=$work/gnupg LC_ALL=C
mkdir -m 700 "$GNUPGHOME"
echo no-auto-check-trustdb >"$GNUPGHOME/gpg.conf"
trap 'gpgconf --kill all; rm -rf "$work"' EXIT

gpg_sign() { gpg --batch --quiet --yes --pinentry-mode loopback --passphrase '' "$@"; }
gpg_sign --quick-gen-key 'Bench <bench@example.org>' rsa2048 sign never 2>/dev/null
gpg_sign --armor --output "$work/key" --export bench@example.org
fingerprint=$(gpg --batch --with-colons --list-keys 2>/dev/null | awk -F: '$1 == "fpr" { print $10; exit }')
for size in 70 700; do
  head -c "${size}000000" /dev/urandom >"$work/$size"
  for digest in sha256 sha512; do
    gpg_sign --digest-algo "$digest" --output "$work/$size.$digest" --detach-sign "$work/$size"
  done
done

PYTHONPATH=benches PYTHONDONTWRITEBYTECODE=1 python3 - "$binary" "$work" "$fingerprint" "$rounds" <<'PYTHON'
import statistics, subprocess, sys, time

import peak

binary, work, fingerprint, rounds = sys.argv[1:]


def start(command):
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds(command):
    """How long one command takes, which must succeed."""
    begin = time.monotonic()
    code = start(command).wait()
    if code != 0:
        sys.exit(f"exit {code}: {' '.join(command)}")
    return time.monotonic() - begin


def commands(size):
    data = f"{work}/{size}"
    for digest in ("sha256", "sha512"):
        signature = f"{data}.{digest}"
        key = ["--key", f"{work}/key", "--fingerprint", fingerprint]
        yield f"openssl dgst -{digest}", ["openssl", "dgst", f"-{digest}", data]
        yield f"gpg --verify, {digest} signature", ["gpg", "--batch", "--verify", signature, data]
        yield f"efa-gen verify, {digest} signature", [binary, "verify", data, "--signature", signature] + key


print("| MB | command | median s | min-max s | MB/s | peak MB | of openssl's digest | of gpg |")
print("|---|---|---|---|---|---|---|---|")
for size in (70, 700):
    table = dict(commands(size))
    seen = {name: [] for name in table}
    for _ in range(int(rounds)):
        for name, command in table.items():
            seen[name].append(seconds(command))
    median = {name: statistics.median(runs) for name, runs in seen.items()}
    for name, runs in seen.items():
        memory = peak.memory(start(table[name]), table[name][0])
        digest = "sha512" if "sha512" in name else "sha256"
        ratio = lambda other: f"{median[name] / median[other]:.2f}" if name != other else ""
        against = ratio(f"openssl dgst -{digest}"), ratio(f"gpg --verify, {digest} signature")
        print(f"| {size} | {name} | {median[name]:.3f} | {min(runs):.3f}-{max(runs):.3f} | "
              f"{size / median[name]:.0f} | {memory:.1f} | {against[0]} | {against[1]} |")
PYTHON
