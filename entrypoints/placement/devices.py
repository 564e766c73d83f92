"""What one GPU or HCA is to placement: its ports, link layer and rate, its card, its place in the bus order, and how near two are."""

import re
from collections.abc import Iterable, Mapping

from entrypoints.facts import nics
from entrypoints.topology.model import Gpu, Hca, Port, Topology, path_level
from entrypoints.topology.values import bus_order, natural

#: Path level of a pair by (GPU index, HCA label); None where the source tells nothing.
Levels = Mapping[tuple[int, str], str | None]

#: Levels below the CPU: traffic stays inside PCIe switches.
NEAR = ("PIX", "PXB")


def is_active(port: Port) -> bool | None:
    """True or False by the port's state ("ACTIVE", "4: ACTIVE", "PORT_DOWN"), None when it is not known."""
    if not port.state:
        return None
    return port.state.upper().rpartition(" ")[2].removeprefix("PORT_") == "ACTIVE"


def active_ports(hca: Hca) -> list[Port]:
    """Ports that are not known to be down; the best first: active, then by rate, then by number."""
    up = [port for port in hca.ports if is_active(port) is not False]
    return sorted(up, key=lambda port: (is_active(port) is None, -(port.rate_gbit or 0), port.number))


def link_layer(hca: Hca) -> str | None:
    """ "InfiniBand" or "Ethernet" by the ports, else by PCI class, else by the name, else None."""
    layers = [port.link_layer for port in active_ports(hca) if port.link_layer]
    if layers:
        return "InfiniBand" if any(layer.lower().startswith("infini") for layer in layers) else "Ethernet"
    if hca.pci_class is not None and hca.pci_class >> 8 in (0x0207, 0x0200):
        return "InfiniBand" if hca.pci_class >> 8 == 0x0207 else "Ethernet"
    if hca.name and re.search(r"^ibp|_ib\d", hca.name):
        return "InfiniBand"
    if hca.name and re.search(r"^roce|_eth\d|_an\d", hca.name):
        return "Ethernet"
    return None


def rate_gbit(hca: Hca) -> float | None:
    """Rate of the best port in Gbit/s; None when no port has one."""
    return max((port.rate_gbit for port in active_ports(hca) if port.rate_gbit), default=None)


def foreign_driver(hca: Hca) -> str | None:
    """The name of an HCA that NVSHMEM's IBGDA cannot drive ("AWS EFA"), None for mlx5 and for the unknown."""
    return nics.foreign_to_ibgda(hca.driver, hca.vendor, hca.name)


def hca_order(hca: Hca) -> tuple[object, ...]:
    """Bus order, never name order; an HCA whose bus id is unknown comes after the others, by its label (NIC2 before NIC10)."""
    return (bus_order(hca.pci), natural(hca.label))


def gpu_order(gpu: Gpu) -> tuple[object, ...]:
    """Bus order, by index where the bus id is unknown."""
    return (bus_order(gpu.pci), gpu.index)


def card_of(hca: Hca) -> str:
    """Identity of the physical card: the source's word, else the bus id or rdma-core name without its function."""
    if hca.card and hca.card.strip("0:x"):
        return hca.card
    if hca.pci:
        return hca.pci.rpartition(".")[0] or hca.pci
    # rdma-core's persistent names end in the PCI function: rocep1s0f0 and rocep1s0f1 are one card.
    return re.sub(r"(?<=s\d)f\d+$", "", hca.id)


def levels_of(topology: Topology, gpus: Iterable[Gpu]) -> dict[tuple[int, str], str | None]:
    """The level of every GPU and HCA: from the source, its PCI tree or its NUMA nodes; None where they do not tell."""
    return {(gpu.index, hca.label): path_level(topology, gpu, hca) for gpu in gpus for hca in topology.hcas}
