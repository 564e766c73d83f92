#!/bin/sh
# torch-trim.sh FROM SITE [KEEP...]: copy an installed torch and its CUDA libraries without what running DeepEP never loads.
# KEEP names parts to leave in: triton (torch.compile), headers (for a compiler in the image).
set -eu
from=$1 site=$2
shift 2
keep=" $* "
# Static libraries, test data, build tools and profiler back ends, second copies of NVRTC that only pre-release drivers take,
# multi-GPU cuSOLVER, cuFile's RDMA part and cuDNN's engines: torch opens the last by name at the first convolution or attention, and DeepEP has none.
set -- --exclude='*.a' --exclude='*.pyi' --exclude='__pycache__' --exclude='./bin' --exclude='./torch/bin/protoc*' --exclude='./torch/bin/ptxas' --exclude='./torch/test' \
    --exclude='./torch/share' --exclude='./numpy/*/tests' --exclude='./sympy/*/tests' --exclude='./networkx/*/tests' \
    --exclude='*.alt.so.*' --exclude='libcusolverMg.so.*' --exclude='libcufile_rdma.so.*' --exclude='libnvperf_*' --exclude='libpcsamplingutil*' --exclude='libcheckpoint.so' \
    --exclude='libcudnn_engines_*' --exclude='libcudnn_adv.so.*' --exclude='libcudnn_heuristic.so.*'
case $keep in *" triton "*) ;; *) set -- "$@" --exclude='./triton' --exclude='./triton-*' ;; esac
case $keep in
*" headers "*) ;;
*) set -- "$@" --exclude='./torch/include' --exclude='./nvidia/*/include' --exclude='./nvidia/*/*/include' --exclude='./numpy/_core/include' ;;
esac
# Plug-ins of NVSHMEM's wheel for libraries that no image has.
set -- "$@" --exclude='nvshmem_transport_libfabric.so*' --exclude='nvshmem_transport_ucx.so*' --exclude='nvshmem_bootstrap_mpi.so*' \
    --exclude='nvshmem_bootstrap_shmem.so*' --exclude='nvshmem_bootstrap_pmix.so*'
mkdir -p "$site"
tar -C "$from" "$@" -cf - . | tar -C "$site" --no-same-owner -xf -
