# Sourced by machine.sh on machines with dpkg. Owns the dpkg database of a fresh machine, its kernel packages and its
# mirrors' suites. Must not know any distribution.
# shellcheck shell=bash disable=SC2034,SC2016,SC1090,SC1091 # sourced: its names are used, or set, by machine.sh

# linux-image, linux-headers and, as Ubuntu has it up to 6.17, linux-modules-extra of one kernel (whose modules are all in the
# first), and the version of each of METAS that asks for them. The postinst is theirs in short: dependencies, then what the initramfs and boot loader packages hang into /etc/kernel.
build_kernel() { # KERNEL
  local kernel=$1 version=1.$((++kernels_built)) meta needs
  kernel_tree /tmp/deb "$kernel" "/usr/src/linux-headers-$kernel"
  mkdir -p /tmp/deb/DEBIAN
  cat >/tmp/deb/DEBIAN/postinst <<POSTINST
#!/bin/sh
set -e
depmod $kernel
run-parts --exit-on-error --arg=$kernel --arg=/boot/vmlinuz-$kernel /etc/kernel/postinst.d
POSTINST
  chmod 0755 /tmp/deb/DEBIAN/postinst
  deb_build /srv/pool/ours "linux-image-$kernel" 1.0 ""
  mkdir -p "/tmp/deb/usr/src/linux-headers-$kernel"
  echo all: >"/tmp/deb/usr/src/linux-headers-$kernel/Makefile"
  deb_build /srv/pool/ours "linux-headers-$kernel" 1.0 ""
  case $kernel in [1-6].*) deb_build /srv/pool/ours "linux-modules-extra-$kernel" 1.0 "" ;; esac
  for meta in $METAS; do
    case $meta in
      linux-image-*) needs=linux-image-$kernel ;;
      linux-headers-*) needs=linux-headers-$kernel ;;
      *) needs="linux-image-$kernel, linux-headers-$kernel" ;;
    esac
    deb_build /srv/pool/ours "$meta" "$version" "Depends: $needs"
  done
}
kernels_built=0

build_base() {
  local version
  for version in 1 2 9; do deb_build /srv/pool/ours basesystem "$version" ""; done
  # What an interrupted apt-get left behind: unpacked, and what it depends on is not there.
  deb_build /srv/pool/ours half-installed 1.0 "Depends: was-to-follow"
  deb_build /srv/pool/ours was-to-follow 1.0 ""
}

prepare_database() {
  # The root file system's dpkg knows Debian; this machine's knows nothing yet.
  mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /etc/apt/trusted.gpg.d /etc/default/grub.d /etc/apt/sources.list.d
  echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/lab
  printf 'COMPRESS=gzip\nCOMPRESSLEVEL=1\n' >/etc/initramfs-tools/conf.d/lab
}

install_image() {
  local file files
  files="basesystem_1 linux-image-$(kernel 1)_1.0"
  for file in $IMAGE_METAS; do
    files+=" ${file}_1.1"
    case $file in linux-image-*) ;; *) files+=" linux-headers-$(kernel 1)_1.0" ;; esac
  done
  for file in $files; do
    dpkg --unpack "/srv/pool/ours/${file}_amd64.deb" >/dev/null
  done
  # Its kernel's scripts are not run: their result is.
  rm "/var/lib/dpkg/info/linux-image-$(kernel 1).postinst"
  dpkg --configure --pending >/dev/null
  depmod "$(kernel 1)"
  echo "made with the image" >"/boot/initrd.img-$(kernel 1)"
  update-grub 2>/dev/null
}

kernel_packages() { # NUMBER
  local meta
  printf '/srv/pool/ours/linux-%s_1.0_amd64.deb\n' "image-$(kernel "$1")" "headers-$(kernel "$1")"
  case $(kernel "$1") in [1-6].*) printf '/srv/pool/ours/linux-%s_1.0_amd64.deb\n' "modules-extra-$(kernel "$1")" ;; esac
  for meta in $METAS; do echo "/srv/pool/ours/${meta}_1.$1_amd64.deb"; done
}

# Fills, indexes and signs one suite; the first of its components has all the packages. Where LATE is set, the updates have
# come on by one kernel.
suite() { # HOST/PATH SUITE COMPONENTS WORD...
  local top=/srv/www/$1 suite=$2 word name component
  local pool=pool/$2
  mkdir -p "$top/$pool"
  for word in "${@:4}"; do
    case $word in
      plan) for name in $NAMES; do cp "/pool/ours/${name}_1.0_amd64.deb" "$top/$pool"; done ;;
      kernel:*) kernel_packages "${word#*:}" | xargs cp -t "$top/$pool"
        [ "$word" != kernel:2 ] || [ -z "${LATE:-}" ] || kernel_packages 3 | xargs cp -t "$top/$pool" ;;
      base:*) cp "/srv/pool/ours/basesystem_${word#*:}_amd64.deb" "$top/$pool" ;;
      *) cp "/srv/pool/ours/${word}_amd64.deb" "$top/$pool" ;;
    esac
  done
  for component in $3; do
    mkdir -p "$top/dists/$suite/$component/binary-amd64"
    : >"$top/dists/$suite/$component/binary-amd64/Packages"
  done
  index_suite "$top" "$suite" "${3%% *}"
}

index_suite() { # FOLDER SUITE COMPONENT [SIGNER]
  local dists=$1/dists/$2
  (cd "$1" && apt-ftparchive packages "pool/$2" >"$dists/$3/binary-amd64/Packages" 2>/dev/null)
  rm -f "$dists"/*Release*
  (cd "$dists" && apt-ftparchive -o APT::FTPArchive::Release::Origin=lab -o "APT::FTPArchive::Release::Suite=$2" \
    -o "APT::FTPArchive::Release::Codename=${2%%-*}" -o APT::FTPArchive::Release::Architectures=amd64 release . >/tmp/Release)
  mv /tmp/Release "$dists/Release"
  [ "${4:-ours}" = nobody ] ||
    gpg_quiet --local-user "${4:-ours}@example.org" --clearsign --output "$dists/InRelease" "$dists/Release"
}
