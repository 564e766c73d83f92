"""NCCL's system XML, read and written: what NCCL_TOPO_DUMP_FILE writes and NCCL_TOPO_FILE reads (NCCL src/graph/xml.cc, topo.cc)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from entrypoints.errors import UsageError
from entrypoints.topology.model import Cpu, Gpu, Hca, NumaNode, Port, Processor, Topology
from entrypoints.topology.values import bus_id, bus_order, ids_of_list, ids_of_mask, integer, natural
from entrypoints.topology.xml_tree import Element, parse_xml

#: Ethernet functions that speak no RDMA: virtio, ENA, Hyper-V's own, e1000 and QEMU ones, by vendor (and device).
NOT_RDMA = {"0x1af4": None, "0x1d0f": {"0xec20", "0xec21", "0x0ec2", "0x1ec2"}, "0x1414": {"0x0001"}, "0x10ec": None, "0x1b36": None}
#: Links between GPUs: NCCL's and RCCL's word.
LINKS = ("nvlink", "xgmi")

#: Network interfaces by the kernel's, systemd's and virtualisation's names.
_INTERFACE = re.compile(r"(?:eth|en[opsx]|ib|bond|team|br|vlan|wlan)\d|en[opsx]|veth|virbr|docker|br-|lo$", re.IGNORECASE)

#: NCCL reads no longer attribute (MAX_STR_LEN of src/graph/xml.h); it finds a missing affinity itself.
MAX_VALUE = 254


@dataclass(frozen=True)
class Device:
    """One <pci> that is an end point, with what is above it."""

    element: Element
    pci: str
    path: tuple[str, ...]
    numa_node: int | None
    cpus: tuple[int, ...]

    def get(self, name: str) -> str | None:
        value = self.element.get(name)
        return value.lower() if value else None

    @property
    def pci_class(self) -> int | None:
        value = self.get("class")
        return integer(value if value is None or value.startswith("0x") else f"0x{value}")


def parse_nccl(text: str, source: str) -> Topology:
    """A Topology from NCCL XML. Raises UsageError with the line for XML that is damaged or holds no device."""
    warnings: list[str] = []
    root = parse_xml(_whole(text, source, warnings), "system", source)
    cpus = _one_host(root, source, warnings)
    version = root.get("version")
    if version not in ("1", "2"):
        warnings.append(f"{source}:{root.line}: system version {version or 'missing'} is not one that is known (1, and 2 of RCCL)")
    nodes: dict[int, set[int]] = {}
    cpu_ids: set[int] = set()
    devices: list[Device] = []
    loose_nets: list[tuple[Element, int | None, tuple[int, ...]]] = []
    for cpu in cpus:
        node = integer(cpu.get("numaid"))
        affinity = cpu.get("affinity")
        # Written by hand, it may be a list ("0-47"), which no mask can look like.
        mask = ids_of_list(affinity) if affinity and "-" in affinity else ids_of_mask(affinity)
        if affinity and mask is None:
            warnings.append(f"{source}:{cpu.line}: affinity {affinity!r} is not a CPU mask")
        cpu_ids.update(mask or ())
        if node is not None:
            nodes.setdefault(node, set()).update(mask or ())
        devices += _end_points(cpu, (), node, mask or (), source, warnings)
        loose_nets += [(net, node, mask or ()) for nic in cpu.all("nic") for net in nic.all("net") if not is_socket(net)]
    devices = _once(devices, source, warnings)
    gpu_devices, nic_devices = _sort_out(devices, source, warnings)
    gpus = _gpus(gpu_devices, warnings)
    hcas = [hca for device in nic_devices for hca in hcas_of(device)]
    names = {hca.name for hca in hcas}
    hcas += [hca_of_nets(None, [net], node, near) for net, node, near in loose_nets if net.get("name") not in names]
    if not gpus and not hcas:
        raise UsageError("holds neither a GPU nor an HCA", where=f"{source}:{root.line}", hint="is it the whole NCCL topology file?")
    hcas.sort(key=lambda hca: natural(hca.id) if hca.name else ((0, -1, ""), *natural(hca.label)))
    return Topology(
        source=source,
        cpus=tuple(Cpu(cpu) for cpu in sorted(cpu_ids)),
        numa_nodes=tuple(NumaNode(node, tuple(sorted(ids))) for node, ids in sorted(nodes.items())),
        gpus=tuple(gpus),
        hcas=tuple(hcas),
        warnings=tuple(warnings),
        processor=_processor(cpus[0]),
    )


def _whole(text: str, source: str, warnings: list[str]) -> str:
    """The text, or the <cpu> elements of a post that shows no <system> around them, with one."""
    first, last = text.find("<cpu"), text.rfind("</cpu>")
    if "<system" in text or first < 0 or last < first:
        return text
    warnings.append(f"{source}:{text.count(chr(10), 0, first) + 1}: no <system> is around the <cpu> elements: a part of a file?")
    return f'{text[:first]}<system version="1">{text[first : last + 6]}</system>'


def _one_host(root: Element, source: str, warnings: list[str]) -> list[Element]:
    """The <cpu> elements of one host: a dump of a multi-node NVLink domain holds several, told apart by host_hash."""
    cpus = root.all("cpu")
    hosts = list(dict.fromkeys(cpu.get("host_hash") for cpu in cpus))
    if len(hosts) > 1:
        warnings.append(f"{source}:{root.line}: holds {len(hosts)} hosts; the first one, {hosts[0]}, is taken")
        cpus = [cpu for cpu in cpus if cpu.get("host_hash") == hosts[0]]
    if not cpus:
        raise UsageError("has no <cpu> element", where=f"{source}:{root.line}", hint="is it the whole NCCL topology file?")
    return cpus


def _processor(cpu: Element) -> Processor:
    """The kind of CPU. NCCL counts AMD families as CPUID's base family plus sixteen times the extension (175 is 0x19)."""
    arch = {"arm64": "aarch64", "ppc64": "ppc64le"}.get(cpu.get("arch") or "", cpu.get("arch"))
    family = integer(cpu.get("familyid"))
    if family is not None and family > 15:
        family = (family >> 4) + 15
    return Processor(arch, cpu.get("vendor"), family, integer(cpu.get("modelid")))


