#!/usr/bin/env bash
# Makes the rehearsal's root file system of Debian 12, once, and prints the folder it is in.
#
#   tests/rehearsal/rootfs.sh          the guests' root file system
#   tests/rehearsal/rootfs.sh rpm      the layer with dnf, rpm and what the package sandbox needs besides
#
# Owns what a guest is made of before cloud-init sees it; must not know the cloud it boots in. What is a stand-in there,
# because a container has neither a kernel nor a disk of its own, is in folder stand-ins beside this script. Cached in
# $EFA_GEN_REHEARSAL_CACHE, by default ~/.cache/efa-gen-rehearsal, under the digest of everything it is made from.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
kind=${1:-guest}
cache=${EFA_GEN_REHEARSAL_CACHE:-${HOME:-/root}/.cache/efa-gen-rehearsal}
[ "$(id -u)" -eq 0 ] || { echo "rootfs.sh: the rehearsal needs root: it makes mounts and network namespaces of its own" >&2; exit 9; }

# On Debian's kernel image as on the AMI; on main alone, so that the update stage has something to do.
packages=systemd-sysv,dbus,udev,cloud-init,openssh-server,sudo,iproute2,procps,ca-certificates,python3,curl,kmod
packages+=,initramfs-tools,grub2-common,grub-common,linux-image-cloud-amd64
# What stands in for the EFA installer's Open MPI, and for what runs on it.
packages+=,openmpi-bin,python3-mpi4py
sandbox_packages="dnf rpm createrepo-c gnupg apt-utils dracut-core pciutils gcc"

# What this machine's apt is told about dates, proxies and certificates holds while a root file system is built.
settings=$(apt-config dump | grep -E '^Acquire::(Check-Valid-Until|Check-Date|http|https)[: ]' || :)
# Of that, dates alone hold in a guest: its archive is the cloud's, which it reaches without this machine's proxies. What the
# cloud has not got yet it fetches while the guest waits.
guest_settings=$(echo "$settings" | grep -E '^Acquire::Check-' || :; echo 'Acquire::http::Timeout "280";
Acquire::Languages "none";')

# The base costs a bootstrap, so a changed stand-in that is not in it costs only a copy.
digest() { # FILE...
  (cd "$here" && { echo "$settings"; sha256sum rootfs.sh "$@"; }) | sha256sum | cut -c 1-12
}
base=$cache/debian12-$(digest stand-ins/debian.sources)
rootfs=$cache/guest-$(cd "$here" && digest stand-ins/*)
rpm=$cache/rpm-$(digest stand-ins/debian.sources)

# Runs in a mount namespace of its own, so what it mounts ends with it.
in_root() { # FOLDER COMMAND...
  # shellcheck disable=SC2016 # it is the inner shell that expands
  unshare --mount --pid --fork --kill-child sh -c '
    mount -t proc proc "$0/proc" && cp -L /etc/resolv.conf "$0/etc/resolv.conf" &&
    exec chroot "$0" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"' "$@"
}

make_base() { # FOLDER
  echo "$settings" >"$1.apt"
  mmdebstrap --quiet --variant=minbase --mode=root --aptopt='Acquire::Languages "none"' \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt="$1.apt" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --include="$packages" \
    bookworm "$1" 'deb http://deb.debian.org/debian bookworm main' >&2
  rm -f "$1.apt" "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/apt/sources.list
  echo "$guest_settings" >"$1/etc/apt/apt.conf.d/99rehearsal"
  install -m 0644 "$here/stand-ins/debian.sources" "$1/etc/apt/sources.list.d/debian.sources"
  : >"$1/etc/fstab"
  : >"$1/etc/machine-id"
  rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname "$1"/var/lib/dbus/machine-id "$1"/var/log/*.log
  rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin
}

make_guest() { # FOLDER
  local unit units=$1/etc/systemd/system
  cp -a --reflink=auto "$base" "$1"
  rm -f "$1/.complete" "$1/etc/cloud/cloud.cfg.d/90_dpkg.cfg"
  install -m 0644 "$here/stand-ins/cloud.cfg" "$1/etc/cloud/cloud.cfg.d/99-rehearsal.cfg"
  # apt brings what is only recommended with the first install of a package: where the EFA installer's own is cut in the middle,
  # that never comes, and two machines that are as good as each other have other files.
  echo 'APT::Install-Recommends "false";' >"$1/etc/apt/apt.conf.d/98rehearsal"
  install -m 0755 -t "$1/usr/local/bin" "$here/stand-ins/uname" "$here/stand-ins/su"
  in_root "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/grub-probe
  install -m 0755 -t "$1/usr/sbin" "$here/stand-ins/grub-probe"
  cat "$here/stand-ins/ulimit.bash" "$base/etc/bash.bashrc" >"$1/etc/bash.bashrc"
  cat "$here/stand-ins/openmpi.conf" >>"$1/etc/openmpi/openmpi-mca-params.conf"
  # An initramfs of every module takes seven times as long, and a container boots none.
  echo MODULES=list >"$1/etc/initramfs-tools/conf.d/rehearsal"
  mkdir -p "$1/boot/grub" "$1/usr/local/lib" "$units/sysinit.target.wants"
  install -m 0644 -t "$units" "$here/stand-ins/rehearsal-hypervisor.service"
  install -m 0755 -t "$1/usr/local/lib" "$here/stand-ins/rehearsal-hypervisor"
  install -m 0644 -t "$1/usr/local/lib" "$here/stand-ins/rehearsal-proc-version"
  ln -s ../rehearsal-hypervisor.service "$units/sysinit.target.wants/"
  # The network is there before the guest boots, as the namespace's own. A getty hangs its terminal up, and what others
  # write to nspawn's console just then is lost.
  for unit in systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service systemd-resolved.service \
    systemd-timesyncd.service systemd-pstore.service console-getty.service e2scrub_all.timer fstrim.timer; do
    ln -sf /dev/null "$units/$unit"
  done
  rm -f "$1/etc/resolv.conf"
}

make_rpm() { # FOLDER
  cp -a --reflink=auto "$base" "$1"
  rm -f "$1/.complete"
  echo "$settings" >"$1/etc/apt/apt.conf.d/98building"
  in_root "$1" sh -c "apt-get update -q && apt-get install -y -q --no-install-recommends $sandbox_packages" >&2
  rm -rf "$1/etc/apt/apt.conf.d/98building" "$1"/var/cache/apt/archives/*.deb
}

once() { # FOLDER FUNCTION
  local name=${1##*/}
  if [ -e "$1/.complete" ]; then
    touch "$1" # For the line that removes what nobody asks for.
    return
  fi
  command -v mmdebstrap >/dev/null || { echo "rootfs.sh: mmdebstrap is missing: apt-get install mmdebstrap" >&2; exit 1; }
  rm -rf "$1.new" "$1"
  "$2" "$1.new"
  : >"$1.new/.complete"
  mv "$1.new" "$1"
  # Others of its kind are from before a change. One that was asked for today may be what a cloud stands on.
  find "$cache" -mindepth 1 -maxdepth 1 -name "${name%%-*}-*" ! -name "$name" -mmin +1440 -exec rm -rf {} +
}

mkdir -p "$cache"
exec 9>"$cache/rootfs.lock"
flock 9
once "$base" make_base
case $kind in
  guest) once "$rootfs" make_guest; echo "$rootfs" ;;
  rpm) once "$rpm" make_rpm; echo "$rpm" ;;
  *) echo "usage: rootfs.sh [rpm]" >&2; exit 2 ;;
esac
