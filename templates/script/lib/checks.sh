# shellcheck shell=bash disable=SC2034,SC2153
# Checks of a plan. A line `#: NAME` begins what the script has only if an action of its plan needs it.

#: assert_system
os_release() { sed -n "s/^$1=//p" /etc/os-release | tr -d "\"'"; }

assert_system() { # ID VERSION_ID MACHINE [KERNEL]
  local found
  found="$(os_release ID) $(os_release VERSION_ID) $(uname -m)"
  [ "$found" = "$1 $2 $3" ] || die "$WRONG_MACHINE" "this machine is $found, not $1 $2 $3"
  [[ $KERNEL == "${4:-}"* ]] || die "$WRONG_MACHINE" "this machine runs kernel $KERNEL, not $4*"
}

#: assert_free_space
assert_free_space() { # MIB
  local free
  free=$(($(stat --file-system --format '%a * %S' /) / 1048576))
  [ "$free" -ge "$1" ] || die "$WRONG_MACHINE" "/ has $free MiB free, this stage needs $1 MiB"
}

#: kernels
# Rescue kernels are the distribution's way back, not what the machine boots.
kernels() {
  local image
  for image in /boot/vmlinuz-*; do
    case $image in *rescue* | *\**) continue ;; esac
    printf '%s\n' "${image#/boot/vmlinuz-}"
  done
}

#: newest_kernel
# For rpm and dpkg 957.1.3.el7 is newer than 957.el7, for sort only if the letters come after a tilde.
newest_kernel() { kernels | sed 's/\.\([a-z]\)/~\1/g' | sort -V | tail -n 1 | sed 's/~/./g'; }

#: assert_driver_kernel
assert_driver_kernel() { # DRIVER, and the newest kernel series that it builds for
  local newest
  newest=$(newest_kernel)
  [[ $newest =~ ^[0-9]+\.[0-9]+ ]] || die "$ASSERTION" "the newest kernel in /boot is ${newest:-none}, which tells no version"
  [ "$(printf '%s\n' "${BASH_REMATCH[0]}" "$2" | sort -V | tail -n 1)" = "$2" ] ||
    die "$ASSERTION" "kernel $newest is installed, and NVIDIA driver $1 is for kernels up to $2"
}

#: assert_newest_kernel
assert_newest_kernel() {
  local newest
  newest=$(newest_kernel)
  [ "$newest" = "$KERNEL" ] || die "$ASSERTION" "kernel $KERNEL is running, ${newest:-none} is the newest in /boot"
}

#: assert_installed
assert_installed() { # WORDS-OF-QUERY QUERY... PACKAGE...
  local package query=("${@:2:$1}")
  for package in "${@:2+$1}"; do
    COMMAND="${query[*]} $package"
    "${query[@]}" "$package" >/dev/null || die "$ASSERTION" "package $package is not installed"
  done
}

#: assert_exists
assert_exists() { [ -e "$1" ] || die "$ASSERTION" "$1 does not exist"; }

