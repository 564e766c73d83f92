"""Locks: what a recipe resolved to, as data in images/locks/RECIPE/lock.json. Rendering reads them; only `./inv lock` writes them."""

import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from entrypoints import ROOT
from entrypoints.errors import EngineError, UsageError

from . import digest as digests
from . import schema, sources
from .debian import Package
from .recipe import Recipe, shown

LOCKS = ROOT / "images" / "locks"
SCHEMA = "epbox.lock/1"


@dataclass(frozen=True)
class LockedBase:
    """The base's table in bases.toml, and the digest of its registry image or of the tarball that was bootstrapped."""

    name: str
    digest: str


@dataclass(frozen=True)
class Commit:
    """A commit that is compiled; `tree` is git's hash of its content, None where the repository did not answer."""

    url: str
    commit: str
    tree: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One lock.json, key by key. A registry base pins its packages by its own digest, so its lock has none."""

    schema: str = SCHEMA
    recipe: str
    base: LockedBase
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # stage to the Debian packages that the recipe names
    base_packages: Mapping[str, Package] = field(default_factory=dict)
    packages: Mapping[str, Mapping[str, Package]] = field(default_factory=dict)  # stage to all that installing these brings
    wheels: Mapping[str, str] = field(default_factory=dict)  # requirement file to its digest
    git: Mapping[str, Commit] = field(default_factory=dict)
    archive: Mapping[str, str] = field(default_factory=dict)  # suite to the Date of its Release file
    tools: Mapping[str, str] = field(default_factory=dict)  # versions of what resolved this

    def runtime_packages(self) -> Mapping[str, Package]:
        """Debian packages of the last stage: the base's and those that are installed over it."""
        return {**self.base_packages, **self.packages.get("runtime", {})}


def load(recipe: Recipe, folder: Path = LOCKS) -> Lock | None:
    """Read the recipe's lock; None when it was never locked. Raises UsageError for a file that is not a lock."""
    path = folder / recipe.name / "lock.json"
    if not path.exists():
        return None
    hint = f"make it again: ./inv lock --recipe {recipe.name}"
    try:
        lock = schema.load(Lock, json.loads(path.read_text()), shown(path))
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(f"not a lock: {getattr(error, 'what', error)}", where=shown(path), hint=hint) from None
    if lock.schema != SCHEMA:
        raise UsageError(f"not a lock: schema {lock.schema!r}, this program reads {SCHEMA}", where=shown(path), hint=hint)
    return lock


def text(lock: Lock) -> str:
    """Return the lock's one spelling: what is in the repository, in the image, and what is hashed."""
    document = asdict(lock)
    if not lock.archive:
        del document["archive"]
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def digest(lock: Lock | None) -> str:
    """The lock's digest; "none" for an image that is built from what the mirrors have that day."""
    return digests.of(text(lock)) if lock else "none"


def requested_packages(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Stage to the Debian packages that the recipe names for it, sorted; stages without any are left out."""
    torch = ("python3-torch",) if recipe.torch and recipe.torch.source == "debian" else ()
    stages = {"runtime": (*recipe.packages.runtime, *torch), "build": recipe.packages.build}
    return {stage: tuple(sorted(packages)) for stage, packages in stages.items() if packages}


def pins(lock: Lock | None, dropped: frozenset[str] = frozenset()) -> dict[str, str]:
    """Stage to the text that apt-install.sh reads: NAME VERSION ARCH SHA256; `dropped` names take any version."""
    texts = {}
    for stage, packages in (lock.packages if lock else {}).items():
        rows = ((name, "* * *" if name in dropped else f"{p.version} {p.arch} {p.sha256}") for name, p in sorted(packages.items()))
        texts[stage] = "".join(f"{name} {rest}\n" for name, rest in rows)
    return texts


def check(recipe: Recipe, lock: Lock | None, folder: Path = LOCKS) -> None:
    """Refuse a lock that is not this recipe's: UsageError when the recipe went on, EngineError (exit 10) when a hash or commit differs."""
    if lock is None:
        return
    hint = f"make it again: ./inv lock --recipe {recipe.name}"
    path = shown(folder / recipe.name / "lock.json")
    if lock.recipe != recipe.name or lock.asked != requested_packages(recipe):
        raise UsageError(f"locks other packages than recipe {recipe.name} names", where=path, hint=hint)
    for name, part in sources.pinned(recipe).items():
        locked = lock.git[name].commit if name in lock.git else None
        if locked != part.commit:
            raise EngineError(f"locks commit {locked} of {name}, the recipe pins {part.commit}", where=path, hint=hint)
    lists = wheel_lists(recipe, folder)
    if lists != lock.wheels:
        names = sorted(name for name in {*lists, *lock.wheels} if lists.get(name) != lock.wheels.get(name))
        raise EngineError(f"wheel list {', '.join(names)} is not the one that was locked", where=path, hint=hint)


def check_tree(name: str, tar: Path, lock: Lock | None) -> None:
    """Compare a part's source with the tree hash in the lock; EngineError (exit 10) names both, and the file goes."""
    locked = lock.git.get(name) if lock else None
    if not lock or not locked or not locked.tree:
        return
    try:
        tree = sources.tree_of(tar, [lock.git["fmt"].commit] if name == "deepep" and "fmt" in lock.git else [])
    except tarfile.TarError as error:
        tree = f"none ({error})"
    if tree != locked.tree:
        tar.unlink(missing_ok=True)
        hint = "give a repository, or git archive of that commit; attributes such as export-subst must not change what it holds"
        problem = f"{name} {locked.commit[:12]} has tree {tree}, the lock says {locked.tree}"
        raise EngineError(problem, where=f"--source {name}", hint=hint)


def wheel_lists(recipe: Recipe, folder: Path = LOCKS) -> dict[str, str]:
    """Hash-locked requirement file to its digest."""
    return {path.name: digests.of_file(path) for path in sorted((folder / recipe.name).glob("*.txt"))}
