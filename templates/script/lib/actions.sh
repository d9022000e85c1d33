# shellcheck shell=bash disable=SC2034,SC2153
# Actions of a plan. A line `#: NAME` begins what the script has only if an action of its plan needs it.

#: always
run() { # COMMAND...
  local status=0
  COMMAND=$(printf '%q ' "$@")
  printf '+ %s\n' "$COMMAND"
  "$@" 3>&- 9>&- </dev/null || status=$?
  [ "$status" -eq 0 ] || die "$FAILED" "exit status $status"
}

#: in_folder
in_folder() { # FOLDER FUNCTION...
  cd "$1" || die "$FAILED" "no folder $1"
  "${@:2}"
  cd /
}

#: package
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

#: wait_for_locks
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

#: mask_units
# Until unmask_units, also over a reboot. What is masked already, or not there, is left as it is; each is written down before it
# is masked, so that a cut leaves none masked that nobody unmasks. Not in $STATE, which may be removed for another plan.
mask_units() { # UNIT...
  local unit
  for unit; do
    if [ ! -e "$STATE.masked/$unit" ]; then
      case $(systemctl is-enabled "$unit" 2>/dev/null) in '' | not-found | masked*) continue ;; esac
      write_file 0644 "$STATE.masked/$unit" <<<"$unit"
    fi
    systemctl mask "$unit" 3>&- 9>&- || note "$unit can't be masked"
    run systemctl stop "$unit"
  done
}

#: unmask_units
# They are as they were from the next boot on: started here, they would run while the machine becomes an image.
unmask_units() {
  local record
  for record in "$STATE".masked/*; do
    [[ -e $record && $record != *.efa-gen-new ]] || continue
    run systemctl unmask "${record##*/}"
    rm -f "$record"
  done
  rm -rf "$STATE.masked"
}

#: wait_for_cloud_init
wait_for_cloud_init() { # COMMAND...
  local status=0
  COMMAND="wait for cloud-init"
  command -v cloud-init >/dev/null || { note "no cloud-init on this machine"; return 0; }
  timeout --foreground 1200 "$@" 3>&- 9>&- || status=$?
  [ "$status" -ne 124 ] || die "$ASSERTION" "cloud-init has not finished for 20 minutes"
  [ "$status" -eq 0 ] || note "cloud-init finished with status $status, see /var/log/cloud-init.log"
}

#: wait_for_boot_finished
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

#: ensure_line
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

#: append_to_lines
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

#: matching
# Sets MATCHES to the files of these names, dot files too, or to the name that is no pattern. A name is never text on its way:
# it may hold any byte.
matching() { # GLOB
  local IFS=''
  shopt -s nullglob dotglob
  # shellcheck disable=SC2206 # the glob is to be expanded; without IFS nothing is split
  MATCHES=($1)
  shopt -u nullglob dotglob
}

#: replace
replace() { # GLOB REGEX REPLACEMENT
  matching "$1"
  [ -e "${MATCHES[0]-}" ] || die "$ASSERTION" "no file is named $1"
  run sed -E -i --follow-symlinks -e "s|$2|$3|" "${MATCHES[@]+"${MATCHES[@]}"}"
}

#: free_driver
# NVIDIA's installer refuses to replace a driver that is in use, as it is from the first boot with it on.
free_driver() { # COMMAND-THAT-STOPS-WHAT-USES-IT...
  [ -e /proc/driver/nvidia/version ] || return 0
  run "$@"
  [ ! -e /sys/module/efa_nv_peermem ] || run modprobe -r efa_nv_peermem
}

#: fetch
digest_of() { "sha$1sum" <"$2" | cut -d ' ' -f 1; } # BITS FILE

check_digest() { # BITS FILE DIGEST
  local found
  found=$(digest_of "$1" "$2")
  [ "$found" = "$3" ] || { rm -f "$2"; die "$REFUSED" "wrong content: SHA-$1 is $found, must be $3"; }
}

