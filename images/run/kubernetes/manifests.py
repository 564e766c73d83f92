"""Kubernetes manifests: options -> checked context -> YAML text. Pure but for reading templates and platform data."""

import json
from typing import Any

import jinja2

from images import templates

from .options import KINDS, ManifestOptions, Platform, check, platform_of, platforms, rdma_of

__all__ = ["KINDS", "ManifestOptions", "Platform", "check", "context", "notes", "platforms", "render"]


def context(options: ManifestOptions) -> dict[str, Any]:
    """What the templates see. Raises UsageError."""
    check(options)
    platform = platform_of(options)
    rdma = rdma_of(options, platform)
    host_network = platform.host_network if options.host_network is None else options.host_network
    limits: dict[str, Any] = {"cpu": options.cpus, "memory": options.memory}
    if options.gpus:
        limits["nvidia.com/gpu"] = options.gpus
    if rdma:
        limits[rdma[0]] = rdma[1]
    if options.hugepages:
        limits["hugepages-2Mi"] = options.hugepages
    # SYS_NICE opens the memory policy calls of the runtime's own profile; our profile opens them without it.
    capabilities = ["IPC_LOCK"] if options.seccomp == "localhost" else ["IPC_LOCK", "SYS_NICE"]
    # A claim outlives the job: its runs get folders by name, and the index.jsonl beside them.
    out = f"/results/{options.name}" if options.pvc else "/results"
    fixed = ["--format", "jsonl", "--out", out, "--join-timeout", str(options.join_seconds)]
    return {
        "o": options,
        "platform": platform,
        "limits": limits,
        "host_network": host_network,
        "capabilities": capabilities,
        "bench": ["bench", "--workload", options.workload, *fixed, *options.arguments],
        "doctor": ["doctor", "--for", options.workload],
        "env": {"MASTER_PORT": str(options.master_port), **platform.env},
        "labels": {"app.kubernetes.io/name": "epbox", "app.kubernetes.io/instance": options.name},
    }


def environment() -> jinja2.Environment:
    """Templates of manifests: `q` quotes any value as JSON, which is YAML."""
    result = templates.environment("kubernetes")
    result.filters["q"] = json.dumps
    return result


def render(options: ManifestOptions) -> str:
    """The manifest of one kind as YAML text (one or more documents). Raises UsageError."""
    values = context(options)
    return environment().get_template(f"{options.kind}.yaml.j2").render(values)


def notes(options: ManifestOptions) -> tuple[str, ...]:
    """What a person should know of this platform and these options, one line each."""
    lines = list(platform_of(options).notes)
    if options.privileged_rdma:
        lines.append("privileged: the container owns the host's devices; use it only where doctor shows that DEVX or the doorbell needs it")
    if options.seccomp == "localhost":
        lines.append("install templates/kubernetes/epbox-seccomp.json as profiles/epbox.json in every kubelet's seccomp folder")
    if options.kind == "lws":
        lines.append("LeaderWorkerSet pods never end by themselves: they hold after the bench; delete the set when the result is collected")
    return tuple(lines)
