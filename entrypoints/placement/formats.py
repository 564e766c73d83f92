"""A plan as text: the table a person would draw, shell exports, numactl lines, an Open MPI rank file."""

import shlex
from collections.abc import Mapping

from entrypoints.cpulist import format_list
from entrypoints.output import table
from entrypoints.placement.model import Plan, RankPlan


def plan_table(plan: Plan) -> str:
    """Ranks, reasons, HCAs left out and warnings, in this order."""
    headers = ("RANK", "GPU", "GPU BUS ID", "HCA", "PORT", "HCA BUS ID", "PATH", "NODE", "CORES", "MEMORY")
    rows = [
        (
            rank.local_rank,
            _or_dash(rank.gpu_index),
            _or_dash(rank.gpu_pci),
            _or_dash(rank.hca),
            _or_dash(rank.port),
            _or_dash(rank.hca_pci),
            _or_dash(rank.path),
            _or_dash(rank.numa_node),
            format_list(rank.cpus) or "-",
            _memory(rank),
        )
        for rank in plan.ranks
    ]
    known = [column for column in range(len(headers)) if column in (0, 1, 3) or any(row[column] != "-" for row in rows)]
    parts = [f"plan for {plan.host.get('hostname') or plan.source} ({plan.host.get('workload', '')})"]
    parts.append(table([headers[i] for i in known], [[row[i] for i in known] for row in rows]))
    parts.append("why\n" + "\n".join(f"  rank {rank.local_rank}: {rank.reason}" for rank in plan.ranks))
    if plan.excluded:
        parts.append("left out\n" + "\n".join(f"  {hca}: {reason}" for hca, reason in plan.excluded))
    if spare := plan.host.get("spare_hcas"):
        parts.append(f"not needed\n  {', '.join(spare)}")
    if plan.warnings:
        parts.append("warnings\n" + "\n".join(f"  {warning}" for warning in plan.warnings))
    return "\n\n".join(parts)


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _memory(rank: RankPlan) -> str:
    if rank.memory.policy == "default":
        return "first touch"
    return f"{rank.memory.policy} {format_list(rank.memory.nodes)}"


def exports(env: Mapping[str, str]) -> str:
    """`export` lines that any POSIX shell can eval, whatever the values hold."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items()))


def env_text(plan: Plan, rank: int | None) -> str:
    """Exports of one rank, or of all ranks as functions of a `case` on LOCAL_RANK."""
    if rank is not None:
        return exports(plan.ranks[rank].env)
    # One text for all ranks: each process evals it and takes its own arm.
    arms = []
    for plan_rank in plan.ranks:
        lines = exports(plan_rank.env).splitlines() or [":"]
        arms.append("\n".join([f"{plan_rank.local_rank})", *(f"  {line}" for line in lines), "  ;;"]))
    return "\n".join(['case "${LOCAL_RANK:?set LOCAL_RANK, or use plan --rank N}" in', *arms, "esac"])


def numactl_line(rank: RankPlan) -> str:
    """The numactl command that binds as the plan does; the caller puts its command behind it."""
    parts = ["env", *(f"{name}={value}" for name, value in sorted(rank.env.items()))] if rank.env else []
    options = [f"--physcpubind={format_list(rank.cpus)}"] if rank.cpus else []
    if rank.memory.policy != "default":
        option = {"preferred": "--preferred", "bind": "--membind", "interleave": "--interleave"}[rank.memory.policy]
        options.append(f"{option}={format_list(rank.memory.nodes)}")
    return " ".join(shlex.quote(part) for part in [*parts, *(["numactl", *options, "--"] if options else [])])


def numactl_text(plan: Plan) -> str:
    """One line for each rank, under a comment with its number."""
    return "\n".join(f"# rank {rank.local_rank}\n{numactl_line(rank)}" for rank in plan.ranks)


def rankfile_text(plan: Plan) -> str:
    """An Open MPI rank file of this host. CPU numbers are the kernel's (physical)."""
    host = plan.host.get("hostname") or "localhost"
    lines = ["# Open MPI 4: mpirun --mca rmaps_rank_file_physical 1 --rankfile FILE; Open MPI 5: mpirun --map-by rankfile:file=FILE"]
    lines += [f"rank {rank.local_rank}={host} slot={format_list(rank.cpus)}" for rank in plan.ranks if rank.cpus]
    return "\n".join(lines)
