# shellcheck shell=bash disable=SC2034,SC2153
# Reporting: progress, notes, and the end of a script that failed.

# Lines of whatever origin, as a console may show them: nothing in them drives it, no URL has a password, and those but
# the first are quoted from somewhere.
show() { sed 's/[^\t -~]//g; s,//[^/ ]*@,//***@,g; 1!s/^/    | /' >&3; }

# Progress: to whoever started the script, and to the log. That nobody listens any more, or that the disk is full, must
# not keep it from saying the rest.
say() {
  printf '%s\n' "$*" | show || :
  [ -z "$LOGGING" ] || printf '%s\n' "$*" || :
}

note() { say "        note: $*"; }

# Ends the script: which step, which command, why, the log's last lines, what to do.
die() { # CLASS REASON [HINT]
  local last='' hint=${3:-$STEP_HINT}
  trap - EXIT
  [ -z "$LOGGING" ] || last=$(tail -c 4096 "$LOG" | tail -n 15) || last="(the log is gone)"
  say "FAILED${STAGE:+ in stage $STAGE}${STEP:+, step: $STEP}"
  [ -z "$COMMAND" ] || say "  command: $COMMAND"
  say "  reason: $2"
  if [ -n "$last" ]; then
    printf '  last lines of %s:\n%s\n' "$LOG" "$last" | show || :
  fi
  [ -z "$STEP" ] || hint=${hint:-"see $LOG"}
  [ -z "$hint" ] || say "  hint: $hint"
  [ -z "$STAGE" ] || say "  then go on with this step: sudo bash $STATE/install.sh"
  exit "$1"
}

on_exit() { # STATUS LINE
  [ "$1" -ne 0 ] && [ -z "$REBOOTING" ] || return 0
  [ -z "$STEP" ] || die "$FAILED" "exit status $1 at line $2 of this script: is the disk full?"
  die "$BUG" "exit status $1 at line $2 of this script: a bug in efa-gen"
}
