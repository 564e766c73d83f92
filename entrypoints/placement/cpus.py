"""Which cores and memory node each rank gets: its node's allowed cores, whole with their SMT siblings, split contiguously."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from entrypoints.cpulist import format_list
from entrypoints.errors import NoPlan, UsageError
from entrypoints.placement.model import MemoryPolicy
from entrypoints.topology.model import Cpu, Gpu, Hca, NumaNode, Topology

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
        if cpus := loose.intersection(node.cpus):
            nodes[node.id] = tuple(sorted(cpus))
            loose -= cpus
    if loose:
        nodes[-1] = tuple(sorted(loose))
    return nodes


def cores_of(topology: Topology, cpus: Sequence[int]) -> list[tuple[int, ...]]:
    """Physical cores among `cpus`, each as its allowed siblings; ordered by L3 cache, then by lowest CPU id.

    No CPU is in two of them, whatever a damaged source says.
    """
    by_id: dict[int, Cpu] = {cpu.id: cpu for cpu in topology.cpus}
    loose = set(cpus)
    cores: dict[tuple[int, ...], int] = {}
    for number in sorted(cpus):
        if number in loose:
            cpu = by_id.get(number, Cpu(number))
            core = loose & {number, *cpu.siblings}
            loose -= core
            cores[tuple(sorted(core))] = -1 if cpu.l3 is None else cpu.l3
    first_of_l3: dict[int, int] = {}
    for core_cpus, l3 in cores.items():
        first_of_l3[l3] = min(core_cpus[0], first_of_l3.get(l3, core_cpus[0]))
    return sorted(cores, key=lambda core: (first_of_l3[cores[core]], core[0]))


def nearest(topology: Topology, home: int | None, choices: Sequence[int]) -> int:
    """The choice with the least SLIT distance from `home`, the lower id on a tie."""
    return min(choices, key=lambda node: (distance(topology, home, node), node))


def home_node(topology: Topology, device: Gpu | Hca) -> int | None:
    """The node that a device's ranks should run on, None when nothing tells; a CPU-less node is passed through for `split`."""
    if device.numa_node is not None and device.numa_node >= 0:  # NVML may say -1
        return device.numa_node
    nodes = [node for node in topology.numa_nodes if set(node.cpus) & set(device.local_cpus)]
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
    seating = _Seating(topology, allowed)
    seating.seat(homes)
    seating.borrow()
    shares = seating.shares(cores_per_rank)
    return [shares[rank] for rank in range(len(homes))], seating.warnings


class _Seating:
    """The ranks of each node, and why some are not on the node that they should be near."""

    def __init__(self, topology: Topology, allowed: Sequence[int]) -> None:
        self.topology = topology
        self.nodes = node_cpus(topology, allowed)
        self.cores = {node: cores_of(topology, cpus) for node, cpus in self.nodes.items()}
        self.ranks: dict[int, list[int]] = {node: [] for node in self.nodes}
        self.moved: dict[int, str] = {}
        self.warnings: list[str] = []

    def seat(self, homes: Sequence[int | None]) -> None:
        """Put each rank on its home, on the nearest node where that one has no CPU, and those without a home where there is room."""
        cpuless = {node.id for node in self.topology.numa_nodes} - self.nodes.keys()
        for rank, home in enumerate(homes):
            if home in self.nodes:
                self.ranks[home].append(rank)
        for rank, home in enumerate(homes):
            if home in cpuless:
                self._move(rank, home, list(self.nodes), "has no allowed CPU")
        self._fill([rank for rank, home in enumerate(homes) if home not in self.nodes and home not in cpuless])

    def _fill(self, homeless: Sequence[int]) -> None:
        """Fill nodes in proportion to their cores, packages evenly, so that no core idles while another is shared."""
        load = {node: len(ranks) for node, ranks in self.ranks.items()}
        packages = {cpu.id: cpu.package for cpu in self.topology.cpus}
        package = {node: packages.get(cpus[0]) for node, cpus in self.nodes.items()}
        crowd = {socket: sum(load[node] for node in load if package[node] == socket) for socket in package.values()}
        picks = []
        for _ in homeless:
            node = min(load, key=lambda node: ((load[node] + 1) / len(self.cores[node]), crowd[package[node]], node))
            load[node] += 1
            crowd[package[node]] += 1
            picks.append(node)
        for rank, node in zip(homeless, sorted(picks), strict=True):
            self.ranks[node].append(rank)

    def borrow(self) -> None:
        """Move ranks off nodes with fewer CPUs than ranks, to the nearest node with a core to spare, or a thread."""
        threads = {node: sum(map(len, cores)) for node, cores in self.cores.items()}
        for node in sorted(self.ranks):
            while len(self.ranks[node]) > threads[node]:
                spare = [other for other in self.ranks if len(self.cores[other]) > len(self.ranks[other])]
                spare = spare or [other for other in self.ranks if threads[other] > len(self.ranks[other])]
                if not spare:
                    return
                self._move(self.ranks[node].pop(), node, spare, "has fewer allowed CPUs than ranks")

    def _move(self, rank: int, home: int | None, choices: Sequence[int], cause: str) -> None:
        target = nearest(self.topology, home, choices)
        self.ranks[target].append(rank)
        self.moved[rank] = f"node {home} {cause}, node {target} is nearest"
        self.warnings.append(f"rank {rank}: {self.moved[rank]}")

    def shares(self, per_rank: int | None) -> dict[int, CpuShare]:
        """The CPUs of each rank."""
        shares: dict[int, CpuShare] = {}
        for node, ranks in self.ranks.items():
            dealt = _deal(node, len(ranks), self.cores[node], per_rank, self.warnings)
            for rank, share in zip(sorted(ranks), dealt, strict=True):
                shares[rank] = replace(share, text=f"{share.text} ({self.moved[rank]})") if rank in self.moved else share
        return shares


