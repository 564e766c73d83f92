"""A job and node records without a host behind them."""

from argparse import ArgumentParser
from typing import Any

import pytest

from entrypoints.bench import options
from entrypoints.bench.setup import Job, check
from entrypoints.binding import BindMode
from entrypoints.launch.rendezvous import Rendezvous
from entrypoints.placement.model import Plan, RankPlan
from entrypoints.topology.model import NumaNode, Topology
from entrypoints.workloads import get
from entrypoints.workloads.model import Prepared


class Jobs:
    """Makes jobs of given sizes and options."""

    def __call__(self, *argv: str, nodes: int = 1, hca: str | None = None, memory_nodes: int = 2, workload: str = "alltoall") -> Job:
        parser = ArgumentParser()
        options.configure(parser)
        args = parser.parse_args(argv)
        check(args)
        ranks = tuple(RankPlan(local_rank=n, cpus=(n,), hca=hca and f"{hca}{n}", port=1) for n in range(2))
        shape: dict[str, int | None] = {"nodes": nodes, "ranks_per_node": 2}
        return Job(
            args=args,
            rendezvous=Rendezvous(0, nodes, "127.0.0.1", 9000),
            topology=Topology(source="made up", numa_nodes=tuple(NumaNode(n) for n in range(memory_nodes))),
            plan=Plan(source="made up", ranks=ranks),
            workload=get(workload),
            prepared=Prepared(workload, "alltoall" if workload == "alltoall" else "internode", ("x",), False, shape),
            bind=BindMode(),
            why="asked for",
        )


@pytest.fixture
def make_job() -> Jobs:
    return Jobs()


def best(gbps: float, op: str = "combine", dtype: str | None = None, us: tuple[float, float, float] | None = None) -> dict[str, Any]:
    entry = {"op": op, "dtype": dtype, "sms": None, "nvl_chunk": None, "rdma_chunk": None, "rdma_gbps": gbps, "nvl_gbps": gbps * 2}
    entry |= {"transmit_us": 100.0, "notify_us": None}
    if us is not None:
        low, middle, high = us
        entry["us"] = {"median": middle, "p25": low, "p75": high, "min": low, "max": high, "repeats": 9}
    return entry


def run_of(*bests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"test": "alltoall", "format": "alltoall", "best": list(bests), "tuning_lines": 0, "passed_cases": 8, "complete": True, **more}


def node(runs: list[dict[str, Any]] | None = None, node_rank: int = 0, exit_code: int = 0, cause: str = "", **more: Any) -> dict[str, Any]:
    return {
        "node_rank": node_rank,
        "hostname": f"host{node_rank}",
        "plan": {"schema": "epbox.plan/1", "ranks": []},
        "ranks": [],
        "doctor": None,
        "exit_code": exit_code,
        "cause": cause,
        "correctness": None,
        "launches": [{"arm": None, "bind": "all", "exit_code": exit_code, "cause": cause, "seconds": 1.0}],
        "runs": runs or [],
        "versions": {"epbox": "1", "python": "3"},
        "image": None,
        **more,
    }
