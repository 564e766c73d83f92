"""`python stoppable.py FOLDER NODE_RANK NODES PORT RUNS SCRIPT`: what bench does after its preflight, with any script as its ranks."""

import sys
from argparse import ArgumentParser
from datetime import datetime, timezone
from pathlib import Path

from entrypoints.bench import flow, preflight
from entrypoints.bench.setup import Job, check, configure
from entrypoints.binding import BindMode
from entrypoints.nodes.rendezvous import Rendezvous
from entrypoints.nodes.session import Session
from entrypoints.placement.model import Plan, RankPlan
from entrypoints.topology.model import NumaNode, Topology
from entrypoints.workloads import get
from entrypoints.workloads.model import Prepared


def main(folder: Path, node_rank: int, nodes: int, port: int, runs: str, script: str) -> int:
    parser = ArgumentParser()
    configure(parser)
    args = parser.parse_args(["--runs", runs])
    check(args)
    job = Job(
        args=args,
        rendezvous=Rendezvous(node_rank, nodes, "127.0.0.1", port),
        topology=Topology(source="made up", numa_nodes=(NumaNode(0),)),
        plan=Plan(source="made up", ranks=tuple(RankPlan(local_rank=n) for n in range(2))),
        workload=get("alltoall"),
        prepared=Prepared("alltoall", "alltoall", (script,), False, {"nodes": nodes, "ranks_per_node": 2}),
        bind=BindMode.parse("none"),
        why="asked for",
    )
    folder.mkdir(parents=True, exist_ok=True)
    with Session(job.rendezvous) as session:
        preflight.meet(job, session, None)
        return flow.work(job, None, session, folder, datetime.now(timezone.utc))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
