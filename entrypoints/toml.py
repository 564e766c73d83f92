"""TOML from a file, with errors a user can act on; tomllib is in Python since 3.11, tomli is its backport."""

import sys
from pathlib import Path
from typing import Any

from entrypoints.errors import UsageError


def load_toml(path: Path) -> dict[str, Any]:
    """The document of a TOML file. Raises UsageError naming the file when it cannot be read or parsed."""
    # Here, because it takes datetime along: a launch on a host without HCAs reads no TOML (tests/benchmarks/bench_launch.py).
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"invalid TOML: {error}", where=str(path)) from error
