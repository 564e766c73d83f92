#!/bin/sh
# nvshmem-check.sh PREFIX: prove what was built, and drop what nothing links: the fully static library and the plug-ins' sources.
set -eu
prefix=$1
# Only the driver is missing here; the one to link against is enough to start.
mkdir /tmp/stub
ln -s /usr/local/cuda/lib64/stubs/libcuda.so /tmp/stub/libcuda.so.1
export LD_LIBRARY_PATH=/tmp/stub
"$prefix/bin/nvshmem-info" -a >"$prefix/share/build/nvshmem-info.txt"
cat "$prefix/share/build/nvshmem-info.txt"
grep -q 'NVSHMEM_IBGDA_SUPPORT=ON' "$prefix/share/build/nvshmem-info.txt" ||
    { echo "epbox: nvshmem-info does not report IBGDA" >&2; exit 1; }
rm -rf "$prefix/lib/libnvshmem.a" "$prefix/share/src" "$prefix/share/examples"
strip --strip-unneeded "$prefix"/bin/nvshmem-info "$prefix"/lib/*.so.*.*.*
# dlopen as NVSHMEM does it: every symbol resolved now.
for plugin in "$prefix"/lib/nvshmem_transport_*.so "$prefix"/lib/nvshmem_bootstrap_*.so; do
    python3 -c 'import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW)' "$plugin"
    echo "loads: $plugin"
done
test -e "$prefix/lib/nvshmem_transport_ibgda.so"
