"""plan: who gets which GPU, HCA port, cores and memory node, and why."""

import os
import sys
from argparse import ArgumentParser, Namespace

from entrypoints.drawing.topology import draw
from entrypoints.errors import UsageError
from entrypoints.output import emit_json, say
from entrypoints.parser import add_topology_option
from entrypoints.placement.compare import compare, compare_table
from entrypoints.placement.model import Plan, env_text, numactl_line, numactl_text, plan_table, rankfile_text
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology import load
from entrypoints.topology.model import Topology
from entrypoints.workloads import get

#: What placement itself tells apart; a bench workload names one of these as its `placement`.
PLANNED_WORKLOADS = ("deepep-v1", "deepep-v2", "alltoall")


def configure(parser: ArgumentParser) -> None:
    add_topology_option(parser)
    parser.add_argument(
        "--format",
        choices=("table", "json", "env", "numactl", "rankfile", "svg"),
        default="table",
        help="table (default), the epbox.plan/1 JSON, export lines, numactl command lines, an Open MPI rank file, or a drawing",
    )
    parser.add_argument("--ranks", type=int, metavar="N", help="local ranks (default: one for each visible GPU)")
    parser.add_argument("--rank", type=int, metavar="N", help="with --format env or numactl: this local rank only")
    parser.add_argument(
        "--workload", default="deepep-v1", metavar="NAME", help="deepep-v1 (default), deepep-v2, alltoall, or a name that bench knows"
    )
    parser.add_argument("--hca", action="append", default=[], metavar="RANK=HCA[:PORT]", help="give a local rank this HCA (repeatable)")
    parser.add_argument("--exclude-hca", action="append", default=[], metavar="HCA", help="never use this HCA (repeatable)")
    parser.add_argument("--cores-per-rank", type=int, metavar="N", help="physical cores for each rank (default: all, split evenly)")
    parser.add_argument("--compare", action="store_true", help="beside the plan, what other tools would do on this host")


def parse_hca_options(texts: list[str]) -> dict[int, str]:
    """--hca options as local rank -> "name[:port]". Raises UsageError for anything but RANK=HCA."""
    overrides: dict[int, str] = {}
    for text in texts:
        rank, _, name = text.partition("=")
        if not rank.isdigit() or not name:
            raise UsageError("is not RANK=HCA[:PORT]", where=f"--hca {text}", hint="for example --hca 0=mlx5_3:1")
        if int(rank) in overrides:
            raise UsageError(f"rank {rank} is given twice", where=f"--hca {text}")
        overrides[int(rank)] = name
    return overrides


def run(args: Namespace) -> int:
    overrides = parse_hca_options(args.hca)
    if args.rank is not None and args.format not in ("env", "numactl"):
        raise UsageError("goes with --format env or numactl only", where="--rank")
    if args.compare and args.format not in ("table", "json"):
        raise UsageError("goes with --format table or json only", where="--compare")
    workload = "deepep-v1" if args.workload == "auto" else args.workload
    if workload not in PLANNED_WORKLOADS:
        workload = get(workload).placement
    topology = load(args.topology)
    options = PlanOptions(args.ranks, dict(os.environ), overrides, tuple(args.exclude_hca), args.cores_per_rank, workload)
    plan = make_plan(topology, options)
    if args.rank is not None and not 0 <= args.rank < len(plan.ranks):
        raise UsageError(f"{args.rank}: the plan has ranks 0-{len(plan.ranks) - 1}", where="--rank")
    if args.format == "json":
        emit_json({**plan.to_json(), **({"compare": [rule.to_json() for rule in compare(topology, plan)]} if args.compare else {})})
        return 0
    sys.stdout.write(_text(args, topology, plan) + "\n")
    if args.format != "table":
        for warning in plan.warnings:
            say(f"epbox plan: {warning}")
    return 0


def _text(args: Namespace, topology: Topology, plan: Plan) -> str:
    if args.format == "env":
        return env_text(plan, args.rank)
    if args.format == "numactl":
        return numactl_text(plan) if args.rank is None else numactl_line(plan.ranks[args.rank])
    if args.format == "rankfile":
        return rankfile_text(plan)
    if args.format == "svg":
        return draw(topology, plan).rstrip("\n")
    text = plan_table(plan)
    return f"{text}\n\n{compare_table(plan, compare(topology, plan))}" if args.compare else text
