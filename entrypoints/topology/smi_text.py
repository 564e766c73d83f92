"""Find a GPU matrix in the lines that people paste: its header, rows, trailing columns and legend among other output."""

import re
from dataclasses import dataclass, field

from entrypoints.topology.smi_lines import clean_lines, unwrapped, words_of

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
        """How much was read: cells and trailing columns."""
        columns = sum(min(len(self.rest.get(name, ())), len(self.titles)) for name in self.rows)
        return sum(map(len, self.rows.values())) + columns + len(self.rocm_nodes)


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
    names, titles = _split_titles(line)
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
    if matrix.rows and not _only_numbers(matrix) and not matrix.is_peer_status:
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


def _only_numbers(matrix: Matrix) -> bool:
    return bool(matrix.rows) and all(cell.isdecimal() for cells in matrix.rows.values() for cell in cells.values())


def _split_titles(line: str) -> tuple[list[str], list[str]]:
    """Column names, and what the titles behind them are, in their order (MetaX, for one, has NUMA before CPU)."""
    found = list(_TITLE.finditer(line))
    end = found[0].start() if found else len(line)
    return words_of(line[:end]), [title.lastgroup or "" for title in found]


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
            matrix.rest[name] = _join_lists(words[used:])
            return
        cells[columns[used]] = _OLD_NAMES.get(word, word)


def _join_lists(words: list[str]) -> list[str]:
    """Trailing columns, a CPU list that was written with spaces ("0-13, 28-41") as one."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].endswith(",") and word[0].isdecimal():
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _check_rows(matrix: Matrix, source: str) -> None:
    """Empty the rows with a lost or doubled cell: it shifts all cells behind it, so none of them can be trusted."""
    for name, cells in matrix.rows.items():
        where = f"{source}:{matrix.lines[name]}"
        own = cells.get(name)
        rest = matrix.rest.get(name, [])
        damage = ""
        if own is not None and own not in _SELF:
            damage = f"has {own} where its X should be"
        elif own is None and "X" in cells.values():
            damage = "has its X too early"
        elif rest and len(cells) < len(matrix.columns):
            damage = f"has {len(cells)} of {len(matrix.columns)} cells"
        elif len(cells) == len(matrix.columns) and rest and _is_cell(rest[0]) and not rest[0].isdecimal() and rest[0] != "N/A":
            damage = f"has more than {len(matrix.columns)} cells"
        if damage and len(matrix.warnings) < MOST_WARNINGS:
            matrix.warnings.append(f"{where}: row {name} {damage}; the row is left out")
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
