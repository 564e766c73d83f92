"""Refused of every job before it waits for its nodes: workload, nodes, GPUs, port, words for bench, host names."""

import re
import shlex

from entrypoints import workloads
from entrypoints.errors import UsageError
from entrypoints.workloads.deepep import HT_NODES_LATER, INTRANODE_RANKS
from entrypoints.workloads.model import nearest
from images.options import JobOptions

MOST_NODES = 5000
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?")
#: A path that shells, mounts and volumes take as it is.
PATH = re.compile(r"[^\s,:'\"\\$`#]+")
#: Options of bench that every node must get from the template.
WRITTEN = ("--nodes", "--node-rank", "--master-addr", "--master-port", "--out", "--workload")


def check(options: JobOptions, gpus: int, gpu_option: str = "--gpus-per-node", *, least_nodes: int = 1, one_job: bool = True) -> None:
    """Refuse what would fail only after a job has waited for its nodes. Raises UsageError.

    `one_job` is False where each node runs by itself: then DeepEP's kernels do not care how many there are.
    """
    # The menu has no time for all that bench imports.
    from entrypoints.bench.setup import check_words

    if not least_nodes <= options.nodes <= MOST_NODES:
        raise UsageError(f"{options.nodes} nodes", where="--nodes", hint=f"give {least_nodes} to {MOST_NODES}")
    check_choice(options.workload, ("auto", *workloads.names()), "--workload")
    if gpus < 0:
        raise UsageError(f"{gpus} GPUs", where=gpu_option, hint="give 0 or more")
    if one_job:
        check_shape(options.nodes, options.workload, gpus, gpu_option)
    if not 1 <= options.master_port <= 65534:
        raise UsageError(f"{options.master_port} is not a port", where="--master-port", hint="1 to 65534 (the next port is used too)")
    words = list(options.arguments)
    for word in words[: words.index("--")] if "--" in words else words:
        if word.partition("=")[0] in WRITTEN:
            raise UsageError(f"{word} is written by this task", where="--args", hint="give it as an option of the task instead")
    single_line("--args", " ".join(words))
    check_words(words)


def check_choice(value: str, choices: tuple[str, ...], where: str) -> None:
    """Refuse a value that is none of the choices. Raises UsageError."""
    if value not in choices:
        raise UsageError(f"unknown {where.removeprefix('--')} {value!r}", where=where, hint="one of " + ", ".join(choices))


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


def check_path(path: str, where: str, use: str = "mount") -> None:
    """Refuse a path that a shell or a mount would read as something else. Raises UsageError."""
    if not PATH.fullmatch(path):
        raise UsageError(f"{path!r} is not a path that a {use} can name", where=where, hint="no white space, quotes, commas or colons")


def single_line(where: str, text: str) -> None:
    """Refuse control characters: a rendered line stays one line. Raises UsageError."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise UsageError("control characters are not allowed", where=where)


def check_hosts(names: tuple[str, ...], nodes: int) -> None:
    """Refuse host names or addresses that are not one a node; none at all are left to the job's environment. Raises UsageError."""
    for name in names:
        if not HOST.fullmatch(name):
            raise UsageError(f"{name!r} is not a host name", where="--hosts", hint="comma-separated names or addresses, node 0 first")
    if len(set(names)) != len(names):
        raise UsageError("a host is named twice", where="--hosts", hint="one node a host: two would share its GPUs and rails")
    if names and len(names) != nodes:
        raise UsageError(f"{len(names)} hosts for {nodes} nodes", where="--hosts", hint="name each node once, node 0 first")


def program_words(program: str, image: str, runtimes: str) -> list[str]:
    """The words of --program, for --runtime none, which has no image. Raises UsageError."""
    if image:
        raise UsageError("runtime none runs a program of the nodes, no image", where="--image", hint=f"drop --image, or choose {runtimes}")
    single_line("--program", program)
    try:
        words = shlex.split(program)
    except ValueError as error:
        raise UsageError(str(error), where="--program", hint="quote it as a shell would") from None
    if not words:
        raise UsageError("no program", where="--program", hint="for example epbox, or 'python3 -m entrypoints'")
    return words
