#!/bin/bash
# Stand-in for the EFA installer: what it refuses, what it needs and what it leaves are the real one's (its own scripts
# of 1.24.1, the release notes to 1.50.0); what it installs can't drive anything.
set -e
# shellcheck source=/dev/null # the version, as the real one has it beside
. ./env.sh
options=$(getopt -o :dnuylkmg --long yes,uninstall,debug-packages,no-verify,skip-limit-conf,skip-kmod,minimal,enable-gdr,mpi:,check-signatures \
  -n efa_installer.sh -- "$@") || { echo "Error: Invalid option" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || { echo "Error: root privileges are required to install EFA" >&2; exit 1; }
case " $options " in *" -y "* | *" --yes "*) ;; *) echo "Error: the stand-in answers no questions, give -y" >&2; exit 1 ;; esac
[ ! -e /etc/rehearsal-installer-fails ] || { echo "Error: failed to install rdma-core" >&2; exit 1; }

# Every package is looked at before any is installed (AWS EC2 User Guide, "Get started with EFA and NCCL", 2026: .deb by gpg). Where
# the real one has a package's signature it does not say; here it lies beside the package, and the key stays in gpg's keyring.
case " $options " in
  *" --check-signatures "*)
    [ -s "${EFA_INSTALLER_KEY:-}" ] || { echo "Error: EFA_INSTALLER_KEY names no key" >&2; exit 1; }
    gpg --batch --quiet --import "$EFA_INSTALLER_KEY" || { echo "Error: $EFA_INSTALLER_KEY is not a key" >&2; exit 1; }
    for package in DEBS/*.deb; do
      gpg --batch --quiet --verify "$package.sig" "$package" || { echo "Error: the signature of $package is not good" >&2; exit 1; }
    done
    ;;
esac

kernel=$(uname -r)
echo "= Starting Amazon Elastic Fabric Adapter Installation Script ="
echo "= EFA Installer Version: $EFA_INSTALLER_VERSION ="
apt-get install -y pciutils libnl-3-dev libnl-route-3-dev dkms "linux-headers-$kernel" || {
  echo "Error: The kernel header of the current kernel version cannot be installed and is required to build the EFA kernel module" >&2
  exit 1
}
[ -e "/lib/modules/$kernel/build/Makefile" ] || { echo "Error: no headers of kernel $kernel" >&2; exit 1; }

install -d /opt/amazon/efa/{bin,lib,include/rdma} /opt/amazon/openmpi/{bin,lib,include} /opt/amazon/ofi-nccl/lib
install -m 0755 fi_info /opt/amazon/efa/bin/fi_info
# Debian's Open MPI and libfabric, at the places of AWS's.
ln -sf /usr/bin/mpirun.openmpi /opt/amazon/openmpi/bin/mpirun
ln -sf /usr/bin/orted /opt/amazon/openmpi/bin/orted
ln -sf /usr/lib/x86_64-linux-gnu/libfabric.so.1 /opt/amazon/efa/lib/libfabric.so.1
ln -sf libfabric.so.1 /opt/amazon/efa/lib/libfabric.so
gcc -shared -o /opt/amazon/ofi-nccl/lib/libnccl-net-ofi.so -x c - -L/opt/amazon/efa/lib -lfabric <<<'int fi_version(void); int plugin(void) { return fi_version(); }'
echo /opt/amazon/efa/lib >/etc/ld.so.conf.d/efa.conf
printf '%s\n' '* soft memlock unlimited' '* hard memlock unlimited' >/etc/security/limits.d/01_efa.conf
# shellcheck disable=SC2016 # it is the login shell that expands
echo 'PATH=/opt/amazon/efa/bin/:/opt/amazon/openmpi/bin/:$PATH' >/etc/profile.d/efa.sh
ldconfig
cat >/opt/amazon/efa_installed_packages <<TEXT
# EFA installer version: $EFA_INSTALLER_VERSION
# Debug packages installed: no
# Packages installed:
efa-config_1.18-1_all efa-profile_1.7-1_all libfabric-aws-bin_2.6.0_amd64 openmpi40-aws_4.1.7_amd64 libnccl-ofi_1.21.1_amd64
TEXT
lspci -n | grep -q '1d0f:efa' || echo "EFA device not detected, skipping test."
echo "==================================================="
echo "EFA installation complete."
echo "- Please logout/login to complete the installation."
echo "==================================================="
