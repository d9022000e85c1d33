#!/usr/bin/env bash
# Runs `efa-gen validate` with the real all_reduce_perf on a machine that run.sh prepared: NVIDIA GPUs, and no EFA. No
# run may pass: each must fail for its own reason, with the bandwidth that its log has.
#
#   tests/rehearsal/gpu/validate.sh EFA-GEN OUT
#
#   EFA-GEN  the program
#   OUT      folder for every run's log, JSON, page, and text for people
#
# Needs root, for it puts the plugin and /etc/efa-gen.json aside for some of the runs, and back; two GPUs of one host;
# python3. Takes two minutes on two H200. Exits 0 if every verdict is what it must be.
set -euo pipefail
release=/etc/efa-gen.json plugin=/opt/aws-ofi-nccl/lib/libnccl-net.so

[ $# -eq 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "validate.sh: this needs root" >&2; exit 9; }
for file in "$release" "$plugin"; do
  [ -e "$file" ] || { echo "validate.sh: no $file: run.sh prepares the machine" >&2; exit 9; }
done
efa_gen=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")

failed=0
name=
limit=2m
table=()
trap 'back "$release"; back "$plugin"' EXIT

aside() { mv "$1" "$1.aside"; }

back() { [ ! -e "$1.aside" ] || mv "$1.aside" "$1"; }

wrong() {
  echo "validate.sh: $name: $*" >&2
  failed=1
}

field() { # KEY...   of the run's JSON, bandwidths as nccl-tests prints them
  python3 -c 'import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]:
    value = value and value[key]
print("%.2f" % value if isinstance(value, float) else "none" if value is None else value)' "$out/$name.json" "$@"
}

# Size and bus bandwidths, out of place and in place, of the last row of the log, by nothing but its columns.
in_log() { awk '$1 ~ /^[0-9]+$/ && NF == 13 { row = $1 " " $8 " " $12 } END { print row == "" ? "none" : row }' "$1"; }

judge() { # EXIT-STATUS MPIRUN-STATUS WORDS...   words: regular expressions
  local status=$1 wanted=$2 mpirun sentence text=$out/$name.txt again=0 logged reported shown begun=$begin
  shift 2
  [ "$status" -eq 7 ] || { wrong "exit status $status, expected 7"; cat "$out/$name.err" >&2; }
  [ -s "$out/$name.json" ] || { wrong "no verdict"; return 0; }
  mpirun=$(field report exit_status)
  [ "$mpirun" = "$wanted" ] || wrong "mpirun's exit status is $mpirun, expected $wanted"
  sentence=$(field verdict sentence)
  echo "FAIL: $sentence"

  # The log that was kept comes to the same verdict, now for people.
  "$efa_gen" validate --log "$out/$name.log" --exit-status "$mpirun" --hosts 1 >"$text" 2>>"$out/$name.err" || again=$?
  [ "$again" -eq 7 ] || wrong "the kept log: exit status $again, expected 7"
  grep -qxF -e "EFA-GEN VERDICT: FAIL: $sentence" "$text" || wrong "the kept log: $(sed -n 1p "$text")"
  for words; do
    grep -qE -e "$words" "$text" || wrong "not said: $words"
  done

  logged=$(in_log "$out/$name.log")
  reported=none
  [ "$(field report last)" = none ] ||
    reported="$(field report last size) $(field report last out_of_place) $(field report last in_place)"
  [ "$reported" = "$logged" ] || wrong "the JSON has the last row as $reported, the log as $logged"
  shown=$(awk '$1 == "largest" { print $5, $9 }' "$text")
  [ "${shown:-none}" = "${logged#* }" ] || wrong "people see $shown, the log has $logged"
  for words in FAIL $(cut -s -d ' ' -f 2- <<<"$logged"); do
    grep -qF -e "$words" "$out/$name.html" || wrong "not on the page: $words"
  done
  table+=("$(printf '%-16s %4s %6s %4s  %-28s %-28s %s' "$name" "$status" "$mpirun" $((SECONDS - begun)) "$logged" \
    "$reported" "$sentence")")
}

title() {
  name=$1 begin=$SECONDS
  printf '\n=== %s  %s: %s\n' "$(date -u +%T)" "$1" "$2"
}

# A test that efa-gen makes, in the environment of the caller, within $limit.
measure() { # MPIRUN-STATUS FLAG... -- WORDS...
  local wanted=$1 status=0 flags=()
  shift
  while [ "$1" != -- ]; do
    flags+=("$1")
    shift
  done
  shift
  "$efa_gen" validate --keep-log "$out/$name.log" --html "$out/$name.html" --output json --timeout "$limit" \
    "${flags[@]}" >"$out/$name.json" 2>"$out/$name.err" || status=$?
  judge "$status" "$wanted" "$@"
}

# efa-gen's own command without NCCL_NET, by hand; its log is judged.
by_hand() { # WORDS...
  local command mpirun=0 status=0
  command=$(sed -n '1s/^+ //p' "$out/as-it-is.log" | sed 's/-x NCCL_NET=[^ ]* //')
  printf '+ %s\n' "$command" >"$out/$name.log"
  bash -c "$command" >>"$out/$name.log" 2>&1 || mpirun=$?
  "$efa_gen" validate --log "$out/$name.log" --exit-status "$mpirun" --hosts 1 --html "$out/$name.html" --output json \
    >"$out/$name.json" 2>"$out/$name.err" || status=$?
  judge "$status" 0 "$@"
}

ranks() { grep -lx all_reduce_perf /proc/[0-9]*/comm 2>"$out/ranks.err" || true; }

# Waits until no rank is at work any more.
none_left() {
  local since=$SECONDS
  while [ -n "$(ranks)" ]; do
    [ $((SECONDS - since)) -lt 20 ] || { wrong "still at work: $(ranks)"; return 0; }
    sleep 0.2
  done
  echo "no rank is left after $((SECONDS - since)) s"
}

# Ends efa-gen by a signal while it measures; its exit status is in $status.
interrupt() { # SIGNAL
  local run
  status=0
  : >"$out/$name.err"
  NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 "$efa_gen" validate --keep-log "$out/$name.log" >"$out/$name.txt" \
    2>"$out/$name.err" &
  run=$!
  until grep -q ' 1 MiB ' "$out/$name.err" || [ ! -e "/proc/$run" ]; do
    sleep 0.1
  done
  [ -n "$(ranks)" ] || wrong "no rank was at work"
  kill -s "$1" "$run" || wrong "it had ended"
  wait "$run" || status=$?
  tail -n 1 "$out/$name.err"
  none_left
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
nccl=$(sed -n 's/.*"name":"nccl".*"version":"\([0-9.]*\).*/\1/p' "$release")
tcp='FAIL .*wrong provider: libfabric provider tcp instead of efa on rank 0'
device='FAIL .*wrong provider: .*No eligible providers were found'

title as-it-is "with the environment that efa-gen chooses"
measure 0 -- "$tcp" ' NCCL +'"$nccl"'$' 'networks +Libfabric ' 'largest size +1 GiB'

title for-people "the same, for people"
status=0
"$efa_gen" validate --max-size 64M --keep-log "$out/$name.log" >"$out/$name.txt" 2>"$out/$name.err" || status=$?
[ "$status" -eq 7 ] || wrong "exit status $status, expected 7"
sed -n 1p "$out/$name.txt"
[ "$(awk '$1 == "largest" { print $5, $9 }' "$out/$name.txt")" = "$(in_log "$out/$name.log" | cut -d ' ' -f 2-)" ] ||
  wrong "people see other figures than the log has: $(in_log "$out/$name.log")"

title network "GPUs kept from each other, so that their data go over libfabric's tcp"
NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 measure 0 -- "$tcp" 'channels +NET/Libfabric'

title efa-asked "libfabric may take nothing but EFA: NCCL_NET makes it an error"
FI_PROVIDER=efa measure 3 --max-size 64M -- "$device" 'VERDICT: FAIL: .*No eligible providers were found'

title no-plugin "no plugin: NCCL_NET makes it an error"
aside "$plugin"
measure 3 --max-size 64M -- 'VERDICT: FAIL: .*did not find the plugin'

title no-plugin-free "no plugin, and NCCL free to fall back"
by_hand 'FAIL .*socket fallback: NCCL uses network Socket instead of the plugin on rank 0.*did not find the plugin'
back "$plugin"

title free "nothing but EFA, and NCCL free to fall back"
FI_PROVIDER=efa by_hand "$device" 'FAIL .*socket fallback: NCCL uses network Socket instead of the plugin on rank 0'

title free-network "the same, GPUs kept from each other"
FI_PROVIDER=efa NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 by_hand "$device" 'FAIL .*socket fallback: .*Socket' \
  'FAIL .*socket fallback: [0-9]+ channels go over network Socket' 'channels +NET/Socket'

title not-ours "the machine does not say what is installed"
aside "$release"
measure 0 --max-size 64M -- "$tcp" ' NCCL +'"$nccl"'$'
back "$release"

title one-gpu "one GPU alone, by a hostfile"
echo 'localhost slots=1' >"$out/hostfile"
CUDA_VISIBLE_DEVICES=0 measure 0 --hostfile "$out/hostfile" -- "$tcp" 'ranks +1$'

title one-gpu-visible "one GPU alone, the others hidden from CUDA"
CUDA_VISIBLE_DEVICES=0 measure 0 -- "$tcp" 'ranks +1$'

title late "too little time"
NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 limit=8s measure 124 -- 'FAIL .*run failed: it did not end in time' "$tcp"
none_left

title stopped "ended by a signal"
interrupt TERM
[ "$status" -eq 130 ] || wrong "exit status $status, expected 130"

title killed "ended without being asked"
interrupt KILL

printf '\n%-16s %4s %6s %4s  %-28s %-28s %s\n' run exit mpirun s "the log's last row" "as reported" verdict
printf '%s\n' "${table[@]}"
exit "$failed"
