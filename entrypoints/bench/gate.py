"""--min-gbps and --min-ratio: right numbers that are too low are exit 7."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from entrypoints.bench import published
from entrypoints.bench.document import summarise
from entrypoints.bench.measured import label, workload_runs
from entrypoints.bench.setup import Job
from entrypoints.errors import BelowThreshold, UsageError


def check_possible(args: Namespace, job: Job) -> None:
    """A ratio needs published references; say so before hours of running, not after."""
    if args.min_ratio is not None and not published.possible(job):
        raise UsageError(
            f"no published result of {job.prepared.test} with this shape",
            where="--min-ratio",
            hint="entrypoints/results/references.toml has all; use --min-gbps",
        )


def judge(job: Job, nodes: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """(0 or 7, what was missed). Medians over runs are compared."""
    args = job.args
    rows = summarise(workload_runs(nodes[0]["runs"]), job.rendezvous.nodes > 1)
    missed = []
    if args.min_gbps is not None:
        if not rows:
            missed.append("no bandwidth was reported to hold against --min-gbps")
        for row in rows:
            if row["median_gbps"] < args.min_gbps:
                missed.append(f"{label(row)} {row['median_gbps']:.2f} GB/s ({row['direction']}) is below --min-gbps {args.min_gbps:g}")
    if args.min_ratio is not None:
        missed += _ratios(nodes, args.min_ratio)
    return (BelowThreshold.exit_code, "; ".join(missed)) if missed else (0, "")


def _ratios(nodes: Sequence[dict[str, Any]], least: float) -> list[str]:
    """Each figure against the best published one of a bound run."""
    rows = published.strictest(published.against(workload_runs(nodes[0]["runs"])))
    if not rows:
        return ["nothing was measured that --min-ratio could be held against"]
    return [
        f"{row['metric']} {row['value']:.2f} is {row['ratio']:.2f} of {row['reference']} ({row['id']}), below --min-ratio {least:g}"
        for row in rows
        if row["ratio"] < least
    ]
