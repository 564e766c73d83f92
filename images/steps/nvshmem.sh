#!/bin/sh
# nvshmem.sh SOURCE PREFIX: build NVSHMEM with IBGDA. Environment: CUDA_ARCHS (90;100), TRANSPORTS ("ibrc mpi"), MAX_JOBS (0 = all that fit).
set -eu
source=$1 prefix=$2
on() { case " $TRANSPORTS " in *" $1 "*) echo ON ;; *) echo OFF ;; esac; }

# One path for every build: paths end up in objects.
mkdir -p /build/nvshmem "$prefix/share/build"
cp -a "$source" /build/nvshmem/source
cd /build/nvshmem
SOURCE_DATE_EPOCH=$(stat -c %Y source/CMakeLists.txt)
CMAKE_C_COMPILER_LAUNCHER="sh;/run/steps/nvcc-repeatable"
CMAKE_CXX_COMPILER_LAUNCHER=$CMAKE_C_COMPILER_LAUNCHER CMAKE_CUDA_COMPILER_LAUNCHER=$CMAKE_C_COMPILER_LAUNCHER
CUDA_HOME=/usr/local/cuda CUDACXX=/usr/local/cuda/bin/nvcc
export SOURCE_DATE_EPOCH CMAKE_C_COMPILER_LAUNCHER CMAKE_CXX_COMPILER_LAUNCHER CMAKE_CUDA_COMPILER_LAUNCHER CUDA_HOME CUDACXX

# Only what DeepEP uses: MPI is on by default and then required, GDRCopy needs a driver on the host.
cmake -S source -B out -G Ninja -DCMAKE_BUILD_TYPE=release -DCMAKE_INSTALL_PREFIX="$prefix" -DNVSHMEM_PREFIX="$prefix" \
    -DCMAKE_CUDA_ARCHITECTURES="$CUDA_ARCHS" -DNVSHMEM_IBGDA_SUPPORT=ON -DNVSHMEM_IBRC_SUPPORT="$(on ibrc)" \
    -DNVSHMEM_MPI_SUPPORT="$(on mpi)" -DNVSHMEM_UCX_SUPPORT="$(on ucx)" -DNVSHMEM_LIBFABRIC_SUPPORT="$(on libfabric)" \
    -DNVSHMEM_SHMEM_SUPPORT=OFF -DNVSHMEM_PMIX_SUPPORT=OFF -DNVSHMEM_USE_NCCL=OFF -DNVSHMEM_USE_GDRCOPY=OFF -DNVSHMEM_NVTX=OFF \
    -DNVSHMEM_TIMEOUT_DEVICE_POLLING=OFF -DNVSHMEM_BUILD_TESTS=OFF -DNVSHMEM_BUILD_EXAMPLES=OFF -DNVSHMEM_BUILD_PYTHON_LIB=OFF \
    -DNVSHMEM_BUILD_HYDRA_LAUNCHER=OFF -DNVSHMEM_BUILD_TXZ_PACKAGE=OFF >"$prefix/share/build/configure.log" 2>&1 ||
    { cat "$prefix/share/build/configure.log"; exit 1; }
# An old rdma-core loses these without a word, and IBGDA then goes without DMA-BUF or its own doorbell pages.
for probe in HAVE_MLX5DV_UAR_ALLOC_TYPE_NC_DEDICATED HAVE_MLX5DV_UMEM_MASK_DMABUF HAVE_IBV_ACCESS_RELAXED_ORDERING; do
    grep "Performing Test $probe - Success" "$prefix/share/build/configure.log" ||
        { echo "epbox: NVSHMEM's configure step did not find $probe: rdma-core is too old" >&2; exit 1; }
done

jobs=$MAX_JOBS
if [ "$jobs" = 0 ]; then
    # One compiler of NVSHMEM's reductions takes up to 3 GB.
    jobs=$(awk -v cores="$(nproc)" '/MemAvailable/ { fit = int($2 / 3e6); print fit < 1 ? 1 : fit < cores ? fit : cores }' /proc/meminfo)
fi
cmake --build out --parallel "$jobs"
cmake --install out >/dev/null
cp source/License.txt "$prefix/share/"
rm -rf /build
