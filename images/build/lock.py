"""Locks: what a recipe resolved to, as data in images/locks/RECIPE/lock.json. Rendering reads them; only `lock` writes them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entrypoints import ROOT
from entrypoints.errors import EngineError, UsageError

from . import sources
from .recipe import Recipe, shown

LOCKS = ROOT / "images" / "locks"
SCHEMA = "epbox.lock/1"


def load(recipe: Recipe, folder: Path = LOCKS) -> Mapping[str, Any] | None:
    """The recipe's lock, or None when it was never locked."""
    path = folder / recipe.name / "lock.json"
    if not path.exists():
        return None
    try:
        document: Mapping[str, Any] = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}, this program reads {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"is no lock: {error}", where=shown(path), hint=f"make it again: ./inv lock --recipe {recipe.name}") from None
    return document


def text(lock: Mapping[str, Any]) -> str:
    """The lock's one spelling: what is in the repository, in the image, and what is hashed."""
    return json.dumps(lock, indent=1, sort_keys=True) + "\n"


def digest(lock: Mapping[str, Any] | None) -> str:
    """The lock's sha256; "none" for an image that is built from what the mirrors have that day."""
    return "sha256:" + hashlib.sha256(text(lock).encode()).hexdigest() if lock else "none"


def asked(recipe: Recipe) -> dict[str, list[str]]:
    """Stage to the Debian packages that the recipe names for it, sorted; stages without any are left out."""
    torch = ("python3-torch",) if recipe.torch and recipe.torch.source == "debian" else ()
    stages = {"runtime": sorted((*recipe.packages.runtime, *torch)), "build": sorted(recipe.packages.build)}
    return {stage: packages for stage, packages in stages.items() if packages}


def stage_of(lock: Mapping[str, Any] | None, packages: list[str]) -> str | None:
    """The stage whose locked packages these are; None without a lock."""
    stages: Mapping[str, list[str]] = (lock or {}).get("asked", {})
    return next((stage for stage, names in stages.items() if names == sorted(packages)), None)


def pins(lock: Mapping[str, Any] | None, dropped: frozenset[str] = frozenset()) -> dict[str, str]:
    """Stage to the text that apt-install-locked.sh reads: NAME VERSION ARCH SHA256; `dropped` names take any version."""
    found = {}
    for stage, packages in (lock or {}).get("packages", {}).items():
        rows = ((name, "* * *" if name in dropped else f"{p['version']} {p['arch']} {p['sha256']}") for name, p in sorted(packages.items()))
        found[stage] = "".join(f"{name} {rest}\n" for name, rest in rows)
    return found


def check(recipe: Recipe, lock: Mapping[str, Any] | None, folder: Path = LOCKS) -> None:
    """Refuse a lock that is not this recipe's: UsageError when the recipe went on, EngineError (exit 10) when a hash or commit differs."""
    if lock is None:
        return
    again = f"make it again: ./inv lock --recipe {recipe.name}"
    where = shown(folder / recipe.name / "lock.json")
    if lock.get("recipe") != recipe.name or lock.get("asked") != asked(recipe):
        raise UsageError(f"locks other packages than recipe {recipe.name} names", where=where, hint=again)
    for part, commit in sources.commits(recipe).items():
        locked = lock.get("git", {}).get(part, {}).get("commit")
        if locked != commit:
            raise EngineError(f"locks commit {locked} of {part}, the recipe pins {commit}", where=where, hint=again)
    files = wheel_files(recipe, folder)
    if files != lock.get("wheels", {}):
        names = {name for name in {**files, **lock["wheels"]} if files.get(name) != lock["wheels"].get(name)}
        raise EngineError(f"wheel list {', '.join(sorted(names))} is not the one that was locked", where=where, hint=again)


def wheel_files(recipe: Recipe, folder: Path = LOCKS) -> dict[str, str]:
    """Hash-locked requirement file to its sha256."""
    return {path.name: "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / recipe.name).glob("*.txt"))}
