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

# shellcheck disable=SC2016 # a dollar in single quotes is for the program that gets it

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
LOGGING='' REBOOTING='' STAGE='' STEP='' STEP_HINT='' COMMAND=''
exec 3>&1

#--- Reporting ------------------------------------------------------------------------------------------------

<~ library.report | safe ~>

#--- State ----------------------------------------------------------------------------------------------------

<~ library.state | safe ~>

#--- Walking the plan -----------------------------------------------------------------------------------------

<~ library.walk | safe ~>

#--- Checks ---------------------------------------------------------------------------------------------------

<~ library.checks | safe ~>

#--- Actions: each can be done again without harm -------------------------------------------------------------

<~ library.actions | safe ~>

#--- Facts of this machine that commands below need -----------------------------------------------------------

<~ library.machine | safe ~>

GPUS=$(count_pci '0x10de:*:0x030*')
JOBS=$(job_count)
readonly GPUS JOBS

#--- Package manager and boot ---------------------------------------------------------------------------------

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
  step <~ step.id ~> <~ step.title ~><% if step.hint %> <~ step.hint ~><% endif %>
<%- endfor %>
}
<%- endfor %>

main "$@"
