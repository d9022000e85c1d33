#!/bin/bash
# <~ title | safe ~>
#
# Made by efa-gen <~ version | safe ~> from plan <~ digest | safe ~>.
# Self-contained: it resumes by itself after each reboot, and every step can be done again without harm.
#
#   sudo bash install.sh                 install from where it was left
#   sudo bash install.sh --from STAGE    do STAGE and all that follow once more
#   bash install.sh --list               the stages and which are done
#   bash install.sh --help               every option and exit code
#
# What it installs from outside the distribution, and what each must be:
<%- for component in components %>
#   <~ component | safe ~>
<%- endfor %>
<%- for note in notes %>
# Note: <~ note | safe ~>
<%- endfor %>

# Bash 4.2 is enough. Every failure ends the script: nothing below is best effort.
set -Eeuo pipefail
# A CXX, DEBUG, LD_PRELOAD or shell function of the caller's would make other software of the same sources.
for NAME in $(compgen -A function); do unset -f "$NAME"; done
for NAME in $(compgen -e); do
  case $NAME in
    HOME | TERM | *_proxy | *_PROXY | CURL_CA_BUNDLE | SSL_CERT_FILE | SSL_CERT_DIR | GIT_SSL_CAINFO) ;;
    *) export -n "${NAME?}" ;;
  esac
done
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
<%- for variable in environment %>
export <~ variable ~>
<%- endfor %>
umask 022

readonly PLAN=<~ digest ~>
readonly STATE=<~ state_dir ~>
readonly LOG=<~ log_dir ~>/install.log
readonly STAGES=(<% for stage in stages %> <~ stage.id ~><% endfor %> )
readonly TITLES=(
<%- for stage in stages %>
  <~ stage.title ~>
<%- endfor %>
)
# Stages that a reboot follows; that are run only when the machine becomes an image; that need GPUs and EFA devices.
readonly REBOOT_AFTER=" <~ reboot_after | safe ~> " IMAGE_ONLY=" <~ image_only | safe ~> " TARGET_ONLY=" <~ target_only | safe ~> "

# Exit codes, the same as efa-gen's own where the classes meet.
readonly USAGE=2 REFUSED=3 NETWORK=5 FAILED=6 ASSERTION=7 LOCKED=8 WRONG_MACHINE=9 BUG=70

KERNEL=$(uname -r)
BOOT=$(cat /proc/sys/kernel/random/boot_id)
SELF=$(readlink -f "${BASH_SOURCE[0]:-}") || SELF=''
readonly KERNEL BOOT SELF
LOGGING='' REBOOTING='' STAGE='' STEP='' HINT='' COMMAND=''
exec 3>&1

#--- Reporting ------------------------------------------------------------------------------------------------

# Progress: to whoever started the script, and to the log. That nobody listens any more, or that the disk is full, must
# not keep it from saying the rest.
say() {
  printf '%s\n' "$*" >&3 || :
  [ -z "$LOGGING" ] || printf '%s\n' "$*" || :
}

note() { say "        note: $*"; }

# Ends the script: which step, which command, why, the log's last lines, what to do.
die() { # CLASS REASON
  local line last=''
  trap - EXIT
  [ -z "$LOGGING" ] || last=$(tail -n 15 "$LOG") || last="(the log is gone)"
  say "FAILED${STAGE:+ in stage $STAGE}${STEP:+, step: $STEP}"
  [ -z "$COMMAND" ] || say "  command: $COMMAND"
  say "  reason: $2"
  if [ -n "$last" ]; then
    printf '  last lines of %s:\n' "$LOG" >&3 || :
    while IFS= read -r line; do printf '    | %s\n' "$line" >&3 || :; done <<<"$last"
  fi
  [ -z "$STEP" ] || HINT=${HINT:-"the lines above say what is in its way; $LOG has all of them"}
  [ -z "$HINT" ] || say "  hint: $HINT"
  [ -z "$STAGE" ] || say "  then run it again, it goes on with this step: sudo bash $STATE/install.sh"
  exit "$1"
}

