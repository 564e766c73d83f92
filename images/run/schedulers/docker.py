"""Plain docker on N hosts: the `docker run` of each, or one compose file; its options are those that doctor advises."""

import re
import shlex
from dataclasses import dataclass, replace

from entrypoints.errors import UsageError
from entrypoints.facts import container
from entrypoints.facts.ports import MASTER_PORT
from images import templates
from images.build import reference
from images.options import JobOptions, Runner, comma_separated, option
from images.run import jobs

FORMATS = ("commands", "compose")
GPUS = re.compile(r"all|none|[1-9][0-9]?|device=[0-9]+(,[0-9]+)*")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
#: A node whose hosts are not named takes the address of node 0 from its shell.
MASTER_ADDR = "${MASTER_ADDR:?address of the host of node 0}"


@dataclass(frozen=True)
class ContainerOptions(JobOptions):
    """Options of docker.render. `hosts` in node order, empty for hosts that are named when the commands run."""

    nodes: int = option(2, "how many hosts")
    hosts: tuple[str, ...] = option(
        (), "their names or addresses, comma-separated, node 0 first (default: MASTER_ADDR names node 0's)", parse=comma_separated
    )
    format: str = option("commands", "commands, or compose")
    gpus: str = option("all", "all, none, a number, or device=0,1")
    rdma: bool = option(True, "devices and rights for RDMA (default with GPUs); --no-rdma leaves them out")
    out: str = option("results", "result folder of each host")
    name: str = option("epbox", "the containers are called NAME-nodeI")

    @property
    def gpu_count(self) -> int:
        """GPUs of a node; "all" counts as 8, the number that DeepEP's test over nodes asserts."""
        if self.gpus in ("all", "none"):
            return 8 if self.gpus == "all" else 0
        return int(self.gpus) if self.gpus.isdigit() else self.gpus.count(",") + 1

    @property
    def names_master(self) -> bool:
        """True where no shell has to name node 0's host: hosts are given, or one node meets nobody."""
        return bool(self.hosts) or self.nodes == 1


def render(options: ContainerOptions) -> str:
    """Shell commands or a compose file. Raises UsageError for what docker or bench would refuse on one host of many."""
    jobs.check_choice(options.format, FORMATS, "--format")
    if not GPUS.fullmatch(options.gpus):
        raise UsageError(f"{options.gpus!r} names no GPUs", where="--gpus", hint="all, none, a number, or device=0,1")
    jobs.check(options, options.gpu_count, "--gpus")
    reference.parse(options.image, options.allow_tag)
    if not NAME.fullmatch(options.name):
        hint = "lower-case letters, digits, _ and -, at most 41"
        raise UsageError(f"{options.name!r} is not a container name", where="--name", hint=hint)
    jobs.check_path(options.out, "--out", "volume")
    jobs.check_hosts(options.hosts, options.nodes)
    return compose(options) if options.format == "compose" else commands(options)


def bench_words(options: ContainerOptions, node: int) -> list[str]:
    """The words after the image; MASTER_ADDR comes from the environment where no hosts are named."""
    words = ["bench", "--workload", options.workload, "--nodes", str(options.nodes), "--node-rank", str(node)]
    words += ["--master-addr", options.hosts[0]] if options.hosts else []
    words += ["--master-port", str(options.master_port)] if options.master_port != MASTER_PORT else []
    return [*words, "--out", container.need("results").value, *options.arguments]


def needs(options: ContainerOptions) -> list[container.Need]:
    """Rights, devices and so on of every node's container. DeepEP over nodes needs the fabric; without GPUs there is only TCP."""
    gpus = options.gpus != "none"
    rows = container.needed(gpus=gpus, rdma=options.rdma and gpus, several_nodes=options.nodes > 1)
    return [replace(row, value=options.gpus) if row.kind == "gpus" else row for row in rows]


def run_words(row: container.Need) -> str:
    """One option of `docker run` as shell words. The CLI reads a --gpus value as CSV: a comma needs quotes that survive the shell."""
    name, value = re.split("[= ]", row.docker, maxsplit=1)
    value = f'"{value}"' if row.kind == "gpus" and "," in value else value
    return f"{name} {shlex.quote(value)}"


def commands(options: ContainerOptions) -> str:
    """A shell line for each host."""
    image = shlex.quote(str(reference.parse(options.image, options.allow_tag)))
    lines = []
    for node in range(options.nodes):
        host = f" on {options.hosts[node]}" if options.hosts else ""
        # Made before docker makes it, which would leave it to root.
        parts = [
            f"mkdir -p {options.out} && docker run --rm --name {options.name}-node{node}",
            *(run_words(row) for row in needs(options) if row.docker),
            *([] if options.names_master else [f'-e MASTER_ADDR="{MASTER_ADDR}"']),
            f'--user "$(id -u):$(id -g)" -v "$(realpath {options.out}):{container.need("results").value}"',
            f"{image} {shlex.join(bench_words(options, node))}",
        ]
        lines.append(f"# node {node}{host}\n" + " \\\n    ".join(parts) + "\n")
    return "\n".join(lines)


def compose(options: ContainerOptions) -> str:
    """A compose file with a service a node: `docker compose up nodeI` on host I, or all at once on one host."""
    import yaml  # not for the menu

    folder = options.out if options.out.startswith("/") else f"./{options.out.removeprefix('./')}"
    service: dict[str, object] = {
        "image": str(reference.parse(options.image, options.allow_tag)),
        "user": "${EPBOX_USER:-0:0}",
        "cap_add": container.values(needs(options), "capability"),
        "volumes": [f"{folder}:{container.need('results').value}"],
        "restart": "no",
        "stop_grace_period": "20s",
    }
    if not options.names_master:
        service["environment"] = {"MASTER_ADDR": MASTER_ADDR}
    for row in needs(options):
        if row.kind == "gpus":
            name, _, ids = row.value.rpartition("=")
            chosen: dict[str, object] = {"device_ids": ids.split(",")} if name else {"count": int(ids) if ids.isdigit() else ids}
            devices = [{"driver": "nvidia", "capabilities": ["gpu"], **chosen}]
            service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
        elif row.kind == "device":
            service["devices"] = [f"{row.value}:{row.value}"]
        elif row.kind == "network":
            service["network_mode"] = row.value
        elif row.kind == "limit":
            name, _, number = row.value.partition("=")
            service["ulimits"] = {name: int(number)}
        elif row.kind == "ipc":
            service["ipc"] = row.value
    # Compose reads variables in every string: a dollar sign of an argument is doubled.
    words = [[word.replace("$", "$$") for word in bench_words(options, node)] for node in range(options.nodes)]
    text = yaml.safe_dump(service, sort_keys=False, width=1000)
    return templates.render("docker/compose.yaml.j2", name=options.name, service=text, commands=words)


def notes(options: ContainerOptions) -> tuple[str, ...]:
    """Lines that a person should read before the commands run."""
    lines = [] if options.names_master else ["export MASTER_ADDR, the address of node 0's host, on every host before the command"]
    if options.format == "commands" and options.nodes > 1:
        lines.append("one command a host, all within the two minutes that nodes wait for each other (--join-timeout)")
    lines.append("result.json is on the host of node 0, each rank's log on its own host")
    return tuple(lines)


RUNNER = Runner(
    "docker", "Write the `docker run` of each host, or a compose file, to stdout; notes to stderr.", ContainerOptions, render, notes
)