#: assert_gone
# No file of these has anything in it, nor any below a folder of these.
assert_gone() { # GLOB...
  local glob file found
  for glob; do
    matching "$glob"
    for file in "${MATCHES[@]+"${MATCHES[@]}"}"; do
      [ -e "$file" ] || continue
      # One that goes while it is looked at is gone.
      found=$(find "$file" -type f -size +0c -print -quit 2>/dev/null) || :
      [ -z "$found" ] || die "$ASSERTION" "$(printf %q "${found/#.\//$PWD/}") is still there"
    done
  done
}

#: assert_contains
assert_contains() { # FILE TEXT
  grep -qF -e "$2" "$1" || die "$ASSERTION" "$1 does not say \"$2\""
}

#: assert_prints
assert_prints() { # TEXT COMMAND...
  local output status=0
  COMMAND=$(printf '%q ' "${@:2}")
  output=$("${@:2}" 2>&1) || status=$?
  printf '+ %s\n%s\n' "$COMMAND" "$output"
  [ "$status" -eq 0 ] || die "$ASSERTION" "exit status $status"
  [[ $output == *"$1"* ]] || die "$ASSERTION" "it does not print \"$1\""
}

#: assert_module_absent
assert_module_absent() {
  [ ! -e "/sys/module/$1" ] || die "$ASSERTION" "kernel module $1 is loaded"
}

#: assert_libraries_found
assert_libraries_found() { # LIBRARY
  local output
  COMMAND="ldd $1"
  assert_exists "$1"
  output=$(ldd "$1" 2>&1) || die "$ASSERTION" "ldd failed: $output"
  printf '%s\n' "$output"
  [[ $output != *"not found"* ]] || die "$ASSERTION" "$1 needs a library that is not found"
}

#: always
count_pci() { # VENDOR:DEVICE:CLASS, a pattern
  local device count=0
  for device in /sys/bus/pci/devices/*; do
    [ -r "$device/class" ] || continue
    # shellcheck disable=SC2254 # the argument is a pattern
    case $(<"$device/vendor"):$(<"$device/device"):$(<"$device/class") in $1) count=$((count + 1)) ;; esac
  done
  printf '%s' "$count"
}

#: has_gpus
has_gpus() {
  [ "$GPUS" -gt 0 ] || note "no NVIDIA GPU on this machine, so nothing to check"
  [ "$GPUS" -gt 0 ]
}

#: every_gpu
every_gpu() { # FIELD VALUE, as nvidia-smi has them
  local output
  COMMAND="nvidia-smi --query-gpu=$1 --format=csv,noheader"
  output=$(nvidia-smi --query-gpu="$1" --format=csv,noheader 2>&1) || die "$ASSERTION" "$output"
  [ "$(grep -cxF -e "$2" <<<"$output")" -eq "$GPUS" ] || die "$ASSERTION" "$GPUS GPUs, but nvidia-smi says: $output"
}

#: assert_gpus
assert_gpus() { # DRIVER
  has_gpus || return 0
  every_gpu driver_version "$1"
}

#: assert_module_flavour
# The file is what a boot loads, /proc tells what is loaded.
assert_module_flavour() { # FLAVOUR LICENSE
  local license loaded flavour=proprietary
  COMMAND="modinfo -k $KERNEL -F license nvidia"
  license=$(modinfo -k "$KERNEL" -F license nvidia 2>/dev/null) || license=''
  loaded=$(head -n 1 /proc/driver/nvidia/version 2>/dev/null) || loaded=''
  [ -n "$license$loaded" ] || die "$ASSERTION" "kernel $KERNEL has no nvidia module, and none is loaded"
  [ "${license:-$2}" = "$2" ] || die "$ASSERTION" "the nvidia module's license is \"$license\", must be \"$2\""
  [[ $loaded != *"Open Kernel Module"* ]] || flavour=open
  [ -z "$loaded" ] || [ "$flavour" = "$1" ] || die "$ASSERTION" "the loaded nvidia module is $flavour, must be $1: $loaded"
}

#: assert_no_packages
assert_no_packages() { # QUERY...
  local output
  COMMAND=$(printf '%q ' "$@")
  output=$("$@") || die "$ASSERTION" "exit status $?"
  [ -z "$output" ] || die "$ASSERTION" "packages bring another NVIDIA driver: ${output//$'\n'/ }"
}

#: assert_persistence
# The daemon begins at boot, as this script does, and takes seconds a GPU: so it looks for two minutes.
assert_persistence() { # COMMAND...
  local output attempt fault=''
  has_gpus || return 0
  for attempt in {1..24}; do
    if "$@" >/dev/null 2>&1; then
      COMMAND="nvidia-smi --query-gpu=persistence_mode --format=csv,noheader"
      output=$(nvidia-smi --query-gpu=persistence_mode --format=csv,noheader 2>&1) || die "$ASSERTION" "$output"
      [ "$(grep -cxF -e Enabled <<<"$output")" -ne "$GPUS" ] || return 0
      fault="$GPUS GPUs, but nvidia-smi says: $output"
    else
      COMMAND=$(printf '%q ' "$@")
      fault="nvidia-persistenced does not run"
    fi
    [ "$attempt" -ne 1 ] || note "waiting for the persistence daemon: $fault"
    sleep 5
  done
  die "$ASSERTION" "$fault"
}

#: assert_fabric
# GPUs behind NVSwitches answer CUDA with error 802 until the fabric manager has set these up. It begins at boot and takes a
# while, so it looks for three minutes. The A100's NVSwitches (1af1) are the last whose GPUs do not register (N/A).
assert_fabric() { # DEVICE... of GPUs with NVLink 5
  local device switches registering attempt fault
  switches=$(count_pci '0x10de:*:0x0680*')
  for device; do switches=$((switches + $(count_pci "0x10de:$device:*"))); done
  registering=$((switches - $(count_pci '0x10de:0x1af1:0x0680*')))
  [ "$switches" -gt 0 ] || { note "no NVSwitch on this machine, so nothing to check"; return 0; }
  COMMAND="systemctl is-active nvidia-fabricmanager; nvidia-smi -q"
  for attempt in {1..18}; do
    fault=$(fabric_fault "$registering")
    [ -n "$fault" ] || return 0
    [ "$attempt" -ne 1 ] || note "waiting for the fabric: $fault"
    sleep 10
  done
  die "$ASSERTION" "$fault"
}

fabric_fault() { # 0: GPUs do not register. Prints what is wrong.
  local output states good='Completed, Success' wrong
  systemctl is-active --quiet nvidia-fabricmanager 2>/dev/null || { echo "the fabric manager does not run"; return 0; }
  output=$(nvidia-smi -q 2>&1) || { echo "nvidia-smi -q failed: $output"; return 0; }
  # Below the line "Fabric" come State and Status.
  states=$(sed -n '/^ *Fabric *$/ { N; N; s/[^:]*: *\(.*\)\n[^:]*: */\1, /p }' <<<"$output")
  [ "$1" -gt 0 ] || good+=$'\nN/A, N/A'
  wrong=$(grep -vxF -e "$good" <<<"$states") || :
  if [ "$1" -gt 0 ] && [ "$(grep -cxF -e "$good" <<<"$states")" -ne "$GPUS" ]; then wrong=${wrong:-nothing of a fabric}; fi
  [ -z "$wrong" ] || echo "of $GPUS GPUs not all are registered with the fabric; nvidia-smi -q says: ${wrong//$'\n'/; }"
}