on_exit() { # STATUS LINE
  [ "$1" -ne 0 ] && [ -z "$REBOOTING" ] || return 0
  [ -z "$STEP" ] || die "$FAILED" "exit status $1 at line $2 of this script: is the disk full?"
  die "$BUG" "exit status $1 at line $2 of this script, which should have been caught: a bug in efa-gen"
}

#--- State ----------------------------------------------------------------------------------------------------

# Writes standard input to a file whole: a cut, also of power, leaves the old file or the new one.
write_file() { # MODE FILE
  COMMAND="write $2"
  mkdir -p "${2%/*}"
  cat >"$2.efa-gen-new" || die "$FAILED" "$2 could not be written: is the disk full?"
  chmod "$1" "$2.efa-gen-new"
  put_in_place "$2"
}

put_in_place() { # FILE, whose new content is in FILE.efa-gen-new
  sync
  mv -f "$1.efa-gen-new" "$1"
}

# Not empty: on a full disk an empty file could still be made.
mark() { # STAGE[.STEP]
  HINT='make room on the disk'
  write_file 0644 "$STATE/done/$1" <<<"$1"
  HINT='' COMMAND=''
}

is_done() { [ -e "$STATE/done/$1" ]; }

contains() { case $1 in *" $2 "*) return 0 ;; *) return 1 ;; esac; }

open_lock() {
  mkdir -p "$STATE/done" "${LOG%/*}"
  exec 9>>"$STATE/lock"
}

start_log() {
  exec >>"$LOG" 2>&1
  LOGGING=1
  printf '=== %s plan %s boot %s kernel %s: %s GPUs, %s compile jobs\n' "$(date -u +%FT%TZ)" \
    "$PLAN" "$BOOT" "$KERNEL" "$GPUS" "$JOBS" || die "$FAILED" "$LOG could not be written: is the disk full?"
}

# Keeps a copy that the boot hook can start, and refuses to mix two plans on one machine.
settle() {
  local other
  if [ -e "$STATE/plan" ]; then
    other=$(cat "$STATE/plan")
    HINT="finish with the script that began, or remove $STATE to begin anew"
    [ "$other" = "$PLAN" ] || die "$WRONG_MACHINE" "this machine was begun with another plan, $other"
  fi
  HINT="save it to a file first, then: sudo bash FILE"
  [ -f "$SELF" ] || die "$USAGE" "the script must be run from a file, not from a pipe"
  HINT=''
  [ "$SELF" -ef "$STATE/install.sh" ] || write_file 0755 "$STATE/install.sh" <"$SELF"
  [ -e "$STATE/plan" ] || write_file 0644 "$STATE/plan" <<<"$PLAN"
}

#--- Actions: each can be done again without harm -------------------------------------------------------------

run() { # COMMAND...
  local status=0
  COMMAND=$(printf '%q ' "$@")
  printf '+ %s\n' "$COMMAND"
  "$@" 3>&- 9>&- </dev/null || status=$?
  [ "$status" -eq 0 ] || die "$FAILED" "exit status $status"
}

in_folder() { # FOLDER FUNCTION...
  cd "$1" || die "$FAILED" "no folder $1"
  "${@:2}"
  cd /
}

# A package command: nobody else may hold the locks, and what the network breaks is tried again.
package() { # COMMAND...
  local attempt status
  for attempt in 1 2 3; do
    own_package_locks
    COMMAND=$(printf '%q ' "$@")
    printf '+ %s(attempt %s of 3)\n' "$COMMAND" "$attempt"
    status=0
    { recover_packages && "$@"; } 3>&- 9>&- </dev/null || status=$?
    [ "$status" -ne 0 ] || return 0
    [ "$attempt" -lt 3 ] || die "$FAILED" "exit status $status, 3 times"
    sleep $((attempt * 10))
    # What is known of the package sources may be of another day, or of a moment when they did not answer.
    refresh_packages 3>&- 9>&- </dev/null || :
  done
}

lock_is_held() { # FILE
  [ -e "$1" ] && grep -q ":$(stat -c %i "$1") " /proc/locks
}

