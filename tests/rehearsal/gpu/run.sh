#!/usr/bin/env bash
# Runs a rendered Ubuntu 24.04 script's stages for NCCL, the plugin and nccl-tests, its checks and its test on a
# machine with NVIDIA GPUs and without EFA. Prints what happened stage by stage, with seconds.
#
#   tests/rehearsal/gpu/run.sh MIRROR OUT SCRIPT [SCRIPT...]
#
#   MIRROR  folder that the script's --mirror http://127.0.0.1:PORT is to serve: github.com/NVIDIA/nccl.git,
#           github.com/NVIDIA/nccl-tests.git, github.com/aws/aws-ofi-nccl.git (each `git clone --mirror`, then
#           `git update-server-info` in it), github.com/ofiwg/libfabric/archive/v2.6.0.tar.gz
#   OUT     folder for the logs
#   SCRIPT  the first is run; of the others (same software, run otherwise) only the last stage, `test`. From
#           efa-gen render --distro ubuntu24 --stack-file tests/rehearsal/gpu/stack.toml --stack no-efa \
#             --instance-type p5.48xlarge --test --mirror http://127.0.0.1:8801
#
# Needs root, a machine to throw away, CUDA with its driver, Open MPI, git, python3, autoconf, automake, libtool and
# the headers of hwloc and libibverbs. No network. What is the machine's own, or left out, is said as it happens.
# Exits 0 if every stage did its work and every test was refused, which without EFA is the right verdict.
set -euo pipefail
state=/var/lib/efa-gen log=/var/log/efa-gen

