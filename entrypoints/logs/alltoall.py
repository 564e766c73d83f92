"""The result line of EPBox's own alltoall workload: one JSON object after a mark, printed by global rank 0."""

import json
from dataclasses import dataclass

from entrypoints.errors import UsageError
from entrypoints.results.codec import decode
from entrypoints.results.model import Correctness, Run

MARK = "[alltoall] result "


@dataclass(frozen=True, kw_only=True)
class ResultLine:
    """A measured run; without one (wrong numbers) `correctness` says what was not right."""

    run: Run | None
    correctness: Correctness | None


def read(text: str) -> ResultLine | None:
    """The result in a line, or None: no such line, or one that was torn."""
    _, mark, tail = text.partition(MARK)
    if not mark:
        return None
    try:
        # A launcher may write something of another rank behind it.
        record, _ = json.JSONDecoder().raw_decode(tail.lstrip())
        if not isinstance(record, dict):
            return None
        correctness = record.get("correctness")
        return ResultLine(
            run=decode(Run, {"format": "alltoall", **record, "test": "alltoall"}) if isinstance(record.get("best"), list) else None,
            correctness=decode(Correctness, correctness) if correctness is not None else None,
        )
    except (ValueError, RecursionError, UsageError):
        return None
