"""This job's figures beside published ones of the same test and shape, and beside the wire."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from entrypoints.bench.setup import Job


def run_shape(job: Job) -> dict[str, Any]:
    """The shape as results.compare knows it: `ranks` are those of all nodes."""
    shape = job.prepared.shape
    names = ("num_tokens", "hidden", "num_topk", "num_topk_groups", "num_experts")
    sizes: dict[str, Any] = {name: shape[name] for name in names if name in shape}
    return {"nodes": job.rendezvous.nodes, "ranks": job.rendezvous.nodes * len(job.plan.ranks), **sizes}


def possible(job: Job) -> bool:
    """Whether any published result is of this test and shape."""
    from entrypoints.results.compare import fits, references

    run = {"test": job.prepared.test, "shape": run_shape(job)}
    return any(fits(reference, run) for reference in references())


def against(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a figure and reference; value and ratio are medians over the runs."""
    from entrypoints.results.compare import against_references

    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        for row in against_references(run):
            found.setdefault((row["metric"], row["id"]), []).append(row)
    return [
        {**rows[0], "value": round(median(row["value"] for row in rows), 4), "ratio": round(median(row["ratio"] for row in rows), 4)}
        for rows in found.values()
    ]


def strictest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per figure the best published one of a bound run: the row with the lowest ratio."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["bound"] is not False and row["ratio"] < best.get(row["metric"], {"ratio": float("inf")})["ratio"]:
            best[row["metric"]] = row
    return list(best.values())


def wire(job: Job, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Against the line rate of one planned port a rank; nothing where ports differ or are unknown."""
    from entrypoints.results.compare import against_wire

    ports = {(hca.id, port.number): port.rate_gbps for hca in job.topology.hcas for port in hca.ports}
    rates = {ports.get((rank.hca or "", rank.port or 1)) for rank in job.plan.ranks}
    rate = rates.pop() if len(rates) == 1 else None
    return against_wire(runs[0], rate, 1) if rate and runs else []
