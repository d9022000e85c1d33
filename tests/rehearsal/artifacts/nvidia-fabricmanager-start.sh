#!/bin/sh
# Stand-in for the script with which NVIDIA's unit starts the fabric manager: what it refuses and how it says so are the real
# one's (spectrocloud/CanvOS#700, siderolabs/extensions#717, NVIDIA/gpu-operator#2781).
fact() { cat /etc/efa-gen-hardware /run/rehearsal-hardware 2>/dev/null | sed -n "s/^$1 //p" | head -n 1; }
[ "$1" = --mode ] || { echo "nvidia-fabricmanager-start.sh: cannot make sense of: $*" >&2; exit 2; }
refuse() { echo "$1" >&2; exit 1; }
case $(fact instance-type) in
  p4* | p5.48* | p5e*) echo "Detected Pre-NVL5 system" ;;
  p6-b*)
    echo "Detected NVL5+ system"
    grep -qsx ib_umad /etc/modules-load.d/*.conf ||
      refuse 'Kernel module "ib_umad" has not been loaded, fabric manager cannot be started'
    [ -x /opt/nvidia/nvlsm/sbin/nvlsm ] || refuse '"/opt/nvidia/nvlsm/sbin/nvlsm" does not exist. Please install "Nvidia NVLink Subnet Manager" (nvlsm) package'
    command -v ibstat >/dev/null || refuse "ibstat: command not found"
    ;;
  *) refuse "request to query NVSwitch device information failed with error:WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]" ;;
esac
driver=$(modinfo -k "$(uname -r)" -F version nvidia)
[ "$driver" = @VERSION@ ] || refuse "fabric manager version @VERSION@ doesn't match driver version $driver"
[ "$2" = precheck ] || setsid sleep infinity </dev/null >/dev/null 2>&1 &
