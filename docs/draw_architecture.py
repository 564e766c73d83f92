"""Draw the rooms of `docs.rooms` from the imports, in light and dark, and list them in docs/architecture.md.

    python3 -m docs.draw_architecture        # writes both drawings and the list; tests/test_architecture.py says when that is due

A room's floor is its height above the ground by imports. An arrow that a longer way tells as well is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

from docs import rooms

Graph = Mapping[str, set[str]]

MARGIN = 24
#: Between the two wings, and within one before its first room and after its last.
WING_GAP, WING_PAD = 14, 12
BOX_WIDTH, BOX_HEIGHT = 178, 66
#: What a room and an arrow that passes its floor take of the width, with the air beside them.
ROOM, LANE = BOX_WIDTH + 18, 18
FLOOR_GAP = 46
HEADER = 62
TABLE = ("<!-- rooms: written by docs/draw_architecture.py -->\n", "<!-- /rooms -->\n")


@dataclass(frozen=True)
class Scheme:
    """The colours of one drawing: paper, wings, text; and stroke, fill and text of the rooms of each walk."""

    paper: str
    wing: str
    wing_edge: str
    text: str
    dim: str
    walks: Mapping[str, tuple[str, str, str]]


SCHEMES = {
    "light": Scheme(
        "#ffffff",
        "#f6f8fa",
        "#d8dee4",
        "#1f2328",
        "#59636e",
        {
            "image": ("#2f6fd0", "#e7f0fd", "#1a4a94"),
            "plan": ("#1f8a5b", "#e3f5ec", "#0f5c3a"),
            "result": ("#c2690c", "#fdf0e0", "#87470a"),
            "every": ("#6e7781", "#ffffff", "#1f2328"),
        },
    ),
    "dark": Scheme(
        "#0d1117",
        "#131923",
        "#2a323d",
        "#e6edf3",
        "#9aa5b1",
        {
            "image": ("#5b9cf5", "#13233f", "#b5d3ff"),
            "plan": ("#3fb27f", "#0f2a20", "#a6e6c8"),
            "result": ("#e0913d", "#33210e", "#ffd3a1"),
            "every": ("#8b949e", "#161b22", "#e6edf3"),
        },
    ),
}
WALKS = {"image": "recipe → image", "plan": "host → plan → bound ranks", "result": "log → result → report", "every": "every walk"}


@dataclass
class Slot:
    """A room on its floor, or (`room` empty) an arrow that passes this floor."""

    room: str
    wing: int
    width: int
    above: list["Slot"] = field(default_factory=list)
    below: list["Slot"] = field(default_factory=list)
    #: Its centre.
    x: float = 0


@dataclass(frozen=True)
class Layout:
    """Floors from the lowest up, each from left to right; and the slots that each arrow passes, from the importer down."""

    floors: list[list[Slot]]
    arrows: list[list[Slot]]
    #: Left and right edge of each wing: as wide as its fullest floor.
    wings: list[tuple[int, int]]


def layout(graph: Graph) -> Layout:
    """Where each room and arrow stands: few crossings, then short ways. The same graph gives the same layout, on any machine."""
    heights = rooms.floors({room: below - {rooms.GROUND} for room, below in graph.items() if room != rooms.GROUND})
    placed: list[list[Slot]] = [[] for _ in range(1 + max(heights.values()))]
    slots = {name: Slot(name, int(not name.startswith(("images", "tasks"))), ROOM) for name in heights}
    for name, slot in slots.items():
        placed[heights[name]].append(slot)
    arrows = []
    for importer, under in rooms.direct({name: graph[name] - {rooms.GROUND} for name in heights}).items():
        for imported in sorted(under):
            # An arrow between the wings runs down in the program's: there is room beside the rooms that it passes.
            lanes = [Slot("", slots[imported].wing, LANE) for _ in range(heights[imported] + 1, heights[importer])]
            for floor, lane in zip(range(heights[importer] - 1, heights[imported], -1), lanes, strict=True):
                placed[floor].append(lane)
            way = [slots[importer], *lanes, slots[imported]]
            for upper, lower in pairwise(way):
                upper.below.append(lower)
                lower.above.append(upper)
            arrows.append(way)
    _order(placed)
    widths = [max(sum(slot.width for slot in floor if slot.wing == wing) for floor in placed) + 2 * WING_PAD for wing in (0, 1)]
    wings = [(MARGIN, MARGIN + widths[0]), (MARGIN + widths[0] + WING_GAP, MARGIN + sum(widths) + WING_GAP)]
    _spread(placed, wings)
    result = Layout(placed, arrows, wings)
    _straighten(result)
    return result


def _order(floors: Sequence[list[Slot]]) -> None:
    """Order each floor so that few arrows cross: by the mean of neighbours, up and down, then by swaps of two as long as one helps."""
    for floor in floors:
        floor.sort(key=lambda slot: slot.wing)
    best = (_crossings(floors), [list(floor) for floor in floors])
    for sweep in range(24):
        upward = sweep % 2 == 0
        for floor in floors if upward else floors[::-1]:
            ranks = _ranks(floors)
            floor.sort(
                key=lambda slot: (slot.wing, _mean([ranks[id(other)] for other in (slot.below if upward else slot.above)], ranks[id(slot)]))
            )
        best = min(best, (_crossings(floors), [list(floor) for floor in floors]), key=lambda state: state[0])
    for floor, ordered in zip(floors, best[1], strict=True):
        floor[:] = ordered
    while any(_swap(floors, floor, place) for floor in floors for place in range(len(floor) - 1)):
        pass


def _swap(floors: Sequence[list[Slot]], floor: list[Slot], place: int) -> bool:
    """Swap two neighbours of a floor if fewer arrows cross then; whether they were swapped."""
    if floor[place].wing != floor[place + 1].wing:
        return False
    before = _crossings(floors)
    floor[place], floor[place + 1] = floor[place + 1], floor[place]
    if _crossings(floors) < before:
        return True
    floor[place], floor[place + 1] = floor[place + 1], floor[place]
    return False


def _ranks(floors: Sequence[Sequence[Slot]]) -> dict[int, float]:
    """Each slot's share of the way from the left of its floor to the right."""
    return {id(slot): (place + 0.5) / len(floor) for floor in floors for place, slot in enumerate(floor)}


