"""bench --ablate: what each part of the binding is worth here. Arms take turns, so drift of the host hits all alike."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from entrypoints.bench.launching import NodeRun, launch
from entrypoints.bench.setup import Job
from entrypoints.binding import BindMode
from entrypoints.launch.session import Session
from entrypoints.output import say, table
from entrypoints.workloads.timing import quantile

#: Runs of an arm below which nothing is called a difference.
LEAST_RUNS = 3


@dataclass(frozen=True)
class Arm:
    """One setting: what is bound, and variables on top."""

    name: str
    bind: BindMode
    env: dict[str, str] = field(default_factory=dict)


def arms(job: Job) -> list[Arm]:
    """none, nic, nic+cpu, nic+cpu+mem; and the 2025 Azure recipe (one HCA list for all ranks, NIC by PE) where HCAs exist."""
    found = [
        Arm("none", BindMode(False, False, False)),
        Arm("nic", BindMode(True, False, False)),
        Arm("nic+cpu", BindMode(True, True, False)),
        Arm("nic+cpu+mem", BindMode(True, True, True)),
    ]
    rails = list(dict.fromkeys(f"{rank.hca}:{rank.port or 1}" for rank in job.plan.ranks if rank.hca))
    if rails and job.workload.placement == "deepep-v1":
        recipe = {"NVSHMEM_HCA_LIST": ",".join(rails), "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"}
        found.append(Arm("shared list", BindMode(False, True, True), recipe))
    return found


def equal_arms(job: Job) -> dict[str, str]:
    """Arms that cannot differ from the one before on this host, and why: what they differ by is chance."""
    found = {}
    if not any(rank.hca for rank in job.plan.ranks):
        found["nic"] = "no HCA here, so nic equals none: their difference is chance, and smaller ones count as noise"
    if len(job.topology.numa_nodes) < 2:
        found["nic+cpu+mem"] = (
            "one memory node here, so nic+cpu+mem equals nic+cpu: their difference is chance, and smaller ones count as noise"
        )
    return found


def run(job: Job, folder: Path, session: Session) -> list[NodeRun]:
    """--runs rounds; each round goes through all arms, every second one backwards. The first failure ends it."""
    launches: list[NodeRun] = []
    every = arms(job)
    for number in range(job.args.runs):
        for arm in every if number % 2 == 0 else every[::-1]:
            say(f"epbox bench: round {number + 1} of {job.args.runs}, arm {arm.name}")
            logs = folder / f"run-{number + 1}" / arm.name.replace(" ", "-")
            launches.append(launch(job, arm.bind, logs, session, arm.name, arm.env))
            if launches[-1].exit_code:
                return launches
    return launches


def _samples(run: dict[str, Any], best: dict[str, Any], key: str) -> tuple[float, float, float]:
    """(bandwidth, low, high) of one run: the quartiles of its repeats where it tells them."""
    value = float(best[key])
    spread = best.get("us")
    if not spread or not spread.get("median"):
        return value, value, value
    return value, value * spread["median"] / spread["p75"], value * spread["median"] / spread["p25"]


def compare(document: dict[str, Any], equal: Collection[str] = ()) -> list[dict[str, Any]]:
    """Per operation and arm: median over runs, spread (p25..p75), change against the arm before, and whether that is noise.

    A change counts only when it is larger than the wider of the two spreads; anything smaller is noise. A spread covers
    the repeats inside the runs and the runs themselves, whichever is wider. Arms in `equal` cannot differ from the one
    before: their change is noise by definition, and no smaller change of that operation counts. Fewer than LEAST_RUNS
    runs leave it undecided (null): whole runs differ by more than the repeats inside one show.
    """
    several = document["shape"]["nodes"] > 1
    key = "rdma_gbps" if several else "nvl_gbps"
    rows: list[dict[str, Any]] = []
    before: dict[tuple[str, str | None], dict[str, Any]] = {}
    for arm in dict.fromkeys(run["arm"] for run in document["runs"]):
        for op, dtype in _operations(document["runs"]):
            samples = [
                _samples(run, best, key)
                for run in document["runs"]
                for best in run.get("best", ())
                if run["arm"] == arm and (best["op"], best.get("dtype")) == (op, dtype) and best.get(key) is not None
            ]
            if not samples:
                continue
            values = [value for value, _, _ in samples]
            low = min(quantile(values, 0.25), median(low for _, low, _ in samples))
            high = max(quantile(values, 0.75), median(high for _, _, high in samples))
            row = {
                "arm": arm,
                "op": op,
                "dtype": dtype,
                "median_gbps": median(values),
                "low_gbps": low,
                "high_gbps": high,
                "runs": len(values),
            }
            row |= _change(row, before.get((op, dtype)))
            before[op, dtype] = row
            rows.append(row)
    for row in rows:
        chance = [
            abs(r["change"]) for r in rows if r["arm"] in equal and r["op"] == row["op"] and r["dtype"] == row["dtype"] and r["change"]
        ]
        if row["noise"] is not None:
            row["noise"] = row["noise"] or row["arm"] in equal or abs(row["change"]) <= max(chance, default=0.0)
    return [{name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()} for row in rows]


def _operations(runs: Sequence[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return list(dict.fromkeys((best["op"], best.get("dtype")) for run in runs for best in run.get("best", ())))


def _change(row: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    if before is None or not before["median_gbps"]:
        return {"change": None, "noise": None}
    difference = row["median_gbps"] - before["median_gbps"]
    spread = max(each["high_gbps"] - each["low_gbps"] for each in (row, before))
    decided = min(row["runs"], before["runs"]) >= LEAST_RUNS
    return {"change": difference / before["median_gbps"], "noise": abs(difference) <= spread if decided else None}


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The one table, and how to read it."""
    lines = []
    for row in rows:
        change = row["change"]
        verdict = {True: " noise", False: "", None: " ?"}[row["noise"]]
        told = "-" if change is None else f"{change:+.1%}{verdict}"
        label = f"{row['op']} {row['dtype'].upper()}" if row["dtype"] else row["op"]
        lines.append(
            [label, row["arm"], f"{row['median_gbps']:.3f}", f"{row['low_gbps']:.3f} .. {row['high_gbps']:.3f}", told, row["runs"]]
        )
    order = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: order.index(line[0]))
    head = ["operation", "arm", "median GB/s", "spread", "against the arm before", "runs"]
    legend = "noise: the difference is not larger than the wider spread (p25 .. p75) of the two arms"
    few = f"\n?: fewer than {LEAST_RUNS} runs decide nothing, use --runs" if any(row["runs"] < LEAST_RUNS for row in rows) else ""
    return table(head, lines) + "\n" + legend + few