wait_for_locks() { # FILE...
  local file waited=0
  COMMAND="wait for $*"
  for file; do
    while lock_is_held "$file"; do
      [ "$waited" -lt 900 ] || die "$ASSERTION" "$file has been locked for 15 minutes"
      [ $((waited % 60)) -ne 0 ] || note "waiting for the lock on $file"
      sleep 5
      waited=$((waited + 5))
    done
  done
}

wait_for_cloud_init() { # COMMAND...
  local status=0
  COMMAND="wait for cloud-init"
  command -v cloud-init >/dev/null || { note "no cloud-init on this machine"; return 0; }
  timeout --foreground 1200 "$@" 3>&- 9>&- || status=$?
  [ "$status" -ne 124 ] || die "$ASSERTION" "cloud-init has not finished for 20 minutes"
  [ "$status" -eq 0 ] || note "cloud-init finished with status $status, see /var/log/cloud-init.log"
}

# Before cloud-init 17: its last act in each boot is to write this file.
wait_for_boot_finished() {
  local waited=0 finished=/var/lib/cloud/instance/boot-finished booted
  COMMAND="wait for $finished"
  command -v cloud-init >/dev/null || { note "no cloud-init on this machine"; return 0; }
  booted=$(sed -n 's/^btime //p' /proc/stat)
  until [ -e "$finished" ] && [ "$(stat -c %Y "$finished")" -ge "$booted" ]; do
    [ "$waited" -lt 1200 ] || die "$ASSERTION" "cloud-init has not finished for 20 minutes"
    sleep 5
    waited=$((waited + 5))
  done
}

ensure_line() { # FILE LINE
  local file
  COMMAND="add \"$2\" to $1"
  file=$(readlink -f "$1")
  if grep -qxF -e "$2" "$file"; then return 0; fi
  cp -p "$file" "$file.efa-gen-new"
  [ -z "$(tail -c 1 "$file")" ] || printf '\n' >>"$file.efa-gen-new"
  printf '%s\n' "$2" >>"$file.efa-gen-new"
  put_in_place "$file"
}

append_to_lines() { # FILE REGEX TEXT
  local file line
  COMMAND="append \"$3\" in $1"
  file=$(readlink -f "$1")
  cp -p "$file" "$file.efa-gen-new"
  while IFS= read -r line || [ -n "$line" ]; do
    if [[ $line =~ $2 && $line != *"$3"* ]]; then line+=$3; fi
    printf '%s\n' "$line"
  done <"$file" >"$file.efa-gen-new"
  put_in_place "$file"
}

replace() { # GLOB REGEX REPLACEMENT
  local files
  mapfile -t files < <(compgen -G "$1")
  [ "${#files[@]}" -gt 0 ] || die "$ASSERTION" "no file is named $1"
  run sed -E -i --follow-symlinks -e "s|$2|$3|" "${files[@]+"${files[@]}"}"
}

digest_of() { sha256sum <"$1" | cut -d ' ' -f 1; }

# The file has its name only once its digest is right; an interrupted download is resumed.
fetch() { # URL SHA256 FILE
  local attempt found status=1 answer had
  COMMAND="download $1"
  printf '+ %s\n' "$COMMAND"
  mkdir -p "${3%/*}"
  if [ -e "$3" ] && [ "$(digest_of "$3")" = "$2" ]; then return 0; fi
  for ((attempt = 1; attempt <= 6 && status != 0; attempt++)); do
    [ "$attempt" -eq 1 ] || sleep $((attempt * attempt))
    had=''
    [ ! -s "$3.part" ] || had=1
    status=0
    answer=$(curl --fail --silent --show-error --location --proto "=${1%%:*}" --connect-timeout 30 \
      --speed-limit 1024 --speed-time 60 --continue-at - --write-out '%{http_code}' --output "$3.part" "$1" \
      3>&- 9>&-) || status=$?
    case $status:$had:$answer in
      0:* | 22:*:5* | 22:*:408 | 22:*:429) ;;  # done, or the server is busy
      23:*) die "$FAILED" "$3.part could not be written: is the disk full?" ;;
      22::* | 1:* | 3:* | 37:*) break ;;       # it says no, and will again
      22:* | 33:* | 36:*) rm -f "$3.part" ;;   # what is there does not fit what the server has now
    esac
  done
  [ "$status" -eq 0 ] || die "$NETWORK" "curl failed with status $status${answer:+, the server answered $answer}"
  found=$(digest_of "$3.part")
  if [ "$found" != "$2" ]; then
    rm -f "$3.part"
    die "$REFUSED" "wrong content: SHA-256 is $found, must be $2"
  fi
  sync
  mv -f "$3.part" "$3"
}

