"""Whether a run printed everything that its test prints when it goes through."""

from typing import TYPE_CHECKING

from entrypoints.logs.sweep import Sweep

if TYPE_CHECKING:
    from entrypoints.logs.tuning import TuningRun


def expected_cases(run: "TuningRun", copies: int) -> int:
    """Correctness lines one node prints. Until ef70b83 (2025-09-10) internode had no random FP8 input: 24, not 32."""
    if run.test == "intranode":
        has_fp8 = any(case[0] == b"FP8" for case in run.cases) or any(entry["dtype"] == "fp8" for entry in run.best)
        return 24 if has_fp8 or not run.cases else 16
    if run.format == "C" or not run.cases:
        return 32
    mode = next(iter(run.cases))[2:]
    per_mode = sum(count for case, count in run.cases.items() if case[2:] == mode)
    eight_bit = sum(count for case, count in run.cases.items() if case[2:] == mode and case[0] == b"FP8")
    return 24 if per_mode == 6 * copies and eight_bit == 2 * copies else 32


def what_is_missing(run: "TuningRun", copies: int, expected: int) -> list[str]:
    """Why a run is not complete, a sentence each; empty when the test printed all that it prints."""
    missing = []
    if run.passed != expected * copies:
        missing.append(f"correctness: {run.passed} of {expected * copies} cases passed")
    elif run.cases and sum(run.cases.values()) == run.passed and len({case[2:] for case in run.cases}) < 4:
        missing.append("correctness: not all of the four async/previous modes")
    kinds = {key for _, key in run.counts}
    wanted = [("dispatch", "fp8"), ("dispatch", "bf16"), ("combine", None)]
    if expected == 16:
        wanted.pop(0)
    for key in wanted:
        found = sum(count for (_, other), count in run.counts.items() if other == key or (key[0] == "combine" == other[0]))
        if found < copies:
            missing.append(f"best {key[0]}{f' ({key[1].upper()})' if key[1] else ''}: {found} of {copies} lines")
    seen: set[tuple[str, tuple[str, str | None]]] = set()
    for entry in run.best:
        key = (entry["op"], entry["dtype"])
        where = (entry.get("writer", ""), key)
        if where in seen:
            continue
        seen.add(where)
        best = (entry["nvl_chunk"], entry["rdma_chunk"] or 0)
        problem = run.sweeps.get(where, Sweep()).problem(key[0], best, run.test == "internode")
        if problem:
            missing.append(f"sweep of {key[0]}{f' ({key[1].upper()})' if key[1] else ''}: {problem}")
    if not kinds and not run.tuning_lines:
        missing.append("no tuning at all (pressure test without benchmarks, or cut off)")
    if run.torn:
        missing.append(f"{run.torn} torn lines")
    if run.format == "Ascend":
        missing = ["what Ascend's tests print when they are complete is not known here"]
    return missing
