"""A Topology as tables for people: NUMA nodes, GPUs, HCAs, and the level of every GPU to every HCA."""

from entrypoints.cpulist import format_list
from entrypoints.facts.nics import foreign_to_ibgda
from entrypoints.output import table
from entrypoints.topology.model import Hca, NumaNode, Topology, path_level


def describe(topology: Topology) -> str:
    """All tables, with a line on the host before them. Unknown is "?", nothing is "-"."""
    cores = {(cpu.package, cpu.siblings or (cpu.id,)) for cpu in topology.cpus}
    numbers = map(len, (topology.packages, topology.numa_nodes, cores, topology.cpus, topology.gpus, topology.hcas))
    counted = ", ".join(map(_count, numbers, ("package", "NUMA node", "core", "CPU", "GPU", "HCA")))
    pairs = topology.gpus and topology.hcas
    tables = ((topology.numa_nodes, _nodes), (topology.gpus, _gpus), (topology.hcas, _hcas), (pairs, _levels))
    return "\n\n".join([f"{topology.hostname or topology.source}: {counted}", *(make(topology) for rows, make in tables if rows)])


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
        if gpu.nvlinks_active and not gpu.nvlink:
            nvlink += f" ({_count(gpu.nvlinks_active, 'active link')})"
        rows.append((gpu.index, _known(gpu.pci), _known(gpu.numa_node), gpu.name or "?", link, nvlink))
    return table(("GPU", "PCI", "NODE", "NAME", "LINK", "NVLINK TO"), rows)


def _hcas(topology: Topology) -> str:
    rows = []
    for hca in topology.hcas:
        for port in hca.ports or (None,):
            cells: tuple[object, ...] = ("?", "?", "?", "?")
            if port is not None:
                rate = "?" if port.rate_gbit is None else f"{port.rate_gbit:g} Gb/s"
                cells = (port.number, _known(port.state), _known(port.link_layer), rate)
            rows.append((hca.id, _known(hca.pci), _known(hca.numa_node), *cells, _notes(hca)))
    return table(("HCA", "PCI", "NODE", "PORT", "STATE", "LINK LAYER", "RATE", "NOTE"), rows)


def _notes(hca: Hca) -> str:
    notes = (
        hca.label if hca.label != hca.id else None,
        hca.driver if hca.driver and foreign_to_ibgda(hca.driver, hca.vendor, hca.name) else None,
        f"VF of {hca.physical_function}" if hca.physical_function else None,
        "no PCIe atomics" if hca.atomics is False else None,
        "uverbs does not open here" if hca.openable is False else None,
    )
    return ", ".join(filter(None, notes))


def _levels(topology: Topology) -> str:
    rows = [(f"GPU{gpu.index}", *(path_level(topology, gpu, hca) or "?" for hca in topology.hcas)) for gpu in topology.gpus]
    return table(("", *(hca.id for hca in topology.hcas)), rows)
