# RHEL 7.7.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
MINOR=7
KERNELS="3.10.0-1062.el7.x86_64 3.10.0-1062.12.1.el7.x86_64 3.10.0-1160.119.1.el7.x86_64"
. /rehearsal/machines/rhel7.sh
