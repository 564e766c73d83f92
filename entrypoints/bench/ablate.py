"""bench --ablate: what each part of the binding is worth here. Arms take turns, so drift of the host hits all alike."""

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from entrypoints.bench.arms import arms, kept_variables
from entrypoints.bench.launching import NodeRun, launch
from entrypoints.bench.measured import figures, label
from entrypoints.bench.setup import Job
from entrypoints.launch.signals import Stop
from entrypoints.nodes.session import Session
from entrypoints.output import say, table
from entrypoints.workloads.timing import quantile

#: Runs of an arm below which nothing is called a difference.
LEAST_RUNS = 3


def run(job: Job, folder: Path, session: Session, stop: Stop) -> list[NodeRun]:
    """--runs rounds; each round goes through all arms, every second one backwards. The first failure ends it."""
    launches: list[NodeRun] = []
    every = arms(job)
    for name in kept_variables(os.environ):
        say(f"epbox bench: {name} is set by you and stays in every arm, none included")
    for number in range(job.args.runs):
        for arm in every if number % 2 == 0 else every[::-1]:
            say(f"epbox bench: round {number + 1} of {job.args.runs}, arm {arm.name}")
            logs = folder / f"run-{number + 1}" / arm.name
            own = job if arm.plan is None else replace(job, plan=arm.plan)
            launches.append(launch(own, arm.bind, logs, session, stop, arm.name, arm.env))
            if launches[-1].exit_code:
                return launches
    return launches


def compare(document: dict[str, Any], equal: Collection[str] = ()) -> list[dict[str, Any]]:
    """Per operation and arm: median over runs, spread (p25..p75), change against the arm before, and whether that is noise.

    A change counts only when it is larger than the wider of the two spreads; anything smaller is noise. A spread covers
    the repeats inside the runs and the runs themselves, whichever is wider. Arms in `equal` cannot differ from the one
    before: their change is noise by definition, and no smaller change of that operation counts. Fewer than LEAST_RUNS
    runs leave it undecided (null): whole runs differ by more than the repeats inside one show.
    """
    several = document["shape"]["nodes"] > 1
    measured = [(run["arm"], figures(run, several)) for run in document["runs"]]
    operations = dict.fromkeys((each.op, each.dtype) for _, found in measured for each in found)
    rows: list[dict[str, Any]] = []
    before: dict[tuple[str, str | None], dict[str, Any]] = {}
    first: dict[tuple[str, str | None], dict[str, Any]] = {}
    for arm in dict.fromkeys(run["arm"] for run in document["runs"]):
        for op, dtype in operations:
            samples = [each for name, found in measured if name == arm for each in found if (each.op, each.dtype) == (op, dtype)]
            if not samples:
                continue
            values = [each.gbps for each in samples]
            low = min(quantile(values, 0.25), median(each.low for each in samples))
            high = max(quantile(values, 0.75), median(each.high for each in samples))
            row = {
                "arm": arm,
                "op": op,
                "dtype": dtype,
                "direction": samples[0].direction,
                "median_gbps": median(values),
                "low_gbps": low,
                "high_gbps": high,
                "runs": len(values),
            }
            row |= _change(row, before.get((op, dtype)))
            row["against_none"] = _change(row, first.get((op, dtype)))
            first.setdefault((op, dtype), row)
            before[op, dtype] = row
            rows.append(row)
    for row in rows:
        same = [r for r in rows if (r["op"], r["dtype"]) == (row["op"], row["dtype"])]
        floor = max((abs(r["change"]) for r in same if r["arm"] in equal and r["change"]), default=0.0)
        whole = row["against_none"]
        if row["noise"] is not None:
            row["noise"] = row["noise"] or row["arm"] in equal or abs(row["change"]) <= floor
        if whole["noise"] is not None:
            whole["noise"] = whole["noise"] or abs(whole["change"]) <= floor
        row["floor"] = round(floor, 4) if equal else None
    return [_rounded(row) for row in rows]


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    tidy = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    return {name: _rounded(value) if isinstance(value, dict) else value for name, value in tidy.items()}


def _change(row: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    if before is None or not before["median_gbps"]:
        return {"change": None, "noise": None}
    difference = row["median_gbps"] - before["median_gbps"]
    spread = max(each["high_gbps"] - each["low_gbps"] for each in (row, before))
    decided = min(row["runs"], before["runs"]) >= LEAST_RUNS
    return {"change": difference / before["median_gbps"], "noise": abs(difference) <= spread if decided else None}


def told(change: dict[str, Any]) -> str:
    """A change in words: "+12.0%", "+12.0% noise", "+12.0% ?" for undecided, "-" for none."""
    verdict = {True: " noise", False: "", None: " ?"}[change["noise"]]
    return "-" if change["change"] is None else f"{change['change']:+.1%}{verdict}"


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """What the table comes to, in one sentence."""
    real = [row for row in rows if row["noise"] is False]
    if any(row["noise"] is None and row["change"] is not None for row in rows):
        return f"fewer than {LEAST_RUNS} runs decide nothing"
    if not real:
        return "no arm differs from the one before by more than noise"
    return "beyond noise: " + ", ".join(f"{row['arm']} {row['change']:+.0%} ({label(row)})" for row in real)


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The one table, and how to read it."""
    directions = " or ".join(dict.fromkeys(str(row["direction"]) for row in rows))
    lines = [
        [
            label(row),
            row["arm"],
            f"{row['median_gbps']:.3f}",
            f"{row['low_gbps']:.3f} .. {row['high_gbps']:.3f}",
            told(row),
            told(row["against_none"]),
            row["runs"],
        ]
        for row in rows
    ]
    order = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: order.index(line[0]))
    head = ["operation", "arm", f"GB/s ({directions}), median", "p25 .. p75", "against the arm before", "against none", "runs"]
    legend = ["noise: not larger than the wider p25 .. p75 of the two arms, or than what arms that are equal here differ by"]
    floors = {label(row): row["floor"] for row in rows if row["floor"]}
    if floors:
        legend.append("equal arms differ by: " + ", ".join(f"{name} {floor:.0%}" for name, floor in floors.items()))
    if any(row["runs"] < LEAST_RUNS for row in rows):
        legend.append(f"?: fewer than {LEAST_RUNS} runs decide nothing, use --runs")
    return "\n".join([table(head, lines), *legend])
