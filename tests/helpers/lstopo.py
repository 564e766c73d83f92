"""lstopo as the oracle: what hwloc lists of a host's sysfs tree, beside what we read from it."""

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

from entrypoints.topology.model import Gpu, Hca, Topology
from entrypoints.topology.values import ids_of_mask
from tests.helpers import tools

#: What the kernel says and no more: hwloc leaves memory nodes of GPUs out, and gives nodes without CPUs those of the nearest node.
_SETTINGS = {
    "HWLOC_COMPONENTS": "linux,stop",
    "HWLOC_THISSYSTEM": "0",
    "HWLOC_KEEP_NVIDIA_GPU_NUMA_NODES": "1",
    "HWLOC_USE_NUMA_DISTANCES": "0",
}


class Unit(NamedTuple):
    """One logical CPU."""

    package: int | None
    core: int | None
    cpu: int


class Node(NamedTuple):
    """A memory node. hwloc gives the memory of a GPU the CPUs near to that GPU; a Topology gives it none."""

    memory_bytes: int
    cpus: tuple[int, ...]


class Device(NamedTuple):
    """A PCI function: the CPUs near to it, and the bridges above it, without the root complex."""

    cpus: tuple[int, ...]
    bridges: tuple[str, ...]


class Listing(NamedTuple):
    units: set[Unit]
    nodes: dict[int, Node]
    devices: dict[str, Device]


def listing_of(topology: Topology) -> Listing:
    """The same of a Topology: its GPUs and its HCAs on the PCI bus are the devices."""
    functions: list[Gpu | Hca] = [*topology.gpus, *topology.hcas]
    return Listing(
        {Unit(cpu.package, cpu.core, cpu.id) for cpu in topology.cpus},
        {node.id: Node(node.memory_bytes or 0, node.cpus) for node in topology.numa_nodes if node.cpus or node.id in topology.allowed.mems},
        {device.pci: Device(device.local_cpus, device.pci_path[1:]) for device in functions if device.pci},
    )


def ask_lstopo(root: Path) -> Listing:
    """All CPUs, nodes and PCI functions that lstopo finds below `root`."""
    # With I/O, hwloc may drop packages that contradict a device's locality; CPUs are asked without.
    return Listing(*_list(root, "--no-io")[:2], _list(root, "--whole-io").devices)


def _list(root: Path, option: str) -> Listing:
    environment = {**os.environ, **_SETTINGS, "HWLOC_FSROOT": str(root)}
    command = [tools.path("lstopo"), "--of", "xml", option, "-"]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    machine = ET.fromstring(completed.stdout).find("object")
    assert machine is not None
    listing = Listing(set(), {}, {})
    _walk(machine, Unit(None, None, -1), Device((), ()), listing)
    return listing


def _walk(item: ET.Element, unit: Unit, above: Device, listing: Listing) -> None:
    kind, number = item.get("type"), int(item.get("os_index", -1))
    if item.get("cpuset"):
        above = above._replace(cpus=ids_of_mask(item.get("cpuset")) or ())
    if kind == "Package":
        unit = unit._replace(package=number)
    elif kind == "Core":
        unit = unit._replace(core=number)
    elif kind == "PU":
        listing.units.add(unit._replace(cpu=number))
    elif kind == "NUMANode":
        listing.nodes[number] = Node(int(item.get("local_memory", 0)), above.cpus)
    elif kind == "PCIDev":
        listing.devices[item.get("pci_busid", "")] = above
    elif kind == "Bridge" and item.get("pci_busid"):
        above = above._replace(bridges=(*above.bridges, item.get("pci_busid", "")))
    for child in item.findall("object"):
        _walk(child, unit, above, listing)