unpack() { # ARCHIVE FOLDER
  rm -rf "$2"
  mkdir -p "$2"
  run tar --extract --no-same-owner --file "$1" --directory "$2"
}

checkout() { # URL COMMIT FOLDER
  local found
  rm -rf "$3"
  mkdir -p "${3%/*}"
  GIT_TERMINAL_PROMPT=0 clone "$1" "$3"
  in_folder "$3" run git checkout --quiet --detach "$2"
  found=$(cd "$3" && git rev-parse HEAD)
  [ "$found" = "$2" ] || die "$REFUSED" "wrong content: HEAD is $found, must be $2"
}

clone() { # URL FOLDER
  local attempt status=1
  COMMAND="git clone $1"
  for ((attempt = 1; attempt <= 3 && status != 0; attempt++)); do
    printf '+ %s (attempt %s of 3)\n' "$COMMAND" "$attempt"
    rm -rf "$2"
    status=0
    git clone --quiet --no-checkout "$1" "$2" 3>&- 9>&- </dev/null || status=$?
  done
  [ "$status" -eq 0 ] || ! disk_is_full || die "$FAILED" "git clone failed with status $status: the disk is full"
  [ "$status" -eq 0 ] || die "$NETWORK" "git clone failed with status $status"
}

# git removes what it could not finish, so the disk may have room again.
disk_is_full() {
  [ "$(stat --file-system --format %a /)" -lt 256 ] || tail -n 8 "$LOG" | grep -q 'No space left on device'
}

remove() { # GLOB...
  local glob found
  for glob; do
    mapfile -t found < <(compgen -G "$glob")
    [ "${#found[@]}" -eq 0 ] || rm -rf -- "${found[@]}"
  done
}

empty() { # GLOB... of files, and of folders with all files in them
  local glob file found
  for glob; do
    mapfile -t found < <(compgen -G "$glob")
    for file in "${found[@]+"${found[@]}"}"; do
      find "$file" -type f -exec truncate -s 0 {} +
    done
  done
}

#--- Checks ---------------------------------------------------------------------------------------------------

os_release() { sed -n "s/^$1=//p" /etc/os-release | tr -d "\"'"; }

assert_system() { # ID VERSION_ID MACHINE
  local found
  found="$(os_release ID) $(os_release VERSION_ID) $(uname -m)"
  [ "$found" = "$1 $2 $3" ] || die "$WRONG_MACHINE" "this machine is $found, not $1 $2 $3"
}

assert_free_space() { # MIB
  local free
  free=$(($(stat --file-system --format '%a * %S' /) / 1048576))
  [ "$free" -ge "$1" ] || die "$WRONG_MACHINE" "/ has $free MiB free, this stage needs $1 MiB"
}

# Rescue kernels are the distribution's way back, not what the machine boots.
kernels() {
  local image
  for image in /boot/vmlinuz-*; do
    case $image in *rescue* | *\**) continue ;; esac
    printf '%s\n' "${image#/boot/vmlinuz-}"
  done
}

assert_newest_kernel() {
  local newest
  # For rpm and dpkg 957.1.3.el7 is newer than 957.el7, for sort only if the letters come after a tilde.
  newest=$(kernels | sed 's/\.\([a-z]\)/~\1/g' | sort -V | tail -n 1 | sed 's/~/./g')
  [ "$newest" = "$KERNEL" ] || die "$ASSERTION" "kernel $KERNEL is running, ${newest:-none} is the newest in /boot"
}

