"""hwloc's XML export (`lstopo --of xml`, versions 1 to 3): CPUs, nodes, PCI tree, GPUs and OpenFabrics devices."""

import re
from dataclasses import dataclass, field, replace

from entrypoints.errors import UsageError
from entrypoints.topology.devices import is_gpu, preferred_maker
from entrypoints.topology.model import Allowed, Cpu, Gpu, Hca, NumaNode, Port, Topology
from entrypoints.topology.sysfs import place
from entrypoints.topology.values import bus_id, bus_order, ids_of_mask, integer, natural
from entrypoints.topology.xml_tree import Element, parse_xml

#: osdev_type of a verbs device: a number up to version 2 of the format, in version 3 a bit of a mask (hwloc.h, hwloc_obj_osdev_type_e).
OPENFABRICS = 3
OPENFABRICS_BIT = 1 << 5
#: enum ibv_port_state.
PORT_STATES = {"1": "DOWN", "2": "INIT", "3": "ARMED", "4": "ACTIVE"}


@dataclass(frozen=True)
class _Above:
    """The attributes that an object inherits from those around it."""

    core: int | None = None
    package: int | None = None
    l3: int | None = None
    path: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()


@dataclass
class _Host:
    version: int
    cpus: dict[int, Cpu] = field(default_factory=dict)
    nodes: dict[int, NumaNode] = field(default_factory=dict)
    gpus: list[Gpu] = field(default_factory=list)
    gpu_vendors: dict[str, int] = field(default_factory=dict)
    hcas: list[Hca] = field(default_factory=list)
    packages: set[int] = field(default_factory=set)
    l3: int = 0
    cores: dict[tuple[int | None, int | None], list[int]] = field(default_factory=dict)


def parse_hwloc(text: str, source: str) -> Topology:
    """A Topology from hwloc XML. Raises UsageError with the line for XML that is damaged or has no PU."""
    root = parse_xml(text, "topology", source)
    machine = next(iter(root.all("object")), None)
    if machine is None:
        raise UsageError("has no <object>", where=f"{source}:{root.line}", hint="is it `lstopo --of xml` output?")
    host = _Host(integer((root.get("version") or "1").partition(".")[0]) or 1)
    _walk(machine, _Above(), host)
    if not host.cpus:
        raise UsageError("has no PU", where=f"{source}:{machine.line}", hint="is it `lstopo --of xml` output?")
    allowed_cpus = _mask(machine, "allowed_cpuset") or tuple(host.cpus)
    allowed_nodes = _mask(machine, "allowed_nodeset") or tuple(host.nodes)
    usable = set(allowed_cpus)
    cpus = tuple(
        replace(cpu, siblings=tuple(sorted(usable.intersection(host.cores[cpu.package, cpu.core]))))
        for number, cpu in sorted(host.cpus.items())
        if number in usable
    )
    nodes = tuple(
        replace(node, cpus=tuple(cpu for cpu in node.cpus if cpu in usable), distances=_distances(root).get(number, {}))
        for number, node in sorted(host.nodes.items())
    ) or (NumaNode(0, tuple(sorted(usable & host.cpus.keys()))),)
    warnings: list[str] = []
    maker = preferred_maker(set(host.gpu_vendors.values()))
    gpus = sorted((gpu for gpu in host.gpus if host.gpu_vendors[gpu.pci or ""] == maker), key=lambda gpu: bus_order(gpu.pci))
    gpus = place([replace(gpu, index=i) for i, gpu in enumerate(gpus)], nodes, tuple(host.cpus), warnings)
    hcas = place(sorted(host.hcas, key=lambda hca: natural(hca.id)), nodes, tuple(host.cpus), warnings)
    return Topology(
        source=source,
        packages=tuple(sorted(host.packages)),
        cpus=cpus,
        numa_nodes=nodes,
        gpus=tuple(gpus),
        hcas=tuple(hcas),
        allowed=Allowed(tuple(cpu.id for cpu in cpus), tuple(n.id for n in nodes if n.id in set(allowed_nodes))),
        warnings=tuple(warnings),
    )


def _mask(element: Element, name: str) -> tuple[int, ...]:
    return ids_of_mask(element.get(name)) or ()


