"""Recipes: what an image shall contain, as data. TOML in images/recipes/, frozen dataclasses here, no defaults in templates.

A recipe may say `extends = "other"`; its tables are then laid over the other recipe's, key by key (a list replaces a list).
common.toml is what the recipes of this repository extend; it is none itself.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from entrypoints import ROOT
from entrypoints.errors import UsageError
from entrypoints.facts import pairs
from entrypoints.toml import load_toml

from .schema import Text, load

RECIPES = ROOT / "images" / "recipes"
#: Files beside the recipes that are none.
BASES, COMMON = "bases", "common"

Word = Annotated[str, Text(r"[a-z0-9][a-z0-9._-]*", "lower-case letters, digits, dots and dashes")]
Version = Annotated[str, Text(r"[0-9]+(\.[0-9A-Za-z]+)*([+~-][0-9A-Za-z.+~-]+)?", "a version such as 2.11.0")]
Commit = Annotated[str, Text(r"[0-9a-f]{40}", "a full commit id, 40 hexadecimal digits")]
Digest = Annotated[str, Text(r"sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits")]
Url = Annotated[str, Text(r"https://\S+", "an https URL")]
Package = Annotated[str, Text(r"[a-z0-9][a-z0-9+.-]+", "a Debian package name")]
Arch = Annotated[str, Text(r"[0-9]+\.[0-9]a?", "a compute capability such as 9.0")]
Image = Annotated[str, Text(r"[a-z0-9][a-z0-9.:/_-]*", "an image reference: host, name and tag")]


@dataclass(frozen=True)
class Base:
    """Where an image starts: Debian packages bootstrapped here, or a registry image pinned by digest."""

    kind: Literal["debian", "registry"]
    title: str
    suite: Word | None = None
    packages: tuple[Package, ...] = ()
    epoch: int = 0  # seconds since 1970; no file of a bootstrapped base is younger
    image: Image | None = None
    digest: Digest | None = None
    name: str = ""  # its table in bases.toml


@dataclass(frozen=True)
class Python:
    """The interpreter, Debian's or the registry base's own; wheels are resolved for `version`."""

    version: Annotated[str, Text(r"3\.[0-9]+", "3.N")]
    source: Literal["debian", "base"] = "debian"


@dataclass(frozen=True)
class Packages:
    """Debian packages by stage: `runtime` stays in the image, `build` only in the stages that compile."""

    runtime: tuple[Package, ...] = ()
    build: tuple[Package, ...] = ()


@dataclass(frozen=True)
class Cuda:
    """CUDA toolkit, from wheels by hash or what a registry base brings; `archs` are compute capabilities (9.0 = Hopper)."""

    version: Annotated[str, Text(r"[0-9]+\.[0-9]+", "MAJOR.MINOR such as 13.0")]
    archs: tuple[Arch, ...]
    source: Literal["wheel", "base"] = "wheel"
    runtime_compiler: bool = False  # nvcc and headers stay in the image, for a JIT


@dataclass(frozen=True)
class Torch:
    """PyTorch: Debian's (CPU, gloo) or a wheel by hash."""

    source: Literal["debian", "wheel"]
    version: Version | None = None
    keep: tuple[Literal["triton", "headers"], ...] = ()  # parts that the image would do without: torch.compile's, a compiler's


@dataclass(frozen=True)
class Nccl:
    """NCCL as a wheel by hash."""

    version: Version
    source: Literal["wheel"] = "wheel"


@dataclass(frozen=True)
class Nvshmem:
    """NVSHMEM: built from source at a commit (IBGDA on), or the wheel by hash."""

    source: Literal["source", "wheel"]
    version: Version
    url: Url | None = None
    commit: Commit | None = None
    ibgda: bool = True
    transports: tuple[Literal["ibrc", "mpi", "ucx", "libfabric"], ...] = ()


@dataclass(frozen=True)
class DeepEP:
    """DeepEP at a full commit; `generation` picks its build and tests (v1: NVSHMEM; v2: NCCL GIN and JIT)."""

    generation: Literal["v1", "v2"]
    url: Url
    commit: Commit
    tag: Word | None = None
    fmt_url: Url | None = None  # V2's submodule, at the commit that its tree names
    fmt_commit: Commit | None = None


@dataclass(frozen=True)
class Build:
    """How to compile: parallel jobs (0 = as many as cores and memory allow), and the budget for the image in MB (0 = none)."""

    max_jobs: int = 0
    size_mb: int = 0


