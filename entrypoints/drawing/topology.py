"""A host as one self-contained SVG: packages, NUMA nodes, switches, GPUs, HCAs, and which rank got what."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from entrypoints.cpulist import format_list
from entrypoints.drawing.boxes import GAP, PAD, Anchors, Box, Frame, flow, stack, text
from entrypoints.drawing.cards import Assignment, card_width, colour, cpu_strip, gpu_card, hca_card
from entrypoints.drawing.groups import Group, groups_of
from entrypoints.placement.model import Plan
from entrypoints.topology.model import Gpu, Hca, NumaNode, Topology
from entrypoints.topology.tables import memory

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


def draw(topology: Topology, plan: Plan | None = None) -> str:
    """The SVG text. With a plan, ranks stand on their GPU, HCA and CPUs, and a line joins GPU and HCA."""
    assignment = Assignment.of(plan, topology.gpus)
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
    title = f"{topology.hostname or _short(topology.source)}"
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


def _short(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2] or source


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
            boxes.append(Frame(f"Package {package}", "package", flow(frames, inner)).box())
    known = {node.id for node in topology.numa_nodes}
    lost = Group("", [g for g in topology.gpus if g.numa_node not in known], [h for h in topology.hcas if h.numa_node not in known])
    if lost.gpus or lost.hcas:
        content = _content(topology, lost.gpus, lost.hcas, assignment, room - 2 * PAD)
        boxes.append(Frame("NUMA node unknown", "unknown", content).box())
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
    return Frame(title, "node", inside, note, least=200).box()


def _content(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca], assignment: Assignment, room: float) -> Box:
    """Switches side by side, then what is behind no shared switch."""
    width = card_width(topology.gpus, topology.hcas)
    grouped, loose = groups_of(topology, gpus, hcas)
    boxes = [Frame(group.title, "switch", _devices(group, assignment, width, room - 2 * PAD)).box() for group in grouped]
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
    """What has no place in the picture: GPU memory nodes, unnamed bus ids, warnings."""
    notes = []
    gpu_nodes = [node.id for node in topology.numa_nodes if node.gpu_memory]
    if gpu_nodes:
        notes.append(f"NUMA nodes of GPU memory: {format_list(gpu_nodes)}")
    warnings = plan.warnings if plan is not None else topology.warnings
    notes += [f"Warning: {warning}" for warning in warnings[:4]]
    if len(warnings) > 4:
        notes.append(f"... and {len(warnings) - 4} more warnings")
    return notes
