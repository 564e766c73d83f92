"""Facts of the hosts beside the log: from the result folder that bench writes, or files a person put there."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from entrypoints.errors import UsageError
from entrypoints.results.codec import decode, read_json
from entrypoints.results.model import Check, Result
from entrypoints.results.ranks import JsonObject, Record

T = TypeVar("T")
FILES = ("result.json", "plan.json", "doctor.json", "topology.json", "versions.json")


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """Doctor's checks and the plans of all nodes, and their result; `unreadable` says of files that gave nothing what is wrong."""

    folder: Path | None = None
    checks: tuple[Check, ...] = ()
    plans: tuple[JsonObject, ...] = ()
    result: Result | None = None
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _DoctorFile(Record):
    """doctor.json, as much of it as a diagnosis needs."""

    checks: tuple[Check, ...] = ()


def newest_result(root: Path = Path("results")) -> Path:
    """The newest result folder below `root`. Raises UsageError when there is none."""
    results = sorted(root.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    if not results:
        raise UsageError("no log given, and no result folder below results/", hint="epbox diagnose LOG")
    return results[-1].parent


def beside(logs: Iterable[Path]) -> Path | None:
    """The folder of these logs, or the one above it, that holds result.json, plan.json or doctor.json."""
    folders = (folder for log in logs if str(log) != "-" for folder in (log, log.parent, log.parent.parent))
    return next((folder for folder in folders if any((folder / name).is_file() for name in FILES)), None)


def gather(folder: Path | None, result: Result | None = None) -> HostFacts:
    """The facts in a folder; `result` stands for its result.json where that is not written yet. Absent files give nothing."""
    unreadable: list[str] = []
    result = result or _read(Result, folder, "result.json", unreadable)
    doctor = _read(_DoctorFile, folder, "doctor.json", unreadable)
    plan = _read(Record, folder, "plan.json", unreadable)
    nodes = result.nodes if result else ()
    checks = [*(doctor.checks if doctor else ()), *(check for node in nodes if node.doctor for check in node.doctor.checks)]
    # Node 0's plan is in result.json too.
    plans = [node.plan for node in nodes] or ([plan.extra] if plan else [])
    return HostFacts(folder=folder, checks=tuple(checks), plans=tuple(plans), result=result, unreadable=tuple(unreadable))


def _read(cls: type[T], folder: Path | None, name: str, unreadable: list[str]) -> T | None:
    path = folder / name if folder else None
    if path is None or not path.is_file():
        return None
    try:
        return decode(cls, read_json(path), str(path))
    except UsageError as error:
        unreadable.append(str(error))
        return None
