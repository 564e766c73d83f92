"""A Topology from a sysfs and proc root, live or dumped."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from entrypoints.topology.devices import gpu_memory_nodes, read_gpus, read_hcas
from entrypoints.topology.live import with_nvml, with_verbs
from entrypoints.topology.model import Gpu, Hca, NumaNode, Topology
from entrypoints.topology.processors import online_cpus, online_nodes, read_allowed, read_cpus, read_nodes, read_processor
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
    gpus, notes = read_gpus(tree)
    warnings += notes
    hcas = read_hcas(tree)
    if tree.live:
        gpus, notes = with_nvml(gpus)
        warnings += notes
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
        hostname=os.uname().nodename if tree.live else None,
        packages=tuple(sorted({cpu.package for cpu in cpus if cpu.package is not None})),
        cpus=cpus,
        numa_nodes=nodes,
        gpus=tuple(gpus),
        hcas=tuple(hcas),
        allowed=allowed,
        warnings=tuple(warnings),
        processor=read_processor(tree),
    )


def with_notes(gpus: Sequence[Gpu], hcas: Sequence[Hca], data: bytes | None) -> tuple[list[Gpu], list[Hca]]:
    """Add what a snapshot noted of its live host beyond sysfs: open uverbs nodes, atomics, NVML's NUMA nodes and NVLinks.

    Notes that are no JSON, or of other types than `snapshot` writes, are passed over.
    """
    try:
        notes = json.loads(data or b"{}")
        of_hcas = {name: (note.get("openable"), note.get("atomics")) for name, note in notes.get("hcas", {}).items()}
        of_gpus = {
            pci: (note.get("numa_node"), note.get("nvlink"), note.get("nvlinks_active")) for pci, note in notes.get("gpus", {}).items()
        }
    except (ValueError, AttributeError, RecursionError):
        return list(gpus), list(hcas)
    noted_hcas = []
    for hca in hcas:
        openable, atomics = (value if isinstance(value, bool) else None for value in of_hcas.get(hca.name, (None, None)))
        noted_hcas.append(replace(hca, openable=openable, atomics=hca.atomics if atomics is None else atomics))
    noted_gpus = []
    for gpu in gpus:
        node, peers, links = of_gpus.get(gpu.pci, (None, None, None))
        if gpu.numa_node is None and isinstance(node, int) and 0 <= node < MAX_ID:
            gpu = replace(gpu, numa_node=node)
        if isinstance(peers, list) and all(isinstance(peer, int) and 0 <= peer < len(gpus) for peer in peers):
            gpu = replace(gpu, nvlink=tuple(peers))
        if isinstance(links, int) and 0 <= links < MAX_ID:
            gpu = replace(gpu, nvlinks_active=links)
        noted_gpus.append(gpu)
    return noted_gpus, noted_hcas


def place(devices: Sequence[Device], nodes: Sequence[NumaNode], online: Sequence[int], warnings: list[str]) -> list[Device]:
    """Give devices without a NUMA node (-1) one where it is certain: the only node, or the one with their local CPUs."""
    bearing = [node.id for node in nodes if node.cpus] or [node.id for node in nodes]
    node_ids = {node.id for node in nodes}
    by_cpus = {frozenset(node.cpus): node.id for node in nodes if node.cpus}
    usable = {cpu for node in nodes for cpu in node.cpus}
    result = []
    unknown = []
    for device in devices:
        if device.numa_node is not None and node_ids and device.numa_node not in node_ids:
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
