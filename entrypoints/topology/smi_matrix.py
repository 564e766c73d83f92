"""`nvidia-smi topo -m` (and -mp, and rocm-smi's NUMA lines) as a Topology, out of whatever people paste around it.

Three steps: lines without decoration (colour codes, quotes, log prefixes, table rules, wrapping), a Matrix of cells by name, a
Topology. Only what the matrix itself says is used: levels, NVLink, NUMA columns, the NIC legend. The CPU column is not read,
because nvidia-smi cuts it ("0,2,4,6,8,10" of 80 CPUs) and glues its neighbour to it ("0-45,92-1370").
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from entrypoints.errors import UsageError
from entrypoints.topology.model import LEVELS, Gpu, Hca, NumaNode, Topology
from entrypoints.topology.values import ids_of_list, natural

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|\[[0-9;]{1,5}m")
_TAG = re.compile(r"</?(?:pre|code|samp|table|tbody|thead|tr|td|th|p|br|div|span|b|strong|details|summary)\b[^<>]{0,200}>", re.IGNORECASE)
#: Table rules become tabs; Markdown's emphasis, quotation marks and characters without width go.
_MARKS = {**dict.fromkeys(map(ord, "|│┃║"), "\t"), **dict.fromkeys(map(ord, '`*"\0\u200b\u200c\u200d\u2060\ufeff'), None)}
_FIRST_DEVICE = re.compile(r"(?:^|(?<=[\s:>$#=\])]))(?:GPU|NIC)\[?\d")
_MAX_PREFIX = 200
#: Cells that a narrow terminal printed without a space between them, and column names likewise.
_LEVEL = r"NODE|SYS|PHB|PXB|PIX|SOC|NV\d{1,2}|X"
_GLUED = re.compile(rf"(?:{_LEVEL}){{2,40}}|(?:(?:GPU|NIC)\d{{1,4}}){{2,40}}|(?:mlx\d_\d{{1,3}}){{2,40}}")
_PART = re.compile(rf"{_LEVEL}|(?:GPU|NIC)\d{{1,4}}|mlx\d_\d{{1,3}}")

#: 576 columns, the most GPUs that one NVLink domain can have, fit in half of this.
MAX_LINE = 8000
#: No terminal that breaks a matrix is narrower.
MIN_WIDTH = 40

GPU = re.compile(r"GPU(0|[1-9][0-9]{0,3})")

#: Any word of a cell, so that one which a later driver invents is an unknown level and not the end of the row.
_CELL = re.compile(r"X|U|N/A|NV\d{1,3}|[A-Z][A-Z0-9#]{1,5}|\d{1,3}")
_NAME = re.compile(r"[A-Za-z][\w.:+-]{1,63}")
_DEVICE = re.compile(r"(?:GPU|NIC)\d{1,4}")
_LEGEND = re.compile(r"(NIC\d{1,4})(?:\s*(?:[:=]|->)\s*|\s+(?=[\w.:-]*\d))([A-Za-z][\w.:+-]{0,63})")
_ROCM = re.compile(r"GPU\[(\d{1,4})\]\s*:\s*\(Topology\)\s*Numa Node\s*:\s*(-?\d{1,5})")
#: Column titles behind the devices, as nvidia-smi prints them, shortened or cut at the edge of a page.
_TITLE = re.compile(
    r"(?<!\S)(?:(?P<memory>GPU[ _]+NUMA[ _]+ID)|(?P<cpu>CPU(?:[ _]+Aff\w*)?)|(?P<numa>(?:NUMA|Node)[ _]+Affinity|NUMA))(?!\S)",
    re.IGNORECASE,
)
CPU, NUMA, MEMORY = "cpu", "numa", "memory"
#: The cells of `topo -p2p`, which tells whether peers can reach each other and not how.
_P2P = {"X", "OK", "CNS", "GNS", "TNS", "NS", "DR", "U", "N/A"}
#: Drivers before R384 called SYS "SOC" (socket-level link).
_OLD_NAMES = {"SOC": "SYS"}
#: What a device says of itself; rocm-smi has 0.
_SELF = ("X", "0", "SELF", "N/A")

#: More than this is junk, and nobody reads it.
MOST_WARNINGS = 40
#: The variant that tells PCIe paths also where NVLink is; its legend has no "NV#".
_PATHS_ONLY = re.compile(r"topo\s+(?:-mp|--matrix_pci|-p\s+-m|-m\s+-p)\b")


@dataclass
class Matrix:
    """Column names, cells and trailing columns by row name, each row with its line; the legend; rocm-smi's nodes."""

    columns: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    rest: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    legend: dict[str, str] = field(default_factory=dict)
    rocm_nodes: dict[int, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    header_line: int = 0
    #: Rows before any header, as (line, name, words).
    headless: list[tuple[int, str, list[str]]] = field(default_factory=list)
    #: A second matrix has begun, and is not read.
    closed: bool = False

    @property
    def is_peer_status(self) -> bool:
        """True for `topo -p2p`, whose cells say "OK" or why not."""
        cells = {cell for row in self.rows.values() for cell in row.values()}
        return cells <= _P2P and not cells <= {"X", "N/A"}

    def read(self) -> int:
        """The number of cells and trailing columns that were read."""
        columns = sum(min(len(self.rest.get(name, ())), len(self.titles)) for name in self.rows)
        return sum(map(len, self.rows.values())) + columns + len(self.rocm_nodes)


def parse_matrix(text: str, source: str) -> Topology:
    """A Topology from matrix text. Raises UsageError with a line when no GPU row can be read."""
    matrix = read_matrix(text, source)
    warnings = matrix.warnings
    numbers = {name: int(name[3:]) for name in matrix.columns if GPU.fullmatch(name)}
    numbers |= {f"GPU{number}": number for number in matrix.rocm_nodes}
    if not numbers or not (any(matrix.rows.values()) or matrix.rocm_nodes):
        line = matrix.header_line or text[: text.find("GPU") + 1].count("\n") + 1
        raise UsageError("has no row of a GPU matrix that can be read", where=f"{source}:{line}", hint="paste all of `nvidia-smi topo -m`")
    if matrix.is_peer_status:
        problem = "is `topo -p2p` output, which says whether GPUs reach each other and not how"
        raise UsageError(problem, where=f"{source}:{matrix.header_line}", hint="paste `nvidia-smi topo -m`")
    nics = [name for name in matrix.columns if name not in numbers]
    missing = [name for name in numbers if not matrix.rows.get(name) and matrix.columns]
    if missing:
        warnings.append(f"{source}:{matrix.header_line}: the header names {', '.join(missing)}, whose rows are missing")
    levels = _levels(matrix, numbers, nics, source)
    memory: set[int] = set()
    nodes = {name: _numa(matrix, name, memory, source) for name in numbers}
    for name in missing:
        # That of the GPUs which say they are nearer to it than SYS.
        near = {nodes[other] for other in nodes if matrix.rows.get(other, {}).get(name) in LEVELS[:-1]} - {None}
        nodes[name] = near.pop() if len(near) == 1 else None
    for number, node in matrix.rocm_nodes.items():
        nodes[f"GPU{number}"] = node if node >= 0 else None
    order = sorted(numbers, key=lambda name: numbers[name])
    has_links = any(_is_link(cell) for cells in matrix.rows.values() for cell in cells.values())
    silent = not has_links and bool(_PATHS_ONLY.search(text) or ("= Self" in text and "NV#" not in text))
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
    cells = {
        number: (matrix.rows.get(name, {}).get(other), matrix.rows.get(other, {}).get(name))
        for other, number in numbers.items()
        if other != name
    }
    peers = [number for number, pair in cells.items() if any(cell and _is_link(cell) for cell in pair)]
    return tuple(sorted(peers)) if any(any(pair) for pair in cells.values()) else None


def _is_link(cell: str) -> bool:
    return cell.startswith("NV") or cell == "XGMI"


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
    column = titles.index(NUMA)
    if rest and len(rest) < len(matrix.titles) and (glued := _unglue(rest[0])) is not None:
        return glued
    if len(rest) <= column:
        return None
    text = rest[column]
    first, *others = text.split(",")
    if first.isdecimal() and len(first) < 6 and (not others or has_memory):
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


def read_matrix(text: str, source: str) -> Matrix:
    """The first matrix of a text, without judging whether it is enough.

    Where lines were broken inside words, or all is in a comment, the reading that gives most is taken.
    """
    best = _read(text, source)
    if not any(best.rows.values()) and not best.rocm_nodes:
        best = max(best, _read(text, source, comments=True), key=Matrix.read)
    if (joined := unwrapped(text)) is not None:
        best = max(best, _read(joined, source), key=Matrix.read)
    return best


def _read(text: str, source: str, comments: bool = False) -> Matrix:
    matrix = Matrix()
    open_row: str | None = None
    for number, line in clean_lines(text, comments):
        rocm = _ROCM.search(line)
        if not line:
            open_row = None
        elif rocm:
            matrix.rocm_nodes.setdefault(int(rocm[1]), int(rocm[2]))
        elif _header(matrix, line, number, source):
            open_row = None
        elif not _legend(matrix, line):
            open_row = _row(matrix, line, number, open_row)
    if not matrix.columns and matrix.headless:
        _columns_from_rows(matrix, source)
    _check_rows(matrix, source)
    return matrix


def _legend(matrix: Matrix, line: str) -> bool:
    """Take a line of the NIC legend, "NIC0: mlx5_0", also several on one line and with remarks behind."""
    first = _LEGEND.match(line)
    if first is None or _is_cell(first[2]) or _DEVICE.fullmatch(first[2]):
        return False
    for nic, name in _LEGEND.findall(line):
        matrix.legend.setdefault(nic, name)
    return True


def _header(matrix: Matrix, line: str, number: int, source: str) -> bool:
    """Take a line of column names; a second line of names goes on where a narrow terminal broke the first."""
    matches = list(_TITLE.finditer(line))
    names = words_of(line[: matches[0].start()] if matches else line)
    # In their order: MetaX, for one, has NUMA before CPU.
    titles = [match.lastgroup or "" for match in matches]
    if not names:
        # The titles alone: the end of a header that was broken before them.
        if titles and matrix.columns and not matrix.rows and not matrix.titles:
            matrix.titles = titles
            return True
        return False
    if not all(_NAME.fullmatch(name) for name in names) or any(_is_cell(name) for name in names):
        return False
    if matrix.columns and not matrix.rows and not matrix.titles and all(_DEVICE.fullmatch(name) for name in names):
        matrix.columns += [name for name in names if name not in matrix.columns]
        matrix.titles = titles
        return True
    if not GPU.fullmatch(names[0]) or (len(names) == 1 and not titles):
        return False
    numbers_only = all(cell.isdecimal() for cells in matrix.rows.values() for cell in cells.values())
    if matrix.rows and not numbers_only and not matrix.is_peer_status:
        if not matrix.closed:
            matrix.warnings.append(f"{source}:{number}: a second matrix begins; only the first is read")
            matrix.closed = True
        return True
    # rocm-smi prints weights and hops before the link types: the last table wins over tables of numbers, and of peer status.
    matrix.rows.clear()
    matrix.rest.clear()
    matrix.warnings.clear()
    matrix.columns = list(dict.fromkeys(names))
    matrix.titles = titles
    matrix.header_line = number
    return True


def _is_cell(word: str) -> bool:
    return bool(_CELL.fullmatch(word)) and not _DEVICE.fullmatch(word)


def _row(matrix: Matrix, line: str, number: int, open_row: str | None) -> str | None:
    """Take a row, or the continuation of the row before; lines of anything else are passed over."""
    name, *words = words_of(line)
    if matrix.closed:
        return None
    if open_row and name not in matrix.columns and (_is_cell(name) or name[0].isdecimal()):
        # A row that a narrow terminal broke goes on with cells, or with its CPU column.
        missing = len(matrix.columns) - len(matrix.rows[open_row])
        if (missing and _is_cell(name)) or (not missing and not matrix.rest.get(open_row) and matrix.titles and name[0].isdecimal()):
            _fill(matrix, open_row, [name, *words])
            return open_row
        return None
    if not words or not _is_cell(words[0]):
        return None
    if not matrix.columns:
        if _DEVICE.fullmatch(name) and len(matrix.headless) < 4096:
            matrix.headless.append((number, name, words))
        return None
    if name not in matrix.columns:
        return None
    if name in matrix.rows:
        if len(matrix.warnings) < MOST_WARNINGS:
            matrix.warnings.append(f"line {number}: a second row {name} is left out (the first is on line {matrix.lines[name]})")
        return None
    matrix.rows[name] = {}
    matrix.lines[name] = number
    matrix.rest.pop(name, None)
    _fill(matrix, name, words)
    return name


def _fill(matrix: Matrix, name: str, words: list[str]) -> None:
    """Words into the cells that the row lacks; what follows the last cell are the trailing columns."""
    cells = matrix.rows[name]
    columns = matrix.columns[len(cells) :]
    for used, word in enumerate(words):
        if used >= len(columns) or not _is_cell(word):
            # A CPU list that was written with spaces ("0-13, 28-41") is one column.
            matrix.rest[name] = re.sub(r", (?=\d)", ",", " ".join(words[used:])).split()
            return
        cells[columns[used]] = _OLD_NAMES.get(word, word)


def _check_rows(matrix: Matrix, source: str) -> None:
    """Empty the rows with a lost or doubled cell: it shifts all cells behind it, so none of them can be trusted."""
    for name, cells in matrix.rows.items():
        diagonal = cells.get(name)
        rest = matrix.rest.get(name, [])
        damage = ""
        if diagonal is not None and diagonal not in _SELF:
            damage = f"has {diagonal} where its X should be"
        elif diagonal is None and "X" in cells.values():
            damage = "has its X too early"
        elif rest and len(cells) < len(matrix.columns):
            damage = f"has {len(cells)} of {len(matrix.columns)} cells"
        elif len(cells) == len(matrix.columns) and rest and _is_cell(rest[0]) and not rest[0].isdecimal() and rest[0] != "N/A":
            damage = f"has more than {len(matrix.columns)} cells"
        if damage and len(matrix.warnings) < MOST_WARNINGS:
            matrix.warnings.append(f"{source}:{matrix.lines[name]}: row {name} {damage}; the row is left out")
        if damage:
            matrix.rows[name] = {}
            matrix.rest.pop(name, None)


def _columns_from_rows(matrix: Matrix, source: str) -> None:
    """Column names where the header is lost: the X of each row is under its own name, NICs follow the GPUs."""
    widths = {name: next((i for i, word in enumerate(words) if not _is_cell(word)), len(words)) for _, name, words in matrix.headless}
    count = max(widths.values())
    named: dict[int, str] = {}
    for _, name, words in matrix.headless:
        if "X" in words[:count]:
            named.setdefault(words.index("X"), name)
    # NVLink joins GPUs only, so its cells lie below GPUs, also those whose rows are cut off.
    linked = {i for _, _, words in matrix.headless for i, word in enumerate(words[:count]) if re.fullmatch(r"NV\d+", word)}
    gpus = max((column for column in {*named, *linked} if named.get(column, "GPU").startswith("GPU")), default=-1) + 1
    if matrix.legend and count > len(matrix.legend):
        gpus = max(gpus, count - len(matrix.legend))
    columns = [named.get(i, f"GPU{i}" if i < gpus else f"NIC{i - gpus}") for i in range(count)]
    if len(set(columns)) < count or not gpus:
        return
    matrix.columns = columns
    matrix.header_line = matrix.headless[0][0]
    matrix.warnings.append(f"{source}:{matrix.header_line}: the header is missing; the columns are taken for {columns[0]} to {columns[-1]}")
    for number, name, words in matrix.headless:
        _row(matrix, " ".join([name, *words]), number, None)


def clean_lines(text: str, comments: bool = False) -> Iterator[tuple[int, str]]:
    """(line number, line) without decoration; a line that holds escaped line ends is several of one number.

    Comment lines ("#", "//") count as blank, or with `comments` as what they hold.
    """
    for number, raw in enumerate(text.splitlines(), 1):
        for part in _unescape(raw[: 4 * MAX_LINE]):
            line = _ANSI.sub("", part[:MAX_LINE]).translate(_MARKS)
            if "<" in line or "&" in line:
                line = html.unescape(_TAG.sub("\t", line))
            line = line.strip().lstrip("> \t+-")
            if line.startswith(("#", "//")):
                line = line.lstrip("#/ \t") if comments else ""
            yield number, line[_prefix(line) :]


def _prefix(line: str) -> int:
    """The length of what pdsh, clush, srun -l, kubectl, docker compose, grep -n, cat -n, a logger or a person put before a device.

    That ends with a colon or the like, or consists of marked words (times, "[rank0]", "INFO"), or fills a table's first field.
    """
    device = _FIRST_DEVICE.search(line, 0, _MAX_PREFIX)
    if device is None or not device.start():
        return 0
    before = line[: device.start()]
    words = before.split()
    field = before.endswith("\t") and len(words) == 1
    marked = all(word.isupper() or not word.isalpha() for word in words)
    return device.start() if len(words) <= 8 and (field or marked or before.rstrip()[-1:] in tuple(":>$#=")) else 0


def _unescape(line: str) -> list[str]:
    r"""The lines in a line of JSON or source code, where "\n" and "\t" are two characters each."""
    if "\\t" not in line and "\\n" not in line:
        return [line]
    return line.replace("\\r", "").replace("\\t", "\t").replace("\\u001b", "\x1b").rstrip("\\,").split("\\n")


def words_of(line: str) -> list[str]:
    """The words of a line; cells and names that were printed without a space between them are taken apart."""
    words: list[str] = []
    for word in line.split():
        words += _PART.findall(word) if _GLUED.fullmatch(word) else [word]
    return words


def unwrapped(text: str) -> str | None:
    """The text with lines joined that a terminal broke in the middle of words; None when no width shows that it did.

    A broken line is exactly as wide as the terminal, and nothing is wider.
    """
    lines = [line.rstrip("\r\n").expandtabs(8) for line in text.splitlines()]
    width = max((len(line) for line in lines), default=0)
    if not MIN_WIDTH <= width <= MAX_LINE or sum(len(line) == width for line in lines) < 2:
        return None
    return "".join(line if len(line) == width else f"{line}\n" for line in lines)
