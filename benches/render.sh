#!/usr/bin/env bash
# How long do `efa-gen render` for every distribution and format, and `efa-gen --help`, take as whole processes?
# Prints a Markdown table of medians, with `bash -c :` and `cp -R` of the same files as what a process and its
# writing cost at least on this machine.
#
#   benches/render.sh [BINARY]
#
# Needs python3. Without BINARY, target/release/efa-gen is used and built first if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:-target/release/efa-gen}
if [ $# -eq 0 ] && [ ! -x "$binary" ]; then
  cargo build --release --quiet
fi
binary=$(realpath "$binary")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 - "$binary" "$work" "${ROUNDS:-30}" <<'PYTHON'
import os, shutil, statistics, subprocess, sys, time

binary, work, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
everything = [binary, "render", "--distro", "all", "--format", "all", "--out"]
subprocess.run([*everything, f"{work}/files"], check=True, stderr=subprocess.DEVNULL)
commands = {
    "`bash -c :`": lambda n: ["bash", "-c", ":"],
    "`efa-gen --help`": lambda n: [binary, "--help"],
    "`cp -R` of the same files": lambda n: ["cp", "-R", f"{work}/files", f"{work}/copy{n}"],
    "`efa-gen render`, all distributions and formats": lambda n: [*everything, f"{work}/out{n}"],
}
times = {name: [] for name in commands}
for n in range(rounds):
    for name, command in commands.items():
        begin = time.monotonic()
        subprocess.run(command(n), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times[name].append(time.monotonic() - begin)
files = sum(len(names) for _, _, names in os.walk(f"{work}/files"))
print(f"{files} files, binary {os.path.getsize(binary) / 1e6:.1f} MB, medians of {rounds} rounds\n")
print("| command | median ms | min-max ms | of `cp -R` |\n|---|---|---|---|")
floor = statistics.median(times["`cp -R` of the same files"])
for name, seconds in times.items():
    median = statistics.median(seconds)
    print(f"| {name} | {median * 1e3:.1f} | {min(seconds) * 1e3:.1f}-{max(seconds) * 1e3:.1f} | {median / floor:.2f} |")
PYTHON
