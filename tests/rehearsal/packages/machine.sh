#!/usr/bin/env bash
# Makes a sandbox into a fresh machine of a distribution: machine.sh DISTRIBUTION.
#
# Owns what is the same on all of them: stand-ins, witnesses, an empty package database, the mirrors. What the
# distribution's AMI and mirrors have is in machines/DISTRIBUTION.sh, and the package names are in /pool/names.
set -euo pipefail
# This path exists in a sandbox alone, so nothing below can happen to a host.
# shellcheck source=/dev/null
. /rehearsal/common.sh

kernel() { # NUMBER: 1 is in the image, 2 is an update, 3 comes too late
  echo "$KERNELS" | cut -d ' ' -f "$1"
}

contains_word() { case " $1 " in *" $2 "*) return 0 ;; *) return 1 ;; esac; }

file() { # PATH, its content on standard input
  mkdir -p "${1%/*}"
  rm -f "$1"
  cat >"$1"
}

serve() { # HOST/PATH, its content on standard input
  file "/srv/www/$1"
}

# From the next boot on the mirrors speak https, too, by these names and a certificate of this machine's own.
speak_https() { # HOST...
  local host names=''
  for host; do names+=,DNS:$host; done
  mkdir -p /srv/tls
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=mirrors -addext "subjectAltName=${names#,}" \
    -keyout /srv/tls/key.pem -out /srv/tls/cert.pem 2>/tmp/openssl.log || { cat /tmp/openssl.log >&2; return 1; }
  cat /srv/tls/key.pem /srv/tls/cert.pem >/srv/tls/mirrors.pem
}

install_stand_ins() {
  local name
  mv /usr/bin/uname /usr/bin/uname.real
  cp /rehearsal/stand-ins/uname /usr/bin/uname
  cp /stand-ins/grub-probe /usr/sbin/grub-probe
  cp /stand-ins/su /usr/local/bin/su
  for name in shutdown sleep stat sync; do cp "/rehearsal/stand-ins/$name" "/usr/local/bin/$name"; done
  for name in cloud-init grubby initctl; do cp /rehearsal/stand-ins/recorded "/usr/local/bin/$name"; done
}

# Last, so that they see what the script does and nothing else.
install_witnesses() {
  local name
  for name in dracut yum; do cp "/rehearsal/stand-ins/$name" "/usr/local/bin/$name"; done
  for name in sh timeout rpm apt-get apt-mark dpkg update-initramfs update-grub systemctl; do
    cp /rehearsal/stand-ins/record "/usr/local/bin/$name"
  done
}

# What is Debian's here and has another owner there.
remove_debian() {
  # shellcheck disable=SC2115 # it is meant: see above
  rm -rf /boot/* /lib/modules/* /vmlinuz* /initrd.img* /usr/src/linux-* /etc/os-release /etc/default/grub.d /etc/apt/apt.conf.d/70debconf
  rm -rf /etc/apt/apt.conf.d/99rehearsal /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/trusted.gpg.d/*
  mkdir -p /boot/grub /etc/modprobe.d
  : >/var/lib/dpkg/status
  rm -rf /var/lib/dpkg/info/* /var/lib/dpkg/triggers/* /var/lib/apt/extended_states /var/cache/apt/*.bin
}

# Hosts that have something to serve answer; every other name is unknown.
name_hosts() {
  { echo 127.0.0.1 localhost
    find /srv/www -mindepth 1 -maxdepth 1 -type d -printf '127.0.0.1 %f\n'; } >/etc/hosts
}

# shellcheck disable=SC2034 # the machine's file and the family's use them
NAMES=$(cat "/pool/names/$1")
# shellcheck disable=SC2034 # likewise
OPTIONAL=''
build_more() { :; }
more_trees() { :; }
# shellcheck source=/dev/null
. "/rehearsal/machines/$1.sh"
# shellcheck source=/dev/null
. "/rehearsal/$FAMILY.sh"

if [ "${2:-}" = mend ]; then
  find /srv/www -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
  trees
  more_trees
  name_hosts
  exit
fi

kernel 1 >/run/rehearsal/kernel
install_stand_ins
remove_debian
own_keys
prepare_database
files
build_base
for number in 1 2 3; do build_kernel "$(kernel "$number")"; done
install_image
build_more
useradd --create-home "$LOGIN_USER"
tr ' ' '\n' <<<"$KERNELS" >/run/rehearsal/kernels
trees
more_trees
name_hosts
install_witnesses