assert_installed() { # WORDS-OF-QUERY QUERY... PACKAGE...
  local package query=("${@:2:$1}")
  for package in "${@:2+$1}"; do
    COMMAND="${query[*]} $package"
    "${query[@]}" "$package" >/dev/null || die "$ASSERTION" "package $package is not installed"
  done
}

assert_exists() { [ -e "$1" ] || die "$ASSERTION" "$1 does not exist"; }

assert_gone() { # GLOB...
  local glob file
  for glob; do
    while IFS= read -r file; do
      [ ! -s "$file" ] || die "$ASSERTION" "$file is still there"
    done < <(compgen -G "$glob")
  done
}

assert_contains() { # FILE TEXT
  grep -qF -e "$2" "$1" || die "$ASSERTION" "$1 does not say \"$2\""
}

assert_prints() { # TEXT COMMAND...
  local output status=0
  COMMAND=$(printf '%q ' "${@:2}")
  output=$("${@:2}" 2>&1) || status=$?
  printf '+ %s\n%s\n' "$COMMAND" "$output"
  [ "$status" -eq 0 ] || die "$ASSERTION" "exit status $status"
  case $output in *"$1"*) ;; *) die "$ASSERTION" "it does not print \"$1\"" ;; esac
}

assert_module_absent() {
  [ ! -e "/sys/module/$1" ] || die "$ASSERTION" "kernel module $1 is loaded"
}

assert_libraries_found() { # LIBRARY
  local output
  COMMAND="ldd $1"
  assert_exists "$1"
  output=$(ldd "$1" 2>&1) || die "$ASSERTION" "ldd failed: $output"
  printf '%s\n' "$output"
  case $output in *"not found"*) die "$ASSERTION" "$1 needs a library that is not found" ;; esac
}