def _crossings(floors: Sequence[Sequence[Slot]]) -> int:
    crossings = 0
    for lower, upper in pairwise(floors):
        places = {id(slot): place for place, slot in enumerate(lower)}
        ends = [places[id(other)] for slot in upper for other in sorted(slot.below, key=lambda other: places[id(other)])]
        crossings += sum(left > right for place, left in enumerate(ends) for right in ends[place + 1 :])
    return crossings


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _spread(floors: Sequence[list[Slot]], wings: Sequence[tuple[int, int]]) -> None:
    """Set the centres: near those of the rooms and lanes that a slot is tied to, side by side within its wing."""
    for floor in floors:
        _side_by_side(floor, wings, lambda slot: sum(wings[slot.wing]) / 2)
    for sweep in range(200):
        for floor in floors if sweep % 2 == 0 else floors[::-1]:
            _side_by_side(floor, wings, _pull)


def _straighten(placed: Layout) -> None:
    """Let an arrow pass all its floors at one x, where nothing stands in its way; then round."""
    beside = {}
    for floor in placed.floors:
        for place, slot in enumerate(floor):
            left, right = placed.wings[slot.wing]
            before = floor[place - 1] if place and floor[place - 1].wing == slot.wing else None
            after = floor[place + 1] if place + 1 < len(floor) and floor[place + 1].wing == slot.wing else None
            beside[id(slot)] = (before, after, left + WING_PAD, right - WING_PAD)
    for way in placed.arrows:
        lanes = way[1:-1]
        spans = []
        for lane in lanes:
            before, after, left, right = beside[id(lane)]
            least = before.x + before.width / 2 if before else left
            most = after.x - after.width / 2 if after else right
            spans.append((least + lane.width / 2, most - lane.width / 2))
        least, most = max((span[0] for span in spans), default=0), min((span[1] for span in spans), default=0)
        if lanes and least <= most:
            x = min(max(_mean([slot.x for slot in way], 0), least), most)
            for lane in lanes:
                lane.x = x
    for slot in (slot for floor in placed.floors for slot in floor):
        slot.x = round(slot.x)


def _pull(slot: Slot) -> float:
    """The x that the neighbours in its wing draw a slot to. A lane draws a lane much: long arrows run straight."""
    neighbours = [other for other in (*slot.above, *slot.below) if other.wing == slot.wing]
    ties = [(other.x, 6 if not slot.room and not other.room else 1) for other in neighbours]
    return sum(x * weight for x, weight in ties) / sum(weight for _, weight in ties) if ties else slot.x


