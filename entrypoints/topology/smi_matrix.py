"""`nvidia-smi topo -m` (and -mp, and rocm-smi's NUMA lines) as a Topology.

Only what the matrix itself says is used: levels, NVLink, NUMA columns, the NIC legend. The CPU column is not read,
because nvidia-smi cuts it ("0,2,4,6,8,10" of 80 CPUs) and glues its neighbour to it ("0-45,92-1370").
"""

import re

from entrypoints.errors import UsageError
from entrypoints.topology.model import LEVELS, Gpu, Hca, NumaNode, Topology
from entrypoints.topology.smi_text import CPU, GPU, MEMORY, MOST_WARNINGS, NUMA, Matrix, read_matrix
from entrypoints.topology.values import ids_of_list, natural

#: The variant that tells PCIe paths also where NVLink is; its legend has no "NV#".
_PATHS_ONLY = re.compile(r"topo\s+(?:-mp|--matrix_pci|-p\s+-m|-m\s+-p)\b")


def parse_matrix(text: str, source: str) -> Topology:
    """A Topology from matrix text. Raises UsageError with a line when no GPU row can be read."""
    return _topology(read_matrix(text, source), text, source)


def _topology(matrix: Matrix, text: str, source: str) -> Topology:
    warnings = matrix.warnings
    numbers = {name: int(name[3:]) for name in matrix.columns if GPU.fullmatch(name)}
    numbers |= {f"GPU{number}": number for number in matrix.rocm_nodes}
    if not numbers or not (any(matrix.rows.values()) or matrix.rocm_nodes):
        line = matrix.header_line or text[: text.find("GPU") + 1].count("\n") + 1
        raise UsageError("has no row of a GPU matrix that can be read", where=f"{source}:{line}", hint="paste all of `nvidia-smi topo -m`")
    if matrix.is_peer_status:
        what = "is `topo -p2p` output, which says whether GPUs reach each other and not how"
        raise UsageError(what, where=f"{source}:{matrix.header_line}", hint="paste `nvidia-smi topo -m`")
    nics = [name for name in matrix.columns if name not in numbers]
    missing = [name for name in numbers if not matrix.rows.get(name) and matrix.columns]
    if missing:
        warnings.append(f"{source}:{matrix.header_line}: the header names {', '.join(missing)}, whose rows are missing")
    levels = _levels(matrix, numbers, nics, source)
    memory: set[int] = set()
    nodes = {name: _numa(matrix, name, memory, source) for name in numbers}
    for name in missing:
        nodes[name] = _node_by_neighbours(matrix, name, nodes)
    for number, node in matrix.rocm_nodes.items():
        nodes[f"GPU{number}"] = node if node >= 0 else None
    order = sorted(numbers, key=lambda name: numbers[name])
    silent = not _has_links(matrix) and bool(_PATHS_ONLY.search(text) or ("= Self" in text and "NV#" not in text))
    gpus = tuple(Gpu(numbers[name], numa_node=nodes[name], nvlink=None if silent else _nvlink(matrix, name, numbers)) for name in order)
    cards = _cards(matrix, nics)
    hcas = tuple(_hca(name, matrix.legend, gpus, levels, cards.get(name)) for name in sorted(nics, key=natural))
    unnamed = [hca.label for hca in hcas if hca.name is None]
    if unnamed:
        warnings.append(f"no legend names {unnamed[0]}{f' to {unnamed[-1]}' if len(unnamed) > 1 else ''}; they are called so here")
    used = {gpu.numa_node for gpu in gpus if gpu.numa_node is not None} | memory
    return Topology(
        source=source,
        numa_nodes=tuple(NumaNode(node, gpu_memory=node in memory) for node in sorted(used)),
        gpus=gpus,
        hcas=hcas,
        levels=levels,
        warnings=tuple(warnings),
    )


def _levels(matrix: Matrix, numbers: dict[str, int], nics: list[str], source: str) -> dict[tuple[int, str], str]:
    """GPU x NIC levels. The matrix is symmetric, so a NIC's row stands in for a missing GPU row."""
    levels: dict[tuple[int, str], str] = {}
    for gpu, number in numbers.items():
        for nic in nics:
            there = matrix.rows.get(gpu, {}).get(nic)
            back = matrix.rows.get(nic, {}).get(gpu)
            if there in LEVELS and back in LEVELS and there != back and len(matrix.warnings) < MOST_WARNINGS:
                text = f"{source}:{matrix.lines[nic]}: {nic} says {back} to {gpu}"
                matrix.warnings.append(f"{text}, but line {matrix.lines[gpu]} says {there}; the latter counts")
            level = there if there in LEVELS else back
            if level in LEVELS:
                levels[number, nic] = level
    return levels


