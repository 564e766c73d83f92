"""Which cores each rank gets: its node's allowed cores, whole cores with their SMT siblings, split contiguously."""

from collections.abc import Sequence
from dataclasses import dataclass

from entrypoints.cpulist import format_list
from entrypoints.errors import NoPlan, UsageError
from entrypoints.topology.model import Cpu, NumaNode, Topology

#: Distance of nodes without a SLIT row: farther than any that firmware reports (ACPI 6.5, 5.2.17: one byte, 255 = unreachable).
UNKNOWN_DISTANCE = 256


@dataclass(frozen=True)
class CpuShare:
    """The CPUs of one rank. `node` is where they lie (None: unknown or several); `text` says how they were chosen."""

    cpus: tuple[int, ...] = ()
    node: int | None = None
    text: str = ""


def allowed_cpus(topology: Topology) -> tuple[int, ...]:
    """CPUs that are online and that this process may use; empty when the source knows no CPU at all."""
    online = {cpu.id for cpu in topology.cpus} or {cpu for node in topology.numa_nodes for cpu in node.cpus}
    allowed = online & set(topology.allowed.cpus) if topology.allowed.cpus else online
    if online and not allowed:
        raise NoPlan("none of this host's online CPUs is in the allowed set", hint="widen the cpuset or the affinity mask")
    return tuple(sorted(allowed))


def distance(topology: Topology, here: int | None, there: int | None) -> int:
    """SLIT distance between two nodes; 10 for the same one, UNKNOWN_DISTANCE where it is not known."""
    if here is None or there is None:
        return UNKNOWN_DISTANCE
    if here == there:
        return 10
    rows = {node.id: node.distances for node in topology.numa_nodes}
    return rows.get(here, {}).get(there, rows.get(there, {}).get(here, UNKNOWN_DISTANCE))


