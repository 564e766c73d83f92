"""PCIe path levels, as `nvidia-smi topo -m` words them, computed from what lies above two devices.

PIX   at most one switch lies between them: they share a bridge, and neither has more than one port of its own below it
PXB   they share a bridge, with further switches in between
PHB   they share only the root complex (host bridge)
NODE  different root complexes of one NUMA node
SYS   different NUMA nodes

A path from sysfs begins with its root complex ("pci0000:80") and lists every port: a switch is its upstream and its
downstream port. A path from an NCCL XML has no root complex and lists a switch once, real or made up by a cloud
(ffff:ff:01.0), so there nothing may lie between the shared switch and the device. Root complexes that no source
names are not shared: flat VM trees give NODE or SYS by NUMA node, and None where a node is unknown.
"""

from collections.abc import Sequence

from entrypoints.topology.model import Gpu, Hca, Topology


def path_level(topology: Topology, gpu: Gpu, hca: Hca) -> str | None:
    """PIX, PXB, PHB, NODE or SYS: what the source states for the pair, else computed; None when unknowable."""
    stated = topology.levels.get((gpu.index, hca.label))
    if stated:
        return stated
    level = level_between(gpu.pci_path, gpu.numa_node, hca.pci_path, hca.numa_node)
    # A matrix states levels: a pair whose cells it lost is not across nodes, but may be nearer than NODE.
    return None if level == "NODE" and topology.levels and not gpu.pci_path else level


def level_between(path: Sequence[str], node: int | None, other_path: Sequence[str], other_node: int | None) -> str | None:
    """The level of two devices by the bridges above them (root first) and their NUMA nodes."""
    shared = 0
    for ours, theirs in zip(path, other_path, strict=False):
        if ours != theirs:
            break
        shared += 1
    if shared:
        nearest = path[shared - 1]
        if nearest.startswith("pci"):
            return "PHB"
        ports_below = 1 if path[0].startswith("pci") else 0
        return "PIX" if max(len(path), len(other_path)) - shared <= ports_below else "PXB"
    if node is None or other_node is None:
        return None
    return "NODE" if node == other_node else "SYS"
