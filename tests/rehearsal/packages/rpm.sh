# Sourced by machine.sh on machines with rpm. Owns the rpm database of a fresh machine, its kernel packages and its mirrors'
# trees. Must not know any distribution.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh

# kernel-VERSION-RELEASE and kernel-devel of the same, as the distributions cut them; the %post is theirs in short.
build_kernel() { # KERNEL, such as 3.10.0-1160.el7.x86_64
  local version=${1%%-*} release=${1#*-}
  release=${release%.x86_64}
  cat >/tmp/kernel.spec <<SPEC
Name: kernel
Version: $version
Release: $release
Summary: stand-in
License: MIT
%description
.
%package devel
Summary: stand-in
%description devel
.
%install
. /rehearsal/common.sh
kernel_tree %{buildroot} $1 /usr/src/kernels/$1
mkdir -p %{buildroot}/usr/src/kernels/$1
echo all: >%{buildroot}/usr/src/kernels/$1/Makefile
%post
depmod $1 && /usr/bin/dracut --quiet --force /boot/initramfs-$1.img $1
[ ! -e /boot/grub/menu.lst ] || sed -n 's/^kernel [^ ]*/kernel \\/boot\\/vmlinuz-$1/p' /boot/grub/menu.lst >>/boot/grub/menu.lst
%files
/boot/*-$1
/lib/modules/$1
%files devel
/usr/src/kernels/$1
SPEC
  rpm_build /srv/pool/ours /tmp/kernel.spec
  rpm_sign ours "/srv/pool/ours/kernel-$version-$release.x86_64.rpm" "/srv/pool/ours/kernel-devel-$version-$release.x86_64.rpm"
}

# What every package may need and nobody upgrades: the shell; and a package that there is a newer version of.
build_base() {
  local version
  for version in 1 2 9; do
    cat >/tmp/base.spec <<SPEC
Name: basesystem
Version: $version
Release: 1
Summary: stand-in
License: MIT
BuildArch: noarch
Provides: /bin/sh $RELEASE_PROVIDES
%description
.
%files
SPEC
    rpm_build /srv/pool/ours /tmp/base.spec
  done
  rpm_sign ours /srv/pool/ours/basesystem-*.rpm
}

# What yum's own /etc/yum.conf says on each of them, then LINEs.
yum_conf() { # LINE...
  local lines=('[main]' 'cachedir=/var/cache/yum/$basearch/$releasever' keepcache=0 debuglevel=2 logfile=/var/log/yum.log
    exactarch=1 obsoletes=1 gpgcheck=1 plugins=1)
  printf '%s\n' "${lines[@]}" "$@" | file /etc/yum.conf
}

prepare_database() {
  mkdir -p /etc/rpm /etc/yum/vars /etc/yum.repos.d /etc/pki/rpm-gpg
  echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
  rpm --initdb
  # A small initramfs is as good as a large one here.
  mkdir -p /etc/dracut.conf.d
  printf '%s\n' 'dracutmodules+=" base kernel-modules udev-rules rootfs-block fs-lib "' do_strip=no compress=cat \
    >/etc/dracut.conf.d/lab.conf
  # dnf reads yum's files where yum does.
  ln -sfn /etc/yum.conf /etc/dnf/dnf.conf
  ln -sfn dnf /usr/bin/yum
}

# What the image brings: the oldest kernel, the base. Its kernel's scripts are not run: their result is.
install_image() {
  rpm --install --nodeps --noscripts /srv/pool/ours/basesystem-1-*.rpm "/srv/pool/ours/kernel-$(kernel 1).rpm"
  depmod "$(kernel 1)"
  echo "made with the image" >"/boot/initramfs-$(kernel 1).img"
}

kernel_packages() { # KERNEL
  printf '%s\n' "/srv/pool/ours/kernel-$1.rpm" "/srv/pool/ours/kernel-devel-$1.rpm"
}

# Fills and indexes one repository. Where LATE is set, the updates have come on by one kernel.
tree() { # HOST/PATH WORD...
  local folder=/srv/www/$1 word name
  mkdir -p "$folder"
  for word in "${@:2}"; do
    case $word in
      plan) for name in $NAMES; do contains_word "$OPTIONAL" "$name" || cp "/pool/ours/$name-1.0-1.noarch.rpm" "$folder"; done ;;
      optional) for name in $OPTIONAL; do cp "/pool/ours/$name-1.0-1.noarch.rpm" "$folder"; done ;;
      kernel:*) kernel_packages "$(kernel "${word#*:}")" | xargs cp -t "$folder"
        [ "$word" != kernel:2 ] || [ -z "${LATE:-}" ] || kernel_packages "$(kernel 3)" | xargs cp -t "$folder" ;;
      base:*) cp /srv/pool/ours/basesystem-"${word#*:}"-*.rpm "$folder" ;;
      *) cp "/srv/pool/ours/$word" "$folder" ;;
    esac
  done
  comps "$folder" >/srv/comps.xml
  createrepo_c --quiet --groupfile /srv/comps.xml "$folder"
}

# The group that the guide's readers know, of all that is in the folder. No plan installs it: each names its packages.
comps() { # FOLDER
  printf '<comps><group><id>development</id><name>Development Tools</name><default>false</default>\n'
  printf '<uservisible>true</uservisible><packagelist>\n'
  find "$1" -name '*.rpm' -exec rpm --query --nosignature --queryformat '<packagereq type="mandatory">%{NAME}</packagereq>\n' --package {} +
  printf '</packagelist></group></comps>\n'
}
