"""PCI devices: the path above a device, its locality, GPUs by class, AtomicOps from config space."""

import re
from dataclasses import dataclass

from entrypoints.topology.model import Gpu
from entrypoints.topology.tree import Tree, read_text
from entrypoints.topology.values import bus_id, bus_order, ids_of_list, ids_of_mask, integer

DEVICES = "sys/bus/pci/devices"
PROC_GPUS = "proc/driver/nvidia/gpus"

NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086

_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")


@dataclass(frozen=True)
class Locality:
    """Where a PCI device sits. `path` lists what is above it, root complex ("pci0000:80") first."""

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
    cpus = ids_of_list(read_text(tree, f"{real}/local_cpulist"))
    if cpus is None:
        cpus = ids_of_mask(read_text(tree, f"{real}/local_cpus"))
    node = integer(read_text(tree, f"{real}/numa_node"))
    speed = read_text(tree, f"{real}/max_link_speed")
    width = integer(read_text(tree, f"{real}/max_link_width"), 1)
    # A VM's devices say "Unknown" and 255 lanes.
    known = bool(speed and speed[0].isdecimal() and len(speed) < 40)
    return Locality(real, pci, tuple(parts), node, cpus or (), speed if known else None, width if known and width != 255 else None)


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
        if len(ids) < len(listed):
            missing = ", ".join(sorted(set(listed) - set(ids)))
            warnings.append(f"{PROC_GPUS} lists {missing}, which {DEVICES} does not have")
    else:
        ids = gpu_functions(tree, list(on_bus.values()))
    gpus: list[Gpu] = []
    for name in sorted(ids, key=bus_order):
        known = bus_id(name)
        where = locality(tree, f"{DEVICES}/{on_bus.get(known or name, name)}")
        if where is None:
            warnings.append(f"{DEVICES}/{name} is a broken link")
            continue
        title, uuid = _information(tree, name)
        gpus.append(
            Gpu(
                index=len(gpus),
                pci=known,
                name=title,
                uuid=uuid,
                numa_node=where.numa_node,
                pci_path=where.path,
                local_cpus=where.cpus,
                link_speed=where.link_speed,
                link_width=where.link_width,
            )
        )
    return gpus, warnings


def gpu_functions(tree: Tree, names: list[str]) -> list[str]:
    """The PCI functions that are compute GPUs: NVIDIA 3D/VGA, AMD display/accelerator, Intel display without a VGA head."""
    found: dict[int, list[str]] = {}
    for name in names:
        pci_class = integer(read_text(tree, f"{DEVICES}/{name}/class"))
        if pci_class is None or pci_class >> 16 not in (0x03, 0x12):
            continue
        vendor = integer(read_text(tree, f"{DEVICES}/{name}/vendor"))
        if vendor == NVIDIA and pci_class >> 8 in (0x0300, 0x0302):
            found.setdefault(NVIDIA, []).append(name)
        elif vendor == AMD and pci_class >> 8 in (0x0302, 0x0380, 0x1200):
            found.setdefault(AMD, []).append(name)
        elif vendor == INTEL and pci_class >> 8 == 0x0380:
            found.setdefault(INTEL, []).append(name)
    # One maker's GPUs are the ones to run on; an integrated one of another maker is not.
    return next((found[vendor] for vendor in (NVIDIA, AMD, INTEL) if vendor in found), [])


def _information(tree: Tree, name: str) -> tuple[str | None, str | None]:
    """Model and UUID as the NVIDIA driver prints them."""
    text = read_text(tree, f"{PROC_GPUS}/{name}/information") or ""
    model = re.search(r"^Model:\s*(\S.*?)\s*$", text, re.MULTILINE)
    uuid = re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", text, re.MULTILINE)
    return (model[1] if model else None), (uuid[1] if uuid else None)


def gpu_memory_nodes(tree: Tree) -> set[int]:
    """NUMA nodes that the NVIDIA driver made of GPU memory (Grace, POWER9)."""
    nodes = set()
    for name in tree.names(PROC_GPUS):
        match = re.search(r"^Node:\s*(\d{1,5})\s*$", read_text(tree, f"{PROC_GPUS}/{name}/numa_status") or "", re.MULTILINE)
        if match:
            nodes.add(int(match[1]))
    return nodes


def atomic_ops(config: bytes | None) -> bool | None:
    """PCIe AtomicOps completer support by DevCap2 (PCIe base specification 7.5.3.15); None when config is cut.

    Without CAP_SYS_ADMIN the kernel shows only the first 64 bytes, where no capability body lies.
    """
    if config is None or len(config) < 256:
        return None
    if not config[0x06] & 0x10:
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