count_pci() { # VENDOR:DEVICE:CLASS, a pattern
  local device count=0
  for device in /sys/bus/pci/devices/*; do
    [ -r "$device/class" ] || continue
    # shellcheck disable=SC2254 # the argument is a pattern
    case $(<"$device/vendor"):$(<"$device/device"):$(<"$device/class") in $1) count=$((count + 1)) ;; esac
  done
  printf '%s' "$count"
}

assert_gpus() { # DRIVER
  local output
  [ "$GPUS" -gt 0 ] || { note "no NVIDIA GPU on this machine, so the driver was not tried"; return 0; }
  COMMAND="nvidia-smi --query-gpu=driver_version --format=csv,noheader"
  output=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1) || die "$ASSERTION" "$output"
  [ "$(grep -cxF -e "$1" <<<"$output")" -eq "$GPUS" ] || die "$ASSERTION" "$GPUS GPUs, but nvidia-smi says: $output"
}

# Devices can be late in enumeration, so it looks three times.
assert_efa_devices() { # FI_INFO
  local devices found=0 attempt output
  devices=$(count_pci '0x1d0f:0xefa*:*')
  [ "$devices" -gt 0 ] || { note "no EFA device on this machine, so EFA was not tried"; return 0; }
  COMMAND="$1 -p efa -t FI_EP_RDM"
  for attempt in 1 2 3; do
    output=$("$1" -p efa -t FI_EP_RDM 2>&1) || output="fi_info failed: $output"
    printf '%s\n' "$output"
    found=$(awk '
      $1 == "provider:" { efa = $2 == "efa" }
      $1 == "domain:" && efa && !seen[$2]++ { count++ }
      END { print count + 0 }' <<<"$output")
    [ "$found" -ne "$devices" ] || return 0
    sleep $((attempt * 5))
  done
  die "$ASSERTION" "$devices EFA devices, but fi_info finds provider efa on $found"
}

assert_memlock() { # USER
  local limit
  COMMAND="su $1 -c 'ulimit -l'"
  getent passwd "$1" >/dev/null || die "$ASSERTION" "there is no user $1, the login user of this distribution's AMIs"
  limit=$(su -s /bin/sh -c 'ulimit -l' "$1" </dev/null) || die "$ASSERTION" "could not start a session of user $1"
  [ "$limit" = unlimited ] || [ "$limit" -ge 16777216 ] || die "$ASSERTION" "user $1 may lock $limit KiB, must be 16 GiB or more"
}

assert_initramfs() { # PATH with {kernel}
  local kernel path
  [ -n "$(kernels)" ] || die "$ASSERTION" "there is no kernel in /boot"
  while IFS= read -r kernel; do
    path=${1//\{kernel\}/$kernel}
    [ -s "$path" ] || die "$ASSERTION" "kernel $kernel has no initramfs $path and would not boot"
  done < <(kernels)
}

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

# The exit status of mpirun proves nothing: NCCL falls back to TCP and succeeds. So the log is judged.
nccl_test() { # SECONDS HOSTFILE COMMAND...
  local status=0 log="${LOG%/*}/all_reduce_perf.log" why
  [ "$GPUS" -gt 0 ] || die "$ASSERTION" "all_reduce_perf needs an NVIDIA GPU, and this machine has none"
  write_file 0644 "$2" <<<"localhost slots=$GPUS"
  COMMAND=$(printf '%q ' "${@:3}")
  printf '+ %s\n' "$COMMAND"
  timeout --foreground "$1" "${@:3}" >"$log" 2>&1 3>&- 9>&- </dev/null || status=$?
  cat "$log"
  why=$(nccl_failure "$log" "$status")
  if [ -n "$why" ]; then
    say "EFA-GEN VERDICT: FAIL: $why"
    die "$ASSERTION" "$why"
  fi
  say "EFA-GEN VERDICT: PASS on one host: the plugin loads and selects EFA (the network itself needs two hosts)"
}

nccl_failure() { # LOG STATUS: prints the first reason, most fundamental first
  local providers networks
  providers=$(sed -n 's/.*NET\/OFI Selected [Pp]rovider is \([^,; ]*\).*/\1/p' "$1" | sort -u | tr '\n' ' ')
  networks=$(sed -n 's/.*Using network //p' "$1" | sort -u | tr '\n' ' ')
  if [ "$2" -eq 124 ]; then printf 'it did not end in time'
  elif [ "$2" -ne 0 ]; then
    printf 'exit status %s' "$2"
    sed -n -E '/NCCL WARN |NCCL failure|CUDA failure|mpirun/ { s/.*NCCL WARN //; s/^/: /p; q }' "$1"
  elif ! grep -q '^# Avg bus bandwidth' "$1"; then printf 'the log is incomplete: no summary'
  elif ! grep -q '^# Out of bounds values : 0 OK' "$1"; then printf 'wrong values'
  elif [ -z "$providers" ]; then printf 'no rank selected a libfabric provider: the plugin did not load or found no EFA device'
  elif [ "$providers" != "efa " ]; then printf 'libfabric provider %sinstead of efa' "$providers"
  elif [ -z "$networks" ]; then printf 'NCCL does not say which network it uses'
  elif [[ " $networks" == *" Socket "* || " $networks" == *" IB "* ]]; then printf 'NCCL uses network %sinstead of the plugin' "$networks"
  fi
}

#--- Facts of this machine that commands below need -----------------------------------------------------------

# One job a core, but no more than one for each 2 GiB: nvcc takes 1 to 2 GiB.
job_count() {
  local cores memory
  cores=$(nproc)
  memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo) / 2097152))
  [ "$memory" -ge 1 ] || memory=1
  printf '%s' $((cores < memory ? cores : memory))
}

GPUS=$(count_pci '0x10de:*:0x030*')
JOBS=$(job_count)
readonly GPUS JOBS

#--- The plan -------------------------------------------------------------------------------------------------

<%- for stage in stages %>

# [<~ stage.number ~>/<~ stage_count ~>] <~ stage.heading | safe ~>

<%- for step in stage.steps %>

<~ step.comment | safe ~>
<~ step.function | safe ~>() {
<~ step.body | safe ~>
}
<%- endfor %>

