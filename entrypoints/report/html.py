"""What a page is made of: sections, headings, remarks, and charts as inline SVG. What comes from a result or a log passes through escape().

Colours are the page's variables, so that light, dark and print follow them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

from entrypoints.results.tables import Table, to_html

#: Width of bars and lines in the drawing's own units: narrow, so that 12 units of text are still read on a phone.
WIDTH = 420


def section(anchor: str, title: str, *parts: str) -> str:
    """A section, or nothing when it has no content."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>\n{content}\n</section>' if content else ""


def heading(text: str) -> str:
    """A heading inside a section."""
    return f'<h3><span class="t">{escape(text)}</span></h3>'


def soft(text: str) -> str:
    """A remark, or nothing."""
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def shown(table: Table) -> str:
    """A table, or nothing when it has no rows."""
    return to_html(table) if table.rows else ""


def folded(summary: str, *parts: str) -> str:
    """Parts behind a line to click on."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


@dataclass(frozen=True)
class Bar:
    """One bar; `low` and `high` draw a whisker, `source` is the path of its number in the result, `more` a second text with its own."""

    label: str
    value: float
    text: str
    source: str
    low: float | None = None
    high: float | None = None
    tone: str = "bar"
    more: str = ""
    more_source: str = ""


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:g} {height:g}" style="width:{width * 1.1:g}px"'
    return f'<svg class="chart" role="img" {box}><title>{escape(title)}</title>{"".join(parts)}</svg>'


def bars(title: str, items: Sequence[Bar]) -> str:
    """Horizontal bars from zero, one row each, on one scale."""
    items = [item for item in items if isfinite(item.value)]
    if not items:
        return ""
    top = max([item.high or item.value for item in items] + [1e-12])
    label_width = min(170.0, 18 + 7.8 * max(len(item.label) for item in items))
    text_width = 14 + 6.8 * max(len(item.text + item.more) for item in items)
    room = max(60.0, WIDTH - label_width - text_width)
    parts = []
    for row, item in enumerate(items):
        y = 4 + 24 * row
        length = max(1.0, room * max(0.0, item.value) / top)
        end = label_width + max(length, room * (item.high or 0) / top)
        label = item.label if len(item.label) <= 22 else f"{item.label[:21]}…"
        parts.append(f'<text x="{label_width - 8:g}" y="{y + 13}" text-anchor="end">{escape(label)}</text>')
        at = f'data-source="{escape(item.source)}"'
        parts.append(f'<rect class="{item.tone}" x="{label_width:g}" y="{y}" width="{length:.1f}" height="18" rx="2" {at}/>')
        if item.low is not None and item.high is not None:
            left, right = (label_width + room * value / top for value in (item.low, item.high))
            parts.append(f'<path class="whisker" d="M{left:.1f} {y + 9}H{right:.1f}M{left:.1f} {y + 4}v10M{right:.1f} {y + 4}v10"/>')
        more = f'<tspan data-source="{escape(item.more_source)}">{escape(item.more)}</tspan>' if item.more else ""
        parts.append(f'<text class="value" x="{end + 8:.1f}" y="{y + 13}" {at}>{escape(item.text)}{more}</text>')
    return _svg(WIDTH, 8 + 24 * len(items), title, parts)


def heat_map(title: str, source: str, points: Sequence[Sequence[float | None]], value: int) -> str:
    """NVL chunk down, RDMA chunk across, one cell a point; column `value` of a point is its colour. The best is framed."""
    points = [point for point in points if point[value] is not None]
    if not points:
        return ""
    rows = sorted({point[0] or 0 for point in points})
    columns = sorted({point[1] or 0 for point in points})
    numbers = [float(point[value] or 0) for point in points]
    low, high = min(numbers), max(numbers)
    side, tall, left, top = 54, 26, 76, 40
    parts = ['<text x="8" y="14" class="axis">RDMA chunk across, NVL chunk down; GB/s</text>']
    parts += [f'<text x="{left + side * i + side / 2:g}" y="33" text-anchor="middle">{c:g}</text>' for i, c in enumerate(columns) if c]
    names = [f"{row:g}" if row else "default" for row in rows]
    parts += [f'<text x="{left - 8}" y="{top + tall * i + 17}" text-anchor="end">{name}</text>' for i, name in enumerate(names)]
    for point, number in zip(points, numbers, strict=True):
        x, y = left + side * columns.index(point[1] or 0), top + tall * rows.index(point[0] or 0)
        share = (number - low) / (high - low) if high > low else 1.0
        tone, shade = "cell best" if number == high else "cell", f'fill-opacity="{0.05 + 0.95 * share:.2f}"'
        parts.append(f'<rect class="{tone}" x="{x}" y="{y}" width="{side - 2}" height="{tall - 2}" {shade}/>')
        at = f'data-source="{escape(f"{source}: NVL chunk {point[0]:g}, RDMA chunk {point[1] or 0:g}")}"'
        parts.append(f'<text class="value" x="{x + side / 2 - 1:g}" y="{y + 17}" text-anchor="middle" {at}>{number:.1f}</text>')
    return _svg(max(280, left + side * len(columns) + 8), top + tall * len(rows) + 6, f"{title}, {low:.2f} to {high:.2f} GB/s", parts)


def line(title: str, points: Sequence[tuple[str, float, bool, str]]) -> str:
    """(label, value, marked, source) in order of time, from zero; marked points are regressions."""
    points = [point for point in points if isfinite(point[1])]
    if not points:
        return ""
    width, height, left, base = WIDTH, 190, 54, 150
    top = max(value for _, value, _, _ in points) or 1.0
    step = (width - left - 24) / max(1, len(points) - 1)
    spots = [(left + 8 + step * i, base - 125 * max(0.0, value) / top) for i, (_, value, _, _) in enumerate(points)]
    parts = [f'<path class="grid" d="M{left} {base - 125 * i / 4:g}H{width}"/>' for i in range(5)]
    parts += [f'<text x="{left - 6}" y="{base - 125 * i / 4 + 4:g}" text-anchor="end">{top * i / 4:.3g}</text>' for i in range(0, 5, 2)]
    parts.append('<path class="line" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots) + '"/>')
    for (x, y), (label, value, marked, source) in zip(spots, points, strict=True):
        hint = escape(f"{label}: {value:.4g} GB/s" + (", regression" if marked else ""))
        tone, radius = ("bad", 6) if marked else ("dot", 3.5)
        shape = f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" data-source="{escape(source)}">'
        parts.append(f"{shape}<title>{hint}</title></circle>")
        if marked:
            parts.append(f'<text class="value" x="{x:.1f}" y="{y + 22:.1f}" text-anchor="middle">{value:.3g}</text>')
    parts.append(f'<text x="{left}" y="176">{escape(points[0][0][:10])}</text>')
    parts.append(f'<text x="{width - 4}" y="176" text-anchor="end">{escape(points[-1][0][:10])}</text>')
    return _svg(width, height, title, parts)
