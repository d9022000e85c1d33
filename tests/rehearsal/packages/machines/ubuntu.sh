# What the Ubuntu releases have in common; sourced by theirs.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
FAMILY=deb
LOGIN_USER=ubuntu
METAS="linux-image-aws linux-headers-aws linux-aws"
IMAGE_METAS=$METAS
MIRROR=us-east-1.ec2.archive.ubuntu.com/ubuntu

files() {
  file /etc/os-release <<TEXT
NAME="Ubuntu"
ID=ubuntu
ID_LIKE=debian
VERSION_ID="$ID"
VERSION_CODENAME=$CODENAME
TEXT
  file /etc/apt/sources.list <<TEXT
deb http://$MIRROR $CODENAME main restricted universe
deb http://$MIRROR $CODENAME-updates main restricted universe
deb http://security.ubuntu.com/ubuntu $CODENAME-security main restricted universe
TEXT
  # Since 24.04 the sources have this form, and name their key.
  if [ "$CODENAME" = noble ]; then
    : >/etc/apt/sources.list
    file /etc/apt/sources.list.d/ubuntu.sources <<TEXT
Types: deb
URIs: http://$MIRROR
Suites: $CODENAME $CODENAME-updates
Components: main restricted universe
Signed-By: $KEYRING

Types: deb
URIs: http://security.ubuntu.com/ubuntu
Suites: $CODENAME-security
Components: main restricted universe
Signed-By: $KEYRING
TEXT
  fi
  file /etc/default/grub <<'TEXT'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX=""
TEXT
  file /etc/default/grub.d/50-cloudimg-settings.cfg <<'TEXT'
GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0 nvme_core.io_timeout=4294967295"
TEXT
  mkdir -p "${KEYRING%/*}"
  cp /srv/pool/keys/ours.gpg "$KEYRING"
}

trees() {
  suite "$MIRROR" "$CODENAME" "main restricted universe" plan kernel:1 base:1 was-to-follow_1.0
  suite "$MIRROR" "$CODENAME-updates" "main restricted universe" kernel:2 base:2
  suite security.ubuntu.com/ubuntu "$CODENAME-security" "main restricted universe"
}
