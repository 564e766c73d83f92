"""A job without a host behind it."""

from argparse import ArgumentParser

import pytest

from entrypoints.bench.setup import Job, check, configure
from entrypoints.binding import BindMode
from entrypoints.nodes.rendezvous import Rendezvous
from entrypoints.placement.model import Plan, RankPlan
from entrypoints.topology.model import NumaNode, Topology
from entrypoints.workloads import get
from entrypoints.workloads.model import Prepared


class Jobs:
    """Makes jobs of given sizes and options."""

    def __call__(self, *argv: str, nodes: int = 1, hca: str | None = None, memory_nodes: int = 2, workload: str = "alltoall") -> Job:
        parser = ArgumentParser()
        configure(parser)
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
