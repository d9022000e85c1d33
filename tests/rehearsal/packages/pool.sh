#!/usr/bin/env bash
# Makes stand-in packages inside a sandbox: pool.sh rpm|deb NAME...; they end up in /srv/pool, signed where rpm signs.
#
# Owns what a stand-in package is: one file with its own name, no program, so that nothing it brings can break the
# sandbox. Which names there are, the plans say. Must not know any distribution.
set -euo pipefail
# shellcheck source=/dev/null
. /rehearsal/common.sh

# Two keys: the distribution's, and one that nobody should trust.
make_keys() {
  local who
  mkdir -p /srv/pool/keys
  install -d -m 0700 /srv/pool/gnupg
  for who in ours theirs; do
    gpg_quiet --quick-gen-key "$who <$who@example.org>" rsa2048 sign never
    gpg_quiet --export "$who@example.org" >"/srv/pool/keys/$who.gpg"
    gpg_quiet --armor --export "$who@example.org" >"/srv/pool/keys/$who.asc"
  done
}

# One spec file with a subpackage for each name: rpmbuild is started once.
make_rpms() { # NAME...
  local name
  {
    printf 'Name: pool\nVersion: 1.0\nRelease: 1\nSummary: stand-ins\nLicense: MIT\nBuildArch: noarch\n%%description\n.\n'
    for name; do
      printf '%%package -n %s\nSummary: stand-in\n%%description -n %s\n.\n' "$name" "$name"
      printf '%%files -n %s\n/usr/share/lab/%s\n' "$name" "$name"
    done
    printf '%%install\nmkdir -p %%{buildroot}/usr/share/lab; cd %%{buildroot}/usr/share/lab\n'
    printf 'touch %s\n' "$@"
  } >/tmp/pool.spec
  rpm_build /srv/pool/unsigned /tmp/pool.spec
  local signer
  for signer in ours theirs; do
    cp -r /srv/pool/unsigned "/srv/pool/$signer"
    rpm_sign "$signer" "/srv/pool/$signer"/*.rpm
  done
}

make_debs() { # NAME...
  local name
  mkdir -p /srv/pool/ours
  for name; do deb_build /srv/pool/ours "$name" 1.0 ""; done
}

# What every stand-in kernel package holds: no kernel, but real modules of Debian's, and one named nouveau that claims
# NVIDIA's display devices as the real one does, so that kmod itself can say whether it would be loaded.
make_kernel() {
  local from to=/srv/pool/kernel name
  from=$(echo /lib/modules/*-cloud-amd64)
  mkdir -p "$to/kernel/drivers/gpu/drm/nouveau"
  for name in ext4 jbd2 mbcache crc16 crc32c_generic xen-blkfront ena mlx5_ib ib_umad; do
    (cd "$from" && find kernel -name "$name.ko*" -exec cp --parents {} "$to" \;)
  done
  cp "$from/modules.builtin" "$from/modules.builtin.modinfo" "$to/"
  cp "/boot/config-${from##*/}" "$to/config"
  printf '%s' 'const char info[] __attribute__((section(".modinfo"), used)) =' \
    ' "name=nouveau\0license=MIT\0alias=pci:v000010DEd*sv*sd*bc03sc*i*\0depends=\0vermagic=stand-in";' >/tmp/nouveau.c
  gcc -c -o "$to/kernel/drivers/gpu/drm/nouveau/nouveau.ko" /tmp/nouveau.c
  (cd "$to" && find kernel -name '*.ko' | LC_ALL=C sort >modules.order)
}

family=$1
shift
make_keys
make_kernel
"make_${family}s" "$@"
