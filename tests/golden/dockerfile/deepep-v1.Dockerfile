# Rendered from the recipe deepep-v1. Edit images/recipes/ or templates/dockerfile/ instead of this file.
FROM epbox-base:trixie-6c0b415d996c AS base

# Compilers, build tools and the CUDA toolkit at /usr/local/cuda.
FROM base AS toolchain
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=host,target=/run/host.sh \
    --mount=type=bind,source=steps/apt-install.sh,target=/run/steps/apt-install.sh \
    --mount=type=bind,source=locks/debian/build.txt,target=/run/locks/debian/build.txt \
    --mount=type=cache,id=epbox-apt-trixie,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=epbox-lists-trixie,target=/var/lib/apt/lists,sharing=locked \
    sh /run/steps/apt-install.sh /run/locks/debian/build.txt
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=host,target=/run/host.sh \
    --mount=type=bind,source=steps/pip-install.sh,target=/run/steps/pip-install.sh \
    --mount=type=bind,source=locks/toolkit.txt,target=/run/locks/toolkit.txt \
    --mount=type=cache,id=epbox-pip,target=/var/cache/pip,sharing=locked \
    sh /run/steps/pip-install.sh python3 /run/locks/toolkit.txt /opt/cuda
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/cuda-toolchain.sh,target=/run/steps/cuda-toolchain.sh \
    sh /run/steps/cuda-toolchain.sh /opt/cuda

FROM toolchain AS nvshmem-source
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=host,target=/run/host.sh \
    --mount=type=bind,source=steps/fetch-git.sh,target=/run/steps/fetch-git.sh \
    --mount=type=bind,source=sources,target=/run/sources \
    sh /run/steps/fetch-git.sh nvshmem https://github.com/NVIDIA/nvshmem.git 131da55f643ac87c810ba0bc51d359258bf433a1 /source

# NVSHMEM with IBGDA at /opt/nvshmem.
FROM toolchain AS nvshmem
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/nvshmem.sh,target=/run/steps/nvshmem.sh \
    --mount=type=bind,from=nvshmem-source,source=/source,target=/source \
    --mount=type=bind,source=steps/nvcc-repeatable,target=/run/steps/nvcc-repeatable \
    CUDA_ARCHS="90" \
    TRANSPORTS="ibrc" \
    MAX_JOBS="0" \
    sh /run/steps/nvshmem.sh /source /opt/nvshmem
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/nvshmem-check.sh,target=/run/steps/nvshmem-check.sh \
    sh /run/steps/nvshmem-check.sh /opt/nvshmem

# torch with the CUDA libraries that it links.
FROM toolchain AS torch
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=host,target=/run/host.sh \
    --mount=type=bind,source=steps/pip-install.sh,target=/run/steps/pip-install.sh \
    --mount=type=bind,source=locks/torch.txt,target=/run/locks/torch.txt \
    --mount=type=cache,id=epbox-pip,target=/var/cache/pip,sharing=locked \
    sh /run/steps/pip-install.sh python3 /run/locks/torch.txt /usr/local/lib/python3.13/dist-packages

FROM toolchain AS deepep-source
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=host,target=/run/host.sh \
    --mount=type=bind,source=steps/fetch-git.sh,target=/run/steps/fetch-git.sh \
    --mount=type=bind,source=sources,target=/run/sources \
    sh /run/steps/fetch-git.sh deepep https://github.com/deepseek-ai/DeepEP.git 567632dd59810d77b3cc05553df953cc0f779799 /source

