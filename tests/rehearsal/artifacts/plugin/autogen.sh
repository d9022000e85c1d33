#!/bin/sh
# Stand-in for aws-ofi-nccl's autogen.sh: the configure that it leaves takes the options that the real one takes.
set -e
command -v autoreconf >/dev/null || { echo "autoreconf is missing" >&2; exit 1; }
cat >configure <<'TEXT'
#!/bin/sh
set -e
prefix=/usr/local libfabric= cuda=
for option; do
  case $option in
    --prefix=*) prefix=${option#*=} ;;
    --with-libfabric=*) libfabric=${option#*=} ;;
    --with-cuda=*) cuda=${option#*=} ;;
    --with-mpi=* | --with-nccl=*) ;;
    --enable-platform-aws | --disable-tests) ;;
    *) echo "configure: error: unrecognized option: $option" >&2; exit 1 ;;
  esac
done
[ -e "$libfabric/lib/libfabric.so" ] || { echo "configure: error: no libfabric in $libfabric" >&2; exit 1; }
[ -x "$cuda/bin/nvcc" ] || { echo "configure: error: no CUDA in $cuda" >&2; exit 1; }
case ":$PATH:" in *:/opt/amazon/openmpi/bin:*) ;; *) echo "configure: error: no mpicc in PATH" >&2; exit 1 ;; esac
printf 'PREFIX = %s\nLIBFABRIC = %s\nCALL = %s\n' "$prefix" "$libfabric" "$*" >config.mk
TEXT
chmod 0755 configure
