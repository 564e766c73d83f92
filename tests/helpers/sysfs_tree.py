"""Synthetic sysfs and proc roots, written as the kernel writes them.

    root = build(tmp_path, azure_ndv5())
    topology = load(str(root))
    topology = read_sysfs(in_memory(azure_ndv5()), "test")     # the same without a file

A Host says what there is; `dataclasses.replace` changes a preset. All identifiers are made up.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from entrypoints.topology.tree import MemoryTree

NVIDIA, MELLANOX, AMAZON = 0x10DE, 0x15B3, 0x1D0F


@dataclass(frozen=True)
class NodeSpec:
    """One NUMA node. `gpu_memory` nodes (Grace) have no CPUs and are generic initiators."""

    id: int
    cpus: tuple[int, ...] = ()
    memory_kb: int = 1 << 20
    gpu_memory: bool = False


@dataclass(frozen=True)
class GidSpec:
    index: int
    gid: str
    type: str = "RoCE v2"
    netdev: str | None = None


@dataclass(frozen=True)
class PortSpec:
    state: str = "4: ACTIVE"
    rate: str = "400 Gb/sec (4X NDR)"
    link_layer: str = "InfiniBand"
    gids: tuple[GidSpec, ...] = ()


@dataclass(frozen=True)
class DeviceSpec:
    """A PCI function. `path` is what lies above it, root complex first: ("pci0000:00", "0000:00:01.0")."""

    pci: str
    path: tuple[str, ...]
    numa_node: int = -1
    vendor: int = 0
    device: int = 0
    pci_class: int = 0


@dataclass(frozen=True)
class GpuSpec(DeviceSpec):
    model: str = "NVIDIA H100 80GB HBM3"
    vendor: int = NVIDIA
    device: int = 0x2330
    pci_class: int = 0x030200
    #: NUMA node that the driver made of this GPU's memory.
    memory_node: int | None = None


@dataclass(frozen=True)
class HcaSpec(DeviceSpec):
    name: str = "mlx5_0"
    ports: tuple[PortSpec, ...] = (PortSpec(),)
    vendor: int = MELLANOX
    device: int = 0x1021
    pci_class: int = 0x020700
    driver: str = "mlx5_core"
    firmware: str = "28.40.1000"
    board: str = "MT_0000000838"
    #: sys_image_guid; equal for the ports of one card.
    guid: str | None = None
    netdev: str | None = None
    #: Bus id of the physical function of which this is a virtual function.
    physfn: str | None = None
    #: None: config space shows only 64 bytes, as to a user without CAP_SYS_ADMIN.
    atomics: bool | None = None


@dataclass(frozen=True)
class SoftHcaSpec:
    """A software device (rxe) on a network interface; `pci` is the NIC below, if any."""

    name: str
    netdev: str
    pci: str | None = None


@dataclass(frozen=True)
class Host:
    """One host. `core_of` and `package_of` map CPU ids; without them every core has `smt` CPUs, numbered core first."""

    nodes: tuple[NodeSpec, ...]
    gpus: tuple[GpuSpec, ...] = ()
    hcas: tuple[HcaSpec, ...] = ()
    soft_hcas: tuple[SoftHcaSpec, ...] = ()
    #: PCI functions that are neither GPU nor HCA: bus id, path, class, vendor.
    others: tuple[tuple[str, tuple[str, ...], int, int], ...] = ()
    siblings: tuple[tuple[int, ...], ...] = ()
    nodes_per_package: int = 1
    cpus_per_l3: int = 0
    offline: tuple[int, ...] = ()
    distances: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Cpus_allowed_list and Mems_allowed_list of proc/self/status; None leaves the file out.
    allowed_cpus: str | None = None
    allowed_mems: str | None = None
    #: A parent folder of all PCI roots, as Hyper-V has.
    pci_parent: str = ""
    nvidia_driver: bool = True


def _list(ids: "list[int] | tuple[int, ...]") -> str:
    parts: list[str] = []
    run: list[int] = []
    for i in [*sorted(ids), -1]:
        if run and i == run[-1] + 1:
            run.append(i)
            continue
        if run:
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
        run = [i]
    return ",".join(parts)


def _mask(ids: "list[int] | tuple[int, ...]") -> str:
    """The same ids as the kernel's mask: 32-bit words, most significant first. hwloc reads these, we read the lists."""
    value = sum(1 << i for i in ids)
    words = [f"{value >> shift & 0xFFFFFFFF:08x}" for shift in range(0, max(value.bit_length(), 1), 32)]
    return ",".join(reversed(words))


