# Rendered from the recipe cpu. Edit images/recipes/ or templates/dockerfile/ instead of this file.
FROM epbox-base:trixie-6c0b415d996c AS base

FROM base AS runtime
RUN --mount=type=tmpfs,target=/run --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=host,target=/run/host.sh \
    --mount=type=bind,source=steps/apt-install.sh,target=/run/steps/apt-install.sh \
    --mount=type=bind,source=locks/debian/runtime.txt,target=/run/locks/debian/runtime.txt \
    --mount=type=cache,id=epbox-apt-trixie,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=epbox-lists-trixie,target=/var/lib/apt/lists,sharing=locked \
    sh /run/steps/apt-install.sh /run/locks/debian/runtime.txt

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
LABEL org.opencontainers.image.title="EPBox cpu" \
      org.opencontainers.image.description="EPBox with CPU PyTorch: topology, plan, doctor, and the alltoall workload over gloo" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${EPBOX_VERSION}" \
      org.opencontainers.image.revision="${EPBOX_REVISION}" \
      org.opencontainers.image.created="${EPBOX_CREATED}" \
      org.opencontainers.image.base.name="epbox-base:trixie-6c0b415d996c" \
      org.opencontainers.image.base.digest="${EPBOX_BASE_DIGEST}" \
      epbox.recipe="cpu" \
      epbox.newest-file="1754697600" \
      epbox.lock.drift="${EPBOX_LOCK_DRIFT}" \
      epbox.sbom="${EPBOX_SBOM}" \
      epbox.lock="sha256:ca6f970042891a5616b2551929a8d684d186444ee9a3ff0d4a68a4700b2fa127"
