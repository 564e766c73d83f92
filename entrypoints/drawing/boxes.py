"""Boxes of a drawing: each knows its size, and draws itself and what is in it at a place that its owner chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

PAD = 12
GAP = 12
TITLE = 22

#: Where the line of a rank begins and ends, by device: centre of the lower edge, centre of the upper edge, height.
Anchors = dict[tuple[str, str], tuple[float, float, float]]


@dataclass
class Box:
    """A rectangle of known size; `paint(x, y, anchors)` gives its SVG."""

    width: float
    height: float
    paint: Callable[[float, float, Anchors], list[str]]


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start", room: float | None = None, size: float = 6.6) -> str:
    """One line of text, cut with an ellipsis to `room` pixels at about `size` pixels a character."""
    shown = words
    if room is not None and len(words) * size > room:
        shown = words[: max(1, int(room / size) - 1)].rstrip(" ,-") + "…"
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    full = f"<title>{escape(words)}</title>" if shown != words else ""
    return f'<text x="{x:g}" y="{y:g}" class="{style}"{where}>{escape(shown)}{full}</text>'


def rectangle(x: float, y: float, width: float, height: float, style: str, radius: float = 6, extra: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" class="{style}"{extra}/>'


def stack(boxes: Sequence[Box], gap: float = GAP) -> Box:
    """Boxes one under the other, left edges in line."""

    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        lines: list[str] = []
        for box in boxes:
            lines += box.paint(x, y, anchors)
            y += box.height + gap
        return lines

    height = sum(box.height for box in boxes) + gap * max(0, len(boxes) - 1)
    return Box(max((box.width for box in boxes), default=0), height, paint)


def flow(boxes: Sequence[Box], room: float, gap: float = GAP) -> Box:
    """Boxes side by side from the left, wrapped where the next one would pass `room`."""
    rows: list[list[Box]] = []
    width = 0.0
    for box in boxes:
        if not rows or width + gap + box.width > room:
            rows.append([])
            width = -gap
        rows[-1].append(box)
        width += gap + box.width
    return stack([_row(row, gap) for row in rows], gap)


def _row(boxes: Sequence[Box], gap: float) -> Box:
    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        lines: list[str] = []
        for box in boxes:
            lines += box.paint(x, y, anchors)
            x += box.width + gap
        return lines

    width = sum(box.width for box in boxes) + gap * max(0, len(boxes) - 1)
    return Box(width, max((box.height for box in boxes), default=0), paint)


@dataclass
class Frame:
    """A titled frame around a box."""

    title: str
    style: str
    inside: Box
    note: str = ""
    least: float = 0
    titles: list[str] = field(default_factory=list)

    def box(self) -> Box:
        """The frame as a box, wide enough for its title."""
        width = max(self.inside.width, self.least, 6.9 * len(self.title) + 6.2 * len(self.note) + (10 if self.note else 0)) + 2 * PAD
        height = self.inside.height + 2 * PAD + TITLE - 4

        def paint(x: float, y: float, anchors: Anchors) -> list[str]:
            lines = [rectangle(x, y, width, height, f"frame {self.style}", 8)]
            lines.append(text(x + PAD, y + TITLE - 4, self.title, f"title {self.style}"))
            if self.note:
                lines.append(text(x + width - PAD, y + TITLE - 4, self.note, "small", "end"))
            return lines + self.inside.paint(x + PAD, y + TITLE + PAD - 4, anchors)

        return Box(width, height, paint)
