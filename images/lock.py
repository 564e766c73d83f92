"""Locks: what a recipe resolved to, as data in images/locks/RECIPE/lock.json. Rendering reads them; only `lock` writes them."""

import hashlib
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


def text(lock: Mapping[str, Any]) -> str:
    """The lock's one spelling: what is in the repository, in the image, and what is hashed."""
    return json.dumps(lock, indent=1, sort_keys=True) + "\n"


def digest(lock: Mapping[str, Any] | None) -> str:
    """The lock's sha256; "none" for an image that is built from what the mirrors have that day."""
    return "sha256:" + hashlib.sha256(text(lock).encode()).hexdigest() if lock else "none"
