"""A Topology from a sysfs and proc root, live or dumped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from entrypoints.topology.allowed import read_allowed
from entrypoints.topology.model import Gpu, Hca, NumaNode, PciBridge, Topology
from entrypoints.topology.pci import gpu_memory_nodes, read_gpus
from entrypoints.topology.processors import online_cpus, online_nodes, read_cpus, read_nodes, read_processor
from entrypoints.topology.rdma import read_hcas
from entrypoints.topology.tree import Tree
from entrypoints.topology.values import MAX_ID

Device = TypeVar("Device", Gpu, Hca)

#: Where `snapshot` keeps what is not in sysfs.
NOTES = "epbox/live.json"


def read_sysfs(tree: Tree, source: str) -> Topology:
    """Everything a plan needs of a root. Missing parts are None or empty, with a warning where that matters."""
    warnings: list[str] = []
    online = online_cpus(tree)
    if not online:
        warnings.append("no CPU is listed under sys/devices/system/cpu")
    gpus, found = read_gpus(tree)
    warnings += found
    hcas = read_hcas(tree)
    if tree.live:
        from entrypoints.topology.live import with_nvml, with_verbs

        gpus, found = with_nvml(gpus)
        warnings += found
        hcas = with_verbs(tree, hcas)
    else:
        gpus, hcas = with_notes(gpus, hcas, tree.read_bytes(NOTES, 1 << 20))
    allowed = read_allowed(tree, online, online_nodes(tree) or (0,))
    nodes = read_nodes(tree, allowed.cpus, gpu_memory_nodes(tree), bool(gpus))
    cpus = read_cpus(tree, allowed.cpus)
    gpus = place(gpus, nodes, online, warnings)
    hcas = place(hcas, nodes, online, warnings)
    return Topology(
        source=source,
        hostname=_hostname(tree),
        packages=tuple(sorted({cpu.package for cpu in cpus if cpu.package is not None})),
        cpus=cpus,
        numa_nodes=nodes,
        bridges=bridges_of((*gpus, *hcas)),
        gpus=tuple(gpus),
        hcas=tuple(hcas),
        allowed=allowed,
        warnings=tuple(warnings),
        processor=read_processor(tree),
    )


def with_notes(gpus: Sequence[Gpu], hcas: Sequence[Hca], data: bytes | None) -> tuple[list[Gpu], list[Hca]]:
    """Add what a snapshot noted of its live host beyond sysfs: open uverbs nodes, atomics, NVML's NUMA nodes."""
    if data is None:
        return list(gpus), list(hcas)
    import json

    try:
        notes = json.loads(data)
        of_hcas, of_gpus = notes.get("hcas", {}), notes.get("gpus", {})
        hca_values = {name: (value.get("openable"), value.get("atomics")) for name, value in of_hcas.items()}
        gpu_nodes = {pci: value.get("numa_node") for pci, value in of_gpus.items()}
    except (ValueError, AttributeError, RecursionError):
        return list(gpus), list(hcas)
    for i, hca in enumerate(hcas := list(hcas)):
        openable, atomics = (value if isinstance(value, bool) else None for value in hca_values.get(hca.name, (None, None)))
        hcas[i] = replace(hca, openable=openable, atomics=hca.atomics if atomics is None else atomics)
    for i, gpu in enumerate(gpus := list(gpus)):
        node = gpu_nodes.get(gpu.pci)
        if gpu.numa_node is None and isinstance(node, int) and 0 <= node < MAX_ID:
            gpus[i] = replace(gpu, numa_node=node)
    return gpus, hcas


def _hostname(tree: Tree) -> str | None:
    if not tree.live:
        return None
    import os

    return os.uname().nodename


def place(devices: Sequence[Device], nodes: Sequence[NumaNode], online: Sequence[int], warnings: list[str]) -> list[Device]:
    """Give devices without a NUMA node (-1) one where it is certain: the only node, or the one with their local CPUs."""
    bearing = [node.id for node in nodes if node.cpus] or [node.id for node in nodes]
    known = {node.id for node in nodes}
    by_cpus = {frozenset(node.cpus): node.id for node in nodes if node.cpus}
    usable = {cpu for node in nodes for cpu in node.cpus}
    result = []
    unknown = []
    for device in devices:
        if device.numa_node is not None and known and device.numa_node not in known:
            warnings.append(f"{device.pci} names NUMA node {device.numa_node}, which is not online")
            device = replace(device, numa_node=None)
        if device.numa_node is None and device.pci is not None:
            local = frozenset(device.local_cpus)
            node = by_cpus.get(local & usable) if local and local != frozenset(online) else None
            if node is None and len(bearing) == 1:
                node = bearing[0]
            device = replace(device, numa_node=node)
            if node is None:
                unknown.append(device.pci)
        result.append(device)
    if unknown:
        warnings.append(f"the NUMA node of {', '.join(map(str, unknown))} is unknown")
    return result


def bridges_of(devices: Sequence[Gpu | Hca]) -> tuple[PciBridge, ...]:
    """The bridges above the devices, each once, parents first; a bridge lies on the node of the first device below it."""
    found: dict[str, PciBridge] = {}
    for device in devices:
        parent: str | None = None
        for pci in device.pci_path:
            known = found.get(pci)
            if known is None or (known.numa_node is None and device.numa_node is not None):
                found[pci] = PciBridge(pci, parent, device.numa_node)
            parent = pci
    return tuple(found.values())