def _end_points(
    parent: Element, path: tuple[str, ...], node: int | None, cpus: tuple[int, ...], source: str, warnings: list[str]
) -> Iterator[Device]:
    for element in parent.all("pci"):
        pci = bus_id(element.get("busid"))
        if pci is None:
            warnings.append(f"{source}:{element.line}: busid {element.get('busid')!r} is not a PCI bus id; the device is left out")
            continue
        pci_class = element.get("class") or ""
        is_bridge = bool(element.all("pci")) or pci_class.lower().removeprefix("0x").startswith("0604")
        if is_bridge:
            yield from _end_points(element, (*path, pci), node, cpus, source, warnings)
        if not is_bridge or element.all("gpu") or nets_of(element):
            yield Device(element, pci, path, node, cpus)


def _once(devices: list[Device], source: str, warnings: list[str]) -> list[Device]:
    seen: dict[str, Device] = {}
    for device in devices:
        first = seen.setdefault(device.pci, device)
        if first is not device:
            warnings.append(f"{source}:{device.element.line}: {device.pci} occurs twice; line {first.element.line} is taken")
    return list(seen.values())


def _sort_out(devices: list[Device], source: str, warnings: list[str]) -> tuple[list[Device], list[Device]]:
    """GPUs and RDMA candidates, by children and class.

    A hint file without classes (AWS g5) lists the GPUs of a <cpu> in bus order and its NICs behind them:
    there the first bus id that is lower than the one before begins the NICs.
    """
    gpus: list[Device] = []
    nics: list[Device] = []
    unknown: list[Device] = []
    for device in devices:
        pci_class, vendor = device.pci_class, device.get("vendor")
        kind = (pci_class or 0) >> 8
        nets = nets_of(device.element)
        if device.element.all("gpu"):
            gpus.append(device)
        elif nets:
            if not all(is_socket(net) for net in nets) or kind == 0x0207:
                nics.append(device)
        elif pci_class is None:
            unknown.append(device)
        elif kind in (0x0300, 0x0302, 0x1200) or (kind == 0x0380 and vendor in (None, "0x1002", "0x8086")):
            gpus.append(device)
        elif kind == 0x0207 or (kind in (0x0200, 0x0C06) and _may_speak_rdma(device)):
            nics.append(device)
    behind: dict[tuple[int | None, tuple[str, ...]], Device] = {}
    guessed: list[str] = []
    for device in unknown:
        key = (device.numa_node, device.path)
        before = behind.get(key)
        if before is not None and (before in nics or bus_order(device.pci) < bus_order(before.pci)):
            nics.append(device)
            guessed.append(device.pci)
        else:
            gpus.append(device)
        behind[key] = device
    if unknown:
        taken = f", {', '.join(guessed)} as NIC" if guessed else ""
        line = unknown[0].element.line
        warnings.append(f"{source}:{line}: {len(unknown)} devices have no class; {len(unknown) - len(guessed)} are taken as GPUs{taken}")
    return gpus, nics


def _may_speak_rdma(device: Device) -> bool:
    devices = NOT_RDMA.get(device.get("vendor") or "", set())
    return devices is not None and device.get("device") not in devices


