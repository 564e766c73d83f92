"""Made-up runs and node records of a bench."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from entrypoints.results.model import Best, Launch, Node, Run, Stat


class Spread(NamedTuple):
    """Times over the repeats inside a run."""

    p25: float
    median: float
    p75: float


def best(gbps: float, op: str = "combine", dtype: str | None = None, us: Spread | None = None, **more: Any) -> Best:
    stat = us and Stat(median=us.median, p25=us.p25, p75=us.p75, min=us.p25, max=us.p75, repeats=9)
    return Best(op=op, dtype=dtype, rdma_gbps=gbps, nvl_gbps=gbps * 2, transmit_us=100.0, us=stat, **more)


def run_of(*bests: Best, **more: Any) -> Run:
    return Run(**{"test": "alltoall", "format": "alltoall", "best": bests, "passed_cases": 8, "complete": True, **more})


def node(runs: Sequence[Run] = (), node_rank: int = 0, exit_code: int = 0, cause: str = "", **more: Any) -> Node:
    return Node(
        node_rank=node_rank,
        hostname=f"host{node_rank}",
        plan={"schema": "epbox.plan/1", "ranks": []},
        exit_code=exit_code,
        cause=cause,
        launches=(Launch(bind="all", exit_code=exit_code, cause=cause, seconds=1.0),),
        runs=tuple(runs),
        versions={"epbox": "1", "python": "3"},
        **more,
    )
