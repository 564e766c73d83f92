"""What bench can run: `get(name)` gives the workload, `names()` lists them."""

from entrypoints.errors import UsageError
from entrypoints.workloads.model import Prepared, Request, Workload

__all__ = ["Prepared", "Request", "Workload", "get", "names"]


def _all() -> dict[str, Workload]:
    from entrypoints.workloads import deepep
    from entrypoints.workloads.alltoall import AllToAll

    found: list[Workload] = [AllToAll(), *deepep.WORKLOADS]
    return {workload.name: workload for workload in found}


def names() -> tuple[str, ...]:
    return tuple(_all())


def get(name: str) -> Workload:
    """The workload of that name. Raises UsageError with the names there are."""
    known = _all()
    if name not in known:
        raise UsageError(f"no workload {name!r}", where="--workload", hint=f"one of auto, {', '.join(known)}")
    return known[name]
