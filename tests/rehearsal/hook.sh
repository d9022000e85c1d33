# Read by bash before the install script (BASH_ENV), on a guest, and then before each command of the script, of which it
# changes nothing. It defines no function: the script forgets those of its caller.
#
#   /root/hook        "cut": end at every step boundary, once each, before the step's mark is written and after it
#                     "cut BOUNDARY": end at this one, "before STAGE.STEP" or "after STAGE.STEP"
#                     "pause FUNCTION COMMAND": in this step's function, wait before the first command that begins so until
#                     /run/go-on is there
#   /root/cuts        the cuts made so far
if [ -z "${hook_mode:-}" ]; then
  unset BASH_ENV
  hook_mode=$(cat /root/hook)
  set -o functrace
  # With the function, the command, and the function's first argument.
  trap '. /root/hook.sh "${FUNCNAME[0]:-}" "$BASH_COMMAND" "${1:-}"' DEBUG
  return 0
fi
case $hook_mode:$1:$2 in
  cut*:mark:write_file*) hook_boundary="before $3" ;;
  cut*:step:"STEP=''"*) hook_boundary="after $3" ;;
  pause*)
    if [ "$hook_mode" = "pause $1 ${2%% *}" ] && [ ! -e /run/go-on ]; then
      touch /run/paused
      until [ -e /run/go-on ]; do sleep 0.2; done
    fi
    return 0
    ;;
  *) return 0 ;;
esac
if [ "$hook_mode" != cut ] && [ "$hook_mode" != "cut $hook_boundary" ]; then return 0; fi
if grep -qxF "$hook_boundary" /root/cuts; then return 0; fi
echo "$hook_boundary" >>/root/cuts
sync
# Every other cut is one of the power: the kernel stops everything at once, nothing is asked to end. A single cut is one if
# it comes after a mark.
case $hook_mode in
  cut) hook_power=$(($(wc -l </root/cuts) % 2)) ;;
  "cut after "*) hook_power=0 ;;
  *) hook_power=1 ;;
esac
[ "$hook_power" -ne 0 ] || systemctl reboot --force --force
kill -9 $$
