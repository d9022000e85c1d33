#!/usr/bin/env bash
# Breaks something at the mirrors, inside a sandbox: fault.sh rpm|deb KIND [NAME]. `machine.sh DISTRIBUTION mend` mends it.
#
# Owns the ways in which a package source goes wrong. Must not know any distribution.
set -euo pipefail
# shellcheck source=/dev/null
. /rehearsal/common.sh
# shellcheck source=/dev/null
. "/rehearsal/$1.sh"
kind=$2 name=${3:-}

# Every file of package NAME, or of every package.
files_of() {
  local found
  found=$(find /srv/www -name "${name}[-_][0-9]*.$1")
  [ -n "$found" ] || { echo "fault.sh: no mirror has $name" >&2; exit 1; }
  printf '%s\n' "$found"
}

index_again() { # [SIGNER], where the index is signed
  local folder
  find /srv/www -name repodata -prune -exec dirname {} \; | while read -r folder; do createrepo_c --quiet "$folder"; done
  find /srv/www -name Release | while read -r folder; do
    folder=${folder%/Release}
    index_suite "${folder%/dists/*}" "${folder##*/}" main "${1:-ours}"
  done
}

# Eight bytes in the middle become others; the length stays.
rot() { # FILE...
  local file size
  for file; do
    size=$(stat -c %s "$file")
    printf 'ROTTENED' | dd of="$file" bs=1 seek=$((size / 2)) conv=notrunc status=none
  done
}

case $1.$kind in
  *.missing) files_of "$1" | xargs rm; index_again ;;
  *.gone) files_of "$1" | xargs rm ;; # and the index still has it
  rpm.unsigned | rpm.theirs)
    files_of rpm | while read -r file; do cp "/pool/$kind/${file##*/}" "$file"; done
    index_again ;;
  deb.unsigned) index_again nobody ;;
  deb.theirs) index_again theirs ;;
  *.rotten) mapfile -t found < <(files_of "$1"); rot "${found[@]}" ;;
  rpm.metadata) mapfile -t found < <(find /srv/www -name '*-primary.xml.gz'); rot "${found[@]}" ;;
  deb.metadata) mapfile -t found < <(find /srv/www -name Packages -size +0); rot "${found[@]}" ;;
  *.dead) echo "127.0.0.1 localhost" >/etc/hosts ;;
  *) echo "fault.sh: cannot make sense of: $*" >&2; exit 2 ;;
esac
