# Sourced by the scripts beside it. Owns how a stand-in package is built and signed. Must not know any distribution.
# shellcheck shell=bash

gpg_quiet() {
  gpg --homedir /srv/pool/gnupg --batch --quiet --yes --no-tty --pinentry-mode loopback --passphrase '' "$@" 2>/tmp/gpg.log ||
    { cat /tmp/gpg.log >&2; return 1; }
}

# The keys lie in the pool, which is read by several sandboxes at once: each works on its own copy.
own_keys() {
  mkdir -p /srv/pool/ours
  cp -r /pool/gnupg /pool/keys /srv/pool/
  rm -f /srv/pool/gnupg/S.* /srv/pool/gnupg/*.lock
}

rpm_build() { # OUT SPEC
  rpmbuild -bb --quiet --define "_topdir /tmp/rpmbuild" --define "_rpmdir $1" --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "__os_install_post %{nil}" --define "debug_package %{nil}" --define "_build_id_links none" \
    --define "_binary_payload w0.gzdio" --define "_use_internal_dependency_generator 0" \
    --define "__find_requires %{nil}" --define "__find_provides %{nil}" "$2" >/tmp/rpmbuild.log 2>&1 || { cat /tmp/rpmbuild.log >&2; return 1; }
}

rpm_sign() { # WHO FILE...
  rpmsign --define "_gpg_name $1@example.org" --define "_gpg_path /srv/pool/gnupg" --define "__gpg /usr/bin/gpg" \
    --addsign "${@:2}" >/tmp/rpmsign.log 2>&1 || { cat /tmp/rpmsign.log >&2; return 1; }
}

# A .deb of one file, or of the tree that is in /tmp/deb already; FIELDS are further lines of its control file.
deb_build() { # OUT NAME VERSION FIELDS
  local tree=/tmp/deb
  mkdir -p "$tree/DEBIAN" "$tree/usr/share/lab"
  printf '%s\n' "$3" >"$tree/usr/share/lab/$2"
  { printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: lab <lab@example.org>\n' "$2" "$3"
    [ -z "$4" ] || printf '%s\n' "$4"
    printf 'Description: stand-in\n'; } >"$tree/DEBIAN/control"
  dpkg-deb --root-owner-group -Znone --build "$tree" "$1/$2_$3_amd64.deb" >/dev/null
  rm -rf "$tree"
}

# The files of kernel package KERNEL, below FOLDER. Its modules' dependencies and its initramfs are made when it is
# installed, as on the real distributions.
kernel_tree() { # FOLDER KERNEL HEADERS-FOLDER
  mkdir -p "$1/boot" "$1/lib/modules"
  cp -r /pool/kernel "$1/lib/modules/$2"
  mv "$1/lib/modules/$2/config" "$1/boot/config-$2"
  printf 'stand-in kernel %s\n' "$2" | tee "$1/boot/vmlinuz-$2" >"$1/boot/System.map-$2"
  ln -s "$3" "$1/lib/modules/$2/build"
}