[ $# -ge 3 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "run.sh: this needs root: it installs below /opt" >&2; exit 9; }
[ ! -e "$state" ] || { echo "run.sh: $state is there already: this needs a machine to throw away" >&2; exit 9; }
for program in autoconf automake git libtoolize mpicc mpirun nvidia-smi python3; do
  command -v "$program" >/dev/null || { echo "run.sh: no $program on this machine" >&2; exit 9; }
done
mirror=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
script=$(realpath "$3")
shift 3

failed=0
table=()

title() { printf '\n=== %s  %s\n' "$(date -u +%T)" "$*"; }

# What the script calls a machine's own, by the paths in it.
cuda=$(grep -o -m 1 'CUDA_HOME=[^ ]*' "$script" | cut -d = -f 2)
address=$(grep -o -m 1 'http://127.0.0.1:[0-9]*' "$script")

title "Machine"
sed -n 's/^PRETTY_NAME=//p' /etc/os-release
uname -rm
printf '%s cores, %s GiB of memory\n' "$(nproc)" "$(awk '/^MemTotal:/ { print int($2 / 1048576) }' /proc/meminfo)"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

title "Stand-in for stage driver: the machine's own driver and CUDA"
own_cuda=$(realpath "${CUDA_HOME:-/usr/local/cuda}")
[ -e "$cuda" ] || ln -sv "$own_cuda" "$cuda"
"$cuda/bin/nvcc" --version | tail -n 2

title "Stand-in for stage efa: libfabric 2.6.0 without amzn's changes, and the machine's own Open MPI"
mkdir -p /opt/amazon/openmpi/bin "$state/src"
mpirun --version | sed -n 1p
for program in mpirun mpicc mpicxx; do
  ln -sfn "$(command -v "$program")" "/opt/amazon/openmpi/bin/$program"
done
for folder in $(mpicc --showme:incdirs) /usr/include; do
  [ ! -e "$folder/mpi.h" ] || { ln -sfnv "$folder" /opt/amazon/openmpi/include; break; }
done
for folder in $(mpicc --showme:libdirs) "/usr/lib/$(uname -m)-linux-gnu"; do
  [ ! -e "$folder/libmpi.so" ] || { ln -sfnv "$folder" /opt/amazon/openmpi/lib; break; }
done
begin=$SECONDS
tar -xzf "$mirror/github.com/ofiwg/libfabric/archive/v2.6.0.tar.gz" -C "$state/src"
(
  cd "$state/src/libfabric-2.6.0"
  ./autogen.sh
  ./configure --prefix=/opt/amazon/efa --libdir=/opt/amazon/efa/lib --enable-only --enable-efa --enable-tcp \
    --enable-rxm --enable-shm
  make -j"$(nproc)" install
) >"$out/libfabric.log" 2>&1 || { tail -n 20 "$out/libfabric.log"; echo "run.sh: libfabric was not built" >&2; exit 1; }
rm -r "$state/src/libfabric-2.6.0"
grep 'Built-in providers' "$out/libfabric.log"
echo "built in $((SECONDS - begin)) s"
/opt/amazon/efa/bin/fi_info -p efa || echo "fi_info -p efa: exit status $?, there is no EFA device"

title "Mirror: $mirror at $address"
python3 -m http.server --bind 127.0.0.1 --directory "$mirror" "${address##*:}" >"$out/mirror.log" 2>&1 &
server=$!
trap 'kill "$server"' EXIT
for _ in {1..50}; do
  ! (exec 3<>"/dev/tcp/127.0.0.1/${address##*:}") 2>"$out/port" || break
  sleep 0.1
done

mark() { # STAGE[.STEP] WHY
  mkdir -p "$state/done"
  : >"$state/done/$1"
  printf 'marked as done, not run: %-22s %s\n' "$1" "$2"
}

stage() { # SCRIPT STAGE [EXPECTED-STATUS]
  local begin status=0 seconds
  title "$(basename "$1") --stage $2"
  begin=$(date +%s.%N)
  bash "$1" --stage "$2" || status=$?
  seconds=$(echo "$(date +%s.%N) $begin" | awk '{ printf "%.1f", $1 - $2 }')
  printf '%s: exit status %s, %s s\n' "$2" "$status" "$seconds"
  table+=("$(printf '%-22s %-12s %4s %9s' "$(basename "$1")" "$2" "$status" "$seconds")")
  [ "$status" -ne "${3:-0}" ] || return 0
  failed=1
  echo "run.sh: exit status $status, expected ${3:-0}; marked as done so that the rest can be tried" >&2
  : >"$state/done/$2"
}

title "What is not run"
mark prepare.tools "needs the network"
mark update "needs the network"
mark kernel "needs the network"
mark driver.driver "the machine's own"
mark driver.fabric-manager "the machine's own"
mark driver.cuda "the machine's own"
mark efa "stand-ins above"
mark environment.gpu-state "needs systemd"
mark environment.hold "needs AWS's kernel"
mark check.persistence "needs systemd"

# Stage environment ends with a reboot. In place of one, the script gets what it would get from the real one: SIGTERM,
# and on the next start another boot id.
cat >/usr/local/sbin/shutdown <<'END'
#!/bin/sh
kill -TERM $PPID
END
chmod 755 /usr/local/sbin/shutdown
[ "$(PATH=/usr/local/sbin:/usr/sbin:/sbin command -v shutdown)" = /usr/local/sbin/shutdown ]

title "The machine's own settings of NCCL and Open MPI, which the scripts' clean environment would lose"
mkdir -p ~/.openmpi
# NCCL_VERSION is an image's label.
env | sed -n '/^NCCL_VERSION=/d; /^NCCL_/p' | tee -a /etc/nccl.conf
env | sed -n 's/^OMPI_MCA_\([a-z_]*\)=/\1 = /p' | tee -a ~/.openmpi/mca-params.conf

bash "$script" --list
for name in prepare driver nccl plugin nccl-tests environment; do
  stage "$script" "$name"
done
if [ -e "$state/reboot" ]; then
  echo "no reboot: another boot id"
  echo 00000000-0000-0000-0000-000000000000 >"$state/reboot"
fi
stage "$script" check

test_stage() { # SCRIPT
  local kept
  kept=$out/$(basename "$1" .sh).all_reduce_perf.log
  # 7: the verdict is FAIL.
  stage "$1" test 7
  cp "$log/all_reduce_perf.log" "$kept" || failed=1
  grep -q 'NET/OFI Initializing aws-ofi-nccl' "$kept" || { failed=1; echo "run.sh: no rank came to the plugin" >&2; }
}

test_stage "$script"
for other; do
  other=$(realpath "$other")
  title "$(basename "$other"): the same software, run otherwise; the state is handed over to its plan"
  sed -n 's/^readonly PLAN=//p' "$other" >"$state/plan"
  cp "$other" "$state/install.sh"
  rm -f "$state/done/test" "$state/done/test".*
  test_stage "$other"
done
cp "$log/install.log" "$out/install.log"

title "Summary"
printf '%-22s %-12s %4s %9s\n' script stage exit seconds
printf '%s\n' "${table[@]}"
exit "$failed"
