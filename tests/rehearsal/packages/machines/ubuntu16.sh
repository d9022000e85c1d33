# Ubuntu 16.04: its AMI's files and its mirrors as far as the plan meets them.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
CODENAME=xenial
ID=16.04
KERNELS="4.4.0-1052-aws 4.4.0-1128-aws 4.4.0-1129-aws"
KEYRING=/etc/apt/trusted.gpg
. /rehearsal/machines/ubuntu.sh
