"""What a plan needs to know of a host, whatever source it came from. Unknown is None, never a guess."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

#: PCIe path levels, nearest first, as `nvidia-smi topo -m` words them; where no source states them, `level_between` computes them:
#:   PIX   at most one switch lies between them: they share a bridge, and neither has more than one port of its own below it
#:   PXB   they share a bridge, with further switches in between
#:   PHB   they share only the root complex (host bridge)
#:   NODE  different root complexes of one NUMA node
#:   SYS   different NUMA nodes
LEVELS = ("PIX", "PXB", "PHB", "NODE", "SYS")


@dataclass(frozen=True)
class Cpu:
    """One logical CPU (PU) that is online and allowed on the (dumped) host."""

    id: int
    core: int | None = None
    package: int | None = None
    l3: int | None = None
    #: All SMT siblings of this CPU's core that are online and allowed, itself included.
    siblings: tuple[int, ...] = ()


@dataclass(frozen=True)
class NumaNode:
    """One NUMA node. `cpus` are the allowed ones; `gpu_memory` marks Grace and POWER9 device memory."""

    id: int
    cpus: tuple[int, ...] = ()
    memory_bytes: int | None = None
    distances: dict[int, int] = field(default_factory=dict)
    gpu_memory: bool = False


@dataclass(frozen=True)
class Processor:
    """The kind of CPU: `arch` as uname says it (x86_64, aarch64, ppc64le), the rest as /proc/cpuinfo does."""

    arch: str | None = None
    vendor: str | None = None
    family: int | None = None
    model: int | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU by its index in PCI bus order. `pci_path` lists the ids above it, root complex first."""

    index: int
    pci: str | None = None
    name: str | None = None
    uuid: str | None = None
    numa_node: int | None = None
    pci_path: tuple[str, ...] = ()
    local_cpus: tuple[int, ...] = ()
    #: Peers by NVLink (GPU indices), when the source tells.
    nvlink: tuple[int, ...] | None = None
    #: Active NVLinks, also those to NVSwitches and to GPUs that are not visible here; None when the source does not tell.
    nvlinks_active: int | None = None
    #: The fastest PCIe link it can train, as sysfs words it ("32.0 GT/s PCIe"), and its lanes.
    link_speed: str | None = None
    link_width: int | None = None


@dataclass(frozen=True)
class Gid:
    """One filled GID table slot of a port."""

    index: int
    gid: str
    type: str | None = None
    netdev: str | None = None


@dataclass(frozen=True)
class Port:
    """One HCA port. `rate_gbit` is the link rate in Gbit/s."""

    number: int
    state: str | None = None
    link_layer: str | None = None
    rate_gbit: float | None = None
    netdev: str | None = None
    gids: tuple[Gid, ...] = ()


@dataclass(frozen=True)
class Hca:
    """One RDMA device. `name` is the verbs name; `label` what a matrix calls it (NIC3) or its bus id."""

    label: str
    name: str | None = None
    pci: str | None = None
    numa_node: int | None = None
    pci_path: tuple[str, ...] = ()
    local_cpus: tuple[int, ...] = ()
    ports: tuple[Port, ...] = ()
    driver: str | None = None
    vendor: str | None = None
    firmware: str | None = None
    board: str | None = None
    #: Identity of the physical card: equal for two ports of one card.
    card: str | None = None
    #: Bus id of the physical function when this one is an SR-IOV virtual function.
    physical_function: str | None = None
    #: PCIe atomics: True, False (known absent) or None (unknown).
    atomics: bool | None = None
    #: The uverbs character device can be opened here: True, False or None (a dump cannot tell).
    openable: bool | None = None
    #: PCI class as an integer (0x020700 InfiniBand, 0x020000 Ethernet).
    pci_class: int | None = None
    #: The fastest PCIe link it can train, as for a GPU.
    link_speed: str | None = None
    link_width: int | None = None

    @property
    def id(self) -> str:
        """The name in a plan: the verbs name where known."""
        return self.name or self.label


@dataclass(frozen=True)
class Allowed:
    """The share of a host that this process may use: CPUs by affinity and cpuset, memory nodes by Mems_allowed."""

    cpus: tuple[int, ...] = ()
    mems: tuple[int, ...] = ()


@dataclass(frozen=True)
class Topology:
    """One host. `levels` holds path levels that the source states itself, keyed (GPU index, HCA label)."""

    source: str
    hostname: str | None = None
    packages: tuple[int, ...] = ()
    cpus: tuple[Cpu, ...] = ()
    numa_nodes: tuple[NumaNode, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    hcas: tuple[Hca, ...] = ()
    allowed: Allowed = Allowed()
    levels: dict[tuple[int, str], str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    processor: Processor | None = None


def path_level(topology: Topology, gpu: Gpu, hca: Hca) -> str | None:
    """PIX, PXB, PHB, NODE or SYS: what the source states for the pair, else computed; None when unknowable."""
    stated = topology.levels.get((gpu.index, hca.label))
    if stated:
        return stated
    level = level_between(gpu.pci_path, gpu.numa_node, hca.pci_path, hca.numa_node)
    # A matrix states levels: a pair whose cells it lost is not across nodes, but may be nearer than NODE.
    return None if level == "NODE" and topology.levels and not gpu.pci_path else level


def level_between(path: Sequence[str], node: int | None, other_path: Sequence[str], other_node: int | None) -> str | None:
    """The level of two devices by the bridges above them (root first) and their NUMA nodes; None when unknowable.

    A path from sysfs begins with its root complex ("pci0000:80") and lists every port: a switch is its upstream and its
    downstream port. A path from an NCCL XML has no root complex and lists a switch once, real or made up by a cloud
    (ffff:ff:01.0), so there nothing may lie between the shared switch and the device. Root complexes that no source
    names are not shared: flat VM trees give NODE or SYS by NUMA node, and None where a node is unknown.
    """
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(path, other_path, strict=False))))
    if shared:
        nearest = path[shared - 1]
        if nearest.startswith("pci"):
            return "PHB"
        ports_below = 1 if path[0].startswith("pci") else 0
        return "PIX" if max(len(path), len(other_path)) - shared <= ports_below else "PXB"
    if node is None or other_node is None:
        return None
    return "NODE" if node == other_node else "SYS"
