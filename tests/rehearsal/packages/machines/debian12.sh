# Debian 12: its AMI's files and its mirrors as far as the plan meets them. The image has the kernel and not its headers.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh
FAMILY=deb
LOGIN_USER="admin"
KERNELS="6.1.0-9-cloud-amd64 6.1.0-10-cloud-amd64 6.1.0-11-cloud-amd64"
METAS="linux-image-cloud-amd64 linux-headers-cloud-amd64"
IMAGE_METAS=linux-image-cloud-amd64

files() {
  file /etc/os-release <<'TEXT'
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION_CODENAME=bookworm
ID=debian
TEXT
  # https on the AMI; the sandbox's mirrors speak http alone.
  echo http://cdn-aws.deb.debian.org/debian | file /etc/apt/mirrors/debian.list
  echo http://cdn-aws.deb.debian.org/debian-security | file /etc/apt/mirrors/debian-security.list
  file /etc/apt/sources.list.d/debian.sources <<'TEXT'
Types: deb
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: mirror+file:///etc/apt/mirrors/debian-security.list
Suites: bookworm-security
Components: main
TEXT
  file /etc/default/grub <<'TEXT'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0"
TEXT
  cp /srv/pool/keys/ours.gpg /etc/apt/trusted.gpg.d/debian-archive-bookworm-stable.gpg
}

trees() {
  suite cdn-aws.deb.debian.org/debian bookworm main plan kernel:1 base:1 was-to-follow_1.0
  suite cdn-aws.deb.debian.org/debian bookworm-updates main base:2
  suite cdn-aws.deb.debian.org/debian-security bookworm-security main kernel:2
}