#: assert_cuda_contexts
assert_cuda_contexts() { # PROGRAM
  local output status=0
  COMMAND=$1
  [ -x "$1" ] || die "$ASSERTION" "$1 can't be run"
  has_gpus || return 0
  output=$(timeout --foreground 300 "$1" 2>&1) || status=$?
  printf '%s\n' "$output"
  [ "$status" -ne 124 ] || die "$ASSERTION" "CUDA has not answered for 5 minutes"
  [ "$status" -eq 0 ] || die "$ASSERTION" "exit status $status: $(grep -m 1 failed <<<"$output")"
  [ "$(grep -c '^GPU .*: context on ' <<<"$output")" -eq "$GPUS" ] || die "$ASSERTION" "$GPUS GPUs, but CUDA says: $output"
}

#: assert_gdrcopy
assert_gdrcopy() { # PROGRAM
  local output status=0
  COMMAND=$1
  has_gpus || return 0
  [ -c /dev/gdrdrv ] || die "$ASSERTION" "/dev/gdrdrv is no device: GDRCopy's module is not loaded"
  output=$(timeout --foreground 300 "$1" 2>&1) || status=$?
  printf '%s\n' "$output"
  [ "$status" -eq 0 ] || die "$ASSERTION" "exit status $status: $(tail -n 1 <<<"$output")"
  [[ $output =~ Passed:\ [1-9] ]] || die "$ASSERTION" "none of its tests has passed"
}

