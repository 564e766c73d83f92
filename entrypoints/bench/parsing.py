"""Rank logs to results: alltoall's own result line, or DeepEP's output through logs.parse."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from entrypoints.logs import alltoall
from entrypoints.workloads import Prepared


def alltoall_results(lines: Iterable[str]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """(runs, correctness) of alltoall's result lines; torn ones are left out."""
    runs: list[dict[str, Any]] = []
    correctness = None
    for line in lines:
        record = alltoall.read(line)
        if record is not None:
            correctness = record.get("correctness", correctness)
            run = alltoall.run(record)
            if run is not None:
                runs.append(run)
    return runs, correctness


def read_logs(prepared: Prepared, logs: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """(runs, correctness) of one launch. Correctness is None where a DeepEP test prints none: its exit code is the verdict."""
    if not logs:
        return [], None
    if prepared.test == "alltoall":
        # Global rank 0 alone prints the result; its log is the first of node 0.
        with logs[0].open(encoding="utf-8", errors="replace") as stream:
            return alltoall_results(stream)
    from entrypoints.logs.parse import parse_paths

    return parse_paths(logs), None
