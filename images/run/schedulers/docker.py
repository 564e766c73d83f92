"""Plain docker on N hosts: the `docker run` of each, or one compose file; flags are those that doctor advises."""

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from entrypoints.errors import UsageError
from entrypoints.preflight.flags import run_flags
from images.build import reference
from images.run.schedulers import jobs

FORMATS = ("commands", "compose")
GPUS = re.compile(r"all|none|[1-9][0-9]?|device=[0-9]+(,[0-9]+)*")
FLAG = re.compile(r"(--[a-z-]+)[= ](.+)")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


@dataclass(frozen=True)
class ContainerOptions:
    """What a user chooses. `hosts` in node order, empty for hosts that are named when the commands run."""

    nodes: int = 2
    image: str = ""
    hosts: tuple[str, ...] = ()
    format: str = "commands"
    gpus: str = "all"
    rdma: bool = True
    workload: str = "auto"
    arguments: tuple[str, ...] = ()
    out: str = "results"
    name: str = "epbox"
    master_port: int = 8361
    allow_tag: bool = False


def check(options: ContainerOptions) -> None:
    """Refuse what docker or bench would refuse on one host of many. Raises UsageError."""
    if options.format not in FORMATS:
        raise UsageError(f"unknown format {options.format!r}", where="--format", hint="one of " + ", ".join(FORMATS))
    if not GPUS.fullmatch(options.gpus):
        raise UsageError(f"{options.gpus!r} names no GPUs", where="--gpus", hint="all, none, a number, or device=0,1")
    jobs.check(options.nodes, options.workload, _count(options.gpus), options.arguments, options.master_port, "--gpus")
    reference.parse(options.image, options.allow_tag)
    if not NAME.fullmatch(options.name):
        raise UsageError(f"{options.name!r} is no container name", where="--name", hint="lower-case letters, digits, _ and -, at most 41")
    if not re.fullmatch(r"[^\s,:'\"\\$`]+", options.out):
        raise UsageError(f"{options.out!r} is no folder that a volume can name", where="--out", hint="no white space, quotes or colons")
    if options.hosts:
        jobs.hosts(",".join(options.hosts), options.nodes)


def _count(gpus: str) -> int:
    """How many GPUs a node gives; "all" counts as 8, the number that DeepEP's test over nodes asserts."""
    if gpus in ("all", "none"):
        return 8 if gpus == "all" else 0
    return int(gpus) if gpus.isdigit() else gpus.count(",") + 1


def _knows_master(options: ContainerOptions) -> bool:
    """One node alone meets nobody."""
    return bool(options.hosts) or options.nodes == 1


def rdma(options: ContainerOptions) -> bool:
    """DeepEP over nodes needs the fabric; without GPUs there is only TCP."""
    return options.rdma and options.gpus != "none"


def bench_words(options: ContainerOptions, node: int) -> list[str]:
    """The words after the image; MASTER_ADDR comes from the environment where no hosts are named."""
    words = ["bench", "--workload", options.workload, "--nodes", str(options.nodes), "--node-rank", str(node)]
    words += ["--master-addr", options.hosts[0]] if options.hosts else []
    words += ["--master-port", str(options.master_port)] if options.master_port != 8361 else []
    return [*words, "--out", "/results", *options.arguments]


def flags(options: ContainerOptions) -> list[tuple[str, str]]:
    """(option, value) of `docker run` that every node shares."""
    asked = [FLAG.fullmatch(flag.docker) for flag in run_flags(rdma(options), options.gpus)]
    pairs = [(match[1], match[2]) for match in asked if match]
    if ("--network", "host") not in pairs and options.nodes > 1:
        pairs.append(("--network", "host"))
    return pairs


def shown(option: str, value: str) -> str:
    """One flag as shell words. The CLI reads a --gpus value as CSV, so a comma needs quotes that survive the shell."""
    value = f'"{value}"' if option == "--gpus" and "," in value else value
    return f"{option} {shlex.quote(value)}"


def commands(options: ContainerOptions) -> str:
    """A shell line for each host."""
    check(options)
    image = shlex.quote(str(reference.parse(options.image, options.allow_tag)))
    lines = []
    for node in range(options.nodes):
        where = f" on {options.hosts[node]}" if options.hosts else ""
        master = [] if _knows_master(options) else ['-e MASTER_ADDR="${MASTER_ADDR:?address of the host of node 0}"']
        # Made before docker makes it, which would leave it to root.
        parts = [
            f"mkdir -p {options.out} && docker run --rm --name {options.name}-node{node}",
            *(shown(*flag) for flag in flags(options)),
            *master,
            f'--user "$(id -u):$(id -g)" -v "$(realpath {options.out}):/results"',
            f"{image} {shlex.join(bench_words(options, node))}",
        ]
        lines.append(f"# node {node}{where}\n" + " \\\n    ".join(parts) + "\n")
    return "\n".join(lines)


def compose(options: ContainerOptions) -> str:
    """A compose file with a service a node: `docker compose up nodeI` on host I, or all at once on one host."""
    check(options)
    shared: dict[str, Any] = {
        "image": str(reference.parse(options.image, options.allow_tag)),
        "user": "${EPBOX_USER:-0:0}",
        "cap_add": [],
        "volumes": [f"{options.out if options.out.startswith('/') else './' + options.out.removeprefix('./')}:/results"],
        "restart": "no",
        "stop_grace_period": "20s",
    }
    if not _knows_master(options):
        shared["environment"] = {"MASTER_ADDR": "${MASTER_ADDR:?address of the host of node 0}"}
    for flag in flags(options):
        _add(shared, *flag)
    # Compose reads variables in every string: a dollar sign of an argument is doubled.
    words = [[word.replace("$", "$$") for word in bench_words(options, node)] for node in range(options.nodes)]
    environment = jobs.shell_environment("docker")
    environment.filters |= {"q": json.dumps, "yaml": lambda value: yaml.safe_dump(value, sort_keys=False, width=1000)}
    return environment.get_template("compose.yaml.j2").render(name=options.name, shared=shared, commands=words)


def _add(service: dict[str, Any], name: str, value: str) -> None:
    """A flag of `docker run` as the key of a compose service."""
    if name == "--gpus":
        device: dict[str, Any] = {"driver": "nvidia", "capabilities": ["gpu"]}
        if value.startswith("device="):
            device["device_ids"] = value.removeprefix("device=").split(",")
        else:
            device["count"] = value if value == "all" else int(value)
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    elif name == "--device":
        service.setdefault("devices", []).append(f"{value}:{value}")
    elif name == "--network":
        service["network_mode"] = value
    elif name == "--ulimit":
        limit, _, number = value.partition("=")
        service.setdefault("ulimits", {})[limit] = int(number)
    elif name == "--cap-add":
        service["cap_add"].append(value)
    elif name == "--ipc":
        service["ipc"] = value
    else:
        raise ValueError(f"no compose key is known for {name}")


def render(options: ContainerOptions) -> str:
    """Shell commands or a compose file. Raises UsageError."""
    check(options)
    return compose(options) if options.format == "compose" else commands(options)


def notes(options: ContainerOptions) -> tuple[str, ...]:
    """What a person should know, one line each."""
    lines = [] if _knows_master(options) else ["export MASTER_ADDR, the address of node 0's host, on every host before the command"]
    if options.format == "commands" and options.nodes > 1:
        lines.append("one command a host, all within the two minutes that nodes wait for each other (--join-timeout)")
    lines.append("result.json is on the host of node 0, each rank's log on its own host")
    return tuple(lines)
