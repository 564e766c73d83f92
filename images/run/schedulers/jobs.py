"""What every scheduler's job has in common: workload, nodes, GPUs, port; and the Jinja environment of shell templates."""

import re
import shlex
from collections.abc import Sequence

import jinja2

from entrypoints import workloads
from entrypoints.bench.setup import check_words
from entrypoints.errors import UsageError
from entrypoints.workloads.deepep import HT_NODES_LATER, INTRANODE_RANKS
from entrypoints.workloads.model import nearest
from images import templates

MOST_NODES = 5000
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?")
#: Our options that every node must get from the template, with the option of the renderer that sets them.
OWN = ("--nodes", "--node-rank", "--master-addr", "--master-port", "--out", "--workload")


def check(nodes: int, workload: str, gpus: int, arguments: Sequence[str], port: int, gpu_option: str = "--gpus-per-node") -> None:
    """Refuse what would fail only after a job has waited for its nodes. Raises UsageError."""
    if not 1 <= nodes <= MOST_NODES:
        raise UsageError(f"{nodes} nodes", where="--nodes", hint=f"give 1 to {MOST_NODES}")
    check_workload(workload)
    if gpus < 0:
        raise UsageError(f"{gpus} GPUs", where=gpu_option, hint="give 0 or more")
    check_shape(nodes, workload, gpus, gpu_option)
    if not 1 <= port <= 65534:
        raise UsageError(f"{port} is no port", where="--master-port", hint="1 to 65534 (the next port is used too)")
    before = list(arguments)[: list(arguments).index("--")] if "--" in arguments else arguments
    for word in before:
        if word.partition("=")[0] in OWN:
            raise UsageError(f"{word} is written by this task", where="--args", hint="give it as an option of the task instead")
    single_line("--args", " ".join(arguments))
    check_words(arguments)


def check_workload(workload: str) -> None:
    """Refuse a name that bench does not know. Raises UsageError."""
    known = ("auto", *workloads.names())
    if workload not in known:
        raise UsageError(f"unknown workload {workload!r}", where="--workload", hint="one of " + ", ".join(known))


def check_shape(nodes: int, workload: str, gpus: int, gpu_option: str) -> None:
    """Refuse nodes and GPUs for which DeepEP has no kernels. Raises UsageError."""
    if workload.startswith("deepep") and gpus == 0:
        raise UsageError(f"{workload} needs GPUs", where=gpu_option, hint=f"give {gpu_option} 8, or --workload alltoall")
    if workload == "deepep-internode":
        if nodes not in HT_NODES_LATER:
            hint = f"nearest possible: --nodes {nearest(nodes, HT_NODES_LATER)}" + (" or --workload deepep-intranode" if nodes == 1 else "")
            raise UsageError(f"no high-throughput kernels exist for {nodes} node(s)", where="--nodes", hint=hint)
        if gpus != 8:
            raise UsageError(f"{gpus} GPUs a node: the high-throughput test asserts exactly 8", where=gpu_option, hint="give 8")
    if workload == "deepep-intranode" and (nodes != 1 or gpus not in INTRANODE_RANKS):
        raise UsageError(f"{nodes} nodes of {gpus} GPUs", where="--nodes", hint="deepep-intranode takes one node of 2, 4 or 8 GPUs")


def single_line(where: str, text: str) -> None:
    """No control characters: a rendered line stays one line. Raises UsageError."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise UsageError("control characters are not allowed", where=where)


def hosts(text: str, nodes: int, where: str = "--hosts") -> tuple[str, ...]:
    """Host names or addresses of a comma list, one a node. Raises UsageError."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    for name in found:
        if not HOST.fullmatch(name):
            raise UsageError(f"{name!r} is no host name", where=where, hint="comma-separated names or addresses, node 0 first")
    if len(set(found)) != len(found):
        raise UsageError("a host is named twice", where=where, hint="one node a host: two would share its GPUs and rails")
    if len(found) != nodes:
        raise UsageError(f"{len(found)} hosts for {nodes} nodes", where=where, hint="name each node once, node 0 first")
    return found


def shell_environment(folder: str) -> jinja2.Environment:
    """Templates of shell text: `sh` quotes one word, `words` quotes each of a sequence."""
    found = templates.environment(folder)
    found.filters["sh"] = lambda value: shlex.quote(str(value))
    found.filters["words"] = lambda values: shlex.join(map(str, values))
    return found