#: assert_peer_to_peer
# The EFA module says it in `p2p` (from 2.6.0 on, the GPU driver's name, or none) or in `gdr` (1 or 0).
assert_peer_to_peer() {
  local device name told=''
  has_gpus || return 0
  for device in /sys/class/infiniband/*/device; do
    grep -q 0x1d0f "$device/vendor" 2>/dev/null || continue
    COMMAND="cat $device/p2p $device/gdr"
    name=$(cat "$device/p2p" 2>/dev/null || sed 's/^1$/NVIDIA/' "$device/gdr" 2>/dev/null) ||
      die "$ASSERTION" "the EFA module does not tell its way to GPU memory: is it the EFA installer's?"
    told=1
    [[ $name == NVIDIA* ]] || die "$ASSERTION" "EFA's way to GPU memory is \"$name\", must be NVIDIA"
  done
  [ -n "$told" ] || note "no EFA device on this machine, so nothing to check"
}

#: assert_huge_pages
# An endpoint takes 110 MiB for its buffers. Above 16 MiB a page the installer's own script reserves none.
assert_huge_pages() { # SCRIPT-THAT-RESERVES-THEM
  local devices pages size
  devices=$(count_pci '0x1d0f:0xefa*:*')
  [ "$devices" -gt 0 ] || { note "no EFA device on this machine, so nothing to check"; return 0; }
  COMMAND="grep Huge /proc/meminfo"
  pages=$(memory HugePages_Total)
  size=$(memory Hugepagesize)
  note "$pages huge pages of $size KiB are reserved"
  if [ ! -e "$1" ] || [ "$size" -gt 16384 ]; then return 0; fi
  [ $((pages * size)) -ge $((devices * 112640)) ] ||
    die "$ASSERTION" "$devices EFA devices take 110 MiB of huge pages each, and there are $pages of $size KiB"
}

#: assert_ptrace_scope
assert_ptrace_scope() {
  local scope=0
  COMMAND="sysctl kernel.yama.ptrace_scope"
  [ ! -r /proc/sys/kernel/yama/ptrace_scope ] || scope=$(</proc/sys/kernel/yama/ptrace_scope)
  [ "$scope" -eq 0 ] || die "$ASSERTION" "kernel.yama.ptrace_scope is $scope, must be 0"
}

#: assert_efa_devices
# Devices can be late in enumeration, so it looks three times.
assert_efa_devices() { # FI_INFO
  local devices found=0 attempt output
  devices=$(count_pci '0x1d0f:0xefa*:*')
  [ "$devices" -gt 0 ] || { note "no EFA device on this machine, so nothing to check"; return 0; }
  COMMAND="$1 -p efa -t FI_EP_RDM"
  for attempt in 1 2 3; do
    output=$("$1" -p efa -t FI_EP_RDM 2>&1) || output="fi_info failed: $output"
    printf '%s\n' "$output"
    found=$(sed -n '/^provider: efa$/,/ domain: / s/.* domain: //p' <<<"$output" | sort -u | wc -l)
    [ "$found" -ne "$devices" ] || return 0
    sleep $((attempt * 5))
  done
  die "$ASSERTION" "$devices EFA devices, but fi_info finds provider efa on $found"
}

#: assert_memlock
assert_memlock() { # USER
  local limit
  COMMAND="su $1 -c 'ulimit -l'"
  getent passwd "$1" >/dev/null || die "$ASSERTION" "there is no user $1"
  limit=$(su -s /bin/sh -c 'ulimit -l' "$1" </dev/null) || die "$ASSERTION" "no session of user $1 starts"
  [ "$limit" = unlimited ] || [ "$limit" -ge 16777216 ] || die "$ASSERTION" "user $1 may lock $limit KiB, must be 16777216 or more"
}

#: assert_initramfs
assert_initramfs() { # PATH with {kernel}
  local kernel path
  [ -n "$(kernels)" ] || die "$ASSERTION" "there is no kernel in /boot"
  while IFS= read -r kernel; do
    path=${1//\{kernel\}/$kernel}
    [ -s "$path" ] || die "$ASSERTION" "kernel $kernel has no initramfs $path and would not boot"
  done < <(kernels)
}

#: assert_dkms_installed
assert_dkms_installed() {
  local module modules
  command -v dkms >/dev/null || return 0
  COMMAND="dkms status"
  modules=$(dkms status) || die "$ASSERTION" "dkms can't tell the state of its modules"
  while IFS= read -r module; do
    COMMAND="dkms status -m $module -k $KERNEL"
    case $(dkms status -m "$module" -k "$KERNEL") in
      *installed*) ;;
      *) die "$ASSERTION" "DKMS module $module is not installed for kernel $KERNEL" ;;
    esac
  done < <(sed -n 's/[,/:].*//p' <<<"$modules" | sort -u)
}

