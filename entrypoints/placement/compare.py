"""plan --compare: beside our plan, what other tools would choose on the same host, and the rows in which they lose.

Their rules are written from reading NVSHMEM 3.4 src/host/topo/topo.cpp and src/host/transport/transport.cpp; NCCL src/graph/topo.cc
(ncclTopoGetLocal, ncclTopoGetLocalNet); PyTorch torch/numa/binding.py; Azure's DeepEP article of May 2025.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from entrypoints.cpulist import format_list
from entrypoints.facts.nics import DEFAULT_HCA_PREFIX
from entrypoints.output import table
from entrypoints.placement.cpus import allowed_cpus, node_cpus
from entrypoints.placement.devices import Levels, active_ports, foreign_driver, hca_order, levels_of, rate_gbit
from entrypoints.placement.hca import LEVEL_RANK
from entrypoints.placement.model import Plan
from entrypoints.topology.model import LEVELS, Gpu, Hca, Topology
from entrypoints.topology.values import bus_order

#: NVSHMEM orders pairs by level, but re-balances by this class: PIX and PXB are equally good to it.
NVSHMEM_CLASS = {"PIX": 4, "PXB": 4, "PHB": 3, "NODE": 2, "SYS": 1}
#: NCCL has no NODE: within a NUMA node all that crosses a host bridge is PHB.
NCCL_DISTANCE = {"PIX": 0, "PXB": 1, "PHB": 2, "NODE": 2, "SYS": 3}


@dataclass(frozen=True)
class Cell:
    """The choice of one rule for one rank, and how it loses against the plan (empty: it does not)."""

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

    def to_json(self) -> dict[str, object]:
        """The rule, with one object a rank."""
        ranks: list[dict[str, object]] = []
        for rank, cell in enumerate(self.cells):
            choice = {"hca": cell.hca, "path": cell.path} if self.kind == "hca" else {"cpus": format_list(cell.cpus or ())}
            ranks.append({"local_rank": rank, "loses": list(cell.loses), **choice})
        losing = [rank for rank, cell in enumerate(self.cells) if cell.loses]
        return {"rule": self.name, "title": self.title, "decides": self.kind, "losing_ranks": losing, "ranks": ranks}


def compare(topology: Topology, plan: Plan) -> list[Rule]:
    """All rules on this plan's GPUs. Rules on cores are left out where the source tells no CPUs."""
    by_index = {gpu.index: gpu for gpu in topology.gpus}
    gpus = [by_index[rank.gpu_index] for rank in plan.ranks if rank.gpu_index is not None]
    if not gpus:
        return []
    levels = levels_of(topology, topology.gpus)
    rails = [hca for hca in sorted(topology.hcas, key=hca_order) if hca.id in plan.host.rails]
    choices: list[tuple[str, str, list[Hca | None]]] = [
        ("blog-ht", "same list, HT", listed_on_every_rank(rails, len(gpus), low_latency=False)),
        ("blog-ll", "same list, LL", listed_on_every_rank(rails, len(gpus), low_latency=True)),
        ("nvshmem-ht", "NVSHMEM default, HT", nvshmem(topology, gpus, levels, low_latency=False)),
        ("nvshmem-ll", "NVSHMEM default, LL", nvshmem(topology, gpus, levels, low_latency=True)),
        ("nccl", "NCCL's first NIC", nccl(topology, gpus, levels)),
    ]
    rules = [Rule(name, title, "hca", _hca_cells(plan, gpus, chosen, levels)) for name, title, chosen in choices]
    if any(rank.cpus for rank in plan.ranks):
        # The article's cores are right on the 96-core VM that it was written on.
        article = [tuple(range(12 * rank, 12 * rank + 12)) for rank in range(len(gpus))]
        # torchrun gives every rank all allowed CPUs of its GPU's node; an unknown node counts as 0.
        cpus_of_node = node_cpus(topology, allowed_cpus(topology))
        torchrun = [cpus_of_node.get(max(gpu.numa_node or 0, 0), ()) for gpu in gpus]
        rules.append(Rule("blog-cores", "12 cores from 12 x rank", "cpus", _cpu_cells(topology, plan, article)))
        rules.append(Rule("torchrun-node", "torchrun --numa-binding=node", "cpus", _cpu_cells(topology, plan, torchrun)))
    return rules


