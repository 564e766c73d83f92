"""One table, three renderers: aligned text, GitHub Markdown, HTML. And the one way a number is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

from entrypoints.output import table as aligned

#: Signs that are markup to GitHub, as text.
_PLAIN = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "@\u200b"} | {sign: f"\\{sign}" for sign in "\\`|[]*_"})


@dataclass(frozen=True)
class Number:
    """A figure in a cell. `digits` None: two after the point, three below 1. `source` is the path that a page names as its origin."""

    value: object
    digits: int | None = None
    source: str = ""
    suffix: str = ""

    def __str__(self) -> str:
        return number(self.value, self.digits, self.suffix)


@dataclass(frozen=True)
class Span:
    """From one figure to another: `1.00 .. 2.00`."""

    low: Number
    high: Number

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}"


@dataclass(frozen=True)
class Tagged:
    """Words that a page marks with a tone (a class of its style sheet)."""

    text: object
    tone: str

    def __str__(self) -> str:
        return str(self.text)


class Markup(str):
    """Text that is HTML already."""


@dataclass(frozen=True)
class Table:
    """Headers and rows of cells: text, int, None, Number, Span, Tagged or Markup. `right` are columns of figures, `wide` of prose."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    right: Sequence[int] = ()
    wide: Sequence[int] = ()

    def without_empty_columns(self) -> "Table":
        """The table without columns that hold nothing but None."""
        kept = [i for i in range(len(self.headers)) if any(row[i] is not None for row in self.rows)]
        right, wide = ([column for column, i in enumerate(kept) if i in columns] for columns in (self.right, self.wide))
        return Table([self.headers[i] for i in kept], [[row[i] for i in kept] for row in self.rows], right, wide)


def number(value: object, digits: int | None = None, suffix: str = "") -> str:
    """A number as people read it; "-" for None and for what is not a finite number.

    Two digits after the point: three below 1, where a slow host's bandwidths are. Integers have none, unless digits are asked for.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return "-"
    if digits is None:
        if isinstance(value, int):
            return f"{value}{suffix}"
        digits = 3 if 0 < abs(value) < 1 else 2
    return f"{value:.{digits}f}{suffix}"


def percent(value: float | None, signed: bool = False) -> str:
    """A share as "61%", a change as "+1.5%"; "-" for None."""
    if value is None:
        return "-"
    return f"{value:+.1%}" if signed else f"{value:.0%}"


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return number(cell)
    return "-" if cell is None else str(cell)


def to_text(table: Table) -> str:
    """Aligned columns; the text is the same on a tty, in a log and in an issue."""
    return aligned(table.headers, [[_text(cell) for cell in row] for row in table.rows])


def to_markdown(table: Table) -> str:
    """A GitHub table; "" without rows. No cell can become markup of its own."""
    if not table.rows:
        return ""
    lines = ["| " + " | ".join(table.headers) + " |", "|" + " --- |" * len(table.headers)]
    return "\n".join([*lines, *("| " + " | ".join(plain(_text(cell)) for cell in row) + " |" for row in table.rows)])


def plain(text: object) -> str:
    """Text for Markdown that stays text: one line, no HTML, no table cell, link, mention or code of its own."""
    return " ".join(str(text).split()).translate(_PLAIN)


def to_html(table: Table) -> str:
    """A table that scrolls sideways in itself. Every cell but Markup is escaped."""
    marks = [""] * len(table.headers)
    for columns, tone in ((table.right, "n"), (table.wide, "w")):
        for column in columns:
            marks[column] = f' class="{tone}"'
    head = "".join(f"<th{mark}>{escape(text)}</th>" for mark, text in zip(marks, table.headers, strict=True))
    lines = ("".join(f"<td{mark}>{html_cell(cell)}</td>" for mark, cell in zip(marks, row, strict=True)) for row in table.rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def html_cell(cell: object) -> Markup:
    """One cell as HTML; a Number carries the path of its origin as data-source."""
    if isinstance(cell, Markup):
        return cell
    if isinstance(cell, Number) and cell.source and str(cell) != "-":
        digits = number(cell.value, cell.digits)
        return Markup(f'<span data-source="{escape(cell.source, quote=True)}">{digits}{escape(cell.suffix)}</span>')
    if isinstance(cell, Span):
        return Markup(f"{html_cell(cell.low)} .. {html_cell(cell.high)}")
    if isinstance(cell, Tagged):
        return Markup(f'<span class="{cell.tone}">{escape(str(cell.text))}</span>')
    return Markup(escape(_text(cell)))