def _gpus(devices: list[Device], warnings: list[str]) -> list[Gpu]:
    """GPUs in PCI bus order. Peers are GPUs named as NVLink targets, or GPUs that reach the same NVSwitch."""
    devices = sorted(devices, key=lambda device: bus_order(device.pci))
    index = {device.pci: i for i, device in enumerate(devices)}
    numbers = [integer(gpu.get("dev")) for device in devices for gpu in device.element.all("gpu")[:1]]
    if None not in numbers and numbers != sorted(numbers, key=lambda number: number or 0):
        warnings.append("the CUDA device numbers of the file are not in PCI bus order; indices here are (CUDA_DEVICE_ORDER=PCI_BUS_ID)")
    targets: list[set[str] | None] = []
    for device in devices:
        children = device.element.all("gpu")
        links = [link for gpu in children for tag in LINKS for link in gpu.all(tag)]
        targets.append({bus_id(link.get("target")) or "" for link in links} if children else None)
    gpus = []
    for i, (device, ends) in enumerate(zip(devices, targets, strict=True)):
        nvlink: tuple[int, ...] | None = None
        if ends is not None:
            switches = ends - index.keys()
            peers = {index[target] for target in ends & index.keys()}
            peers |= {j for j, other_ends in enumerate(targets) if other_ends and switches & other_ends}
            nvlink = tuple(sorted(peers - {i}))
        gpus.append(
            Gpu(
                index=i,
                pci=device.pci,
                numa_node=device.numa_node,
                pci_path=device.path,
                local_cpus=device.cpus,
                nvlink=nvlink,
                link_speed=device.element.get("link_speed"),
                link_width=integer(device.element.get("link_width"), 1),
            )
        )
    return gpus


def nets_of(element: Element) -> list[Element]:
    """The <net> elements of a device; files written by hand have them without <nic>, or a <nic> with the attributes of a <net>."""
    nics = element.all("nic")
    nets = [net for nic in nics for net in nic.all("net")] + element.all("net")
    return nets or [nic for nic in nics if nic.get("name")]


def is_socket(net: Element) -> bool:
    """True for NCCL's socket transport: its port is 0 and its GUID nothing or a small number. Without both, the name tells."""
    guid = integer(f"0x{(net.get('guid') or '0').lower().removeprefix('0x')}") or 0
    port = integer(net.get("port"))
    if guid >> 16 or port:
        return False
    return port == 0 or net.get("guid") is not None or bool(_INTERFACE.match(net.get("name") or "lo"))


def hcas_of(device: Device) -> list[Hca]:
    """One HCA a net name (the ports of one name together); the bus id alone for a device without nets."""
    by_name: dict[str | None, list[Element]] = {}
    for net in nets_of(device.element):
        # IPoIB interfaces of an InfiniBand function do not name its verbs device.
        if not is_socket(net):
            by_name.setdefault(net.get("name"), []).append(net)
    single = {name for name in by_name if name and "+" not in name}
    # A merged device ("mlx5_0+mlx5_1") stands beside its parts and is none of its own.
    by_name = {name: nets for name, nets in by_name.items() if not name or "+" not in name or not single}
    return [hca_of_nets(device, nets, device.numa_node, device.cpus) for nets in by_name.values() or [[]]]


def hca_of_nets(device: Device | None, nets: list[Element], node: int | None, cpus: tuple[int, ...]) -> Hca:
    name = nets[0].get("name") if nets else None
    pci_class = device.pci_class if device else None
    ports: dict[int, Port] = {}
    for net in nets:
        number = integer(net.get("port")) or 1
        speed = integer(net.get("speed"))
        # NCCL lists no port that is not active (src/transport/net_ib).
        layer = "InfiniBand" if pci_class is not None and pci_class >> 8 == 0x0207 else None
        ports.setdefault(number, Port(number, "ACTIVE", layer, speed / 1000 if speed else None))
    guid = next((net.get("guid") for net in nets if (net.get("guid") or "0").lower().removeprefix("0x").strip("0")), None)
    pci = device.pci if device else None
    return Hca(
        label=name or pci or "net",
        name=name,
        pci=pci,
        numa_node=node,
        pci_path=device.path if device else (),
        local_cpus=cpus,
        ports=tuple(port for _, port in sorted(ports.items())),
        vendor=device.get("vendor") if device else None,
        card=guid.lower() if guid else pci.rpartition(".")[0] if pci else None,
        pci_class=pci_class,
        link_speed=device.element.get("link_speed") if device else None,
        link_width=integer(device.element.get("link_width"), 1) if device else None,
    )


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
        inside = [d for d in devices if d.numa_node == node or (node == order[0] and d.numa_node not in order)]
        mask = _mask(nodes.get(node, ()))
        affinity = f' affinity="{mask}"' if len(mask) <= MAX_VALUE and nodes.get(node) else ""
        lines.append(f'  <cpu numaid="{node}"{affinity}{kind}>')
        lines += _level(inside, (), 2, seen)
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
    return "".join(f' {key}="{escape(value)}"' for key, value in values.items())


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
    return f'link_speed="{escape(device.link_speed or "")}" link_width="{device.link_width or 0}"'


def _mask(cpus: Sequence[int]) -> str:
    """Comma-separated 32-bit words, most significant first."""
    value = sum(1 << cpu for cpu in set(cpus))
    words = max(1, (value.bit_length() + 31) // 32)
    return ",".join(f"{value >> 32 * word & 0xFFFFFFFF:08x}" for word in reversed(range(words)))