stage_<~ stage.function | safe ~>() {
<%- for step in stage.steps %>
  step <~ step.id ~> <~ step.title ~> <~ step.function ~> <~ step.hint ~>
<%- endfor %>
}
<%- endfor %>

# Before each package command: nobody else may hold the package manager's locks.
own_package_locks() {
<~ package_locks | safe ~>
}

# Ends what a cut left half-done, where the package manager refuses to go on by itself.
recover_packages() {
<~ recover_packages | safe ~>
}

# Learns anew what the package sources have.
refresh_packages() {
<~ refresh_packages | safe ~>
}

# On each new boot, before anything else.
after_reboot() {
<~ after_reboot | safe ~>
}

# Starts this script at each boot until it is complete.
install_boot_hook() {
<~ hook_install | safe ~>
  : >"$STATE/boot-hook"
}

start_in_background() {
<~ hook_start | safe ~>
}

remove_boot_hook() {
  [ -e "$STATE/boot-hook" ] || return 0
<~ hook_remove | safe ~>
  rm -f "$STATE/boot-hook"
}

#--- Walking the plan -----------------------------------------------------------------------------------------

step() { # STAGE.STEP TITLE FUNCTION [HINT]
  is_done "$1" && return 0
  STEP=$2 HINT=${4:-} COMMAND=''
  say "        $2"
  "$3"
  mark "$1"
  STEP='' HINT='' COMMAND=''
}

number_of() { # STAGE
  local index
  for index in "${!STAGES[@]}"; do
    [ "${STAGES[index]}" != "$1" ] || { printf '%s' "$index"; return 0; }
  done
  HINT="one of: ${STAGES[*]}"
  die "$USAGE" "there is no stage $1"
}

not_rebooted() {
  HINT="see what holds the shutdown up, then reboot by hand"
  die "$ASSERTION" "the machine did not reboot within 5 minutes"
}

# The old boot id is recorded before anything else, so that no later stage can start on the old boot.
reboot_machine() {
  write_file 0644 "$STATE/reboot" <<<"$BOOT"
  [ -z "$STAGE" ] || mark "$STAGE"
  say "        rebooting"
  sync
  REBOOTING=1
  trap 'exit 0' TERM HUP
  run shutdown -r now
  sleep 300 3>&- 9>&- &
  wait $!
  REBOOTING=''
  not_rebooted
}

run_stage() { # INDEX [SAY-IF-DONE]
  local id=${STAGES[$1]}
  if is_done "$id"; then
    [ -z "${2:-}" ] || say "Stage $id is done already."
    return 0
  fi
  say "[$(($1 + 1))/${#STAGES[@]}] ${TITLES[$1]}"
  STAGE=$id
  "stage_${id//-/_}"
  if contains "$REBOOT_AFTER" "$id"; then reboot_machine; fi
  mark "$id"
  STAGE=''
}

# A reboot that was asked for must have happened.
finish_reboot() {
  [ -e "$STATE/reboot" ] || return 0
  if [ "$(cat "$STATE/reboot")" = "$BOOT" ]; then
    say "A reboot is due."
    reboot_machine
  fi
  after_reboot
  rm -f "$STATE/reboot"
  COMMAND=''
}

# For a driver that reboots from outside: returns once the machine runs on a new boot.
wait_for_reboot() {
  local waited=0
  while [ -e "$STATE/reboot" ] && [ "$(cat "$STATE/reboot")" = "$BOOT" ]; do
    [ "$waited" -lt 300 ] || not_rebooted
    sleep 2
    waited=$((waited + 2))
  done
}

# Stages that every machine needs.
is_common() { ! contains "$IMAGE_ONLY$TARGET_ONLY" "$1"; }

complete_if_done() {
  local id
  for id in "${STAGES[@]}"; do
    if is_common "$id" && ! is_done "$id"; then return 0; fi
  done
  remove_boot_hook
  write_file 0644 "$STATE/complete" <<<"$PLAN"
  say "EFA-GEN COMPLETE: every stage is done."
}

run_all() {
  local index
  for index in "${!STAGES[@]}"; do
    contains "$IMAGE_ONLY" "${STAGES[index]}" || run_stage "$index"
  done
  complete_if_done
}

