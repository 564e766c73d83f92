"""plan --compare: beside our plan, what others would do on the same host, and the rows in which they lose."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from entrypoints.cpulist import format_list
from entrypoints.output import table
from entrypoints.placement import others
from entrypoints.placement.distance import Levels, hca_order, levels_of
from entrypoints.placement.hca import LEVEL_RANK
from entrypoints.placement.model import Plan
from entrypoints.topology.model import Gpu, Hca, Topology


@dataclass(frozen=True)
class Cell:
    """What one rule gives one rank, and how it loses against the plan (empty: it does not)."""

    hca: str | None = None
    path: str | None = None
    cpus: tuple[int, ...] | None = None
    loses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One tool's or recipe's rule on this host. `kind` says what it decides: "hca" or "cpus"."""

    name: str
    title: str
    kind: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """Our plan's cells first, then those of the other rules."""

    plan: Plan
    rules: tuple[Rule, ...] = ()

    def to_json(self) -> list[dict[str, Any]]:
        """One object a rule, with one object a rank."""
        return [
            {
                "rule": rule.name,
                "title": rule.title,
                "decides": rule.kind,
                "losing_ranks": [rank for rank, cell in enumerate(rule.cells) if cell.loses],
                "ranks": [
                    {"local_rank": rank, "loses": list(cell.loses)}
                    | ({"hca": cell.hca, "path": cell.path} if rule.kind == "hca" else {"cpus": format_list(cell.cpus or ())})
                    for rank, cell in enumerate(rule.cells)
                ],
            }
            for rule in self.rules
        ]


def compare(topology: Topology, plan: Plan) -> Comparison:
    """All rules on this plan's GPUs. Rules on cores are left out where the source tells no CPUs."""
    by_index = {gpu.index: gpu for gpu in topology.gpus}
    gpus = [by_index[rank.gpu_index] for rank in plan.ranks if rank.gpu_index is not None]
    if not gpus:
        return Comparison(plan)
    levels = levels_of(topology, topology.gpus, topology.hcas)
    rails = [hca for hca in sorted(topology.hcas, key=hca_order) if hca.id in plan.host.get("rails", [])]
    choices: list[tuple[str, str, list[Hca | None]]] = [
        ("blog-ht", "same list, HT", others.listed_on_every_rank(rails, len(gpus), low_latency=False)),
        ("blog-ll", "same list, LL", others.listed_on_every_rank(rails, len(gpus), low_latency=True)),
        ("nvshmem-ht", "NVSHMEM default, HT", others.nvshmem(topology, gpus, levels, low_latency=False)),
        ("nvshmem-ll", "NVSHMEM default, LL", others.nvshmem(topology, gpus, levels, low_latency=True)),
        ("nccl", "NCCL's first NIC", others.nccl(topology, gpus, levels)),
    ]
    rules = [Rule(name, title, "hca", _hca_cells(plan, gpus, chosen, levels)) for name, title, chosen in choices]
    if any(rank.cpus for rank in plan.ranks):
        article = [others.twelve_cores_by_rank(rank) for rank in range(len(gpus))]
        torchrun = [others.torchrun_node(topology, gpu) for gpu in gpus]
        rules.append(Rule("blog-cores", "12 cores from 12 x rank", "cpus", _cpu_cells(topology, plan, article)))
        rules.append(Rule("torchrun-node", "torchrun --numa-binding=node", "cpus", _cpu_cells(topology, plan, torchrun)))
    return Comparison(plan, tuple(rules))


def _hca_cells(plan: Plan, gpus: Sequence[Gpu], chosen: Sequence[Hca | None], levels: Levels) -> tuple[Cell, ...]:
    ours = [rank.hca for rank in plan.ranks]
    theirs = [hca.id if hca else None for hca in chosen]
    excluded = dict(plan.excluded)
    cells = []
    for rank, gpu, hca in zip(plan.ranks, gpus, chosen, strict=True):
        if hca is None:
            cells.append(Cell(loses=("no HCA",) if rank.hca else ()))
            continue
        path = levels.get((gpu.index, hca.label))
        loses = []
        if theirs.count(hca.id) > ours.count(rank.hca):
            loses.append(f"shared by {theirs.count(hca.id)}")
        if LEVEL_RANK[path] > LEVEL_RANK[rank.path]:
            loses.append(f"far ({path or '?'})")
        if hca.id in excluded:
            loses.append("not a rail")
        cells.append(Cell(hca.id, path, loses=tuple(loses)))
    return tuple(cells)


def _cpu_cells(topology: Topology, plan: Plan, theirs: Sequence[tuple[int, ...]]) -> tuple[Cell, ...]:
    nodes = {node.id: set(node.cpus) for node in topology.numa_nodes}
    online = {cpu for cpus in nodes.values() for cpu in cpus}
    cells = []
    for rank, cpus in zip(plan.ranks, theirs, strict=True):
        loses = []
        here = set(cpus)
        if not here & online:
            loses.append("no such cores" if cpus else "no cores")
        elif rank.numa_node is not None and not here <= nodes.get(rank.numa_node, online):
            loses.append("wrong node")
        sharers = sum(1 for other in theirs if here & set(other))
        if sharers > 1:
            loses.append(f"shared by {sharers}")
        cells.append(Cell(cpus=cpus, loses=tuple(loses)))
    return tuple(cells)


def compare_table(comparison: Comparison) -> str:
    """Two tables, HCAs and cores; a losing cell carries "!" and why."""
    if not comparison.rules:
        return "compare\n  nothing to compare: the plan has no GPU"
    parts = []
    for kind, ours in (("hca", "EPBOX"), ("cpus", "EPBOX CORES")):
        rules = [rule for rule in comparison.rules if rule.kind == kind]
        if not rules:
            continue
        rows = []
        for position, rank in enumerate(comparison.plan.ranks):
            own = f"{rank.hca or '-'} {rank.path or ''}".strip() if kind == "hca" else format_list(rank.cpus)
            rows.append([rank.local_rank, own, *(_text(rule.cells[position]) for rule in rules)])
        lost = [sum(1 for cell in rule.cells if cell.loses) for rule in rules]
        rows.append(["lose", "", *(f"{count} of {len(comparison.plan.ranks)}" if count else "none" for count in lost)])
        parts.append(table(["RANK", ours, *(rule.title.upper() for rule in rules)], rows))
    return "compare\n\n" + "\n\n".join(parts)


def _text(cell: Cell) -> str:
    text = f"{cell.hca or '-'} {cell.path or ''}".strip() if cell.cpus is None else format_list(cell.cpus) or "-"
    return f"{text} ! {', '.join(cell.loses)}" if cell.loses else text
