"""results/index.jsonl over time: one line a result, the same test and shape side by side, regressions marked."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from entrypoints.errors import UsageError

#: A result is called a regression when it is lower than the median of those before it by more than this and by more than their spread.
LEAST_DROP = 0.05
#: Results before it, below which their spread is not known and nothing is called a regression.
LEAST_BEFORE = 3
_BARS = "▁▂▃▄▅▆▇█"


def load(path: Path) -> list[dict[str, Any]]:
    """The lines of an index that are whole. Raises UsageError when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), hint="bench writes results/index.jsonl") from error
    entries = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "workload" in entry:
            entries.append(entry)
    if not entries:
        raise UsageError("holds no result", where=str(path))
    return sorted(entries, key=lambda entry: str(entry.get("created", "")))


def series(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One series a workload, shape, binding, operation and type; each point with its change against the median before it."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in entries:
        if entry.get("status") != "ok":
            continue
        shape = json.dumps(entry.get("shape", {}), sort_keys=True)
        for row in entry.get("summary", ()):
            key = (
                str(entry["workload"]),
                shape,
                str(entry.get("bind")),
                f"{row['op']}/{row['dtype']}" if row["dtype"] else str(row["op"]),
                str(row.get("arm") or ""),
            )
            point = {"created": entry.get("created"), "result": entry.get("result"), "gbps": row["median_gbps"]}
            found.setdefault(key, []).append(point)
    result = []
    for (workload, shape, bind, operation, arm), points in found.items():
        marked = [{**point, **_mark([item["gbps"] for item in points[:number]], point["gbps"])} for number, point in enumerate(points)]
        result.append({"workload": workload, "shape": json.loads(shape), "bind": bind, "arm": arm, "op": operation, "points": marked})
    return result


def _mark(before: Sequence[float], value: float) -> dict[str, Any]:
    recent = before[-8:]
    if not recent:
        return {"change": None, "regression": False}
    middle = median(recent)
    change = (value - middle) / middle if middle else 0.0
    spread = (max(recent) - min(recent)) / middle if middle else 0.0
    return {"change": round(change, 4), "regression": len(recent) >= LEAST_BEFORE and change < -max(LEAST_DROP, spread)}


def spark(values: Sequence[float]) -> str:
    """The course of the values in one line of text."""
    low, high = min(values), max(values)
    return "".join(_BARS[round((value - low) / (high - low) * 7)] if high > low else _BARS[3] for value in values[-40:])
