"""Locks: what a recipe resolved to, as data in images/locks/RECIPE/lock.json. Rendering reads them; only `lock` writes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from entrypoints.errors import UsageError

from .recipe import Recipe, shown

LOCKS = Path(__file__).parent / "locks"


def load(recipe: Recipe, folder: Path = LOCKS) -> Mapping[str, Any] | None:
    """The recipe's lock, or None when it was never locked."""
    path = folder / recipe.name / "lock.json"
    if not path.exists():
        return None
    try:
        document: Mapping[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"is no lock: {error}", where=shown(path), hint=f"make it again: ./inv lock --recipe {recipe.name}") from None
    return document


def digest(lock: Mapping[str, Any] | None) -> str:
    """The lock's own digest; "none" for an image that was built from what the mirrors had that day."""
    return str(lock["digest"]) if lock else "none"