# DeepEP, its tests and a libcuda to link against, below /out.
FROM toolchain AS deepep
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/deepep.sh,target=/run/steps/deepep.sh \
    --mount=type=bind,from=deepep-source,source=/source,target=/source \
    --mount=type=bind,from=torch,source=/usr/local/lib/python3.13/dist-packages,target=/usr/local/lib/python3.13/dist-packages \
    --mount=type=bind,source=steps/nvcc-repeatable,target=/run/steps/nvcc-repeatable \
    --mount=type=bind,source=steps/pinned-git,target=/run/steps/pinned-git \
    --mount=type=bind,from=nvshmem,source=/opt/nvshmem,target=/opt/nvshmem \
    PINNED_COMMIT=567632dd59810d77b3cc05553df953cc0f779799 \
    TORCH_CUDA_ARCH_LIST="9.0" \
    MAX_JOBS="0" \
    NVSHMEM_FROM=source \
    NVSHMEM_ROOT=/opt/nvshmem \
    sh /run/steps/deepep.sh /source /usr/local/lib/python3.13/dist-packages /out
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/deepep-check.sh,target=/run/steps/deepep-check.sh \
    NVSHMEM_ROOT=/opt/nvshmem \
    sh /run/steps/deepep-check.sh /out

# What runs, from what changes least to what changes most.
FROM base AS runtime
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=host,target=/run/host.sh \
    --mount=type=bind,source=steps/apt-install.sh,target=/run/steps/apt-install.sh \
    --mount=type=bind,source=locks/debian/runtime.txt,target=/run/locks/debian/runtime.txt \
    --mount=type=cache,id=epbox-apt-trixie,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=epbox-lists-trixie,target=/var/lib/apt/lists,sharing=locked \
    sh /run/steps/apt-install.sh /run/locks/debian/runtime.txt
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/torch-trim.sh,target=/run/steps/torch-trim.sh \
    --mount=type=bind,from=torch,source=/usr/local/lib/python3.13/dist-packages,target=/torch \
    sh /run/steps/torch-trim.sh /torch /usr/local/lib/python3.13/dist-packages
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/nvshmem-trim.sh,target=/run/steps/nvshmem-trim.sh \
    --mount=type=bind,from=nvshmem,source=/opt/nvshmem,target=/nvshmem \
    sh /run/steps/nvshmem-trim.sh /nvshmem /opt/nvshmem /usr/local/lib/python3.13/dist-packages
COPY --from=deepep /out/site/ /usr/local/lib/python3.13/dist-packages/
COPY --from=deepep /out/tree/ /opt/deepep/
COPY --from=deepep /out/share/ /opt/deepep/build/
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/gpu-check.sh,target=/run/steps/gpu-check.sh \
    --mount=type=bind,from=deepep,source=/out/stub,target=/stub \
    sh /run/steps/gpu-check.sh /usr/local/lib/python3.13/dist-packages /opt/nvshmem v1

COPY epbox/ /opt/epbox/
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=bind,source=steps/install-program.sh,target=/run/steps/install-program.sh \
    sh /run/steps/install-program.sh
ENV LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
ENTRYPOINT ["epbox"]
CMD ["bench"]

ARG EPBOX_VERSION=0
ARG EPBOX_REVISION=unknown
ARG EPBOX_CREATED=1970-01-01T00:00:00Z
ARG EPBOX_BASE_DIGEST=unknown
ARG EPBOX_LOCK_DRIFT=none
ARG EPBOX_SBOM=none
LABEL org.opencontainers.image.title="EPBox deepep-v1" \
      org.opencontainers.image.description="DeepEP V1 with NVSHMEM 3.4.5 (IBGDA) from source, its own tests, and EPBox to bind, check and measure" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${EPBOX_VERSION}" \
      org.opencontainers.image.revision="${EPBOX_REVISION}" \
      org.opencontainers.image.created="${EPBOX_CREATED}" \
      org.opencontainers.image.base.name="epbox-base:trixie-6c0b415d996c" \
      org.opencontainers.image.base.digest="${EPBOX_BASE_DIGEST}" \
      epbox.recipe="deepep-v1" \
      epbox.newest-file="1754697600" \
      epbox.lock.drift="${EPBOX_LOCK_DRIFT}" \
      epbox.sbom="${EPBOX_SBOM}" \
      epbox.lock="sha256:8f16e35410ad9a68d110c4993326a86a0b90a54adedf566e47271baa9e55b4a0"
