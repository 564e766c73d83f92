"""Bases: Debian bootstrapped from packages (no registry needed), or a registry image by digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .recipe import Base

LAYOUT = 1  # raise when bootstrap() makes other files of the same packages: cached bases are named by it


def reference(base: Base, lock: Mapping[str, Any] | None = None) -> str:
    """What FROM says: name@digest, or the local name of a bootstrapped base, which hashes all that decides its content."""
    if base.kind == "registry":
        return f"{base.image}@{base.digest}"
    content = {**asdict(base), "title": "", "layout": LAYOUT, "packages_locked": (lock or {}).get("base_packages")}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return f"epbox-base:{base.suite}-{key}"
