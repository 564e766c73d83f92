"""An mpirun script for two or more hosts: one process a node, which is epbox. Pure but for reading the template."""

from dataclasses import dataclass

from entrypoints.errors import UsageError
from entrypoints.facts import container
from images import templates
from images.build import reference
from images.options import JobOptions, Runner, comma_separated, option
from images.run import jobs

RUNTIMES = ("none", "apptainer")


@dataclass(frozen=True)
class MpiOptions(JobOptions):
    """Options of mpi.render. `hosts` in node order, empty inside an allocation that mpirun knows; `program` is for runtime none alone."""

    image: str = option("", "with apptainer: REPOSITORY@sha256:DIGEST or a .sif file")
    hosts: tuple[str, ...] = option(
        (), "their names, comma-separated, node 0 first (default: those of the allocation)", parse=comma_separated
    )
    runtime: str = option("none", "none: a program of the hosts; or apptainer")
    gpus_per_node: int = option(8, "GPUs a node, 0 for none")
    out: str = option("results/mpi", "result folder, shared by all hosts")
    program: str = option("epbox", "with --runtime none: the command (default epbox)")
    forward: tuple[str, ...] = option((), "more variables for all nodes, comma-separated", parse=comma_separated)


def render(options: MpiOptions) -> str:
    """The script. Raises UsageError for options that would fail only on a remote host."""
    jobs.check(options, options.gpus_per_node)
    jobs.check_choice(options.runtime, RUNTIMES, "--runtime")
    jobs.check_hosts(options.hosts, options.nodes)
    jobs.check_path(options.out, "--out")
    for name in options.forward:
        if not name.isidentifier() or not name.isascii():
            raise UsageError(f"{name!r} is not a variable", where="--forward", hint="comma-separated names, such as NVSHMEM_DEBUG")
    image, program = None, []
    if options.runtime == "none":
        program = jobs.program_words(options.program, options.image, "apptainer")
    elif options.image.endswith(".sif") and jobs.PATH.fullmatch(options.image):
        image = options.image
    else:
        image = f"docker://{reference.parse(options.image, options.allow_tag)}"
    gpus = options.gpus_per_node > 0
    return templates.render(
        "mpi/mpirun.sh.j2",
        o=options,
        image=image,
        devices=container.values(container.needed(gpus=gpus, rdma=gpus, several_nodes=options.nodes > 1), "device"),
        program=program,
        forward=("MASTER_ADDR", "MASTER_PORT", "EPBOX_RUN_ID", *options.forward),
        bench=["bench", "--workload", options.workload],
    )


def notes(options: MpiOptions) -> tuple[str, ...]:
    """Lines that a person should read before the script runs."""
    lines = [f"{options.out} must be a folder that all hosts share, or each host keeps the logs of its own ranks"]
    if not options.hosts:
        lines.append("no --hosts: run it inside an allocation that mpirun knows (Slurm, PBS, LSF), with MASTER_ADDR set to its first host")
    return tuple(lines)


RUNNER = Runner("mpi", "Write an mpirun script to stdout, notes to stderr.", MpiOptions, render, notes)