def _nvlink(matrix: Matrix, name: str, numbers: dict[str, int]) -> tuple[int, ...] | None:
    """Peers by NVLink or XGMI; None when nothing is said about this GPU."""
    said = False
    peers = set()
    for other, number in numbers.items():
        if other == name:
            continue
        cells = (matrix.rows.get(name, {}).get(other), matrix.rows.get(other, {}).get(name))
        said = said or any(cells)
        if any(cell and _is_link(cell) for cell in cells):
            peers.add(number)
    return tuple(sorted(peers)) if said else None


def _is_link(cell: str) -> bool:
    return cell.startswith("NV") or cell == "XGMI"


def _has_links(matrix: Matrix) -> bool:
    return any(_is_link(cell) for cells in matrix.rows.values() for cell in cells.values())


def _numa(matrix: Matrix, name: str, memory: set[int], source: str) -> int | None:
    """The GPU's CPU-bearing NUMA node; its own memory node (Grace) is added to `memory`.

    The column is one number, "N/A", a range or list of nodes when the GPU is near to several ("0,8,252-255" in a POWER9
    job), or on Grace, where the GPU has a memory node, a list that begins with the CPU's node ("0,3-9,11-17").
    """
    rest = matrix.rest.get(name, [])
    titles = matrix.titles if NUMA in matrix.titles else [CPU, NUMA]
    has_memory = MEMORY in titles and len(rest) == len(titles) and rest[-1].isdecimal() and len(rest[-1]) < 6
    if has_memory:
        memory.add(int(rest[-1]))
    place = titles.index(NUMA)
    if rest and len(rest) < len(matrix.titles) and (glued := _unglue(rest[0])) is not None:
        return glued
    if len(rest) <= place:
        return None
    text = rest[place]
    first, *others = text.split(",")
    if first.isdecimal() and len(first) < 6 and (not others or has_memory):
        return int(first)
    if ids_of_list(text) is not None:
        matrix.warnings.append(f"{source}:{matrix.lines[name]}: {name} is near to NUMA nodes {text}; which one is not said")
    return None


def _node_by_neighbours(matrix: Matrix, name: str, nodes: dict[str, int | None]) -> int | None:
    """The node of a GPU whose row is missing: that of the GPUs which say they are nearer to it than SYS."""
    near = {nodes[other] for other in nodes if matrix.rows.get(other, {}).get(name) in LEVELS[:-1]} - {None}
    return near.pop() if len(near) == 1 else None


def _unglue(text: str) -> int | None:
    """The NUMA node at the end of "0-45,92-1370": SMT ranges are equally long, so 92-137 and 0."""
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5}),(\d{1,5})-(\d{2,9})", text)
    if match is None:
        return None
    length = int(match[2]) - int(match[1])
    for digits in (1, 2, 3):
        end, node = match[4][:-digits], match[4][-digits:]
        if end and int(end) - int(match[3]) == length and (len(node) == 1 or node[0] != "0"):
            return int(node)
    return None


def _cards(matrix: Matrix, nics: list[str]) -> dict[str, str]:
    """NICs that are PIX to each other: two ports of one card (or two cards of one switch, which a matrix cannot tell apart)."""
    cards: dict[str, str] = {}
    for nic in nics:
        for other in nics:
            if other != nic and "PIX" in (matrix.rows.get(nic, {}).get(other), matrix.rows.get(other, {}).get(nic)):
                card = cards.get(other) or cards.get(nic) or nic
                cards[nic] = cards[other] = card
    return cards


def _hca(label: str, legend: dict[str, str], gpus: tuple[Gpu, ...], levels: dict[tuple[int, str], str], card: str | None) -> Hca:
    """A NIC of the matrix. A level nearer than SYS to a GPU means that GPU's NUMA node, unless GPUs contradict each other."""
    near = {gpu.numa_node for gpu in gpus if levels.get((gpu.index, label), "SYS") != "SYS" and gpu.numa_node is not None}
    name = legend.get(label) or (None if re.fullmatch(r"NIC\d+", label) else label)
    return Hca(label, name, numa_node=near.pop() if len(near) == 1 else None, card=card)
