"""A Topology as tables for people: NUMA nodes, GPUs, HCAs, and the level of every GPU to every HCA."""

from entrypoints.cpulist import format_list
from entrypoints.output import table
from entrypoints.topology.levels import path_level
from entrypoints.topology.model import Hca, NumaNode, Topology


def describe(topology: Topology) -> str:
    """All tables, with a line on the host before them. Unknown is "?", nothing is "-"."""
    cores = {(cpu.package, cpu.siblings or (cpu.id,)) for cpu in topology.cpus}
    counted = ", ".join(
        (
            _count(len(topology.packages), "package"),
            _count(len(topology.numa_nodes), "NUMA node"),
            _count(len(cores), "core"),
            _count(len(topology.cpus), "CPU"),
            _count(len(topology.gpus), "GPU"),
            _count(len(topology.hcas), "HCA"),
        )
    )
    parts = [f"{topology.hostname or topology.source}: {counted}"]
    if topology.numa_nodes:
        parts.append(_nodes(topology))
    if topology.gpus:
        parts.append(_gpus(topology))
    if topology.hcas:
        parts.append(_hcas(topology))
    if topology.gpus and topology.hcas:
        parts.append(_levels(topology))
    return "\n\n".join(parts)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _known(value: object) -> str:
    return "?" if value is None else str(value)


def memory(size: int | None) -> str:
    """Bytes in the largest unit that keeps three digits; "?" when unknown."""
    if size is None:
        return "?"
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            value = size / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size} B"


def _nodes(topology: Topology) -> str:
    rows = []
    idle: list[NumaNode] = []
    for node in topology.numa_nodes:
        if not node.cpus and node.memory_bytes == 0 and node.gpu_memory:
            idle.append(node)
            continue
        packages = sorted({cpu.package for cpu in topology.cpus if cpu.id in set(node.cpus) and cpu.package is not None})
        usable = not topology.allowed.mems or node.id in topology.allowed.mems
        note = "GPU memory" if node.gpu_memory else "" if usable else "memory not allowed"
        distances = " ".join(f"{distance}" for _, distance in sorted(node.distances.items())) if len(node.distances) <= 8 else "..."
        rows.append(
            (node.id, ",".join(map(str, packages)) or "-", format_list(node.cpus) or "-", memory(node.memory_bytes), distances or "?", note)
        )
    text = table(("NODE", "PACKAGE", "CPUS", "MEMORY", "DISTANCES", "NOTE"), rows)
    if idle:
        text += f"\n({_count(len(idle), 'further node')} of GPU memory without memory: {format_list(node.id for node in idle)})"
    return text


def _gpus(topology: Topology) -> str:
    rows = []
    for gpu in topology.gpus:
        link = f"{gpu.link_speed} x{gpu.link_width or '?'}" if gpu.link_speed else "?"
        nvlink = "?" if gpu.nvlink is None else format_list(gpu.nvlink) or "-"
        rows.append((gpu.index, _known(gpu.pci), _known(gpu.numa_node), gpu.name or "?", link, nvlink))
    return table(("GPU", "PCI", "NODE", "NAME", "LINK", "NVLINK TO"), rows)


def _hcas(topology: Topology) -> str:
    rows = []
    for hca in topology.hcas:
        base = (hca.id, _known(hca.pci), _known(hca.numa_node))
        notes = _notes(hca)
        for port in hca.ports or (None,):
            if port is None:
                rows.append((*base, "?", "?", "?", "?", notes))
            else:
                rate = "?" if port.rate_gbps is None else f"{port.rate_gbps:g} Gb/s"
                rows.append((*base, str(port.number), _known(port.state), _known(port.link_layer), rate, notes))
    return table(("HCA", "PCI", "NODE", "PORT", "STATE", "LINK LAYER", "RATE", "NOTE"), rows)


def _notes(hca: Hca) -> str:
    notes = []
    if hca.label != hca.id:
        notes.append(hca.label)
    if hca.driver and not hca.driver.startswith("mlx5"):
        notes.append(hca.driver)
    if hca.physical_function:
        notes.append(f"VF of {hca.physical_function}")
    if hca.atomics is False:
        notes.append("no PCIe atomics")
    if hca.openable is False:
        notes.append("uverbs does not open here")
    return ", ".join(notes)


def _levels(topology: Topology) -> str:
    rows = [(f"GPU{gpu.index}", *(path_level(topology, gpu, hca) or "?" for hca in topology.hcas)) for gpu in topology.gpus]
    return table(("", *(hca.id for hca in topology.hcas)), rows)
