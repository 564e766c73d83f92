"""A host as one self-contained SVG: packages, NUMA nodes, switches, GPUs, HCAs, and which rank got what."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape as html_escape

from entrypoints.cpulist import format_list
from entrypoints.placement.devices import NEAR, active_ports, is_active
from entrypoints.placement.model import Plan, RankPlan
from entrypoints.topology.model import Gpu, Hca, NumaNode, Port, Topology
from entrypoints.topology.tables import memory
from entrypoints.topology.values import bus_id

#: Page width at which boxes wrap, by the number of devices: a screen for 8 GPUs, a poster for 64.
NARROW, WIDE, MANY = 1360.0, 2330.0, 48

STYLE = """
:root { --page:#ffffff; --ink:#16202c; --soft:#51606f; --line:#c3ccd6; --node:#f3f6f9; --switch:#e6ecf3; --pack:#fafbfc;
        --gpu:#dff3e2; --gpu-line:#3f9d57; --hca:#dcebfb; --hca-line:#3b82c4; --down:#f7dede; --down-line:#c24a4a; --cpus:#dfe5ec; }
@media (prefers-color-scheme: dark) {
:root { --page:#11161c; --ink:#e8edf3; --soft:#a3b0bd; --line:#3a4653; --node:#1a222b; --switch:#242f3a; --pack:#151b22;
        --gpu:#173322; --gpu-line:#4fae69; --hca:#152c44; --hca-line:#5b9bd6; --down:#3f1d1f; --down-line:#d06a6a; --cpus:#2b3743; } }
text { font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
.head { font-size: 17px; font-weight: 600; } .name { font-weight: 600; font-size: 13px; }
.title { font-weight: 600; } .title.switch { font-weight: 500; font-size: 11px; fill: var(--soft); }
.small { font-size: 11px; fill: var(--soft); } .why { font-style: italic; }
.mono { font: 11px ui-monospace, "DejaVu Sans Mono", Menlo, monospace; fill: var(--soft); }
.pill { font-size: 11px; font-weight: 600; fill: #ffffff; }
.page { fill: var(--page); } .frame { stroke: var(--line); stroke-width: 1; } .card { stroke-width: 1.4; }
.frame.package { fill: var(--pack); } .frame.node { fill: var(--node); } .frame.switch { fill: var(--switch); }
.frame.unknown { fill: var(--node); stroke-dasharray: 5 4; }
.card.gpu { fill: var(--gpu); stroke: var(--gpu-line); } .card.hca { fill: var(--hca); stroke: var(--hca-line); }
.card.down { fill: var(--down); stroke: var(--down-line); } .cpus { fill: var(--cpus); }
.up { fill: #2f9e4f; } .off { fill: none; stroke: #c24a4a; stroke-width: 1.6; }
.path { fill: none; stroke-width: 2.4; stroke-linecap: round; opacity: .85; }
"""
#: Fill of a rank's badge and line: dark enough for white text, light enough for a dark page.
COLOURS = ("#0f6fb8", "#c2410c", "#15803d", "#a21caf", "#a16207", "#0e7490", "#be123c", "#5b54d6")
CARD, LINE = 148.0, 15.0
PAD, GAP, TITLE = 12, 12, 22

#: Where the line of a rank begins and ends, by device: centre of the lower edge, centre of the upper edge, height.
Anchors = dict[tuple[str, str], tuple[float, float, float]]
Paint = Callable[[float, float, Anchors], list[str]]


@dataclass
class Box:
    """A rectangle of known size; `paint(x, y, anchors)` gives the SVG of it and of what is in it, where its owner wants it."""

    width: float
    height: float
    paint: Paint


@dataclass(frozen=True)
class Assignment:
    """The plan, looked up from the devices' side."""

    by_gpu: Mapping[int, RankPlan] = field(default_factory=dict)
    by_hca: Mapping[str, list[RankPlan]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    ranks: Sequence[RankPlan] = ()

    @staticmethod
    def of(plan: Plan | None) -> "Assignment":
        """An empty assignment when there is no plan."""
        if plan is None:
            return Assignment()
        by_gpu = {rank.gpu_index: rank for rank in plan.ranks if rank.gpu_index is not None}
        by_hca: dict[str, list[RankPlan]] = {}
        for rank in plan.ranks:
            if rank.hca:
                by_hca.setdefault(rank.hca, []).append(rank)
        return Assignment(by_gpu, by_hca, dict(plan.excluded), plan.ranks)


@dataclass
class Group:
    """Devices in one frame."""

    title: str
    gpus: list[Gpu] = field(default_factory=list)
    hcas: list[Hca] = field(default_factory=list)


def draw(topology: Topology, plan: Plan | None = None) -> str:
    """The SVG text. With a plan, ranks stand on their GPU, HCA and CPUs, and a line joins GPU and HCA."""
    assignment = Assignment.of(plan)
    devices = len(topology.gpus) + len(topology.hcas)
    page = WIDE if devices > MANY else NARROW
    room = page - 2 * PAD
    body = flow(_packages(topology, assignment, room), room, 2 * GAP)
    anchors: Anchors = {}
    top = 74.0
    painted = body.paint(2 * PAD, top, anchors)
    notes = _notes(topology, plan)
    width = max(body.width + 4 * PAD, 760)
    height = top + body.height + 2 * PAD + 18 * len(notes)
    title = topology.hostname or topology.source.rstrip("/").rpartition("/")[2] or topology.source
    counts = f"{len(topology.gpus)} GPUs, {len(topology.hcas)} HCAs, {len(topology.numa_nodes)} NUMA nodes, {len(topology.cpus)} CPUs"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img">',
        f"<title>{escape(title)}: {counts}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width:g}" height="{height:g}" class="page"/>',
        text(2 * PAD, 30, title, "head", room=width - 360, size=9.2),
        text(width - 2 * PAD, 30, counts, "small", "end"),
        *_legend(2 * PAD, 54, plan is not None),
        *painted,
        *_lines(assignment, anchors),
    ]
    for i, note in enumerate(notes):
        lines.append(text(2 * PAD, top + body.height + 2 * PAD + 18 * i, note, "small", room=width - 4 * PAD, size=6.5))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _packages(topology: Topology, assignment: Assignment, room: float) -> list[Box]:
    """A frame a package with its NUMA nodes in it; nodes of no known package, and devices of no known node, beside them."""
    package_of = {cpu.id: cpu.package for cpu in topology.cpus}
    by_package: dict[int | None, list[NumaNode]] = {}
    homes = {gpu.numa_node for gpu in topology.gpus} | {hca.numa_node for hca in topology.hcas}
    for node in topology.numa_nodes:
        if node.cpus or node.id in homes or not node.gpu_memory:
            package = next((package_of.get(cpu) for cpu in node.cpus), None)
            by_package.setdefault(package, []).append(node)
    boxes: list[Box] = []
    for package, nodes in sorted(by_package.items(), key=lambda item: (item[0] is None, item[0] or 0)):
        inner = room - 2 * PAD if package is not None else room
        frames = [_node(topology, node, assignment, inner - 2 * PAD) for node in nodes]
        if package is None:
            boxes += frames
        else:
            boxes.append(frame(f"Package {package}", "package", flow(frames, inner)))
    node_ids = {node.id for node in topology.numa_nodes}
    lost = Group("", [g for g in topology.gpus if g.numa_node not in node_ids], [h for h in topology.hcas if h.numa_node not in node_ids])
    if lost.gpus or lost.hcas:
        content = _content(topology, lost.gpus, lost.hcas, assignment, room - 2 * PAD)
        boxes.append(frame("NUMA node unknown", "unknown", content))
    return boxes


def _node(topology: Topology, node: NumaNode, assignment: Assignment, room: float) -> Box:
    gpus = [gpu for gpu in topology.gpus if gpu.numa_node == node.id]
    hcas = [hca for hca in topology.hcas if hca.numa_node == node.id]
    content = _content(topology, gpus, hcas, assignment, room)
    title = f"NUMA node {node.id}"
    note = "" if node.memory_bytes is None else memory(node.memory_bytes)
    if topology.allowed.mems and node.id not in topology.allowed.mems:
        note += " (not allowed)"
    strip = cpu_strip(node, assignment, max(content.width, 260))
    inside = stack([strip, content] if strip and content.height else [strip] if strip else [content])
    return frame(title, "node", inside, note, least=200)


def _content(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca], assignment: Assignment, room: float) -> Box:
    """Switches side by side, then what is behind no shared switch."""
    # One width for all cards, so that the longest HCA name fits beside a badge.
    width = max([CARD, *(7.4 * min(len(hca.id), 26) + 72 for hca in topology.hcas)])
    grouped, loose = groups_of(topology, gpus, hcas)
    boxes = [frame(group.title, "switch", _devices(group, assignment, width, room - 2 * PAD)) for group in grouped]
    rest = _devices(loose, assignment, width, room)
    parts = [flow(boxes, room)] if boxes else []
    if loose.gpus or loose.hcas:
        # A node with few loose devices keeps them beside its switches instead of in a row of their own.
        if boxes and sum(box.width + GAP for box in boxes) + rest.width <= room:
            return flow([*boxes, rest], room)
        parts.append(rest)
    return stack(parts)


def _devices(group: Group, assignment: Assignment, width: float, room: float) -> Box:
    """GPUs over HCAs, each HCA below the GPU that got it where that is possible."""
    gpus = sorted(group.gpus, key=lambda gpu: gpu.index)
    order = {rank.hca: i for i, gpu in reversed(list(enumerate(gpus))) if (rank := assignment.by_gpu.get(gpu.index)) and rank.hca}
    hcas = sorted(group.hcas, key=lambda hca: order.get(hca.id, len(gpus)))
    rows = [flow([gpu_card(gpu, assignment, width) for gpu in gpus], room)] if gpus else []
    if hcas:
        rows.append(flow([hca_card(hca, assignment, width) for hca in hcas], room))
    return stack(rows, 2.2 * GAP)


def _lines(assignment: Assignment, anchors: Anchors) -> list[str]:
    """A line from each GPU to the HCA its rank got; a curve that leaves and arrives upright."""
    lines = []
    for index, rank in sorted(assignment.by_gpu.items()):
        start, end = anchors.get(("gpu", str(index))), anchors.get(("hca", rank.hca or ""))
        if start is None or end is None:
            continue
        shared = assignment.by_hca.get(rank.hca or "", [])
        shift = (shared.index(rank) - (len(shared) - 1) / 2) * 12 if len(shared) > 1 else 0
        x1, y1 = start[0], start[1] + start[2]
        x2, y2 = end[0] + shift, end[1]
        if y2 < y1:
            x1, y1, x2, y2 = start[0], start[1], end[0] + shift, end[1] + end[2]
        bend = (y2 - y1) / 2
        path = f"M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"
        lines.append(f'<path d="{path}" class="path" stroke="{colour(rank.local_rank)}"><title>{escape(rank.reason or "")}</title></path>')
    return lines


def _legend(x: float, y: float, planned: bool) -> list[str]:
    parts = []
    for style, words in (
        ("card gpu", "GPU"),
        ("card hca", "HCA"),
        ("card down", "HCA without an active port"),
        ("frame switch", "PCIe switch"),
    ):
        parts.append(f'<rect x="{x:g}" y="{y - 10:g}" width="14" height="12" rx="3" class="{style}"/>')
        parts.append(text(x + 19, y, words, "small"))
        x += 19 + 6.7 * len(words) + 16
    if planned:
        parts.append(f'<path d="M{x:g} {y - 4:g}h22" class="path" stroke="{colour(0)}"/>')
        parts.append(text(x + 28, y, "the HCA that a rank got; colours are ranks", "small"))
    return parts


def _notes(topology: Topology, plan: Plan | None) -> list[str]:
    """Notes on what has no place in the picture: GPU memory nodes, unnamed bus ids, warnings."""
    notes = []
    gpu_nodes = [node.id for node in topology.numa_nodes if node.gpu_memory]
    if gpu_nodes:
        notes.append(f"NUMA nodes of GPU memory: {format_list(gpu_nodes)}")
    warnings = plan.warnings if plan is not None else topology.warnings
    notes += [f"Warning: {warning}" for warning in warnings[:4]]
    if len(warnings) > 4:
        notes.append(f"... and {len(warnings) - 4} more warnings")
    return notes


def colour(rank: int) -> str:
    return COLOURS[rank % len(COLOURS)]


def badge(right: float, y: float, words: str, rank: int, pad: float = 12) -> tuple[str, float]:
    """A pill that ends at `right`, and its width."""
    width = 6.9 * len(words) + pad
    pill = f'<rect x="{right - width:g}" y="{y:g}" width="{width:g}" height="16" rx="8" fill="{colour(rank)}"/>'
    label = f'<text x="{right - width / 2:g}" y="{y + 12:g}" class="pill" text-anchor="middle">{escape(words)}</text>'
    return pill + label, width


def gpu_card(gpu: Gpu, assignment: Assignment, width: float) -> Box:
    """Index, bus id, name; with a plan its rank, the HCA it got and the level to it."""
    rank = assignment.by_gpu.get(gpu.index)
    lines = [gpu.pci or "bus id unknown"]
    if gpu.name:
        lines.append(gpu.name.removeprefix("NVIDIA "))
    if rank and rank.hca:
        lines.append(f"{rank.path or 'level unknown'} to {rank.hca}:{rank.port or 1}")
    elif rank and assignment.by_hca:
        lines.append("no HCA")
    height = 24 + LINE * len(lines)

    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        anchors["gpu", str(gpu.index)] = (x + width / 2, y, height)
        parts = [rectangle(x, y, width, height, "card gpu")]
        parts.append(text(x + 8, y + 17, f"GPU {gpu.index}", "name"))
        if rank:
            parts.append(badge(x + width - 6, y + 5, f"rank {rank.local_rank}", rank.local_rank)[0])
        for i, line in enumerate(lines):
            parts.append(text(x + 8, y + 32 + LINE * i, line, "mono" if i == 0 and gpu.pci else "small", room=width - 14, size=6.8))
        return parts

    return Box(width, height, paint)


def hca_card(hca: Hca, assignment: Assignment, width: float) -> Box:
    """Name, bus id, one line a port with state and rate; with a plan the ranks on it, or why it is left out."""
    ranks = assignment.by_hca.get(hca.id, [])
    reason = assignment.excluded.get(hca.id) or assignment.excluded.get(hca.label)
    lines = [("mono", hca.pci or (hca.label if hca.label != hca.id else "bus id unknown"))]
    if hca.physical_function:
        lines.append(("small", f"VF of {hca.physical_function}"))
    marks = {True: "up", False: "off", None: "small"}
    lines += [(marks[is_active(port)], port_line(port, len(hca.ports) > 1)) for port in hca.ports]
    if not hca.ports:
        lines.append(("small", "port state unknown"))
    if reason and not ranks:
        lines += [("small why", line) for line in wrap(f"not used: {reason}", int((width - 14) / 6.6), 3)]
    many = len(ranks) > 2
    height = 24 + LINE * (len(lines) + (1 if many else 0))
    style = "hca" if active_ports(hca) or not hca.ports else "down"

    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        anchors["hca", hca.id] = (x + width / 2, y, height)
        dim = ' opacity="0.62"' if assignment.ranks and not ranks else ""
        parts = [f"<g{dim}>", rectangle(x, y, width, height, f"card {style}")]
        parts.append(text(x + 8, y + 17, hca.id, "name", room=width - 14, size=7.4))
        right = x + width - 6
        for rank in [] if many else reversed(ranks):
            words = f"rank {rank.local_rank}" if len(ranks) == 1 else str(rank.local_rank)
            pill, used = badge(right, y + 5, words, rank.local_rank)
            parts.append(pill)
            right -= used + 3
        for i, (kind, line) in enumerate(lines):
            base = y + 32 + LINE * i
            if kind in ("up", "off"):
                parts.append(f'<circle cx="{x + 12:g}" cy="{base - 4:g}" r="3.5" class="{kind}"/>')
                parts.append(text(x + 20, base, line, "small", room=width - 26, size=6.8))
            else:
                parts.append(text(x + 8, base, line, kind, room=width - 14, size=6.8))
        if many:
            parts += _crowd(ranks, x + 6, x + width - 6, y + height - 19)
        return [*parts, "</g>"]

    return Box(width, height, paint)


def _crowd(ranks: Sequence[RankPlan], left: float, right: float, y: float) -> list[str]:
    """A pill for each of many ranks, or one for all where they do not fit."""
    words = [str(rank.local_rank) for rank in ranks]
    if sum(6.9 * len(word) + 9 for word in words) > right - left:
        return [badge(right, y, f"{len(ranks)} ranks: {format_list(rank.local_rank for rank in ranks)}", ranks[0].local_rank)[0]]
    parts = []
    for rank, word in zip(reversed(ranks), reversed(words), strict=True):
        pill, used = badge(right, y, word, rank.local_rank, 8)
        parts.append(pill)
        right -= used + 1
    return parts


def wrap(words: str, room: int, most: int) -> list[str]:
    """Up to `most` lines of `room` characters, the last one with what is left over (it is cut when it is drawn)."""
    lines = textwrap.wrap(words, room, break_long_words=False, break_on_hyphens=False)
    return [*lines[: most - 1], " ".join(lines[most - 1 :])] if len(lines) >= most else lines


def port_line(port: Port, numbered: bool) -> str:
    """State, rate and link layer of a port in a few words."""
    rate = "" if port.rate_gbit is None else f" {port.rate_gbit:g}G"
    layer = {"InfiniBand": " IB", "Ethernet": " Eth"}.get(port.link_layer or "", "")
    return f"{f'{port.number}: ' if numbered else ''}{port.state or 'state unknown'}{rate}{layer}"


def cpu_strip(node: NumaNode, assignment: Assignment, width: float) -> Box | None:
    """The node's CPUs as a bar, a part for each rank in proportion to its CPUs; None for a node without CPUs."""
    if not node.cpus:
        return None
    cpus_here = set(node.cpus)
    parts = [(rank, cpus_here.intersection(rank.cpus)) for rank in assignment.ranks if cpus_here.intersection(rank.cpus)]
    free = cpus_here.difference(*(cpus for _, cpus in parts)) if parts else set()

    def paint(x: float, y: float, _anchors: Anchors) -> list[str]:
        lines = [rectangle(x, y, width, 20, "cpus", 4)]
        if not parts:
            return [*lines, text(x + 8, y + 14, f"{len(cpus_here)} CPUs: {format_list(cpus_here)}", "small", room=width - 12, size=6.7)]
        scale = width / sum(len(cpus) for cpus in [*(cpus for _, cpus in parts), free])
        at = x
        for rank, cpus in parts:
            wide = len(cpus) * scale
            words = f"rank {rank.local_rank}: {format_list(cpus)}"
            lines.append(
                f'<rect x="{at + 1:g}" y="{y + 1:g}" width="{max(wide - 2, 1):g}" height="18" rx="3" fill="{colour(rank.local_rank)}"/>'
            )
            if wide > 14:
                displayed = words if 6.9 * len(words) <= wide - 8 else words.removeprefix("rank ")
                lines.append(text(at + 6, y + 14, displayed, "pill left", room=wide - 8, size=6.9))
            at += wide
        if free and len(free) * scale > 60:
            lines.append(text(at + 6, y + 14, f"{len(free)} free", "small", room=len(free) * scale - 8))
        return lines

    return Box(width, 20, paint)


def groups_of(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca]) -> tuple[list[Group], Group]:
    """Groups of at least two devices behind one switch or card, and the devices that share nothing but the node."""
    groups = _by_path(gpus, hcas)
    if topology.levels:
        groups += _by_level(topology, [g for g in gpus if not g.pci_path], [h for h in hcas if not h.pci_path])
    inside_gpus = {gpu.index for group in groups for gpu in group.gpus}
    inside_hcas = {hca.label for group in groups for hca in group.hcas}
    loose = Group("", [gpu for gpu in gpus if gpu.index not in inside_gpus], [hca for hca in hcas if hca.label not in inside_hcas])
    groups.sort(key=lambda group: min((gpu.index for gpu in group.gpus), default=1 << 20))
    return groups, loose


def _by_path(gpus: Sequence[Gpu], hcas: Sequence[Hca]) -> list[Group]:
    """One group a topmost bridge that several devices share, named by the lowest bridge that all of them share."""
    by_top: dict[str, list[Gpu | Hca]] = {}
    every: tuple[Gpu | Hca, ...] = (*gpus, *hcas)
    for device in every:
        bridges = [pci for pci in device.pci_path if bus_id(pci) == pci]
        if bridges:
            by_top.setdefault(bridges[0], []).append(device)
    groups = []
    for devices in by_top.values():
        if len(devices) < 2:
            continue
        paths = [[pci for pci in device.pci_path if bus_id(pci) == pci] for device in devices]
        common = 0
        while all(len(path) > common and path[common] == paths[0][common] for path in paths):
            common += 1
        name = paths[0][common - 1]
        slots = {(device.pci or "").rpartition(".")[0] for device in devices}
        title = f"card at {name}" if len(slots) == 1 else f"switch {name}"
        groups.append(Group(title, [d for d in devices if isinstance(d, Gpu)], [d for d in devices if isinstance(d, Hca)]))
    return groups


def _by_level(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca]) -> list[Group]:
    """Groups joined by PIX or PXB in a source that states levels."""
    groups: list[Group] = []
    for gpu in gpus:
        near = [hca for hca in hcas if topology.levels.get((gpu.index, hca.label)) in NEAR]
        if near:
            joined = [group for group in groups if any(hca in group.hcas for hca in near)]
            members = [hca for group in joined for hca in group.hcas]
            groups = [group for group in groups if group not in joined]
            groups.append(Group("", [*(other for group in joined for other in group.gpus), gpu], list(dict.fromkeys([*members, *near]))))
    for group in groups:
        levels = {topology.levels.get((gpu.index, hca.label)) for gpu in group.gpus for hca in group.hcas}
        group.title = " and ".join(level for level in NEAR if level in levels)
    return groups


def escape(words: str) -> str:
    """Text for the content of an element."""
    return html_escape(words, quote=False)


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start", room: float | None = None, size: float = 6.6) -> str:
    """One line of text, cut with an ellipsis to `room` pixels at about `size` pixels a character."""
    displayed = words
    if room is not None and len(words) * size > room:
        displayed = words[: max(1, int(room / size) - 1)].rstrip(" ,-") + "…"
    alignment = f' text-anchor="{anchor}"' if anchor != "start" else ""
    full = f"<title>{escape(words)}</title>" if displayed != words else ""
    return f'<text x="{x:g}" y="{y:g}" class="{style}"{alignment}>{escape(displayed)}{full}</text>'


def rectangle(x: float, y: float, width: float, height: float, style: str, radius: float = 6) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" class="{style}"/>'


def stack(boxes: Sequence[Box], gap: float = GAP, across: bool = False) -> Box:
    """Boxes one under the other, left edges in line; with `across` side by side, upper edges in line."""

    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        lines: list[str] = []
        for box in boxes:
            lines += box.paint(x, y, anchors)
            x += box.width + gap if across else 0
            y += 0 if across else box.height + gap
        return lines

    widths, heights, gaps = [box.width for box in boxes], [box.height for box in boxes], gap * max(0, len(boxes) - 1)
    if across:
        return Box(sum(widths) + gaps, max(heights, default=0), paint)
    return Box(max(widths, default=0), sum(heights) + gaps, paint)


def flow(boxes: Sequence[Box], room: float, gap: float = GAP) -> Box:
    """Boxes side by side from the left, wrapped where the next one would pass `room`."""
    lines: list[list[Box]] = []
    width = 0.0
    for box in boxes:
        if not lines or width + gap + box.width > room:
            lines.append([])
            width = -gap
        lines[-1].append(box)
        width += gap + box.width
    return stack([stack(line, gap, across=True) for line in lines], gap)


def frame(title: str, style: str, inside: Box, note: str = "", least: float = 0) -> Box:
    """A box with a titled frame around it, wide enough for its title and note."""
    width = max(inside.width, least, 6.9 * len(title) + 6.2 * len(note) + (10 if note else 0)) + 2 * PAD
    height = inside.height + 2 * PAD + TITLE - 4

    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        lines = [rectangle(x, y, width, height, f"frame {style}", 8), text(x + PAD, y + TITLE - 4, title, f"title {style}")]
        if note:
            lines.append(text(x + width - PAD, y + TITLE - 4, note, "small", "end"))
        return lines + inside.paint(x + PAD, y + TITLE + PAD - 4, anchors)

    return Box(width, height, paint)
