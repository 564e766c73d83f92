"""An sbatch script for two or more nodes: options -> checked context -> shell text. Pure but for reading the template."""

import re
import shlex
from dataclasses import dataclass
from itertools import chain

from entrypoints.errors import UsageError
from entrypoints.facts import container
from entrypoints.facts.ports import MASTER_PORT
from images import templates
from images.build import reference
from images.options import JobOptions, Runner, comma_separated, option
from images.run import jobs

RUNTIMES = ("pyxis", "apptainer", "podman-hpc", "none")
#: How an image file of each runtime ends; podman-hpc has a store instead.
IMAGE_FILES = {"pyxis": (".sqsh", ".squashfs"), "apptainer": (".sif",)}
#: sbatch(1), --time.
TIME = re.compile(r"(\d+-\d{1,2}|\d+)(:\d{1,2}){0,2}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:+=/()*&|\[\]-]*")
EXTRA = re.compile(r"--(?P<name>[a-z][a-z-]*)(?:=(?P<value>[^\s\"'\\$`#]+))?")
#: sbatch options that the template writes: two of a kind would contradict each other.
WRITTEN = (
    *("nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "gres", "time", "job-name", "partition", "account"),
    *("exclusive", "mem", "propagate", "signal", "output", "error", "array"),
)


def _devices(text: str) -> tuple[str, ...]:
    return () if text == "none" else comma_separated(text)


@dataclass(frozen=True)
class SlurmOptions(JobOptions):
    """Options of slurm.render. `gres` replaces --gpus-per-node where a site counts GPUs so; `program` is for runtime none alone."""

    image: str = option("", "REPOSITORY@sha256:DIGEST, or an image file (.sqsh, .sif)")
    runtime: str = option("pyxis", "pyxis, apptainer, podman-hpc, or none: a program of the nodes")
    gpus_per_node: int = option(8, "GPUs a node, 0 for none")
    gres: str | None = option(None, "in place of --gpus-per-node, such as gpu:h100:8")
    partition: str | None = option(None, "Slurm partition")
    account: str | None = option(None, "Slurm account")
    time: str = option("00:30:00", "limit, as sbatch takes it")
    job_name: str = option("epbox", "name of the job")
    extra: tuple[str, ...] = option((), "more sbatch options, in quotes: '--qos=high --reservation=x'", parse=str.split, name="sbatch")
    exclusive: bool = option(True, "whole nodes (default); --no-exclusive shares them")
    signal_seconds: int = option(60, "TERM comes this long before the limit")
    out: str = option("results", "folder for results that all nodes share; the job's is below it")
    image_dir: str | None = option(None, "shared folder for the imported image (default: where sbatch is called)")
    mounts: tuple[str, ...] = option((), "more mounts, comma-separated: /SOURCE[:/TARGET[:ro]]", parse=comma_separated)
    devices: tuple[str, ...] | None = option(None, "device folders the container gets, comma-separated, or none", parse=_devices)
    program: str = option("epbox", "with --runtime none: the command (default epbox)")
    gate: bool = option(True, "doctor on every node first (default); --no-gate leaves it out")

    @property
    def has_gpus(self) -> bool:
        """True where Slurm gives GPUs, by number or by --gres."""
        return bool(self.gpus_per_node or self.gres)

    @property
    def needs(self) -> tuple[container.Need, ...]:
        """Rights, devices and so on of a node's container."""
        return container.needed(gpus=self.has_gpus, rdma=self.has_gpus, several_nodes=self.nodes > 1)

    @property
    def mounted_devices(self) -> tuple[str, ...]:
        """The devices that a container gets as mounts, for Slurm's runtimes give none themselves."""
        if not self.has_gpus:
            return ()
        return tuple(container.values(self.needs, "device")) if self.devices is None else self.devices

    @property
    def file(self) -> bool:
        """True for an image file rather than a reference: a path, or a name with an image file's ending."""
        return self.image.startswith(("/", "./", "../")) or self.image.endswith(tuple(chain(*IMAGE_FILES.values())))


def seconds(time: str) -> int:
    """Seconds of a time as Slurm reads it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S. Raises UsageError."""
    if TIME.fullmatch(time) is None:
        hint = "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
        raise UsageError(f"{time!r} is not a time that Slurm reads", where="--time", hint=hint)
    days, _, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not days and len(parts) < 3:
        parts.insert(0, 0)  # no hours
    hours, minutes, rest = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def check(options: SlurmOptions) -> None:
    """Refuse what Slurm or a node would refuse later, or worse, accept. Raises UsageError."""
    jobs.check(options, options.gpus_per_node)
    jobs.check_choice(options.runtime, RUNTIMES, "--runtime")
    if not NAME.fullmatch(options.job_name):
        raise UsageError(f"{options.job_name!r} is not a job name", where="--job-name", hint="letters, digits, . _ -, at most 64")
    for where, value in (("--partition", options.partition), ("--account", options.account), ("--gres", options.gres)):
        if value is not None and not WORD.fullmatch(value):
            raise UsageError(f"{value!r} holds signs that Slurm's names do not", where=where)
    if not 1 <= options.signal_seconds <= 65535:
        raise UsageError(f"{options.signal_seconds} s", where="--signal-seconds", hint="1 to 65535 (sbatch --signal)")
    if seconds(options.time) <= options.signal_seconds:
        hint = f"more than the {options.signal_seconds} s at whose end TERM comes, so that a run can leave its record"
        raise UsageError(f"{options.time} leaves no time to run", where="--time", hint=hint)
    for word in options.extra:
        match = EXTRA.fullmatch(word)
        if match is None:
            raise UsageError(f"{word!r} is not an option of sbatch", where="--sbatch", hint="--NAME or --NAME=VALUE")
        if match["name"] in WRITTEN:
            hint = "give it as an option of the task instead"
            raise UsageError(f"--{match['name']} is written by this task", where="--sbatch", hint=hint)
    for where, paths in (("--out", (options.out,)), ("--image-dir", (options.image_dir or ".",)), ("--devices", options.devices or ())):
        for path in paths:
            jobs.check_path(path, where)
    for mount in options.mounts:
        parts = mount.split(":")
        if not 1 <= len(parts) <= 3 or not all(map(jobs.PATH.fullmatch, parts)) or not all(part.startswith("/") for part in parts[:2]):
            raise UsageError(f"{mount!r} is not a mount", where="--mounts", hint="/SOURCE, /SOURCE:/TARGET or /SOURCE:/TARGET:ro")
    if options.runtime == "none":
        if options.mounts:
            raise UsageError("runtime none has no container to mount into", where="--mounts", hint="drop it")
        jobs.program_words(options.program, options.image, "pyxis, apptainer or podman-hpc")
    elif options.program != "epbox":
        raise UsageError("the program is the image's", where="--program", hint="--runtime none runs a program of the nodes")
    elif options.file:
        endings = IMAGE_FILES.get(options.runtime, ())
        if not options.image.endswith(endings):
            accepts = f"a file that ends in {' or '.join(endings)}" if endings else "a reference: it runs images of its own store"
            hint = f"{options.runtime} takes {accepts}"
            raise UsageError(f"{options.image!r} is not an image of {options.runtime}", where="--image", hint=hint)
        jobs.check_path(options.image, "--image")


def render(options: SlurmOptions) -> str:
    """The sbatch script. Raises UsageError."""
    check(options)
    image = None if options.runtime == "none" or options.file else reference.parse(options.image, options.allow_tag)
    # Words after -- are the test's; everything that bench itself reads stands before them.
    return templates.render(
        "slurm/bench.sbatch.j2",
        o=options,
        reference=image,
        # A tag may move: only what a digest names may be kept as a file and used again.
        staged=image is not None and image.digest is not None and options.runtime in IMAGE_FILES,
        ending=IMAGE_FILES.get(options.runtime, ("",))[0],
        mounts=tuple(mount if ":" in mount else f"{mount}:{mount}" for mount in options.mounts),
        podman=container.podman(options.needs),
        default_port=MASTER_PORT,
        program=shlex.split(options.program),
        doctor=["doctor", "--for", options.workload, "--nodes", str(options.nodes), "--format", "json"],
        bench=["bench", "--workload", options.workload],
    )


def notes(options: SlurmOptions) -> tuple[str, ...]:
    """Lines that a person should read before `sbatch`."""
    lines = [f"{options.out} must be a folder that all nodes share; master and node ranks come from Slurm, no variable is needed"]
    if options.runtime == "pyxis" and not options.file:
        image = reference.parse(options.image, options.allow_tag)
        if image.digest:
            path = f"{options.image_dir or '.'}/{image.short}.sqsh"
            lines.append(f"where compute nodes reach no registry, import first: enroot import --output {path} 'docker://{image.enroot()}'")
    if options.runtime == "podman-hpc":
        lines.append("podman-hpc pulls in the job; where compute nodes reach no registry, `podman-hpc pull` on a login node first")
    if not options.exclusive:
        lines.append(f"without --exclusive other jobs may use the cores and rails that EPBox plans with, and port {options.master_port}")
    return tuple(lines)


RUNNER = Runner("slurm", "Write an sbatch script to stdout, notes to stderr.", SlurmOptions, render, notes)
