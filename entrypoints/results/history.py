"""index.jsonl over time: one line a result, the same test and shape side by side, regressions marked."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from entrypoints.errors import UsageError
from entrypoints.results.codec import decode, encode, parse_json
from entrypoints.results.model import IndexEntry, Result
from entrypoints.results.ranks import JsonObject, Record

#: A result is called a regression when it is lower than the median of those before it by more than this and by more than their spread.
LEAST_DROP = 0.05
#: Results before it, below which their spread is not known and nothing is called a regression.
LEAST_BEFORE = 3
#: What of a result stands in the index: enough to list and plot results without opening them.
_KEYS = ("created", "workload", "status", "exit_code", "verdict", "shape", "bind", "summary", "engine")
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class Point(Record):
    """One result of a series; `change` is against the median of up to eight before it."""

    created: str | None
    result: str | None
    gbps: float
    change: float | None
    regression: bool


@dataclass(frozen=True, kw_only=True)
class Series(Record):
    """The results of one workload, shape, binding and operation, by time."""

    workload: str
    shape: JsonObject
    bind: str
    arm: str
    op: str
    points: tuple[Point, ...] = ()


def append(folder: Path, result: Result) -> None:
    """Add one line to index.jsonl beside a result folder; a single write, so that parallel runs do not mix. Never fails."""
    document = encode(result)
    entry = {"result": f"{folder.name}/result.json", **{key: document[key] for key in _KEYS}}
    with suppress(OSError), (folder.resolve().parent / "index.jsonl").open("ab", buffering=0) as index:
        index.write((json.dumps(entry) + "\n").encode())


def load(path: Path) -> list[IndexEntry]:
    """The whole lines of an index, by time. Raises UsageError where it cannot be read or has none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), hint="bench writes results/index.jsonl") from error
    entries = []
    for line in text.splitlines():
        with suppress(UsageError):
            entries.append(decode(IndexEntry, parse_json(line, str(path))))
    if not entries:
        raise UsageError("holds no result", where=str(path))
    return sorted(entries, key=lambda entry: entry.created or "")


def series(entries: Iterable[IndexEntry]) -> list[Series]:
    """One series a workload, shape, binding, operation and type; each point with its change against the median before it."""
    by_key: dict[tuple[str, ...], tuple[Series, list[Point]]] = {}
    for entry in entries:
        if entry.status != "ok":
            continue
        for row in entry.summary:
            op = f"{row.op}/{row.dtype}" if row.dtype else row.op
            fresh = Series(workload=entry.workload, shape=entry.shape, bind=entry.bind or "", arm=row.arm or "", op=op)
            key = (fresh.workload, json.dumps(fresh.shape, sort_keys=True), fresh.bind, fresh.op, fresh.arm)
            _, points = by_key.setdefault(key, (fresh, []))
            points.append(_point(entry, row.median_gbps, [point.gbps for point in points]))
    return [replace(one, points=tuple(points)) for one, points in by_key.values()]


def _point(entry: IndexEntry, gbps: float, before: Sequence[float]) -> Point:
    """A point marked against those before it."""
    recent = before[-8:]
    change, regression = None, False
    if recent:
        middle = median(recent)
        change = (gbps - middle) / middle if middle else 0.0
        spread = (max(recent) - min(recent)) / middle if middle else 0.0
        regression = len(recent) >= LEAST_BEFORE and change < -max(LEAST_DROP, spread)
        change = round(change, 4)
    return Point(created=entry.created, result=entry.result, gbps=gbps, change=change, regression=regression)


def spark(values: Sequence[float]) -> str:
    """The course of the values in one line of text."""
    low, high = min(values), max(values)
    return "".join(_BARS[round((value - low) / (high - low) * 7)] if high > low else _BARS[3] for value in values[-40:])
