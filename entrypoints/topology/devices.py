"""GPUs and RDMA devices of a sysfs root: the path above a device, its locality, ports and GIDs, AtomicOps from config space."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from entrypoints.topology.model import Gid, Gpu, Hca, Port
from entrypoints.topology.tree import Tree
from entrypoints.topology.values import bus_id, bus_order, ids_in, integer, natural

DEVICES = "sys/bus/pci/devices"
RDMA = "sys/class/infiniband"
PROC_GPUS = "proc/driver/nvidia/gpus"

#: PCI classes of compute GPUs by vendor: NVIDIA, AMD, Intel, the first of these that a host has.
GPU_CLASSES: dict[int | None, tuple[int, ...]] = {0x10DE: (0x0300, 0x0302), 0x1002: (0x0302, 0x0380, 0x1200), 0x8086: (0x0380,)}
#: Empty GID slots after which the rest of a table (up to 256 slots) is not read.
EMPTY_SLOTS = 4

_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")


@dataclass(frozen=True)
class Locality:
    """The place of a PCI device in its host. `path` lists what is above it, root complex ("pci0000:80") first."""

    folder: str
    pci: str | None
    path: tuple[str, ...]
    numa_node: int | None
    cpus: tuple[int, ...]
    link_speed: str | None = None
    link_width: int | None = None


def locality(tree: Tree, folder: str) -> Locality | None:
    """The locality of the device whose sysfs folder (or a link to it) is given; None when it does not exist."""
    real = tree.resolve(folder)
    if not real:
        return None
    parts = [part for part in real.split("/") if _ROOT.fullmatch(part) or _FUNCTION.fullmatch(part)]
    pci = parts.pop() if parts and _FUNCTION.fullmatch(parts[-1]) else None
    cpus = ids_in(tree, f"{real}/local_cpulist", f"{real}/local_cpus")
    node = integer(tree.text(f"{real}/numa_node"))
    speed = tree.text(f"{real}/max_link_speed")
    width = integer(tree.text(f"{real}/max_link_width"), 1)
    # A VM's devices say "Unknown" and 255 lanes.
    is_real = bool(speed and speed[0].isdecimal() and len(speed) < 40)
    return Locality(real, pci, tuple(parts), node, cpus or (), speed if is_real else None, width if is_real and width != 255 else None)


def read_gpus(tree: Tree) -> tuple[list[Gpu], list[str]]:
    """GPUs in PCI bus order, and warnings.

    The NVIDIA driver's own list wins, because a container sees every PCI device of the host but only
    its GPUs in /proc/driver/nvidia/gpus. Without it, display and accelerator controllers of GPU makers count.
    """
    warnings: list[str] = []
    on_bus = {bus_id(name) or name: name for name in tree.names(DEVICES)}
    listed = [name for name in tree.names(PROC_GPUS) if bus_id(name)]
    if listed:
        ids = [name for name in listed if bus_id(name) in on_bus]
        if missing := sorted(set(listed) - set(ids)):
            warnings.append(f"{PROC_GPUS} lists {', '.join(missing)}, which {DEVICES} does not have")
    else:
        ids = gpu_functions(tree, list(on_bus.values()))
    gpus: list[Gpu] = []
    for name in sorted(ids, key=bus_order):
        pci = bus_id(name)
        locus = locality(tree, f"{DEVICES}/{on_bus.get(pci or name, name)}")
        if locus is None:
            warnings.append(f"{DEVICES}/{name} is a broken link")
            continue
        title, uuid = _information(tree, name)
        gpus.append(
            Gpu(
                index=len(gpus),
                pci=pci,
                name=title,
                uuid=uuid,
                numa_node=locus.numa_node,
                pci_path=locus.path,
                local_cpus=locus.cpus,
                link_speed=locus.link_speed,
                link_width=locus.link_width,
            )
        )
    return gpus, warnings


def gpu_functions(tree: Tree, names: list[str]) -> list[str]:
    """The PCI functions that are compute GPUs."""
    of_maker: dict[int, list[str]] = {}
    for name in names:
        pci_class = integer(tree.text(f"{DEVICES}/{name}/class"))
        if pci_class is not None and pci_class >> 16 in (0x03, 0x12):
            vendor = integer(tree.text(f"{DEVICES}/{name}/vendor"))
            if is_gpu(vendor, pci_class):
                of_maker.setdefault(vendor or 0, []).append(name)
    return of_maker.get(preferred_maker(of_maker) or 0, [])


def is_gpu(vendor: int | None, pci_class: int) -> bool:
    """True for a compute GPU: NVIDIA 3D or VGA, AMD display or accelerator, Intel display without a VGA head."""
    return pci_class >> 8 in GPU_CLASSES.get(vendor, ())


def preferred_maker(vendors: Collection[int]) -> int | None:
    """The maker whose GPUs are the ones to run on: an integrated one of another maker is not."""
    return next((vendor for vendor in GPU_CLASSES if vendor in vendors), None)


def _information(tree: Tree, name: str) -> tuple[str | None, str | None]:
    """Model and UUID as the NVIDIA driver prints them."""
    text = tree.text(f"{PROC_GPUS}/{name}/information") or ""
    model = re.search(r"^Model:\s*(\S.*?)\s*$", text, re.MULTILINE)
    uuid = re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", text, re.MULTILINE)
    return (model[1] if model else None), (uuid[1] if uuid else None)


def gpu_memory_nodes(tree: Tree) -> set[int]:
    """NUMA nodes that the NVIDIA driver made of GPU memory (Grace, POWER9)."""
    texts = (tree.text(f"{PROC_GPUS}/{name}/numa_status") or "" for name in tree.names(PROC_GPUS))
    return {int(node) for text in texts for node in re.findall(r"^Node:\s*(\d{1,5})\s*$", text, re.MULTILINE)[:1]}


def atomic_ops(config: bytes | None) -> bool | None:
    """PCIe AtomicOps completer support by DevCap2 (PCIe base specification 7.5.3.15); None when config is cut.

    Unprivileged, the kernel shows only the first 64 bytes, where no capability body lies.
    """
    if config is None or len(config) < 256 or not config[0x06] & 0x10:
        return None
    offset = config[0x34] & 0xFC
    for _ in range(48):
        if offset < 0x40 or offset + 0x28 > len(config):
            return None
        if config[offset] == 0x10:
            if config[offset + 2] & 0x0F < 2:
                return None
            capabilities = int.from_bytes(config[offset + 0x24 : offset + 0x28], "little")
            return bool(capabilities & 0x180)
        offset = config[offset + 1] & 0xFC
    return None


def read_hcas(tree: Tree) -> list[Hca]:
    """All RDMA devices in natural name order, software ones included (they have no bus id)."""
    return [_hca(tree, name) for name in sorted(tree.names(RDMA), key=natural) if tree.resolve(f"{RDMA}/{name}")]


def _hca(tree: Tree, name: str) -> Hca:
    folder = tree.resolve(f"{RDMA}/{name}") or f"{RDMA}/{name}"
    slot = locality(tree, f"{folder}/device")
    pci = slot.pci if slot else None
    device = slot.folder if slot and pci else None
    numbers = sorted(int(port) for port in tree.names(f"{folder}/ports") if port.isdecimal() and len(port) < 4)
    ports = tuple(_port(tree, folder, number, device, len(numbers)) for number in numbers)
    driver = tree.link(f"{device}/driver") if device else None
    if not device and tree.text(f"{folder}/parent") is not None:
        driver = "rdma_rxe"
    # A software device has no bus id of its own, but it is as near to a GPU as the network card below it.
    locus = slot if device else _underlying(tree, folder, ports)
    physical = tree.link(f"{device}/physfn") if device else None
    config = tree.read_bytes(f"{device}/config", 4096) if device else None
    return Hca(
        label=name,
        name=name,
        pci=pci,
        numa_node=locus.numa_node if locus else None,
        pci_path=locus.path if locus and locus.pci else (),
        local_cpus=locus.cpus if locus else (),
        ports=ports,
        driver=driver,
        vendor=tree.text(f"{device}/vendor") if device else None,
        firmware=tree.text(f"{folder}/fw_ver") or None,
        board=tree.text(f"{folder}/board_id") or None,
        card=_card(tree.text(f"{folder}/sys_image_guid"), pci),
        physical_function=bus_id(physical),
        atomics=atomic_ops(config),
        pci_class=integer(tree.text(f"{device}/class")) if device else None,
        link_speed=slot.link_speed if slot else None,
        link_width=slot.link_width if slot else None,
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
    state = tree.text(f"{port}/state")
    rate = re.match(r"\d{1,6}(?:\.\d{1,3})?", tree.text(f"{port}/rate") or "")
    gids = _gids(tree, port)
    netdev = next((gid.netdev for gid in gids if gid.netdev), None)
    if netdev is None and device:
        netdev = _netdev(tree, device, number, ports)
    return Port(
        number=number,
        state=state.rpartition(":")[2].strip() or None if state else None,
        link_layer=tree.text(f"{port}/link_layer") or None,
        rate_gbit=float(rate[0]) if rate else None,
        netdev=netdev,
        gids=gids,
    )


def _gids(tree: Tree, port: str) -> tuple[Gid, ...]:
    slots = sorted((name for name in tree.names(f"{port}/gids") if name.isdecimal() and len(name) < 5), key=int)
    filled: list[Gid] = []
    empty = 0
    for slot in slots:
        gid = tree.text(f"{port}/gids/{slot}")
        if not gid or not gid.strip("0:"):
            empty += 1
            if empty >= EMPTY_SLOTS:
                break
            continue
        empty = 0
        kind = tree.text(f"{port}/gid_attrs/types/{slot}") or None
        filled.append(Gid(int(slot), gid, kind, tree.text(f"{port}/gid_attrs/ndevs/{slot}") or None))
    return tuple(filled)


def _netdev(tree: Tree, device: str, number: int, ports: int) -> str | None:
    """The port's network interface: by dev_port (or dev_id) on a card with several ports, else the only one."""
    names = tree.names(f"{device}/net")
    if ports < 2:
        return names[0] if names else None
    for name in names:
        index = integer(tree.text(f"{device}/net/{name}/dev_port")) or integer(tree.text(f"{device}/net/{name}/dev_id"))
        if (index or 0) == number - 1:
            return name
    return None


def _underlying(tree: Tree, folder: str, ports: tuple[Port, ...]) -> Locality | None:
    """The locality of the network card below a software device (rxe, siw), by its parent interface."""
    names = [tree.text(f"{folder}/parent"), *(port.netdev for port in ports)]
    for name in names:
        if name and "/" not in name:
            locus = locality(tree, f"sys/class/net/{name}/device")
            if locus:
                return locus
    return None
