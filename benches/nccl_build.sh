#!/usr/bin/env bash
# How long does NCCL take as a rendered script builds it, beside the `make -j src.build` of AWS's guide, which knows
# no bound on jobs and builds for every GPU architecture? Prints a Markdown table.
#
#   benches/nccl_build.sh SCRIPT [SECONDS]
#
# SCRIPT is an install.sh of efa-gen. Its NCCL step is run as it stands: clone, build, install into /opt/nccl. Then
# comes the same commit with plain make, ended after SECONDS (default: 3600). Needs root, git, a compiler, python3 and
# CUDA where the script has it; nothing else should run.
set -euo pipefail
script=$(realpath "${1:?SCRIPT, an install.sh of efa-gen}")
limit=${2:-3600}
[ "$(id -u)" -eq 0 ] || { echo "nccl_build.sh: the NCCL step installs into /opt/nccl: this needs root" >&2; exit 9; }

step=$(sed -n '/^nccl_build() {/,/^}/p' "$script")
url=$(grep -o 'https\{0,1\}:[^ ]*' <<<"$step")
commit=$(grep -o '\<[0-9a-f]\{40\}\>' <<<"$step")
cuda=$(grep -o 'CUDA_HOME=[^ ]*' <<<"$step")

work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
# Everything of the script but its last line, which starts the install.
{ sed '$d' "$script"; echo nccl_build; } >"$work/step.sh"
git clone --quiet --no-checkout "$url" "$work/nccl"
git -C "$work/nccl" checkout --quiet --detach "$commit"

# Runs a command, prints "STATUS SECONDS PEAK-GIB": memory in use by everything, above what was in use before.
measure() { # COMMAND...
  local child status=0 begin end used before peak
  in_use() { awk '/^MemTotal:/ { total = $2 } /^MemAvailable:/ { print total - $2 }' /proc/meminfo; }
  before=$(in_use) peak=$before
  begin=$(date +%s.%N)
  # If memory runs out, this is what must go, not the rest of the machine.
  (echo 1000 >/proc/self/oom_score_adj; exec "$@") >"$work/log" 2>&1 </dev/null &
  child=$!
  while kill -0 "$child" 2>"$work/kill"; do
    used=$(in_use)
    [ "$used" -le "$peak" ] || peak=$used
    sleep 0.5
  done
  end=$(date +%s.%N)
  wait "$child" || status=$?
  echo "$status $begin $end $before $peak" | awk '{ printf "%d %.1f %.1f\n", $1, $3 - $2, ($5 - $4) / 1048576 }'
  [ "$status" -eq 0 ] || { echo "exit status $status, the last lines:"; tail -n 15 "$work/log"; } >&2
}

row() { # NAME MEASURED
  local status seconds peak more=''
  read -r status seconds peak <<<"$2"
  case $status in
    0) ;;
    124) more='more than ' ;;
    *) more="failed after " ;;
  esac
  printf '| %s | %s%s | %s |\n' "$1" "$more" "$seconds" "$peak"
}

printf '%s cores, NCCL %s, %s\n\n' "$(nproc)" "$commit" "$("${cuda#*=}/bin/nvcc" --version | grep -o 'release [0-9.]*')"
printf '| build | seconds | peak GiB |\n|---|---|---|\n'
architectures=$(grep -o 'compute_[0-9]*' <<<"$step" | sort -u | tr "\n" " ")
row "as rendered (${architectures% })" "$(measure bash "$work/step.sh")"
row "\`make -j src.build\`" "$(measure timeout --kill-after=10 "$limit" make -C "$work/nccl" -j src.build "$cuda")"
