"""Kubernetes manifests: options -> checked context -> YAML text. Pure but for reading templates and platforms.toml; light to import."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.facts import container
from entrypoints.toml import load_toml
from images import templates
from images.build import reference
from images.options import JobOptions, option
from images.run import jobs

#: What each kind appends to the name in a pod's host name; 63 is the DNS label limit (RFC 1123).
NAME_SUFFIX = {
    "job": "-{last}-xxxxx",
    "jobset": "-nodes-0-{last}-xxxxx",
    "lws": "-0-{last}",
    "mpijob": "-launcher-xxxxx",
    "pod": "-{last}",
    "daemonset": "-xxxxx",
}
KINDS = tuple(NAME_SUFFIX)
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|K|M|G|T)?")
#: Names of resources and keys of labels: an optional DNS prefix, then a name.
QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
HOST = "kubernetes.io/hostname"
#: The runtime's own seccomp profile asks for it; the shipped one opens the memory policy calls to all.
MEMORY_POLICY = container.need("memory-policy")


@dataclass(frozen=True)
class ManifestOptions(JobOptions):
    """Options of a manifest. `rdma_resource` is NAME=N, "none", or None for the platform's own."""

    nodes: int = option(2, "how many nodes (pods)")
    kind: str = option("job", "job, jobset, lws, mpijob, pod or daemonset")
    platform: str = option("generic", "generic, azure, gke, coreweave, oci or aws")
    name: str = option("epbox", "name of the job, a DNS label")
    namespace: str = option("default", "Kubernetes namespace")
    gpus: int = option(8, "GPUs a pod")
    rdma_resource: str | None = option(None, "NAME=COUNT of the RDMA device plugin, or none (default: the platform's)")
    cpus: int = option(96, "whole CPUs a pod, request and limit")
    memory: str = option("512Gi", "memory a pod, request and limit")
    hugepages: str | None = option(None, "hugepages-2Mi a pod")
    shm: str = option("64Gi", "size of /dev/shm")
    host_network: bool | None = option(None, "pods in the host's network name space (default: the platform's)", kind=bool)
    privileged_rdma: bool = option(False, "privileged container, for fabrics where DEVX or the doorbell needs it")
    seccomp: str = option("runtime", f"runtime, or localhost for the shipped profile (then without {MEMORY_POLICY.value})")
    pvc: str | None = option(None, "claim that takes /results (default: the pod's own folder)")
    topology_key: str = option(HOST, "node label: pods are preferred within one value of it, such as a rack's or a block's label")
    exclusive_topology: str | None = option(None, "jobset and lws: node label whose value the job has for itself")
    ttl_seconds: int = option(86400, "how long a finished job is kept")
    deadline_seconds: int = option(3600, "the cluster ends the job after this")
    join_seconds: int = option(900, "how long nodes wait for each other, image pulls included")
    gate: bool = option(True, "an init container runs doctor first")


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
    notes: Sequence[str] = ()


@cache
def platforms() -> dict[str, Platform]:
    """All platforms by name."""
    return {name: Platform(name=name, **entry) for name, entry in load_toml(Path(__file__).with_name("platforms.toml")).items()}


def platform_of(options: ManifestOptions) -> Platform:
    """The platform of these options. Raises UsageError for an unknown one, and for a workload that its NICs cannot carry."""
    # "aws-refused" is how people look for the platform whose NICs IBGDA cannot use.
    name = options.platform.removesuffix("-refused")
    jobs.check_choice(name, tuple(platforms()), "--platform")
    platform = platforms()[name]
    reason = platform.refuse.get(options.workload)
    if reason:
        raise UsageError(f"{options.workload} cannot run on {name}: {reason}", where="--platform", hint="; ".join(platform.notes))
    return platform


def rdma_limits(options: ManifestOptions, platform: Platform) -> dict[str, int]:
    """The extended resource of the RDMA device plugin and its count a pod; empty without one. Raises UsageError."""
    text = platform.rdma if options.rdma_resource is None else options.rdma_resource
    if text in ("", "none"):
        return {}
    name, equals, count = text.rpartition("=")
    if not equals or not QUALIFIED.fullmatch(name) or not count.isdecimal() or int(count) < 1:
        raise UsageError(f"{text!r} is not NAME=COUNT", where="--rdma-resource", hint="for example rdma/ib=8, or none")
    return {name: int(count)}


