#!/bin/sh
# cuda-toolchain.sh SITE: make /usr/local/cuda out of the toolkit's wheels in SITE: one tree as nvcc and build systems expect it,
# and a libcuda to link against. NVIDIA's CUDA 13 wheels share one folder, cu13; those of CUDA 12 hold no nvcc.
set -eu
root=$1/nvidia/cu13
ln -s "$root" /usr/local/cuda
ln -s lib "$root/lib64"
mkdir "$root/lib/stubs"
# The wheels hold libraries by their SONAME; linkers ask for the bare name.
for library in "$root"/lib/lib*.so.*; do
    bare=${library%%.so.*}.so
    [ -e "$bare" ] || ln -s "${library##*/}" "$bare"
done
# The driver comes with the host. To link against it takes a library with its name and its functions, each of which answers
# CUDA_ERROR_STUB_LIBRARY; with fewer functions the linker would drop the dependency. cuda.h knows them, and their versioned names.
{
    grep -oE '\bcu[A-Z][A-Za-z0-9_]*[[:space:]]*\(' "$root/include/cuda.h" | tr -d ' \t('
    sed -nE 's/^[[:space:]]*#[[:space:]]*define[[:space:]]+cu[A-Z][A-Za-z0-9]*[[:space:]]+(cu[A-Z][A-Za-z0-9_]*)$/\1/p' "$root/include/cuda.h"
    for version in v2 v3; do grep -oE "\bcu[A-Z][A-Za-z0-9]*_$version\b" "$root/include/cuda.h"; done
} | sort -u | sed 's/.*/int &(void) { return 34; }/' | gcc -shared -fPIC -w -x c - -Wl,-soname,libcuda.so.1 -o "$root/lib/stubs/libcuda.so"
/usr/local/cuda/bin/nvcc --version
