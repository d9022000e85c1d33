# shellcheck shell=bash disable=SC2034,SC2153,SC2317
# Walking the plan: stages and steps, reboots, options.

step() { # STAGE.STEP TITLE [HINT], the function's name is STAGE_STEP
  is_done "$1" && return 0
  STEP=$2 STEP_HINT=${3:-} COMMAND=''
  say "        $2"
  "${1//[.-]/_}"
  mark "$1"
  STEP='' STEP_HINT='' COMMAND=''
}

number_of() { # STAGE
  local index
  for index in "${!STAGES[@]}"; do
    [ "${STAGES[index]}" != "$1" ] || { printf '%s' "$index"; return 0; }
  done
  die "$USAGE" "there is no stage $1" "one of: ${STAGES[*]}"
}

not_rebooted() {
  die "$ASSERTION" "the machine did not reboot within 5 minutes" "reboot it by hand"
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

#: whole
# For a driver that reboots from outside: returns once the machine runs on a new boot.
wait_for_reboot() {
  local waited=0
  while [ -e "$STATE/reboot" ] && [ "$(cat "$STATE/reboot")" = "$BOOT" ]; do
    [ "$waited" -lt 300 ] || not_rebooted
    sleep 2
    waited=$((waited + 2))
  done
}

#: always
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
#: whole
  # An image may be made from this one: what is for images is never done once and for all.
  if contains "$IMAGE_ONLY" "$1"; then forget "$1"; fi
#: always
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
#: whole
    contains "$IMAGE_ONLY" "$id" && state="only with --stage $id"
#: always
    printf '%2s  %-12s %-60s %s\n' $((index + 1)) "$id" "${TITLES[index]}" "$state"
    if contains "$REBOOT_AFTER" "$id"; then printf '    -- reboot --\n'; fi
  done
}

#: whole
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

#: bare
usage() { echo "options: --list, --from STAGE, --stage STAGE, --start"; }

#: always
main() {
  case "${1:-}:$#" in
    :0 | --from:2 | --stage:2 | --start:1) ;;
#: whole
    --after-reboot:1) ;;
#: always
    --help:1) usage; return 0 ;;
    --list:1) list; return 0 ;;
    *) die "$USAGE" "cannot make sense of: $*" 'see --help' ;;
  esac
  [ "$(id -u)" -eq 0 ] || die "$WRONG_MACHINE" "the script must be run as root: use sudo"
  trap 'on_exit $? $LINENO' EXIT
  trap 'die "$FAILED" "interrupted by a signal"' INT TERM HUP
  cd /
  case ${1:-} in
    --from | --stage)
      number_of "$2" >/dev/null
#: whole
      if [ "$1" = --from ] && contains "$IMAGE_ONLY" "$2"; then
        die "$USAGE" "stage $2 is not a part of installing" "it is run with --stage $2"
      fi
#: always
      ;;
#: whole
    --after-reboot) wait_for_reboot; return 0 ;;
#: always
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
      # Or the run that is started here would find the lock taken.
      exec 9>&-
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
