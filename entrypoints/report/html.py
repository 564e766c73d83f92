"""Small pieces of HTML. Everything that comes from a result or a log passes through escape()."""

from collections.abc import Sequence
from html import escape
from math import isfinite
from typing import Any


class Safe(str):
    """Text that is HTML already."""


def cell(value: Any) -> str:
    return value if isinstance(value, Safe) else escape("-" if value is None else str(value))


def number(value: Any, source: str, digits: int = 2, suffix: str = "") -> Safe:
    """A figure with the path of its origin, such as `result.json#runs[0].best[0].nvl_gbps`; - where there is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return Safe("-")
    # A slow host's bandwidths are below 1: two digits after the point would leave one figure.
    digits += digits == 2 and 0 < abs(value) < 1
    return Safe(f'<span data-source="{escape(source, quote=True)}">{value:.{digits}f}{escape(suffix)}</span>')


def tagged(text: Any, tone: str) -> Safe:
    return Safe(f'<span class="{tone}">{escape(str(text))}</span>')


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = (), wide: Sequence[int] = ()) -> str:
    """A table that scrolls sideways in itself; columns in `right` are figures, those in `wide` are prose."""

    def tone(column: int) -> str:
        return ' class="n"' if column in right else ' class="w"' if column in wide else ""

    head = "".join(f"<th{tone(i)}>{escape(text)}</th>" for i, text in enumerate(headers))
    body = "".join("<tr>" + "".join(f"<td{tone(i)}>{cell(value)}</td>" for i, value in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def section(anchor: str, title: str, *parts: str) -> str:
    """A section, or nothing when it has no content."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>\n{content}\n</section>' if content else ""


def soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>' if text else ""
