# Read by bash before the install script (BASH_ENV), on a guest. It sees every command of the script before it is done,
# and changes nothing of it.
#
#   /root/hook        "cut": end at every step boundary, once each, before the step's mark is written and after it
#                     "cut BOUNDARY": end at this one, "before STAGE.STEP" or "after STAGE.STEP"
#                     "pause FUNCTION COMMAND": in this step's function, wait before the first command that begins so until
#                     /run/go-on is there
#   /root/cuts        the cuts made so far
unset BASH_ENV
hook_mode=$(cat /root/hook)

hook_cut() { # BOUNDARY
  local power
  [ "$hook_mode" = cut ] || [ "$hook_mode" = "cut $1" ] || return 0
  ! grep -qxF "$1" /root/cuts || return 0
  echo "$1" >>/root/cuts
  sync
  # Every other cut is one of the power: the kernel stops everything at once, nothing is asked to end. A single cut is one
  # if it comes after a mark.
  case $hook_mode in
    cut) power=$(($(wc -l </root/cuts) % 2)) ;;
    "cut after "*) power=0 ;;
    *) power=1 ;;
  esac
  [ "$power" -ne 0 ] || systemctl reboot --force --force
  kill -9 $$
}

hook() { # FUNCTION COMMAND FIRST-ARGUMENT
  case $hook_mode:$1:$2 in
    cut*:mark:sync) hook_cut "before $3" ;;
    cut*:step:"STEP='' HINT='' COMMAND=''") hook_cut "after $3" ;;
    pause*)
      [ "$hook_mode" != "pause $1 ${2%% *}" ] || [ -e /run/go-on ] || {
        touch /run/paused
        until [ -e /run/go-on ]; do sleep 0.2; done
      }
      ;;
  esac
}

set -o functrace
trap 'hook "${FUNCNAME[0]:-}" "$BASH_COMMAND" "${1:-}"' DEBUG
