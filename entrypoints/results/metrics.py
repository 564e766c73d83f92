"""One figure a measured thing: what a run's numbers are called, so that runs, references and history can be set side by side."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

#: A metric is (operation or operation/type, direction); direction "us" is a time, the others are GB/s.
Metric = tuple[str, str]


#: Arms of bench that are bound as the plan says: their figures are those of a run without arms.
PLANNED = (None, "", "nic+cpu+mem", "baseline")


def metrics(run: Mapping[str, Any]) -> dict[Metric, float]:
    """The figures of one run. Several copies (nodes that print the same) and all ranks of low latency give their median."""
    found: dict[Metric, list[float]] = defaultdict(list)
    for entry in run.get("best", ()):
        name = f"{entry['op']}/{entry['dtype']}" if entry.get("dtype") else str(entry["op"])
        for direction, key in (("rdma", "rdma_gbps"), ("nvl", "nvl_gbps")):
            if entry.get(key) is not None:
                found[name, direction].append(float(entry[key]))
    for entry in run.get("low_latency", ()):
        found["dispatch+combine", "total"].append(entry["dispatch_combine_gbps"])
        found["dispatch+combine", "us"].append(entry["avg_us"])
    for entry in run.get("low_latency_kernels", ()):
        for operation in ("dispatch", "combine"):
            for direction, key in (("total", f"{operation}_gbps"), ("us", f"{operation}_us")):
                if entry.get(key) is not None:
                    found[operation, direction].append(entry[key])
    return {metric: median(values) for metric, values in found.items()}


def label(metric: Metric) -> str:
    """`dispatch FP8, GB/s (RDMA)` and the like."""
    name, direction = metric
    operation, _, dtype = name.partition("/")
    unit = {"us": "us", "total": "GB/s", "rdma": "GB/s (RDMA)", "nvl": "GB/s (NVL)"}[direction]
    return f"{operation}{f' {dtype.upper()}' if dtype else ''}, {unit}"


def on_plan(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that a threshold is for: not a baseline's, and of an ablation those of the whole plan; all where there are no others."""
    return [run for run in runs if run.get("arm") in PLANNED and run.get("arm") != "baseline"] or list(runs)


def shape_key(run: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What has to be equal for two runs to be compared; unknown values are left out."""
    shape = run.get("shape") or {}
    names = ("nodes", "ranks", "num_tokens", "hidden", "num_topk", "num_experts")
    sizes = tuple((name, shape[name]) for name in names if shape.get(name) is not None)
    return sizes if run.get("arm") in PLANNED else (*sizes, ("arm", run["arm"]))


def grouped(runs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, tuple[tuple[str, Any], ...]], list[Mapping[str, Any]]]:
    """Runs of the same test and shape together, in order of appearance."""
    groups: dict[tuple[str, tuple[tuple[str, Any], ...]], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((str(run["test"]), shape_key(run)), []).append(run)
    return groups


def summary(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Median, minimum, maximum and spread ((max - min) / median) per figure over runs of the same test and shape."""
    rows = []
    for (test, shape), members in grouped(runs).items():
        values: dict[Metric, list[float]] = defaultdict(list)
        for run in members:
            for metric, value in metrics(run).items():
                values[metric].append(value)
        for metric, numbers in values.items():
            middle = median(numbers)
            rows.append(
                {
                    "test": test,
                    "shape": dict(shape),
                    "metric": label(metric),
                    "runs": len(numbers),
                    "median": round(middle, 4),
                    "min": min(numbers),
                    "max": max(numbers),
                    "spread": round((max(numbers) - min(numbers)) / middle, 4) if middle else None,
                    "statistic": "median over runs, each the best its test printed" if len(numbers) > 1 else "one run",
                }
            )
    return rows
