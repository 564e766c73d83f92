"""Vendors' PCI trees, written as NCCL or hwloc XML from our own notation of them: tests/data/topology/posted-trees.toml."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entrypoints.toml import load_toml
from entrypoints.topology.values import ids_of_list

TREES: dict[str, dict[str, Any]] = load_toml(Path(__file__).parents[1] / "data" / "topology" / "posted-trees.toml")

#: Host -> (NUMA node of each GPU, bus ids of the HCAs, levels between them).
FACTS: dict[str, tuple[str, list[str], set[str]]] = {
    "aws-g5": ("00001111", ["0000:00:15.0"], {"NODE", "SYS"}),
    "aws-p4de": ("00001111", ["0000:10:1b.0", "0000:20:1b.0", "0000:90:1b.0", "0000:a0:1b.0"], {"PIX", "NODE", "SYS"}),
    "azure-ncv4": ("0123", [], set()),
    "azure-ndv2": ("00001111", ["0101:00:00.0"], {"NODE", "SYS"}),
    "azure-ndv5": ("00001111", [f"{domain:04x}:00:00.0" for domain in range(0x101, 0x109)], {"PIX", "NODE", "SYS"}),
    "dgx-2": ("0000000011111111", [], set()),
}

#: Host -> bus id of each rank's HCA in the right plan.
MAPS: dict[str, list[str | None]] = {
    "azure-ndv5": [f"{0x101 + k:04x}:00:00.0" for k in range(8)],
    "azure-ndv2": ["0101:00:00.0"] * 8,
    "aws-p4de": [f"0000:{bus}:1b.0" for bus in ("10", "10", "20", "20", "90", "90", "a0", "a0")],
    "azure-ncv4": [None] * 4,
    "aws-g5": ["0000:00:15.0"] * 8,
    "dgx-2": [None] * 16,
}

#: Host -> name of the vendor's file among the originals.
FILES = {
    "azure-ndv5": "azure-ndv5-topo.xml",
    "azure-ndv2": "azure-ndv2-topo.xml",
    "aws-p4de": "aws-p4de-24xl-topo.xml",
    "azure-ncv4": "azure-ncv4-topo.xml",
    "aws-g5": "aws-g5.48xl-topo.xml",
    "dgx-2": "hwloc-nvidiaDGX2.xml",
}

_NCCL_KINDS: dict[str, dict[str, str]] = {
    "bridge": {"class": "0x060400"},
    "gpu": {"class": "0x030200"},
    "infiniband": {"class": "0x020700"},
    "efa": {"class": "0x020000", "vendor": "0x1d0f", "device": "0xefa0"},
    "device": {},
}
_HWLOC_KINDS = {"gpu": "0302 [10de:1db8]", "nvswitch": "0680 [10de:1ac2]"}


def tree_text(name: str) -> str:
    """A host's tree as XML of the format that its vendor publishes."""
    host = TREES[name]
    return ET.tostring(_hwloc(host) if host["format"] == "hwloc" else _nccl(host), encoding="unicode")


def mask(cpus: tuple[int, ...], words: int) -> str:
    """A CPU mask of at least so many words of 32 bits, as the kernel writes it."""
    value = sum(1 << cpu for cpu in cpus)
    return ",".join(f"{value >> 32 * i & 0xFFFFFFFF:08x}" for i in reversed(range(max(words, 1))))


def _add_tree(parent: ET.Element, tree: str, add: Callable[[ET.Element, str, str, dict[str, str]], ET.Element]) -> None:
    """Add each line of a tree below the nearest line before it that is less indented; `add` makes its element."""
    above = [(-1, parent)]
    for line in filter(str.strip, tree.splitlines()):
        depth = len(line) - len(line.lstrip())
        while above[-1][0] >= depth:
            above.pop()
        kind, name, *more = line.split()
        above.append((depth, add(above[-1][1], kind, name, dict(word.split("=") for word in more))))


def _nccl(host: dict[str, Any]) -> ET.Element:
    system = ET.Element("system", version="1")
    link = {"link_speed": host["link"]["speed"], "link_width": str(host["link"]["width"])} if "link" in host else {}
    processor = host.get("processor", {})
    names = {"arch": "arch", "vendor": "vendor", "family": "familyid", "model": "modelid"}

    def add(parent: ET.Element, kind: str, name: str, more: dict[str, str]) -> ET.Element:
        if kind == "socket":
            nic = ET.SubElement(parent, "nic")
            return ET.SubElement(nic, "net", name=name, dev="0", speed="100000", port="0", guid="0x0")
        device = ET.SubElement(parent, "pci", {"busid": name, **_NCCL_KINDS[kind], **link})
        if "nvlink" in more:
            number = sum(1 for _ in system.iter("gpu"))
            gpu = ET.SubElement(device, "gpu", dev=str(number), rank=str(number))
            ET.SubElement(gpu, "nvlink", target=more["nvlink"], tclass="0x030200")
        return device

    for node in host["nodes"]:
        cpu = ET.SubElement(system, "cpu", numaid=str(node["node"]))
        if "cpus" in node:
            cpu.set("affinity", mask(ids_of_list(node["cpus"]) or (), 3))
        for fact, attribute in names.items():
            if fact in processor:
                cpu.set(attribute, str(processor[fact]))
        _add_tree(cpu, node["tree"], add)
    return system


def _hwloc(host: dict[str, Any]) -> ET.Element:
    topology = ET.Element("topology", version="3.0")
    sets = {node["node"]: ids_of_list(node["cpus"]) or () for node in host["nodes"]}
    everything = mask(tuple(cpu for cpus in sets.values() for cpu in cpus), 1)
    machine = ET.SubElement(topology, "object", type="Machine", os_index="0", cpuset=everything, allowed_cpuset=everything)
    machine.set("allowed_nodeset", mask(tuple(sets), 1))

    def add(parent: ET.Element, kind: str, name: str, more: dict[str, str]) -> ET.Element:
        if kind == "root":
            return ET.SubElement(parent, "object", type="Bridge", bridge_type="0-1", bridge_pci=name)
        if kind == "bridge":
            return ET.SubElement(parent, "object", type="Bridge", bridge_type="1-1", pci_busid=name)
        return ET.SubElement(parent, "object", type="PCIDev", pci_busid=name, pci_type=f"{_HWLOC_KINDS[kind]} [0000:0000] a1 00")

    for node in host["nodes"]:
        number, cpus = node["node"], sets[node["node"]]
        package = ET.SubElement(machine, "object", type="Package", os_index=str(number), cpuset=mask(cpus, 1))
        ET.SubElement(package, "object", type="NUMANode", os_index=str(number), cpuset=mask(cpus, 1))
        for core_number, cpu in enumerate(cpus):
            unit = mask((cpu,), 1)
            core = ET.SubElement(package, "object", type="Core", os_index=str(core_number), cpuset=unit)
            ET.SubElement(core, "object", type="PU", os_index=str(cpu), cpuset=unit)
        _add_tree(package, node["tree"], add)
    return topology
