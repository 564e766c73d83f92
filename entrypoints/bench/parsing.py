"""Rank logs to results: alltoall's own result line, or DeepEP's output through results.parse."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from entrypoints.workloads import Prepared

RESULT_MARK = "[alltoall] result "


def alltoall_records(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The records of all result lines; torn ones are left out."""
    records = []
    for line in lines:
        _, mark, text = line.partition(RESULT_MARK)
        if mark:
            try:
                record = json.loads(text)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def read_logs(prepared: Prepared, logs: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """(runs, correctness) of one launch. Correctness is None where a DeepEP test prints none: its exit code is the verdict."""
    if prepared.test == "alltoall":
        return _alltoall(logs)
    from entrypoints.results.parse import parse_paths

    return parse_paths(logs) if logs else [], None


def _alltoall(logs: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    runs: list[dict[str, Any]] = []
    correctness = None
    for log in logs:
        with log.open(encoding="utf-8", errors="replace") as stream:
            for record in alltoall_records(stream):
                correctness = record.get("correctness", correctness)
                if "best" in record:
                    runs.append({"format": "alltoall", "tuning_lines": 0, "low_latency": [], **record})
    return runs, correctness