#: nccl_test
# The exit status of mpirun proves nothing: NCCL falls back to TCP and succeeds. So the log is judged.
nccl_test() { # SECONDS HOSTFILE COMMAND...
  local seconds=$1 hostfile=$2 status=0 log="${LOG%/*}/all_reduce_perf.log" why
  [ "$GPUS" -gt 0 ] || die "$ASSERTION" "no NVIDIA GPU on this machine"
  write_file 0644 "$hostfile" <<<"localhost slots=$GPUS"
  COMMAND=$(printf '%q ' "${@:3}")
  printf '+ %s\n' "$COMMAND"
  timeout --foreground "$seconds" "${@:3}" >"$log" 2>&1 3>&- 9>&- </dev/null || status=$?
  cat "$log"
  why=$(nccl_failure "$log" "$status")
  if [ -n "$why" ]; then
    say "EFA-GEN VERDICT: FAIL: $why"
    die "$ASSERTION" "$why"
  fi
  say "EFA-GEN VERDICT: PASS on one host: the plugin loads and selects EFA (the network itself needs two hosts)"
}

nccl_failure() { # LOG STATUS: prints the first reason, most fundamental first
  if [ "$2" -eq 124 ]; then printf 'it did not end in time'
  elif [ "$2" -ne 0 ]; then
    printf 'exit status %s' "$2"
    sed -n -E '/NCCL WARN |NCCL failure|CUDA failure|mpirun/ { s/.*NCCL WARN //; s/^/: /p; q }' "$1"
  else
    awk '
      { rank = match($0, /[^ ]+:[0-9]+:[0-9]+ /) ? substr($0, RSTART, RLENGTH) : ""; sub(/:[0-9]+ $/, "", rank) }
      / NCCL INFO / {
        if (sub(/.* Selected [Pp]rovider is /, "")) { sub(/[,; ].*/, ""); by[rank]; if (!seen[$0]++) providers = providers $0 " " }
        if (sub(/.* Using network /, "")) { over[rank]; if (!seen[$0]++) networks = networks $0 " " }
        next
      }
      / NCCL WARN / {
        if (rank in by && /NET\/OFI / && !/OFI (gin|GIN|TUNER|Tuner|Unable to configure tuner)|OFI_TUNER|GDRCopy|libgdrapi|gdr_/ && !died) died = $0
        next
      }
      /^# +Rank / { ranks++ }
      /^# nThread / { for (i = 1; i < NF; i++) { if ($i == "minBytes") size = $(i + 1); if ($i == "maxBytes") max = $(i + 1) } }
      /^# Reducing maxBytes to / { max = $5 + 0 }
      /^# Collective test s/ { open++ }
      /^# Collective test c/ { open-- }
      /^# Out of bounds values : 0 OK/ { good++ }
      /^ +[0-9]+ +[0-9]+ +[a-z]/ { rows++; next }
      /[Ss]ignal|[Aa]bort|[Ff]atal|[Kk]illed|core dumped|failure|CUDA error|[Tt]imeout|[Ee]xit(ed|s)? |terminat|corrupt|Xid|^# error/ ||
        ended && !/^(#|$)/ { if (!died) died = $0 }
      /^# Avg bus bandwidth/ { ended++ }
      END {
        for (; size > 0 && size <= max; size *= 2) wanted++
        for (rank in by) chose++
        for (rank in over) told++
        if (died) print died
        else if (ended != 1 || open) print "the log is incomplete: no summary"
        else if (rows != wanted) print "the log is incomplete: " rows + 0 " of " wanted + 0 " rows"
        else if (good != 1) print "wrong values"
        else if (!chose) print "no rank selected a libfabric provider: the plugin did not load or found no EFA device"
        else if (providers != "efa ") print "libfabric provider " providers "instead of efa"
        else if ((" " networks) ~ / (Socket|IB) /) print "NCCL uses network " networks "instead of the plugin"
        else if (chose != ranks || told != ranks) print "only " chose " and " told + 0 " of " ranks " ranks tell their provider and network"
      }' "$1"
  fi
}
