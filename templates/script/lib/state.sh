# shellcheck shell=bash disable=SC2034,SC2153
# State on the machine: what is done, the lock, the log.

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
  write_file 0644 "$STATE/done/$1" <<<"$1"
  COMMAND=''
}

is_done() { [ -e "$STATE/done/$1" ]; }

contains() { [[ $1 == *" $2 "* ]]; }

open_lock() {
  mkdir -p "$STATE/done" "${LOG%/*}"
  exec 9>>"$STATE/lock"
}

start_log() {
  # It may hold what a command prints of its user's.
  (umask 77 && : >>"$LOG")
  exec >>"$LOG" 2>&1
  LOGGING=1
  echo "=== $(date -u +%FT%TZ) plan $PLAN boot $BOOT kernel $KERNEL: $GPUS GPUs, $JOBS compile jobs" ||
    die "$FAILED" "$LOG could not be written: is the disk full?"
}

# Keeps a copy that the boot hook can start, and refuses to mix two plans on one machine.
settle() {
  local other
  if [ -e "$STATE/plan" ]; then
    other=$(cat "$STATE/plan")
    [ "$other" = "$PLAN" ] || die "$WRONG_MACHINE" "this machine was begun with another plan, $other" \
      "go on with its script, or remove $STATE"
  fi
  [ -f "$SELF" ] || die "$USAGE" "the script must be run from a file, not from a pipe"
  [ "$SELF" -ef "$STATE/install.sh" ] || write_file 0600 "$STATE/install.sh" <"$SELF"
  [ -e "$STATE/plan" ] || write_file 0644 "$STATE/plan" <<<"$PLAN"
}