run_one() { # STAGE
  local index number
  number=$(number_of "$1")
  for ((index = 0; index < number; index++)); do
    if is_common "${STAGES[index]}" && ! is_done "${STAGES[index]}"; then
      die "$ASSERTION" "stage $1 needs stage ${STAGES[index]}, which is not done"
    fi
  done
  # An image may be made from this one: what is for images is never done once and for all.
  if contains "$IMAGE_ONLY" "$1"; then forget "$1"; fi
  run_stage "$number" say
  [ -e "$STATE/complete" ] || complete_if_done
}

forget() { rm -f "$STATE/done/$1" "$STATE/done/$1".*; } # STAGE

forget_from() { # STAGE
  local index number
  number=$(number_of "$1")
  rm -f "$STATE/complete"
  for ((index = number; index < ${#STAGES[@]}; index++)); do
    forget "${STAGES[index]}"
  done
}

list() {
  local index id state
  for index in "${!STAGES[@]}"; do
    id=${STAGES[index]} state=''
    is_done "$id" && state='done'
    contains "$IMAGE_ONLY" "$id" && state="only with --stage $id"
    printf '%2s  %-12s %-60s %s\n' $((index + 1)) "$id" "${TITLES[index]}" "$state"
    if contains "$REBOOT_AFTER" "$id"; then printf '    -- reboot --\n'; fi
  done
}

usage() {
  cat <<'TEXT'
usage: install.sh [OPTION]

Without an option: install from where it was left, rebooting as needed, until every stage is done.

  --list           show the stages and which are done
  --from STAGE     forget that STAGE and those after it are done, then install
  --stage STAGE    run this one stage, and the reboot after it
  --start          install in the background, also after each reboot
  --after-reboot   wait until the machine runs on a new boot
  --help           this text

exit codes: 0 done, 2 usage, 3 a digest or commit is wrong, 5 network, 6 a command failed,
            7 a check failed, 8 another run is at work, 9 wrong machine, 70 bug in this script
TEXT
}

main() {
  case "${1:-}:$#" in
    :0 | --from:2 | --stage:2 | --start:1 | --after-reboot:1) ;;
    --help:1) usage; return 0 ;;
    --list:1) list; return 0 ;;
    *) HINT="see --help"; die "$USAGE" "cannot make sense of: $*" ;;
  esac
  HINT="use sudo"
  [ "$(id -u)" -eq 0 ] || die "$WRONG_MACHINE" "the script must be run as root"
  HINT=''
  trap 'on_exit $? $LINENO' EXIT
  trap 'die "$FAILED" "interrupted by a signal"' INT TERM HUP
  cd /
  case ${1:-} in
    --from | --stage)
      number_of "$2" >/dev/null
      HINT="it is run with --stage $2"
      if [ "$1" = --from ] && contains "$IMAGE_ONLY" "$2"; then die "$USAGE" "stage $2 is not a part of installing"; fi
      HINT=''
      ;;
    --after-reboot) wait_for_reboot; return 0 ;;
  esac
  if [ "${1:-}" != --from ] && [ "${1:-}" != --stage ] && grep -qxF "$PLAN" "$STATE/complete" 2>/dev/null; then
    say "EFA-GEN COMPLETE: every stage is done already."
    return 0
  fi
  open_lock
  if [ "${1:-}" = --start ]; then
    flock -n 9 || { say "another run of this script is at work"; return 0; }
  else
    # A few seconds, because at boot --start and the run that it starts may meet.
    flock -w 5 9 || die "$LOCKED" "another run of this script is at work"
  fi
  settle
  start_log
  [ "${1:-}" = --stage ] || install_boot_hook
  COMMAND=''
  case ${1:-} in
    --start)
      exec 9>&- # or the run that is started here would find the lock taken
      start_in_background
      return 0
      ;;
    --from) forget_from "$2" ;;
  esac
  finish_reboot
  case ${1:-} in
    --stage) run_one "$2" ;;
    *) run_all ;;
  esac
}

main "$@"
