"""An mpirun script for two or more hosts: one process a node, which is epbox. Pure but for reading the template."""

import shlex
from dataclasses import dataclass
from typing import Any

from entrypoints.errors import UsageError
from images.build import reference
from images.run.schedulers import jobs

from .slurm import PATH

RUNTIMES = ("none", "apptainer")


@dataclass(frozen=True)
class MpiOptions:
    """What a user chooses. `hosts` in node order, empty inside an allocation that mpirun knows; `program` is for runtime none alone."""

    nodes: int = 2
    hosts: tuple[str, ...] = ()
    runtime: str = "none"
    image: str = ""
    gpus_per_node: int = 8
    workload: str = "auto"
    arguments: tuple[str, ...] = ()
    out: str = "results/mpi"
    program: str = "epbox"
    forward: tuple[str, ...] = ()
    master_port: int = 8361
    allow_tag: bool = False


def check(options: MpiOptions) -> None:
    """Refuse what would fail only on a remote host. Raises UsageError."""
    jobs.check(options.nodes, options.workload, options.gpus_per_node, options.arguments, options.master_port)
    if options.runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {options.runtime!r}", where="--runtime", hint="one of " + ", ".join(RUNTIMES))
    if options.hosts:
        jobs.hosts(",".join(options.hosts), options.nodes)
    if not PATH.fullmatch(options.out):
        raise UsageError(f"{options.out!r} is no folder that a mount can name", where="--out", hint="no white space, quotes or colons")
    for name in options.forward:
        if not name.isidentifier() or not name.isascii():
            raise UsageError(f"{name!r} is no variable", where="--forward", hint="comma-separated names, such as NVSHMEM_DEBUG")
    if options.runtime == "none":
        if options.image:
            raise UsageError("runtime none runs a program of the hosts, no image", where="--image", hint="choose --runtime apptainer")
        jobs.single_line("--program", options.program)
        try:
            if not shlex.split(options.program):
                raise ValueError("no program")
        except ValueError as error:
            raise UsageError(str(error), where="--program", hint="for example epbox, or 'python3 -m entrypoints'") from None
    elif not (options.image.endswith(".sif") and PATH.fullmatch(options.image)):
        reference.parse(options.image, options.allow_tag)


def context(options: MpiOptions) -> dict[str, Any]:
    """What the template sees. Raises UsageError."""
    check(options)
    file = options.image.endswith(".sif")
    image = options.image if file or not options.image else f"docker://{reference.parse(options.image, options.allow_tag)}"
    return {
        "o": options,
        "image": image,
        "program": shlex.split(options.program),
        "forward": ("MASTER_ADDR", "MASTER_PORT", "EPBOX_RUN_ID", *options.forward),
        "bench": ["bench", "--workload", options.workload],
    }


def render(options: MpiOptions) -> str:
    """The script. Raises UsageError."""
    return jobs.shell_environment("mpi").get_template("mpirun.sh.j2").render(context(options))


def notes(options: MpiOptions) -> tuple[str, ...]:
    """What a person should know before the script runs, one line each."""
    lines = [f"{options.out} must be a folder that all hosts share, or each host keeps the logs of its own ranks"]
    if not options.hosts:
        lines.append("no --hosts: run it inside an allocation that mpirun knows (Slurm, PBS, LSF), with MASTER_ADDR set to its first host")
    return tuple(lines)
