#!/usr/bin/env bash
# Boots a package sandbox once: sandbox.sh ROOTFS FOLDER POOL COMMAND...
#
# Owns the walls: a mount, process and network namespace of its own with nothing but loopback in it, an overlay of ROOTFS
# whose changes are kept in FOLDER/upper for the next boot, and the web server that plays the distribution's mirrors. When
# COMMAND ends, every mount and process ends with it; what is left is FOLDER. Must not know any distribution.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")

if [ "${1:-}" != --inside ]; then
  [ "$(id -u)" -eq 0 ] || { echo "sandbox.sh: the package sandbox needs root: it makes mounts and namespaces of its own" >&2; exit 9; }
  exec unshare --mount --net --pid --uts --ipc --fork --kill-child -- "$0" --inside "$@"
fi
shift
rootfs=$1 folder=$2 pool=$3
shift 3
root=$folder/root

mkdir -p "$folder/upper" "$folder/overlay" "$root" "$pool"
# Volatile: nothing in here has to outlive a power cut. The mark that the last boot left says only that.
rm -rf "$folder"/overlay/*/incompat
mount -t overlay overlay -o "volatile,lowerdir=$rootfs,upperdir=$folder/upper,workdir=$folder/overlay" "$root"
# There is no /sys: the host's devices and modules are none of this machine's.
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/pts"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$root/dev/ptmx"
mkdir -p "$root/rehearsal" "$root/stand-ins" "$root/pool" "$root/run/rehearsal"
mount --bind "$here" "$root/rehearsal"
mount --bind "$here/../stand-ins" "$root/stand-ins"
mount --bind "$pool" "$root/pool"

# The stand-in `shutdown` writes a new boot id.
[ -s "$root/run/rehearsal/boot_id" ] || echo first-boot >"$root/run/rehearsal/boot_id"
mount --bind "$root/run/rehearsal/boot_id" "$root/proc/sys/kernel/random/boot_id"

in_root() {
  chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"
}
# The kernel here is the host's, too. A machine says by which gcc its own was built; until it does, by the one that is here.
version=$root/run/rehearsal/version
[ -s "$version" ] || echo "Linux version 0 (root@sandbox) (gcc (Debian) $(in_root gcc -dumpversion).0.0, GNU ld 2.40) #1 SMP" >"$version"
mount --bind "$version" "$root/proc/version"
in_root ip link set lo up
mkdir -p "$root/srv/www"
exec 4< <(in_root python3 /rehearsal/serve.py /srv/www)
read -r -t 20 -u 4 _ || { echo "sandbox.sh: the mirrors' web server did not start" >&2; exit 70; }

in_root "$@"
