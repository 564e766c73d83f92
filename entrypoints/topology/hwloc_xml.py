"""hwloc's XML export (`lstopo --of xml`, versions 1 to 3): CPUs, nodes, PCI tree, GPUs and OpenFabrics devices."""

from dataclasses import dataclass, field, replace

from entrypoints.errors import UsageError
from entrypoints.topology.model import Allowed, Cpu, Gpu, Hca, NumaNode, Port, Topology
from entrypoints.topology.pci import AMD, INTEL, NVIDIA
from entrypoints.topology.sysfs import bridges_of, place
from entrypoints.topology.values import bus_id, bus_order, ids_of_mask, integer, natural
from entrypoints.topology.xml_tree import Element, parse_xml

#: osdev_type of a verbs device: a number up to version 2 of the format, in version 3 a bit of a mask (hwloc.h, hwloc_obj_osdev_type_e).
OPENFABRICS = 3
OPENFABRICS_BIT = 1 << 5


@dataclass(frozen=True)
class _Above:
    """What an object inherits from those around it."""

    core: int | None = None
    package: int | None = None
    l3: int | None = None
    path: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()


@dataclass
class _Found:
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
    found = _Found(integer((root.get("version") or "1").partition(".")[0]) or 1)
    _walk(machine, _Above(), found)
    if not found.cpus:
        raise UsageError("has no PU", where=f"{source}:{machine.line}", hint="is it `lstopo --of xml` output?")
    allowed_cpus = _mask(machine, "allowed_cpuset") or tuple(found.cpus)
    allowed_nodes = _mask(machine, "allowed_nodeset") or tuple(found.nodes)
    usable = set(allowed_cpus)
    cpus = tuple(
        replace(cpu, siblings=tuple(sorted(usable.intersection(found.cores[cpu.package, cpu.core]))))
        for number, cpu in sorted(found.cpus.items())
        if number in usable
    )
    nodes = tuple(
        replace(node, cpus=tuple(cpu for cpu in node.cpus if cpu in usable), distances=_distances(root).get(number, {}))
        for number, node in sorted(found.nodes.items())
    ) or (NumaNode(0, tuple(sorted(usable & found.cpus.keys()))),)
    warnings: list[str] = []
    vendors = set(found.gpu_vendors.values())
    maker = next((vendor for vendor in (NVIDIA, AMD, INTEL) if vendor in vendors), None)
    gpus = sorted((gpu for gpu in found.gpus if found.gpu_vendors[gpu.pci or ""] == maker), key=lambda gpu: bus_order(gpu.pci))
    gpus = place([replace(gpu, index=i) for i, gpu in enumerate(gpus)], nodes, tuple(found.cpus), warnings)
    hcas = place(sorted(found.hcas, key=lambda hca: natural(hca.id)), nodes, tuple(found.cpus), warnings)
    return Topology(
        source=source,
        packages=tuple(sorted(found.packages)),
        cpus=cpus,
        numa_nodes=nodes,
        bridges=bridges_of((*gpus, *hcas)),
        gpus=tuple(gpus),
        hcas=tuple(hcas),
        allowed=Allowed(tuple(cpu.id for cpu in cpus), tuple(n.id for n in nodes if n.id in set(allowed_nodes))),
        warnings=tuple(warnings),
    )


def _mask(element: Element, name: str) -> tuple[int, ...]:
    return ids_of_mask(element.get(name)) or ()


def _walk(element: Element, above: _Above, found: _Found) -> None:
    kind = element.get("type") or ""
    number = integer(element.get("os_index"))
    if element.get("cpuset"):
        above = replace(above, cpus=_mask(element, "cpuset"))
    if kind in ("Package", "Socket"):
        above = replace(above, package=number)
        if number is not None:
            found.packages.add(number)
    elif kind == "L3Cache" or (kind == "Cache" and element.get("depth") == "3"):
        above = replace(above, l3=found.l3)
        found.l3 += 1
    elif kind == "Core":
        above = replace(above, core=number)
    elif kind == "PU" and number is not None:
        found.cpus[number] = Cpu(number, above.core, above.package, above.l3)
        found.cores.setdefault((above.package, above.core), []).append(number)
    elif kind == "NUMANode" and number is not None:
        found.nodes[number] = NumaNode(number, above.cpus, integer(element.get("local_memory")))
    elif kind == "Bridge":
        pci = bus_id(element.get("pci_busid"))
        if pci is None and element.get("bridge_pci"):
            domain, _, buses = (element.get("bridge_pci") or "").partition(":")
            pci = f"pci{domain}:{buses.strip('[]').split('-')[0]}"
        above = replace(above, path=(*above.path, pci) if pci else above.path)
    elif kind == "PCIDev":
        _device(element, above, found)
    for child in element.children:
        if child.tag == "object":
            _walk(child, above, found)


def _device(element: Element, above: _Above, found: _Found) -> None:
    pci = bus_id(element.get("pci_busid"))
    words = (element.get("pci_type") or "").split()
    if pci is None or not words:
        return
    pci_class = (integer(f"0x{words[0]}") or 0) << 8
    vendor = integer(f"0x{words[1].strip('[]').split(':')[0]}") if len(words) > 1 else None
    devices = [child for child in element.all("object") if child.get("type") == "OSDev"]
    info = {item.get("name"): item.get("value") for device in devices for item in device.all("info")}
    prefix = pci_class >> 8
    is_gpu = (
        (vendor == NVIDIA and prefix in (0x0300, 0x0302))
        or (vendor == AMD and prefix in (0x0302, 0x0380, 0x1200))
        or (vendor == INTEL and prefix == 0x0380)
    )
    if is_gpu and vendor is not None:
        found.gpu_vendors[pci] = vendor
        found.gpus.append(Gpu(len(found.gpus), pci, info.get("GPUModel"), info.get("NVIDIAUUID"), None, above.path, above.cpus))
    for device in devices:
        ports = [
            item
            for item in device.all("info")
            if (item.get("name") or "").endswith("State") and (item.get("name") or "").startswith("Port")
        ]
        kind = integer(device.get("osdev_type")) or 0
        if (kind & OPENFABRICS_BIT if found.version >= 3 else kind == OPENFABRICS) or ports:
            found.hcas.append(_hca(device, pci, pci_class, vendor, above, ports))


def _hca(device: Element, pci: str, pci_class: int, vendor: int | None, above: _Above, states: list[Element]) -> Hca:
    info = {item.get("name"): item.get("value") for item in device.all("info")}
    ports = []
    for item in states:
        number = integer((item.get("name") or "")[4:-5])
        if number is not None:
            # ibv_port_state: 1 DOWN, 2 INIT, 3 ARMED, 4 ACTIVE
            state = {"1": "DOWN", "2": "INIT", "3": "ARMED", "4": "ACTIVE"}.get(item.get("value") or "")
            ports.append(Port(number, state))
    name = device.get("name")
    guid = info.get("SysImageGUID")
    return Hca(
        label=name or pci,
        name=name,
        pci=pci,
        pci_path=above.path,
        local_cpus=above.cpus,
        ports=tuple(ports),
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
