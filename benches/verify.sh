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
fingerprint=$(gpg --batch --with-colons --list-keys | awk -F: '$1 == "fpr" { print $10; exit }')
for size in 70 700; do
  head -c "${size}000000" /dev/urandom >"$work/$size"
  for digest in sha256 sha512; do
    gpg_sign --digest-algo "$digest" --output "$work/$size.$digest" --detach-sign "$work/$size"
  done
done

python3 - "$binary" "$work" "$fingerprint" "$rounds" <<'PYTHON'
import os, statistics, subprocess, sys, time

binary, work, fingerprint, rounds = sys.argv[1:]


def run(command):
    """Seconds and peak memory (MB) of one command, which must succeed."""
    begin = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"exit {child.returncode}: {' '.join(command)}")
    return time.monotonic() - begin, usage.ru_maxrss / 1024


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
            seen[name].append(run(command))
    median = {name: statistics.median(t for t, _ in runs) for name, runs in seen.items()}
    for name, runs in seen.items():
        times, peak = [t for t, _ in runs], max(m for _, m in runs)
        digest = "sha512" if "sha512" in name else "sha256"
        ratio = lambda other: f"{median[name] / median[other]:.2f}" if name != other else ""
        against = ratio(f"openssl dgst -{digest}"), ratio(f"gpg --verify, {digest} signature")
        print(f"| {size} | {name} | {median[name]:.3f} | {min(times):.3f}-{max(times):.3f} | "
              f"{size / median[name]:.0f} | {peak:.1f} | {against[0]} | {against[1]} |")
PYTHON
