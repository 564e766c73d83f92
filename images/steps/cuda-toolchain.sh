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
# The driver comes with the host. To link against it, an empty library of its name is enough.
echo 'int epbox_stub_libcuda;' | gcc -shared -fPIC -x c - -Wl,-soname,libcuda.so.1 -o "$root/lib/stubs/libcuda.so"
ln -s libcuda.so "$root/lib/stubs/libcuda.so.1"
/usr/local/cuda/bin/nvcc --version
