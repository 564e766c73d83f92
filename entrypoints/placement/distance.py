"""How near an HCA is to a GPU, and the one order in which devices are compared: the bus order, never the name order."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from entrypoints.topology.model import Gpu, Hca, Topology

#: Path level of a pair by (GPU index, HCA label); None where the source tells nothing.
Levels = Mapping[tuple[int, str], str | None]

#: Levels below the CPU: traffic stays inside PCIe switches.
NEAR = ("PIX", "PXB")


@lru_cache(maxsize=4096)
def bus_key(pci: str) -> tuple[int, ...]:
    """A bus id as numbers (domain, bus, device, function), so that 0009 sorts before 000a and 10000 after both."""
    try:
        return tuple(int(part, 16) for part in re.split("[:.]", pci))
    except ValueError:
        return ()


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which mlx5_2 comes before mlx5_10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def hca_order(hca: Hca) -> tuple[object, ...]:
    """Bus order; an HCA whose bus id is unknown comes after the others, by its label (NIC2 before NIC10)."""
    return (0, bus_key(hca.pci), natural(hca.label)) if hca.pci else (1, (), natural(hca.label))


def gpu_order(gpu: Gpu) -> tuple[object, ...]:
    """Bus order, by index where the bus id is unknown."""
    return (0, bus_key(gpu.pci), gpu.index) if gpu.pci else (1, (), gpu.index)


def card_of(hca: Hca) -> str:
    """What identifies the physical card: the source's word, else the bus id or rdma-core name without its function."""
    if hca.card and hca.card.strip("0:x"):
        return hca.card
    if hca.pci:
        return hca.pci.rpartition(".")[0] or hca.pci
    # rdma-core's persistent names end in the PCI function: rocep1s0f0 and rocep1s0f1 are one card.
    return re.sub(r"(?<=s\d)f\d+$", "", hca.id)


def levels_of(topology: Topology, gpus: Iterable[Gpu], hcas: Iterable[Hca]) -> dict[tuple[int, str], str | None]:
    """The level of every pair: from the source, its PCI tree or its NUMA nodes; None where they do not tell."""
    from entrypoints.topology import path_level

    nics = list(hcas)
    return {(gpu.index, hca.label): path_level(topology, gpu, hca) for gpu in gpus for hca in nics}


def by_node(gpu: Gpu, hca: Hca) -> str | None:
    """NODE or SYS by NUMA node alone. numa_node -1 or None is unknown, not node 0."""
    if gpu.numa_node is None or hca.numa_node is None or gpu.numa_node < 0 or hca.numa_node < 0:
        return None
    return "NODE" if gpu.numa_node == hca.numa_node else "SYS"
