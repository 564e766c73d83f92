"""RDMA devices, ports and GIDs from /sys/class/infiniband."""

import re

from entrypoints.topology.model import Gid, Hca, Port
from entrypoints.topology.pci import Locality, atomic_ops, locality
from entrypoints.topology.tree import Tree, read_text
from entrypoints.topology.values import bus_id, integer, natural

CLASS = "sys/class/infiniband"

#: Empty GID slots after which the rest of a table (up to 256 slots) is not read.
EMPTY_SLOTS = 4


def read_hcas(tree: Tree) -> list[Hca]:
    """All RDMA devices in natural name order, software ones included (they have no bus id)."""
    return [_hca(tree, name) for name in sorted(tree.names(CLASS), key=natural) if tree.resolve(f"{CLASS}/{name}")]


def _hca(tree: Tree, name: str) -> Hca:
    folder = tree.resolve(f"{CLASS}/{name}") or f"{CLASS}/{name}"
    where = locality(tree, f"{folder}/device")
    pci = where.pci if where else None
    device = where.folder if where and pci else None
    numbers = sorted(int(port) for port in tree.names(f"{folder}/ports") if port.isdecimal() and len(port) < 4)
    ports = tuple(_port(tree, folder, number, device, len(numbers)) for number in numbers)
    driver: str | None = None
    if device:
        driver = tree.link(f"{device}/driver")
    elif read_text(tree, f"{folder}/parent") is not None:
        driver = "rdma_rxe"
    # A software device has no bus id of its own, but it is as near to a GPU as the network card below it.
    place = where if device else _underlying(tree, folder, ports)
    physical = tree.link(f"{device}/physfn") if device else None
    config = tree.read_bytes(f"{device}/config", 4096) if device else None
    return Hca(
        label=name,
        name=name,
        pci=pci,
        numa_node=place.numa_node if place else None,
        pci_path=place.path if place and place.pci else (),
        local_cpus=place.cpus if place else (),
        ports=ports,
        driver=driver,
        vendor=read_text(tree, f"{device}/vendor") if device else None,
        firmware=read_text(tree, f"{folder}/fw_ver") or None,
        board=read_text(tree, f"{folder}/board_id") or None,
        card=_card(read_text(tree, f"{folder}/sys_image_guid"), pci),
        physical_function=bus_id(physical),
        atomics=atomic_ops(config),
        pci_class=integer(read_text(tree, f"{device}/class")) if device else None,
        link_speed=where.link_speed if where else None,
        link_width=where.link_width if where else None,
    )


def _card(guid: str | None, pci: str | None) -> str | None:
    """Equal for the ports and functions of one card: its system image GUID, else its PCI slot.

    Hypervisors hide the GUID by zeros, and a zero vendor part belongs to no maker.
    """
    if guid and re.fullmatch(r"[0-9a-fA-F]{4}(?::[0-9a-fA-F]{4}){3}", guid) and not guid.startswith("0000:"):
        return guid.lower()
    return pci.rpartition(".")[0] if pci else None


def _port(tree: Tree, folder: str, number: int, device: str | None, ports: int) -> Port:
    port = f"{folder}/ports/{number}"
    state = read_text(tree, f"{port}/state")
    rate = re.match(r"\d{1,6}(?:\.\d{1,3})?", read_text(tree, f"{port}/rate") or "")
    gids = _gids(tree, port)
    netdev = next((gid.netdev for gid in gids if gid.netdev), None)
    if netdev is None and device:
        netdev = _netdev(tree, device, number, ports)
    return Port(
        number=number,
        state=state.rpartition(":")[2].strip() or None if state else None,
        link_layer=read_text(tree, f"{port}/link_layer") or None,
        rate_gbps=float(rate[0]) if rate else None,
        netdev=netdev,
        gids=gids,
    )


def _gids(tree: Tree, port: str) -> tuple[Gid, ...]:
    slots = sorted((name for name in tree.names(f"{port}/gids") if name.isdecimal() and len(name) < 5), key=int)
    found: list[Gid] = []
    empty = 0
    for slot in slots:
        gid = read_text(tree, f"{port}/gids/{slot}")
        if not gid or not gid.strip("0:"):
            empty += 1
            if empty >= EMPTY_SLOTS:
                break
            continue
        empty = 0
        kind = read_text(tree, f"{port}/gid_attrs/types/{slot}") or None
        found.append(Gid(int(slot), gid, kind, read_text(tree, f"{port}/gid_attrs/ndevs/{slot}") or None))
    return tuple(found)


def _netdev(tree: Tree, device: str, number: int, ports: int) -> str | None:
    """The port's network interface: by dev_port (or dev_id) on a card with several ports, else the only one."""
    names = tree.names(f"{device}/net")
    if ports < 2:
        return names[0] if names else None
    for name in names:
        index = integer(read_text(tree, f"{device}/net/{name}/dev_port")) or integer(read_text(tree, f"{device}/net/{name}/dev_id"))
        if (index or 0) == number - 1:
            return name
    return None


def _underlying(tree: Tree, folder: str, ports: tuple[Port, ...]) -> Locality | None:
    """The locality of the network card below a software device (rxe, siw), by its parent interface."""
    names = [read_text(tree, f"{folder}/parent"), *(port.netdev for port in ports)]
    for name in names:
        if name and "/" not in name:
            where = locality(tree, f"sys/class/net/{name}/device")
            if where:
                return where
    return None
