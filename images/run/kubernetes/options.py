"""What can be chosen for a Kubernetes run, the platforms as data, and the checks. Pure; light to import, for the menu's sake."""

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.toml import load_toml

PLATFORMS = Path(__file__).resolve().parent / "platforms.toml"
KINDS = ("job", "jobset", "lws", "mpijob", "pod", "daemonset")
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
#: Names of resources and keys of labels: an optional DNS prefix, then a name.
QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
HOST = "kubernetes.io/hostname"


def option(default: object, about: str) -> typing.Any:
    """A field that is an option of `k8s.render` and `k8s.run` as well; `about` is its help."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class ManifestOptions:
    """What a user chooses. `rdma_resource` is NAME=N, "none", or None for the platform's own."""

    kind: str = option("job", "job, jobset, lws, mpijob, pod or daemonset")
    nodes: int = option(2, "how many nodes (pods)")
    image: str = option("", "REPOSITORY@sha256:DIGEST")
    platform: str = option("generic", "generic, azure, gke, coreweave, oci or aws")
    name: str = option("epbox", "name of the job, a DNS label")
    namespace: str = option("default", "Kubernetes namespace")
    workload: str = option("auto", "what bench runs (default: auto)")
    arguments: tuple[str, ...] = option((), "more options for `epbox bench`, in quotes")
    gpus: int = option(8, "GPUs a pod")
    rdma_resource: str | None = option(None, "NAME=COUNT of the RDMA device plugin, or none (default: the platform's)")
    cpus: int = option(96, "whole CPUs a pod, request and limit")
    memory: str = option("512Gi", "memory a pod, request and limit")
    hugepages: str | None = option(None, "hugepages-2Mi a pod")
    shm: str = option("64Gi", "size of /dev/shm")
    host_network: bool | None = option(None, "pods in the host's network name space (default: the platform's)")
    privileged_rdma: bool = option(False, "privileged container, for fabrics where DEVX or the doorbell needs it")
    seccomp: str = option("runtime", "runtime, or localhost for the shipped profile (then without SYS_NICE)")
    pvc: str | None = option(None, "claim that takes /results (default: the pod's own folder)")
    topology_key: str = option(HOST, "node label: pods are preferred within one value of it, such as a rack's or a block's label")
    exclusive_topology: str | None = option(None, "jobset and lws: node label whose value the job has for itself")
    ttl_seconds: int = option(86400, "how long a finished job is kept")
    deadline_seconds: int = option(3600, "the cluster ends the job after this")
    join_seconds: int = option(900, "how long nodes wait for each other, image pulls included")
    master_port: int = option(8361, "port of the rendezvous; the next one is used too")
    gate: bool = option(True, "an init container runs doctor first")
    allow_tag: bool = option(False, "accept an image without a digest")


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
    data = load_toml(PLATFORMS)
    return {name: Platform(name=name, **{**entry, "notes": tuple(entry.get("notes", ()))}) for name, entry in data.items()}


def platform_of(options: ManifestOptions) -> Platform:
    """The platform asked for. Raises UsageError for an unknown one, and for a workload that its NICs cannot carry."""
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


def rdma_of(options: ManifestOptions, platform: Platform) -> tuple[str, int] | None:
    """Extended resource and count a pod, None without one. Raises UsageError."""
    text = platform.rdma if options.rdma_resource is None else options.rdma_resource
    if text in ("", "none"):
        return None
    name, equals, count = text.rpartition("=")
    if not equals or not QUALIFIED.fullmatch(name) or not count.isdecimal() or int(count) < 1:
        raise UsageError(f"{text!r} is no NAME=COUNT", where="--rdma-resource", hint="for example rdma/ib=8, or none")
    return name, int(count)


def check(options: ManifestOptions) -> None:
    """Refuse what a cluster would refuse later, or worse, accept. Raises UsageError."""
    from entrypoints.bench.setup import check_words
    from images.run.schedulers.jobs import MOST_NODES, check_shape, check_workload

    if options.kind not in KINDS:
        raise UsageError(f"unknown kind {options.kind!r}", where="--kind", hint="one of " + ", ".join(KINDS))
    check_workload(options.workload)
    if options.kind != "daemonset":
        check_shape(options.nodes, options.workload, options.gpus, "--gpus")
    check_words(options.arguments)
    smallest = 2 if options.kind == "mpijob" else 1
    if not smallest <= options.nodes <= MOST_NODES:
        raise UsageError(f"{options.nodes} nodes", where="--nodes", hint=f"{options.kind} takes {smallest} to {MOST_NODES}")
    _check_image(options)
    _check_names(options)
    _check_topology(options)
    for what, quantity in (("--memory", options.memory), ("--shm", options.shm), ("--hugepages", options.hugepages or "0")):
        if not QUANTITY.fullmatch(quantity):
            raise UsageError(f"{quantity!r} is no quantity", where=what, hint="for example 64Gi")
    limits = (("--gpus", options.gpus, 0), ("--cpus", options.cpus, 1), ("--ttl-seconds", options.ttl_seconds, 0))
    waits = (("--deadline-seconds", options.deadline_seconds, 1), ("--join-seconds", options.join_seconds, 1))
    for what, number, low in (*limits, *waits):
        if number < low:
            raise UsageError(f"{number} is too small", where=what, hint=f"at least {low}")
    if not 1 <= options.master_port <= 65534:
        raise UsageError(f"{options.master_port} is no port", where="--master-port", hint="1 to 65534 (the next port is used too)")
    if options.seccomp not in ("runtime", "localhost"):
        raise UsageError(f"unknown seccomp profile {options.seccomp!r}", where="--seccomp", hint="one of runtime, localhost")


def _check_image(options: ManifestOptions) -> None:
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


def _check_names(options: ManifestOptions) -> None:
    names = [("--name", options.name), ("--namespace", options.namespace), *([("--pvc", options.pvc)] if options.pvc else [])]
    for what, value in names:
        if not DNS_LABEL.fullmatch(value) or len(value) > 63:
            raise UsageError(f"{value!r} is no DNS label", where=what, hint="lower-case letters, digits and -, at most 63")
    if not options.name[0].isalpha():
        raise UsageError(f"{options.name!r} begins with a digit, which no Service may (RFC 1035)", where="--name")
    longest = len(options.name) + len(NAME_SUFFIX[options.kind].format(last=options.nodes - 1))
    if longest > 63:
        raise UsageError(
            f"{options.name!r} makes pod host names of {longest} characters and DNS allows 63",
            where="--name",
            hint=f"at most {63 - longest + len(options.name)} characters for {options.kind} with {options.nodes} nodes",
        )


def _check_topology(options: ManifestOptions) -> None:
    exclusive = options.exclusive_topology
    for what, key in (("--topology-key", options.topology_key), ("--exclusive-topology", exclusive or HOST)):
        if not QUALIFIED.fullmatch(key):
            raise UsageError(f"{key!r} is no label key", where=what, hint="for example topology.kubernetes.io/zone")
    if exclusive is None:
        return
    if options.kind not in ("jobset", "lws"):
        raise UsageError(f"a {options.kind} has no exclusive placement", where="--exclusive-topology", hint="take --kind jobset or lws")
    if exclusive == HOST and options.nodes > 1:
        raise UsageError(
            "all pods would have to share one host, and each asks for its own",
            where="--exclusive-topology",
            hint="give the label of a rack, a block or a zone",
        )
