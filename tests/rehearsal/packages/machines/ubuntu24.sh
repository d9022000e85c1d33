# Ubuntu 24.04: its AMI's files and its mirrors as far as the plan meets them.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
CODENAME=noble
ID=24.04
KERNELS="6.8.0-1008-aws 7.0.0-1014-aws 7.0.0-1015-aws"
KEYRING=/usr/share/keyrings/ubuntu-archive-keyring.gpg
. /rehearsal/machines/ubuntu.sh
# This image follows another series of kernels than Canonical's own ones.
METAS="linux-image-aws-7.0 linux-headers-aws-7.0 linux-aws-7.0"
IMAGE_METAS=$METAS
