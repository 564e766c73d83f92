"""Kubernetes manifests: options -> checked context -> YAML text. Pure but for reading templates and platform data."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml

from entrypoints.errors import UsageError
from entrypoints.toml import load_toml

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("job", "jobset", "lws", "mpijob", "pod", "daemonset")
WORKLOADS = ("auto", "alltoall", "deepep-internode", "deepep-intranode", "deepep-low-latency", "deepep-elastic")
#: What each kind appends to the name in a pod's host name; 63 is the DNS label limit (RFC 1123).
NAME_SUFFIX = {
    "job": "-{last}-xxxxx",
    "jobset": "-nodes-0-{last}-xxxxx",
    "lws": "-0-{last}",
    "mpijob": "-launcher-xxxxx",
    "pod": "-{last}",
    "daemonset": "-xxxxx",
}
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|K|M|G|T)?")
RESOURCE = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class ManifestOptions:
    """What a user chooses. `rdma_resource` is NAME=N, "none", or None for the platform's own."""

    kind: str = "job"
    nodes: int = 2
    image: str = ""
    platform: str = "generic"
    name: str = "epbox"
    namespace: str = "default"
    workload: str = "auto"
    arguments: tuple[str, ...] = ()
    gpus: int = 8
    rdma_resource: str | None = None
    cpus: int = 96
    memory: str = "512Gi"
    hugepages: str | None = None
    shm: str = "64Gi"
    host_network: bool | None = None
    privileged_rdma: bool = False
    seccomp: str = "runtime"
    pvc: str | None = None
    topology_key: str = "kubernetes.io/hostname"
    exclusive_topology: str | None = None
    ttl_seconds: int = 86400
    deadline_seconds: int = 3600
    master_port: int = 8361
    gate: bool = True
    allow_tag: bool = False


@dataclass(frozen=True)
class Platform:
    """One entry of platforms.toml."""

    name: str
    title: str
    rdma: str = ""
    host_network: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    gpu_node_label: Mapping[str, str] = field(default_factory=dict)
    refuse: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def platforms() -> dict[str, Platform]:
    """All platforms by name."""
    data = load_toml(ROOT / "images" / "platforms.toml")
    return {name: Platform(name=name, **{**entry, "notes": tuple(entry.get("notes", ()))}) for name, entry in data.items()}


def _platform(options: ManifestOptions) -> Platform:
    known = platforms()
    # "aws-refused" is how people look for the platform whose NICs IBGDA cannot use.
    name = options.platform.removesuffix("-refused")
    if name not in known:
        raise UsageError(f"unknown platform {options.platform!r}", where="--platform", hint="one of " + ", ".join(known))
    platform = known[name]
    reason = platform.refuse.get(options.workload)
    if reason:
        raise UsageError(f"{options.workload} cannot run on {name}: {reason}", where="--platform", hint="; ".join(platform.notes))
    return platform


def _rdma(options: ManifestOptions, platform: Platform) -> tuple[str, int] | None:
    text = platform.rdma if options.rdma_resource is None else options.rdma_resource
    if text in ("", "none"):
        return None
    name, equals, count = text.rpartition("=")
    if not equals or not RESOURCE.fullmatch(name) or not count.isdigit() or int(count) < 1:
        raise UsageError(f"{text!r} is no NAME=COUNT", where="--rdma-resource", hint="for example rdma/ib=8, or none")
    return name, int(count)


