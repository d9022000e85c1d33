# Ubuntu 18.04: its AMI's files and its mirrors as far as the plan meets them.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
CODENAME=bionic
ID=18.04
KERNELS="4.15.0-1021-aws 4.15.0-1155-aws 4.15.0-1156-aws"
KEYRING=/etc/apt/trusted.gpg.d/ubuntu-keyring-2018-archive.gpg
. /rehearsal/machines/ubuntu.sh