def _side_by_side(floor: Sequence[Slot], wings: Sequence[tuple[int, int]], wanted: Callable[[Slot], float]) -> None:
    """Set the centres of a floor's slots as near to the wanted ones as their order and widths allow (least squares)."""
    for wing, (left, right) in enumerate(wings):
        slots = [slot for slot in floor if slot.wing == wing]
        # From the left edge of the first slot; pools of neighbours that would overlap (isotonic regression).
        offsets = [sum(other.width for other in slots[:place]) + slot.width / 2 for place, slot in enumerate(slots)]
        pools: list[list[float]] = []
        for slot, offset in zip(slots, offsets, strict=True):
            pools.append([wanted(slot) - offset])
            while len(pools) > 1 and _mean(pools[-2], 0) > _mean(pools[-1], 0):
                pools[-2:] = [pools[-2] + pools[-1]]
        starts = [_mean(pool, 0) for pool in pools for _ in pool]
        last = right - WING_PAD - sum(slot.width for slot in slots)
        for slot, offset, start in zip(slots, offsets, starts, strict=True):
            slot.x = min(max(start, left + WING_PAD), last) + offset


def svg(graph: Graph, scheme: Scheme) -> str:
    """The drawing of a graph of rooms."""
    placed = layout(graph)
    (left, left_end), (right, right_end) = placed.wings
    width = right_end + MARGIN
    depth = len(placed.floors)
    ground = HEADER + depth * (BOX_HEIGHT + FLOOR_GAP) + 4
    height = ground + 46 + MARGIN
    described = {room.name: room for room in rooms.ROOMS}

    def top(floor: int) -> int:
        return HEADER + (depth - 1 - floor) * (BOX_HEIGHT + FLOOR_GAP) + 28

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="12" role="img" aria-labelledby="t d">',
        '<title id="t">The rooms of EPBox and who imports whom</title>',
        "<desc id=\"d\">Two wings on one ground: the host's, with images, and the image's, with entrypoints; all arrows point down.</desc>",
        *_style(scheme),
        f'<rect width="{width}" height="{height}" rx="14" class="paper"/>',
        *_wing(left, left_end, ground - 10, "on the host", "images/, tasks.py"),
        *_wing(right, right_end, ground - 10, "in the image", "entrypoints/"),
    ]
    floor_of = {id(slot): floor for floor, slots in enumerate(placed.floors) for slot in slots}
    lines += [_arrow(way, [top(floor_of[id(slot)]) for slot in way], described[way[0].room].walk, placed.arrows) for way in placed.arrows]
    for floor, slots in enumerate(placed.floors):
        lines += [
            line for slot in slots if slot.room for line in _box(described[slot.room], slot.x - BOX_WIDTH / 2, top(floor), BOX_WIDTH, graph)
        ]
    lines += _box(described[rooms.GROUND], MARGIN, ground + 2, width - 2 * MARGIN, graph)
    lines += _legend(right_end - 210, 44)
    return "\n".join([*lines, "</svg>", ""])


def _style(scheme: Scheme) -> Iterator[str]:
    yield "<style>"
    yield f"  .paper {{ fill: {scheme.paper} }} .wing {{ fill: {scheme.wing}; stroke: {scheme.wing_edge} }}"
    yield f"  text {{ fill: {scheme.text} }} .dim {{ fill: {scheme.dim} }} .wing-name {{ font-size: 15px; font-weight: 600 }}"
    yield "  .name { font: 600 13px ui-monospace, SFMono-Regular, Menlo, monospace }"
    for walk, (stroke, fill, text) in scheme.walks.items():
        yield f"  .{walk} {{ fill: {fill}; stroke: {stroke}; stroke-width: 1.4 }} .{walk}-name {{ fill: {text} }}"
        yield f"  .{walk}-arrow {{ stroke: {stroke}; stroke-width: 1.5; fill: none; marker-end: url(#{walk}) }}"
        yield f"  #{walk} path {{ fill: {stroke} }}"
    yield "</style>"
    yield "<defs>"
    for walk in scheme.walks:
        size = 'markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto" markerUnits="userSpaceOnUse"'
        yield f'  <marker id="{walk}" {size}><path d="M0 .5 7.5 4 0 7.5z"/></marker>'
    yield "</defs>"


def _wing(left: int, right: int, bottom: int, name: str, folders: str) -> Iterator[str]:
    yield f'<rect class="wing" x="{left}" y="18" width="{right - left}" height="{bottom - 18}" rx="10"/>'
    yield f'<text class="wing-name" x="{left + 16}" y="43">{name}</text>'
    yield f'<text class="dim" x="{left + 16}" y="62">{folders}</text>'