def check(options: ManifestOptions) -> None:
    """Refuse what a cluster would refuse later, or worse, accept. Raises UsageError."""
    if options.kind not in KINDS:
        raise UsageError(f"unknown kind {options.kind!r}", where="--kind", hint="one of " + ", ".join(KINDS))
    if options.workload not in WORKLOADS:
        raise UsageError(f"unknown workload {options.workload!r}", where="--workload", hint="one of " + ", ".join(WORKLOADS))
    smallest = 2 if options.kind == "mpijob" else 1
    if not smallest <= options.nodes <= 5000:
        raise UsageError(f"{options.nodes} nodes", where="--nodes", hint=f"{options.kind} takes {smallest} to 5000")
    if not options.image:
        raise UsageError("no image", where="--image", hint="give REPOSITORY@sha256:DIGEST, as `push` prints it")
    if not DIGEST.fullmatch(options.image) and not options.allow_tag:
        raise UsageError(
            f"{options.image!r} has no digest, so two nodes could pull different images",
            where="--image",
            hint="give REPOSITORY@sha256:DIGEST, or --allow-tag",
        )
    if any(c.isspace() for c in options.image):
        raise UsageError("an image reference holds no white space", where="--image")
    for what, value in (("--name", options.name), ("--namespace", options.namespace)):
        if not DNS_LABEL.fullmatch(value) or len(value) > 63:
            raise UsageError(f"{value!r} is no DNS label", where=what, hint="lower-case letters, digits and -, at most 63")
    longest = len(options.name) + len(NAME_SUFFIX[options.kind].format(last=options.nodes - 1))
    if longest > 63:
        raise UsageError(
            f"{options.name!r} makes pod host names of {longest} characters and DNS allows 63",
            where="--name",
            hint=f"at most {63 - longest + len(options.name)} characters for {options.kind} with {options.nodes} nodes",
        )
    for what, quantity in (("--memory", options.memory), ("--shm", options.shm), ("--hugepages", options.hugepages or "0")):
        if not QUANTITY.fullmatch(quantity):
            raise UsageError(f"{quantity!r} is no quantity", where=what, hint="for example 64Gi")
    for what, number, low in (("--gpus", options.gpus, 0), ("--cpus", options.cpus, 1), ("--ttl-seconds", options.ttl_seconds, 0)):
        if number < low:
            raise UsageError(f"{number} is too small", where=what, hint=f"at least {low}")
    if not 1 <= options.master_port <= 65534:
        raise UsageError(f"{options.master_port} is no port", where="--master-port", hint="1 to 65534 (the next port is used too)")
    if options.seccomp not in ("runtime", "localhost"):
        raise UsageError(f"unknown seccomp profile {options.seccomp!r}", where="--seccomp", hint="one of runtime, localhost")


def context(options: ManifestOptions) -> dict[str, Any]:
    """What the templates see. Raises UsageError."""
    check(options)
    platform = _platform(options)
    rdma = _rdma(options, platform)
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
    return {
        "o": options,
        "platform": platform,
        "limits": limits,
        "host_network": host_network,
        "capabilities": capabilities,
        "bench": ["bench", "--workload", options.workload, "--format", "jsonl", "--out", "/results", *options.arguments],
        "doctor": ["doctor", "--for", options.workload],
        "env": {"MASTER_PORT": str(options.master_port), **platform.env},
        "labels": {"app.kubernetes.io/name": "epbox", "app.kubernetes.io/instance": options.name},
    }


def environment() -> jinja2.Environment:
    """Jinja as all templates here expect it; `q` quotes any value as JSON, which is YAML."""
    loader = jinja2.FileSystemLoader(ROOT / "templates" / "kubernetes")
    result = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    result.filters["q"] = lambda value: json.dumps(str(value) if isinstance(value, Path) else value)
    return result


def render(options: ManifestOptions) -> str:
    """The manifest of one kind as YAML text (one or more documents). Raises UsageError."""
    values = context(options)
    text = environment().get_template(f"{options.kind}.yaml.j2").render(values)
    for document in yaml.safe_load_all(text):
        if not isinstance(document, dict):
            raise UsageError("the rendered manifest holds an empty document", where=f"{options.kind}.yaml.j2")
    return text


def notes(options: ManifestOptions) -> tuple[str, ...]:
    """What a person should know of this platform and these options, one line each."""
    lines = list(_platform(options).notes)
    if options.privileged_rdma:
        lines.append("privileged: the container owns the host's devices; use it only where doctor shows that DEVX or the doorbell needs it")
    if options.seccomp == "localhost":
        lines.append("install templates/kubernetes/epbox-seccomp.json as profiles/epbox.json in every kubelet's seccomp folder")
    if options.kind == "lws":
        lines.append("LeaderWorkerSet pods never end by themselves: they hold after the bench; delete the set when the result is collected")
    return tuple(lines)
