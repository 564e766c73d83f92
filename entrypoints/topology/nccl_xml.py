"""NCCL's system XML: what NCCL_TOPO_DUMP_FILE writes and NCCL_TOPO_FILE reads (NCCL src/graph/xml.cc, topo.cc)."""

from collections.abc import Iterator

from entrypoints.errors import UsageError
from entrypoints.topology.model import Cpu, Gpu, NumaNode, Processor, Topology
from entrypoints.topology.nccl_nets import Device, hca_of_nets, hcas_of, is_socket, nets_of
from entrypoints.topology.sysfs import bridges_of
from entrypoints.topology.values import bus_id, bus_order, ids_of_list, ids_of_mask, integer, natural
from entrypoints.topology.xml_tree import Element, parse_xml

#: Ethernet functions that speak no RDMA: virtio, ENA, Hyper-V's own, e1000 and QEMU ones, by vendor (and device).
NOT_RDMA = {"0x1af4": None, "0x1d0f": {"0xec20", "0xec21", "0x0ec2", "0x1ec2"}, "0x1414": {"0x0001"}, "0x10ec": None, "0x1b36": None}
#: Links between GPUs: NCCL's and RCCL's word.
LINKS = ("nvlink", "xgmi")


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
            warnings.append(f"{source}:{cpu.line}: affinity {affinity!r} is no CPU mask")
        cpu_ids.update(mask or ())
        if node is not None:
            nodes.setdefault(node, set()).update(mask or ())
        devices += _end_points(cpu, (), node, mask or (), source, warnings)
        loose_nets += [(net, node, mask or ()) for nic in cpu.all("nic") for net in nic.all("net") if not is_socket(net)]
    devices = _once(devices, source, warnings)
    gpu_devices, nic_devices = _sort_out(devices, source, warnings)
    gpus = _gpus(gpu_devices, warnings)
    hcas = [hca for device in nic_devices for hca in hcas_of(device)]
    known = {hca.name for hca in hcas}
    hcas += [hca_of_nets(None, [net], node, near) for net, node, near in loose_nets if net.get("name") not in known]
    if not gpus and not hcas:
        raise UsageError("holds neither a GPU nor an HCA", where=f"{source}:{root.line}", hint="is it the whole NCCL topology file?")
    hcas.sort(key=lambda hca: natural(hca.id) if hca.name else ((0, -1, ""), *natural(hca.label)))
    return Topology(
        source=source,
        cpus=tuple(Cpu(cpu) for cpu in sorted(cpu_ids)),
        numa_nodes=tuple(NumaNode(node, tuple(sorted(ids))) for node, ids in sorted(nodes.items())),
        bridges=bridges_of((*gpus, *hcas)),
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
            warnings.append(f"{source}:{element.line}: busid {element.get('busid')!r} is no PCI bus id; the device is left out")
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
        if device.pci in seen:
            warnings.append(f"{source}:{device.element.line}: {device.pci} occurs twice; line {seen[device.pci].element.line} is taken")
        else:
            seen[device.pci] = device
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
        pci_class = device.pci_class
        nets = nets_of(device.element)
        if device.element.all("gpu"):
            gpus.append(device)
        elif nets:
            if not all(is_socket(net) for net in nets) or (pci_class or 0) >> 8 == 0x0207:
                nics.append(device)
        elif pci_class is None:
            unknown.append(device)
        elif _is_gpu(device, pci_class >> 8):
            gpus.append(device)
        elif pci_class >> 8 == 0x0207 or (pci_class >> 8 in (0x0200, 0x0C06) and _may_speak_rdma(device)):
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


def _is_gpu(device: Device, prefix: int) -> bool:
    return prefix in (0x0300, 0x0302, 0x1200) or (prefix == 0x0380 and device.get("vendor") in (None, "0x1002", "0x8086"))


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
    for i, device in enumerate(devices):
        mine = targets[i]
        peers: set[int] = set()
        if mine is not None:
            switches = mine - index.keys()
            peers = {index[target] for target in mine & index.keys()}
            peers |= {j for j, theirs in enumerate(targets) if theirs and switches & theirs}
        nvlink = None if mine is None else tuple(sorted(peers - {i}))
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