# The file has its name only once its digest is right; an interrupted download is resumed.
fetch() { # URL SHA256 FILE [SHA512]
  local url=$1 sha256=$2 file=$3 sha512=${4-} attempt status=1 answer had
  COMMAND="download $url"
  printf '+ %s\n' "$COMMAND"
  mkdir -p "${file%/*}"
  if [ -e "$file" ] && [ "$(digest_of 256 "$file")" = "$sha256" ]; then return 0; fi
  for ((attempt = 1; attempt <= 6 && status != 0; attempt++)); do
    [ "$attempt" -eq 1 ] || sleep $((attempt * attempt))
    had=''
    [ ! -s "$file.part" ] || had=1
    status=0
    answer=$(curl -q -fsSL --proto "=${url%%:*}" --connect-timeout 30 \
      --speed-limit 1024 --speed-time 60 -C - -w '%{http_code}' -o "$file.part" "$url" \
      3>&- 9>&-) || status=$?
    case $status:$had:$answer in
      # Done, or the server is busy.
      0:* | 22:*:5* | 22:*:408 | 22:*:429) ;;
      23:*) die "$FAILED" "$file.part could not be written: is the disk full?" ;;
      # It says no, and will again.
      22::* | 1:* | 3:* | 37:*) break ;;
      # What is there does not fit what the server has now.
      22:* | 33:* | 36:*) rm -f "$file.part" ;;
    esac
  done
  [ "$status" -eq 0 ] || die "$NETWORK" "curl failed with status $status${answer:+, HTTP status $answer}" \
    "see whether this machine reaches that host; render with --mirror for another one"
  check_digest 256 "$file.part" "$sha256"
  [ -z "$sha512" ] || check_digest 512 "$file.part" "$sha512"
  sync
  mv -f "$file.part" "$file"
}

#: unpack
unpack() { # ARCHIVE FOLDER [OPTION-OF-TAR]
  rm -rf "$2"
  mkdir -p "$2"
  run tar -x --no-same-owner --no-same-permissions -f "$1" -C "$2" "${@:3}"
}

#: checkout
checkout() { # URL COMMIT FOLDER
  local found
  mkdir -p "${3%/*}"
  GIT_TERMINAL_PROMPT=0 clone "$1" "$3"
  HOME=/ in_folder "$3" run git checkout --quiet --detach "$2"
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
    HOME=/ git clone --quiet --no-checkout "$1" "$2" 3>&- 9>&- </dev/null || status=$?
  done
  [ "$status" -eq 0 ] || ! disk_is_full || die "$FAILED" "git clone failed with status $status: the disk is full"
  [ "$status" -eq 0 ] || die "$NETWORK" "git clone failed with status $status"
}

# git removes what it could not finish, so the disk may have room again.
disk_is_full() {
  [ "$(stat --file-system --format %a /)" -lt 256 ] || tail -n 8 "$LOG" | grep -q 'No space left on device'
}

#: remove
remove() { # GLOB...
  local glob
  for glob; do
    matching "$glob"
    # Of as many names as there are: a mail queue may have more than one command line takes.
    [ "${#MATCHES[@]}" -eq 0 ] || printf '%s\0' "${MATCHES[@]}" | xargs -0 rm -rf --
  done
}

#: forget_key
# A key that `rpm --checksig` goes by is a package gpg-pubkey-KEY-DATE of its database. KEY is the fingerprint's last eight digits,
# or all of them.
rpm_keys() {
  COMMAND="rpm --query --all gpg-pubkey"
  KEYS=$(rpm --query --all gpg-pubkey) || die "$FAILED" "rpm does not tell which keys it goes by"
}

forget_key() { # FINGERPRINT
  local id=${1: -8} package
  command -v rpm >/dev/null || return 0
  id=${id,,}
  rpm_keys
  for package in $KEYS; do
    case $package in gpg-pubkey-*"$id"-*) run rpm --erase --allmatches "$package" ;; esac
  done
  rpm_keys
  case $KEYS in *"$id"-*) die "$ASSERTION" "rpm still goes by key $1" ;; esac
}

#: empty
# Checks that they are empty afterwards, up to five times: a daemon of the base image may write a line meanwhile.
empty() { # GLOB... of files, and of folders with all files in them
  local glob file found attempt
  for glob; do
    for attempt in 1 2 3 4 5; do
      matching "$glob"
      found=
      for file in "${MATCHES[@]+"${MATCHES[@]}"}"; do
        # Nor is a link that leads nowhere. A file may go while it is looked at.
        [ -e "$file" ] || continue
        find "$file" -type f -exec truncate --no-create --size 0 {} + 2>/dev/null || :
        [ -n "$found" ] || found=$(find "$file" -type f -size +0c -print -quit 2>/dev/null) || :
      done
      [ -n "$found" ] || break
    done
    [ -z "$found" ] || die "$ASSERTION" "$(printf %q "$found") is not empty after $attempt tries: what writes to it?"
  done
}

