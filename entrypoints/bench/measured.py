"""The figures of a run that are summarised, gated and compared: one a kernel, GB/s in the direction that limits it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

#: The arm of the all-to-all that --baseline runs beside the workload.
BASELINE = "baseline"


@dataclass(frozen=True)
class Figure:
    """`low` and `high` are the quartiles of the repeats inside the run, where it tells them."""

    op: str
    dtype: str | None
    direction: str
    gbps: float
    low: float
    high: float


def figures(run: Mapping[str, Any], several_nodes: bool) -> list[Figure]:
    """RDMA bandwidth over nodes, NVL within one (or where the test gives no RDMA figure); low latency: both kernels together."""
    found = []
    for best in run.get("best") or ():
        rdma = best.get("rdma_gbps") if several_nodes else None
        value = rdma if rdma is not None else best.get("nvl_gbps")
        if value is None:
            continue
        value, spread = float(value), best.get("us") or {}
        low, high = (value * spread["median"] / spread[key] if spread.get(key) else value for key in ("p75", "p25"))
        found.append(Figure(best["op"], best.get("dtype"), "NVL" if rdma is None else "RDMA", value, low, high))
    # The low-latency test prints bandwidth of both kernels together, rank by rank: their median is the run's.
    ranks = [float(entry["dispatch_combine_gbps"]) for entry in run.get("low_latency") or () if "dispatch_combine_gbps" in entry]
    if ranks:
        found.append(Figure("dispatch+combine", None, "total", *[median(ranks)] * 3))
    return found


def workload_runs(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The workload's own runs, without those of the baseline."""
    return [run for run in runs if run.get("arm") != BASELINE]


def baseline_runs(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The baseline's runs."""
    return [run for run in runs if run.get("arm") == BASELINE]


def label(row: Mapping[str, Any]) -> str:
    """`dispatch FP8`, `combine`."""
    return f"{row['op']} {row['dtype'].upper()}" if row.get("dtype") else str(row["op"])
