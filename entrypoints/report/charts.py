"""Charts as inline SVG: bars, heat map, line. Colours are the page's variables, so that light, dark and print follow it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

#: Width of bars and lines in the drawing's own units: narrow, so that 12 units of text are still read on a phone.
WIDTH = 420


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
        parts.append(f'<text x="{label_width - 8:g}" y="{y + 13}" text-anchor="end">{escape(_cut(item.label, 22))}</text>')
        source = escape(item.source, quote=True)
        parts.append(
            f'<rect class="{item.tone}" x="{label_width:g}" y="{y}" width="{length:.1f}" height="18" rx="2" data-source="{source}"/>'
        )
        if item.low is not None and item.high is not None:
            left, right = (label_width + room * value / top for value in (item.low, item.high))
            parts.append(f'<path class="whisker" d="M{left:.1f} {y + 9}H{right:.1f}M{left:.1f} {y + 4}v10M{right:.1f} {y + 4}v10"/>')
        parts.append(f'<text class="value" x="{end + 8:.1f}" y="{y + 13}" data-source="{source}">{escape(item.text)}{_second(item)}</text>')
    return _svg(WIDTH, 8 + 24 * len(items), title, parts)


def _second(item: Bar) -> str:
    return f'<tspan data-source="{escape(item.more_source, quote=True)}">{escape(item.more)}</tspan>' if item.more else ""


def heat_map(title: str, source: str, points: Sequence[Sequence[float | None]], value: int) -> str:
    """NVL chunk down, RDMA chunk across, one cell a point; column `value` of a point is its colour. The best is framed."""
    known = [point for point in points if point[value] is not None]
    if not known:
        return ""
    rows = sorted({point[0] or 0 for point in known})
    columns = sorted({point[1] or 0 for point in known})
    numbers = [float(point[value] or 0) for point in known]
    low, high = min(numbers), max(numbers)
    side, tall, left, top = 54, 26, 76, 40
    names = {0: "default"}
    parts = ['<text x="8" y="14" class="axis">RDMA chunk across, NVL chunk down; GB/s</text>']
    parts += [f'<text x="{left + side * i + side / 2:g}" y="33" text-anchor="middle">{c:g}</text>' for i, c in enumerate(columns) if c]
    parts += [
        f'<text x="{left - 8}" y="{top + tall * i + 17}" text-anchor="end">{names.get(int(r), f"{r:g}")}</text>' for i, r in enumerate(rows)
    ]
    for point, number in zip(known, numbers, strict=True):
        x, y = left + side * columns.index(point[1] or 0), top + tall * rows.index(point[0] or 0)
        share = (number - low) / (high - low) if high > low else 1.0
        best = " best" if number == high else ""
        parts.append(
            f'<rect class="cell{best}" x="{x}" y="{y}" width="{side - 2}" height="{tall - 2}" fill-opacity="{0.05 + 0.95 * share:.2f}"/>'
        )
        place = escape(f"{source}: NVL chunk {point[0]:g}, RDMA chunk {point[1] or 0:g}", quote=True)
        parts.append(
            f'<text class="value" x="{x + side / 2 - 1:g}" y="{y + 17}" text-anchor="middle" data-source="{place}">{number:.1f}</text>'
        )
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
        told = escape(f"{label}: {value:.4g} GB/s" + (", regression" if marked else ""))
        tone, radius = ("bad", 6) if marked else ("dot", 3.5)
        at = escape(source, quote=True)
        shape = f'<circle class="{tone}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" data-source="{at}">'
        parts.append(f"{shape}<title>{told}</title></circle>")
        if marked:
            parts.append(f'<text class="value" x="{x:.1f}" y="{y + 22:.1f}" text-anchor="middle">{value:.3g}</text>')
    parts.append(f'<text x="{left}" y="176">{escape(points[0][0][:10])}</text>')
    parts.append(f'<text x="{width - 4}" y="176" text-anchor="end">{escape(points[-1][0][:10])}</text>')
    return _svg(width, height, title, parts)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
