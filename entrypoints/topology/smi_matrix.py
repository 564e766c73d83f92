"""The text of `nvidia-smi topo -m` (and -mp), as people paste it, and rocm-smi's relatives of it.

Only what the matrix itself says is used: levels, NVLink, NUMA columns, the NIC legend. The CPU column is not read,
because nvidia-smi cuts it ("0,2,4,6,8,10" of 80 CPUs) and glues its neighbour to it ("0-45,92-1370").
"""

import re
from dataclasses import dataclass, field

from entrypoints.errors import UsageError
from entrypoints.topology.model import LEVELS, Gpu, Hca, NumaNode, Topology
from entrypoints.topology.values import ids_of_list, natural

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|\[[0-9;]{1,5}m")
_GPU = re.compile(r"GPU(\d{1,4})")
_CELL = re.compile(r"X|NV\d{1,3}|NV#|PIX|PXB|PHB|NODE|SYS|SOC|PSB|C2C|XGMI|PCIE|N/A|SELF|\d{1,3}")
_LEGEND = re.compile(r"(NIC\d{1,4})\s*[:=]\s*(\S{1,64})")
_ROCM = re.compile(r"GPU\[(\d{1,4})\]\s*:\s*\(Topology\)\s*Numa Node\s*:\s*(-?\d{1,5})")
#: Column titles behind the devices, in the order nvidia-smi prints them.
_TITLES = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")
#: Drivers before R384 called SYS "SOC" (socket-level link).
_OLD_NAMES = {"SOC": "SYS", "PSB": "PIX"}


@dataclass
class _Matrix:
    """What was read so far: column names, cells and trailing columns by row name, each with its line."""

    columns: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    rest: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    legend: dict[str, str] = field(default_factory=dict)
    rocm_nodes: dict[int, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    header_line: int = 0


def parse_matrix(text: str, source: str) -> Topology:
    """A Topology from matrix text. Raises UsageError with a line when no GPU row can be read."""
    matrix = _Matrix()
    open_row: str | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = _ANSI.sub("", raw[:100_000]).replace("|", "\t").replace("\0", "").strip().lstrip(">`* ")
        if not line or line.startswith(("#", "//")):
            continue
        legend = _LEGEND.fullmatch(line)
        rocm = _ROCM.search(line)
        if legend:
            matrix.legend.setdefault(legend[1], legend[2])
        elif rocm:
            matrix.rocm_nodes.setdefault(int(rocm[1]), int(rocm[2]))
        elif not _header(matrix, line, number):
            open_row = _row(matrix, line, number, source, open_row)
    return _topology(matrix, text, source)


def _header(matrix: _Matrix, line: str, number: int) -> bool:
    """Take a line of column names; a second line of names goes on where a narrow terminal broke the first."""
    names, titles = _split_titles(line)
    if not names or any(_CELL.fullmatch(name) and not _GPU.fullmatch(name) for name in names):
        return False
    if matrix.columns and not matrix.rows and not matrix.titles and all(re.fullmatch(r"(?:GPU|NIC)\d+", name) for name in names):
        matrix.columns += [name for name in names if name not in matrix.columns]
        matrix.titles = titles
        return True
    if sum(bool(_GPU.fullmatch(name)) for name in names) < 1 or not _GPU.fullmatch(names[0]):
        return False
    if len(names) == 1 and not titles:
        return False
    if not all(re.fullmatch(r"[A-Za-z][\w.:+-]{1,63}", name) for name in names):
        return False
    if matrix.columns:
        if matrix.rows:
            matrix.warnings.append(f"line {number}: a second matrix begins; only the first is read")
        return True
    matrix.columns = list(dict.fromkeys(names))
    matrix.titles = titles
    matrix.header_line = number
    return True


def _split_titles(line: str) -> tuple[list[str], list[str]]:
    """Column names and the titles behind them."""
    end = len(line)
    titles = []
    for title in _TITLES:
        match = re.search(rf"(?<!\S){title.replace(' ', r'[ _]+')}", line, re.IGNORECASE)
        if match:
            titles.append(title)
            end = min(end, match.start())
    if not titles:
        match = re.search(r"(?<!\S)(?:CPU|NUMA)\b", line)
        if match:
            titles, end = ["CPU Affinity"], match.start()
    return line[:end].split(), titles


def _row(matrix: _Matrix, line: str, number: int, source: str, open_row: str | None) -> str | None:
    """Take a row, or the continuation of the row before; lines of anything else are passed over."""
    name, *tokens = line.split()
    if not matrix.columns or name not in matrix.columns:
        # A row that a narrow terminal broke goes on with cells.
        if open_row and _CELL.fullmatch(name):
            _fill(matrix, open_row, [name, *tokens], len(matrix.rows[open_row]))
            return open_row
        return None
    if not tokens or not _CELL.fullmatch(tokens[0]):
        return None
    if name in matrix.rows:
        matrix.warnings.append(f"line {number}: a second row {name} is left out (the first is on line {matrix.lines[name]})")
        return None
    matrix.rows[name] = {}
    matrix.lines[name] = number
    _fill(matrix, name, tokens, 0)
    own = matrix.rows[name].get(name)
    if own not in (None, "X", "0", "SELF", "N/A"):
        # A lost or doubled cell shifts all that follow: nothing in this row can be trusted.
        matrix.warnings.append(f"{source}:{number}: row {name} has {own} where its X should be; the row is left out")
        matrix.rows[name] = {}
    return name


def _fill(matrix: _Matrix, name: str, tokens: list[str], begin: int) -> None:
    cells = matrix.rows[name]
    columns = matrix.columns[begin:]
    for used, token in enumerate(tokens):
        if used >= len(columns) or not _CELL.fullmatch(token):
            matrix.rest[name] = tokens[used:]
            return
        cells[columns[used]] = _OLD_NAMES.get(token, token)


def _topology(matrix: _Matrix, text: str, source: str) -> Topology:
    warnings = matrix.warnings
    numbers = {name: int(name[3:]) for name in matrix.columns if _GPU.fullmatch(name)}
    numbers |= {f"GPU{number}": number for number in matrix.rocm_nodes}
    if not numbers or not (matrix.rows or matrix.rocm_nodes):
        line = matrix.header_line or text[: text.find("GPU") + 1].count("\n") + 1
        raise UsageError("has no row of a GPU matrix that can be read", where=f"{source}:{line}", hint="paste all of `nvidia-smi topo -m`")
    nics = [name for name in matrix.columns if name not in numbers]
    missing = [name for name in numbers if not matrix.rows.get(name) and matrix.columns]
    if missing:
        warnings.append(f"{source}:{matrix.header_line}: the header names {', '.join(missing)}, whose rows are missing")
    levels = _levels(matrix, numbers, nics, source)
    memory: set[int] = set()
    nodes = {name: _numa(matrix, name, memory, source) for name in numbers}
    for number, node in matrix.rocm_nodes.items():
        nodes[f"GPU{number}"] = node if node >= 0 else None
    order = sorted(numbers, key=lambda name: numbers[name])
    gpus = tuple(Gpu(numbers[name], numa_node=nodes[name], nvlink=_nvlink(matrix, name, numbers)) for name in order)
    cards = _cards(matrix, nics)
    hcas = tuple(_hca(name, matrix.legend, gpus, levels, cards.get(name)) for name in sorted(nics, key=natural))
    unnamed = [hca.label for hca in hcas if hca.name is None]
    if unnamed:
        warnings.append(f"no legend names {', '.join(unnamed)}; they are called so here")
    used = {gpu.numa_node for gpu in gpus if gpu.numa_node is not None} | memory
    return Topology(
        source=source,
        numa_nodes=tuple(NumaNode(node, gpu_memory=node in memory) for node in sorted(used)),
        gpus=gpus,
        hcas=hcas,
        levels=levels,
        warnings=tuple(warnings),
    )


def _levels(matrix: _Matrix, numbers: dict[str, int], nics: list[str], source: str) -> dict[tuple[int, str], str]:
    """GPU x NIC levels. The matrix is symmetric, so a NIC's row stands in for a missing GPU row."""
    levels: dict[tuple[int, str], str] = {}
    for gpu, number in numbers.items():
        for nic in nics:
            there = matrix.rows.get(gpu, {}).get(nic)
            back = matrix.rows.get(nic, {}).get(gpu)
            if there in LEVELS and back in LEVELS and there != back:
                text = f"{source}:{matrix.lines[nic]}: {nic} says {back} to {gpu}"
                matrix.warnings.append(f"{text}, but line {matrix.lines[gpu]} says {there}; the latter counts")
            level = there if there in LEVELS else back
            if level in LEVELS:
                levels[number, nic] = level
    return levels


def _nvlink(matrix: _Matrix, name: str, numbers: dict[str, int]) -> tuple[int, ...] | None:
    """Peers by NVLink or XGMI; None when nothing is said about this GPU (topo -mp names no link at all)."""
    said = False
    peers = set()
    for other, number in numbers.items():
        if other == name:
            continue
        cells = (matrix.rows.get(name, {}).get(other), matrix.rows.get(other, {}).get(name))
        said = said or any(cells)
        if any(cell and (cell.startswith("NV") or cell == "XGMI") for cell in cells):
            peers.add(number)
    return tuple(sorted(peers)) if said else None


def _numa(matrix: _Matrix, name: str, memory: set[int], source: str) -> int | None:
    """The GPU's CPU-bearing NUMA node; its own memory node (Grace) is added to `memory`.

    The column is one number, "N/A", a range of nodes when the GPU is near to several, or on Grace a list that
    begins with the CPU's node ("0,3-9,11-17").
    """
    rest = matrix.rest.get(name, [])
    wanted = len(matrix.titles) if matrix.titles else len(rest)
    if "GPU NUMA ID" in matrix.titles and len(rest) >= 2 and rest[-1].isdecimal() and len(rest) == wanted:
        memory.add(int(rest[-1][:6]))
    if len(rest) < wanted and "NUMA Affinity" in matrix.titles and rest:
        return _unglue(rest[0])
    if len(rest) < 2 or ("NUMA Affinity" not in matrix.titles and matrix.titles):
        return None
    text = rest[1]
    first = text.split(",")[0]
    if first.isdecimal() and len(first) < 6:
        return int(first)
    if ids_of_list(text) is not None:
        matrix.warnings.append(f"{source}:{matrix.lines[name]}: {name} is near to NUMA nodes {text}; which one is not said")
    return None


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


def _cards(matrix: _Matrix, nics: list[str]) -> dict[str, str]:
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
