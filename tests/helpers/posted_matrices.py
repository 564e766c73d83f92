"""Hosts that people posted, written down as `nvidia-smi topo -m` prints them, from our own table of their levels.

tests/data/plan/posted-hosts.json says of a host:
- `source`: where it was posted, as far as that is still known
- `nics`: their names, or NIC0 where no legend came with the post; `cards`: equal for ports of one card
- `numa`: the GPUs' nodes; `near` and `memory`: of Grace, the list of nodes that stands in their place, and the nodes of the GPUs' memory
- `rows`: levels, GPU by NIC; "-" where the post was cut
- `nvlink`: groups of GPUs that all reach each other; left out where only PCIe paths are known
- `tool`: rocm-smi, which prints no matrix
- `expect` and `load`: the right HCAs of each rank, and how many ranks may share one
"""

from typing import Any

from entrypoints.topology import path_level
from entrypoints.topology.model import Topology
from tests.helpers.placing import POSTED

#: Host -> (GPUs, HCAs, NUMA node of each GPU, name of the nearest HCAs of each GPU by PIX or PXB).
MATRICES = {
    "a100-epyc7543-nps4-dualport": (8, 10, "33117755", "0,1 0,1 2,3 2,3 4,5 4,5 6,7 6,7"),
    "b200-gpu2-no-nvlink": (8, 12, "000011??", "0 1 2 3 4 5 - -"),
    "b300-cx8-bond8": (8, 8, "00001111", "0 1 2 3 4 5 6 7"),
    "dgx-a100-nic10-nps4": (8, 10, "33117755", "0,1 0,1 2,3 2,3 4,5 4,5 6,7 6,7"),
    "gb10-dgx-spark": (1, 4, "0", "-"),
    "gb200-nic6-all-sys": (4, 6, "001?", "- - - -"),
    "gb200-nic8-all-sys": (4, 8, "0011", "- - - -"),
    "h100-ib8-eth5-pxb-pairs": (8, 13, "00001111", "0 1 2 3 4 5 6 7"),
    "h100-nic10-all-sys-pix": (8, 10, "0000111?", "0 1 2 3 4 5 6 -"),
    "h100-nic4-phb-gpu1-gpu6": (8, 4, "0000111?", "- - - - - - - -"),
    "h20-nic2-phb-gpu6": (8, 2, "0000111?", "- - - - - - - -"),
    "h20-nic5-137": (8, 5, "0000111?", "0 - 1 - 2 - 4 -"),
    "h20-own-root-nic10": (8, 10, "000011??", "0 1 2 3 4 5 - -"),
    "h200-dell-evenodd-nic10": (8, 10, "0???????", "0,1 - - - - - - -"),
    "h200-rails8-clean": (8, 8, "000011??", "0 1 2 3 4 5 - -"),
    "h200x4-nvlpairs-nic2": (4, 2, "????", "0 0 1 1"),
    "h800-nic18-4ports-per-pair": (8, 18, "0000????", "0,1,2,3 0,1,2,3 6,7,8,9 6,7,8,9 - - - -"),
    "h800-rails8-bond1": (8, 9, "00001111", "0 1 2 3 4 5 6 7"),
    "rocm-mi-nps4-numa": (8, 0, "32107654", "- - - - - - - -"),
    "rtx4090x8-epyc-nps4-nic4": (8, 4, "32107654", "- - - - - - - -"),
    "rtx4090x8-nic2": (8, 2, "00001111", "- - - - - - - -"),
}

_LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
"""
_NVLINK_LEGEND = "  NV#  = Connection traversing a bonded set of # NVLinks\n"


def nearest(topology: Topology) -> str:
    """The numbers of the HCAs that are nearest to each GPU, as MATRICES words them."""
    words = []
    for gpu in topology.gpus:
        by_level = {level: [h.label[3:] for h in topology.hcas if path_level(topology, gpu, h) == level] for level in ("PIX", "PXB")}
        words.append(",".join(by_level["PIX"] or by_level["PXB"]) or "-")
    return " ".join(words)


def is_cut(host: dict[str, Any], gpu: int) -> bool:
    """The post ends before this GPU's row, and so before all rows of NICs."""
    return bool("-" in host["rows"][gpu].split())


def nvlink_peers(host: dict[str, Any]) -> list[tuple[int, ...] | None]:
    """The NVLink peers of each GPU that a reader can know from the rows that are there; None where no row says anything."""
    count = len(host["numa"])
    if "nvlink" not in host or count == 1:
        return [None] * count
    linked = {(a, b) for group in host["nvlink"] for a in group for b in group if a != b and not (is_cut(host, a) and is_cut(host, b))}
    return [tuple(b for b in range(count) if (a, b) in linked) for a in range(count)]


def matrix_text(name: str) -> str:
    """A host of the table as its tool prints it.

    The CPU column is made up, and so are levels that the table does not have: between GPUs without NVLink, and between NICs of two cards.
    """
    host = POSTED[name]
    if host.get("tool") == "rocm-smi":
        titles = ("Numa Node", "Numa Affinity")
        return "".join(f"GPU[{i}]\t\t: (Topology) {title}: {node}\n" for i, node in enumerate(host["numa"]) for title in titles)
    numa, nics, cards = host["numa"], host["nics"], host["cards"] or [None] * len(host["nics"])
    has_nodes = any(node is not None for node in numa)
    gpus, columns = [f"GPU{i}" for i in range(len(numa))], [f"NIC{i}" for i in range(len(nics))]
    affinity_titles = ["CPU Affinity", "NUMA Affinity", "GPU NUMA ID"] if has_nodes else []
    lines = ["\t" + "\t".join([*gpus, *columns, *affinity_titles])]
    for i, row in enumerate(host["rows"]):
        if is_cut(host, i):
            continue
        between = [_between(host, i, j) for j in range(len(numa))]
        near = host.get("near", numa)[i]
        memory = host.get("memory", [None] * len(numa))[i]
        affinity = [f"{8 * (numa[i] or 0)}-{8 * (numa[i] or 0) + 7}", str(near), "N/A" if memory is None else str(memory)]
        lines.append("\t".join([gpus[i], *between, *row.split(), *(affinity if has_nodes else [])]))
    if not any(is_cut(host, i) for i in range(len(numa))):
        for i, column in enumerate(columns):
            to_gpus = [row.split()[i] for row in host["rows"]]
            to_nics = [" X " if j == i else "PIX" if card is not None and card == cards[i] else "SYS" for j, card in enumerate(cards)]
            lines.append("\t".join([column, *to_gpus, *to_nics]))
    legend = _LEGEND + (_NVLINK_LEGEND if "nvlink" in host else "")
    if any(nic != column for nic, column in zip(nics, columns, strict=True)):
        legend += "\nNIC Legend:\n\n" + "".join(f"  {column}: {nic}\n" for nic, column in zip(nics, columns, strict=True))
    return "\n".join([*lines, legend])


def _between(host: dict[str, Any], gpu: int, other: int) -> str:
    if gpu == other:
        return " X "
    if any(gpu in group and other in group for group in host.get("nvlink", ())):
        return "NV18"
    nodes = host["numa"][gpu], host["numa"][other]
    return "NODE" if nodes[0] is not None and nodes[0] == nodes[1] else "SYS"