#: quiesce
# Runs a command if the machine has booted, which the question asks: in a chroot nobody writes.
quiesce() { # WORDS-OF-QUESTION QUESTION... COMMAND...
  "${@:2:$1}" >/dev/null 2>&1 || return 0
  run "${@:2+$1}"
}

#: in_homes
# Sets HOMES to the homes on this machine's disks: of everybody whom getent knows, and what somebody who is gone has left. Not
# one that comes over the network: it is in no image, and others use it.
find_homes() { # GLOB
  local home device own all=()
  while IFS=: read -r _ _ _ _ _ home _; do all+=("$home"); done < <(getent passwd)
  [ "${#all[@]}" -gt 0 ] || die "$FAILED" "getent passwd told of nobody"
  own=$(stat -c %d "$STATE")
  matching "$1"
  HOMES=()
  for home in "${all[@]}" "${MATCHES[@]+"${MATCHES[@]}"}"; do
    case $home in /*) ;; *) continue ;; esac
    # The dot keeps a line feed at the end of a name.
    home=$(cd -P -- "$home" 2>/dev/null && printf '%s/.' "$PWD") || continue
    home=${home%/.}
    case $home/ in /dev/* | /proc/* | /sys/* | /run/*) continue ;; esac
    device=$(stat -c %d -- "$home/")
    # Only a disk's number has a first half.
    if [ "$device" = "$own" ] || [ $((device >> 8 & 4095)) -ne 0 ]; then
      HOMES+=("$home")
    else
      note "home $(printf %q "$home") is on no disk of this machine and is left alone"
    fi
  done
}

# Calls a function with the last part of each of these globs, in each folder of each home that the rest names. A link may lead
# anywhere, so what a link takes out of its home is left alone.
in_homes() { # GLOB-OF-MORE-HOMES FUNCTION GLOB...
  local home root glob folder
  find_homes "$1"
  for home in "${HOMES[@]+"${HOMES[@]}"}"; do
    root=${home%/} # apart: bash takes it for no pattern otherwise, where it is empty
    for glob in "${@:3}"; do
      cd -P -- "$root/" || die "$FAILED" "no folder $home"
      MATCHES=(.)
      case $glob in */*) matching "./${glob%/*}" ;; esac
      for folder in "${MATCHES[@]+"${MATCHES[@]}"}"; do
        cd -P -- "$root/$folder" 2>/dev/null || continue
        case $PWD/ in
          "$root"/*) "$2" "./${glob##*/}" ;;
          *) note "$(printf %q "$root/${folder#./}") leads out of its home: what it leads to is left alone" ;;
        esac
      done
    done
  done
  cd /
}

#: strip_ssh
# Leaves of a user's .ssh the configuration, without the block that a cluster's node has in it.
strip_ssh() { # FOLDER
  local new
  [ -d "$1" ] || return 0
  find "$1" -mindepth 1 ! -path "$1/config" -delete
  ssh_config_has_block "$1/config" || return 0
  # Nothing is opened for writing in a folder of a user's, who could lay a link there.
  new=$(mktemp "$STATE/ssh-config.XXXXXXXXXX")
  ssh_config_without_block "$1/config" >"$new"
  chown --reference="$1/config" "$new"
  chmod --reference="$1/config" "$new"
  mv -f -T -- "$new" "$1/config"
}

