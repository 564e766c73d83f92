"""The result line of EPBox's own alltoall workload: one JSON object after a mark, printed by global rank 0."""

import json
from typing import Any

MARK = "[alltoall] result "


def read(text: str) -> dict[str, Any] | None:
    """The record in a line, or None: no such line, or one that was torn."""
    _, mark, tail = text.partition(MARK)
    if not mark:
        return None
    try:
        # A launcher may write something of another rank behind it.
        record, _ = json.JSONDecoder().raw_decode(tail.lstrip())
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def run(record: dict[str, Any]) -> dict[str, Any] | None:
    """The record as one of the runs of epbox.result/1; None when it holds no measurement (wrong numbers)."""
    if not isinstance(record.get("best"), list):
        return None
    return {"test": "alltoall", "format": "alltoall", "tuning_lines": 0, "low_latency": [], **record}