class _Writer:
    """Writes files below a root and remembers the folders that exist."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.known: set[str] = set()

    def folder(self, path: str) -> str:
        full = f"{self.root}/{path}"
        if full not in self.known:
            Path(full).mkdir(parents=True, exist_ok=True)
            self.known.add(full)
        return full

    def text(self, path: str, text: str) -> None:
        folder, _, name = path.rpartition("/")
        with open(f"{self.folder(folder)}/{name}", "w") as stream:
            stream.write(text + "\n")

    def data(self, path: str, data: bytes) -> None:
        folder, _, name = path.rpartition("/")
        with open(f"{self.folder(folder)}/{name}", "wb") as stream:
            stream.write(data)

    def link(self, path: str, target: str) -> None:
        folder, _, name = path.rpartition("/")
        Path(f"{self.folder(folder)}/{name}").symlink_to(os.path.relpath(f"{self.root}/{target}", f"{self.root}/{folder}"))


class _Memory(_Writer):
    """The same in memory."""

    def __init__(self) -> None:
        super().__init__(Path("/"))
        self.files: dict[str, bytes] = {}
        self.links: dict[str, str] = {}
        self.folders: set[str] = set()

    def folder(self, path: str) -> str:
        self.folders.add(path)
        return path

    def text(self, path: str, text: str) -> None:
        self.files[path] = (text + "\n").encode()

    def data(self, path: str, data: bytes) -> None:
        self.files[path] = data

    def link(self, path: str, target: str) -> None:
        self.links[path] = os.path.relpath(f"/{target}", "/" + path.rpartition("/")[0])


def thinned(host: Host, cores: int = 4) -> Host:
    """The host with the first few cores of each node only, under their numbers: a tree of few files, for tests that write it to disk."""
    group_of = {cpu: group for group in host.siblings for cpu in group}
    nodes = []
    kept: set[tuple[int, ...]] = set()
    for node in host.nodes:
        groups = list(dict.fromkeys(group_of.get(cpu, (cpu,)) for cpu in node.cpus))[:cores]
        kept.update(groups)
        nodes.append(replace(node, cpus=tuple(sorted(cpu for group in groups for cpu in group))))
    return replace(host, nodes=tuple(nodes), siblings=tuple(group for group in host.siblings if group in kept))


def in_memory(host: Host) -> MemoryTree:
    """The host as a tree that `read_sysfs` takes, without a file written: fast, for tests that need no path."""
    out = _Memory()
    _write(out, host)
    return MemoryTree(out.files, out.links, out.folders)


def parts(host: Host) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and links of the host by path, to damage before they become a MemoryTree."""
    out = _Memory()
    _write(out, host)
    return out.files, out.links


def build(root: Path, host: Host) -> Path:
    """Write the host below `root` (made if needed) and return `root`."""
    _write(_Writer(root), host)
    return root


def _write(out: _Writer, host: Host) -> None:
    _cpus(out, host)
    _nodes(out, host)
    _pci(out, host)
    _rdma(out, host)
    if host.allowed_cpus is not None or host.allowed_mems is not None:
        lines = [f"Cpus_allowed_list:\t{host.allowed_cpus}"] if host.allowed_cpus is not None else []
        lines += [f"Mems_allowed_list:\t{host.allowed_mems}"] if host.allowed_mems is not None else []
        out.text("proc/self/status", "\n".join(["Name:\tcat", *lines]))
    out.text("proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n")


