"""An sbatch script for two or more nodes: options -> checked context -> shell text. Pure but for reading the template."""

import re
import shlex
from dataclasses import dataclass
from typing import Any

from entrypoints.errors import UsageError
from images.build import reference
from images.run.schedulers import jobs

RUNTIMES = ("pyxis", "apptainer", "podman-hpc", "none")
#: How an image file of each runtime ends; podman-hpc has a store instead.
IMAGE_FILES = {"pyxis": (".sqsh", ".squashfs"), "apptainer": (".sif",)}
#: sbatch(1), --time.
TIME = re.compile(r"(?:(?P<days>\d+)-(?P<dh>\d{1,2})(?::(?P<dm>\d{1,2})(?::(?P<ds>\d{1,2}))?)?|(?P<parts>\d+(?::\d{1,2}){0,2}))")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:+=/()*&|\[\]-]*")
PATH = re.compile(r"[^\s,:'\"\\$`#]+")
EXTRA = re.compile(r"--(?P<name>[a-z][a-z-]*)(?:=(?P<value>[^\s\"'\\$`#]+))?")
#: sbatch options that the template writes: two of a kind would contradict each other.
WRITTEN = (
    *("nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "gres", "time", "job-name", "partition", "account"),
    *("exclusive", "mem", "propagate", "signal", "output", "error", "array"),
)


@dataclass(frozen=True)
class SlurmOptions:
    """What a user chooses. `gres` replaces --gpus-per-node where a site counts GPUs so; `program` is for runtime none alone."""

    nodes: int = 2
    image: str = ""
    runtime: str = "pyxis"
    gpus_per_node: int = 8
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    time: str = "00:30:00"
    job_name: str = "epbox"
    extra: tuple[str, ...] = ()
    exclusive: bool = True
    signal_seconds: int = 60
    workload: str = "auto"
    arguments: tuple[str, ...] = ()
    out: str = "results"
    image_dir: str | None = None
    mounts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("/dev/infiniband",)
    program: str = "epbox"
    master_port: int = 8361
    gate: bool = True
    allow_tag: bool = False


def seconds(time: str) -> int:
    """Seconds of a time as Slurm reads it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S. Raises UsageError."""
    match = TIME.fullmatch(time)
    if match is None:
        hint = "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS"
        raise UsageError(f"{time!r} is no time that Slurm reads", where="--time", hint=hint)
    if match["days"]:
        days, hours, minutes, rest = (int(match[name] or 0) for name in ("days", "dh", "dm", "ds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + rest
    parts = [int(part) for part in match["parts"].split(":")]
    hours, minutes, rest = {1: (0, parts[0], 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return (hours * 60 + minutes) * 60 + rest


def is_file(image: str) -> bool:
    """An image file rather than a reference: a path, or a name with an image file's ending."""
    return image.startswith(("/", "./", "../")) or image.endswith(tuple(end for ends in IMAGE_FILES.values() for end in ends))


def check(options: SlurmOptions) -> None:
    """Refuse what Slurm or a node would refuse later, or worse, accept. Raises UsageError."""
    jobs.check(options.nodes, options.workload, options.gpus_per_node, options.arguments, options.master_port)
    if options.runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {options.runtime!r}", where="--runtime", hint="one of " + ", ".join(RUNTIMES))
    if not NAME.fullmatch(options.job_name):
        raise UsageError(f"{options.job_name!r} is no job name", where="--job-name", hint="letters, digits, . _ -, at most 64")
    for where, value in (("--partition", options.partition), ("--account", options.account), ("--gres", options.gres)):
        if value is not None and not WORD.fullmatch(value):
            raise UsageError(f"{value!r} holds signs that Slurm's names do not", where=where)
    limit = seconds(options.time)
    if options.signal_seconds < 1 or options.signal_seconds > 65535:
        raise UsageError(f"{options.signal_seconds} s", where="--signal-seconds", hint="1 to 65535 (sbatch --signal)")
    if limit <= options.signal_seconds:
        hint = f"more than the {options.signal_seconds} s at whose end TERM comes, so that a run can leave its record"
        raise UsageError(f"{options.time} leaves no time to run", where="--time", hint=hint)
    for word in options.extra:
        match = EXTRA.fullmatch(word)
        if match is None:
            raise UsageError(f"{word!r} is no option of sbatch", where="--sbatch", hint="--NAME or --NAME=VALUE")
        if match["name"] in WRITTEN:
            raise UsageError(
                f"--{match['name']} is written by this task", where="--sbatch", hint="give it as an option of the task instead"
            )
    for where, paths in (("--out", (options.out,)), ("--image-dir", (options.image_dir or ".",)), ("--devices", options.devices)):
        for path in paths:
            if not PATH.fullmatch(path):
                raise UsageError(f"{path!r} is no path that a mount can name", where=where, hint="no white space, quotes, commas or colons")
    for mount in options.mounts:
        parts = mount.split(":")
        if not 1 <= len(parts) <= 3 or not all(PATH.fullmatch(part) for part in parts) or not all(p.startswith("/") for p in parts[:2]):
            raise UsageError(f"{mount!r} is no mount", where="--mounts", hint="/SOURCE, /SOURCE:/TARGET or /SOURCE:/TARGET:ro")
    if options.mounts and options.runtime == "none":
        raise UsageError("runtime none has no container to mount into", where="--mounts", hint="drop it")
    _check_image(options)


def _check_image(options: SlurmOptions) -> None:
    if options.runtime == "none":
        if options.image:
            hint = "drop --image, or choose pyxis, apptainer or podman-hpc"
            raise UsageError("runtime none runs a program of the nodes, no image", where="--image", hint=hint)
        jobs.single_line("--program", options.program)
        if not _program(options):
            raise UsageError("no program", where="--program", hint="for example epbox, or 'python3 -m entrypoints'")
        return
    if options.program != "epbox":
        raise UsageError("the program is the image's", where="--program", hint="--runtime none runs a program of the nodes")
    if not is_file(options.image):
        reference.parse(options.image, options.allow_tag)
        return
    endings = IMAGE_FILES.get(options.runtime)
    if endings is None or not options.image.endswith(endings):
        needs = f"a file that ends in {' or '.join(endings)}" if endings else "a reference: it runs images of its own store"
        raise UsageError(f"{options.image!r} is no image of {options.runtime}", where="--image", hint=f"{options.runtime} takes {needs}")
    if not PATH.fullmatch(options.image):
        raise UsageError(f"{options.image!r}: no white space, quotes, commas or colons", where="--image")


def _program(options: SlurmOptions) -> list[str]:
    try:
        return shlex.split(options.program)
    except ValueError as error:
        raise UsageError(str(error), where="--program", hint="quote it as a shell would") from None


def context(options: SlurmOptions) -> dict[str, Any]:
    """What the template sees. Raises UsageError."""
    check(options)
    image = None if options.runtime == "none" or is_file(options.image) else reference.parse(options.image, options.allow_tag)
    # Words after -- are the test's; everything that bench itself reads stands before them.
    return {
        "o": options,
        "reference": image,
        # A tag may move: only what a digest names may be kept as a file and used again.
        "staged": image is not None and image.digest is not None and options.runtime in IMAGE_FILES,
        "ending": IMAGE_FILES.get(options.runtime, ("",))[0],
        "gpus": None if options.gres or not options.gpus_per_node else options.gpus_per_node,
        "devices": options.devices if options.gpus_per_node or options.gres else (),
        "mounts": tuple(mount if ":" in mount else f"{mount}:{mount}" for mount in options.mounts),
        "program": _program(options),
        "doctor": ["doctor", "--for", options.workload, "--nodes", str(options.nodes), "--format", "json"],
        "bench": ["bench", "--workload", options.workload],
    }


def render(options: SlurmOptions) -> str:
    """The sbatch script. Raises UsageError."""
    return jobs.shell_environment("slurm").get_template("bench.sbatch.j2").render(context(options))


def notes(options: SlurmOptions) -> tuple[str, ...]:
    """What a person should know before `sbatch`, one line each."""
    lines = [f"{options.out} must be a folder that all nodes share; master and node ranks come from Slurm, no variable is needed"]
    if options.runtime == "pyxis" and not is_file(options.image):
        text = reference.parse(options.image, options.allow_tag)
        if text.digest:
            where = f"{options.image_dir or '.'}/{text.short}.sqsh"
            lines.append(f"where compute nodes reach no registry, import first: enroot import --output {where} 'docker://{text.enroot()}'")
    if options.runtime == "podman-hpc":
        lines.append("podman-hpc pulls in the job; where compute nodes reach no registry, `podman-hpc pull` on a login node first")
    if not options.exclusive:
        lines.append("without --exclusive other jobs may use the cores and rails that EPBox plans with, and port 8361")
    return tuple(lines)