assert_ssh_stripped() { # FOLDER
  local found
  [ -d "$1" ] || return 0
  found=$(find "$1" -mindepth 1 ! -path "$1/config" -print -quit)
  [ -z "$found" ] || die "$ASSERTION" "$(printf %q "${found/#.\//$PWD/}") is still there"
  ! ssh_config_has_block "$1/config" || die "$ASSERTION" "$(printf %q "${1/#.\//$PWD/}/config") still has the cluster's block"
}

# A block that does not end is none: what is below it may be the user's.
ssh_config_without_block() { # FILE
  awk '
    $0 == "# efa-gen: begin of the cluster" { print_kept() ; kept = ""; inside = 1 }
    inside { kept = kept $0 "\n"; if ($0 == "# efa-gen: end of the cluster") { kept = ""; inside = 0 } ; next }
    { print }
    END { print_kept() }
    function print_kept() { if (inside) printf "%s", kept }' "$1"
}

ssh_config_has_block() { # FILE
  [ -f "$1" ] && [ ! -L "$1" ] && ! ssh_config_without_block "$1" | cmp -s - "$1"
}

#: remove_swap
# A swap file holds what was in memory. One that is mounted at boot is made anew, of zeros.
remove_swap() { # FSTAB GLOB...
  local glob file size
  for glob in "${@:2}"; do
    matching "$glob"
    for file in "${MATCHES[@]+"${MATCHES[@]}"}"; do
      if [ ! -f "$file" ] || [ -L "$file" ]; then continue; fi
      if names_swap "$file" /proc/swaps; then run swapoff "$file"; fi
      if names_swap "$file" "$1"; then
        size=$(stat -c %s "$file")
        COMMAND="fill $file with zeros"
        head -c "$size" /dev/zero >"$file" || die "$FAILED" "$file could not be written: is the disk full?"
        run mkswap "$file"
      else
        rm -f -- "$file"
      fi
    done
  done
}

names_swap() { # FILE TABLE
  [ -e "$2" ] && FILE=$1 awk '$1 == ENVIRON["FILE"] { found = 1 } END { exit !found }' "$2"
}

#: renew
# Of a file that is one machine's own: what makes the next boot fill it anew. One that is not there is not missed.
renew() { # FILE CONTENT
  COMMAND="write $1"
  [ ! -e "$1" ] || printf '%s' "$2" >"$1"
}

#: link_kernel_compiler
# A module wants its kernel's compiler: another major version lacks options that the kernel was built with. Kernels from 5.8 on
# name it as "gcc-12 (Debian 12.2.0-14) 12.2.0", others as "gcc version 7.3.1".
link_kernel_compiler() { # FILE LINK PACKAGE PROGRAM INSTALL...
  local default major program=gcc
  major=$(sed -n -E 's/^Linux version [^ ]+ \([^)]*\) \((gcc version|[^ (]*gcc[^ (]* \([^)]*\)) ([0-9]+)\..*/\2/p' "$1")
  default=$(gcc -dumpversion)
  default=${default%%.*}
  if [ "$major" = "$default" ]; then
    :
  elif [ -z "$major" ] || [ -z "$3" ]; then
    note "gcc $default is taken: gcc ${major:-?} of this kernel is not known here: $(<"$1")"
  else
    program=${4/\{major\}/$major}
    command -v "$program" >/dev/null || package "${@:5}" "${3/\{major\}/$major}"
    COMMAND="$program -dumpversion"
    [[ $("$program" -dumpversion). = "$major".* ]] || die "$ASSERTION" "this kernel's gcc is $major"
  fi
  run ln -sfn "$(command -v "$program")" "$2"
}

#: leave_digest
# Instead of the script, which holds what its user wrote, a note of which it was; it answers what the script would.
leave_digest() {
  local digest
  COMMAND="write $STATE/install.sh"
  # The same bytes as the file that was started, which may have been in a folder that is empty by now.
  digest=$(sha256sum <"$STATE/install.sh" | cut -d ' ' -f 1)
  # Not from a disk that is no part of the image.
  if [ -e "$SELF" ] && [ "$(stat -c %d "$SELF")" = "$(stat -c %d "$STATE")" ]; then rm -f -- "$SELF"; fi
  write_file 0755 "$STATE/install.sh" <<TEXT
#!/bin/sh
# This image was sealed by install.sh of efa-gen, which is not in it, because it may hold what its user wrote.
# plan: $PLAN
# SHA-256 of the script: $digest
case "\$*" in
  '' | --start) echo "EFA-GEN COMPLETE: every stage is done already." ;;
  *) echo "the script is not in this image: bring install.sh of plan $PLAN" >&2; exit 2 ;;
esac
TEXT
}