@dataclass(frozen=True)
class Recipe:
    """One image. A section that is None is no part of it."""

    title: str
    description: str
    template: Word  # templates/dockerfile/TEMPLATE.Dockerfile.j2
    base: Base
    workload: Word  # what `epbox bench` runs when not told otherwise
    python: Python
    packages: Packages = field(default_factory=Packages)
    cuda: Cuda | None = None
    torch: Torch | None = None
    nccl: Nccl | None = None
    nvshmem: Nvshmem | None = None
    deepep: DeepEP | None = None
    build: Build = field(default_factory=Build)
    name: str = ""  # its file


def names(folder: Path = RECIPES) -> tuple[str, ...]:
    """The recipes that exist, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml") if path.stem not in (BASES, COMMON)))


def load_recipe(name: str, folder: Path = RECIPES) -> Recipe:
    """Read and check one recipe by name; every mistake is a UsageError (exit 2)."""
    if name not in names(folder):
        raise UsageError(f"no recipe {name!r}", where=shown(folder), hint=f"allowed: {', '.join(names(folder))}")
    path = folder / f"{name}.toml"
    table = dict(_inherited(path, folder, ()))
    bases = load_bases(folder)
    if table.get("base") not in tuple(bases):  # a tuple: what TOML gives may have no hash
        hint = f"allowed: {', '.join(bases)} (bases.toml)"
        raise UsageError(f"base = {table.get('base')!r} is not allowed", where=shown(path), hint=hint)
    table["base"] = bases[table["base"]]
    recipe = dataclasses.replace(load(Recipe, table, shown(path)), name=name)
    _check_keys(recipe, shown(path))
    check_versions(recipe, shown(path))
    return recipe


def load_bases(folder: Path = RECIPES) -> dict[str, Base]:
    """All bases of bases.toml, each checked: a Debian one names its suite, a registry one its image and digest."""
    path = folder / f"{BASES}.toml"
    bases: dict[str, Base] = {}
    for name, table in load_toml(path).items():
        base = dataclasses.replace(load(Base, table, shown(path), f"{name}."), name=name)
        for key in ("suite", "epoch") if base.kind == "debian" else ("image", "digest"):
            if not getattr(base, key):
                raise UsageError(f"key {name}.{key} is missing", where=shown(path), hint=f"a {base.kind} base needs it")
        bases[name] = base
    return bases


def shown(path: Path) -> str:
    """The path as a user would type it: relative to the current folder where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _inherited(path: Path, folder: Path, seen: tuple[str, ...]) -> Mapping[str, Any]:
    table = load_toml(path)
    if "name" in table:
        raise UsageError("unknown key name", where=shown(path), hint="a recipe is named by its file")
    parent = table.pop("extends", None)
    if parent is None:
        return table
    seen = (*seen, path.stem)
    others = sorted({other.stem for other in folder.glob("*.toml")} - {BASES, *seen})
    if parent not in others:
        reason = "goes in a circle" if parent in seen else "is not allowed"
        raise UsageError(f"extends = {parent!r} {reason}", where=shown(path), hint=f"allowed: {', '.join(others)}")
    return _overlay(_inherited(folder / f"{parent}.toml", folder, seen), table)


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def versions(recipe: Recipe) -> dict[str, str | bool]:
    """What a recipe settles, under the names that facts/pairs.toml has for it too: "nvshmem.version", "deepep.commit", ..."""
    tables = {name: table for name, table in dataclasses.asdict(recipe).items() if isinstance(table, dict)}
    return {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items() if isinstance(value, str | bool)}


def check_versions(recipe: Recipe, where: str) -> None:
    """UsageError with reason, remedy and source for the first pair of versions in the recipe that do not go together."""
    settled = versions(recipe)
    for pair in pairs.matching(settled):
        keys = ", ".join(f"{key} = {str(settled[key])[: 12 if key == 'deepep.commit' else None]}" for key in pair.when)
        raise UsageError(f"{keys}: {pair.reason}", where=where, hint=f"{pair.remedy} (source: {pair.source})")


def _check_keys(recipe: Recipe, where: str) -> None:
    """UsageError for a key without the one that it needs."""
    if recipe.torch and recipe.torch.source == "wheel" and recipe.torch.version is None:
        raise UsageError("key torch.version is missing", where=where, hint="a wheel is pinned by version and hash")
    nvshmem = recipe.nvshmem
    if nvshmem and nvshmem.source == "source" and not (nvshmem.commit and nvshmem.url):
        raise UsageError("key nvshmem.commit or nvshmem.url is missing", where=where, hint="a source build is pinned by its commit")
    if recipe.cuda and recipe.cuda.source == "base" and recipe.base.kind != "registry":
        raise UsageError("cuda.source = 'base' is not allowed", where=where, hint="allowed: wheel; only a registry base brings CUDA")