def _hca_cells(plan: Plan, gpus: Sequence[Gpu], chosen: Sequence[Hca | None], levels: Levels) -> tuple[Cell, ...]:
    planned = [rank.hca for rank in plan.ranks]
    names = [hca.id if hca else None for hca in chosen]
    excluded = dict(plan.excluded)
    cells = []
    for rank, gpu, hca in zip(plan.ranks, gpus, chosen, strict=True):
        if hca is None:
            cells.append(Cell(loses=("no HCA",) if rank.hca else ()))
            continue
        path = levels.get((gpu.index, hca.label))
        loses = []
        if names.count(hca.id) > planned.count(rank.hca):
            loses.append(f"shared by {names.count(hca.id)}")
        if LEVEL_RANK[path] > LEVEL_RANK[rank.path]:
            loses.append(f"far ({path or '?'})")
        if hca.id in excluded:
            loses.append("not a rail")
        cells.append(Cell(hca.id, path, loses=tuple(loses)))
    return tuple(cells)


def _cpu_cells(topology: Topology, plan: Plan, shares: Sequence[tuple[int, ...]]) -> tuple[Cell, ...]:
    nodes = {node.id: set(node.cpus) for node in topology.numa_nodes}
    online = {cpu for cpus in nodes.values() for cpu in cpus}
    cells = []
    for rank, cpus in zip(plan.ranks, shares, strict=True):
        loses = []
        here = set(cpus)
        if not here & online:
            loses.append("no such cores" if cpus else "no cores")
        elif rank.numa_node is not None and not here <= nodes.get(rank.numa_node, online):
            loses.append("wrong node")
        sharers = sum(1 for other in shares if here & set(other))
        if sharers > 1:
            loses.append(f"shared by {sharers}")
        cells.append(Cell(cpus=cpus, loses=tuple(loses)))
    return tuple(cells)


def compare_table(plan: Plan, compared: Sequence[Rule]) -> str:
    """Two tables, HCAs and cores; a losing cell carries "!" and why."""
    if not compared:
        return "compare\n  nothing to compare: the plan has no GPU"
    parts = []
    for kind, ours in (("hca", "EPBOX"), ("cpus", "EPBOX CORES")):
        rules = [rule for rule in compared if rule.kind == kind]
        if not rules:
            continue
        rows = []
        for position, rank in enumerate(plan.ranks):
            planned = f"{rank.hca or '-'} {rank.path or ''}".strip() if kind == "hca" else format_list(rank.cpus)
            rows.append([rank.local_rank, planned, *(_text(rule.cells[position]) for rule in rules)])
        lost = [sum(1 for cell in rule.cells if cell.loses) for rule in rules]
        rows.append(["lose", "", *(f"{count} of {len(plan.ranks)}" if count else "none" for count in lost)])
        parts.append(table(["RANK", ours, *(rule.title.upper() for rule in rules)], rows))
    return "compare\n\n" + "\n\n".join(parts)


def _text(cell: Cell) -> str:
    text = f"{cell.hca or '-'} {cell.path or ''}".strip() if cell.cpus is None else format_list(cell.cpus) or "-"
    return f"{text} ! {', '.join(cell.loses)}" if cell.loses else text


def nvshmem_devices(topology: Topology) -> list[Hca]:
    """Devices that NVSHMEM's IBGDA keeps without any variable set, in enumeration order."""
    up = [hca for hca in sorted(topology.hcas, key=hca_order) if active_ports(hca) or not hca.ports]
    fit = [hca for hca in up if (hca.name is None or DEFAULT_HCA_PREFIX in hca.name) and not foreign_driver(hca)]
    return [hca for hca in fit if hca.atomics is not False and hca.openable is not False]


def nvshmem_levels(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca], levels: Levels) -> dict[tuple[int, str], str]:
    """Levels as NVSHMEM's comparison of sysfs paths yields them. Unknown counts as SYS.

    On Hyper-V each device has a PCI domain of its own below one long VMBUS path, whose components NVSHMEM counts as shared
    switches: all pairs look alike (PXB).
    """
    domains = {bus_order(gpu.pci)[:1] for gpu in topology.gpus if gpu.pci}
    own_domains = len(topology.gpus) > 1 and len(domains) == len(topology.gpus)
    flat = own_domains and not domains & {bus_order(hca.pci)[:1] for hca in hcas if hca.pci}
    return {(g.index, h.label): "PXB" if flat else levels.get((g.index, h.label)) or "SYS" for g in gpus for h in hcas}


