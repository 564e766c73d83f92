"""Options of builds and runs, each declared once: a field is an option of a task, with its default, help and type. Light to import."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from entrypoints.facts.ports import MASTER_PORT

Options = TypeVar("Options")
RECIPE = "recipe of images/recipes/ (default: deepep-v1 where that exists, else cpu)"


def option(default: object, about: str, *, parse: Callable[[str], object] = str, kind: type | None = None, name: str = "") -> Any:
    """A field that is an option of a task as well: `about` is its help, `parse` makes its value of the word given (a list becomes a tuple).

    `kind` is needed where the default is None ("not given") and the option is a flag or takes a number; `name` where it is not the field's.
    """
    return field(default=default, metadata={"about": about, "parse": parse, "kind": kind, "name": name})


def comma_separated(text: str) -> tuple[str, ...]:
    """The words of a comma list, in their order; empty ones are dropped."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


@dataclass(frozen=True)
class BuildOptions:
    """One build. `recipe` None picks one, `tag` None means epbox:RECIPE; `fresh_base` bootstraps the base again."""

    recipe: str | None = option(None, RECIPE)
    source: Sequence[str] = option((), "NAME=PATH: repository or tarball that holds the pinned commit (repeatable)", kind=list)
    engine: str = option("auto", "auto or docker")
    tag: str | None = option(None, "name of the image (default epbox:RECIPE)")
    push: bool = option(False, "push it to the registry that --tag names, and print name@digest, the digest that verify proves")
    platform: str | None = option(None, "such as linux/arm64")
    oci: str | None = option(None, "also write the image to this file, as OCI layout archive with reproducible bytes")
    no_cache: bool = option(False, "run every step again")
    locked: bool = option(False, "fail when the mirror no longer has what the lock names, instead of a warning and a label")
    fresh_base: bool = False


@dataclass(frozen=True)
class JobOptions:
    """Options of every way to run an image on several nodes. `arguments` go to `epbox bench` as they are."""

    nodes: int = option(2, "how many nodes")
    image: str = option("", "REPOSITORY@sha256:DIGEST")
    workload: str = option("auto", "what bench runs")
    arguments: tuple[str, ...] = option((), "more options for `epbox bench`, in quotes; or after --", name="args")
    master_port: int = option(MASTER_PORT, "port of the rendezvous; the next one is used too")
    allow_tag: bool = option(False, "accept an image without a digest")


@dataclass(frozen=True)
class Runner(Generic[Options]):
    """One way to run an image: `render` gives the text for standard output, `notes` lines for people."""

    name: str
    about: str
    options: type[Options]
    render: Callable[[Options], str]
    notes: Callable[[Options], Sequence[str]]


@dataclass(frozen=True)
class BenchOptions:
    """A bench on this host. `recipe` None picks the one that fits; `arguments` go to `epbox bench` as they are."""

    recipe: str | None = option(None, "default: the one that fits this host")
    engine: str = option("auto", "auto, docker, or host: no image, the same program straight on this host")
    nodes: int = option(2, "containers (or processes) to run as nodes")
    ranks: int | None = option(None, "ranks a node (default: one a GPU, 2 without)", kind=int)
    out: Path | None = option(None, "result folder (default: results/<UTC time>)", parse=Path)  # noqa: RUF009 - a field
    workload: str | None = option(None, "alltoall, deepep-internode, ... (default: auto)")
    runs: int | None = option(None, "repeat every arm this often", kind=int)
    ablate: bool = option(False, "measure what each part of the binding is worth")
    baseline: bool = option(False, "run the all-to-all of the same shape in turns with DeepEP")
    arguments: tuple[str, ...] = option((), "more options for `epbox bench`, in quotes; or after --", name="args")
    port: int = MASTER_PORT