def node_cpus(topology: Topology, allowed: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Allowed CPUs of each node that has any, by node id; one pseudo node -1 for those that are in no node.

    A kernel booted with numa=fake lists a CPU in several nodes: it counts for the first, so that no two ranks get it.
    """
    loose = set(allowed)
    nodes: dict[int, tuple[int, ...]] = {}
    for node in sorted(topology.numa_nodes, key=lambda node: node.id):
        if own := loose.intersection(node.cpus):
            nodes[node.id] = tuple(sorted(own))
            loose -= own
    if loose:
        nodes[-1] = tuple(sorted(loose))
    return nodes


def cores_of(topology: Topology, cpus: Sequence[int]) -> list[tuple[int, ...]]:
    """Physical cores among `cpus`, each as its allowed siblings; ordered by L3 cache, then by lowest CPU id."""
    known: dict[int, Cpu] = {cpu.id: cpu for cpu in topology.cpus}
    here = set(cpus)
    cores: dict[tuple[int, ...], int] = {}
    for cpu in cpus:
        siblings = tuple(sorted(here & {cpu, *(known[cpu].siblings if cpu in known else ())}))
        l3 = known[cpu].l3 if cpu in known else None
        cores[siblings] = -1 if l3 is None else l3
    first_of_l3: dict[int, int] = {}
    for core, l3 in cores.items():
        first_of_l3[l3] = min(core[0], first_of_l3.get(l3, core[0]))
    return sorted(cores, key=lambda core: (first_of_l3[cores[core]], core[0]))


def nearest(topology: Topology, home: int | None, choices: Sequence[int]) -> int:
    """The choice with the least SLIT distance from `home`, the lower id on a tie."""
    return min(choices, key=lambda node: (distance(topology, home, node), node))


def home_node(topology: Topology, numa_node: int | None, local_cpus: Sequence[int]) -> int | None:
    """The node that a device's ranks should run on, None when nothing tells; a CPU-less node is passed through for `split`."""
    if numa_node is not None and numa_node >= 0:
        return numa_node
    nodes: list[NumaNode] = [node for node in topology.numa_nodes if set(node.cpus) & set(local_cpus)]
    # A mask that covers several nodes (the whole machine, on many VMs) says nothing about one of them.
    return nodes[0].id if len(nodes) == 1 else None


def split(topology: Topology, homes: Sequence[int | None], cores_per_rank: int | None = None) -> tuple[list[CpuShare], list[str]]:
    """CPUs for each rank, given the node each should be near (None: no preference), and warnings.

    Shares are disjoint whenever there are as many allowed CPUs as ranks. Raises NoPlan without any allowed CPU and
    UsageError when `cores_per_rank` asks for more than a node has.
    """
    allowed = allowed_cpus(topology)
    if not allowed:
        return [CpuShare(text="cores unknown") for _ in homes], ["the source tells no CPUs: ranks are not bound to cores"]
    nodes = node_cpus(topology, allowed)
    warnings: list[str] = []
    cores = {node: cores_of(topology, cpus) for node, cpus in nodes.items()}
    members: dict[int, list[int]] = {node: [] for node in nodes}
    moved: dict[int, str] = {}
    for rank, home in enumerate(homes):
        if home in nodes:
            members[home].append(rank)
    known = {node.id for node in topology.numa_nodes}
    homeless = [rank for rank, home in enumerate(homes) if home not in nodes and home not in known]
    for rank, home in enumerate(homes):
        if home not in nodes and home in known:
            node = nearest(topology, home, list(nodes))
            moved[rank] = f"node {home} has no allowed CPU, node {node} is nearest"
            warnings.append(f"rank {rank}: {moved[rank]}")
            members[node].append(rank)
    # No locality known: fill nodes in proportion to their cores, packages evenly, so that no core idles while another is shared.
    load = {node: len(ranks) for node, ranks in members.items()}
    packages = {cpu.id: cpu.package for cpu in topology.cpus}
    package = {node: packages.get(cpus[0]) for node, cpus in nodes.items()}
    crowd = {where: sum(load[node] for node in nodes if package[node] == where) for where in package.values()}
    picks = []
    for _ in homeless:
        picks.append(min(nodes, key=lambda node: ((load[node] + 1) / len(cores[node]), crowd[package[node]], node)))
        load[picks[-1]] += 1
        crowd[package[picks[-1]]] += 1
    for rank, node in zip(homeless, sorted(picks), strict=True):
        members[node].append(rank)
    _borrow(topology, members, cores, moved, warnings)
    shares: dict[int, CpuShare] = {}
    for node, ranks in members.items():
        for rank, share in zip(sorted(ranks), _deal(node, sorted(ranks), cores[node], cores_per_rank, warnings), strict=True):
            text = f"{share.text} ({moved[rank]})" if rank in moved else share.text
            shares[rank] = CpuShare(share.cpus, share.node, text)
    return [shares[rank] for rank in range(len(homes))], warnings


def _borrow(
    topology: Topology,
    members: dict[int, list[int]],
    cores: dict[int, list[tuple[int, ...]]],
    moved: dict[int, str],
    warnings: list[str],
) -> None:
    """Move ranks off nodes with fewer CPUs than ranks, to the nearest node with a core to spare, or a thread."""
    for node in sorted(members):
        while len(members[node]) > sum(map(len, cores[node])):
            spare = [other for other in members if len(cores[other]) > len(members[other])]
            spare = spare or [other for other in members if sum(map(len, cores[other])) > len(members[other])]
            if not spare:
                return
            rank = members[node].pop()
            target = nearest(topology, node, spare)
            members[target].append(rank)
            moved[rank] = f"node {node} has fewer allowed CPUs than ranks, node {target} is nearest"
            warnings.append(f"rank {rank}: {moved[rank]}")


def _deal(node: int, ranks: Sequence[int], cores: list[tuple[int, ...]], per_rank: int | None, warnings: list[str]) -> list[CpuShare]:
    """Contiguous shares of one node's cores for its ranks, the remainder to the lowest ranks."""
    where = "this host" if node < 0 else f"node {node}"
    count, label = len(ranks), None if node < 0 else node
    if not count:
        return []
    units = cores
    if len(cores) < count:
        # Fewer cores than ranks: hand out hardware threads instead, and share when even those are too few.
        units = [(cpu,) for core in cores for cpu in core]
        noun = "cores" if len(units) >= count else "CPUs"
        warnings.append(f"{where} has {len(cores) if noun == 'cores' else len(units)} allowed {noun} for {count} ranks: they share them")
    if per_rank is not None and (per_rank < 1 or per_rank * count > len(units)):
        raise UsageError(
            f"--cores-per-rank {per_rank}: {where} has {len(units)} allowed cores for {count} rank{'s' * (count > 1)}",
            hint=f"at most {max(len(units) // count, 1)}",
        )
    shares = []
    for position in range(count):
        if len(units) < count:
            taken = units
        else:
            base, extra = divmod(len(units), count)
            start = position * base + min(position, extra)
            taken = units[start : start + base + (position < extra)][:per_rank]
        cpus = tuple(sorted(cpu for unit in taken for cpu in unit))
        part = "all" if count == 1 and per_rank is None else f"share {position + 1} of {count}"
        if len(units) < count:
            part = f"for {count} ranks together"
        count_text = f"{len(taken)} {'core' if units is cores else 'thread'}{'s' * (len(taken) > 1)}"
        shares.append(CpuShare(cpus, label, f"CPUs {format_list(cpus)} = {count_text} of {where}, {part}"))
    return shares