def nvshmem(topology: Topology, gpus: Sequence[Gpu], levels: Levels, *, low_latency: bool) -> list[Hca | None]:
    """NVSHMEM's choice by distance for each rank: in HT mode each rank is alone in its world, in LL mode all share one."""
    hcas = nvshmem_devices(topology)
    if not hcas:
        return [None] * len(gpus)
    seen = nvshmem_levels(topology, gpus, hcas, levels)
    if low_latency:
        return [hcas[device] for device in _by_distance(gpus, hcas, seen)]
    return [hcas[_by_distance([gpu], hcas, seen)[0]] for gpu in gpus]


def _by_distance(gpus: Sequence[Gpu], hcas: Sequence[Hca], levels: dict[tuple[int, str], str]) -> list[int]:
    """First device of each PE: nearest in enumeration order, then moved off devices that are two or more users fuller."""
    per_pe = max(1, len(hcas) // len(gpus))
    ordered: list[list[int]] = []
    for gpu in gpus:
        own_levels = [levels[gpu.index, hca.label] for hca in hcas]
        ordered.append(sorted(range(len(hcas)), key=lambda device: LEVELS.index(own_levels[device])))
    quality = [[NVSHMEM_CLASS[levels[gpu.index, hca.label]] for hca in hcas] for gpu in gpus]
    used = [0] * len(hcas)
    chosen: list[list[int]] = []
    for pe, devices in enumerate(ordered):
        best = quality[pe][devices[0]]
        chosen.append([device for device in devices if quality[pe][device] == best][:per_pe])
        for device in chosen[pe]:
            used[device] += 1
    for pe, current_devices in enumerate(chosen):
        for turn, current in enumerate(current_devices):
            density = used[current]
            for device in ordered[pe]:
                if density < 2 or quality[pe][device] < quality[pe][current]:
                    break
                if density - used[device] >= 2:
                    used[current_devices[turn]] -= 1
                    used[device] += 1
                    density = used[device]
                    current_devices[turn] = device
    return [current_devices[0] for current_devices in chosen]


def listed_on_every_rank(rails: Sequence[Hca], ranks: int, *, low_latency: bool) -> list[Hca | None]:
    """One list with NVSHMEM_ENABLE_NIC_PE_MAPPING=1 on all ranks: device (PE within its node's world) modulo devices.

    In HT mode each rank is PE 0 of its own world, so all take index 0 (DeepEP #336).
    """
    return [rails[rank % len(rails) if low_latency else 0] if rails else None for rank in range(ranks)]


def nccl(topology: Topology, gpus: Sequence[Gpu], levels: Levels) -> list[Hca | None]:
    """The NIC on which NCCL's first channel starts: highest bandwidth, then nearest; among these by device number.

    The number is taken modulo the GPUs that are nearest to the first such NIC, and its bits are mirrored when the NICs are
    a power of two. A link between sockets is taken as no slower than a NIC.
    """
    nets = [hca for hca in sorted(topology.hcas, key=hca_order) if active_ports(hca) or not hca.ports]
    if not nets:
        return [None] * len(gpus)
    top = max(rate_gbit(hca) or 0.0 for hca in nets)
    fast = [hca for hca in nets if (rate_gbit(hca) or 0.0) == top]
    distance = {(gpu.index, hca.label): NCCL_DISTANCE[levels.get((gpu.index, hca.label)) or "SYS"] for gpu in topology.gpus for hca in fast}
    chosen: list[Hca | None] = []
    for gpu in gpus:
        nearest = min(distance[gpu.index, hca.label] for hca in fast)
        local = [hca for hca in fast if distance[gpu.index, hca.label] == nearest]
        of_first = [distance[other.index, local[0].label] for other in topology.gpus]
        start = gpu.index % of_first.count(min(of_first)) % len(local)
        if len(local) & (len(local) - 1) == 0:
            start = _mirror_bits(start, len(local))
        chosen.append(local[start])
    return chosen


def _mirror_bits(value: int, power: int) -> int:
    """`value` below `power` of two with its bits in reverse: neighbours get NICs far apart."""
    bits = power.bit_length() - 1
    return int(f"{value:0{bits}b}"[::-1], 2) if bits else value