def _walk(element: Element, above: _Above, host: _Host) -> None:
    kind = element.get("type") or ""
    number = integer(element.get("os_index"))
    if element.get("cpuset"):
        above = replace(above, cpus=_mask(element, "cpuset"))
    if kind in ("Package", "Socket"):
        above = replace(above, package=number)
        if number is not None:
            host.packages.add(number)
    elif kind == "L3Cache" or (kind == "Cache" and element.get("depth") == "3"):
        above = replace(above, l3=host.l3)
        host.l3 += 1
    elif kind == "Core":
        above = replace(above, core=number)
    elif kind == "PU" and number is not None:
        host.cpus[number] = Cpu(number, above.core, above.package, above.l3)
        host.cores.setdefault((above.package, above.core), []).append(number)
    elif kind == "NUMANode" and number is not None:
        host.nodes[number] = NumaNode(number, above.cpus, integer(element.get("local_memory")))
    elif kind == "Bridge":
        pci = bus_id(element.get("pci_busid"))
        if pci is None and element.get("bridge_pci"):
            domain, _, buses = (element.get("bridge_pci") or "").partition(":")
            pci = f"pci{domain}:{buses.strip('[]').split('-')[0]}"
        above = replace(above, path=(*above.path, pci) if pci else above.path)
    elif kind == "PCIDev":
        _device(element, above, host)
    for child in element.children:
        if child.tag == "object":
            _walk(child, above, host)


def _device(element: Element, above: _Above, host: _Host) -> None:
    pci = bus_id(element.get("pci_busid"))
    words = (element.get("pci_type") or "").split()
    if pci is None or not words:
        return
    pci_class = (integer(f"0x{words[0]}") or 0) << 8
    vendor = integer(f"0x{words[1].strip('[]').split(':')[0]}") if len(words) > 1 else None
    devices = [child for child in element.all("object") if child.get("type") == "OSDev"]
    info = {item.get("name"): item.get("value") for device in devices for item in device.all("info")}
    if vendor is not None and is_gpu(vendor, pci_class):
        host.gpu_vendors[pci] = vendor
        host.gpus.append(Gpu(len(host.gpus), pci, info.get("GPUModel"), info.get("NVIDIAUUID"), None, above.path, above.cpus))
    for device in devices:
        ports = [item for item in device.all("info") if re.fullmatch(r"Port.*State", item.get("name") or "")]
        kind = integer(device.get("osdev_type")) or 0
        if (kind & OPENFABRICS_BIT if host.version >= 3 else kind == OPENFABRICS) or ports:
            host.hcas.append(_hca(device, pci, pci_class, vendor, above, ports))


def _hca(device: Element, pci: str, pci_class: int, vendor: int | None, above: _Above, states: list[Element]) -> Hca:
    info = {item.get("name"): item.get("value") for item in device.all("info")}
    numbered = ((integer((item.get("name") or "")[4:-5]), item.get("value") or "") for item in states)
    ports = tuple(Port(number, PORT_STATES.get(value)) for number, value in numbered if number is not None)
    name = device.get("name")
    guid = info.get("SysImageGUID")
    return Hca(
        label=name or pci,
        name=name,
        pci=pci,
        pci_path=above.path,
        local_cpus=above.cpus,
        ports=ports,
        vendor=None if vendor is None else f"0x{vendor:04x}",
        card=guid if guid and not guid.startswith("0000:") else pci.rpartition(".")[0],
        pci_class=pci_class,
    )


def _distances(root: Element) -> dict[int, dict[int, int]]:
    """SLIT distances by OS index: <distances2> of version 2 and later; version 1's matrix has no OS index and is left."""
    for element in root.all("distances2"):
        if element.get("type") != "NUMANode" or element.get("indexing") not in (None, "os"):
            continue
        texts = [(child.tag, child.text) for child in element.children]
        nodes = [int(word) for tag, text in texts if tag == "indexes" for word in text.split() if word.isdecimal() and len(word) < 6]
        values = [int(word) for tag, text in texts if tag == "u64values" for word in text.split() if word.isdecimal() and len(word) < 6]
        if nodes and len(values) == len(nodes) ** 2:
            return {node: dict(zip(nodes, values[i * len(nodes) :], strict=False)) for i, node in enumerate(nodes)}
    return {}
