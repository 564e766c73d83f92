"""--min-gbps and --min-ratio: right numbers that are too low are exit 7."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from entrypoints.bench.document import summarise
from entrypoints.bench.setup import Job
from entrypoints.errors import BelowThreshold, UsageError


def check_possible(args: Namespace, job: Job) -> None:
    """A ratio needs published references; say so before hours of running, not after."""
    if args.min_ratio is not None and job.prepared.test == "alltoall":
        raise UsageError("alltoall has no published reference", where="--min-ratio", hint="use --min-gbps")


def judge(job: Job, nodes: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """(0 or 7, what was missed). Medians over runs are compared."""
    args = job.args
    rows = summarise(nodes[0]["runs"], job.rendezvous.nodes > 1)
    missed = []
    if args.min_gbps is not None:
        if not rows:
            missed.append("no bandwidth was reported to hold against --min-gbps")
        for row in rows:
            if row["median_gbps"] < args.min_gbps:
                name = f"{row['op']}{' ' + row['dtype'].upper() if row['dtype'] else ''}"
                missed.append(f"{name} {row['median_gbps']:.2f} GB/s ({row['direction']}) is below --min-gbps {args.min_gbps:g}")
    if args.min_ratio is not None:
        missed += _ratios(job, nodes, args.min_ratio)
    return (BelowThreshold.exit_code, "; ".join(missed)) if missed else (0, "")


def _ratios(job: Job, nodes: Sequence[dict[str, Any]], least: float) -> list[str]:
    """Against the results room's references of the same test and shape."""
    return ["no references in this build to hold against --min-ratio"]
