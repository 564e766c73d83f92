"""Checks of a host and container before a run: one check a function, grouped by file."""

from typing import Any


def __getattr__(name: str) -> Any:
    """run_checks and friends, imported on first use: `plan` must not pay for them."""
    if name in ("run_checks", "workload_of"):
        from entrypoints.preflight import run

        return getattr(run, name)
    raise AttributeError(name)
