#!/bin/sh
# deepep.sh SOURCE SITE OUT: build DeepEP against SITE's torch and lay what an image needs of it under OUT:
# its packages in OUT/site, its tests (unmodified) and kernels' headers in OUT/tree, the libcuda to link against in OUT/stub.
# Environment: PINNED_COMMIT, TORCH_CUDA_ARCH_LIST, MAX_JOBS (0 = all that fit), NVSHMEM_ROOT; optional FMT (a source tree) and EP_*.
set -eu
source=$1 site=$2 out=$3
mkdir -p /build/deepep "$out/site" "$out/tree" "$out/stub" "$out/share"
cp -a "$source/." /build/deepep/
cd /build/deepep
if [ -n "${FMT:-}" ]; then
    cp -a "$FMT/." third-party/fmt/
fi

if [ "$MAX_JOBS" = 0 ]; then
    MAX_JOBS=$(awk -v cores="$(nproc)" '/MemAvailable/ { fit = int($2 / 4e6); print fit < 1 ? 1 : fit < cores ? fit : cores }' /proc/meminfo)
fi
mkdir -p /build/bin
cp /run/steps/pinned-git /build/bin/git
chmod 755 /build/bin/git
# Both wrappers make objects repeat; torch's build honours these variables.
printf '#!/bin/sh\nexec sh /run/steps/nvcc-repeatable /usr/local/cuda/bin/nvcc "$@"\n' >/build/bin/nvcc
printf '#!/bin/sh\nexec sh /run/steps/nvcc-repeatable /usr/bin/g++ "$@"\n' >/build/bin/g++
chmod 755 /build/bin/nvcc /build/bin/g++
export MAX_JOBS PATH="/build/bin:$PATH" PYTORCH_NVCC=/build/bin/nvcc CXX=/build/bin/g++ CUDA_HOME=/usr/local/cuda
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
SOURCE_DATE_EPOCH=$(stat -c %Y setup.py)
export SOURCE_DATE_EPOCH
# CUDA 13 keeps CCCL in a folder of its own; torch's headers want cuBLAS and cuSPARSE, whose wheels lie in SITE.
export CPATH="/usr/local/cuda/include/cccl:$site/nvidia/cu13/include"
export LIBRARY_PATH="/usr/local/cuda/lib64/stubs:${NCCL_ROOT:+$NCCL_ROOT/lib:}$site/nvidia/cu13/lib"
if [ "$NVSHMEM_FROM" = source ]; then
    # torch itself links NVSHMEM, and takes ours.
    export NVSHMEM_DIR="$NVSHMEM_ROOT" LD_LIBRARY_PATH="$NVSHMEM_ROOT/lib"
fi

# The linker's own build id is a hash over temporary names too, which strip removes only later.
export LDFLAGS="-Wl,--build-id=0x$PINNED_COMMIT"

python3 setup.py build_ext build --build-lib "$out/site" >/build/log 2>&1 || { tail -n 60 /build/log; exit 1; }
# The clock and the order of parallel compilers would make another log of every build.
{ sed -n '/^Build summary/,/^$/p' /build/log; sed -nE 's/^\[[0-9]+\/[0-9]+\] //p' /build/log | LC_ALL=C sort; } >"$out/share/build.log"
python3 setup.py --quiet install_egg_info --install-dir "$out/site"
find "$out/site" -name '*.so' -exec strip --strip-unneeded {} +
cp -a tests csrc LICENSE "$out/tree/"

# For the checks of the image, where no driver is.
cp /usr/local/cuda/lib64/stubs/libcuda.so "$out/stub/libcuda.so.1"
rm -rf /build