def _cpus(out: _Writer, host: Host) -> None:
    base = "sys/devices/system/cpu"
    every = sorted(cpu for node in host.nodes for cpu in node.cpus)
    online = [cpu for cpu in every if cpu not in host.offline]
    out.text(f"{base}/online", _list(online))
    out.text(f"{base}/possible", _list(every))
    out.text(f"{base}/present", _list(every))
    out.text(f"{base}/offline", _list(host.offline))
    package_of = {cpu: i // host.nodes_per_package for i, node in enumerate(n for n in host.nodes if n.cpus) for cpu in node.cpus}
    packages: dict[int, list[int]] = {}
    for cpu in online:
        packages.setdefault(package_of[cpu], []).append(cpu)
    siblings = {cpu: group for group in host.siblings for cpu in group}
    core_of: dict[int, int] = {}
    counts: dict[int, int] = {}
    for cpu in every:
        first = min(siblings.get(cpu, (cpu,)))
        if first not in core_of:
            core_of[first] = counts.get(package_of[cpu], 0)
            counts[package_of[cpu]] = core_of[first] + 1
        core_of[cpu] = core_of[first]
    for cpu in every:
        if cpu:
            out.text(f"{base}/cpu{cpu}/online", "0" if cpu in host.offline else "1")
        if cpu in host.offline:
            continue
        group = [i for i in siblings.get(cpu, (cpu,)) if i not in host.offline]
        package = packages[package_of[cpu]]
        out.text(f"{base}/cpu{cpu}/topology/physical_package_id", str(package_of[cpu]))
        out.text(f"{base}/cpu{cpu}/topology/core_id", str(core_of[cpu]))
        out.text(f"{base}/cpu{cpu}/topology/thread_siblings_list", _list(group))
        out.text(f"{base}/cpu{cpu}/topology/core_siblings_list", _list(package))
        out.text(f"{base}/cpu{cpu}/topology/thread_siblings", _mask(group))
        out.text(f"{base}/cpu{cpu}/topology/core_siblings", _mask(package))
        size = host.cpus_per_l3
        if size:
            block = core_of[cpu] // size
            shared = [i for i in package if core_of[i] // size == block]
        else:
            shared = package
        for index, (level, kind, ids) in enumerate(
            ((1, "Data", group), (1, "Instruction", group), (2, "Unified", group), (3, "Unified", shared))
        ):
            out.text(f"{base}/cpu{cpu}/cache/index{index}/level", str(level))
            out.text(f"{base}/cpu{cpu}/cache/index{index}/type", kind)
            out.text(f"{base}/cpu{cpu}/cache/index{index}/shared_cpu_list", _list(ids))
            out.text(f"{base}/cpu{cpu}/cache/index{index}/shared_cpu_map", _mask(ids))


def _nodes(out: _Writer, host: Host) -> None:
    base = "sys/devices/system/node"
    ids = [node.id for node in host.nodes]
    out.text(f"{base}/online", _list(ids))
    out.text(f"{base}/possible", _list(ids))
    out.text(f"{base}/has_cpu", _list([node.id for node in host.nodes if node.cpus]))
    out.text(f"{base}/has_memory", _list([node.id for node in host.nodes if node.memory_kb]))
    out.text(f"{base}/has_generic_initiator", _list([node.id for node in host.nodes if node.gpu_memory]))
    for node in host.nodes:
        here = [cpu for cpu in node.cpus if cpu not in host.offline]
        out.text(f"{base}/node{node.id}/cpulist", _list(here))
        out.text(f"{base}/node{node.id}/cpumap", _mask(here))
        out.text(
            f"{base}/node{node.id}/meminfo", f"Node {node.id} MemTotal:       {node.memory_kb} kB\nNode {node.id} MemFree:        1 kB"
        )
        row = [host.distances.get((node.id, other), 10 if other == node.id else 21) for other in ids]
        out.text(f"{base}/node{node.id}/distance", " ".join(map(str, row)))


def _folder(host: Host, path: tuple[str, ...], pci: str) -> str:
    return "/".join(("sys/devices", *filter(None, [host.pci_parent]), *path, pci))


@dataclass(frozen=True)
class _Function:
    """A PCI function as its folder shows it. Bridges have the range of buses behind them."""

    pci: str
    path: tuple[str, ...]
    pci_class: int
    vendor: int
    device: int
    numa_node: int
    buses: range | None = None


def _bus(pci: str) -> int:
    return int(pci.split(":")[1], 16)


def _functions(host: Host) -> list[_Function]:
    """All PCI functions of a host: GPUs, HCAs, others, and the bridges above them."""
    functions = [_Function(d.pci, d.path, d.pci_class, d.vendor, d.device, d.numa_node) for d in (*host.gpus, *host.hcas)]
    functions += [_Function(pci, path, pci_class, vendor, 1, -1) for pci, path, pci_class, vendor in host.others]
    above: dict[str, tuple[tuple[str, ...], int]] = {}
    buses: dict[str, list[int]] = {}
    for function in functions:
        chain = (*function.path, function.pci)
        for i, bridge in enumerate(function.path):
            if not bridge.startswith("pci"):
                above.setdefault(bridge, (function.path[:i], function.numa_node))
                buses.setdefault(bridge, []).extend(_bus(pci) for pci in chain[i + 1 :])
    bridges = [
        _Function(pci, path, 0x060400, 0x1000, 0xC030, node, range(min(buses[pci]), max(buses[pci]) + 1))
        for pci, (path, node) in above.items()
    ]
    return functions + bridges


def _config(function: _Function, atomics: bool | None = None) -> bytes:
    """Config space: the 64 bytes that any user may read; with `atomics` known also a PCI Express capability at 0x60 behind an MSI-X one."""
    config = bytearray(64 if atomics is None else 4096)
    config[0x00:0x04] = function.vendor.to_bytes(2, "little") + function.device.to_bytes(2, "little")
    config[0x06] = 0x10
    config[0x09:0x0C] = function.pci_class.to_bytes(3, "little")
    if function.buses is not None:
        config[0x0E] = 1  # the header of a bridge: primary, secondary and subordinate bus
        config[0x18:0x1B] = bytes((_bus(function.pci), function.buses[0], function.buses[-1]))
    config[0x34] = 0x9C
    if atomics is not None:
        config[0x9C:0x9E] = bytes((0x11, 0x60))
        config[0x60:0x64] = bytes((0x10, 0x00, 0x02, 0x00))
        config[0x84:0x88] = (0x180 if atomics else 0).to_bytes(4, "little")
    return bytes(config)


def _pci(out: _Writer, host: Host) -> None:
    local = {node.id: [cpu for cpu in node.cpus if cpu not in host.offline] for node in host.nodes}
    online = [cpu for cpus in local.values() for cpu in cpus]
    lists, masks = ({node: form(cpus) for node, cpus in local.items()} for form in (_list, _mask))
    all_list, all_mask = _list(online), _mask(online)
    atomics = {hca.pci: hca.atomics for hca in host.hcas}
    for function in _functions(host):
        folder, node = _folder(host, function.path, function.pci), function.numa_node
        out.text(f"{folder}/class", f"0x{function.pci_class:06x}")
        out.text(f"{folder}/vendor", f"0x{function.vendor:04x}")
        out.text(f"{folder}/device", f"0x{function.device:04x}")
        out.text(f"{folder}/numa_node", str(node))
        out.text(f"{folder}/local_cpulist", lists.get(node, all_list))
        out.text(f"{folder}/local_cpus", masks.get(node, all_mask))
        out.text(f"{folder}/max_link_speed", "32.0 GT/s PCIe")
        out.text(f"{folder}/max_link_width", "16")
        out.data(f"{folder}/config", _config(function, atomics.get(function.pci)))
        if function.buses is not None:
            out.text(f"{folder}/secondary_bus_number", str(function.buses[0]))
            out.text(f"{folder}/subordinate_bus_number", str(function.buses[-1]))
        out.link(f"sys/bus/pci/devices/{function.pci}", folder)
    for gpu in host.gpus:
        if host.nvidia_driver and gpu.vendor == NVIDIA:
            number = host.gpus.index(gpu)
            uuid = f"GPU-00000000-0000-4000-8000-{number:012x}"
            out.text(
                f"proc/driver/nvidia/gpus/{gpu.pci}/information",
                f"Model: \t\t {gpu.model}\nGPU UUID: \t {uuid}\nBus Location: \t {gpu.pci}",
            )
            if gpu.memory_node is not None:
                out.text(f"proc/driver/nvidia/gpus/{gpu.pci}/numa_status", f"Node:\t{gpu.memory_node}\nStatus:\tonline")


def _rdma(out: _Writer, host: Host) -> None:
    paths = {hca.pci: _folder(host, hca.path, hca.pci) for hca in host.hcas}
    for number, hca in enumerate(host.hcas):
        device = paths[hca.pci]
        base = f"{device}/infiniband/{hca.name}"
        guid = hca.guid if hca.guid is not None else f"b8ce:f603:00{number:02x}:0100"
        for name, text in (
            ("sys_image_guid", guid),
            ("node_guid", guid),
            ("fw_ver", hca.firmware),
            ("board_id", hca.board),
            ("node_type", "1: CA"),
        ):
            out.text(f"{base}/{name}", text)
        out.link(f"{base}/device", device)
        out.link(f"sys/class/infiniband/{hca.name}", base)
        out.folder(f"sys/bus/pci/drivers/{hca.driver}")
        out.link(f"{device}/driver", f"sys/bus/pci/drivers/{hca.driver}")
        if hca.physfn:
            out.link(f"{device}/physfn", paths[hca.physfn])
        if hca.netdev:
            out.text(f"{device}/net/{hca.netdev}/dev_port", "0")
            out.link(f"{device}/net/{hca.netdev}/device", device)
            out.link(f"sys/class/net/{hca.netdev}", f"{device}/net/{hca.netdev}")
        _ports(out, base, hca.ports)
    for soft in host.soft_hcas:
        base = f"sys/devices/virtual/infiniband/{soft.name}"
        out.text(f"{base}/parent", soft.netdev)
        out.text(f"{base}/sys_image_guid", "0000:0000:0000:0000")
        out.link(f"sys/class/infiniband/{soft.name}", base)
        if soft.pci is None:
            out.text(f"sys/devices/virtual/net/{soft.netdev}/type", "1")
            out.link(f"sys/class/net/{soft.netdev}", f"sys/devices/virtual/net/{soft.netdev}")
        _ports(out, base, (PortSpec(rate="2.5 Gb/sec (1X SDR)", link_layer="Ethernet"),))


def _ports(out: _Writer, base: str, ports: tuple[PortSpec, ...]) -> None:
    for i, port in enumerate(ports, 1):
        out.text(f"{base}/ports/{i}/state", port.state)
        out.text(f"{base}/ports/{i}/rate", port.rate)
        out.text(f"{base}/ports/{i}/link_layer", port.link_layer)
        gids = {gid.index: gid for gid in port.gids}
        for slot in range(max(gids, default=-1) + 3):
            gid = gids.get(slot)
            out.text(f"{base}/ports/{i}/gids/{slot}", gid.gid if gid else "0000:0000:0000:0000:0000:0000:0000:0000")
            if gid:
                out.text(f"{base}/ports/{i}/gid_attrs/types/{slot}", gid.type)
                if gid.netdev:
                    out.text(f"{base}/ports/{i}/gid_attrs/ndevs/{slot}", gid.netdev)


def _roce(number: int, netdev: str, rate: str = "400 Gb/sec (4X NDR)") -> PortSpec:
    gids = (
        GidSpec(0, f"fe80:0000:0000:0000:bace:f6ff:fe00:{number:04x}", "IB/RoCE v1", netdev),
        GidSpec(1, f"fe80:0000:0000:0000:bace:f6ff:fe00:{number:04x}", "RoCE v2", netdev),
        GidSpec(2, f"0000:0000:0000:0000:0000:ffff:0a00:{number:04x}", "IB/RoCE v1", netdev),
        GidSpec(3, f"0000:0000:0000:0000:0000:ffff:0a00:{number:04x}", "RoCE v2", netdev),
    )
    return PortSpec(rate=rate, link_layer="Ethernet", gids=gids)


def _smt(first: int, cores: int, shift: int) -> tuple[tuple[int, ...], ...]:
    return tuple((cpu, cpu + shift) for cpu in range(first, first + cores))


def azure_ndv5() -> Host:
    """An 8-GPU VM without PCIe switches: every device on a domain of its own, plus an Ethernet function for the VM network."""
    domains = (0x1, 0x2, 0x3, 0x8, 0x9, 0xA, 0xB, 0xC)
    gpus = tuple(GpuSpec(f"{d:04x}:00:00.0", (f"pci{d:04x}:00",), k // 4) for k, d in enumerate(domains))
    hcas = [
        HcaSpec(
            f"{0x101 + k:04x}:00:00.0",
            (f"pci{0x101 + k:04x}:00",),
            k // 4,
            name=f"mlx5_ib{k}",
            device=0x101E,
            board="MSF0000000012",
            guid="",
        )
        for k in range(8)
    ]
    ethernet = PortSpec(rate="100 Gb/sec (4X EDR)", link_layer="Ethernet")
    hcas.append(
        HcaSpec(
            "14a7:00:02.0",
            ("pci14a7:00",),
            0,
            name="mlx5_an0",
            device=0x101A,
            pci_class=0x020000,
            ports=(ethernet,),
            firmware="16.30.5000",
            guid="",
        )
    )
    nodes = (NodeSpec(0, tuple(range(48)), 950 << 20), NodeSpec(1, tuple(range(48, 96)), 950 << 20))
    return Host(nodes, gpus, tuple(hcas), pci_parent="LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00")


def gcp_a3u() -> Host:
    """2 GPUs and 2 RoCE NICs behind each of 4 switches, plus a host NIC; SMT siblings in the upper half of the CPU ids."""
    gpus: list[GpuSpec] = []
    hcas: list[HcaSpec] = []
    for switch in range(4):
        bus = 0x80 + 0x10 * switch
        root = (f"pci0000:{bus:02x}", f"0000:{bus:02x}:01.0", f"0000:{bus + 1:02x}:00.0")
        node = switch // 2
        for k in range(2):
            gpus.append(GpuSpec(f"0000:{bus + 3 + k:02x}:00.0", (*root, f"0000:{bus + 2:02x}:{k:02x}.0"), node, model="NVIDIA H200"))
            number = 2 * switch + k
            netdev = f"gpu{number}rdma0"
            path = (*root, f"0000:{bus + 2:02x}:{4 + k:02x}.0")
            pci = f"0000:{bus + 5 + k:02x}:00.0"
            hcas.append(
                HcaSpec(
                    pci, path, node, name=f"mlx5_{number}", pci_class=0x020000, ports=(_roce(number, netdev),), netdev=netdev, atomics=True
                )
            )
    nodes = tuple(NodeSpec(n, (*range(56 * n, 56 * n + 56), *range(112 + 56 * n, 168 + 56 * n)), 1 << 30) for n in range(2))
    return Host(nodes, tuple(gpus), tuple(hcas), siblings=_smt(0, 112, 112))


def gb200() -> Host:
    """4 GPUs and 4 HCAs, each on a PCIe domain of its own, 2 Grace CPUs, and GPU memory as CPU-less nodes 2-33."""
    gpus = tuple(
        GpuSpec(
            f"{d:04x}:01:00.0", (f"pci{d:04x}:00", f"{d:04x}:00:00.0"), k // 2, model="NVIDIA GB200", device=0x2941, memory_node=2 + 8 * k
        )
        for k, d in enumerate((0x8, 0x9, 0x18, 0x19))
    )
    hcas = tuple(
        HcaSpec(f"{d:04x}:03:00.0", (f"pci{d:04x}:00", f"{d:04x}:00:00.0"), k // 2, name=f"mlx5_{k}", device=0x1021)
        for k, d in enumerate((0x0, 0x2, 0x10, 0x12))
    )
    cpus = tuple(NodeSpec(n, tuple(range(72 * n, 72 * n + 72)), 480 << 20) for n in range(2))
    memory = tuple(NodeSpec(n, (), 186 << 20 if n % 8 == 2 else 0, gpu_memory=True) for n in range(2, 34))
    distances = {(a.id, b.id): 10 if a == b else 40 if a.cpus and b.cpus else 80 for a in (*cpus, *memory) for b in (*cpus, *memory)}
    return Host((*cpus, *memory), gpus, hcas, distances=distances)


def dgx_a100() -> Host:
    """NPS4 EPYC, GPU nodes 3,3,1,1,7,7,5,5; 2 GPUs and 2 HCAs a switch, and one dual-port storage card on node 3."""
    gpus: list[GpuSpec] = []
    hcas: list[HcaSpec] = []
    for switch, node in enumerate((3, 1, 7, 5)):
        bus = 0x08 + 0x38 * switch
        top = (f"pci0000:{bus:02x}", f"0000:{bus:02x}:01.1", f"0000:{bus + 1:02x}:00.0")
        for k in range(2):
            inner = (*top, f"0000:{bus + 2:02x}:00.0", f"0000:{bus + 3:02x}:00.0", f"0000:{bus + 4:02x}:{k:02x}.0")
            gpus.append(GpuSpec(f"0000:{bus + 8 + k:02x}:00.0", inner, node, model="NVIDIA A100-SXM4-80GB", device=0x20B2))
            number = 2 * switch + k
            path = (*top, f"0000:{bus + 2:02x}:{8 + k:02x}.0")
            hdr = (PortSpec(rate="200 Gb/sec (4X HDR)"),)
            hcas.append(HcaSpec(f"0000:{bus + 10 + k:02x}:00.0", path, node, name=f"mlx5_{number}", ports=hdr, device=0x101B, atomics=True))
    for port in range(2):
        ethernet = PortSpec(rate="100 Gb/sec (4X EDR)", link_layer="Ethernet")
        storage = HcaSpec(
            f"0000:e8:00.{port}",
            ("pci0000:e0", "0000:e0:01.1"),
            7,
            name=f"mlx5_{8 + port}",
            pci_class=0x020000,
            ports=(ethernet,),
            guid="b8ce:f603:00ff:0000",
        )
        hcas.append(storage)
    nodes = tuple(NodeSpec(n, (*range(16 * n, 16 * n + 16), *range(128 + 16 * n, 144 + 16 * n)), 128 << 20) for n in range(8))
    distances = {(a, b): 10 if a == b else 12 if a // 4 == b // 4 else 32 for a in range(8) for b in range(8)}
    return Host(nodes, tuple(gpus), tuple(hcas), siblings=_smt(0, 128, 128), nodes_per_package=4, cpus_per_l3=4, distances=distances)


def dgx_h100() -> Host:
    """One GPU and one NDR HCA on each of 8 switches, and two dual-port cards elsewhere."""
    gpus: list[GpuSpec] = []
    hcas: list[HcaSpec] = []
    for k in range(8):
        bus = 0x10 + 0x18 * k
        top = (f"pci0000:{bus:02x}", f"0000:{bus:02x}:01.0", f"0000:{bus + 1:02x}:00.0")
        gpus.append(GpuSpec(f"0000:{bus + 3:02x}:00.0", (*top, f"0000:{bus + 2:02x}:00.0"), k // 4))
        hcas.append(HcaSpec(f"0000:{bus + 4:02x}:00.0", (*top, f"0000:{bus + 2:02x}:01.0"), k // 4, name=f"mlx5_{k}", atomics=True))
    for node in range(2):
        for port in range(2):
            ethernet = PortSpec(state="4: ACTIVE" if port == 0 else "1: DOWN", rate="200 Gb/sec (4X HDR)", link_layer="Ethernet")
            root = (f"pci0000:{0xD8 + 8 * node:02x}", f"0000:{0xD8 + 8 * node:02x}:01.0")
            pci = f"0000:{0xD9 + 8 * node:02x}:00.{port}"
            hcas.append(
                HcaSpec(
                    pci,
                    root,
                    node,
                    name=f"mlx5_{8 + 2 * node + port}",
                    pci_class=0x020000,
                    ports=(ethernet,),
                    guid=f"b8ce:f603:00f{node}:0000",
                )
            )
    nodes = tuple(NodeSpec(n, (*range(56 * n, 56 * n + 56), *range(112 + 56 * n, 168 + 56 * n)), 1 << 30) for n in range(2))
    return Host(nodes, tuple(gpus), tuple(hcas), siblings=_smt(0, 112, 112))


def large(gpus: int = 64, hcas: int = 64, cpus: int = 1024, nodes: int = 16) -> Host:
    """A host of any size: devices dealt over the nodes, 2 GPUs and 2 HCAs a switch, SMT 2."""
    cores = cpus // 2
    per_node = cores // nodes
    node_specs = tuple(
        NodeSpec(n, (*range(n * per_node, (n + 1) * per_node), *range(cores + n * per_node, cores + (n + 1) * per_node)), 64 << 20)
        for n in range(nodes)
    )

    def path(k: int, count: int, slot: int) -> tuple[tuple[str, ...], str, int]:
        switch = k // 2
        top = (f"pci{switch:04x}:00", f"{switch:04x}:00:01.0", f"{switch:04x}:01:00.0")
        return (*top, f"{switch:04x}:02:{slot + k % 2:02x}.0"), f"{switch:04x}:{3 + slot + k % 2:02x}:00.0", k * nodes // count

    gpu_specs = []
    for k in range(gpus):
        above, pci, node = path(k, gpus, 0)
        gpu_specs.append(GpuSpec(pci, above, node))
    hca_specs = []
    for k in range(hcas):
        above, pci, node = path(k, max(hcas, gpus), 4)
        hca_specs.append(HcaSpec(pci, above, min(node, nodes - 1), name=f"mlx5_{k}", guid=f"b8ce:f603:{k:04x}:0100", atomics=True))
    return Host(node_specs, tuple(gpu_specs), tuple(hca_specs), siblings=_smt(0, cores, cores), cpus_per_l3=8)


PRESETS = {"azure_ndv5": azure_ndv5, "gcp_a3u": gcp_a3u, "gb200": gb200, "dgx_a100": dgx_a100, "dgx_h100": dgx_h100}