def _box(room: rooms.Room, x: float, y: int, width: int, graph: Graph) -> Iterator[str]:
    """A room: its name, what it holds, and as tooltip all that it imports."""
    below = ", ".join(other.name for other in rooms.ROOMS if other.name in graph[room.name])
    walk, middle = room.walk, x + width / 2
    yield f"<g><title>{escape(room.name)} imports {escape(below or 'no other room')}</title>"
    yield f'<rect class="{walk}" x="{x:g}" y="{y}" width="{width}" height="{BOX_HEIGHT if width == BOX_WIDTH else 44}" rx="7"/>'
    if width == BOX_WIDTH:
        yield f'<text class="name {walk}-name" x="{middle:g}" y="{y + 20}" text-anchor="middle">{escape(room.name)}</text>'
        for number, words in enumerate(room.holds):
            yield f'<text class="dim" x="{middle:g}" y="{y + 38 + 16 * number}" text-anchor="middle">{escape(words)}</text>'
    else:
        yield f'<text class="name {walk}-name" x="{x + 18:g}" y="{y + 27}">{escape(room.name)}</text>'
        words = f"the ground, under every room: {' '.join(room.holds)}"
        yield f'<text class="dim" x="{x + 160:g}" y="{y + 27}">{escape(words)}</text>'
    yield "</g>"


def _arrow(way: Sequence[Slot], tops: Sequence[int], walk: str, arrows: Sequence[Sequence[Slot]]) -> str:
    """A curve from the importer's lower edge, straight past floors between, to the upper edge of what is imported."""
    starts = sorted((other[1].x, place) for place, other in enumerate(arrows) if other[0] is way[0])
    ends = sorted((other[-2].x, place) for place, other in enumerate(arrows) if other[-1] is way[-1])
    number = next(place for place, other in enumerate(arrows) if other is way)
    x = way[0].x + _port([place for _, place in starts].index(number), len(starts))
    y = tops[0] + BOX_HEIGHT
    path = [f"M{x:g} {y}"]
    for slot, top in zip(way[1:], tops[1:], strict=True):
        end = slot.x if slot is not way[-1] else slot.x + _port([place for _, place in ends].index(number), len(ends))
        middle = (y + top) / 2
        path.append(f"C{x:g} {middle:g} {end:g} {middle:g} {end:g} {top - (1 if slot is way[-1] else 0)}")
        if slot is not way[-1]:
            path.append(f"V{top + BOX_HEIGHT}")
        x, y = end, top + BOX_HEIGHT
    return f'<path class="{walk}-arrow" d="{"".join(path)}"/>'


def _port(number: int, ports: int) -> float:
    """Where along a room's edge one of its arrows begins or ends, from the middle."""
    return (number - (ports - 1) / 2) * min(30, (BOX_WIDTH - 40) / max(1, ports - 1))


def _legend(x: int, y: int) -> Iterator[str]:
    """What the colours mean: in the top right corner, where no room stands, for tasks.py alone has the highest floor."""
    for number, (walk, words) in enumerate(WALKS.items()):
        yield f'<rect class="{walk}" x="{x}" y="{y + 22 * number - 11}" width="14" height="14" rx="3"/>'
        yield f'<text class="dim" x="{x + 24}" y="{y + 22 * number}">{words}</text>'
    for number, words in enumerate(("an arrow is an import, drawn", "where no longer way tells it too")):
        yield f'<text class="dim" x="{x}" y="{y + 22 * len(WALKS) + 4 + 16 * number}">{words}</text>'


def table(graph: Graph) -> str:
    """The rooms from the roof down, as Markdown: what each holds, what it imports, why it stands there."""
    rows = ["| room | imports | why there |", "| --- | --- | --- |"]
    for room in reversed(rooms.ROOMS):
        if room.name in graph:
            below = [f"`{other.name}`" for other in reversed(rooms.ROOMS) if other.name in graph[room.name] - {rooms.GROUND}]
            rows.append(f"| `{room.name}` | {', '.join(below) or '–'} | {room.reason} |")
    return "\n".join([*rows, ""])


def outputs(root: Path = rooms.ROOT) -> dict[Path, str]:
    """What this program writes: the text of each file, by its path. Raises ValueError for rooms that import each other in a circle."""
    graph = rooms.room_imports(rooms.modules(root))
    if circle := rooms.circle(graph):
        raise ValueError(f"rooms import each other in a circle, which has no floors: {' -> '.join(circle)}")
    page = root / "docs/architecture.md"
    before, opening, rest = page.read_text().partition(TABLE[0])
    _, closing, after = rest.partition(TABLE[1])
    drawings = {root / f"docs/img/architecture-{name}.svg": svg(graph, scheme) for name, scheme in SCHEMES.items()}
    return {**drawings, page: before + opening + table(graph) + closing + after}


if __name__ == "__main__":
    for path, text in outputs().items():
        path.write_text(text)
        print(path.relative_to(rooms.ROOT))
