#!/bin/sh
# deepep-check.sh OUT: prove what deepep.sh built. Environment: NVSHMEM_ROOT.
set -eu
out=$1
sed -n '/^Build summary/,/^$/p' "$out/share/build.log"
# Without NVSHMEM, DeepEP builds all the same, with a warning, and lacks everything between nodes.
grep -Fx " > NVSHMEM path: $NVSHMEM_ROOT" "$out/share/build.log" ||
    { echo "epbox: DeepEP was not built with the NVSHMEM in $NVSHMEM_ROOT" >&2; exit 1; }
# Its build lets the linker drop libraries that it thinks are not needed; one that calls the driver must also name it.
find "$out/site" -name '*.so' | while read -r library; do
    nm -D --undefined-only "$library" | grep -Eq ' cu[A-Z]' || continue
    readelf -d "$library" | grep -q 'libcuda\.so\.1' || { echo "epbox: $library calls the driver and does not link it" >&2; exit 1; }
done