def _deal(node: int, count: int, cores: list[tuple[int, ...]], per_rank: int | None, warnings: list[str]) -> list[CpuShare]:
    """Contiguous shares of one node's cores for `count` ranks, the remainder to the lowest ranks."""
    owner = "this host" if node < 0 else f"node {node}"
    label = None if node < 0 else node
    if not count:
        return []
    units = cores
    if len(cores) < count:
        # Fewer cores than ranks: hand out hardware threads instead, and share when even those are too few.
        units = [(cpu,) for core in cores for cpu in core]
        noun = "cores" if len(units) >= count else "CPUs"
        warnings.append(f"{owner} has {len(cores) if noun == 'cores' else len(units)} allowed {noun} for {count} ranks: they share them")
    if per_rank is not None and (per_rank < 1 or per_rank * count > len(units)):
        raise UsageError(
            f"--cores-per-rank {per_rank}: {owner} has {len(units)} allowed cores for {count} rank{'s' * (count > 1)}",
            hint=f"at most {max(len(units) // count, 1)}",
        )
    shares = []
    for position in range(count):
        if len(units) < count:
            taken, part = units, f"for {count} ranks together"
        else:
            base, extra = divmod(len(units), count)
            start = position * base + min(position, extra)
            taken = units[start : start + base + (position < extra)][:per_rank]
            part = "all" if count == 1 and per_rank is None else f"share {position + 1} of {count}"
        cpus = tuple(sorted(cpu for unit in taken for cpu in unit))
        count_text = f"{len(taken)} {'core' if units is cores else 'thread'}{'s' * (len(taken) > 1)}"
        shares.append(CpuShare(cpus, label, f"CPUs {format_list(cpus)} = {count_text} of {owner}, {part}"))
    return shares


def memory_nodes(topology: Topology) -> list[NumaNode]:
    """Nodes on which host memory may be preferred.

    Grace and POWER9 show GPU memory as CPU-less nodes; preferring one would put host pages into HBM. CXL and other
    CPU-less memory is left to an explicit policy of the user for the same reason: it is slower than any socket's own.
    """
    allowed = set(topology.allowed.mems)
    usable = [n for n in topology.numa_nodes if not n.gpu_memory and n.memory_bytes != 0 and (not allowed or n.id in allowed)]
    with_cpus = [node for node in usable if node.cpus]
    return with_cpus or usable


def policy_for(topology: Topology, share: CpuShare) -> tuple[MemoryPolicy, str]:
    """PREFERRED on the share's node (nearest by SLIT if that has no usable memory), else the kernel's default; and why.

    PREFERRED and not BIND, because pinned staging buffers may exceed one node and BIND would kill the rank instead of
    spilling (set_mempolicy(2)).
    """
    ids = [node.id for node in memory_nodes(topology)]
    if share.node is None or not ids:
        return MemoryPolicy(), "memory by first touch"
    if share.node in ids:
        return MemoryPolicy("preferred", (share.node,)), f"memory preferred on node {share.node}"
    node = nearest(topology, share.node, ids)
    return MemoryPolicy("preferred", (node,)), f"memory preferred on node {node} (node {share.node} has none to use)"