def check(options: ManifestOptions) -> None:
    """Refuse what a cluster would refuse later, or worse, accept. Raises UsageError."""
    jobs.check_choice(options.kind, KINDS, "--kind")
    least_nodes = 2 if options.kind == "mpijob" else 1
    jobs.check(options, options.gpus, "--gpus", least_nodes=least_nodes, one_job=options.kind != "daemonset")
    reference.parse(options.image, options.allow_tag)
    _check_names(options)
    _check_topology(options)
    for where, quantity in (("--memory", options.memory), ("--shm", options.shm), ("--hugepages", options.hugepages or "0")):
        if not QUANTITY.fullmatch(quantity):
            raise UsageError(f"{quantity!r} is not a quantity", where=where, hint="for example 64Gi")
    waits = (("--deadline-seconds", options.deadline_seconds, 1), ("--join-seconds", options.join_seconds, 1))
    for where, number, least in (("--cpus", options.cpus, 1), ("--ttl-seconds", options.ttl_seconds, 0), *waits):
        if number < least:
            raise UsageError(f"{number} is too small", where=where, hint=f"at least {least}")
    jobs.check_choice(options.seccomp, ("runtime", "localhost"), "--seccomp")


def _check_names(options: ManifestOptions) -> None:
    """Names must be DNS labels, and so must the host names that controllers make of them."""
    names = [("--name", options.name), ("--namespace", options.namespace), *([("--pvc", options.pvc)] if options.pvc else [])]
    for where, name in names:
        if not DNS_LABEL.fullmatch(name) or len(name) > 63:
            raise UsageError(f"not a DNS label: {name!r}", where=where, hint="lower-case letters, digits and -, at most 63")
    if not options.name[0].isalpha():
        raise UsageError(f"{options.name!r} begins with a digit, which no Service may (RFC 1035)", where="--name")
    longest = len(options.name) + len(NAME_SUFFIX[options.kind].format(last=options.nodes - 1))
    if longest > 63:
        most = f"at most {63 - longest + len(options.name)} characters for {options.kind} with {options.nodes} nodes"
        raise UsageError(f"{options.name!r} makes pod host names of {longest} characters and DNS allows 63", where="--name", hint=most)


def _check_topology(options: ManifestOptions) -> None:
    """Labels must be ones, and exclusive placement one that the kind has and the pods can share."""
    exclusive, where = options.exclusive_topology, "--exclusive-topology"
    for option_name, key in (("--topology-key", options.topology_key), (where, exclusive or HOST)):
        if not QUALIFIED.fullmatch(key):
            raise UsageError(f"{key!r} is not a label key", where=option_name, hint="for example topology.kubernetes.io/zone")
    if exclusive is not None and options.kind not in ("jobset", "lws"):
        raise UsageError(f"a {options.kind} has no exclusive placement", where=where, hint="take --kind jobset or lws")
    if exclusive == HOST and options.nodes > 1:
        what = "all pods would have to share one host, and each asks for its own"
        raise UsageError(what, where=where, hint="give the label of a rack, a block or a zone")


def render(options: ManifestOptions) -> str:
    """The manifest of one kind as YAML text (one or more documents). Raises UsageError."""
    check(options)
    platform = platform_of(options)
    rdma = rdma_limits(options, platform)
    limits = {"cpu": options.cpus, "memory": options.memory, "nvidia.com/gpu": options.gpus, **rdma, "hugepages-2Mi": options.hugepages}
    limits = {name: amount for name, amount in limits.items() if amount}
    needs = container.needed(gpus=options.gpus > 0, rdma=options.gpus > 0 or bool(rdma), several_nodes=options.nodes > 1)
    rights = [row for row in needs if row != MEMORY_POLICY or options.seccomp == "runtime"]
    # A claim outlives the job: its runs get folders by name, and the index.jsonl beside them.
    results = container.need("results").value
    out = f"{results}/{options.name}" if options.pvc else results
    fixed = ["--format", "jsonl", "--out", out, "--join-timeout", str(options.join_seconds)]
    return templates.render(
        f"kubernetes/{options.kind}.yaml.j2",
        o=options,
        platform=platform,
        limits=limits,
        host_network=platform.host_network if options.host_network is None else options.host_network,
        capabilities=container.values(rights, "capability"),
        bench=["bench", "--workload", options.workload, *fixed, *options.arguments],
        doctor=["doctor", "--for", options.workload],
        env={"MASTER_PORT": str(options.master_port), **platform.env},
        labels={"app.kubernetes.io/name": "epbox", "app.kubernetes.io/instance": options.name},
    )


def notes(options: ManifestOptions) -> tuple[str, ...]:
    """Lines that a person should read on this platform and with these options."""
    lines = list(platform_of(options).notes)
    if options.privileged_rdma:
        lines.append("privileged: the container owns the host's devices; use it only where doctor shows that DEVX or the doorbell needs it")
    if options.seccomp == "localhost":
        lines.append("install templates/kubernetes/epbox-seccomp.json as profiles/epbox.json in every kubelet's seccomp folder")
    if options.kind == "lws":
        lines.append("LeaderWorkerSet pods never end by themselves: they hold after the bench; delete the set when the result is collected")
    return tuple(lines)
