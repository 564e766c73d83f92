"""A Topology as NCCL system XML, for NCCL_TOPO_FILE (attributes as NCCL src/graph/topo.cc asks for them)."""

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from entrypoints.topology.model import Gpu, Hca, Processor, Topology
from entrypoints.topology.values import bus_id, bus_order

#: NCCL reads no longer attribute (MAX_STR_LEN of src/graph/xml.h); it finds a missing affinity itself.
MAX_VALUE = 254


def to_nccl_xml(topology: Topology) -> str:
    """NCCL system XML, version 1: one <cpu> a NUMA node, switches and devices below it.

    NCCL finds GPUs, NICs and NVLink itself and needs from the file only what a VM hides: which devices share a
    switch, and the node with its CPUs. So devices stand as plain <pci>. Devices on unknown nodes go to the first
    <cpu>, as NCCL itself does with NICs that it cannot place.
    """
    nodes = {node.id: node.cpus for node in topology.numa_nodes if node.cpus}
    every: tuple[Gpu | Hca, ...] = (*topology.gpus, *topology.hcas)
    devices = [device for device in every if device.pci]
    used = {device.numa_node for device in devices if device.numa_node is not None}
    kind = _kind(topology.processor)
    order = sorted(nodes.keys() | used) or [0]
    seen: set[str] = set()
    lines = ['<system version="1">']
    for node in order:
        mine = [d for d in devices if d.numa_node == node or (node == order[0] and d.numa_node not in order)]
        mask = _mask(nodes.get(node, ()))
        affinity = f' affinity="{mask}"' if len(mask) <= MAX_VALUE and nodes.get(node) else ""
        lines.append(f'  <cpu numaid="{node}"{affinity}{kind}>')
        lines += _level(mine, (), 2, seen)
        lines.append("  </cpu>")
    lines.append("</system>")
    return "\n".join(lines) + "\n"


def _kind(processor: Processor | None) -> str:
    """arch, vendor, familyid and modelid; NCCL asks its own CPU for those that are missing."""
    if processor is None or processor.arch is None:
        return ""
    arch = {"aarch64": "arm64", "ppc64le": "ppc64"}.get(processor.arch, processor.arch)
    family = processor.family
    if family is not None and family > 15:
        family = 15 + ((family - 15) << 4)
    values = {"arch": arch}
    if arch == "x86_64":
        values |= {"vendor": processor.vendor or "", "familyid": str(family or 0), "modelid": str(processor.model or 0)}
    return "".join(f" {key}={quoteattr(value)}" for key, value in values.items())


def _level(devices: Sequence[Gpu | Hca], above: tuple[str, ...], depth: int, seen: set[str]) -> list[str]:
    """The switches and devices directly below `above`, each once, in bus order."""
    indent = "  " * depth
    direct = [device for device in devices if _switches(device) == above]
    below: dict[str, list[Gpu | Hca]] = {}
    for device in devices:
        switches = _switches(device)
        if len(switches) > len(above):
            below.setdefault(switches[len(above)], []).append(device)
    lines = []
    for switch, inside in sorted(below.items(), key=lambda item: bus_order(item[0])):
        lines.append(f'{indent}<pci busid="{switch}" class="0x060400" {_link(inside[0])}>')
        lines += _level(inside, (*above, switch), depth + 1, seen)
        lines.append(f"{indent}</pci>")
    for device in sorted(direct, key=lambda device: bus_order(device.pci)):
        pci = device.pci or ""
        if pci in seen:
            continue
        seen.add(pci)
        pci_class = 0x030200 if isinstance(device, Gpu) else device.pci_class or 0x020700
        lines.append(f'{indent}<pci busid="{pci}" class="0x{pci_class:06x}" {_link(device)}/>')
    return lines


def _switches(device: Gpu | Hca) -> tuple[str, ...]:
    """The switches above a device, each once by its upstream port, as NCCL's own walk up sysfs counts them.

    A sysfs path is root complex, root port, then (upstream port, downstream port) a switch; a path from an NCCL
    XML holds switches only. A lone root port is no switch.
    """
    path = device.pci_path
    if not path or not path[0].startswith("pci"):
        return path
    ports = [pci for pci in path if bus_id(pci) == pci]
    # NCCL goes up from the device two ports at a time, so counting begins at the device.
    return tuple(reversed(ports[-2::-2]))


def _link(device: Gpu | Hca) -> str:
    """The link of a device, and of a switch by a device below it; NCCL takes "" and 0 for PCIe 3 with 16 lanes."""
    return f'link_speed={quoteattr(device.link_speed or "")} link_width="{device.link_width or 0}"'


def _mask(cpus: Sequence[int]) -> str:
    """Comma-separated 32-bit words, most significant first."""
    value = sum(1 << cpu for cpu in set(cpus))
    words = max(1, (value.bit_length() + 31) // 32)
    return ",".join(f"{value >> 32 * word & 0xFFFFFFFF:08x}" for word in reversed(range(words)))
